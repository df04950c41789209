/* An open Vulkan device with a model's weights and kernels on it. */
#ifndef MN_VULKAN_CONTEXT_H
#define MN_VULKAN_CONTEXT_H

#include "driver.h"
#include "vulkan_memory.h"
#include "vulkan_program.h"

enum { MN_VK_LAST_WAIT_MS = 2000 }; /* for what still runs on a lost device */

/* The weights, mapped a second time: what a lost device still reads from may never be unmapped, and the model unmaps
 * its own. */
typedef struct mn_vk_mapping {
    _Atomic uint32_t n_users;
    unsigned char *at;
    size_t bytes; /* whole pages */
} mn_vk_mapping;

/* NULL where there are none, or where they cannot be mapped again: then they are copied. */
mn_vk_mapping *mn_vk_map_weights(const mn_source *source);
void mn_vk_unmap_weights(mn_vk_mapping *mapping);

/* What a context is made of, the first time and after a device was lost. */
typedef struct mn_vk_recipe {
    const mn_file *file;
    const unsigned char *data;
    char *name, *features, *cache_dir;
    uint32_t timeout_ms, flags; /* of mossnet_options */
    mn_vk_mapping *weights;
} mn_vk_recipe;

/* Sessions keep theirs, also when it is lost and others have a new one. */
typedef struct mn_vk_context {
    _Atomic uint32_t n_users;
    bool stuck; /* something runs on it for ever */
    mn_vk vk;
    mn_pieces pieces[MN_REGIONS];
    mn_vk_mapping *imported; /* NULL: the weights were copied */
    mn_vk_region weights;
    mn_vk_program program;
    double upload_s;
} mn_vk_context;

/* Checks that the device allows what the model needs, builds its kernels and places its weights. */
mossnet_status mn_vk_context_open(const mn_vk_recipe *recipe, mn_vk_context **out, mossnet_error *error);
/* For one user less; the last one closes it. */
void mn_vk_context_release(mn_vk_context *context);

#endif
