/* Unicode's normalization form C. */
#ifndef MN_NORMALIZE_H
#define MN_NORMALIZE_H

#include "scratch.h"
#include "text_program.h"

typedef struct mn_normalizer { /* starts from zeros */
    mn_scratch text, segment;
} mn_normalizer;

/* `text`, which is UTF-8, in the form C; `*out` is `text` itself or lives until the next call. false: no memory. */
bool mn_normalize(const mn_text_program *program, mn_normalizer *n, mn_bytes text, mn_bytes *out);
void mn_normalizer_free(mn_normalizer *n);

#endif
