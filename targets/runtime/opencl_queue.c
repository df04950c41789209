/* One session on an OpenCL device: each step is a kernel object with its arguments set, a run a row of enqueues. */
#include "opencl_queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* The device begins while the host still enqueues; each flush costs the host a system call. */
enum { FLUSH_EVERY = 32 };

struct mn_queue {
    mn_device *device;
    mn_cl_shared *shared;
    mn_cl_stream *stream;          /* apart from the queue, since reading moves it on too */
    mn_cl_stream timed;            /* with time stamps; opened when it is first needed */
    mn_cl_mem *memory[MN_REGIONS]; /* per piece; not WEIGHTS */
    mn_cl_mem *buffer;             /* [n_buffers]: sub-buffers of those, at the first of equal ones; NULL: not used */
    mn_cl_kernel *kernel;          /* [n_steps] */
    bool *launched;                /* [n_kernels] */
    mn_cl_queue recorder;
    mn_cl_recording *recording;      /* [n_entries]; NULL: the device does not record */
    unsigned char *host[MN_REGIONS]; /* what of a region was read or is to be written, at the same offsets */
};

/* mmap of 0 bytes is an error. */
static size_t mapped_bytes(uint64_t bytes) {
    return bytes ? (size_t)bytes : 1;
}

/* ---- Making ---- */

/* Lost with commands that still run, what these use is left to them. */
static void release_queue(mn_queue *queue) {
    const mn_device *device = queue->device;
    const mn_cl *cl = &device->cl;
    const mn_file *file = device->file;
    for (uint32_t i = 0; queue->recording && i < file->n_entries; i++)
        if (queue->recording[i]) (void)device->recording.clReleaseRecordingQCOM(queue->recording[i]);
    if (queue->recorder) (void)cl->clReleaseCommandQueue(queue->recorder);
    for (uint32_t i = 0; queue->kernel && i < file->n_steps; i++)
        if (queue->kernel[i]) (void)cl->clReleaseKernel(queue->kernel[i]);
    mn_cl_release_memory(device, queue->buffer, file->n_buffers);
    for (int region = MN_STATE; region < MN_REGIONS; region++) {
        mn_cl_release_memory(device, queue->memory[region], device->pieces[region].n);
        if (queue->host[region]) munmap(queue->host[region], mapped_bytes(file->region_bytes[region]));
    }
    free(queue->recording);
    free(queue->kernel);
}

void mn_cl_queue_stop(mn_queue *queue) {
    if (!queue) return;
    mn_device *device = queue->device;
    if (queue->shared) {
        bool over = true;
        /* A write may still read the queue's memory. */
        if (queue->stream && !atomic_load(&queue->shared->lost))
            (void)mn_cl_stream_wait(device, queue->shared, queue->stream, NULL);
        if (queue->stream) over = mn_cl_stream_close(device, queue->shared, queue->stream);
        over = mn_cl_stream_close(device, queue->shared, &queue->timed) && over;
        if (over)
            release_queue(queue);
        else
            atomic_store(&queue->shared->busy, true);
        mn_cl_shared_leave(device, queue->shared);
    }
    free(queue->stream);
    free(queue->launched);
    free(queue);
}

/* Pages that cost nothing until they are touched. */
static mossnet_status map_host(mn_queue *queue, mossnet_error *error) {
    for (int region = MN_STATE; region < MN_REGIONS; region++) {
        size_t bytes = mapped_bytes(queue->device->file->region_bytes[region]);
        void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED)
            return mn_fail(error, MOSSNET_MEMORY, "the system gave no %zu bytes for a session: %s", bytes,
                           strerror(errno));
        queue->host[region] = memory;
    }
    return MOSSNET_OK;
}

mossnet_status mn_cl_queue_clear(mn_queue *queue, uint32_t region, mossnet_error *error) {
    const mn_device *device = queue->device;
    const mn_pieces *pieces = &device->pieces[region];
    static const uint32_t zero;
    mossnet_status status = mn_cl_refuse_lost(device, queue->shared, error);
    for (uint32_t i = 0; !status && i < pieces->n; i++) {
        mn_cl_event event = NULL;
        size_t bytes = (size_t)((pieces->piece[i].bytes + 3) / 4 * 4);
        mn_cl_int code = device->cl.clEnqueueFillBuffer(queue->stream->queue, queue->memory[region][i], &zero,
                                                        sizeof zero, 0, bytes, 0, NULL, &event);
        if (code) return mn_cl_lose(device, queue->shared, "clearing memory", code, error);
        mn_cl_stream_follow(device, queue->stream, event);
    }
    return status ? status : mn_ok(error);
}

