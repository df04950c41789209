/* SHA-256 (FIPS 180-4), fed in pieces. */
#ifndef MN_SHA256_H
#define MN_SHA256_H

#include <stddef.h>
#include <stdint.h>

enum { MN_SHA256_BYTES = 32 };

typedef struct mn_sha256 {
    uint32_t state[8];
    uint64_t bytes;
    unsigned char block[64]; /* what does not fill a block yet */
} mn_sha256;

void mn_sha256_start(mn_sha256 *sum);
void mn_sha256_add(mn_sha256 *sum, const void *data, size_t bytes);
void mn_sha256_end(mn_sha256 *sum, uint8_t out[MN_SHA256_BYTES]);

#endif
