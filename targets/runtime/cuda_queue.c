#include "cuda_queue.h"

#include <stdlib.h>
#include <string.h>

/* Room for a token's ids, params and logits; but each session locks it into memory. */
static const uint64_t LEAST_STAGING_BYTES = 64 << 10, MOST_STAGING_BYTES = 8 << 20;

struct mn_queue {
    mn_device *device;
    mn_cuda_context *context;
    mn_cuda_lane *lane;
    mn_cu_pointer *arguments; /* per ARG record */
    void **places;            /* where each of them stands, as a launch asks for it */
};

static mossnet_status launch(mn_queue *queue, uint32_t index, mossnet_error *error) {
    const mn_file *file = queue->context->file;
    const mn_step *step = &file->steps[index];
    const mn_kernel *kernel = &file->kernels[step->kernel];
    mn_cu_result result = queue->context->api->cuLaunchKernel(
        queue->context->functions[step->kernel], step->grid[0], step->grid[1], step->grid[2], kernel->block[0],
        kernel->block[1], kernel->block[2], queue->context->dynamic_bytes[step->kernel], queue->lane->stream,
        queue->places + step->first_arg, NULL);
    return mn_cuda_check(queue->context, result, "launching a kernel", error);
}

static mossnet_status launch_steps(mn_queue *queue, uint32_t first_step, uint32_t n_steps, mossnet_error *error) {
    mossnet_status status = MOSSNET_OK;
    for (uint32_t i = 0; !status && i < n_steps; i++)
        status = launch(queue, first_step + i, error);
    return status;
}

/* The arguments are copied into the graph, so that a run is one call. */
static mossnet_status record(mn_queue *queue, const mn_entry *entry, mn_cu_graph_exec *out, mossnet_error *error) {
    const mn_cuda_api *api = queue->context->api;
    mn_cu_graph graph = NULL;
    mn_cu_result result = api->cuStreamBeginCapture_v2(queue->lane->stream, MN_CU_CAPTURE_THREAD_LOCAL);
    if (result) return mn_cuda_check(queue->context, result, "recording an entry", error);
    mossnet_status status = launch_steps(queue, entry->first_step, entry->n_steps, error);
    result = api->cuStreamEndCapture(queue->lane->stream, &graph); /* also of what failed, which it ends */
    if (!status && !result) result = api->cuGraphInstantiateWithFlags(out, graph, 0);
    if (!status) status = mn_cuda_check(queue->context, result, "recording an entry", error);
    if (graph) (void)api->cuGraphDestroy(graph);
    return status;
}

static mossnet_status record_entries(mn_queue *queue, mossnet_error *error) {
    const mn_file *file = queue->context->file;
    mossnet_status status = MOSSNET_OK;
    if (!(queue->lane->graph = calloc(file->n_entries + 1, sizeof *queue->lane->graph)))
        return mn_fail(error, MOSSNET_MEMORY, "no memory for a session's entries");
    if (!queue->context->api->has_graphs) return MOSSNET_OK;
    for (uint32_t i = 0; !status && i < file->n_entries; i++)
        if (file->entries[i].n_steps) status = record(queue, &file->entries[i], &queue->lane->graph[i], error);
    return status;
}

static mossnet_status clear(mn_queue *queue, uint32_t region, mossnet_error *error) {
    uint64_t bytes = queue->context->file->region_bytes[region];
    if (!bytes) return MOSSNET_OK;
    mn_cu_result result =
        queue->context->api->cuMemsetD8Async(queue->lane->region[region], 0, (size_t)bytes, queue->lane->stream);
    return mn_cuda_check(queue->context, result, "clearing memory", error);
}

static mossnet_status make_regions(mn_queue *queue, mossnet_error *error) {
    mossnet_status status = MOSSNET_OK;
    queue->lane->region[MN_WEIGHTS] = queue->context->weights;
    for (uint32_t region = MN_STATE; !status && region < MN_REGIONS; region++) {
        uint64_t bytes = queue->context->file->region_bytes[region];
        status = mn_cuda_alloc(queue->context, bytes, &queue->lane->region[region], error);
        if (!status) status = clear(queue, region, error);
    }
    return status;
}

static mossnet_status make_staging(mn_queue *queue, mossnet_error *error) {
    uint64_t bytes = queue->context->file->region_bytes[MN_IO];
    bytes = bytes < LEAST_STAGING_BYTES ? LEAST_STAGING_BYTES : bytes > MOST_STAGING_BYTES ? MOST_STAGING_BYTES : bytes;
    void *memory = NULL;
    mn_cu_result result = queue->context->api->cuMemHostAlloc(&memory, (size_t)bytes, 0);
    queue->lane->staging = memory;
    queue->lane->staging_bytes = (size_t)bytes;
    return mn_cuda_check(queue->context, result, "allocating memory of the host", error);
}

