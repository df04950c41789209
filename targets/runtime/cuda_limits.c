#include "cuda_limits.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is not there counts as 0: the newer attributes on older drivers. */
static uint32_t attribute(const mn_cuda_api *api, mn_cu_device device, int which) {
    int value = 0;
    mn_cu_result result = api->cuDeviceGetAttribute(&value, (mn_cu_device_attribute)which, device);
    return result || value < 0 ? 0 : (uint32_t)value;
}

mossnet_status mn_cuda_limits_of(const mn_cuda_api *api, mn_cu_device device, mn_cuda_limits *out,
                                 mossnet_error *error) {
    size_t memory = 0;
    int version = 0;
    *out = (mn_cuda_limits){.name = ""};
    mn_cu_result result = api->cuDeviceGetName(out->name, (int)sizeof out->name, device);
    if (!result) result = api->cuDeviceTotalMem_v2(&memory, device);
    if (!result) result = api->cuDriverGetVersion(&version);
    if (result) return mn_cuda_fail(api, result, "asking what the device is", error);
    out->api_version = (uint32_t)version;
    out->memory_bytes = memory;
    out->architecture = attribute(api, device, MN_CU_COMPUTE_CAPABILITY_MAJOR) * 10 +
                        attribute(api, device, MN_CU_COMPUTE_CAPABILITY_MINOR);
    out->max_block = attribute(api, device, MN_CU_MAX_THREADS_PER_BLOCK);
    for (int d = 0; d < 3; d++) {
        out->block[d] = attribute(api, device, MN_CU_MAX_BLOCK_DIM_X + d);
        out->grid[d] = attribute(api, device, MN_CU_MAX_GRID_DIM_X + d);
    }
    uint32_t usual = attribute(api, device, MN_CU_MAX_SHARED_MEMORY_PER_BLOCK);
    uint32_t asked_for = attribute(api, device, MN_CU_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
    out->local_bytes = asked_for > usual ? asked_for : usual;
    return MOSSNET_OK;
}

/* The CUDA interface does not tell the driver's own version, its kernel module does: "NVRM version: NVIDIA UNIX
 * x86_64 Kernel Module  580.95.05  ...". */
static void driver_version(char out[32]) {
    char line[256] = "";
    FILE *file = fopen("/proc/driver/nvidia/version", "re");
    if (!file) return;
    const char *at = fgets(line, sizeof line, file) ? strstr(line, "Module") : NULL;
    fclose(file);
    for (; at && *at; at += strcspn(at, " "), at += strspn(at, " "))
        if (*at >= '0' && *at <= '9') {
            snprintf(out, 32, "%.*s", (int)strcspn(at, " \n"), at);
            return;
        }
}

void mn_cuda_limits_describe(const mn_cuda_limits *limits, mn_text *out) {
    char api[32], driver[32];
    snprintf(api, sizeof api, "CUDA %u.%u", limits->api_version / 1000, limits->api_version % 1000 / 10);
    memcpy(driver, api, sizeof driver); /* what is known of it elsewhere, as under Windows */
    driver_version(driver);
    mn_text_add(out, "name=%s\ntype=gpu\nvendor=NVIDIA\ndriver=%s\napi=%s\n", limits->name, driver, api);
    mn_text_add(out, "memory_bytes=%llu\nmax_buffer_bytes=%llu\n", (unsigned long long)limits->memory_bytes,
                (unsigned long long)limits->memory_bytes);
    mn_text_add(out, "local_bytes=%u\nmax_block=%u\nfeatures=sm_%u\n", limits->local_bytes, limits->max_block,
                limits->architecture);
}

/* The one kind of feature is `sm_80`: an architecture, which later ones have too. */
static mossnet_status check_features(const mn_cuda_limits *limits, const mn_file *file, mossnet_error *error) {
    const char *at = mn_file_meta(file, "features");
    char missing[160] = "";
    for (size_t bytes; at && *at; at += bytes + (at[bytes] == ',')) {
        bytes = strcspn(at, ",");
        char *end = NULL;
        unsigned long architecture = strncmp(at, "sm_", 3) ? 0 : strtoul(at + 3, &end, 10);
        if (!bytes || (end == at + bytes && architecture && architecture <= limits->architecture)) continue;
        size_t used = strlen(missing);
        snprintf(missing + used, sizeof missing - used, "%s%.*s", used ? ", " : "", (int)(bytes < 99 ? bytes : 99), at);
    }
    if (!*missing) return MOSSNET_OK;
    return mn_fail(error, MOSSNET_UNSUPPORTED, "%.80s, an sm_%u, does not have what the model needs: %s", limits->name,
                   limits->architecture, missing);
}

static mossnet_status check_kernel(const mn_cuda_limits *limits, const mn_file *file, const mn_kernel *kernel,
                                   mossnet_error *error) {
    const char *name = file->strings + kernel->name;
    uint32_t block = kernel->block[0] * kernel->block[1] * kernel->block[2];
    if (block > limits->max_block)
        return mn_fail(error, MOSSNET_UNSUPPORTED, "kernel %.80s needs groups of %u threads, the device allows %u",
                       name, block, limits->max_block);
    for (int d = 0; d < 3; d++)
        if (kernel->block[d] > limits->block[d])
            return mn_fail(error, MOSSNET_UNSUPPORTED,
                           "kernel %.80s needs groups of %u threads in dimension %d, the device allows %u", name,
                           kernel->block[d], d, limits->block[d]);
    if (kernel->local_bytes > limits->local_bytes)
        return mn_fail(error, MOSSNET_UNSUPPORTED, "kernel %.80s needs %u bytes of local memory, the device allows %u",
                       name, kernel->local_bytes, limits->local_bytes);
    return MOSSNET_OK;
}

static mossnet_status check_grids(const mn_cuda_limits *limits, const mn_file *file, mossnet_error *error) {
    for (uint32_t i = 0; i < file->n_steps; i++)
        for (int d = 0; d < 3; d++)
            if (file->steps[i].grid[d] > limits->grid[d])
                return mn_fail(error, MOSSNET_UNSUPPORTED,
                               "STEP %u needs %u groups in dimension %d, the device allows %u", i,
                               file->steps[i].grid[d], d, limits->grid[d]);
    return MOSSNET_OK;
}

mossnet_status mn_cuda_limits_check(const mn_cuda_limits *limits, const mn_file *file, mossnet_error *error) {
    uint64_t bytes = 0;
    mossnet_status status = check_features(limits, file, error);
    for (uint32_t i = 0; !status && i < file->n_kernels; i++)
        status = check_kernel(limits, file, &file->kernels[i], error);
    if (!status) status = check_grids(limits, file, error);
    if (status) return status;
    for (int region = MN_WEIGHTS; region < MN_REGIONS; region++)
        bytes += file->region_bytes[region];
    if (bytes <= limits->memory_bytes) return MOSSNET_OK;
    return mn_fail(error, MOSSNET_UNSUPPORTED, "the model and one session need %llu bytes, %.80s has %llu",
                   (unsigned long long)bytes, limits->name, (unsigned long long)limits->memory_bytes);
}
