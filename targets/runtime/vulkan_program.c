#include "vulkan_program.h"

#include "clock.h"
#include "program_cache.h"
#include "vulkan_spirv.h"

#include <stdlib.h>
#include <string.h>

/* Buffer i is binding i of set 0. */
static mossnet_status create_layout(const mn_vk *vk, mn_vk_program *program, uint32_t n, mossnet_error *error) {
    VkDescriptorSetLayoutBinding bindings[MN_MAX_PARAMS];
    if (program->layout[n]) return MOSSNET_OK;
    for (uint32_t i = 0; i < n; i++)
        bindings[i] = (VkDescriptorSetLayoutBinding){
            .binding = i,
            .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
            .descriptorCount = 1,
            .stageFlags = VK_SHADER_STAGE_COMPUTE_BIT,
        };
    VkDescriptorSetLayoutCreateInfo set = {
        .sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO,
        .bindingCount = n,
        .pBindings = bindings,
    };
    VkResult result = vk->CreateDescriptorSetLayout(vk->device, &set, NULL, &program->bindings[n]);
    if (result) return mn_vk_fail(error, "CreateDescriptorSetLayout", result);
    VkPipelineLayoutCreateInfo layout = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO,
        .setLayoutCount = 1,
        .pSetLayouts = &program->bindings[n],
    };
    result = vk->CreatePipelineLayout(vk->device, &layout, NULL, &program->layout[n]);
    return result ? mn_vk_fail(error, "CreatePipelineLayout", result) : MOSSNET_OK;
}

static mossnet_status create_pipeline(const mn_vk *vk, mn_vk_program *program, const mn_kernel *kernel,
                                      const void *code, VkPipelineCache cache, VkPipeline *out, mossnet_error *error) {
    VkShaderModuleCreateInfo shader = {
        .sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO,
        .codeSize = (size_t)kernel->code.bytes,
        .pCode = code,
    };
    VkComputePipelineCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
        .stage = {.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
                  .stage = VK_SHADER_STAGE_COMPUTE_BIT,
                  .pName = "main"},
        .layout = program->layout[kernel->n_params],
    };
    VkResult result = vk->CreateShaderModule(vk->device, &shader, NULL, &info.stage.module);
    if (result) return mn_vk_fail(error, "CreateShaderModule", result);
    result = vk->CreateComputePipelines(vk->device, cache, 1, &info, NULL, out);
    vk->DestroyShaderModule(vk->device, info.stage.module, NULL);
    return result ? mn_vk_fail(error, "CreateComputePipelines", result) : MOSSNET_OK;
}

static mossnet_status build(const mn_vk *vk, const mn_file *file, const unsigned char *code, VkPipelineCache cache,
                            mn_vk_program *program, mossnet_error *error) {
    for (uint32_t i = 0; i < file->n_kernels; i++) {
        const mn_kernel *kernel = &file->kernels[i];
        mossnet_error reason;
        mossnet_status status = mn_vk_check_spirv(vk, file, kernel, code + kernel->code.offset, error);
        if (status) return status;
        status = create_layout(vk, program, kernel->n_params, error);
        if (status) return status;
        status =
            create_pipeline(vk, program, kernel, code + kernel->code.offset, cache, &program->pipeline[i], &reason);
        if (status)
            return mn_fail(error, status, "kernel %.60s was not built: %.300s", file->strings + kernel->name,
                           reason.text);
    }
    return MOSSNET_OK;
}

/* ---- The cache ---- */

static mn_cache_key cache_key(const mn_vk *vk, const mn_file *file, const unsigned char *code) {
    const VkPhysicalDeviceProperties *p = &vk->facts.properties;
    mn_cache_key key = {{0, 0}};
    mn_cache_key_add(&key, "vulkan", sizeof "vulkan");
    mn_cache_key_add(&key, p->deviceName, strlen(p->deviceName));
    mn_cache_key_add(&key, vk->facts.driver, strlen(vk->facts.driver));
    mn_cache_key_add(&key, &p->driverVersion, sizeof p->driverVersion);
    mn_cache_key_add(&key, p->pipelineCacheUUID, sizeof p->pipelineCacheUUID);
    mn_cache_key_add(&key, code, (size_t)file->code.bytes);
    return key;
}

/* Drivers are asked to check this themselves, and not all do. */
static bool fits(const mn_vk *vk, const void *data, size_t bytes) {
    const VkPhysicalDeviceProperties *p = &vk->facts.properties;
    VkPipelineCacheHeaderVersionOne header;
    if (!data || bytes < sizeof header) return false;
    memcpy(&header, data, sizeof header);
    return header.headerSize >= sizeof header && header.headerVersion == VK_PIPELINE_CACHE_HEADER_VERSION_ONE &&
           header.vendorID == p->vendorID && header.deviceID == p->deviceID &&
           !memcmp(header.pipelineCacheUUID, p->pipelineCacheUUID, sizeof header.pipelineCacheUUID);
}

static void store(const mn_vk *vk, VkPipelineCache cache, const char *folder, const mn_cache_key *key) {
    size_t bytes = 0;
    if (vk->GetPipelineCacheData(vk->device, cache, &bytes, NULL) || !bytes) return;
    void *data = malloc(bytes);
    if (data && !vk->GetPipelineCacheData(vk->device, cache, &bytes, data)) mn_cache_store(folder, key, data, bytes);
    free(data);
}

mossnet_status mn_vk_program_build(const mn_vk *vk, const mn_file *file, const unsigned char *code,
                                   const char *cache_dir, mn_vk_program *out, mossnet_error *error) {
    uint64_t start = mn_clock_ns();
    size_t bytes = 0;
    VkPipelineCache cache = NULL;
    *out = (mn_vk_program){.n_kernels = file->n_kernels};
    out->pipeline = calloc(file->n_kernels + 1, sizeof *out->pipeline);
    if (!out->pipeline) return mn_fail(error, MOSSNET_MEMORY, "no memory for a list of kernels");
    mn_cache_key key = cache_key(vk, file, code);
    void *data = mn_cache_load(cache_dir, &key, &bytes);
    bool cached = fits(vk, data, bytes);
    VkPipelineCacheCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO,
        .initialDataSize = cached ? bytes : 0,
        .pInitialData = cached ? data : NULL,
    };
    VkResult result = vk->CreatePipelineCache(vk->device, &info, NULL, &cache);
    free(data);
    if (result) return mn_vk_fail(error, "CreatePipelineCache", result);
    mossnet_status status = build(vk, file, code, cache, out, error);
    if (!status && !cached) store(vk, cache, cache_dir, &key);
    vk->DestroyPipelineCache(vk->device, cache, NULL);
    out->n_built = cached ? 0 : file->n_kernels;
    out->n_cached = cached ? file->n_kernels : 0;
    out->build_s = (double)(mn_clock_ns() - start) * 1e-9;
    return status;
}

void mn_vk_program_free(const mn_vk *vk, mn_vk_program *program) {
    for (uint32_t i = 0; program->pipeline && i < program->n_kernels; i++)
        if (program->pipeline[i]) vk->DestroyPipeline(vk->device, program->pipeline[i], NULL);
    for (uint32_t n = 0; n <= MN_MAX_PARAMS; n++) {
        if (program->layout[n]) vk->DestroyPipelineLayout(vk->device, program->layout[n], NULL);
        if (program->bindings[n]) vk->DestroyDescriptorSetLayout(vk->device, program->bindings[n], NULL);
    }
    free(program->pipeline);
    *program = (mn_vk_program){.pipeline = NULL};
}
