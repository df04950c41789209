/* A mock of NVIDIA's libcuda.so for machines without their GPUs: there is no software device that runs CUDA, so no real
 * part can stand here. It tests how the driver cuda binds and calls the library, not what a GPU does.
 *
 * Device memory is the host's, filled with garbage when it is allocated. A stream is a thread that does what it was
 * given a little later, so that a caller who does not wait is found out. Kernels are the C functions of fake_device.c,
 * taken by name from images that cuda.py writes: lines, the first `MOCK cubin sm_90` or `MOCK PTX`, then names; in PTX
 * a line that begins with `error` is one, and `newer` is a version that no driver knows. A wrong use of the interface
 * (an unknown handle, one used in another context or after its end, a call outside of a context or during a recording
 * that forbids it) ends the process with a message.
 *
 * Environment, read at each use: FAKE_CUDA_DEVICES (1), FAKE_CUDA_SM (90), FAKE_CUDA_MEMORY (bytes, 2^30),
 * FAKE_CUDA_BROKEN (every new primary context is lost), and FAKE_CUDA_FAULT, which counts from where it was set:
 * `fault:2` the second kernel reads an illegal address, `hang:2` it never ends, `launch:2` the second launch is
 * refused, `memory:2` the second allocation fails, `pinned:2` that of memory of the host. Without graphs:
 * -DFAKE_WITHOUT_GRAPHS. */
#include "fake_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

enum { INVALID_VALUE = 1, INVALID_CONTEXT = 201 };

#define DEFINE(function, ...)                                                                                          \
    EXPORT mn_cu_result function(__VA_ARGS__);                                                                         \
    EXPORT mn_cu_result function(__VA_ARGS__)
/* What a call in a context begins and ends with. */
#define BEGIN                                                                                                          \
    pthread_mutex_lock(&fake_lock);                                                                                    \
    object *context __attribute__((unused)) = current(__func__);                                                       \
    if (context->sticky) return leave(context->sticky)
#define END return leave(MN_CU_OK)

static _Thread_local object *recording;

static void forbid_recording(const char *call) {
    if (recording) die("%s while a stream of this thread records", call);
}

static mn_cu_result leave(mn_cu_result result) {
    pthread_mutex_unlock(&fake_lock);
    return result;
}

/* How many objects are left, and how many streams have work; fake_cuda_depth: how many contexts this thread has not
 * left. */
EXPORT int fake_cuda_live(void);
EXPORT int fake_cuda_busy(void);
EXPORT int fake_cuda_live(void) {
    int n = 0;
    pthread_mutex_lock(&fake_lock);
    for (object *o = fake_objects; o; o = o->next)
        n += o->live;
    pthread_mutex_unlock(&fake_lock);
    return n;
}

EXPORT int fake_cuda_busy(void) {
    int n = 0;
    pthread_mutex_lock(&fake_lock);
    for (object *o = fake_objects; o; o = o->next)
        n += o->kind == STREAM && o->first;
    pthread_mutex_unlock(&fake_lock);
    return n;
}

static _Atomic bool initialised;

DEFINE(cuInit, unsigned flags) {
    if (!setting("FAKE_CUDA_DEVICES", 1)) return MN_CU_NO_DEVICE;
    initialised = true;
    return flags ? INVALID_VALUE : MN_CU_OK;
}

DEFINE(cuDriverGetVersion, int *version) {
    *version = 13000;
    return MN_CU_OK;
}