static mossnet_status bind(mn_queue *queue, mossnet_error *error) {
    const mn_file *file = queue->context->file;
    queue->arguments = calloc(file->n_args + 1, sizeof *queue->arguments);
    queue->places = calloc(file->n_args + 1, sizeof *queue->places);
    if (!queue->arguments || !queue->places) return mn_fail(error, MOSSNET_MEMORY, "no memory for a session's steps");
    for (uint32_t i = 0; i < file->n_args; i++) {
        const mn_buffer *buffer = &file->buffers[file->args[i]];
        queue->arguments[i] = queue->lane->region[buffer->region] + buffer->offset;
        queue->places[i] = &queue->arguments[i];
    }
    return MOSSNET_OK;
}

static mossnet_status prepare(mn_queue *queue, mossnet_error *error) {
    mossnet_status status = mn_cuda_enter(queue->context, error);
    if (status) return status;
    mn_cu_result result = queue->context->api->cuStreamCreate(&queue->lane->stream, MN_CU_STREAM_NON_BLOCKING);
    status = mn_cuda_check(queue->context, result, "making a stream", error);
    if (!status) status = make_regions(queue, error);
    if (!status) status = make_staging(queue, error);
    if (!status) status = bind(queue, error);
    if (!status) status = record_entries(queue, error);
    mn_cuda_leave(queue->context);
    return status;
}

void mn_cuda_stop(mn_queue *queue) {
    if (!queue) return;
    if (queue->context) mn_cuda_release(queue->device, queue->context, queue->lane);
    free(queue->arguments);
    free(queue->places);
    free(queue);
}

mossnet_status mn_cuda_start(mn_device *device, uint32_t n_threads, mn_queue **out, mossnet_error *error) {
    (void)n_threads; /* the host's part is a few calls */
    *out = NULL;
    mn_queue *queue = calloc(1, sizeof *queue);
    if (!queue) return mn_fail(error, MOSSNET_MEMORY, "no memory for a session");
    queue->device = device;
    mossnet_status status = mn_cuda_acquire(device, &queue->context, error);
    if (!status && !(queue->lane = calloc(1, sizeof *queue->lane)))
        status = mn_fail(error, MOSSNET_MEMORY, "no memory for a session");
    if (!status) status = prepare(queue, error);
    if (status) {
        mn_cuda_stop(queue);
        return status;
    }
    *out = queue;
    return mn_ok(error);
}

static mossnet_status run(mn_queue *queue, uint32_t first_step, uint32_t n_steps, mossnet_error *error) {
    const mn_file *file = queue->context->file;
    for (uint32_t i = 0; i < file->n_entries; i++)
        if (queue->lane->graph[i] && file->entries[i].first_step == first_step && file->entries[i].n_steps == n_steps)
            return mn_cuda_check(queue->context,
                                 queue->context->api->cuGraphLaunch(queue->lane->graph[i], queue->lane->stream),
                                 "launching an entry", error);
    return launch_steps(queue, first_step, n_steps, error);
}

mossnet_status mn_cuda_run(mn_queue *queue, uint32_t first_step, uint32_t n_steps, mossnet_error *error) {
    mossnet_status status = mn_cuda_enter(queue->context, error);
    if (status) return status;
    status = run(queue, first_step, n_steps, error);
    mn_cuda_leave(queue->context);
    return status ? status : mn_ok(error);
}

/* What was staged has been read when this returns. */
static mossnet_status wait_inside(mn_queue *queue, mossnet_error *error) {
    mossnet_status status = mn_cuda_wait(queue->context, queue->lane->stream, error);
    if (!status) queue->lane->staged = 0;
    return status;
}

mossnet_status mn_cuda_finish(mn_queue *queue, mossnet_error *error) {
    mossnet_status status = mn_cuda_enter(queue->context, error);
    if (status) return status;
    status = wait_inside(queue, error);
    mn_cuda_leave(queue->context);
    return status ? status : mn_ok(error);
}

/* events: [n_steps + 1], all of them NULL. */
static mossnet_status time_inside(mn_queue *queue, uint32_t first_step, uint32_t n_steps, mn_cu_event *events,
                                  double *step_s, mossnet_error *error) {
    const mn_cuda_api *api = queue->context->api;
    mossnet_status status = MOSSNET_OK;
    for (uint32_t i = 0; !status && i <= n_steps; i++) {
        mn_cu_result result = api->cuEventCreate(&events[i], 0);
        status = mn_cuda_check(queue->context, result, "making an event", error);
    }
    for (uint32_t i = 0; !status && i <= n_steps; i++) {
        if (i) status = launch(queue, first_step + i - 1, error);
        if (status) break;
        mn_cu_result result = api->cuEventRecord(events[i], queue->lane->stream);
        status = mn_cuda_check(queue->context, result, "recording an event", error);
    }
    if (!status) status = wait_inside(queue, error);
    for (uint32_t i = 0; !status && i < n_steps; i++) {
        float ms = 0;
        mn_cu_result result = api->cuEventElapsedTime(&ms, events[i], events[i + 1]);
        status = mn_cuda_check(queue->context, result, "reading a time", error);
        step_s[i] = (double)ms * 1e-3;
    }
    return status;
}

