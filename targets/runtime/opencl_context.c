#include "opencl_context.h"

#include "clock.h"
#include "opencl_program.h"
#include "wait.h"

#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>

enum {
    UPLOAD_BYTES = 8 << 20, /* at a time, so that a large model never stands in memory twice */
    /* Drivers may compile a kernel when it runs for the first time (PoCL: 0.1 to 0.5 s), which is no sign of a hang. */
    FIRST_LAUNCH_MS = 2000
};

mossnet_status mn_cl_lose(const mn_device *device, mn_cl_shared *shared, const char *what, mn_cl_int code,
                          mossnet_error *error) {
    atomic_store(&shared->lost, true);
    return mn_fail(error, MOSSNET_DEVICE,
                   "%s: %s failed with %s (%d); the device counts as lost, a new session opens it anew",
                   device->info->name, what, mn_cl_error_name(code), code);
}

mossnet_status mn_cl_refuse_lost(const mn_device *device, const mn_cl_shared *shared, mossnet_error *error) {
    if (!atomic_load(&shared->lost)) return MOSSNET_OK;
    return mn_fail(error, MOSSNET_DEVICE, "%s was lost in an earlier call; a new session opens it anew",
                   device->info->name);
}

/* ---- Streams ---- */

typedef struct watch {
    const mn_cl *cl;
    mn_cl_event event;
    mn_cl_int status;
} watch;

static bool is_over(void *context) {
    watch *w = context;
    mn_cl_int code =
        w->cl->clGetEventInfo(w->event, MN_CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof w->status, &w->status, NULL);
    if (code) w->status = code;
    return w->status <= 0; /* done, or the error that ended it */
}

mossnet_status mn_cl_stream_open(const mn_device *device, const mn_cl_shared *shared, mn_cl_bits properties,
                                 mn_cl_stream *out, mossnet_error *error) {
    mn_cl_int code = 0;
    *out =
        (mn_cl_stream){.queue = device->cl.clCreateCommandQueue(shared->context, device->info->id, properties, &code)};
    if (out->queue) return MOSSNET_OK;
    return mn_fail(error, MOSSNET_DEVICE, "%s gives no queue: %s (%d)", device->info->name, mn_cl_error_name(code),
                   code);
}

void mn_cl_stream_follow(const mn_device *device, mn_cl_stream *stream, mn_cl_event event) {
    if (stream->last) (void)device->cl.clReleaseEvent(stream->last);
    stream->last = event;
}

bool mn_cl_stream_close(const mn_device *device, const mn_cl_shared *shared, mn_cl_stream *stream) {
    if (!stream->queue) return true;
    if (atomic_load(&shared->lost) && stream->last && !is_over(&(watch){&device->cl, stream->last, 0})) return false;
    mn_cl_stream_follow(device, stream, NULL);
    (void)device->cl.clReleaseCommandQueue(stream->queue);
    stream->queue = NULL;
    return true;
}

mossnet_status mn_cl_stream_wait(const mn_device *device, mn_cl_shared *shared, mn_cl_stream *stream,
                                 mossnet_error *error) {
    if (!stream->last) return mn_ok(error);
    watch w = {&device->cl, stream->last, 0};
    uint64_t limit_ms = device->timeout_ms + (uint64_t)stream->n_first * FIRST_LAUNCH_MS;
    mn_cl_int code = device->cl.clFlush(stream->queue);
    if (code) return mn_cl_lose(device, shared, "starting its commands", code, error);
    if (!mn_wait(is_over, &w, limit_ms < UINT32_MAX ? (uint32_t)limit_ms : UINT32_MAX)) {
        atomic_store(&shared->lost, true);
        return mn_fail(error, MOSSNET_DEVICE,
                       "%s was not done after %llu ms; the device counts as lost, a new session opens it anew",
                       device->info->name, (unsigned long long)limit_ms);
    }
    if (w.status < 0) return mn_cl_lose(device, shared, "a command", w.status, error);
    mn_cl_stream_follow(device, stream, NULL);
    stream->n_first = 0;
    return mn_ok(error);
}

/* ---- Memory ---- */

/* Memory is cleared by whole words. What is padded is no larger than allowed: pieces are cut for a multiple of 256. */
static size_t padded(uint64_t bytes) {
    return (size_t)((bytes + 255) / 256 * 256);
}

static mossnet_status no_memory(const mn_device *device, uint64_t bytes, mn_cl_int code, mossnet_error *error) {
    return mn_fail(error, MOSSNET_MEMORY, "%s gives no %llu bytes of memory: %s (%d)", device->info->name,
                   (unsigned long long)bytes, mn_cl_error_name(code), code);
}

