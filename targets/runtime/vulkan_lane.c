#include "vulkan_lane.h"

#include "clock.h"

#include <stdatomic.h>
#include <string.h>

enum {
    COMPUTE = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT,
    TRANSFER = VK_PIPELINE_STAGE_TRANSFER_BIT,
    HOST = VK_PIPELINE_STAGE_HOST_BIT,
    STAGING_BYTES = 8 << 20,
    STAGING_ALIGN = 256,
};

mossnet_status mn_vk_lane_open(mn_vk *vk, uint32_t timeout_ms, mn_vk_lane *out, mossnet_error *error) {
    *out = (mn_vk_lane){.vk = vk, .timeout_ms = timeout_ms};
    VkCommandPoolCreateInfo pool = {
        .sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
        .flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT,
        .queueFamilyIndex = vk->facts.queue_family,
    };
    VkFenceCreateInfo fence = {.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
    VkResult result = vk->CreateCommandPool(vk->device, &pool, NULL, &out->pool);
    if (result) return mn_vk_fail(error, "CreateCommandPool", result);
    result = vk->CreateFence(vk->device, &fence, NULL, &out->fence);
    if (result) return mn_vk_fail(error, "CreateFence", result);
    return mn_vk_lane_commands(out, &out->copies, error);
}

bool mn_vk_lane_close(mn_vk_lane *lane, uint32_t wait_ms) {
    mn_vk *vk = lane->vk;
    uint64_t wait_ns = wait_ms * UINT64_C(1000000);
    if (!vk) return true;
    /* A device that says that it is lost (not only one that takes too long) has ended what it ran. */
    if (lane->running && vk->WaitForFences(vk->device, 1, &lane->fence, VK_TRUE, wait_ns) == VK_TIMEOUT) return false;
    mn_vk_buffer_free(vk, &lane->staging);
    if (lane->fence) vk->DestroyFence(vk->device, lane->fence, NULL);
    if (lane->pool) vk->DestroyCommandPool(vk->device, lane->pool, NULL);
    *lane = (mn_vk_lane){.vk = NULL};
    return true;
}

/* ---- Commands ---- */

mossnet_status mn_vk_lane_commands(mn_vk_lane *lane, VkCommandBuffer *out, mossnet_error *error) {
    VkCommandBufferAllocateInfo info = {
        .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
        .commandPool = lane->pool,
        .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
        .commandBufferCount = 1,
    };
    VkResult result = lane->vk->AllocateCommandBuffers(lane->vk->device, &info, out);
    return result ? mn_vk_fail(error, "AllocateCommandBuffers", result) : MOSSNET_OK;
}

mossnet_status mn_vk_begin(const mn_vk *vk, VkCommandBuffer commands, VkFlags usage, mossnet_error *error) {
    VkCommandBufferBeginInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO, .flags = usage};
    VkResult result = vk->BeginCommandBuffer(commands, &info);
    return result ? mn_vk_fail(error, "BeginCommandBuffer", result) : MOSSNET_OK;
}

mossnet_status mn_vk_end(const mn_vk *vk, VkCommandBuffer commands, mossnet_error *error) {
    VkResult result = vk->EndCommandBuffer(commands);
    return result ? mn_vk_fail(error, "EndCommandBuffer", result) : MOSSNET_OK;
}

static VkFlags writes(VkFlags stages) {
    return (stages & COMPUTE ? VK_ACCESS_SHADER_WRITE_BIT : 0u) |
           (stages & TRANSFER ? VK_ACCESS_TRANSFER_WRITE_BIT : 0u);
}

static VkFlags reads(VkFlags stages) {
    return (stages & COMPUTE ? VK_ACCESS_SHADER_READ_BIT : 0u) |
           (stages & TRANSFER ? VK_ACCESS_TRANSFER_READ_BIT : 0u) | (stages & HOST ? VK_ACCESS_HOST_READ_BIT : 0u);
}

void mn_vk_barrier(const mn_vk *vk, VkCommandBuffer commands, VkFlags from, VkFlags to) {
    VkMemoryBarrier barrier = {
        .sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
        .srcAccessMask = writes(from),
        .dstAccessMask = reads(to) | writes(to),
    };
    vk->CmdPipelineBarrier(commands, from, to, 0, 1, &barrier, 0, NULL, 0, NULL);
}

/* ---- Submitting and waiting ---- */

static mossnet_status lose(mn_vk_lane *lane, mossnet_error *error, const char *call, VkResult result) {
    atomic_store(&lane->vk->lost, true);
    if (result == VK_TIMEOUT)
        return mn_fail(error, MOSSNET_DEVICE,
                       "%.100s did not finish a run within %u ms and counts as lost: start a new session",
                       lane->vk->facts.properties.deviceName, lane->timeout_ms);
    return mn_fail(error, MOSSNET_DEVICE, "%.100s was lost (vk%s: VkResult %d): start a new session",
                   lane->vk->facts.properties.deviceName, call, (int)result);
}

