#include "pieces.h"

#include <stdlib.h>
#include <string.h>

typedef struct range {
    uint64_t offset, bytes;
    uint32_t buffer;
} range;

static int by_offset(const void *a, const void *b) {
    const range *x = a, *y = b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* The buffers that overlap the one at `first`, directly or through others: how many, and where they end. */
static uint32_t overlapping(const range *ranges, uint32_t n, uint32_t first, uint64_t *end) {
    uint32_t i = first;
    *end = ranges[first].offset + ranges[first].bytes;
    for (; i < n && (i == first || ranges[i].offset < *end); i++)
        if (ranges[i].offset + ranges[i].bytes > *end) *end = ranges[i].offset + ranges[i].bytes;
    return i - first;
}

static mossnet_status cut(const mn_file *file, const range *ranges, uint32_t n, uint64_t most_bytes, mn_pieces *out,
                          mossnet_error *error) {
    for (uint32_t first = 0; first < n;) {
        uint64_t end, offset = ranges[first].offset;
        uint32_t count = overlapping(ranges, n, first, &end);
        if (end - offset > most_bytes)
            return mn_fail(error, MOSSNET_UNSUPPORTED,
                           "buffer %.80s has %llu bytes, the device allows at most %llu in one",
                           file->strings + file->buffers[ranges[first].buffer].name, (unsigned long long)(end - offset),
                           (unsigned long long)most_bytes);
        mn_piece *last = out->n ? &out->piece[out->n - 1] : NULL;
        if (last && end - last->offset <= most_bytes)
            last->bytes = end - last->offset;
        else
            out->piece[out->n++] = (mn_piece){offset, end - offset};
        for (uint32_t i = first; i < first + count; i++)
            out->of_buffer[ranges[i].buffer] = out->n - 1;
        first += count;
    }
    return MOSSNET_OK;
}

mossnet_status mn_pieces_cut(const mn_file *file, uint32_t region, uint64_t most_bytes, mn_pieces *out,
                             mossnet_error *error) {
    uint32_t n = 0;
    range *ranges = calloc(file->n_buffers + 1, sizeof *ranges);
    *out = (mn_pieces){.piece = calloc(file->n_buffers + 1, sizeof *out->piece),
                       .of_buffer = calloc(file->n_buffers + 1, sizeof *out->of_buffer)};
    mossnet_status status;
    if (!ranges || !out->piece || !out->of_buffer) {
        status = mn_fail(error, MOSSNET_MEMORY, "no memory for a table of buffers");
    } else {
        for (uint32_t i = 0; i < file->n_buffers; i++)
            if (file->buffers[i].region == region && file->buffers[i].bytes)
                ranges[n++] = (range){file->buffers[i].offset, file->buffers[i].bytes, i};
        qsort(ranges, n, sizeof *ranges, by_offset);
        status = cut(file, ranges, n, most_bytes, out, error);
    }
    free(ranges);
    if (status) mn_pieces_free(out);
    return status;
}

void mn_pieces_free(mn_pieces *pieces) {
    free(pieces->piece);
    free(pieces->of_buffer);
    *pieces = (mn_pieces){.n = 0};
}

bool mn_pieces_next(const mn_pieces *pieces, uint64_t *offset, uint64_t end, uint32_t *piece, uint64_t *begin,
                    uint64_t *bytes) {
    for (uint32_t i = 0; i < pieces->n; i++) {
        const mn_piece *p = &pieces->piece[i];
        if (p->offset + p->bytes <= *offset) continue;
        if (p->offset >= end) return false;
        uint64_t from = *offset > p->offset ? *offset : p->offset;
        uint64_t to = end < p->offset + p->bytes ? end : p->offset + p->bytes;
        if (from >= to) return false;
        *piece = i;
        *begin = from;
        *bytes = to - from;
        *offset = to;
        return true;
    }
    return false;
}
