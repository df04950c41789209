/* An OpenCL driver (ICD) in front of a real one, for the tests of the driver opencl: everything is forwarded, some of
 * it changed as the environment says. So the paths that a healthy PoCL never takes run against real memory and kernels:
 * a device with small limits, one that is lost, one whose memory is its own, one that records
 * (cl_qcom_recordable_queues exists on Adreno only). What it cannot show is whether a vendor's driver keeps to the same
 * rules.
 *
 * Environment, all MOSSNET_SHIM_..., read at each use:
 *   DRIVER      the real driver
 *   PLATFORM    the platform's name
 *   MAX_ALLOC, MAX_BLOCK, LOCAL, ALIGN (bytes), VERSION, AVAILABLE, GPU, UNIFIED (0 or 1): what the device says of
 * itself RECORD      it has recordable queues: 1 works; 2, 3, 4, 5 refuse the queue, the new, the ended, the enqueued
 * recording FAIL        a call that fails with CL_OUT_OF_RESOURCES: launch, event, read, write, fill, flush, queue HANG
 * 1: no command is ever seen to end */
#include "opencl_api.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
enum { SLOTS = 160, MAX_STEPS = 512 };

/* How often the driver under test called what. */
EXPORT extern int shim_replays, shim_launches, shim_recorded, shim_sub_buffers, shim_in_place;
int shim_replays, shim_launches, shim_recorded, shim_sub_buffers, shim_in_place;

static struct platform {
    void *const *table;
    mn_cl_platform real;
} fake;
static mn_cl real;
static void *table[SLOTS];

static const char *setting(const char *name) {
    char full[64];
    snprintf(full, sizeof full, "MOSSNET_SHIM_%s", name);
    return getenv(full);
}

static long number(const char *name, long otherwise) {
    const char *text = setting(name);
    return text ? atol(text) : otherwise;
}

static bool fails(const char *call) {
    const char *text = setting("FAIL");
    return text && !strcmp(text, call);
}

/* ---- The platform ---- */

static mn_cl_int get_platform_info(mn_cl_platform platform, mn_cl_uint what, size_t capacity, void *out,
                                   size_t *bytes) {
    const char *name = setting("PLATFORM");
    (void)platform;
    if (what != MN_CL_PLATFORM_NAME || !name) return real.clGetPlatformInfo(fake.real, what, capacity, out, bytes);
    if (out) snprintf(out, capacity, "%s", name);
    if (bytes) *bytes = strlen(name) + 1;
    return 0;
}

static mn_cl_int get_device_ids(mn_cl_platform platform, mn_cl_bits type, mn_cl_uint n, mn_cl_device_id *out,
                                mn_cl_uint *found) {
    (void)platform;
    return real.clGetDeviceIDs(fake.real, type, n, out, found);
}

static mn_cl_context create_context(const mn_cl_property *properties, mn_cl_uint n, const mn_cl_device_id *devices,
                                    void (*notify)(const char *, const void *, size_t, void *), void *data,
                                    mn_cl_int *code) {
    const mn_cl_property own[] = {MN_CL_CONTEXT_PLATFORM, (mn_cl_property)fake.real, 0};
    if (!properties || properties[1] != (mn_cl_property)&fake) abort();
    return real.clCreateContext(own, n, devices, notify, data, code);
}

/* ---- The device ---- */

static mn_cl_int give(uint64_t value, size_t width, size_t capacity, void *out, size_t *bytes) {
    if (bytes) *bytes = width;
    if (!out) return 0;
    if (capacity < width) return MN_CL_INVALID_VALUE;
    memcpy(out, &value, width);
    return 0;
}

static mn_cl_int give_extensions(mn_cl_device_id id, size_t capacity, void *out, size_t *bytes) {
    static const char more[] = " cl_qcom_recordable_queues";
    size_t length = 0;
    real.clGetDeviceInfo(id, MN_CL_DEVICE_EXTENSIONS, 0, NULL, &length);
    if (bytes) *bytes = length + sizeof more - 1;
    if (!out) return 0;
    if (capacity < length + sizeof more - 1) return MN_CL_INVALID_VALUE;
    real.clGetDeviceInfo(id, MN_CL_DEVICE_EXTENSIONS, length, out, NULL);
    strcat(out, more);
    return 0;
}

