/* CODE of the driver cuda: one program in several images (docs/format.md, KERNEL). */
#ifndef MN_CUDA_IMAGE_H
#define MN_CUDA_IMAGE_H

#include "file.h"

enum { MN_CUDA_CUBIN, MN_CUDA_PTX };
enum { MN_CUDA_MAX_IMAGES = 64 };

typedef struct mn_cuda_image {
    uint32_t kind, architecture; /* e.g. 90 */
    mn_span code;                /* inside CODE */
} mn_cuda_image;

/* What a device of `architecture` can run, best first: cubins of its major version, then PTX, each from new to old. A
 * damaged table is refused (FORMAT), one without such an image too (UNSUPPORTED). */
mossnet_status mn_cuda_images(const unsigned char *code, uint64_t bytes, uint32_t architecture,
                              mn_cuda_image out[MN_CUDA_MAX_IMAGES], uint32_t *n, mossnet_error *error);

#endif
