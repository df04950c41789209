#include "cuda_context.h"

#include "clock.h"
#include "cuda_image.h"
#include "wait.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Each part of the weights has a time-out of its own, and its pages of the file can go when it is over. */
static const uint64_t UPLOAD_BYTES = 32 << 20;

mossnet_status mn_cuda_check(mn_cuda_context *context, mn_cu_result result, const char *what, mossnet_error *error) {
    if (!result) return MOSSNET_OK;
    if (result != MN_CU_OUT_OF_MEMORY) context->lost = true;
    return mn_cuda_fail(context->api, result, what, error);
}

mossnet_status mn_cuda_enter(mn_cuda_context *context, mossnet_error *error) {
    if (context->lost) return mn_fail(error, MOSSNET_DEVICE, "the device was lost: a new session opens it anew");
    return mn_cuda_check(context, context->api->cuCtxPushCurrent_v2(context->handle), "entering the device's context",
                         error);
}

void mn_cuda_leave(const mn_cuda_context *context) {
    mn_cu_context popped;
    (void)context->api->cuCtxPopCurrent_v2(&popped);
}

typedef struct query {
    const mn_cuda_api *api;
    mn_cu_stream stream;
    mn_cu_result result;
} query;

static bool is_done(void *context) {
    query *q = context;
    q->result = q->api->cuStreamQuery(q->stream);
    return q->result != MN_CU_NOT_READY;
}

mossnet_status mn_cuda_wait(mn_cuda_context *context, mn_cu_stream stream, mossnet_error *error) {
    query q = {context->api, stream, MN_CU_OK};
    if (mn_wait(is_done, &q, context->timeout_ms))
        return mn_cuda_check(context, q.result, "the device failed and is lost", error);
    context->hung = context->lost = true;
    return mn_fail(error, MOSSNET_DEVICE, "the device did not finish within %u ms and is lost", context->timeout_ms);
}

mossnet_status mn_cuda_alloc(mn_cuda_context *context, uint64_t bytes, mn_cu_pointer *out, mossnet_error *error) {
    size_t available = 0, total = 0;
    mn_cu_result result = context->api->cuMemAlloc_v2(out, bytes ? (size_t)bytes : 1); /* 0 would be an error */
    if (result != MN_CU_OUT_OF_MEMORY) return mn_cuda_check(context, result, "allocating memory of the device", error);
    (void)context->api->cuMemGetInfo_v2(&available, &total);
    return mn_fail(error, MOSSNET_MEMORY, "no memory for %llu bytes on the device, %zu of its %zu are free",
                   (unsigned long long)bytes, available, total);
}

static void free_host_parts(mn_cuda_lane *lane) {
    free(lane->graph);
    free(lane->view);
    free(lane);
}

void mn_cuda_lane_free(const mn_cuda_context *context, mn_cuda_lane *lane) {
    for (uint32_t i = 0; lane->graph && i < context->file->n_entries; i++)
        if (lane->graph[i]) (void)context->api->cuGraphExecDestroy(lane->graph[i]);
    for (int region = MN_STATE; region < MN_REGIONS; region++)
        if (lane->region[region]) (void)context->api->cuMemFree_v2(lane->region[region]);
    if (lane->staging) (void)context->api->cuMemFreeHost(lane->staging);
    if (lane->stream) (void)context->api->cuStreamDestroy_v2(lane->stream);
    free_host_parts(lane);
}

/* Whether the device still works on what it was given: then everything that frees would wait for it, perhaps for ever.
 * For one that did not take too long yet it is waited here. */
static bool is_busy(const mn_cuda_context *context) {
    query q = {context->api, context->stream, MN_CU_OK};
    uint32_t timeout_ms = context->hung ? 0 : context->timeout_ms;
    if (q.stream && !mn_wait(is_done, &q, timeout_ms)) return true;
    for (const mn_cuda_lane *lane = context->lanes; lane; lane = lane->next) {
        q.stream = lane->stream;
        if (q.stream && !mn_wait(is_done, &q, timeout_ms)) return true;
    }
    return false;
}

static void free_contents(mn_cuda_context *context) {
    while (context->lanes) {
        mn_cuda_lane *lane = context->lanes;
        context->lanes = lane->next;
        mn_cuda_lane_free(context, lane);
    }
    if (context->stream) (void)context->api->cuStreamDestroy_v2(context->stream);
    if (context->weights) (void)context->api->cuMemFree_v2(context->weights);
    if (context->module) (void)context->api->cuModuleUnload(context->module);
}