static mn_cl_int get_device_info(mn_cl_device_id id, mn_cl_uint what, size_t capacity, void *out, size_t *bytes) {
    if (what == MN_CL_DEVICE_MAX_MEM_ALLOC_SIZE && setting("MAX_ALLOC"))
        return give((uint64_t)number("MAX_ALLOC", 0), 8, capacity, out, bytes);
    if (what == MN_CL_DEVICE_LOCAL_MEM_SIZE && setting("LOCAL"))
        return give((uint64_t)number("LOCAL", 0), 8, capacity, out, bytes);
    if (what == MN_CL_DEVICE_MAX_WORK_GROUP_SIZE && setting("MAX_BLOCK"))
        return give((uint64_t)number("MAX_BLOCK", 0), sizeof(size_t), capacity, out, bytes);
    if (what == MN_CL_DEVICE_MEM_BASE_ADDR_ALIGN && setting("ALIGN"))
        return give((uint64_t)number("ALIGN", 0) * 8, 4, capacity, out, bytes);
    if (what == MN_CL_DEVICE_HOST_UNIFIED_MEMORY && setting("UNIFIED"))
        return give((uint64_t)number("UNIFIED", 0), 4, capacity, out, bytes);
    if (what == MN_CL_DEVICE_AVAILABLE && setting("AVAILABLE"))
        return give((uint64_t)number("AVAILABLE", 0), 4, capacity, out, bytes);
    const char *text = what == MN_CL_DEVICE_VERSION  ? setting("VERSION")
                       : what == MN_CL_DEVICE_VENDOR ? setting("VENDOR")
                                                     : NULL;
    if (text) {
        snprintf(out, capacity, "%s", text);
        return 0;
    }
    if (what == MN_CL_DEVICE_TYPE && setting("TYPE")) return give((uint64_t)number("TYPE", 0), 8, capacity, out, bytes);
    if (what == MN_CL_DEVICE_EXTENSIONS && number("RECORD", 0)) return give_extensions(id, capacity, out, bytes);
    return real.clGetDeviceInfo(id, what, capacity, out, bytes);
}

/* A real device refuses a buffer that is larger than it says; host memory is read in place only where it is shared. */
static mn_cl_mem create_buffer(mn_cl_context context, mn_cl_bits flags, size_t bytes, void *host, mn_cl_int *code) {
    if (flags & MN_CL_MEM_USE_HOST_PTR) {
        if (!number("UNIFIED", 1)) abort();
        *code = MN_CL_INVALID_HOST_PTR;
        if (!number("IN_PLACE", 1)) return NULL;
        shim_in_place++;
    }
    if (setting("MAX_ALLOC") && bytes > (size_t)number("MAX_ALLOC", 0)) {
        *code = MN_CL_INVALID_BUFFER_SIZE;
        return NULL;
    }
    return real.clCreateBuffer(context, flags, bytes, host, code);
}

static mn_cl_mem create_sub_buffer(mn_cl_mem memory, mn_cl_bits flags, mn_cl_uint type, const void *region,
                                   mn_cl_int *code) {
    shim_sub_buffers++;
    return real.clCreateSubBuffer(memory, flags, type, region, code);
}

/* ---- Programs ---- */

static mn_cl_program from_binary;

static mn_cl_program create_with_binary(mn_cl_context context, mn_cl_uint n, const mn_cl_device_id *devices,
                                        const size_t *bytes, const unsigned char **binaries, mn_cl_int *of_binary,
                                        mn_cl_int *code) {
    if (fails("binary")) {
        *of_binary = *code = MN_CL_INVALID_BINARY;
        return NULL;
    }
    return from_binary = real.clCreateProgramWithBinary(context, n, devices, bytes, binaries, of_binary, code);
}

static mn_cl_int build_program(mn_cl_program program, mn_cl_uint n, const mn_cl_device_id *devices, const char *options,
                               void (*notify)(mn_cl_program, void *), void *data) {
    if (program == from_binary && fails("binary_build")) return MN_CL_BUILD_PROGRAM_FAILURE;
    return real.clBuildProgram(program, n, devices, options, notify, data);
}

static mn_cl_int release_program(mn_cl_program program) {
    if (program == from_binary) from_binary = NULL;
    return real.clReleaseProgram(program);
}

/* ---- Commands, and recording them ---- */

static struct recording {
    mn_cl_queue queue; /* that records; NULL: no recording is there */
    bool open;
    int n;
    struct launch {
        mn_cl_kernel kernel;
        size_t global[3], local[3];
    } launch[MAX_STEPS];
} recordings[64];

static mn_cl_queue recorders[64];
static int n_recorders;

static bool is_recorder(mn_cl_queue queue) {
    for (int i = 0; i < n_recorders; i++)
        if (recorders[i] == queue) return true;
    return false;
}

