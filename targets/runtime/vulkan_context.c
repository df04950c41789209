#include "vulkan_context.h"

#include "clock.h"
#include "consent.h"
#include "vulkan_lane.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>

enum { UPLOAD_BYTES = 8 << 20, BUFFER_ALIGN = 256 };

/* ---- What the device has to allow ---- */

static mossnet_status check_kernel(const mn_vk_facts *facts, const mn_file *file, const mn_kernel *kernel,
                                   mossnet_error *error) {
    const VkPhysicalDeviceLimits *limits = &facts->properties.limits;
    const char *name = file->strings + kernel->name, *device = facts->properties.deviceName;
    uint32_t threads = kernel->block[0] * kernel->block[1] * kernel->block[2];
    uint32_t buffers = limits->maxPerStageDescriptorStorageBuffers;
    if (limits->maxDescriptorSetStorageBuffers < buffers) buffers = limits->maxDescriptorSetStorageBuffers;
    if (limits->maxPerStageResources < buffers) buffers = limits->maxPerStageResources;
    if (threads > limits->maxComputeWorkGroupInvocations)
        return mn_fail(error, MOSSNET_UNSUPPORTED, "kernel %.60s has groups of %u threads, %.100s allows at most %u",
                       name, threads, device, limits->maxComputeWorkGroupInvocations);
    for (int d = 0; d < 3; d++)
        if (kernel->block[d] > limits->maxComputeWorkGroupSize[d])
            return mn_fail(error, MOSSNET_UNSUPPORTED,
                           "kernel %.60s has groups of %u threads in dimension %d, %.100s allows at most %u", name,
                           kernel->block[d], d, device, limits->maxComputeWorkGroupSize[d]);
    if (kernel->local_bytes > limits->maxComputeSharedMemorySize)
        return mn_fail(error, MOSSNET_UNSUPPORTED,
                       "kernel %.60s needs %u bytes of local memory, %.100s has %u for a group", name,
                       kernel->local_bytes, device, limits->maxComputeSharedMemorySize);
    if (kernel->n_params > buffers)
        return mn_fail(error, MOSSNET_UNSUPPORTED, "kernel %.60s has %u buffers, %.100s allows at most %u", name,
                       kernel->n_params, device, buffers);
    return MOSSNET_OK;
}

static mossnet_status check_step(const mn_vk_facts *facts, const mn_file *file, const mn_step *step,
                                 mossnet_error *error) {
    const VkPhysicalDeviceLimits *limits = &facts->properties.limits;
    const char *label = file->strings + step->label, *device = facts->properties.deviceName;
    for (int d = 0; d < 3; d++)
        if (step->grid[d] > limits->maxComputeWorkGroupCount[d])
            return mn_fail(error, MOSSNET_UNSUPPORTED,
                           "step %.60s has %u groups in dimension %d, %.100s allows at most %u", label, step->grid[d],
                           d, device, limits->maxComputeWorkGroupCount[d]);
    for (uint32_t a = 0; a < step->n_args; a++) {
        const mn_buffer *buffer = &file->buffers[file->args[step->first_arg + a]];
        if (buffer->bytes > (limits->maxStorageBufferRange & ~3u))
            return mn_fail(error, MOSSNET_UNSUPPORTED,
                           "buffer %.60s has %llu bytes, %.100s lets a kernel see at most %u of one",
                           file->strings + buffer->name, (unsigned long long)buffer->bytes, device,
                           limits->maxStorageBufferRange & ~3u);
        if (!buffer->bytes)
            return mn_fail(error, MOSSNET_UNSUPPORTED, "step %.60s: argument %u has no bytes, which Vulkan cannot bind",
                           label, a);
    }
    return MOSSNET_OK;
}

/* What plays a device makes machine code that runs in this process; a position in a buffer may be any number. */
static mossnet_status check_consent(const mn_vk_facts *facts, uint32_t flags, mossnet_error *error) {
    if (facts->properties.deviceType != VK_PHYSICAL_DEVICE_TYPE_CPU) return MOSSNET_OK;
    return mn_consent(flags, facts->properties.deviceName, error);
}

