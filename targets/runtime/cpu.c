/* The cpu driver: CODE is native code that is mapped and called, weights are the mapped file. */
#include "consent.h"
#include "cpu_call.h"
#include "cpu_code.h"
#include "cpu_features.h"
#include "driver.h"
#include "pool.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* A step is cut so that the thread that is ahead can take over from one that is not. But each chunk starts its memory
 * streams anew: 256 KiB on two threads took 3.9 us in chunks of 128 KiB, 4.8 in 64, 6.2 in 32 (one thread: 6.2). */
enum { MOST_CHUNKS_PER_THREAD = 4, LEAST_CHUNK_KIB = 128 };

struct mn_device {
    const mn_file *file;
    const unsigned char *weights;
    mn_cpu_code code;
};

struct mn_queue {
    const mn_device *device;
    unsigned char *region[MN_REGIONS]; /* WEIGHTS: the device's */
    void **arguments;                  /* per ARG record */
    uint16_t *n_chunks;                /* per step */
    mn_pool *pool;
    uint32_t n_threads;
    uint32_t first_step; /* of the job that runs */
};

/* mmap of 0 bytes is an error, and an empty region needs an address too. */
static size_t mapped_bytes(uint64_t bytes) {
    return bytes ? (size_t)bytes : 1;
}

static mossnet_status check_machine(const mn_file *file, mossnet_error *error) {
    const char *arch = mn_file_meta(file, "arch"), *features = mn_file_meta(file, "features");
    if (!arch || !features)
        return mn_fail(error, MOSSNET_FORMAT, "META does not have `%s`, which code for a cpu needs",
                       arch ? "features" : "arch");
    if (strcmp(arch, mossnet_cpu_arch()))
        return mn_fail(error, MOSSNET_UNSUPPORTED, "compiled for %.40s, this machine is %s", arch, mossnet_cpu_arch());
    char missing[256];
    if (mn_cpu_missing(features, missing, sizeof missing))
        return mn_fail(error, MOSSNET_UNSUPPORTED, "compiled for CPU features that this machine does not have: %s",
                       missing);
    for (uint32_t i = 0; i < file->n_steps; i++)
        if (file->steps[i].grid[1] != 1 || file->steps[i].grid[2] != 1)
            return mn_fail(error, MOSSNET_FORMAT, "STEP %u: grid[1] and grid[2] are %u and %u, expected 1 on a cpu", i,
                           file->steps[i].grid[1], file->steps[i].grid[2]);
    return MOSSNET_OK;
}

static void cpu_close(mn_device *device) {
    if (!device) return;
    mn_cpu_code_close(&device->code);
    free(device);
}

static void cpu_describe(const mn_device *device, mn_text *out) {
    (void)device;
    mn_text_add(out, "name=%s\n", mossnet_cpu_arch());
}

static mossnet_status cpu_devices(mn_text *out, mossnet_error *error) {
    cpu_describe(NULL, out);
    return mn_ok(error);
}

/* Large pages where the system has them for files; and read ahead while the caller does other things: reading on demand
 * would take the disk's latency page by page. */
static void advise(void *weights, size_t bytes) {
    madvise(weights, bytes, MADV_HUGEPAGE);
    madvise(weights, bytes, MADV_WILLNEED);
}

static mossnet_status cpu_open(const mn_source *source, mn_device **out, mossnet_error *error) {
    const mn_file *file = source->file;
    *out = NULL;
    mossnet_status status = mn_consent(source->options->flags, mossnet_cpu_arch(), error);
    if (!status) status = check_machine(file, error);
    if (status) return status;
    mn_device *device = calloc(1, sizeof *device);
    if (!device) return mn_fail(error, MOSSNET_MEMORY, "no memory for a device");
    device->file = file;
    device->weights = source->data + file->weights.offset;
    if (file->n_kernels && !mn_cpu_code_open(source, &device->code)) {
        status =
            mn_fail(error, MOSSNET_UNSUPPORTED, "the system does not let this process map code: %s", strerror(errno));
        cpu_close(device);
        return status;
    }
    if (file->weights.bytes) advise((void *)(uintptr_t)device->weights, (size_t)file->weights.bytes);
    *out = device;
    return mn_ok(error);
}

static void cpu_stop(mn_queue *queue) {
    if (!queue) return;
    mn_pool_free(queue->pool);
    for (int region = MN_STATE; region < MN_REGIONS; region++)
        if (queue->region[region])
            munmap(queue->region[region], mapped_bytes(queue->device->file->region_bytes[region]));
    free(queue->arguments);
    free(queue->n_chunks);
    free(queue);
}

/* Fresh pages: zero, aligned to far more than 256 bytes, and free of cost until they are touched. */
static mossnet_status map_regions(mn_queue *queue, mossnet_error *error) {
    const mn_device *device = queue->device;
    queue->region[MN_WEIGHTS] = (unsigned char *)(uintptr_t)device->weights;
    for (int region = MN_STATE; region < MN_REGIONS; region++) {
        size_t bytes = mapped_bytes(device->file->region_bytes[region]);
        void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED)
            return mn_fail(error, MOSSNET_MEMORY, "the system gave no %zu bytes for a session: %s", bytes,
                           strerror(errno));
        queue->region[region] = memory;
    }
    return MOSSNET_OK;
}

