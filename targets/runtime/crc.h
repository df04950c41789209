/* CRC-32 as zlib computes it. */
#ifndef MN_CRC_H
#define MN_CRC_H

#include <stdint.h>

uint32_t mn_crc32(const void *data, uint64_t bytes);

#endif
