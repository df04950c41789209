/* The driver cuda: CODE is cubins and PTX that libcuda loads, each entry a graph that it replays. */
#include "clock.h"
#include "cuda_queue.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_TIMEOUT_MS = 30000 };

struct mn_device {
    mn_cuda_api api;
    mn_source source; /* without fd and options */
    mn_cu_device device;
    mn_cuda_limits limits;
    uint32_t timeout_ms;
    double build_s, upload_s; /* of the first context */
    uint32_t n_built;
    bool lost_before;
    pthread_mutex_t mutex;    /* what follows, and how many use each context */
    mn_cuda_context *context; /* NULL when the last one was lost and no other could be opened */
};

/* The first whose name holds `wanted`: CUDA itself puts the fastest device first. */
static mossnet_status choose(const mn_cuda_api *api, const char *wanted, mn_cu_device *out, mn_cuda_limits *limits,
                             mossnet_error *error) {
    char found[200] = "";
    int n = 0;
    mn_cu_result result = api->cuDeviceGetCount(&n);
    if (result) return mn_cuda_fail(api, result, "counting the GPUs", error);
    for (int i = 0; i < n; i++) {
        result = api->cuDeviceGet(out, i);
        if (result) return mn_cuda_fail(api, result, "asking for a GPU", error);
        mossnet_status status = mn_cuda_limits_of(api, *out, limits, error);
        if (status || !wanted || strcasestr(limits->name, wanted)) return status;
        size_t used = strlen(found);
        snprintf(found + used, sizeof found - used, "%s%s", used ? ", " : "", limits->name);
    }
    if (!n) return mn_fail(error, MOSSNET_DEVICE, "the CUDA library finds no GPU");
    return mn_fail(error, MOSSNET_DEVICE, "no GPU of CUDA has %.80s in its name, there are: %s", wanted, found);
}

static mossnet_status cuda_devices(mn_text *out, mossnet_error *error) {
    mn_cuda_api api;
    mn_cuda_limits limits;
    mn_cu_device device;
    int n = 0;
    mossnet_status status = mn_cuda_load(&api, error);
    if (status) return status;
    mn_cu_result result = api.cuDeviceGetCount(&n);
    for (int i = 0; !result && !status && i < n; i++) {
        result = api.cuDeviceGet(&device, i);
        if (result) break;
        status = mn_cuda_limits_of(&api, device, &limits, error);
        if (!status) mn_cuda_limits_describe(&limits, out);
    }
    if (result) return mn_cuda_fail(&api, result, "asking for the GPUs", error);
    if (!n) return mn_fail(error, MOSSNET_DEVICE, "the CUDA library finds no GPU");
    return status ? status : mn_ok(error);
}

/* A primary context that others in this process lost is of no use, but one beside it may be. */
static mossnet_status open_context(mn_device *device, mossnet_error *error) {
    mossnet_status status = MOSSNET_DEVICE;
    mossnet_error reason;
    for (int own = device->lost_before; status == MOSSNET_DEVICE && own < 2; own++)
        status = mn_cuda_context_open(&device->api, &device->source, device->device, &device->limits,
                                      device->timeout_ms, own, &device->context, &reason);
    if (status)
        return mn_fail(error, status, "%s%.400s", device->lost_before ? "the lost device does not open again: " : "",
                       reason.text);
    device->context->n_users = 1;
    return MOSSNET_OK;
}

static mossnet_status open_device(mn_device *device, const mossnet_options *options, mossnet_error *error) {
    const char *wanted = options->device && *options->device ? options->device : NULL;
    mossnet_status status = mn_cuda_load(&device->api, error);
    if (!status) status = choose(&device->api, wanted, &device->device, &device->limits, error);
    if (!status) status = mn_cuda_limits_check(&device->limits, device->source.file, error);
    if (!status) status = open_context(device, error);
    if (status) return status;
    device->build_s = device->context->build_s;
    device->upload_s = device->context->upload_s;
    device->n_built = device->context->n_built;
    return MOSSNET_OK;
}

static void unuse(mn_cuda_context *context) {
    if (!--context->n_users) mn_cuda_context_free(context);
}

static void cuda_close(mn_device *device) {
    if (!device) return;
    if (device->context) unuse(device->context);
    pthread_mutex_destroy(&device->mutex);
    free(device);
}

static mossnet_status cuda_open(const mn_source *source, mn_device **out, mossnet_error *error) {
    *out = NULL;
    mn_device *device = calloc(1, sizeof *device);
    if (!device || pthread_mutex_init(&device->mutex, NULL)) {
        free(device);
        return mn_fail(error, MOSSNET_MEMORY, "no memory for a device");
    }
    device->source = (mn_source){source->file, source->data, -1, NULL};
    device->timeout_ms = source->options->timeout_ms ? source->options->timeout_ms : DEFAULT_TIMEOUT_MS;
    mossnet_status status = open_device(device, source->options, error);
    if (status) {
        cuda_close(device);
        return status;
    }
    *out = device;
    return mn_ok(error);
}

