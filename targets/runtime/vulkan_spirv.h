/* What a kernel's SPIR-V says of itself, held against the plan: drivers trust both. */
#ifndef MN_VULKAN_SPIRV_H
#define MN_VULKAN_SPIRV_H

#include "file.h"
#include "vulkan_device.h"

/* Refuses (FORMAT) what is no SPIR-V of a version up to 1.3, is cut short, or has another entry point, size of groups
 * or bindings than the plan says; and (UNSUPPORTED) capabilities without their feature in META. Instructions inside
 * functions are not checked: that is the work of whoever made the file. */
mossnet_status mn_vk_check_spirv(const mn_vk *vk, const mn_file *file, const mn_kernel *kernel, const void *code,
                                 mossnet_error *error);

#endif