static mossnet_status make_regions(mn_queue *queue, mossnet_error *error) {
    mn_device *device = queue->device;
    mossnet_status status = map_host(queue, error);
    for (uint32_t region = MN_STATE; !status && region < MN_REGIONS; region++) {
        queue->memory[region] = calloc(device->pieces[region].n + 1, sizeof *queue->memory[region]);
        if (!queue->memory[region]) return mn_fail(error, MOSSNET_MEMORY, "no memory for a session");
        status = mn_cl_allocate(device, queue->shared, region, queue->memory[region], error);
        if (!status) status = mn_cl_queue_clear(queue, region, error);
    }
    return status;
}

/* The memory object of a buffer: the context's or the queue's. NULL for one of no bytes. */
static mossnet_status find_memory(mn_queue *queue, uint32_t index, mn_cl_mem *out, mossnet_error *error) {
    const mn_device *device = queue->device;
    uint32_t first = device->equal[index], region = device->file->buffers[index].region;
    mn_cl_mem *own = region == MN_WEIGHTS ? &queue->shared->weight[first] : &queue->buffer[first];
    mossnet_status status = MOSSNET_OK;
    if (!*own && device->file->buffers[index].bytes)
        status = mn_cl_sub_buffer(device, first, queue->memory[region], own, error);
    *out = *own;
    return status;
}

static mossnet_status prepare_step(mn_queue *queue, uint32_t index, mossnet_error *error) {
    const mn_device *device = queue->device;
    const mn_file *file = device->file;
    const mn_step *step = &file->steps[index];
    const char *name = file->strings + file->kernels[step->kernel].name;
    mn_cl_int code = 0;
    queue->kernel[index] = device->cl.clCreateKernel(queue->shared->program[step->kernel], name, &code);
    mossnet_status status = MOSSNET_OK;
    for (uint32_t i = 0; queue->kernel[index] && !status && !code && i < step->n_args; i++) {
        mn_cl_mem memory = NULL;
        status = find_memory(queue, file->args[step->first_arg + i], &memory, error);
        if (!status) code = device->cl.clSetKernelArg(queue->kernel[index], i, sizeof memory, &memory);
    }
    if (status || (queue->kernel[index] && !code)) return status;
    return mn_fail(error, MOSSNET_DEVICE, "%s does not take step %u, kernel %.80s: %s (%d)", device->info->name, index,
                   name, mn_cl_error_name(code), code);
}

static mossnet_status prepare_steps(mn_queue *queue, mossnet_error *error) {
    const mn_file *file = queue->device->file;
    queue->buffer = calloc(file->n_buffers + 1, sizeof *queue->buffer);
    queue->kernel = calloc(file->n_steps + 1, sizeof *queue->kernel);
    queue->launched = calloc(file->n_kernels + 1, sizeof *queue->launched);
    if (!queue->buffer || !queue->kernel || !queue->launched)
        return mn_fail(error, MOSSNET_MEMORY, "no memory for a session's steps");
    mossnet_status status = MOSSNET_OK;
    for (uint32_t i = 0; !status && i < file->n_steps; i++)
        status = prepare_step(queue, i, error);
    return status;
}

static mn_cl_int launch(const mn_queue *queue, mn_cl_queue into, uint32_t index, mn_cl_event *event) {
    const mn_file *file = queue->device->file;
    const mn_step *step = &file->steps[index];
    const uint32_t *block = file->kernels[step->kernel].block;
    size_t local[3], global[3];
    for (int axis = 0; axis < 3; axis++) {
        local[axis] = block[axis];
        global[axis] = (size_t)step->grid[axis] * block[axis];
    }
    return queue->device->cl.clEnqueueNDRangeKernel(into, queue->kernel[index], 3, NULL, global, local, 0, NULL, event);
}

