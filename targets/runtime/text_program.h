/* The section TEXT of a model: its tokenizer as tables (docs/format.md). What mn_text_program_parse accepts is never
 * checked again. The tables are a copy, so a file that changes later cannot change them. */
#ifndef MN_TEXT_PROGRAM_H
#define MN_TEXT_PROGRAM_H

#include "error.h"

#include <stdbool.h>

enum { MN_CODES = 0x110000, MN_CODE_BLOCK = 128, MN_CODE_INDEX = MN_CODES / MN_CODE_BLOCK };
enum { MN_SPLIT_STOP = 0x7FFF, MN_SPLIT_ENDS = 0x8000 };
enum { MN_MAX_SPLITS = 8, MN_MAX_DECOMPOSITION = 4 };
enum { MN_RANK = 0x3F, MN_JOINS = 0x40, MN_CHANGES = 0x80 };
enum { MN_LSTRIP = 1, MN_RSTRIP = 2 };

/* A byte for each character. */
typedef struct mn_codes {
    const uint16_t *index; /* [MN_CODE_INDEX], a block each */
    const unsigned char *blocks;
} mn_codes;

static inline unsigned mn_code(const mn_codes *codes, uint32_t character) {
    return codes->blocks[(size_t)codes->index[character / MN_CODE_BLOCK] * MN_CODE_BLOCK + character % MN_CODE_BLOCK];
}

typedef struct mn_merge {
    uint32_t left, right, rank, merged;
} mn_merge;

typedef struct mn_added {
    uint32_t id, flags, end; /* of its bytes; they begin where those of the one before end */
} mn_added;

/* Tokens that are found in a text before anything else, in the order of their bytes. */
typedef struct mn_added_list {
    const mn_added *tokens;
    uint32_t n;
    uint32_t start;  /* of the first one's bytes */
    bool first[256]; /* whether one begins with this byte */
} mn_added_list;

typedef struct mn_split {
    mn_codes classes;
    const uint16_t *cells; /* [n_states][n_classes + 1] */
    uint32_t n_classes;
    bool only_matches;
} mn_split;

typedef struct mn_decomposed {
    uint32_t character, end; /* of its decomposition */
} mn_decomposed;

typedef struct mn_composed {
    uint32_t first, second, whole;
} mn_composed;

typedef struct mn_text_program {
    void *data;          /* what the tables below point into */
    uint32_t *merges_of; /* [n_tokens + 1]: where the merges with this token on the left begin */
    bool has_nfc, prefix_space;
    uint32_t n_tokens, n_merges, n_words, n_before, n_after, n_splits, n_decomposed, n_composed;
    size_t longest_token;     /* bytes */
    const uint32_t *byte_ids; /* [256], UINT32_MAX for a byte without a token */
    const uint32_t *token_ends;
    const unsigned char *token_bytes;
    const mn_merge *merges; /* by left, then right */
    const uint32_t *words;  /* ids, in the order of their bytes */
    mn_added_list added, added_normalized;
    const unsigned char *added_bytes;
    const uint32_t *before, *after;
    mn_split splits[MN_MAX_SPLITS];
    mn_codes properties; /* of NFC: rank among the combining classes, MN_JOINS, MN_CHANGES */
    const mn_decomposed *decomposed;
    const uint32_t *decomposition;
    const mn_composed *composed;
} mn_text_program;

typedef struct mn_bytes {
    const unsigned char *at;
    size_t n;
} mn_bytes;

/* Checks the `bytes` of a section at `data`; `*out` is NULL after a failure. */
mossnet_status mn_text_program_parse(const void *data, uint64_t bytes, mn_text_program **out, mossnet_error *error);
void mn_text_program_free(mn_text_program *program);
/* What a token of the program stands for. */
mn_bytes mn_token(const mn_text_program *program, uint32_t id);
/* Of two texts the first in the order of bytes: negative, 0 or positive as for memcmp. */
int mn_bytes_order(mn_bytes a, mn_bytes b);
mn_bytes mn_added_content(const mn_text_program *program, const mn_added_list *list, uint32_t i);

#endif
