#include "opencl_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_PLATFORMS = 32, MAX_DEVICES = 64 };

/* Drivers pad names with blanks; a line break would end the line of a description. */
static void tidy(char *text) {
    size_t length = strlen(text), start = strspn(text, " \t\r\n");
    memmove(text, text + start, length - start + 1);
    for (length -= start; length && strchr(" \t\r\n", text[length - 1]); length--)
        text[length - 1] = 0;
    for (; *text; text++)
        if (*text == '\n' || *text == '\r') *text = ' ';
}

static void platform_name(const mn_cl *cl, mn_cl_platform platform, char out[128]) {
    memset(out, 0, 128);
    (void)cl->clGetPlatformInfo(platform, MN_CL_PLATFORM_NAME, 127, out, NULL);
    tidy(out);
}

static void device_text(const mn_cl *cl, mn_cl_device_id id, mn_cl_uint what, char out[128]) {
    memset(out, 0, 128);
    (void)cl->clGetDeviceInfo(id, what, 127, out, NULL);
    tidy(out);
}

/* Numbers have different widths; little-endian, so a narrow one fits a wide place. */
static uint64_t device_number(const mn_cl *cl, mn_cl_device_id id, mn_cl_uint what) {
    uint64_t number = 0;
    (void)cl->clGetDeviceInfo(id, what, sizeof number, &number, NULL);
    return number;
}

static char *device_extensions(const mn_cl *cl, mn_cl_device_id id) {
    size_t bytes = 0;
    (void)cl->clGetDeviceInfo(id, MN_CL_DEVICE_EXTENSIONS, 0, NULL, &bytes);
    char *text = calloc(1, bytes + 1);
    if (text && bytes) (void)cl->clGetDeviceInfo(id, MN_CL_DEVICE_EXTENSIONS, bytes, text, NULL);
    return text;
}

/* Oclgrind says that it is everything, and is no GPU. */
static mn_cl_bits kind_of(mn_cl_bits type) {
    static const mn_cl_bits kinds[] = {MN_CL_DEVICE_TYPE_CPU, MN_CL_DEVICE_TYPE_GPU, MN_CL_DEVICE_TYPE_ACCELERATOR};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (type & kinds[i]) return kinds[i];
    return 0;
}

/* Memory is shared on phones too, but Adreno and Mali read in place only what their drivers allocated: what the host
 * did is copied, and then it costs less when the copy is the only one. */
static bool reads_in_place(const mn_cl *cl, const mn_cl_device *device) {
    return device_number(cl, device->id, MN_CL_DEVICE_HOST_UNIFIED_MEMORY) && strcasecmp(device->vendor, "QUALCOMM") &&
           strcasecmp(device->vendor, "ARM");
}

static bool is_usable(const mn_cl *cl, const mn_cl_device *device) {
    return device_number(cl, device->id, MN_CL_DEVICE_AVAILABLE) &&
           device_number(cl, device->id, MN_CL_DEVICE_COMPILER_AVAILABLE) && mn_cl_is_1_2(device->version);
}

static bool describe(const mn_cl *cl, mn_cl_platform platform, mn_cl_device_id id, mn_cl_device *out) {
    size_t axes[16] = {0};
    *out = (mn_cl_device){.platform = platform, .id = id, .extensions = device_extensions(cl, id)};
    platform_name(cl, platform, out->platform_name);
    device_text(cl, id, MN_CL_DEVICE_NAME, out->name);
    device_text(cl, id, MN_CL_DEVICE_VENDOR, out->vendor);
    device_text(cl, id, MN_CL_DRIVER_VERSION, out->driver);
    device_text(cl, id, MN_CL_DEVICE_VERSION, out->version);
    out->type = kind_of(device_number(cl, id, MN_CL_DEVICE_TYPE));
    out->memory_bytes = device_number(cl, id, MN_CL_DEVICE_GLOBAL_MEM_SIZE);
    out->max_buffer_bytes = device_number(cl, id, MN_CL_DEVICE_MAX_MEM_ALLOC_SIZE);
    out->local_bytes = device_number(cl, id, MN_CL_DEVICE_LOCAL_MEM_SIZE);
    out->max_block = (size_t)device_number(cl, id, MN_CL_DEVICE_MAX_WORK_GROUP_SIZE);
    (void)cl->clGetDeviceInfo(id, MN_CL_DEVICE_MAX_WORK_ITEM_SIZES, sizeof axes, axes, NULL);
    memcpy(out->max_threads, axes, sizeof out->max_threads);
    out->align_bytes = (uint32_t)device_number(cl, id, MN_CL_DEVICE_MEM_BASE_ADDR_ALIGN) / 8; /* it is in bits */
    out->address_bits = (uint32_t)device_number(cl, id, MN_CL_DEVICE_ADDRESS_BITS);
    out->in_place = reads_in_place(cl, out);
    out->usable = is_usable(cl, out);
    return out->extensions;
}

