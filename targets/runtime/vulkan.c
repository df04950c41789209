/* The vulkan driver: CODE is SPIR-V; each entry is recorded once and replayed. Vulkan 1.1, found when it is needed. */
#include "clock.h"
#include "vulkan_context.h"
#include "vulkan_lane.h"
#include "vulkan_steps.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_TIMEOUT_MS = 30000 };

/* What describes a device. */
typedef struct opened {
    mn_vk_facts facts;
    double build_s, upload_s;
    uint32_t n_built, n_cached;
} opened;

struct mn_device {
    mn_vk_recipe recipe; /* with copies of the options */
    pthread_mutex_t lock;
    mn_vk_context *current; /* NULL: it was lost, and could not be opened again */
    opened opened;          /* the last that could be */
    mn_queue *unfinished;   /* sessions that are over, but something still runs that uses what they have */
};

struct mn_queue {
    mn_device *device;
    mn_queue *next; /* unfinished */
    const mn_file *file;
    mn_vk_context *context;
    mn_vk_lane lane;
    mn_vk_region region[MN_REGIONS]; /* WEIGHTS: the context's */
    mn_vk_steps steps;
    VkCommandBuffer entry[MOSSNET_ENTRY_KINDS];
    VkCommandBuffer range; /* any other steps, recorded each time */
    VkQueryPool times;     /* made when steps are first timed */
    uint32_t n_times;
    void *viewed; /* what `view` could not show in place */
};

/* ---- Contexts ---- */

static mossnet_status open_context(mn_device *device, mossnet_error *error) {
    mn_vk_context *c = NULL;
    mossnet_status status = mn_vk_context_open(&device->recipe, &c, error);
    if (status) return status;
    device->current = c;
    device->opened = (opened){c->vk.facts, c->program.build_s, c->upload_s, c->program.n_built, c->program.n_cached};
    return MOSSNET_OK;
}

/* False when something of the session still runs after `wait_ms`: then it stays as it is. */
static bool end_session(mn_queue *queue, uint32_t wait_ms) {
    const mn_vk *vk = &queue->context->vk;
    if (!mn_vk_lane_close(&queue->lane, wait_ms)) return false;
    mn_vk_steps_free(&queue->steps);
    if (queue->times) vk->DestroyQueryPool(vk->device, queue->times, NULL);
    for (int region = MN_STATE; region < MN_REGIONS; region++)
        mn_vk_region_free(vk, &queue->region[region]);
    mn_vk_context_release(queue->context);
    free(queue->viewed);
    free(queue);
    return true;
}

/* Ends those of the unfinished sessions for which nothing runs any more, or not after `wait_ms` altogether. */
static void end_unfinished(mn_device *device, uint32_t wait_ms) {
    uint64_t end = mn_clock_ns() + wait_ms * UINT64_C(1000000);
    for (mn_queue **link = &device->unfinished; *link;) {
        mn_queue *queue = *link, *next = queue->next;
        uint64_t now = mn_clock_ns();
        if (end_session(queue, now < end ? (uint32_t)((end - now) / 1000000) : 0))
            *link = next;
        else
            link = &queue->next;
    }
}

/* The context in use, for one user more. After the device was lost it is a new one; what the lost one had is freed
 * first, as far as no session has it: there may be no room for the weights twice. */
static mossnet_status acquire(mn_device *device, mn_vk_context **out, mossnet_error *error) {
    mossnet_status status = MOSSNET_OK;
    pthread_mutex_lock(&device->lock);
    if (device->current && atomic_load(&device->current->vk.lost)) {
        mn_vk_context_release(device->current);
        device->current = NULL;
    }
    if (!device->current) {
        end_unfinished(device, 0);
        status = open_context(device, error);
    }
    if (!status) {
        atomic_fetch_add(&device->current->n_users, 1);
        *out = device->current;
    }
    pthread_mutex_unlock(&device->lock);
    return status;
}

/* ---- Devices ---- */

static void vulkan_close(mn_device *device) {
    if (!device) return;
    /* What still runs then is never freed, nor what it uses: see mn_vk_context_release. */
    end_unfinished(device, MN_VK_LAST_WAIT_MS);
    mn_vk_context_release(device->current);
    mn_vk_unmap_weights(device->recipe.weights);
    pthread_mutex_destroy(&device->lock);
    free(device->recipe.name);
    free(device->recipe.features);
    free(device->recipe.cache_dir);
    free(device);
}

