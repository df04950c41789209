/* A model's kernels as Vulkan pipelines. */
#ifndef MN_VULKAN_PROGRAM_H
#define MN_VULKAN_PROGRAM_H

#include "file.h"
#include "vulkan_device.h"

typedef struct mn_vk_program {
    VkDescriptorSetLayout bindings[MN_MAX_PARAMS + 1]; /* by the number of parameters; NULL: no kernel has so many */
    VkPipelineLayout layout[MN_MAX_PARAMS + 1];
    VkPipeline *pipeline; /* [n_kernels] */
    uint32_t n_kernels, n_built, n_cached;
    double build_s;
} mn_vk_program;

/* `code`: the file's CODE. What a failure leaves behind is for mn_vk_program_free too. Vulkan does not say of a single
 * pipeline whether it came from the cache: all count as cached when there was one for this code and device. */
mossnet_status mn_vk_program_build(const mn_vk *vk, const mn_file *file, const unsigned char *code,
                                   const char *cache_dir, mn_vk_program *out, mossnet_error *error);
void mn_vk_program_free(const mn_vk *vk, mn_vk_program *program);

#endif
