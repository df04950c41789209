/* A region in pieces, for devices that allow no single buffer as large: each BUFFER lies in one piece. */
#ifndef MN_PIECES_H
#define MN_PIECES_H

#include "file.h"

#include <stdbool.h>

typedef struct mn_piece {
    uint64_t offset, bytes; /* inside the region */
} mn_piece;

typedef struct mn_pieces {
    mn_piece *piece; /* [n], ascending */
    uint32_t n;
    uint32_t *of_buffer; /* [n_buffers of the file]: the piece that holds it; meaningless for other regions' */
} mn_pieces;

/* Cuts where no buffer is. Refuses (UNSUPPORTED) a buffer that is larger than `most_bytes`; buffers that overlap count
 * as one. */
mossnet_status mn_pieces_cut(const mn_file *file, uint32_t region, uint64_t most_bytes, mn_pieces *out,
                             mossnet_error *error);
void mn_pieces_free(mn_pieces *pieces);

/* Walks over the range offset .. end - 1 of the region: the next part of it that lies in a piece. `*offset` becomes the
 * part's end; false when there is none. What lies between pieces belongs to no buffer. */
bool mn_pieces_next(const mn_pieces *pieces, uint64_t *offset, uint64_t end, uint32_t *piece, uint64_t *begin,
                    uint64_t *bytes);

#endif