static mossnet_status check_alive(const mn_vk_lane *lane, mossnet_error *error) {
    if (!atomic_load(&lane->vk->lost)) return MOSSNET_OK;
    return mn_fail(error, MOSSNET_DEVICE, "%.100s was lost in an earlier call: start a new session",
                   lane->vk->facts.properties.deviceName);
}

mossnet_status mn_vk_lane_submit(mn_vk_lane *lane, VkCommandBuffer commands, mossnet_error *error) {
    mn_vk *vk = lane->vk;
    VkCommandBuffer list[2];
    uint32_t n = 0;
    mossnet_status status = mn_vk_lane_wait(lane, error);
    if (status) return status;
    if (lane->recording) {
        lane->recording = false;
        mn_vk_barrier(vk, lane->copies, TRANSFER, COMPUTE | TRANSFER | HOST);
        status = mn_vk_end(vk, lane->copies, error);
        if (status) return status;
        list[n++] = lane->copies;
    }
    if (commands) list[n++] = commands;
    if (!n) return MOSSNET_OK;
    VkSubmitInfo info = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO, .commandBufferCount = n, .pCommandBuffers = list};
    VkResult result = vk->ResetFences(vk->device, 1, &lane->fence);
    if (result) return mn_vk_fail(error, "ResetFences", result);
    pthread_mutex_lock(&vk->submitting);
    result = vk->QueueSubmit(vk->queue, 1, &info, lane->fence);
    pthread_mutex_unlock(&vk->submitting);
    lane->running = !result || result == VK_ERROR_DEVICE_LOST; /* which means that it may have been submitted */
    lane->since_ns = mn_clock_ns();
    if (result == VK_ERROR_DEVICE_LOST) return lose(lane, error, "QueueSubmit", result);
    return result ? mn_vk_fail(error, "QueueSubmit", result) : MOSSNET_OK;
}

/* What is left of the time for a run. It does not count while the device works for others: a run starts at the earliest
 * when the one before it in the queue is done. */
static uint64_t time_left(const mn_vk_lane *lane) {
    uint64_t now = mn_clock_ns(), since = atomic_load(&lane->vk->done_ns);
    if (since < lane->since_ns) since = lane->since_ns;
    uint64_t end = since + lane->timeout_ms * UINT64_C(1000000);
    return end > now ? end - now : 0;
}

mossnet_status mn_vk_lane_wait(mn_vk_lane *lane, mossnet_error *error) {
    mn_vk *vk = lane->vk;
    mossnet_status status = check_alive(lane, error);
    if (status || !lane->running) return status;
    VkResult result = VK_TIMEOUT;
    for (uint64_t left = time_left(lane); result == VK_TIMEOUT; left = time_left(lane)) {
        result = vk->WaitForFences(vk->device, 1, &lane->fence, VK_TRUE, left);
        if (!left) break;
    }
    if (result) return lose(lane, error, "WaitForFences", result);
    atomic_store(&vk->done_ns, mn_clock_ns());
    lane->running = false;
    lane->staged = 0;
    return MOSSNET_OK;
}

static mossnet_status finish(mn_vk_lane *lane, mossnet_error *error) {
    mossnet_status status = mn_vk_lane_submit(lane, NULL, error);
    if (!status) status = mn_vk_lane_wait(lane, error);
    lane->staged = 0;
    return status;
}

/* ---- Copies ---- */

/* One more command for `copies`, after those before it. */
static mossnet_status record(mn_vk_lane *lane, mossnet_error *error) {
    if (!lane->recording) {
        mossnet_status status = mn_vk_begin(lane->vk, lane->copies, VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT, error);
        if (status) return status;
        lane->recording = true;
    }
    mn_vk_barrier(lane->vk, lane->copies, COMPUTE | TRANSFER, TRANSFER);
    return MOSSNET_OK;
}

/* Room in the staging buffer: `*bytes` of it at `*at`, as many as asked for if there are. */
static mossnet_status reserve(mn_vk_lane *lane, uint64_t least, uint64_t *at, uint64_t *bytes, mossnet_error *error) {
    mossnet_status status = mn_vk_lane_wait(lane, error);
    if (!status && !lane->staging.buffer) status = mn_vk_buffer_staging(lane->vk, STAGING_BYTES, &lane->staging, error);
    if (!status && STAGING_BYTES - lane->staged < least) status = finish(lane, error);
    if (status) return status;
    *at = lane->staged;
    if (*bytes > STAGING_BYTES - *at) *bytes = STAGING_BYTES - *at;
    lane->staged += (*bytes + STAGING_ALIGN - 1) / STAGING_ALIGN * STAGING_ALIGN;
    return MOSSNET_OK;
}

static mossnet_status copy(mn_vk_lane *lane, VkBuffer from, uint64_t from_at, VkBuffer to, uint64_t to_at,
                           uint64_t bytes, mossnet_error *error) {
    VkBufferCopy range = {from_at, to_at, bytes};
    mossnet_status status = record(lane, error);
    if (!status) lane->vk->CmdCopyBuffer(lane->copies, from, to, 1, &range);
    return status;
}

