/* One thread's way to the device: commands that it submits and waits for, and copies between host and regions. */
#ifndef MN_VULKAN_LANE_H
#define MN_VULKAN_LANE_H

#include "vulkan_memory.h"

typedef struct mn_vk_lane {
    mn_vk *vk;
    uint32_t timeout_ms;
    VkCommandPool pool;
    VkFence fence;
    bool running; /* submitted, and not seen to be done */
    uint64_t since_ns;
    VkCommandBuffer copies; /* what comes before the commands that are submitted next */
    bool recording;         /* into `copies` */
    mn_vk_buffer staging;   /* made when a copy first needs it */
    uint64_t staged;        /* bytes of it that are in use */
} mn_vk_lane;

mossnet_status mn_vk_lane_open(mn_vk *vk, uint32_t timeout_ms, mn_vk_lane *out, mossnet_error *error);
/* False when something that was submitted still runs, after `wait_ms` more (on a lost device, or unfinished): then
 * nothing that it uses may be freed, and the lane stays to be closed later. */
bool mn_vk_lane_close(mn_vk_lane *lane, uint32_t wait_ms);

/* A command buffer that goes with the lane. */
mossnet_status mn_vk_lane_commands(mn_vk_lane *lane, VkCommandBuffer *out, mossnet_error *error);
mossnet_status mn_vk_begin(const mn_vk *vk, VkCommandBuffer commands, VkFlags usage, mossnet_error *error);
mossnet_status mn_vk_end(const mn_vk *vk, VkCommandBuffer commands, mossnet_error *error);
/* What the stages `from` wrote is there for the stages `to` of later commands, and what they read may be overwritten:
 * VK_PIPELINE_STAGE_ COMPUTE_SHADER, TRANSFER and (only `to`) HOST bits. */
void mn_vk_barrier(const mn_vk *vk, VkCommandBuffer commands, VkFlags from, VkFlags to);

/* Submits the copies so far and then `commands` (NULL: none). A time-out or a lost device is for good: DEVICE, from
 * here on everywhere on this device. */
mossnet_status mn_vk_lane_submit(mn_vk_lane *lane, VkCommandBuffer commands, mossnet_error *error);
mossnet_status mn_vk_lane_wait(mn_vk_lane *lane, mossnet_error *error);

/* Copies to a region, and zeros: in order, and before anything that is submitted or read later. */
mossnet_status mn_vk_write(mn_vk_lane *lane, const mn_vk_region *region, uint64_t offset, uint64_t bytes,
                           const void *in, mossnet_error *error);
mossnet_status mn_vk_clear(mn_vk_lane *lane, const mn_vk_region *region, mossnet_error *error);
/* What lies between pieces reads as zeros. */
mossnet_status mn_vk_read(mn_vk_lane *lane, const mn_vk_region *region, uint64_t offset, uint64_t bytes, void *out,
                          mossnet_error *error);
/* The range as host memory until the lane's next use; NULL where it is in several pieces or too large. */
mossnet_status mn_vk_view(mn_vk_lane *lane, const mn_vk_region *region, uint64_t offset, uint64_t bytes,
                          const void **out, mossnet_error *error);

#endif
