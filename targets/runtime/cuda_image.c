#include "cuda_image.h"

#include <string.h>

enum { HEAD_BYTES = 8, RECORD_BYTES = 24 };

static uint32_t u32(const unsigned char *at) {
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint64_t u64(const unsigned char *at) {
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

/* 0: not for this device; a cubin runs on later minor versions of its major one only, PTX on all that came later. */
static uint32_t rank(const mn_cuda_image *image, uint32_t architecture) {
    enum { ABOVE_PTX = 1 << 20 };
    if (image->architecture > architecture || image->architecture >= ABOVE_PTX) return 0;
    if (image->kind == MN_CUDA_PTX) return 1 + image->architecture;
    return image->architecture / 10 == architecture / 10 ? ABOVE_PTX + image->architecture : 0;
}

static void insert(mn_cuda_image *images, uint32_t n, mn_cuda_image image, uint32_t architecture) {
    for (; n && rank(&images[n - 1], architecture) < rank(&image, architecture); n--)
        images[n] = images[n - 1];
    images[n] = image;
}

mossnet_status mn_cuda_images(const unsigned char *code, uint64_t bytes, uint32_t architecture,
                              mn_cuda_image out[MN_CUDA_MAX_IMAGES], uint32_t *n, mossnet_error *error) {
    uint32_t n_images = bytes < HEAD_BYTES ? 0 : u32(code);
    *n = 0;
    if (!n_images || n_images > MN_CUDA_MAX_IMAGES || u32(code + 4) || bytes < HEAD_BYTES + n_images * RECORD_BYTES)
        return mn_fail(error, MOSSNET_FORMAT,
                       "CODE of %llu bytes begins with no table of images, expected 1 to %d for cuda",
                       (unsigned long long)bytes, MN_CUDA_MAX_IMAGES);
    for (uint32_t i = 0; i < n_images; i++) {
        const unsigned char *at = code + HEAD_BYTES + (size_t)i * RECORD_BYTES;
        mn_cuda_image image = {u32(at), u32(at + 4), {u64(at + 8), u64(at + 16)}};
        if (image.kind > MN_CUDA_PTX)
            return mn_fail(error, MOSSNET_FORMAT, "image %u of CODE is of kind %u, expected 0 or 1", i, image.kind);
        if (!image.code.bytes || image.code.offset > bytes || image.code.bytes > bytes - image.code.offset)
            return mn_fail(error, MOSSNET_FORMAT, "image %u of CODE: %llu bytes at %llu do not fit into %llu", i,
                           (unsigned long long)image.code.bytes, (unsigned long long)image.code.offset,
                           (unsigned long long)bytes);
        if (rank(&image, architecture)) insert(out, (*n)++, image, architecture);
    }
    if (*n) return MOSSNET_OK;
    return mn_fail(error, MOSSNET_UNSUPPORTED,
                   "none of the %u images of CODE is for sm_%u: compile the model for this device", n_images,
                   architecture);
}
