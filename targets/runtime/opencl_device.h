/* OpenCL's devices: what there is, which one a model runs on, and whether it can. */
#ifndef MN_OPENCL_DEVICE_H
#define MN_OPENCL_DEVICE_H

#include "file.h"
#include "opencl_api.h"
#include "text.h"

typedef struct mn_cl_device {
    mn_cl_platform platform;
    mn_cl_device_id id;
    char platform_name[128], name[128], vendor[128], driver[128], version[128];
    char *extensions; /* separated by blanks */
    mn_cl_bits type;  /* one of CPU, GPU, ACCELERATOR, or 0 */
    uint64_t memory_bytes, max_buffer_bytes, local_bytes;
    size_t max_block, max_threads[3]; /* of a group: in all, and along each axis */
    uint32_t align_bytes, address_bits;
    bool in_place; /* it reads memory that the host allocated where that lies */
    bool usable;   /* it is there and compiles OpenCL C 1.2 */
} mn_cl_device;

typedef struct mn_cl_devices {
    mn_cl_device *device; /* [n] */
    uint32_t n;
} mn_cl_devices;

/* DEVICE when there is none. */
mossnet_status mn_cl_devices_list(const mn_cl *cl, mn_cl_devices *out, mossnet_error *error);
void mn_cl_devices_free(mn_cl_devices *devices);
/* The index of the device whose name holds `wanted` (NULL or "": any), the first of the best kind. */
mossnet_status mn_cl_devices_choose(const mn_cl_devices *devices, const char *wanted, uint32_t *out,
                                    mossnet_error *error);
void mn_cl_device_describe(const mn_cl_device *device, mn_text *out);
bool mn_cl_device_has(const mn_cl_device *device, const char *extension, size_t length);
/* Refuses (UNSUPPORTED) a model that needs what the device does not have, as far as that shows before it is built. */
mossnet_status mn_cl_device_check(const mn_cl_device *device, const mn_file *file, mossnet_error *error);

#endif