static mossnet_status list_platform(const mn_cl *cl, mn_cl_platform platform, mn_cl_devices *out,
                                    mossnet_error *error) {
    mn_cl_device_id ids[MAX_DEVICES];
    mn_cl_uint n = 0;
    /* A platform without devices says so with an error. */
    if (cl->clGetDeviceIDs(platform, MN_CL_DEVICE_TYPE_ALL, MAX_DEVICES, ids, &n)) return MOSSNET_OK;
    n = n < MAX_DEVICES ? n : MAX_DEVICES;
    mn_cl_device *more = realloc(out->device, (out->n + n + 1) * sizeof *more);
    if (!more) return mn_fail(error, MOSSNET_MEMORY, "no memory for a list of devices");
    out->device = more;
    for (mn_cl_uint i = 0; i < n; i++)
        if (!describe(cl, platform, ids[i], &out->device[out->n++]))
            return mn_fail(error, MOSSNET_MEMORY, "no memory for a list of devices");
    return MOSSNET_OK;
}

mossnet_status mn_cl_devices_list(const mn_cl *cl, mn_cl_devices *out, mossnet_error *error) {
    mn_cl_platform platforms[MAX_PLATFORMS];
    mn_cl_uint n = 0;
    *out = (mn_cl_devices){.n = 0};
    if (cl->clGetPlatformIDs(MAX_PLATFORMS, platforms, &n)) n = 0; /* none is an error too */
    mossnet_status status = MOSSNET_OK;
    for (mn_cl_uint i = 0; !status && i < n && i < MAX_PLATFORMS; i++)
        status = list_platform(cl, platforms[i], out, error);
    if (!status && !out->n)
        status = mn_fail(error, MOSSNET_DEVICE,
                         "OpenCL is installed, but no driver of a device: %u platforms without devices", n);
    if (status) mn_cl_devices_free(out);
    return status;
}

void mn_cl_devices_free(mn_cl_devices *devices) {
    for (uint32_t i = 0; i < devices->n; i++)
        free(devices->device[i].extensions);
    free(devices->device);
    *devices = (mn_cl_devices){.n = 0};
}

static int rank(const mn_cl_device *device) {
    return device->type == MN_CL_DEVICE_TYPE_GPU           ? 3
           : device->type == MN_CL_DEVICE_TYPE_ACCELERATOR ? 2
           : device->type == MN_CL_DEVICE_TYPE_CPU         ? 1
                                                           : 0;
}

static bool is_wanted(const mn_cl_device *device, const char *wanted) {
    char full[sizeof device->platform_name + sizeof device->name + 4];
    snprintf(full, sizeof full, "%s / %s", device->platform_name, device->name);
    return !wanted || !*wanted || strcasestr(full, wanted);
}

mossnet_status mn_cl_devices_choose(const mn_cl_devices *devices, const char *wanted, uint32_t *out,
                                    mossnet_error *error) {
    int best = -1;
    char there[240];
    mn_text text = {there, sizeof there, 0};
    for (uint32_t i = 0; i < devices->n; i++) {
        const mn_cl_device *device = &devices->device[i];
        mn_text_add(&text, "%s%s / %s%s", i ? ", " : "", device->platform_name, device->name,
                    device->usable ? "" : " (unusable)");
        if (!device->usable || !is_wanted(device, wanted) || rank(device) <= best) continue;
        best = rank(device);
        *out = i;
    }
    if (best >= 0) return MOSSNET_OK;
    return mn_fail(error, MOSSNET_DEVICE, "no OpenCL device %s%.60s; there are: %s",
                   wanted && *wanted ? "named " : "that compiles OpenCL C 1.2", wanted ? wanted : "", there);
}

/* Of names that blanks or commas separate, the next one; NULL behind the last. */
static const char *next_name(const char *at, size_t *length) {
    at += strspn(at, ", ");
    *length = strcspn(at, ", ");
    return *length ? at : NULL;
}

static const char *type_name(mn_cl_bits type) {
    return type == MN_CL_DEVICE_TYPE_GPU ? "gpu" : type == MN_CL_DEVICE_TYPE_CPU ? "cpu" : "accelerator";
}