mossnet_status mn_cuda_time(mn_queue *queue, uint32_t first_step, uint32_t n_steps, double *step_s,
                            mossnet_error *error) {
    mossnet_status status = mn_cuda_enter(queue->context, error);
    if (status) return status;
    mn_cu_event *events = calloc((size_t)n_steps + 1, sizeof *events);
    status = events ? time_inside(queue, first_step, n_steps, events, step_s, error)
                    : mn_fail(error, MOSSNET_MEMORY, "no memory for the times of %u steps", n_steps);
    for (uint32_t i = 0; events && i <= n_steps; i++)
        if (events[i]) (void)queue->context->api->cuEventDestroy_v2(events[i]);
    free(events);
    mn_cuda_leave(queue->context);
    return status ? status : mn_ok(error);
}

/* The stream has passed what was staged before when it writes here. */
static mossnet_status fetch(mn_queue *queue, uint32_t region, uint64_t offset, size_t bytes, mossnet_error *error) {
    if (!bytes) return MOSSNET_OK;
    mn_cu_result result = queue->context->api->cuMemcpyDtoHAsync_v2(
        queue->lane->staging, queue->lane->region[region] + offset, bytes, queue->lane->stream);
    mossnet_status status = mn_cuda_check(queue->context, result, "reading memory of the device", error);
    return status ? status : wait_inside(queue, error);
}

static mossnet_status read_inside(mn_queue *queue, uint32_t region, uint64_t offset, uint64_t bytes, void *out,
                                  mossnet_error *error) {
    mossnet_status status = MOSSNET_OK;
    unsigned char *to = out;
    for (size_t n; !status && bytes; to += n, offset += n, bytes -= n) {
        n = bytes < queue->lane->staging_bytes ? (size_t)bytes : queue->lane->staging_bytes;
        status = fetch(queue, region, offset, n, error);
        if (!status) memcpy(to, queue->lane->staging, n);
    }
    return status;
}

mossnet_status mn_cuda_read(const mn_queue *const_queue, uint32_t region, uint64_t offset, uint64_t bytes, void *out,
                            mossnet_error *error) {
    mn_queue *queue = (mn_queue *)(uintptr_t)const_queue; /* its staging memory is no part of the session */
    mossnet_status status = mn_cuda_enter(queue->context, error);
    if (status) return status;
    status = read_inside(queue, region, offset, bytes, out, error);
    mn_cuda_leave(queue->context);
    return status ? status : mn_ok(error);
}

static mossnet_status view_inside(mn_queue *queue, uint32_t region, uint64_t offset, uint64_t bytes, const void **out,
                                  mossnet_error *error) {
    if (bytes <= queue->lane->staging_bytes) {
        *out = queue->lane->staging;
        return fetch(queue, region, offset, (size_t)bytes, error);
    }
    unsigned char *view = realloc(queue->lane->view, (size_t)bytes);
    if (!view) return mn_fail(error, MOSSNET_MEMORY, "no memory for %llu bytes", (unsigned long long)bytes);
    *out = queue->lane->view = view;
    return read_inside(queue, region, offset, bytes, view, error);
}

mossnet_status mn_cuda_view(const mn_queue *const_queue, uint32_t region, uint64_t offset, uint64_t bytes,
                            const void **out, mossnet_error *error) {
    mn_queue *queue = (mn_queue *)(uintptr_t)const_queue;
    mossnet_status status = mn_cuda_enter(queue->context, error);
    if (status) return status;
    status = view_inside(queue, region, offset, bytes, out, error);
    mn_cuda_leave(queue->context);
    return status ? status : mn_ok(error);
}

static mossnet_status write_inside(mn_queue *queue, uint32_t region, uint64_t offset, uint64_t bytes, const void *in,
                                   mossnet_error *error) {
    mn_cuda_lane *lane = queue->lane;
    mossnet_status status = MOSSNET_OK;
    const unsigned char *from = in;
    for (size_t n; !status && bytes; from += n, offset += n, bytes -= n) {
        if (lane->staged == lane->staging_bytes && (status = wait_inside(queue, error))) return status;
        n = lane->staging_bytes - lane->staged;
        n = bytes < n ? (size_t)bytes : n;
        memcpy(lane->staging + lane->staged, from, n);
        mn_cu_result result = queue->context->api->cuMemcpyHtoDAsync_v2(lane->region[region] + offset,
                                                                        lane->staging + lane->staged, n, lane->stream);
        status = mn_cuda_check(queue->context, result, "writing memory of the device", error);
        lane->staged += n;
    }
    return status;
}

mossnet_status mn_cuda_write(mn_queue *queue, uint32_t region, uint64_t offset, uint64_t bytes, const void *in,
                             mossnet_error *error) {
    mossnet_status status = mn_cuda_enter(queue->context, error);
    if (status) return status;
    status = write_inside(queue, region, offset, bytes, in, error);
    mn_cuda_leave(queue->context);
    return status ? status : mn_ok(error);
}

mossnet_status mn_cuda_clear(mn_queue *queue, uint32_t region, mossnet_error *error) {
    mossnet_status status = mn_cuda_enter(queue->context, error);
    if (status) return status;
    status = clear(queue, region, error);
    mn_cuda_leave(queue->context);
    return status ? status : mn_ok(error);
}
