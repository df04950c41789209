/* The opencl driver: CODE is OpenCL C, one source for each kernel. */
#include "clock.h"
#include "consent.h"
#include "opencl_queue.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { DEFAULT_TIMEOUT_MS = 30000 };

/* ---- The device ---- */

static void opencl_close(mn_device *device) {
    if (!device) return;
    if (device->current) mn_cl_shared_leave(device, device->current);
    if (device->mapped && !device->left_busy) munmap(device->mapped, (size_t)device->file->weights.bytes);
    for (int region = 0; region < MN_REGIONS; region++)
        mn_pieces_free(&device->pieces[region]);
    mn_cl_devices_free(&device->devices);
    pthread_mutex_destroy(&device->lock);
    free(device->equal);
    free(device->cache_dir);
    free(device);
}

static mossnet_status opencl_devices(mn_text *out, mossnet_error *error) {
    mn_cl cl;
    mn_cl_devices devices;
    mossnet_status status = mn_cl_load(&cl, error);
    if (!status) status = mn_cl_devices_list(&cl, &devices, error);
    if (status) return status;
    uint32_t any;
    status = mn_cl_devices_choose(&devices, NULL, &any, error);
    for (uint32_t i = 0; !status && i < devices.n; i++)
        if (devices.device[i].usable) mn_cl_device_describe(&devices.device[i], out);
    mn_cl_devices_free(&devices);
    return status ? status : mn_ok(error);
}

static void opencl_describe(const mn_device *device, mn_text *out) {
    pthread_mutex_t *lock = (pthread_mutex_t *)(uintptr_t)&device->lock; /* a session may open the device anew now */
    mn_cl_device_describe(device->info, out);
    pthread_mutex_lock(lock);
    mn_text_add(out, "build_s=%.3f\nn_built=%u\nn_cached=%u\nupload_s=%.3f\n", device->build_s, device->n_built,
                device->n_cached, device->upload_s);
    pthread_mutex_unlock(lock);
}

/* For a processor, drivers make machine code that runs in this process; OpenCL C has pointers to all of its memory. */
static mossnet_status check_consent(const mn_device *device, const mossnet_options *options, mossnet_error *error) {
    if (device->info->type != MN_CL_DEVICE_TYPE_CPU) return MOSSNET_OK;
    return mn_consent(options->flags, device->info->name, error);
}

static mossnet_status choose_device(mn_device *device, const mossnet_options *options, mossnet_error *error) {
    uint32_t chosen = 0;
    mossnet_status status = mn_cl_load(&device->cl, error);
    if (!status) status = mn_cl_devices_list(&device->cl, &device->devices, error);
    if (!status) status = mn_cl_devices_choose(&device->devices, options->device, &chosen, error);
    if (status) return status;
    device->info = &device->devices.device[chosen];
    static const char recordable[] = "cl_qcom_recordable_queues";
    device->records = mn_cl_device_has(device->info, recordable, sizeof recordable - 1) &&
                      mn_cl_load_recording(&device->cl, device->info->platform, &device->recording);
    return status;
}

typedef struct range {
    uint32_t region, buffer;
    uint64_t offset, bytes;
} range;

static int by_range(const void *a, const void *b) {
    const range *x = a, *y = b;
    if (x->region != y->region) return x->region < y->region ? -1 : 1;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;
    return (x->buffer > y->buffer) - (x->buffer < y->buffer);
}