static mn_cl_queue create_queue(mn_cl_context context, mn_cl_device_id device, mn_cl_bits properties, mn_cl_int *code) {
    if (properties == MN_CL_QUEUE_RECORDABLE && number("RECORD", 0) != 2) {
        if (n_recorders == 64) abort();
        return recorders[n_recorders++] = real.clCreateCommandQueue(context, device, 0, code);
    }
    *code = MN_CL_OUT_OF_RESOURCES;
    return fails("queue") ? NULL : real.clCreateCommandQueue(context, device, properties, code);
}

static mn_cl_int release_queue(mn_cl_queue queue) {
    for (int i = 0; i < n_recorders; i++)
        if (recorders[i] == queue) recorders[i] = NULL;
    return real.clReleaseCommandQueue(queue);
}

static mn_cl_int enqueue_kernel(mn_cl_queue queue, mn_cl_kernel kernel, mn_cl_uint axes, const size_t *offset,
                                const size_t *global, const size_t *local, mn_cl_uint n, const mn_cl_event *after,
                                mn_cl_event *event) {
    if (!is_recorder(queue)) {
        shim_launches++;
        return fails("launch")
                   ? MN_CL_OUT_OF_RESOURCES
                   : real.clEnqueueNDRangeKernel(queue, kernel, axes, offset, global, local, n, after, event);
    }
    if (axes != 3 || offset || n || event) abort(); /* what a recording cannot hold, or what the driver never uses */
    for (size_t i = 0; i < sizeof recordings / sizeof *recordings; i++) {
        struct recording *r = &recordings[i];
        if (r->queue != queue || !r->open) continue;
        if (r->n == MAX_STEPS) abort();
        struct launch *l = &r->launch[r->n++];
        l->kernel = kernel;
        memcpy(l->global, global, sizeof l->global);
        memcpy(l->local, local, sizeof l->local);
        return 0;
    }
    abort(); /* no recording is open */
}

static mn_cl_recording new_recording(mn_cl_queue queue, mn_cl_int *code) {
    *code = MN_CL_INVALID_OPERATION;
    if (!is_recorder(queue)) abort();
    if (number("RECORD", 0) == 3) return NULL;
    for (size_t i = 0; i < sizeof recordings / sizeof *recordings; i++)
        if (!recordings[i].queue) {
            recordings[i] = (struct recording){.queue = queue, .open = true};
            *code = 0;
            return (mn_cl_recording)&recordings[i];
        }
    return NULL;
}

static mn_cl_int end_recording(mn_cl_recording recording) {
    struct recording *r = (struct recording *)recording;
    if (!r->open) abort();
    r->open = false;
    if (number("RECORD", 0) == 4) return MN_CL_INVALID_OPERATION;
    shim_recorded++;
    return 0;
}

static mn_cl_int release_recording(mn_cl_recording recording) {
    struct recording *r = (struct recording *)recording;
    if (!r->queue) abort(); /* released twice */
    r->queue = NULL;
    return 0;
}

static mn_cl_int enqueue_recording(mn_cl_queue queue, mn_cl_recording recording, size_t n_arguments,
                                   const void *arguments, size_t n_offsets, const void *offsets, size_t n_global,
                                   const void *global, size_t n_local, const void *local, mn_cl_uint n,
                                   const mn_cl_event *after, mn_cl_event *event) {
    const struct recording *r = (const struct recording *)recording;
    mn_cl_int code = 0;
    if (!r->queue || r->open || is_recorder(queue) || n_arguments || arguments || n_offsets || offsets || n_global ||
        global || n_local || local || n || after)
        abort();
    if (number("RECORD", 0) == 5) return MN_CL_INVALID_OPERATION;
    shim_replays++;
    for (int i = 0; !code && i < r->n; i++)
        code = real.clEnqueueNDRangeKernel(queue, r->launch[i].kernel, 3, NULL, r->launch[i].global, r->launch[i].local,
                                           0, NULL, i == r->n - 1 ? event : NULL);
    return code;
}

static mn_cl_int enqueue_read(mn_cl_queue queue, mn_cl_mem memory, mn_cl_bool blocking, size_t offset, size_t bytes,
                              void *out, mn_cl_uint n, const mn_cl_event *after, mn_cl_event *event) {
    if (fails("read")) return MN_CL_OUT_OF_RESOURCES;
    return real.clEnqueueReadBuffer(queue, memory, blocking, offset, bytes, out, n, after, event);
}

static mn_cl_int enqueue_write(mn_cl_queue queue, mn_cl_mem memory, mn_cl_bool blocking, size_t offset, size_t bytes,
                               const void *in, mn_cl_uint n, const mn_cl_event *after, mn_cl_event *event) {
    if (fails("write")) return MN_CL_OUT_OF_RESOURCES;
    return real.clEnqueueWriteBuffer(queue, memory, blocking, offset, bytes, in, n, after, event);
}

