/* A kernel's program: from the cache, or else built from its source. */
#ifndef MN_OPENCL_PROGRAM_H
#define MN_OPENCL_PROGRAM_H

#include "opencl_device.h"

/* One program holds one kernel: kernels that share one can change each other's registers (Adreno), and a build log
 * names what it is about. On PoCL 45 small kernels take 4.8 s in programs of their own and 1.3 s in one. */
typedef struct mn_cl_builder {
    const mn_cl *cl;
    const mn_cl_device *device;
    mn_cl_context context;
    const mn_file *file;
    const unsigned char *code; /* the section */
    const char *cache_dir;     /* NULL: none */
    uint32_t n_built, n_cached;
} mn_cl_builder;

/* Refuses (UNSUPPORTED) code that the device's compiler does not take or that does not fit the file's plan. */
mossnet_status mn_cl_build(mn_cl_builder *builder, uint32_t kernel, mn_cl_program *out, mossnet_error *error);

#endif
