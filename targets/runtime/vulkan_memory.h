/* A Vulkan device's memory: buffers, and regions that consist of them. */
#ifndef MN_VULKAN_MEMORY_H
#define MN_VULKAN_MEMORY_H

#include "pieces.h"
#include "vulkan_device.h"

/* A buffer with memory of its own. */
typedef struct mn_vk_buffer {
    VkBuffer buffer;
    VkDeviceMemory memory;
    uint64_t bytes, memory_bytes;
    unsigned char *mapped; /* where the host sees it; NULL: only copies reach it */
    bool coherent;         /* mapped, and nothing has to be flushed */
} mn_vk_buffer;

/* The device's own memory; mapped where the host reads that at full speed. */
mossnet_status mn_vk_buffer_own(const mn_vk *vk, uint64_t bytes, mn_vk_buffer *out, mossnet_error *error);
/* Memory that the host reads and writes, for copies from and to the device's own. */
mossnet_status mn_vk_buffer_staging(const mn_vk *vk, uint64_t bytes, mn_vk_buffer *out, mossnet_error *error);
/* Memory of the host, `begin` to `end` (page bounds), that becomes the device's as it stands; the buffer lies at `at`
 * in it. False where the device does not take it, or not as its own. */
bool mn_vk_buffer_import(const mn_vk *vk, const unsigned char *begin, const unsigned char *end, const unsigned char *at,
                         uint64_t bytes, mn_vk_buffer *out);
void mn_vk_buffer_free(const mn_vk *vk, mn_vk_buffer *buffer);

/* After the host has written to, and before it reads from, a mapped range. */
mossnet_status mn_vk_flush(const mn_vk *vk, const mn_vk_buffer *buffer, uint64_t offset, uint64_t bytes,
                           mossnet_error *error);
mossnet_status mn_vk_invalidate(const mn_vk *vk, const mn_vk_buffer *buffer, uint64_t offset, uint64_t bytes,
                                mossnet_error *error);

/* One buffer for each piece of a region. */
typedef struct mn_vk_region {
    const mn_pieces *pieces;
    mn_vk_buffer *buffer; /* [pieces->n] */
} mn_vk_region;

/* As mn_vk_buffer_own; what a failure leaves behind is for mn_vk_region_free too. */
mossnet_status mn_vk_region_new(const mn_vk *vk, const mn_pieces *pieces, mn_vk_region *out, mossnet_error *error);
void mn_vk_region_free(const mn_vk *vk, mn_vk_region *region);

#endif