static mn_cl_int enqueue_fill(mn_cl_queue queue, mn_cl_mem memory, const void *pattern, size_t width, size_t offset,
                              size_t bytes, mn_cl_uint n, const mn_cl_event *after, mn_cl_event *event) {
    if (fails("fill")) return MN_CL_OUT_OF_RESOURCES;
    return real.clEnqueueFillBuffer(queue, memory, pattern, width, offset, bytes, n, after, event);
}

static mn_cl_int flush(mn_cl_queue queue) {
    return fails("flush") ? MN_CL_OUT_OF_RESOURCES : real.clFlush(queue);
}

static mn_cl_int get_event_info(mn_cl_event event, mn_cl_uint what, size_t capacity, void *out, size_t *bytes) {
    mn_cl_int code = real.clGetEventInfo(event, what, capacity, out, bytes);
    if (!code && what == MN_CL_EVENT_COMMAND_EXECUTION_STATUS && out) {
        if (number("HANG", 0)) *(mn_cl_int *)out = 1;
        if (fails("event")) *(mn_cl_int *)out = MN_CL_OUT_OF_RESOURCES;
    }
    return code;
}

/* ---- The ICD ---- */

static mn_cl_int get_platform_ids(mn_cl_uint n, mn_cl_platform *out, mn_cl_uint *found) {
    if (n && out) *out = (mn_cl_platform)&fake;
    if (found) *found = 1;
    return 0;
}

static void *pointer(const void *function) {
    void *address;
    memcpy(&address, function, sizeof address);
    return address;
}

/* The real driver's table, with what is changed in it. */
static void open_driver(void) {
    mn_cl_lookup lookup;
    mn_cl_uint n = 0;
    void *driver = dlopen(setting("DRIVER"), RTLD_NOW | RTLD_LOCAL), *address;
    if (!driver || !(address = dlsym(driver, "clGetExtensionFunctionAddress"))) abort();
    memcpy(&lookup, &address, sizeof lookup);
    address = lookup("clIcdGetPlatformIDsKHR");
    memcpy(&real.clGetPlatformIDs, &address, sizeof address);
    if (real.clGetPlatformIDs(1, &fake.real, &n) || !n) abort();
    void *const *theirs = *(void *const **)fake.real;
#define TAKE(name, slot, result, arguments)                                                                            \
    memcpy(&real.name, &theirs[slot], sizeof(void *));                                                                 \
    table[slot] = theirs[slot];
    MN_CL_FUNCTIONS(TAKE)
#undef TAKE
#define CHANGE(name, own)                                                                                              \
    {                                                                                                                  \
        __typeof__(real.name) function = own;                                                                          \
        for (int i = 0; i < SLOTS; i++)                                                                                \
            if (table[i] && table[i] == pointer(&real.name)) table[i] = pointer(&function);                            \
    }
    CHANGE(clGetPlatformInfo, get_platform_info)
    CHANGE(clGetDeviceIDs, get_device_ids)
    CHANGE(clGetDeviceInfo, get_device_info)
    CHANGE(clCreateContext, create_context)
    CHANGE(clCreateBuffer, create_buffer)
    CHANGE(clCreateSubBuffer, create_sub_buffer)
    CHANGE(clCreateProgramWithBinary, create_with_binary)
    CHANGE(clBuildProgram, build_program)
    CHANGE(clReleaseProgram, release_program)
    CHANGE(clCreateCommandQueue, create_queue)
    CHANGE(clReleaseCommandQueue, release_queue)
    CHANGE(clEnqueueNDRangeKernel, enqueue_kernel)
    CHANGE(clEnqueueReadBuffer, enqueue_read)
    CHANGE(clEnqueueWriteBuffer, enqueue_write)
    CHANGE(clEnqueueFillBuffer, enqueue_fill)
    CHANGE(clFlush, flush)
    CHANGE(clGetEventInfo, get_event_info)
#undef CHANGE
    fake.table = table;
}

EXPORT void *clGetExtensionFunctionAddress(const char *name);
void *clGetExtensionFunctionAddress(const char *name) {
    mn_cl_int (*ids)(mn_cl_uint, mn_cl_platform *, mn_cl_uint *) = get_platform_ids;
    mn_cl_recording_api api = {new_recording, end_recording, release_recording, enqueue_recording};
    if (!fake.table) open_driver();
    if (!strcmp(name, "clIcdGetPlatformIDsKHR")) return pointer(&ids);
#define FIND(function, result, arguments)                                                                              \
    if (number("RECORD", 0) && !strcmp(name, #function)) return pointer(&api.function);
    MN_CL_RECORDING_FUNCTIONS(FIND)
#undef FIND
    return NULL;
}
