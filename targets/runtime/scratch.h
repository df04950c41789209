/* Memory that a call works in: it grows with what the call meets, keeps its content, and is freed at the call's end. */
#ifndef MN_SCRATCH_H
#define MN_SCRATCH_H

#include <stddef.h>

typedef struct mn_scratch { /* starts from zeros */
    void *data;
    size_t bytes;
} mn_scratch;

/* `data`, with room for at least `bytes`; NULL when there is no memory. */
void *mn_scratch_reserve(mn_scratch *scratch, size_t bytes);
void mn_scratch_free(mn_scratch *scratch);

#endif