static mossnet_status write_mapped(mn_vk_lane *lane, const mn_vk_buffer *buffer, uint64_t offset, uint64_t bytes,
                                   const void *in, mossnet_error *error) {
    memcpy(buffer->mapped + offset, in, (size_t)bytes);
    return mn_vk_flush(lane->vk, buffer, offset, bytes, error);
}

static mossnet_status write_buffer(mn_vk_lane *lane, const mn_vk_buffer *buffer, uint64_t offset, uint64_t bytes,
                                   const unsigned char *in, mossnet_error *error) {
    if (buffer->mapped) return write_mapped(lane, buffer, offset, bytes, in, error);
    mossnet_status status = MOSSNET_OK;
    for (uint64_t part; !status && bytes; offset += part, in += part, bytes -= part) {
        uint64_t at = 0;
        part = bytes;
        status = reserve(lane, bytes < STAGING_ALIGN ? bytes : STAGING_ALIGN, &at, &part, error);
        if (!status) status = write_mapped(lane, &lane->staging, at, part, in, error);
        if (!status) status = copy(lane, lane->staging.buffer, at, buffer->buffer, offset, part, error);
    }
    return status;
}

mossnet_status mn_vk_write(mn_vk_lane *lane, const mn_vk_region *region, uint64_t offset, uint64_t bytes,
                           const void *in, mossnet_error *error) {
    uint64_t at = offset, begin, part;
    uint32_t i;
    mossnet_status status = mn_vk_lane_wait(lane, error);
    while (!status && mn_pieces_next(region->pieces, &at, offset + bytes, &i, &begin, &part))
        status = write_buffer(lane, &region->buffer[i], begin - region->pieces->piece[i].offset, part,
                              (const unsigned char *)in + (begin - offset), error);
    return status;
}

mossnet_status mn_vk_clear(mn_vk_lane *lane, const mn_vk_region *region, mossnet_error *error) {
    mossnet_status status = mn_vk_lane_wait(lane, error);
    for (uint32_t i = 0; !status && i < region->pieces->n; i++) {
        const mn_vk_buffer *buffer = &region->buffer[i];
        if (buffer->mapped) {
            memset(buffer->mapped, 0, (size_t)buffer->bytes);
            status = mn_vk_flush(lane->vk, buffer, 0, buffer->bytes, error);
        } else {
            status = record(lane, error);
            if (!status) lane->vk->CmdFillBuffer(lane->copies, buffer->buffer, 0, (buffer->bytes + 3) / 4 * 4, 0);
        }
    }
    return status;
}

/* `*out`: where the host sees the first `*bytes` of the range, as many as can be seen at once. */
static mossnet_status view_buffer(mn_vk_lane *lane, const mn_vk_buffer *buffer, uint64_t offset, uint64_t *bytes,
                                  const unsigned char **out, mossnet_error *error) {
    if (buffer->mapped) {
        *out = buffer->mapped + offset;
        return mn_vk_invalidate(lane->vk, buffer, offset, *bytes, error);
    }
    uint64_t at = 0, least = *bytes < STAGING_BYTES ? *bytes : STAGING_BYTES;
    mossnet_status status = reserve(lane, least, &at, bytes, error);
    if (!status) status = copy(lane, buffer->buffer, offset, lane->staging.buffer, at, *bytes, error);
    if (!status) status = finish(lane, error);
    if (!status) status = mn_vk_invalidate(lane->vk, &lane->staging, at, *bytes, error);
    *out = lane->staging.mapped + at;
    return status;
}

mossnet_status mn_vk_read(mn_vk_lane *lane, const mn_vk_region *region, uint64_t offset, uint64_t bytes, void *out,
                          mossnet_error *error) {
    uint64_t at = offset, done = 0, begin, part;
    uint32_t i;
    unsigned char *to = out;
    mossnet_status status = mn_vk_lane_wait(lane, error);
    while (!status && mn_pieces_next(region->pieces, &at, offset + bytes, &i, &begin, &part)) {
        const unsigned char *seen = NULL;
        memset(to + done, 0, (size_t)(begin - offset - done));
        status = view_buffer(lane, &region->buffer[i], begin - region->pieces->piece[i].offset, &part, &seen, error);
        if (!status) memcpy(to + (begin - offset), seen, (size_t)part);
        at = begin + part;
        done = at - offset;
    }
    memset(to + done, 0, (size_t)(bytes - done));
    return status;
}

mossnet_status mn_vk_view(mn_vk_lane *lane, const mn_vk_region *region, uint64_t offset, uint64_t bytes,
                          const void **out, mossnet_error *error) {
    uint64_t at = offset, begin = 0, part = 0;
    uint32_t i = 0;
    const unsigned char *seen = NULL;
    *out = NULL;
    mossnet_status status = mn_vk_lane_wait(lane, error);
    if (status || !mn_pieces_next(region->pieces, &at, offset + bytes, &i, &begin, &part) || begin != offset)
        return status;
    status = view_buffer(lane, &region->buffer[i], offset - region->pieces->piece[i].offset, &part, &seen, error);
    if (!status && part == bytes) *out = seen;
    return status;
}