static mossnet_status check_limits(const mn_vk_facts *facts, const mn_file *file, mossnet_error *error) {
    mossnet_status status = MOSSNET_OK;
    if (facts->properties.limits.minStorageBufferOffsetAlignment > BUFFER_ALIGN)
        return mn_fail(error, MOSSNET_UNSUPPORTED, "%.100s wants buffers aligned to %llu bytes, a model's are to %d",
                       facts->properties.deviceName,
                       (unsigned long long)facts->properties.limits.minStorageBufferOffsetAlignment, BUFFER_ALIGN);
    for (uint32_t i = 0; !status && i < file->n_kernels; i++)
        status = check_kernel(facts, file, &file->kernels[i], error);
    for (uint32_t i = 0; !status && i < file->n_steps; i++)
        status = check_step(facts, file, &file->steps[i], error);
    return status;
}

static uint64_t bytes_of(const mn_pieces *pieces) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < pieces->n; i++)
        bytes += pieces->piece[i].bytes;
    return bytes;
}

/* The weights, unless they stay where they are, and one session. */
static mossnet_status check_memory(const mn_vk_context *c, mossnet_error *error) {
    uint64_t weights = c->imported ? 0 : bytes_of(&c->pieces[MN_WEIGHTS]), session = 0;
    for (int region = MN_STATE; region < MN_REGIONS; region++)
        session += bytes_of(&c->pieces[region]);
    if (weights + session <= c->vk.facts.memory_bytes) return MOSSNET_OK;
    return mn_fail(error, MOSSNET_UNSUPPORTED, "%llu bytes of weights and %llu for a session, %.100s has %llu",
                   (unsigned long long)weights, (unsigned long long)session, c->vk.facts.properties.deviceName,
                   (unsigned long long)c->vk.facts.memory_bytes);
}

/* ---- Weights ---- */

static uint64_t page_bytes(void) {
    /* Not sysconf: each C library numbers its questions anew. */
    return (uint64_t)getauxval(AT_PAGESZ);
}

mn_vk_mapping *mn_vk_map_weights(const mn_source *source) {
    mn_span span = source->file->weights;
    mn_vk_mapping *m = span.bytes ? calloc(1, sizeof *m) : NULL;
    if (!m) return NULL;
    m->n_users = 1;
    m->bytes = (size_t)((span.bytes + page_bytes() - 1) / page_bytes() * page_bytes());
    m->at = mmap(NULL, m->bytes, PROT_READ, MAP_PRIVATE, source->fd, (off_t)span.offset);
    if (m->at != MAP_FAILED) return m;
    free(m);
    return NULL;
}

void mn_vk_unmap_weights(mn_vk_mapping *m) {
    if (!m || atomic_fetch_sub(&m->n_users, 1) != 1) return;
    munmap(m->at, m->bytes);
    free(m);
}

/* All pieces or none: what is copied would have to be read through the mapping too. */
static bool import_weights(mn_vk_context *c, mn_vk_mapping *m) {
    const mn_pieces *pieces = &c->pieces[MN_WEIGHTS];
    c->weights = (mn_vk_region){pieces, calloc(pieces->n + 1, sizeof *c->weights.buffer)};
    bool imported = m && c->weights.buffer;
    for (uint32_t i = 0; imported && i < pieces->n; i++)
        imported = mn_vk_buffer_import(&c->vk, m->at, m->at + m->bytes, m->at + pieces->piece[i].offset,
                                       pieces->piece[i].bytes, &c->weights.buffer[i]);
    if (!imported) {
        mn_vk_region_free(&c->vk, &c->weights);
        return false;
    }
    madvise(m->at, m->bytes, MADV_WILLNEED); /* as on a cpu: read ahead while the caller does other things */
    atomic_fetch_add(&m->n_users, 1);
    c->imported = m;
    return true;
}