static mossnet_status vulkan_open(const mn_source *source, mn_device **out, mossnet_error *error) {
    const mossnet_options *options = source->options;
    const char *features = mn_file_meta(source->file, "features");
    *out = NULL;
    if (!features) return mn_fail(error, MOSSNET_FORMAT, "META does not have `features`, which code for Vulkan needs");
    mn_device *device = calloc(1, sizeof *device);
    if (!device) return mn_fail(error, MOSSNET_MEMORY, "no memory for a device");
    pthread_mutex_init(&device->lock, NULL);
    device->recipe.file = source->file;
    device->recipe.data = source->data;
    device->recipe.name = strdup(options->device ? options->device : "");
    device->recipe.features = strdup(features);
    device->recipe.cache_dir = strdup(options->cache_dir ? options->cache_dir : "");
    device->recipe.timeout_ms = options->timeout_ms ? options->timeout_ms : DEFAULT_TIMEOUT_MS;
    device->recipe.flags = options->flags;
    device->recipe.weights = mn_vk_map_weights(source);
    mossnet_status status = device->recipe.name && device->recipe.features && device->recipe.cache_dir
                                ? open_context(device, error)
                                : mn_fail(error, MOSSNET_MEMORY, "no memory for a device");
    if (status) {
        vulkan_close(device);
        return status;
    }
    *out = device;
    return mn_ok(error);
}

static void vulkan_describe(const mn_device *device, mn_text *out) {
    mn_device *d = (mn_device *)(uintptr_t)device; /* the lock changes, what it guards does not */
    pthread_mutex_lock(&d->lock);
    mn_vk_describe(&d->opened.facts, out);
    mn_text_add(out, "build_s=%.6f\nn_built=%u\nn_cached=%u\nupload_s=%.6f\n", d->opened.build_s, d->opened.n_built,
                d->opened.n_cached, d->opened.upload_s);
    pthread_mutex_unlock(&d->lock);
}

/* ---- Bandwidth ---- */

typedef struct copying {
    mn_vk_lane lane;
    mn_vk_buffer from, to;
    VkCommandBuffer commands;
    VkQueryPool times; /* NULL: the device has none */
} copying;

static mossnet_status prepare_copying(copying *c, mn_vk *vk, uint32_t timeout_ms, uint64_t bytes,
                                      mossnet_error *error) {
    VkBufferCopy all = {0, 0, bytes};
    mossnet_status status = mn_vk_lane_open(vk, timeout_ms, &c->lane, error);
    if (!status) status = mn_vk_buffer_own(vk, bytes, &c->from, error);
    if (!status) status = mn_vk_buffer_own(vk, bytes, &c->to, error);
    if (!status && vk->facts.timestamp_bits) status = mn_vk_times_new(vk, 2, &c->times, error);
    if (!status) status = mn_vk_lane_commands(&c->lane, &c->commands, error);
    if (!status) status = mn_vk_begin(vk, c->commands, 0, error);
    if (status) return status;
    /* Some devices copy memory that was never written for nothing. */
    vk->CmdFillBuffer(c->commands, c->from.buffer, 0, (bytes + 3) / 4 * 4, 0x3f9d70a4);
    mn_vk_barrier(vk, c->commands, VK_PIPELINE_STAGE_TRANSFER_BIT, VK_PIPELINE_STAGE_TRANSFER_BIT);
    if (c->times) {
        vk->CmdResetQueryPool(c->commands, c->times, 0, 2);
        vk->CmdWriteTimestamp(c->commands, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, c->times, 0);
    }
    vk->CmdCopyBuffer(c->commands, c->from.buffer, c->to.buffer, 1, &all);
    if (c->times) vk->CmdWriteTimestamp(c->commands, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, c->times, 1);
    return mn_vk_end(vk, c->commands, error);
}

static mossnet_status copy_once(copying *c, double *seconds, mossnet_error *error) {
    uint64_t start = mn_clock_ns();
    mossnet_status status = mn_vk_lane_submit(&c->lane, c->commands, error);
    if (!status) status = mn_vk_lane_wait(&c->lane, error);
    *seconds = (double)(mn_clock_ns() - start) * 1e-9;
    if (!status && c->times) status = mn_vk_times_read(c->lane.vk, c->times, 2, seconds, error);
    return status;
}

