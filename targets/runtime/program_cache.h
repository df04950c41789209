/* Programs that a driver has built, kept on disk. A damaged or foreign file counts as none. */
#ifndef MN_PROGRAM_CACHE_H
#define MN_PROGRAM_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A hash of everything that decides what is built: source, options, device, driver. Starts as zeros. */
typedef struct mn_cache_key {
    uint64_t hash[2];
} mn_cache_key;

/* Lengths count too, so that "ab", "c" and "a", "bc" differ. */
void mn_cache_key_add(mn_cache_key *key, const void *data, size_t bytes);

/* What was stored under the key in `folder` (NULL: nothing), for the caller to free; NULL when there is nothing. */
void *mn_cache_load(const char *folder, const mn_cache_key *key, size_t *bytes);
/* Whether it was stored; the folder is made when it is not there. */
bool mn_cache_store(const char *folder, const mn_cache_key *key, const void *data, size_t bytes);

#endif