mossnet_status mn_cl_allocate(const mn_device *device, const mn_cl_shared *shared, uint32_t region, mn_cl_mem *memory,
                              mossnet_error *error) {
    const mn_pieces *pieces = &device->pieces[region];
    for (uint32_t i = 0; i < pieces->n; i++) {
        mn_cl_int code = 0;
        uint64_t bytes = pieces->piece[i].bytes;
        if (region == MN_WEIGHTS && device->in_place)
            memory[i] = device->cl.clCreateBuffer(shared->context, MN_CL_MEM_READ_ONLY | MN_CL_MEM_USE_HOST_PTR,
                                                  (size_t)bytes, device->mapped + pieces->piece[i].offset, &code);
        else
            memory[i] = device->cl.clCreateBuffer(shared->context,
                                                  region == MN_WEIGHTS ? MN_CL_MEM_READ_ONLY : MN_CL_MEM_READ_WRITE,
                                                  padded(bytes), NULL, &code);
        if (!memory[i]) return no_memory(device, bytes, code, error);
    }
    return MOSSNET_OK;
}

mossnet_status mn_cl_sub_buffer(const mn_device *device, uint32_t index, const mn_cl_mem *memory, mn_cl_mem *out,
                                mossnet_error *error) {
    const mn_buffer *buffer = &device->file->buffers[index];
    const mn_pieces *pieces = &device->pieces[buffer->region];
    uint32_t piece = pieces->of_buffer[index];
    mn_cl_region region = {(size_t)(buffer->offset - pieces->piece[piece].offset), (size_t)buffer->bytes};
    mn_cl_int code = 0;
    *out = device->cl.clCreateSubBuffer(memory[piece], 0, MN_CL_BUFFER_CREATE_TYPE_REGION, &region, &code);
    return *out ? MOSSNET_OK : no_memory(device, buffer->bytes, code, error);
}

void mn_cl_release_memory(const mn_device *device, mn_cl_mem *memory, uint32_t n) {
    for (uint32_t i = 0; memory && i < n; i++)
        if (memory[i]) (void)device->cl.clReleaseMemObject(memory[i]);
    free(memory);
}

/* ---- The context ---- */

/* Pages that were only read to be copied are the system's again. */
static void forget(const unsigned char *at, size_t bytes) {
    /* Not sysconf: each C library numbers its questions anew. */
    uintptr_t page = (uintptr_t)getauxval(AT_PAGESZ);
    uintptr_t from = ((uintptr_t)at + page - 1) / page * page, to = ((uintptr_t)at + bytes) / page * page;
    if (from < to) (void)madvise((void *)from, to - from, MADV_DONTNEED);
}

static mossnet_status upload(const mn_device *device, mn_cl_shared *shared, mossnet_error *error) {
    mn_cl_stream stream;
    mossnet_status status = mn_cl_stream_open(device, shared, 0, &stream, error);
    const mn_pieces *pieces = &device->pieces[MN_WEIGHTS];
    for (uint32_t i = 0; !status && i < pieces->n; i++)
        for (uint64_t done = 0; !status && done < pieces->piece[i].bytes; done += UPLOAD_BYTES) {
            uint64_t left = pieces->piece[i].bytes - done;
            size_t bytes = (size_t)(left < UPLOAD_BYTES ? left : UPLOAD_BYTES);
            const unsigned char *from = device->weights + pieces->piece[i].offset + done;
            mn_cl_event event = NULL;
            mn_cl_int code = device->cl.clEnqueueWriteBuffer(stream.queue, shared->memory[i], false, (size_t)done,
                                                             bytes, from, 0, NULL, &event);
            if (!code) mn_cl_stream_follow(device, &stream, event);
            status = code ? mn_cl_lose(device, shared, "copying the weights", code, error)
                          : mn_cl_stream_wait(device, shared, &stream, error);
            forget(from, bytes);
        }
    if (!mn_cl_stream_close(device, shared, &stream)) atomic_store(&shared->busy, true);
    return status;
}

/* A driver may refuse memory that is a file's. */
static mossnet_status allocate_weights(mn_device *device, mn_cl_shared *shared, mossnet_error *error) {
    mossnet_status status = mn_cl_allocate(device, shared, MN_WEIGHTS, shared->memory, error);
    if (!status || !device->in_place) return status;
    for (uint32_t i = 0; i < device->pieces[MN_WEIGHTS].n; i++) {
        if (shared->memory[i]) (void)device->cl.clReleaseMemObject(shared->memory[i]);
        shared->memory[i] = NULL;
    }
    device->in_place = false;
    return mn_cl_allocate(device, shared, MN_WEIGHTS, shared->memory, error);
}