static mossnet_status vulkan_bandwidth(mn_device *device, uint64_t bytes, uint32_t reps, double *bytes_per_s,
                                       mossnet_error *error) {
    mn_vk_context *c = NULL;
    copying copies = {.times = NULL};
    *bytes_per_s = 0;
    mossnet_status status = acquire(device, &c, error);
    if (status) return status;
    mn_vk *vk = &c->vk;
    if (bytes > vk->facts.max_piece_bytes)
        status = mn_fail(error, MOSSNET_ARGUMENT, "a buffer of %llu bytes, %.100s allows at most %llu",
                         (unsigned long long)bytes, vk->facts.properties.deviceName,
                         (unsigned long long)vk->facts.max_piece_bytes);
    if (!status) status = prepare_copying(&copies, vk, device->recipe.timeout_ms, bytes, error);
    for (uint32_t rep = 0; !status && rep <= reps; rep++) { /* one more: the first touches the memory */
        double seconds = 0;
        status = copy_once(&copies, &seconds, error);
        double speed = seconds > 0 ? 2 * (double)bytes / seconds : 0;
        if (rep && speed > *bytes_per_s) *bytes_per_s = speed;
    }
    if (mn_vk_lane_close(&copies.lane, MN_VK_LAST_WAIT_MS)) {
        if (copies.times) vk->DestroyQueryPool(vk->device, copies.times, NULL);
        mn_vk_buffer_free(vk, &copies.from);
        mn_vk_buffer_free(vk, &copies.to);
        mn_vk_context_release(c);
    }
    return status ? status : mn_ok(error);
}

/* ---- Sessions ---- */

static void vulkan_stop(mn_queue *queue) {
    if (!queue || end_session(queue, 0)) return;
    pthread_mutex_lock(&queue->device->lock);
    queue->next = queue->device->unfinished;
    queue->device->unfinished = queue;
    pthread_mutex_unlock(&queue->device->lock);
}

static mossnet_status make_regions(mn_queue *queue, mossnet_error *error) {
    mn_vk_context *c = queue->context;
    mossnet_status status = MOSSNET_OK;
    queue->region[MN_WEIGHTS] = c->weights;
    for (int region = MN_STATE; !status && region < MN_REGIONS; region++) {
        status = mn_vk_region_new(&c->vk, &c->pieces[region], &queue->region[region], error);
        if (!status) status = mn_vk_clear(&queue->lane, &queue->region[region], error);
    }
    if (!status) status = mn_vk_lane_submit(&queue->lane, NULL, error);
    return status ? status : mn_vk_lane_wait(&queue->lane, error);
}

static mossnet_status record_entries(mn_queue *queue, mossnet_error *error) {
    mossnet_status status = mn_vk_lane_commands(&queue->lane, &queue->range, error);
    for (int kind = 0; !status && kind < MOSSNET_ENTRY_KINDS; kind++) {
        const mn_entry *entry = queue->file->entry[kind];
        if (!entry || !entry->n_steps) continue;
        status = mn_vk_lane_commands(&queue->lane, &queue->entry[kind], error);
        if (!status)
            status =
                mn_vk_steps_record(&queue->steps, queue->entry[kind], entry->first_step, entry->n_steps, NULL, error);
    }
    return status;
}

static mossnet_status vulkan_start(mn_device *device, uint32_t n_threads, mn_queue **out, mossnet_error *error) {
    (void)n_threads;
    *out = NULL;
    mn_queue *queue = calloc(1, sizeof *queue);
    if (!queue) return mn_fail(error, MOSSNET_MEMORY, "no memory for a session");
    queue->device = device;
    queue->file = device->recipe.file;
    mossnet_status status = acquire(device, &queue->context, error);
    if (status) {
        free(queue);
        return status;
    }
    mn_vk_context *c = queue->context;
    status = mn_vk_lane_open(&c->vk, device->recipe.timeout_ms, &queue->lane, error);
    if (!status) status = make_regions(queue, error);
    if (!status) status = mn_vk_steps_new(&c->vk, queue->file, &c->program, queue->region, &queue->steps, error);
    if (!status) status = record_entries(queue, error);
    if (status) {
        vulkan_stop(queue);
        return status;
    }
    *out = queue;
    return mn_ok(error);
}

/* The device runs the steps; the caller's thread only submits them. */
static uint32_t vulkan_threads(const mn_queue *queue) {
    (void)queue;
    return 1;
}

static VkCommandBuffer recorded(const mn_queue *queue, uint32_t first_step, uint32_t n_steps) {
    for (int kind = 0; kind < MOSSNET_ENTRY_KINDS; kind++) {
        const mn_entry *entry = queue->file->entry[kind];
        if (entry && entry->first_step == first_step && entry->n_steps == n_steps) return queue->entry[kind];
    }
    return NULL;
}

static mossnet_status vulkan_run(mn_queue *queue, uint32_t first_step, uint32_t n_steps, mossnet_error *error) {
    VkCommandBuffer commands = recorded(queue, first_step, n_steps);
    mossnet_status status = mn_vk_lane_wait(&queue->lane, error);
    if (!status && !commands && n_steps) {
        commands = queue->range;
        status = mn_vk_steps_record(&queue->steps, commands, first_step, n_steps, NULL, error);
    }
    if (!status) status = mn_vk_lane_submit(&queue->lane, commands, error);
    return status ? status : mn_ok(error);
}