static void cuda_describe(const mn_device *device, mn_text *out) {
    mn_cuda_limits_describe(&device->limits, out);
    mn_text_add(out, "build_s=%.3f\nn_built=%u\nn_cached=0\nupload_s=%.3f\n", device->build_s, device->n_built,
                device->upload_s);
}

static mossnet_status acquire(mn_device *device, mn_cuda_context **out, mossnet_error *error) {
    mossnet_status status = MOSSNET_OK;
    if (device->context && device->context->lost) {
        unuse(device->context);
        device->context = NULL;
        device->lost_before = true;
    }
    if (!device->context) status = open_context(device, error);
    if (status) return status;
    device->context->n_users++;
    *out = device->context;
    return MOSSNET_OK;
}

mossnet_status mn_cuda_acquire(mn_device *device, mn_cuda_context **out, mossnet_error *error) {
    pthread_mutex_lock(&device->mutex);
    mossnet_status status = acquire(device, out, error);
    pthread_mutex_unlock(&device->mutex);
    return status;
}

void mn_cuda_release(mn_device *device, mn_cuda_context *context, mn_cuda_lane *lane) {
    if (lane && !mn_cuda_enter(context, NULL)) {
        mn_cuda_lane_free(context, lane);
        mn_cuda_leave(context);
        lane = NULL;
    }
    pthread_mutex_lock(&device->mutex);
    if (lane) {
        lane->next = context->lanes;
        context->lanes = lane;
    }
    unuse(context);
    pthread_mutex_unlock(&device->mutex);
}

static uint32_t cuda_threads(const mn_queue *queue) {
    (void)queue;
    return 1;
}

/* events: two; the first copy warms up and is not counted. */
static mossnet_status copy(mn_cuda_context *context, const mn_cu_pointer memory[2], const mn_cu_event events[2],
                           uint64_t bytes, uint32_t reps, double *bytes_per_s, mossnet_error *error) {
    const mn_cuda_api *api = context->api;
    mossnet_status status = MOSSNET_OK;
    for (uint32_t rep = 0; !status && rep <= reps; rep++) {
        float ms = 0;
        mn_cu_result result = api->cuEventRecord(events[0], context->stream);
        if (!result) result = api->cuMemcpyDtoDAsync_v2(memory[1], memory[0], (size_t)bytes, context->stream);
        if (!result) result = api->cuEventRecord(events[1], context->stream);
        status = mn_cuda_check(context, result, "copying memory of the device", error);
        if (!status) status = mn_cuda_wait(context, context->stream, error);
        if (!status)
            status =
                mn_cuda_check(context, api->cuEventElapsedTime(&ms, events[0], events[1]), "reading a time", error);
        double speed = ms > 0 ? 2.0 * (double)bytes / ((double)ms * 1e-3) : 0;
        if (rep && speed > *bytes_per_s) *bytes_per_s = speed;
    }
    return status;
}

static mossnet_status measure(mn_cuda_context *context, uint64_t bytes, uint32_t reps, double *bytes_per_s,
                              mossnet_error *error) {
    mn_cu_pointer memory[2] = {0, 0};
    mn_cu_event events[2] = {NULL, NULL};
    mossnet_status status = MOSSNET_OK;
    for (int i = 0; !status && i < 2; i++) {
        status = mn_cuda_alloc(context, bytes, &memory[i], error);
        if (!status)
            status = mn_cuda_check(context, context->api->cuEventCreate(&events[i], 0), "making an event", error);
    }
    if (!status) status = copy(context, memory, events, bytes, reps, bytes_per_s, error);
    for (int i = 0; i < 2; i++) {
        if (events[i]) (void)context->api->cuEventDestroy_v2(events[i]);
        if (memory[i] && !context->lost) (void)context->api->cuMemFree_v2(memory[i]); /* it would wait */
    }
    return status;
}

static mossnet_status cuda_bandwidth(mn_device *device, uint64_t bytes, uint32_t reps, double *bytes_per_s,
                                     mossnet_error *error) {
    mn_cuda_context *context = NULL;
    *bytes_per_s = 0;
    mossnet_status status = mn_cuda_acquire(device, &context, error);
    if (status) return status;
    status = mn_cuda_enter(context, error);
    if (!status) {
        status = measure(context, bytes, reps, bytes_per_s, error);
        mn_cuda_leave(context);
    }
    mn_cuda_release(device, context, NULL);
    return status ? status : mn_ok(error);
}

const mn_driver mn_driver_cuda = {
    .name = "cuda",
    .devices = cuda_devices,
    .open = cuda_open,
    .close = cuda_close,
    .describe = cuda_describe,
    .bandwidth = cuda_bandwidth,
    .start = mn_cuda_start,
    .stop = mn_cuda_stop,
    .threads = cuda_threads,
    .run = mn_cuda_run,
    .wait = mn_cuda_finish,
    .time = mn_cuda_time,
    .read = mn_cuda_read,
    .write = mn_cuda_write,
    .clear = mn_cuda_clear,
    .view = mn_cuda_view,
};