static mossnet_status place_weights(mn_device *device, mn_cl_shared *shared, mossnet_error *error) {
    const mn_file *file = device->file;
    uint64_t start = mn_clock_ns();
    mossnet_status status = allocate_weights(device, shared, error);
    if (!status && !device->in_place) status = upload(device, shared, error);
    for (uint32_t i = 0; !status && i < file->n_args; i++) {
        uint32_t buffer = device->equal[file->args[i]];
        if (file->buffers[buffer].region == MN_WEIGHTS && file->buffers[buffer].bytes && !shared->weight[buffer])
            status = mn_cl_sub_buffer(device, buffer, shared->memory, &shared->weight[buffer], error);
    }
    device->upload_s = (double)(mn_clock_ns() - start) * 1e-9;
    return status;
}

static mossnet_status build_programs(mn_device *device, mn_cl_shared *shared, mossnet_error *error) {
    mn_cl_builder builder = {
        .cl = &device->cl,
        .device = device->info,
        .context = shared->context,
        .file = device->file,
        .code = device->code,
        .cache_dir = device->cache_dir,
    };
    uint64_t start = mn_clock_ns();
    mossnet_status status = MOSSNET_OK;
    for (uint32_t i = 0; !status && i < device->file->n_kernels; i++)
        status = mn_cl_build(&builder, i, &shared->program[i], error);
    device->build_s = (double)(mn_clock_ns() - start) * 1e-9;
    device->n_built = builder.n_built;
    device->n_cached = builder.n_cached;
    return status;
}

/* Releasing what a device that hangs still uses may hang too, or pull memory from under it. */
static void close_shared(mn_device *device, mn_cl_shared *shared) {
    const mn_file *file = device->file;
    if (atomic_load(&shared->busy)) {
        device->left_busy = true;
        return;
    }
    mn_cl_release_memory(device, shared->weight, file->n_buffers);
    mn_cl_release_memory(device, shared->memory, device->pieces[MN_WEIGHTS].n);
    for (uint32_t i = 0; shared->program && i < file->n_kernels; i++)
        if (shared->program[i]) (void)device->cl.clReleaseProgram(shared->program[i]);
    if (shared->context) (void)device->cl.clReleaseContext(shared->context);
    free(shared->program);
    free(shared);
}

static mossnet_status open_shared(mn_device *device, mn_cl_shared **out, mossnet_error *error) {
    const mn_file *file = device->file;
    const mn_cl_property properties[] = {MN_CL_CONTEXT_PLATFORM, (mn_cl_property)device->info->platform, 0};
    mn_cl_int code = 0;
    mn_cl_shared *shared = calloc(1, sizeof *shared);
    if (!shared) return mn_fail(error, MOSSNET_MEMORY, "no memory for a context");
    shared->n_users = 1;
    shared->program = calloc(file->n_kernels + 1, sizeof *shared->program);
    shared->memory = calloc(device->pieces[MN_WEIGHTS].n + 1, sizeof *shared->memory);
    shared->weight = calloc(file->n_buffers + 1, sizeof *shared->weight);
    mossnet_status status = MOSSNET_OK;
    if (!shared->program || !shared->memory || !shared->weight)
        status = mn_fail(error, MOSSNET_MEMORY, "no memory for a context");
    if (!status) {
        shared->context = device->cl.clCreateContext(properties, 1, &device->info->id, NULL, NULL, &code);
        if (!shared->context)
            status = mn_fail(error, MOSSNET_DEVICE, "%s gives no context: %s (%d)", device->info->name,
                             mn_cl_error_name(code), code);
    }
    if (!status) status = build_programs(device, shared, error);
    if (!status) status = place_weights(device, shared, error);
    if (status) {
        close_shared(device, shared);
        shared = NULL;
    }
    *out = shared;
    return status;
}

static void leave(mn_device *device, mn_cl_shared *shared) {
    if (--shared->n_users == 0) close_shared(device, shared);
}

mossnet_status mn_cl_shared_take(mn_device *device, mn_cl_shared **out, mossnet_error *error) {
    mossnet_status status = MOSSNET_OK;
    pthread_mutex_lock(&device->lock);
    if (device->current && atomic_load(&device->current->lost)) {
        leave(device, device->current);
        device->current = NULL;
    }
    if (!device->current) status = open_shared(device, &device->current, error);
    *out = device->current;
    if (!status) device->current->n_users++;
    pthread_mutex_unlock(&device->lock);
    return status;
}

void mn_cl_shared_leave(mn_device *device, mn_cl_shared *shared) {
    pthread_mutex_lock(&device->lock);
    leave(device, shared);
    pthread_mutex_unlock(&device->lock);
}