/* Buffers of the same range are one memory object. */
static mossnet_status find_equal(mn_device *device, mossnet_error *error) {
    const mn_file *file = device->file;
    range *ranges = calloc(file->n_buffers + 1, sizeof *ranges);
    device->equal = calloc(file->n_buffers + 1, sizeof *device->equal);
    if (!ranges || !device->equal) {
        free(ranges);
        return mn_fail(error, MOSSNET_MEMORY, "no memory for a table of buffers");
    }
    for (uint32_t i = 0; i < file->n_buffers; i++)
        ranges[i] = (range){file->buffers[i].region, i, file->buffers[i].offset, file->buffers[i].bytes};
    qsort(ranges, file->n_buffers, sizeof *ranges, by_range);
    for (uint32_t i = 0, first = 0; i < file->n_buffers; i++) {
        const range *a = &ranges[first], *b = &ranges[i];
        if (a->region != b->region || a->offset != b->offset || a->bytes != b->bytes) first = i;
        device->equal[b->buffer] = ranges[first].buffer;
    }
    free(ranges);
    return MOSSNET_OK;
}

/* A part of a memory object begins where the device likes it to. */
static mossnet_status check_alignment(const mn_device *device, mossnet_error *error) {
    const mn_file *file = device->file;
    uint32_t align = device->info->align_bytes ? device->info->align_bytes : 1;
    for (uint32_t i = 0; i < file->n_args; i++) {
        const mn_buffer *buffer = &file->buffers[file->args[i]];
        const mn_pieces *pieces = &device->pieces[buffer->region];
        if (!buffer->bytes) continue;
        uint64_t offset = buffer->offset - pieces->piece[pieces->of_buffer[file->args[i]]].offset;
        if (offset % align)
            return mn_fail(error, MOSSNET_UNSUPPORTED, "buffer %.80s lies at %llu, %s needs multiples of %u",
                           file->strings + buffer->name, (unsigned long long)offset, device->info->name, align);
    }
    return MOSSNET_OK;
}

static mossnet_status plan_memory(mn_device *device, mossnet_error *error) {
    uint64_t most = device->info->max_buffer_bytes / 256 * 256;
    mossnet_status status = find_equal(device, error);
    for (uint32_t region = 0; !status && region < MN_REGIONS; region++)
        status = mn_pieces_cut(device->file, region, most, &device->pieces[region], error);
    return status ? status : check_alignment(device, error);
}

/* A mapping of the driver's own: a kernel that hangs reads on when the model's is gone. */
static void map_weights(mn_device *device, const mn_source *source) {
    mn_span span = source->file->weights;
    if (!device->info->in_place || !span.bytes) return;
    void *at = mmap(NULL, (size_t)span.bytes, PROT_READ, MAP_PRIVATE, source->fd, (off_t)span.offset);
    if (at == MAP_FAILED) return;
    device->mapped = at;
    device->in_place = true;
    (void)madvise(at, (size_t)span.bytes, MADV_WILLNEED);
}

static mossnet_status open_device(mn_device *device, const mn_source *source, mossnet_error *error) {
    mn_cl_shared *shared = NULL;
    mossnet_status status = choose_device(device, source->options, error);
    if (!status) status = check_consent(device, source->options, error);
    if (!status) status = mn_cl_device_check(device->info, device->file, error);
    if (!status) status = plan_memory(device, error);
    if (status) return status;
    map_weights(device, source);
    status = mn_cl_shared_take(device, &shared, error);
    if (!status) mn_cl_shared_leave(device, shared);
    return status;
}

static mossnet_status opencl_open(const mn_source *source, mn_device **out, mossnet_error *error) {
    const mossnet_options *options = source->options;
    *out = NULL;
    mn_device *device = calloc(1, sizeof *device);
    if (!device) return mn_fail(error, MOSSNET_MEMORY, "no memory for a device");
    device->file = source->file;
    device->code = source->data + source->file->code.offset;
    device->weights = source->data + source->file->weights.offset;
    device->timeout_ms = options->timeout_ms ? options->timeout_ms : DEFAULT_TIMEOUT_MS;
    pthread_mutex_init(&device->lock, NULL);
    mossnet_status status = MOSSNET_OK;
    if (options->cache_dir && *options->cache_dir && !(device->cache_dir = strdup(options->cache_dir)))
        status = mn_fail(error, MOSSNET_MEMORY, "no memory for a device");
    if (!status) status = open_device(device, source, error);
    if (status) {
        opencl_close(device);
        return status;
    }
    *out = device;
    return mn_ok(error);
}

