/* The plan's steps, bound to a session's buffers and recorded. */
#ifndef MN_VULKAN_STEPS_H
#define MN_VULKAN_STEPS_H

#include "hazards.h"
#include "vulkan_memory.h"
#include "vulkan_program.h"

typedef struct mn_vk_steps {
    const mn_vk *vk;
    const mn_file *file;
    const mn_vk_program *program;
    VkDescriptorPool pool;
    VkDescriptorSet *set; /* [n_steps] */
    mn_hazards hazards;
} mn_vk_steps;

/* What a failure leaves behind is for mn_vk_steps_free too. */
mossnet_status mn_vk_steps_new(const mn_vk *vk, const mn_file *file, const mn_vk_program *program,
                               const mn_vk_region regions[MN_REGIONS], mn_vk_steps *out, mossnet_error *error);
void mn_vk_steps_free(mn_vk_steps *steps);

/* Records n steps, between those barriers that they need and those that make a run see what came before and be seen by
 * what comes after. With `times`, one after the other, and n + 1 timestamps around them. */
mossnet_status mn_vk_steps_record(mn_vk_steps *steps, VkCommandBuffer commands, uint32_t first, uint32_t n,
                                  VkQueryPool times, mossnet_error *error);

/* Timestamps, and what lies between each and the next in seconds. */
mossnet_status mn_vk_times_new(const mn_vk *vk, uint32_t n, VkQueryPool *out, mossnet_error *error);
mossnet_status mn_vk_times_read(const mn_vk *vk, VkQueryPool times, uint32_t n, double *seconds, mossnet_error *error);

#endif