/* The file's pages are not needed once they are copied. */
static void forget(const unsigned char *at, uint64_t bytes) {
    uint64_t page = page_bytes();
    uintptr_t begin = ((uintptr_t)at + page - 1) / page * page, end = ((uintptr_t)at + bytes) / page * page;
    if (end > begin) madvise((void *)begin, end - begin, MADV_DONTNEED);
}

static mossnet_status copy_weights(const mn_vk_recipe *recipe, mn_vk_context *c, mossnet_error *error) {
    const unsigned char *from = recipe->data + recipe->file->weights.offset;
    mn_vk_lane lane = {.vk = NULL};
    mossnet_status status = mn_vk_region_new(&c->vk, &c->pieces[MN_WEIGHTS], &c->weights, error);
    if (!status) status = mn_vk_lane_open(&c->vk, recipe->timeout_ms, &lane, error);
    for (uint32_t i = 0; !status && i < c->weights.pieces->n; i++) {
        mn_piece piece = c->weights.pieces->piece[i];
        for (uint64_t at = 0, part; !status && at < piece.bytes; at += part) {
            part = piece.bytes - at < UPLOAD_BYTES ? piece.bytes - at : UPLOAD_BYTES;
            status = mn_vk_write(&lane, &c->weights, piece.offset + at, part, from + piece.offset + at, error);
            forget(from + piece.offset + at, part);
        }
    }
    if (!status) status = mn_vk_lane_submit(&lane, NULL, error);
    if (!status) status = mn_vk_lane_wait(&lane, error);
    c->stuck = !mn_vk_lane_close(&lane, MN_VK_LAST_WAIT_MS);
    return status;
}

static mossnet_status place_weights(const mn_vk_recipe *recipe, mn_vk_context *c, mossnet_error *error) {
    uint64_t start = mn_clock_ns();
    bool imported = import_weights(c, recipe->weights);
    mossnet_status status = check_memory(c, error);
    if (!status && !imported) status = copy_weights(recipe, c, error);
    c->upload_s = (double)(mn_clock_ns() - start) * 1e-9;
    return status;
}

/* ---- All of it ---- */

void mn_vk_context_release(mn_vk_context *c) {
    if (!c || atomic_fetch_sub(&c->n_users, 1) != 1) return;
    /* Vulkan cannot cancel what runs, would wait for it for ever when the device is destroyed, and would crash over
     * what is missing: the memory is lost with the device. */
    if (c->stuck) return;
    mn_vk_program_free(&c->vk, &c->program);
    mn_vk_region_free(&c->vk, &c->weights);
    mn_vk_close(&c->vk);
    mn_vk_unmap_weights(c->imported);
    for (int region = MN_WEIGHTS; region < MN_REGIONS; region++)
        mn_pieces_free(&c->pieces[region]);
    free(c);
}

static mossnet_status fill(const mn_vk_recipe *recipe, mn_vk_context *c, mossnet_error *error) {
    const mn_file *file = recipe->file;
    mossnet_status status = mn_vk_open(&c->vk, recipe->name, recipe->features, error);
    if (!status) status = check_consent(&c->vk.facts, recipe->flags, error);
    if (!status) status = check_limits(&c->vk.facts, file, error);
    for (uint32_t region = MN_WEIGHTS; !status && region < MN_REGIONS; region++)
        status = mn_pieces_cut(file, region, c->vk.facts.max_piece_bytes, &c->pieces[region], error);
    if (!status)
        status =
            mn_vk_program_build(&c->vk, file, recipe->data + file->code.offset, recipe->cache_dir, &c->program, error);
    return status ? status : place_weights(recipe, c, error);
}

mossnet_status mn_vk_context_open(const mn_vk_recipe *recipe, mn_vk_context **out, mossnet_error *error) {
    mn_vk_context *c = calloc(1, sizeof *c);
    if (!c) return mn_fail(error, MOSSNET_MEMORY, "no memory for a device");
    c->n_users = 1;
    mossnet_status status = fill(recipe, c, error);
    if (status)
        mn_vk_context_release(c);
    else
        *out = c;
    return status;
}
