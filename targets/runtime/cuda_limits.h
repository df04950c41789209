/* What a CUDA device allows, and whether a model keeps to it. */
#ifndef MN_CUDA_LIMITS_H
#define MN_CUDA_LIMITS_H

#include "cuda_api.h"
#include "file.h"
#include "text.h"

typedef struct mn_cuda_limits {
    char name[128];
    uint32_t api_version;  /* the newest CUDA that the driver knows, e.g. 13000 */
    uint32_t architecture; /* e.g. 90 */
    uint32_t max_block, block[3], grid[3];
    uint32_t local_bytes;
    uint64_t memory_bytes;
} mn_cuda_limits;

mossnet_status mn_cuda_limits_of(const mn_cuda_api *api, mn_cu_device device, mn_cuda_limits *out,
                                 mossnet_error *error);
/* As mossnet_devices describes a device. */
void mn_cuda_limits_describe(const mn_cuda_limits *limits, mn_text *out);
/* Refuses (UNSUPPORTED) a model that the device cannot run, whatever its code is. */
mossnet_status mn_cuda_limits_check(const mn_cuda_limits *limits, const mn_file *file, mossnet_error *error);

#endif