static mn_cl_recording record(const mn_queue *queue, const mn_entry *entry) {
    const mn_cl_recording_api *api = &queue->device->recording;
    mn_cl_int code = 0;
    mn_cl_recording recording = api->clNewRecordingQCOM(queue->recorder, &code);
    if (!recording || code) return NULL;
    for (uint32_t i = 0; !code && i < entry->n_steps; i++)
        code = launch(queue, queue->recorder, entry->first_step + i, NULL);
    if (!code) code = api->clEndRecordingQCOM(recording);
    if (!code) return recording;
    (void)api->clReleaseRecordingQCOM(recording);
    return NULL;
}

/* Drivers list the extension and refuse to record: then entries are enqueued step by step as elsewhere. */
static void record_entries(mn_queue *queue) {
    const mn_device *device = queue->device;
    mn_cl_int code = 0;
    if (!device->records) return;
    queue->recorder =
        device->cl.clCreateCommandQueue(queue->shared->context, device->info->id, MN_CL_QUEUE_RECORDABLE, &code);
    if (!queue->recorder) return;
    queue->recording = calloc(device->file->n_entries + 1, sizeof *queue->recording);
    for (uint32_t i = 0; queue->recording && i < device->file->n_entries; i++)
        if (device->file->entries[i].n_steps) queue->recording[i] = record(queue, &device->file->entries[i]);
}

static mossnet_status prepare_queue(mn_queue *queue, mossnet_error *error) {
    mn_device *device = queue->device;
    mossnet_status status = mn_cl_shared_take(device, &queue->shared, error);
    if (status) return status;
    queue->stream = calloc(1, sizeof *queue->stream);
    if (!queue->stream) return mn_fail(error, MOSSNET_MEMORY, "no memory for a session");
    status = mn_cl_stream_open(device, queue->shared, 0, queue->stream, error);
    if (!status) status = make_regions(queue, error);
    if (!status) status = prepare_steps(queue, error);
    if (status) return status;
    record_entries(queue);
    /* Memory that a device gives only when it is touched is missed here, and not in a run. */
    return mn_cl_stream_wait(device, queue->shared, queue->stream, error);
}

mossnet_status mn_cl_queue_start(mn_device *device, uint32_t n_threads, mn_queue **out, mossnet_error *error) {
    (void)n_threads;
    *out = NULL;
    mn_queue *queue = calloc(1, sizeof *queue);
    if (!queue) return mn_fail(error, MOSSNET_MEMORY, "no memory for a session");
    queue->device = device;
    mossnet_status status = prepare_queue(queue, error);
    if (status) {
        mn_cl_queue_stop(queue);
        return status;
    }
    *out = queue;
    return mn_ok(error);
}

/* The one that feeds the device. */
uint32_t mn_cl_queue_threads(const mn_queue *queue) {
    (void)queue;
    return 1;
}

/* ---- Running ---- */

static void count_first(mn_queue *queue, mn_cl_stream *stream, uint32_t step) {
    bool *launched = &queue->launched[queue->device->file->steps[step].kernel];
    stream->n_first += !*launched;
    *launched = true;
}

/* Whether the steps are an entry that was recorded, and in the stream now. */
static bool replay(mn_queue *queue, uint32_t first_step, uint32_t n_steps, mn_cl_event *event) {
    const mn_file *file = queue->device->file;
    const mn_cl_recording_api *api = &queue->device->recording;
    for (uint32_t i = 0; queue->recording && i < file->n_entries; i++) {
        if (file->entries[i].first_step != first_step || file->entries[i].n_steps != n_steps || !queue->recording[i])
            continue;
        if (!api->clEnqueueRecordingQCOM(queue->stream->queue, queue->recording[i], 0, NULL, 0, NULL, 0, NULL, 0, NULL,
                                         0, NULL, event))
            return true;
        (void)api->clReleaseRecordingQCOM(queue->recording[i]);
        queue->recording[i] = NULL;
    }
    return false;
}

static mn_cl_int launch_all(mn_queue *queue, uint32_t first_step, uint32_t n_steps, mn_cl_event *event) {
    mn_cl_int code = 0;
    for (uint32_t i = 0; !code && i < n_steps; i++) {
        code = launch(queue, queue->stream->queue, first_step + i, i == n_steps - 1 ? event : NULL);
        if (!code && (i + 1) % FLUSH_EVERY == 0) code = queue->device->cl.clFlush(queue->stream->queue);
    }
    return code;
}

