/* A word as tokens: byte-pair merges, the lowest rank first. */
#ifndef MN_MERGE_H
#define MN_MERGE_H

#include "scratch.h"
#include "text_program.h"

/* Where ids go: as many as have room are written, all are counted. */
typedef struct mn_ids {
    int32_t *ids;
    size_t capacity, n;
} mn_ids;

static inline void mn_ids_add(mn_ids *out, uint32_t id) {
    if (out->n < out->capacity) out->ids[out->n] = (int32_t)id;
    out->n++;
}

/* Adds the ids of a word of fewer than 2^32 bytes. false: no memory. */
bool mn_merge_word(const mn_text_program *program, mn_scratch *scratch, mn_bytes word, mn_ids *out);

#endif