/* A context of our own goes with all that is in it; the primary one stays as long as somebody else uses it. */
static void free_handle(mn_cuda_context *context) {
    const mn_cuda_api *api = context->api;
    bool busy = false;
    if (!api->cuCtxPushCurrent_v2(context->handle)) {
        busy = is_busy(context);
        if (!busy) free_contents(context);
        mn_cuda_leave(context);
    }
    if (busy) return;
    if (context->own)
        (void)api->cuCtxDestroy_v2(context->handle);
    else
        (void)api->cuDevicePrimaryCtxRelease_v2(context->device);
}

/* What a hung device holds is left to the system, which takes it back when the process ends. */
void mn_cuda_context_free(mn_cuda_context *context) {
    if (!context) return;
    if (context->handle) free_handle(context);
    while (context->lanes) {
        mn_cuda_lane *lane = context->lanes;
        context->lanes = lane->next;
        free_host_parts(lane);
    }
    free(context->functions);
    free(context->dynamic_bytes);
    free(context);
}

/* A primary context that was lost, by us or by others, stays so until the last of its users is gone; a new one of our
 * own works beside it. */
static mossnet_status make_handle(mn_cuda_context *context, mossnet_error *error) {
    const mn_cuda_api *api = context->api;
    mn_cu_context created;
    mn_cu_result result = context->own ? api->cuCtxCreate_v2(&created, 0, context->device)
                                       : api->cuDevicePrimaryCtxRetain(&created, context->device);
    if (result) return mn_cuda_check(context, result, "opening the device", error);
    context->handle = created;
    if (context->own) mn_cuda_leave(context); /* the new context is current, other than a retained one */
    return MOSSNET_OK;
}

/* Whether another image may do. */
static bool is_image_error(mn_cu_result result) {
    switch ((int)result) {
    case MN_CU_INVALID_IMAGE:
    case MN_CU_NO_BINARY_FOR_GPU:
    case MN_CU_INVALID_PTX:
    case MN_CU_JIT_COMPILER_NOT_FOUND:
    case MN_CU_UNSUPPORTED_PTX_VERSION:
    case MN_CU_JIT_COMPILATION_DISABLED:
    case MN_CU_INVALID_SOURCE: return true;
    default: return false;
    }
}