mossnet_status mn_cl_queue_run(mn_queue *queue, uint32_t first_step, uint32_t n_steps, mossnet_error *error) {
    const mn_device *device = queue->device;
    mossnet_status status = mn_cl_refuse_lost(device, queue->shared, error);
    if (status || !n_steps) return status ? status : mn_ok(error);
    for (uint32_t i = first_step; i < first_step + n_steps; i++)
        count_first(queue, queue->stream, i);
    mn_cl_event event = NULL;
    mn_cl_int code = 0;
    if (!replay(queue, first_step, n_steps, &event)) code = launch_all(queue, first_step, n_steps, &event);
    if (!code) mn_cl_stream_follow(device, queue->stream, event);
    if (!code) code = device->cl.clFlush(queue->stream->queue);
    return code ? mn_cl_lose(device, queue->shared, "starting a run", code, error) : mn_ok(error);
}

mossnet_status mn_cl_queue_wait(mn_queue *queue, mossnet_error *error) {
    mossnet_status status = mn_cl_refuse_lost(queue->device, queue->shared, error);
    return status ? status : mn_cl_stream_wait(queue->device, queue->shared, queue->stream, error);
}

/* When a command was queued, began and ended: by the device's clock. */
typedef struct span {
    uint64_t queued_ns, start_ns, end_ns;
} span;

static mn_cl_int span_of(const mn_cl *cl, mn_cl_event event, span *out) {
    *out = (span){0};
    mn_cl_int code = cl->clGetEventProfilingInfo(event, MN_CL_PROFILING_COMMAND_QUEUED, sizeof out->queued_ns,
                                                 &out->queued_ns, NULL);
    if (!code)
        code = cl->clGetEventProfilingInfo(event, MN_CL_PROFILING_COMMAND_START, sizeof out->start_ns, &out->start_ns,
                                           NULL);
    if (!code)
        code = cl->clGetEventProfilingInfo(event, MN_CL_PROFILING_COMMAND_END, sizeof out->end_ns, &out->end_ns, NULL);
    return code;
}

/* A step's time goes on to the start of the next one: threads that it put to sleep are its matter. Not where the device
 * had nothing to go on with. */
static double seconds_until(const span *step, const span *next) {
    bool waited = next && next->queued_ns <= step->end_ns && next->start_ns > step->end_ns;
    uint64_t end_ns = waited ? next->start_ns : step->end_ns;
    return end_ns > step->start_ns ? (double)(end_ns - step->start_ns) * 1e-9 : 0;
}

/* events: [n_steps], for the caller to release; the last one is the stream's. */
static mossnet_status time_events(mn_queue *queue, uint32_t first_step, uint32_t n_steps, mn_cl_event *events,
                                  double *step_s, mossnet_error *error) {
    const mn_device *device = queue->device;
    mn_cl_int code = 0;
    for (uint32_t i = 0; !code && i < n_steps; i++) {
        count_first(queue, &queue->timed, first_step + i);
        code = launch(queue, queue->timed.queue, first_step + i, &events[i]);
    }
    if (code) return mn_cl_lose(device, queue->shared, "starting a run", code, error);
    mn_cl_event marker = NULL;
    code = device->cl.clEnqueueMarkerWithWaitList(queue->timed.queue, 0, NULL, &marker);
    if (code) return mn_cl_lose(device, queue->shared, "starting a run", code, error);
    mn_cl_stream_follow(device, &queue->timed, marker);
    mossnet_status status = mn_cl_stream_wait(device, queue->shared, &queue->timed, error);
    span spans[2];
    for (uint32_t i = 0; !status && i < n_steps; i++) {
        if ((code = span_of(&device->cl, events[i], &spans[i % 2])))
            status = mn_fail(error, MOSSNET_DEVICE, "%s does not say how long step %u took: %s (%d)",
                             device->info->name, first_step + i, mn_cl_error_name(code), code);
        else if (i)
            step_s[i - 1] = seconds_until(&spans[(i - 1) % 2], &spans[i % 2]);
    }
    if (!status && n_steps) step_s[n_steps - 1] = seconds_until(&spans[(n_steps - 1) % 2], NULL);
    return status;
}

