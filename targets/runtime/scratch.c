#include "scratch.h"

#include <stdlib.h>

void *mn_scratch_reserve(mn_scratch *scratch, size_t bytes) {
    if (bytes <= scratch->bytes && scratch->data) return scratch->data;
    size_t more = bytes < 2 * scratch->bytes ? 2 * scratch->bytes : bytes;
    void *data = realloc(scratch->data, more ? more : 1);
    if (!data) return NULL;
    scratch->data = data;
    scratch->bytes = more;
    return data;
}

void mn_scratch_free(mn_scratch *scratch) {
    free(scratch->data);
    *scratch = (mn_scratch){NULL, 0};
}