static mn_cu_result load_image(mn_cuda_context *context, const mn_cuda_image *image, const unsigned char *code,
                               char *log, size_t log_bytes) {
    mn_cu_jit_option options[] = {MN_CU_JIT_ERROR_LOG_BUFFER, MN_CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void *values[] = {log, (void *)(uintptr_t)log_bytes};
    char *text = NULL;
    const void *data = code + image->code.offset;
    log[0] = log[log_bytes - 1] = 0;
    if (image->kind == MN_CUDA_PTX) { /* the library wants a NUL behind it */
        if (!(text = malloc((size_t)image->code.bytes + 1))) return MN_CU_OUT_OF_MEMORY;
        memcpy(text, data, (size_t)image->code.bytes);
        text[image->code.bytes] = 0;
        data = text;
    }
    mn_cu_result result = context->api->cuModuleLoadDataEx(&context->module, data, 2, options, values);
    if (result) context->module = NULL;
    free(text);
    return result;
}

static mossnet_status load_module(mn_cuda_context *context, const unsigned char *code, const mn_cuda_limits *limits,
                                  mossnet_error *error) {
    mn_cuda_image images[MN_CUDA_MAX_IMAGES];
    uint32_t n, tried = 0;
    char log[1024] = "";
    mn_cu_result result;
    mossnet_status status = mn_cuda_images(code, context->file->code.bytes, limits->architecture, images, &n, error);
    if (status) return status;
    do
        result = load_image(context, &images[tried++], code, log, sizeof log);
    while (is_image_error(result) && tried < n);
    const mn_cuda_image *image = &images[tried - 1];
    if (!result) {
        context->n_built = image->kind == MN_CUDA_PTX ? context->file->n_kernels : 0;
        return MOSSNET_OK;
    }
    if (!is_image_error(result)) return mn_cuda_check(context, result, "loading the code", error);
    mossnet_error reason;
    (void)mn_cuda_fail(context->api, result, image->kind == MN_CUDA_PTX ? "PTX" : "cubin", &reason);
    log[strcspn(log, "\n")] = 0; /* its first line says what is wrong */
    return mn_fail(error, MOSSNET_UNSUPPORTED,
                   "the driver, of CUDA %u.%u, takes none of the model's %u images for sm_%u: %.120s%s%.120s",
                   limits->api_version / 1000, limits->api_version % 1000 / 10, n, limits->architecture, reason.text,
                   *log ? "; " : "", log);
}

/* A kernel's own limit is lower than the device's where it needs many registers; it has its local memory either in
 * itself or has to be given it. */
static mossnet_status find_kernel(mn_cuda_context *context, uint32_t i, mossnet_error *error) {
    const mn_cuda_api *api = context->api;
    const mn_kernel *kernel = &context->file->kernels[i];
    const char *name = context->file->strings + kernel->name;
    uint32_t block = kernel->block[0] * kernel->block[1] * kernel->block[2];
    int threads = 0, fixed_bytes = 0;
    mn_cu_result result = api->cuModuleGetFunction(&context->functions[i], context->module, name);
    if (result == MN_CU_NOT_FOUND)
        return mn_fail(error, MOSSNET_FORMAT, "KERNEL %u: the code has no kernel %.80s", i, name);
    if (!result)
        result = api->cuFuncGetAttribute(&threads, MN_CU_FUNCTION_MAX_THREADS_PER_BLOCK, context->functions[i]);
    if (!result)
        result = api->cuFuncGetAttribute(&fixed_bytes, MN_CU_FUNCTION_SHARED_SIZE_BYTES, context->functions[i]);
    if (result) return mn_cuda_check(context, result, "asking for a kernel", error);
    if (block > (uint32_t)threads)
        return mn_fail(error, MOSSNET_UNSUPPORTED,
                       "kernel %.80s needs groups of %u threads, the device runs it with %d", name, block, threads);
    if (kernel->local_bytes <= (uint32_t)fixed_bytes) return MOSSNET_OK;
    context->dynamic_bytes[i] = kernel->local_bytes - (uint32_t)fixed_bytes;
    result = api->cuFuncSetAttribute(context->functions[i], MN_CU_FUNCTION_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                     (int)context->dynamic_bytes[i]);
    return mn_cuda_check(context, result, "giving a kernel its local memory", error);
}

static mossnet_status load_code(mn_cuda_context *context, const mn_source *source, const mn_cuda_limits *limits,
                                mossnet_error *error) {
    uint32_t n = context->file->n_kernels;
    uint64_t start = mn_clock_ns();
    context->functions = calloc(n + 1, sizeof *context->functions);
    context->dynamic_bytes = calloc(n + 1, sizeof *context->dynamic_bytes);
    if (!context->functions || !context->dynamic_bytes)
        return mn_fail(error, MOSSNET_MEMORY, "no memory for %u kernels", n);
    mossnet_status status = load_module(context, source->data + context->file->code.offset, limits, error);
    for (uint32_t i = 0; !status && i < n; i++)
        status = find_kernel(context, i, error);
    context->build_s = (double)(mn_clock_ns() - start) * 1e-9;
    return status;
}

static mossnet_status copy_weights(mn_cuda_context *context, const unsigned char *data, mossnet_error *error) {
    mossnet_status status = MOSSNET_OK;
    uint64_t n, end = context->file->weights.bytes;
    for (uint64_t at = 0; !status && at < end; at += n) {
        n = end - at < UPLOAD_BYTES ? end - at : UPLOAD_BYTES;
        mn_cu_result result =
            context->api->cuMemcpyHtoDAsync_v2(context->weights + at, data + at, (size_t)n, context->stream);
        status = mn_cuda_check(context, result, "uploading the weights", error);
        if (!status) status = mn_cuda_wait(context, context->stream, error);
        (void)madvise((void *)(uintptr_t)(data + at), (size_t)n, MADV_DONTNEED);
    }
    return status;
}

static mossnet_status upload(mn_cuda_context *context, const mn_source *source, mossnet_error *error) {
    uint64_t start = mn_clock_ns();
    mossnet_status status = mn_cuda_alloc(context, context->file->weights.bytes, &context->weights, error);
    if (!status)
        status = mn_cuda_check(context, context->api->cuStreamCreate(&context->stream, MN_CU_STREAM_NON_BLOCKING),
                               "making a stream", error);
    if (!status) status = copy_weights(context, source->data + context->file->weights.offset, error);
    context->upload_s = (double)(mn_clock_ns() - start) * 1e-9;
    return status;
}

mossnet_status mn_cuda_context_open(const mn_cuda_api *api, const mn_source *source, mn_cu_device device,
                                    const mn_cuda_limits *limits, uint32_t timeout_ms, bool own, mn_cuda_context **out,
                                    mossnet_error *error) {
    *out = NULL;
    mn_cuda_context *context = calloc(1, sizeof *context);
    if (!context) return mn_fail(error, MOSSNET_MEMORY, "no memory for a context");
    context->api = api;
    context->file = source->file;
    context->device = device;
    context->own = own;
    context->timeout_ms = timeout_ms;
    mossnet_status status = make_handle(context, error);
    if (!status && !(status = mn_cuda_enter(context, error))) {
        status = load_code(context, source, limits, error);
        if (!status) status = upload(context, source, error);
        mn_cuda_leave(context);
    }
    if (status) {
        mn_cuda_context_free(context);
        return status;
    }
    *out = context;
    return MOSSNET_OK;
}