/* What a step touches for each token stands for how long it takes. */
static uint32_t count_chunks(const mn_queue *queue, const mn_step *step, uint32_t n_tokens) {
    const mn_file *file = queue->device->file;
    const mn_kernel *kernel = &file->kernels[step->kernel];
    uint64_t least = queue->n_threads, most = least * MOST_CHUNKS_PER_THREAD, kib = 0;
    if (least == 1 || step->flags & MN_STEP_SMALL) return 1;
    for (uint32_t i = 0; i < kernel->n_params; i++)
        kib += (file->params[kernel->first_param + i].bytes >> 10) * n_tokens;
    uint64_t chunks = kib / LEAST_CHUNK_KIB;
    chunks = chunks < least ? least : chunks > most ? most : chunks;
    return step->grid[0] < chunks ? step->grid[0] : (uint32_t)chunks;
}

static mossnet_status prepare_steps(mn_queue *queue, mossnet_error *error) {
    const mn_file *file = queue->device->file;
    queue->arguments = malloc((file->n_args + 1) * sizeof *queue->arguments);
    queue->n_chunks = malloc((file->n_steps + 1) * sizeof *queue->n_chunks);
    if (!queue->arguments || !queue->n_chunks) return mn_fail(error, MOSSNET_MEMORY, "no memory for a session's steps");
    for (uint32_t i = 0; i < file->n_args; i++) {
        const mn_buffer *buffer = &file->buffers[file->args[i]];
        queue->arguments[i] = queue->region[buffer->region] + buffer->offset;
    }
    for (uint32_t i = 0; i < file->n_entries; i++) {
        const mn_entry *entry = &file->entries[i];
        for (uint32_t step = entry->first_step; step < entry->first_step + entry->n_steps; step++)
            queue->n_chunks[step] = (uint16_t)count_chunks(queue, &file->steps[step], entry->n_tokens);
    }
    return MOSSNET_OK;
}

static mossnet_status cpu_start(mn_device *device, uint32_t n_threads, mn_queue **out, mossnet_error *error) {
    *out = NULL;
    mn_queue *queue = calloc(1, sizeof *queue);
    if (!queue) return mn_fail(error, MOSSNET_MEMORY, "no memory for a session");
    queue->device = device;
    queue->n_threads = n_threads ? n_threads : mossnet_cpu_count();
    mossnet_status status = map_regions(queue, error);
    if (!status) status = mn_pool_new(queue->n_threads, &queue->pool, error);
    if (!status) status = prepare_steps(queue, error);
    if (status) {
        cpu_stop(queue);
        return status;
    }
    *out = queue;
    return mn_ok(error);
}

static uint32_t cpu_threads(const mn_queue *queue) {
    return queue->n_threads;
}

static void run_chunk(const void *context, uint32_t index, uint32_t chunk, uint32_t n_chunks) {
    const mn_queue *queue = context;
    const mn_file *file = queue->device->file;
    const mn_step *step = &file->steps[queue->first_step + index];
    const mn_kernel *kernel = &file->kernels[step->kernel];
    uint64_t tiles = step->grid[0];
    mn_cpu_call(queue->device->code.at + kernel->code.offset, queue->arguments + step->first_arg, step->n_args,
                (int32_t)(tiles * chunk / n_chunks), (int32_t)(tiles * (chunk + 1) / n_chunks));
}

static mossnet_status cpu_run(mn_queue *queue, uint32_t first_step, uint32_t n_steps, mossnet_error *error) {
    queue->first_step = first_step;
    mn_job job = {run_chunk, queue, queue->n_chunks + first_step, n_steps};
    mn_pool_run(queue->pool, &job);
    return mn_ok(error);
}

/* mn_pool_run returns when the work is done. */
static mossnet_status cpu_wait(mn_queue *queue, mossnet_error *error) {
    (void)queue;
    return mn_ok(error);
}

static mossnet_status cpu_read(const mn_queue *queue, uint32_t region, uint64_t offset, uint64_t bytes, void *out,
                               mossnet_error *error) {
    memcpy(out, queue->region[region] + offset, (size_t)bytes);
    return mn_ok(error);
}

static mossnet_status cpu_write(mn_queue *queue, uint32_t region, uint64_t offset, uint64_t bytes, const void *in,
                                mossnet_error *error) {
    memcpy(queue->region[region] + offset, in, (size_t)bytes);
    return mn_ok(error);
}

static mossnet_status cpu_clear(mn_queue *queue, uint32_t region, mossnet_error *error) {
    memset(queue->region[region], 0, (size_t)queue->device->file->region_bytes[region]);
    return mn_ok(error);
}

static mossnet_status cpu_view(const mn_queue *queue, uint32_t region, uint64_t offset, uint64_t bytes,
                               const void **out, mossnet_error *error) {
    (void)bytes;
    *out = queue->region[region] + offset;
    return mn_ok(error);
}

const mn_driver mn_driver_cpu = {
    .name = "cpu",
    .devices = cpu_devices,
    .open = cpu_open,
    .close = cpu_close,
    .describe = cpu_describe,
    .start = cpu_start,
    .stop = cpu_stop,
    .threads = cpu_threads,
    .run = cpu_run,
    .wait = cpu_wait,
    .read = cpu_read,
    .write = cpu_write,
    .clear = cpu_clear,
    .view = cpu_view,
};
