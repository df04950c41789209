/* Files that came over the wire, in the folder that the runner was started in, named by what is in them. */
#ifndef MN_STORE_H
#define MN_STORE_H

#include "error.h"
#include "sha256.h"

#include <stdbool.h>

enum { MN_STORE_NAME = 2 * MN_SHA256_BYTES + sizeof ".moss", MN_STORE_UNFINISHED = MN_STORE_NAME + 16 };

/* A file on its way; starts from zeros. */
typedef struct mn_store {
    bool open;
    int fd;
    uint8_t hash[MN_SHA256_BYTES];
    uint64_t total, done;
    mn_sha256 sum;
    char unfinished[MN_STORE_UNFINISHED];
} mn_store;

/* The name of the file whose SHA-256 is `hash`. */
void mn_store_name(const uint8_t hash[MN_SHA256_BYTES], char out[MN_STORE_NAME]);
/* Whether it is there, whole. */
bool mn_store_has(const uint8_t hash[MN_SHA256_BYTES], uint64_t total);
/* A model that was loaded from it goes on. */
void mn_store_remove(const uint8_t hash[MN_SHA256_BYTES]);
/* The next piece of a file of `total` bytes; the one at offset 0 begins it, and what was begun before is forgotten.
 * With the last piece the file gets its name. A failure ends the upload, and nothing is left of it. */
mossnet_status mn_store_put(mn_store *store, const uint8_t hash[MN_SHA256_BYTES], uint64_t total, uint64_t offset,
                            const void *data, size_t bytes, mossnet_error *error);
/* Removes what is not complete. */
void mn_store_drop(mn_store *store);

#endif