static const struct {
    int code;
    const char *name, *words;
} ERRORS[] = {
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {MN_CU_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {MN_CU_INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {MN_CU_NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available"},
    {MN_CU_INVALID_PTX, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {MN_CU_UNSUPPORTED_PTX_VERSION, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the PTX is newer than the driver"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
};

static mn_cu_result tell(mn_cu_result code, const char **out, bool words) {
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == code) {
            *out = words ? ERRORS[i].words : ERRORS[i].name;
            return MN_CU_OK;
        }
    *out = NULL;
    return INVALID_VALUE;
}

DEFINE(cuGetErrorName, mn_cu_result code, const char **out) {
    return tell(code, out, false);
}

DEFINE(cuGetErrorString, mn_cu_result code, const char **out) {
    return tell(code, out, true);
}

DEFINE(cuDeviceGetCount, int *n) {
    if (!initialised) die("cuDeviceGetCount before cuInit");
    *n = (int)setting("FAKE_CUDA_DEVICES", 1);
    return MN_CU_OK;
}

DEFINE(cuDeviceGet, mn_cu_device *device, int i) {
    if (i < 0 || (size_t)i >= setting("FAKE_CUDA_DEVICES", 1)) die("cuDeviceGet: device %d", i);
    *device = 100 + i; /* no index */
    return MN_CU_OK;
}

static int index_of(const char *call, mn_cu_device device) {
    if (device < 100 || (size_t)device >= 100 + setting("FAKE_CUDA_DEVICES", 1)) die("%s: device %d", call, device);
    return device - 100;
}

DEFINE(cuDeviceGetName, char *out, int bytes, mn_cu_device device) {
    snprintf(out, (size_t)bytes, "Mock GPU %c", 'A' + index_of(__func__, device));
    return MN_CU_OK;
}

DEFINE(cuDeviceGetAttribute, int *value, mn_cu_device_attribute which, mn_cu_device device) {
    int sm = (int)setting("FAKE_CUDA_SM", 90);
    (void)index_of(__func__, device);
    static const int limits[] = {0, 1024, 1024, 1024, 64, 2147483647, 65535, 65535, 49152};
    if (which == MN_CU_COMPUTE_CAPABILITY_MAJOR)
        *value = sm / 10;
    else if (which == MN_CU_COMPUTE_CAPABILITY_MINOR)
        *value = sm % 10;
    else if (which == MN_CU_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
        *value = 101376;
    else if (which > 0 && which < (int)(sizeof limits / sizeof *limits))
        *value = limits[which];
    else
        return INVALID_VALUE;
    return MN_CU_OK;
}

DEFINE(cuDeviceTotalMem_v2, size_t *bytes, mn_cu_device device) {
    (void)index_of(__func__, device);
    *bytes = setting("FAKE_CUDA_MEMORY", 1 << 30);
    return MN_CU_OK;
}

static object *find_primary(mn_cu_device device) {
    for (object *o = fake_objects; o; o = o->next)
        if (o->kind == CONTEXT && o->live && o->primary && o->device == device) return o;
    return NULL;
}

DEFINE(cuDevicePrimaryCtxRetain, mn_cu_context *out, mn_cu_device device) {
    pthread_mutex_lock(&fake_lock);
    (void)index_of(__func__, device);
    object *context = find_primary(device);
    if (!context) {
        context = make(CONTEXT, NULL);
        context->primary = true;
        context->device = device;
        context->sticky = getenv("FAKE_CUDA_BROKEN") ? ILLEGAL_ADDRESS : 0;
    }
    context->users++;
    *out = (mn_cu_context)(void *)context;
    END;
}

DEFINE(cuDevicePrimaryCtxRelease_v2, mn_cu_device device) {
    pthread_mutex_lock(&fake_lock);
    object *context = find_primary(device);
    if (!context) die("cuDevicePrimaryCtxRelease of a context that nobody has");
    if (!--context->users) end_context(context);
    END;
}

DEFINE(cuCtxCreate_v2, mn_cu_context *out, unsigned flags, mn_cu_device device) {
    if (flags) die("cuCtxCreate: flags %u", flags);
    pthread_mutex_lock(&fake_lock);
    object *context = make(CONTEXT, NULL);
    (void)index_of(__func__, device);
    context->device = device;
    push(__func__, context);
    *out = (mn_cu_context)(void *)context;
    END;
}

DEFINE(cuCtxDestroy_v2, mn_cu_context handle) {
    pthread_mutex_lock(&fake_lock);
    object *context = use(__func__, CONTEXT, handle);
    if (context->primary) die("cuCtxDestroy of a primary context");
    end_context(context);
    END;
}

DEFINE(cuCtxPushCurrent_v2, mn_cu_context handle) {
    pthread_mutex_lock(&fake_lock);
    push(__func__, use(__func__, CONTEXT, handle));
    END;
}

DEFINE(cuCtxPopCurrent_v2, mn_cu_context *out) {
    forbid_recording(__func__);
    *out = (mn_cu_context)(void *)pop(__func__);
    return MN_CU_OK;
}

/* 0, or why an image is not taken; `log` receives the line that is wrong. */
static int check_image(const char *image, char *log, size_t log_bytes) {
    int sm = (int)setting("FAKE_CUDA_SM", 90), own = 0;
    if (sscanf(image, "MOCK cubin sm_%d", &own) == 1)
        return own / 10 == sm / 10 && own <= sm ? 0 : MN_CU_NO_BINARY_FOR_GPU;
    if (strncmp(image, "MOCK PTX\n", 9)) return MN_CU_INVALID_IMAGE;
    if (strstr(image, "\nnewer\n")) return MN_CU_UNSUPPORTED_PTX_VERSION;
    const char *wrong = strstr(image, "\nerror");
    if (wrong) snprintf(log, log_bytes, "%s", wrong + 1);
    return wrong ? MN_CU_INVALID_PTX : 0;
}

DEFINE(cuModuleLoadDataEx, mn_cu_module *out, const void *image, unsigned n, mn_cu_jit_option *options, void **values) {
    BEGIN;
    forbid_recording(__func__);
    if (n != 2 || options[0] != MN_CU_JIT_ERROR_LOG_BUFFER || options[1] != MN_CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES)
        die("cuModuleLoadDataEx: unknown options");
    int wrong = check_image(image, values[0], (size_t)(uintptr_t)values[1]);
    if (wrong) return leave(wrong);
    object *module = make(MODULE, context);
    module->image = strdup(image);
    *out = (mn_cu_module)(void *)module;
    END;
}

DEFINE(cuModuleUnload, mn_cu_module handle) {
    BEGIN;
    object *module = use(__func__, MODULE, handle);
    wait_for(context);
    for (object *o = fake_objects; o; o = o->next)
        if (o->module == module) o->live = false;
    end(module);
    END;
}

DEFINE(cuModuleGetFunction, mn_cu_function *out, mn_cu_module handle, const char *name) {
    BEGIN;
    object *module = use(__func__, MODULE, handle);
    char line[80];
    snprintf(line, sizeof line, "\n%s\n", name);
    const toy *kernel = find_toy(name);
    if (!kernel || !strstr(module->image, line)) return leave(MN_CU_NOT_FOUND);
    object *function = make(FUNCTION, context);
    function->module = module;
    function->kernel = kernel;
    function->max_dynamic = 49152;
    *out = (mn_cu_function)(void *)function;
    END;
}

DEFINE(cuFuncGetAttribute, int *value, mn_cu_function_attribute which, mn_cu_function handle) {
    BEGIN;
    const object *function = use(__func__, FUNCTION, handle);
    if (which == MN_CU_FUNCTION_MAX_THREADS_PER_BLOCK)
        *value = function->kernel->max_threads;
    else if (which == MN_CU_FUNCTION_SHARED_SIZE_BYTES)
        *value = function->kernel->fixed_bytes;
    else
        die("cuFuncGetAttribute: attribute %d", which);
    END;
}

DEFINE(cuFuncSetAttribute, mn_cu_function handle, mn_cu_function_attribute which, int value) {
    BEGIN;
    object *function = use(__func__, FUNCTION, handle);
    if (which != MN_CU_FUNCTION_MAX_DYNAMIC_SHARED_SIZE_BYTES) die("cuFuncSetAttribute: attribute %d", which);
    function->max_dynamic = value;
    END;
}

static size_t used_memory(int device) {
    size_t used = 0;
    for (object *o = fake_objects; o; o = o->next)
        if (o->kind == MEMORY && o->live && o->context->device == device) used += o->bytes;
    return used;
}

DEFINE(cuMemGetInfo_v2, size_t *available, size_t *total) {
    BEGIN;
    *total = setting("FAKE_CUDA_MEMORY", 1 << 30);
    *available = *total - used_memory(context->device);
    END;
}

static object *allocate(kind k, object *context, size_t bytes) {
    object *memory = make(k, context);
    memory->bytes = bytes;
    if (!(memory->memory = malloc(bytes))) die("no memory");
    memset(memory->memory, 0xa5, bytes);
    return memory;
}

DEFINE(cuMemAlloc_v2, mn_cu_pointer *out, size_t bytes) {
    BEGIN;
    forbid_recording(__func__);
    if (!bytes) return leave(INVALID_VALUE);
    if (faulty("memory") || bytes > setting("FAKE_CUDA_MEMORY", 1 << 30) - used_memory(context->device))
        return leave(MN_CU_OUT_OF_MEMORY);
    *out = (mn_cu_pointer)(uintptr_t)allocate(MEMORY, context, bytes)->memory;
    END;
}

static void free_memory(const char *call, kind k, const object *context, const void *at) {
    forbid_recording(call);
    object *memory = find_memory(k, at, 0);
    if (!memory || memory->memory != at) die("%s: %p is no %s", call, at, kind_name(k));
    if (memory->context != context) die("%s: %s of another context", call, kind_name(k));
    wait_for(memory->context);
    end(memory);
}

DEFINE(cuMemFree_v2, mn_cu_pointer pointer) {
    BEGIN;
    free_memory(__func__, MEMORY, context, (void *)(uintptr_t)pointer);
    END;
}

DEFINE(cuMemHostAlloc, void **out, size_t bytes, unsigned flags) {
    BEGIN;
    forbid_recording(__func__);
    if (flags || !bytes) die("cuMemHostAlloc: %zu bytes, flags %u", bytes, flags);
    if (faulty("pinned")) return leave(MN_CU_OUT_OF_MEMORY);
    *out = allocate(PINNED, context, bytes)->memory;
    END;
}

DEFINE(cuMemFreeHost, void *memory) {
    BEGIN;
    free_memory(__func__, PINNED, context, memory);
    END;
}

static object *use_stream(const char *call, mn_cu_stream handle) {
    object *stream = use(call, STREAM, handle);
    if (stream->recording) die("%s on a stream that records", call);
    return stream;
}

DEFINE(cuMemcpyHtoDAsync_v2, mn_cu_pointer to, const void *from, size_t bytes, mn_cu_stream handle) {
    BEGIN;
    operation op = {.what = COPY, .to = device_memory(__func__, to, bytes), .from = from, .bytes = bytes};
    if (!find_memory(PINNED, from, bytes)) {
        if (!(op.staged = malloc(bytes))) die("no memory");
        memcpy(op.staged, from, bytes);
    }
    append(use_stream(__func__, handle), &op);
    END;
}

DEFINE(cuMemcpyDtoHAsync_v2, void *to, mn_cu_pointer from, size_t bytes, mn_cu_stream handle) {
    BEGIN;
    operation op = {.what = COPY, .to = to, .from = device_memory(__func__, from, bytes), .bytes = bytes};
    if (!find_memory(PINNED, to, bytes)) die("cuMemcpyDtoHAsync to memory that is not pinned");
    append(use_stream(__func__, handle), &op);
    END;
}

DEFINE(cuMemcpyDtoDAsync_v2, mn_cu_pointer to, mn_cu_pointer from, size_t bytes, mn_cu_stream handle) {
    BEGIN;
    operation op = {.what = COPY,
                    .to = device_memory(__func__, to, bytes),
                    .from = device_memory(__func__, from, bytes),
                    .bytes = bytes};
    append(use_stream(__func__, handle), &op);
    END;
}

DEFINE(cuMemsetD8Async, mn_cu_pointer to, unsigned char value, size_t bytes, mn_cu_stream handle) {
    BEGIN;
    operation op = {.what = SET, .to = device_memory(__func__, to, bytes), .value = value, .bytes = bytes};
    append(use_stream(__func__, handle), &op);
    END;
}

DEFINE(cuStreamCreate, mn_cu_stream *out, unsigned flags) {
    BEGIN;
    object *stream = make(STREAM, context);
    if (flags != MN_CU_STREAM_NON_BLOCKING) die("cuStreamCreate: flags %u", flags);
    start_stream(stream);
    *out = (mn_cu_stream)(void *)stream;
    END;
}

DEFINE(cuStreamDestroy_v2, mn_cu_stream handle) {
    BEGIN;
    end(use_stream(__func__, handle));
    END;
}

DEFINE(cuStreamQuery, mn_cu_stream handle) {
    BEGIN;
    const object *stream = use_stream(__func__, handle);
    return leave(stream->first ? MN_CU_NOT_READY : MN_CU_OK);
}

DEFINE(cuEventCreate, mn_cu_event *out, unsigned flags) {
    BEGIN;
    if (flags) die("cuEventCreate: flags %u", flags);
    *out = (mn_cu_event)(void *)make(EVENT, context);
    END;
}

DEFINE(cuEventDestroy_v2, mn_cu_event handle) {
    BEGIN;
    end(use(__func__, EVENT, handle));
    END;
}

DEFINE(cuEventRecord, mn_cu_event handle, mn_cu_stream stream) {
    BEGIN;
    operation op = {.what = RECORD, .event = use(__func__, EVENT, handle)};
    op.event->done = false;
    append(use_stream(__func__, stream), &op);
    END;
}

DEFINE(cuEventElapsedTime, float *ms, mn_cu_event first, mn_cu_event second) {
    BEGIN;
    const object *a = use(__func__, EVENT, first), *b = use(__func__, EVENT, second);
    if (!a->done || !b->done) return leave(MN_CU_NOT_READY);
    *ms = (float)(b->clock_ms - a->clock_ms);
    END;
}

DEFINE(cuLaunchKernel, mn_cu_function handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
       unsigned bz, unsigned dynamic_bytes, mn_cu_stream stream_handle, void **args, void **extra) {
    BEGIN;
    const object *function = use(__func__, FUNCTION, handle);
    const toy *kernel = function->kernel;
    operation op = {.what = LAUNCH, .kernel = kernel, .n_groups = gx * gy * gz};
    if (extra) die("cuLaunchKernel: extra");
    if (!gx || !gy || !gz || !bx || !by || !bz || bx * by * bz > (unsigned)kernel->max_threads ||
        dynamic_bytes > (unsigned)function->max_dynamic)
        return leave(INVALID_VALUE);
    if (dynamic_bytes != (unsigned)kernel->dynamic_bytes)
        die("cuLaunchKernel: %u bytes of local memory for %s, expected %d", dynamic_bytes, kernel->name,
            kernel->dynamic_bytes);
    if (faulty("launch")) return leave(INVALID_VALUE);
    op.n_threads = op.n_groups * bx * by * bz;
    for (uint32_t i = 0; i < kernel->n_args; i++)
        memcpy(&op.args[i], args[i], sizeof op.args[i]); /* now: the caller may change them */
    append(use(__func__, STREAM, stream_handle)->recording ? recording : (object *)(void *)stream_handle, &op);
    END;
}

#if !defined(FAKE_WITHOUT_GRAPHS)
DEFINE(cuStreamBeginCapture_v2, mn_cu_stream handle, mn_cu_capture_mode mode) {
    BEGIN;
    object *stream = use_stream(__func__, handle);
    if (mode != MN_CU_CAPTURE_THREAD_LOCAL) die("cuStreamBeginCapture: mode %d disturbs other threads", mode);
    forbid_recording(__func__);
    stream->recording = true;
    recording = make(GRAPH, context);
    END;
}

DEFINE(cuStreamEndCapture, mn_cu_stream handle, mn_cu_graph *out) {
    BEGIN;
    object *stream = use(__func__, STREAM, handle);
    if (!stream->recording || !recording) die("cuStreamEndCapture of a stream that does not record in this thread");
    stream->recording = false;
    *out = (mn_cu_graph)(void *)recording;
    recording = NULL;
    END;
}

DEFINE(cuGraphInstantiateWithFlags, mn_cu_graph_exec *out, mn_cu_graph handle, unsigned long long flags) {
    BEGIN;
    const object *graph = use(__func__, GRAPH, handle);
    if (flags) die("cuGraphInstantiate: flags %llu", flags);
    object *exec = make(GRAPH_EXEC, context);
    for (const operation *op = graph->first; op; op = op->next)
        append(exec, op);
    *out = (mn_cu_graph_exec)(void *)exec;
    END;
}

DEFINE(cuGraphLaunch, mn_cu_graph_exec handle, mn_cu_stream stream_handle) {
    BEGIN;
    const object *exec = use(__func__, GRAPH_EXEC, handle);
    object *stream = use_stream(__func__, stream_handle);
    for (const operation *op = exec->first; op; op = op->next)
        append(stream, op);
    END;
}

DEFINE(cuGraphExecDestroy, mn_cu_graph_exec handle) {
    BEGIN;
    end(use(__func__, GRAPH_EXEC, handle));
    END;
}

DEFINE(cuGraphDestroy, mn_cu_graph handle) {
    BEGIN;
    end(use(__func__, GRAPH, handle));
    END;
}
#endif

/* The mock has the functions of the table, as they are declared there. */
#define CHECK(function, arguments)                                                                                     \
    _Static_assert(__builtin_types_compatible_p(__typeof__(&function), mn_cu_result(*) arguments), #function);
MN_CUDA_REQUIRED(CHECK)
#if !defined(FAKE_WITHOUT_GRAPHS)
MN_CUDA_GRAPHS(CHECK)
#endif