/* ---- Bandwidth ---- */

static mossnet_status copy_once(const mn_device *device, mn_cl_shared *shared, mn_cl_stream *stream,
                                const mn_cl_mem memory[2], size_t bytes, double *seconds, mossnet_error *error) {
    mn_cl_event event = NULL;
    uint64_t start = mn_clock_ns();
    mn_cl_int code = device->cl.clEnqueueCopyBuffer(stream->queue, memory[0], memory[1], 0, 0, bytes, 0, NULL, &event);
    if (code) return mn_cl_lose(device, shared, "copying memory", code, error);
    mn_cl_stream_follow(device, stream, event);
    mossnet_status status = mn_cl_stream_wait(device, shared, stream, error);
    *seconds = (double)(mn_clock_ns() - start) * 1e-9;
    return status;
}

static mossnet_status measure(mn_device *device, mn_cl_shared *shared, mn_cl_stream *stream, size_t bytes,
                              uint32_t reps, double *bytes_per_s, mossnet_error *error) {
    mn_cl_mem memory[2] = {NULL, NULL};
    mossnet_status status = MOSSNET_OK;
    for (int i = 0; !status && i < 2; i++) {
        mn_cl_int code = 0;
        memory[i] = device->cl.clCreateBuffer(shared->context, MN_CL_MEM_READ_WRITE, bytes, NULL, &code);
        if (!memory[i])
            status = mn_fail(error, MOSSNET_MEMORY, "%s gives no %zu bytes of memory: %s (%d)", device->info->name,
                             bytes, mn_cl_error_name(code), code);
    }
    /* One more than is counted: the first touches the memory for the first time. */
    for (uint32_t rep = 0; !status && rep <= reps; rep++) {
        double seconds = 0;
        status = copy_once(device, shared, stream, memory, bytes, &seconds, error);
        if (!status && rep && 2.0 * (double)bytes > seconds * *bytes_per_s)
            *bytes_per_s = 2.0 * (double)bytes / seconds;
    }
    if (!mn_cl_stream_close(device, shared, stream)) {
        atomic_store(&shared->busy, true);
        return status;
    }
    for (int i = 0; i < 2; i++)
        if (memory[i]) (void)device->cl.clReleaseMemObject(memory[i]);
    return status;
}

static mossnet_status opencl_bandwidth(mn_device *device, uint64_t bytes, uint32_t reps, double *bytes_per_s,
                                       mossnet_error *error) {
    mn_cl_shared *shared = NULL;
    mn_cl_stream stream;
    *bytes_per_s = 0;
    if (bytes > device->info->max_buffer_bytes)
        return mn_fail(error, MOSSNET_ARGUMENT, "a buffer of %llu bytes, %s allows %llu", (unsigned long long)bytes,
                       device->info->name, (unsigned long long)device->info->max_buffer_bytes);
    mossnet_status status = mn_cl_shared_take(device, &shared, error);
    if (status) return status;
    status = mn_cl_stream_open(device, shared, 0, &stream, error);
    if (!status) status = measure(device, shared, &stream, (size_t)bytes, reps, bytes_per_s, error);
    mn_cl_shared_leave(device, shared);
    return status ? status : mn_ok(error);
}

const mn_driver mn_driver_opencl = {
    .name = "opencl",
    .devices = opencl_devices,
    .open = opencl_open,
    .close = opencl_close,
    .describe = opencl_describe,
    .bandwidth = opencl_bandwidth,
    .start = mn_cl_queue_start,
    .stop = mn_cl_queue_stop,
    .threads = mn_cl_queue_threads,
    .run = mn_cl_queue_run,
    .wait = mn_cl_queue_wait,
    .time = mn_cl_queue_time,
    .read = mn_cl_queue_read,
    .write = mn_cl_queue_write,
    .clear = mn_cl_queue_clear,
    .view = mn_cl_queue_view,
};