void mn_cl_device_describe(const mn_cl_device *device, mn_text *out) {
    mn_text_add(out, "name=%s\nplatform=%s\ntype=%s\nvendor=%s\ndriver=%s\napi=%s\n", device->name,
                device->platform_name, type_name(device->type), device->vendor, device->driver, device->version);
    mn_text_add(out, "memory_bytes=%llu\nmax_buffer_bytes=%llu\nlocal_bytes=%llu\nmax_block=%zu\nfeatures=",
                (unsigned long long)device->memory_bytes, (unsigned long long)device->max_buffer_bytes,
                (unsigned long long)device->local_bytes, device->max_block);
    const char *comma = "", *name = device->extensions;
    for (size_t length; (name = next_name(name, &length)); name += length) {
        mn_text_add(out, "%s%.*s", comma, (int)length, name);
        comma = ",";
    }
    mn_text_add(out, "\n");
}

bool mn_cl_device_has(const mn_cl_device *device, const char *extension, size_t length) {
    const char *name = device->extensions;
    for (size_t found; (name = next_name(name, &found)); name += found)
        if (found == length && !memcmp(name, extension, length)) return true;
    return false;
}

static mossnet_status check_features(const mn_cl_device *device, const mn_file *file, mossnet_error *error) {
    const char *features = mn_file_meta(file, "features");
    if (!features) return mn_fail(error, MOSSNET_FORMAT, "META does not have `features`, which code for OpenCL needs");
    char missing[160] = "";
    mn_text text = {missing, sizeof missing, 0};
    for (size_t length; (features = next_name(features, &length)); features += length)
        if (!mn_cl_device_has(device, features, length))
            mn_text_add(&text, "%s%.*s", text.used ? ", " : "", (int)length, features);
    if (text.used)
        return mn_fail(error, MOSSNET_UNSUPPORTED, "compiled for OpenCL extensions that %s does not have: %s",
                       device->name, missing);
    return MOSSNET_OK;
}

static mossnet_status check_kernel(const mn_cl_device *device, const char *name, const mn_kernel *kernel,
                                   mossnet_error *error) {
    const uint32_t *block = kernel->block;
    const size_t *most = device->max_threads;
    size_t threads = (size_t)block[0] * block[1] * block[2];
    if (threads > device->max_block || block[0] > most[0] || block[1] > most[1] || block[2] > most[2])
        return mn_fail(error, MOSSNET_UNSUPPORTED,
                       "kernel %.80s runs in groups of %u x %u x %u threads, %s allows %zu (%zu x %zu x %zu)", name,
                       block[0], block[1], block[2], device->name, device->max_block, most[0], most[1], most[2]);
    if (kernel->local_bytes > device->local_bytes)
        return mn_fail(error, MOSSNET_UNSUPPORTED, "kernel %.80s shares %u bytes in a group, %s has %llu", name,
                       kernel->local_bytes, device->name, (unsigned long long)device->local_bytes);
    return MOSSNET_OK;
}

/* All threads of a launch are counted in one number along each axis. */
static mossnet_status check_step(const mn_cl_device *device, const mn_file *file, uint32_t index,
                                 mossnet_error *error) {
    const mn_step *step = &file->steps[index];
    for (int axis = 0; axis < 3; axis++) {
        uint64_t threads = (uint64_t)step->grid[axis] * file->kernels[step->kernel].block[axis];
        if (threads > (device->address_bits < 64 ? UINT32_MAX : SIZE_MAX))
            return mn_fail(error, MOSSNET_UNSUPPORTED, "step %u starts %llu threads, %s counts to 2^%u", index,
                           (unsigned long long)threads, device->name, device->address_bits);
    }
    return MOSSNET_OK;
}

mossnet_status mn_cl_device_check(const mn_cl_device *device, const mn_file *file, mossnet_error *error) {
    mossnet_status status = check_features(device, file, error);
    for (uint32_t i = 0; !status && i < file->n_kernels; i++)
        status = check_kernel(device, file->strings + file->kernels[i].name, &file->kernels[i], error);
    for (uint32_t i = 0; !status && i < file->n_steps; i++)
        status = check_step(device, file, i, error);
    uint64_t needed = 0;
    for (int region = 0; region < MN_REGIONS; region++)
        needed += file->region_bytes[region];
    if (!status && needed > device->memory_bytes)
        status = mn_fail(error, MOSSNET_UNSUPPORTED, "the model and one session need %llu bytes, %s has %llu",
                         (unsigned long long)needed, device->name, (unsigned long long)device->memory_bytes);
    return status;
}