static mossnet_status vulkan_wait(mn_queue *queue, mossnet_error *error) {
    mossnet_status status = mn_vk_lane_wait(&queue->lane, error);
    return status ? status : mn_ok(error);
}

/* For devices without timestamps: the host's clock, around each step. */
static mossnet_status time_by_host(mn_queue *queue, uint32_t first_step, uint32_t n_steps, double *step_s,
                                   mossnet_error *error) {
    mossnet_status status = MOSSNET_OK;
    for (uint32_t i = 0; !status && i < n_steps; i++) {
        uint64_t start = mn_clock_ns();
        status = vulkan_run(queue, first_step + i, 1, error);
        if (!status) status = vulkan_wait(queue, error);
        step_s[i] = (double)(mn_clock_ns() - start) * 1e-9;
    }
    return status;
}

static mossnet_status prepare_times(mn_queue *queue, uint32_t n, mossnet_error *error) {
    const mn_vk *vk = &queue->context->vk;
    if (queue->n_times >= n) return MOSSNET_OK;
    if (queue->times) vk->DestroyQueryPool(vk->device, queue->times, NULL);
    queue->times = NULL;
    queue->n_times = 0;
    mossnet_status status = mn_vk_times_new(vk, n, &queue->times, error);
    if (!status) queue->n_times = n;
    return status;
}

static mossnet_status vulkan_time(mn_queue *queue, uint32_t first_step, uint32_t n_steps, double *step_s,
                                  mossnet_error *error) {
    const mn_vk *vk = &queue->context->vk;
    if (!vk->facts.timestamp_bits) return time_by_host(queue, first_step, n_steps, step_s, error);
    mossnet_status status = mn_vk_lane_wait(&queue->lane, error);
    if (!status) status = prepare_times(queue, n_steps + 1, error);
    if (!status) status = mn_vk_steps_record(&queue->steps, queue->range, first_step, n_steps, queue->times, error);
    if (!status) status = mn_vk_lane_submit(&queue->lane, queue->range, error);
    if (!status) status = mn_vk_lane_wait(&queue->lane, error);
    if (!status) status = mn_vk_times_read(vk, queue->times, n_steps + 1, step_s, error);
    return status ? status : mn_ok(error);
}

/* Reading changes nothing that a caller sees, but it may have to copy, through what belongs to the session. */
static mn_queue *for_copies(const mn_queue *queue) {
    return (mn_queue *)(uintptr_t)queue;
}

static mossnet_status vulkan_read(const mn_queue *queue, uint32_t region, uint64_t offset, uint64_t bytes, void *out,
                                  mossnet_error *error) {
    mossnet_status status = mn_vk_read(&for_copies(queue)->lane, &queue->region[region], offset, bytes, out, error);
    return status ? status : mn_ok(error);
}

static mossnet_status vulkan_write(mn_queue *queue, uint32_t region, uint64_t offset, uint64_t bytes, const void *in,
                                   mossnet_error *error) {
    mossnet_status status = mn_vk_write(&queue->lane, &queue->region[region], offset, bytes, in, error);
    return status ? status : mn_ok(error);
}

static mossnet_status vulkan_clear(mn_queue *queue, uint32_t region, mossnet_error *error) {
    mossnet_status status = mn_vk_clear(&queue->lane, &queue->region[region], error);
    return status ? status : mn_ok(error);
}

static mossnet_status vulkan_view(const mn_queue *queue, uint32_t region, uint64_t offset, uint64_t bytes,
                                  const void **out, mossnet_error *error) {
    mn_queue *q = for_copies(queue);
    mossnet_status status = mn_vk_view(&q->lane, &q->region[region], offset, bytes, out, error);
    if (status || *out) return status ? status : mn_ok(error);
    void *viewed = realloc(q->viewed, bytes ? (size_t)bytes : 1);
    if (!viewed) return mn_fail(error, MOSSNET_MEMORY, "no memory for %llu bytes", (unsigned long long)bytes);
    *out = q->viewed = viewed;
    return vulkan_read(queue, region, offset, bytes, viewed, error);
}

static mossnet_status vulkan_devices(mn_text *out, mossnet_error *error) {
    mossnet_status status = mn_vk_devices(out, error);
    return status ? status : mn_ok(error);
}

const mn_driver mn_driver_vulkan = {
    .name = "vulkan",
    .devices = vulkan_devices,
    .open = vulkan_open,
    .close = vulkan_close,
    .describe = vulkan_describe,
    .bandwidth = vulkan_bandwidth,
    .start = vulkan_start,
    .stop = vulkan_stop,
    .threads = vulkan_threads,
    .run = vulkan_run,
    .wait = vulkan_wait,
    .time = vulkan_time,
    .read = vulkan_read,
    .write = vulkan_write,
    .clear = vulkan_clear,
    .view = vulkan_view,
};
