/* Vulkan devices: which there are, what they can do, and the one that is opened. */
#ifndef MN_VULKAN_DEVICE_H
#define MN_VULKAN_DEVICE_H

#include "error.h"
#include "text.h"
#include "vulkan_api.h"

#include <pthread.h>
#include <stdbool.h>

/* What a physical device is and allows. */
typedef struct mn_vk_facts {
    VkPhysicalDevice handle;
    VkPhysicalDeviceProperties properties;
    VkPhysicalDeviceMemoryProperties memory;
    char driver[512];            /* its name and version */
    uint32_t api;                /* the version in use: the device's, or the library's if that is lower */
    uint64_t max_piece_bytes;    /* of one buffer with memory of its own */
    uint64_t memory_bytes;       /* of the largest heap that is the device's own */
    uint64_t import_alignment;   /* of host memory that becomes the device's; 0: there is no such thing */
    uint32_t features;           /* bits, by mn_vk_feature's numbers */
    uint32_t queue_family;       /* ~0: none that computes */
    uint32_t timestamp_bits;     /* that count of a timestamp; 0: it has none */
    bool float16_int8, storage8; /* as extensions, below Vulkan 1.2 */
} mn_vk_facts;

/* An open device, with its functions. Shared by threads, all but what `submitting` guards. */
typedef struct mn_vk {
#define VK_FIELD(name, result, arguments) result(*name) arguments;
    VK_GLOBAL_FUNCTIONS(VK_FIELD)
    VK_INSTANCE_FUNCTIONS(VK_FIELD)
    VK_DEVICE_FUNCTIONS(VK_FIELD)
    VK_OPTIONAL_FUNCTIONS(VK_FIELD)
#undef VK_FIELD
    PFN_vkGetInstanceProcAddr get;
    VkInstance instance;
    mn_vk_facts facts;
    uint32_t features; /* that are switched on */
    VkDevice device;
    VkQueue queue;
    pthread_mutex_t submitting; /* to the queue: one thread at a time */
    _Atomic uint64_t done_ns;   /* when the device last finished something */
    _Atomic bool lost;          /* for good; only to be closed */
} mn_vk;

/* A failed call, as an error: its name and what the result means. */
mossnet_status mn_vk_fail(mossnet_error *error, const char *call, VkResult result);

/* All devices of this machine, as mossnet_devices describes them. */
mossnet_status mn_vk_devices(mn_text *out, mossnet_error *error);
void mn_vk_describe(const mn_vk_facts *facts, mn_text *out);

/* Opens the best device whose name contains `name` (NULL or "": any) with exactly the features `wanted` (comma
 * separated) and one queue. After a failure there is nothing to close. */
mossnet_status mn_vk_open(mn_vk *vk, const char *name, const char *wanted, mossnet_error *error);
void mn_vk_close(mn_vk *vk);

/* The feature that a SPIR-V capability needs, by its number; NULL when the driver can switch none on for it. */
const char *mn_vk_feature(uint32_t capability, uint32_t *number);

#endif
