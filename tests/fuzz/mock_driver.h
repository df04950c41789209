/* A driver that touches what a plan lets a kernel touch, instead of running kernels; under AddressSanitizer. It
 * stands in for all of the library's. */
#ifndef MOCK_DRIVER_H
#define MOCK_DRIVER_H

#include "session.h"

struct mn_device {
    const mn_file *file;
    const unsigned char *data;
};

/* Ends the process when the range is not all memory that may be touched. */
void must_be_memory(const void *at, uint64_t bytes);

#endif