mossnet_status mn_cl_queue_time(mn_queue *queue, uint32_t first_step, uint32_t n_steps, double *step_s,
                                mossnet_error *error) {
    const mn_device *device = queue->device;
    mossnet_status status = mn_cl_queue_wait(queue, error); /* what was written before */
    if (status) return status;
    if (!queue->timed.queue)
        status = mn_cl_stream_open(device, queue->shared, MN_CL_QUEUE_PROFILING_ENABLE, &queue->timed, error);
    mn_cl_event *events = calloc((size_t)n_steps + 1, sizeof *events);
    if (!status && !events) status = mn_fail(error, MOSSNET_MEMORY, "no memory for %u events", n_steps);
    if (!status) status = time_events(queue, first_step, n_steps, events, step_s, error);
    for (uint32_t i = 0; events && i < n_steps; i++)
        if (events[i]) (void)device->cl.clReleaseEvent(events[i]);
    free(events);
    return status;
}

/* ---- Moving ---- */

/* Returns before the device has it: the runs that follow come after it in the stream. A second write may overtake the
 * first in the host's memory, and does no harm: what the first then copies too soon is what the second copies. */
mossnet_status mn_cl_queue_write(mn_queue *queue, uint32_t region, uint64_t offset, uint64_t bytes, const void *in,
                                 mossnet_error *error) {
    const mn_device *device = queue->device;
    const mn_pieces *pieces = &device->pieces[region];
    mossnet_status status = mn_cl_refuse_lost(device, queue->shared, error);
    if (status) return status;
    uint64_t at = offset, begin, part;
    uint32_t piece;
    while (mn_pieces_next(pieces, &at, offset + bytes, &piece, &begin, &part)) {
        unsigned char *from = queue->host[region] + begin;
        mn_cl_event event = NULL;
        memcpy(from, (const unsigned char *)in + (begin - offset), (size_t)part);
        mn_cl_int code = device->cl.clEnqueueWriteBuffer(queue->stream->queue, queue->memory[region][piece], false,
                                                         (size_t)(begin - pieces->piece[piece].offset), (size_t)part,
                                                         from, 0, NULL, &event);
        if (code) return mn_cl_lose(device, queue->shared, "writing memory", code, error);
        mn_cl_stream_follow(device, queue->stream, event);
    }
    return mn_ok(error);
}

mossnet_status mn_cl_queue_view(const mn_queue *queue, uint32_t region, uint64_t offset, uint64_t bytes,
                                const void **out, mossnet_error *error) {
    const mn_device *device = queue->device;
    const mn_pieces *pieces = &device->pieces[region];
    mossnet_status status = mn_cl_refuse_lost(device, queue->shared, error);
    if (status) return status;
    if (region == MN_WEIGHTS) {
        *out = device->weights + offset;
        return mn_ok(error);
    }
    uint64_t at = offset, begin, part;
    uint32_t piece;
    while (mn_pieces_next(pieces, &at, offset + bytes, &piece, &begin, &part)) {
        mn_cl_event event = NULL;
        mn_cl_int code = device->cl.clEnqueueReadBuffer(queue->stream->queue, queue->memory[region][piece], false,
                                                        (size_t)(begin - pieces->piece[piece].offset), (size_t)part,
                                                        queue->host[region] + begin, 0, NULL, &event);
        if (code) return mn_cl_lose(device, queue->shared, "reading memory", code, error);
        mn_cl_stream_follow(device, queue->stream, event);
    }
    *out = queue->host[region] + offset;
    return mn_cl_stream_wait(device, queue->shared, queue->stream, error);
}

/* Through the queue's memory: the caller's may be gone when a device that hung goes on. */
mossnet_status mn_cl_queue_read(const mn_queue *queue, uint32_t region, uint64_t offset, uint64_t bytes, void *out,
                                mossnet_error *error) {
    const void *view = NULL;
    mossnet_status status = mn_cl_queue_view(queue, region, offset, bytes, &view, error);
    if (!status) memcpy(out, view, (size_t)bytes);
    return status;
}
