#include "vulkan_steps.h"

#include "vulkan_lane.h"

#include <stdlib.h>

enum {
    COMPUTE = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT,
    TRANSFER = VK_PIPELINE_STAGE_TRANSFER_BIT,
    HOST = VK_PIPELINE_STAGE_HOST_BIT,
    WORD = 4,
};

static mossnet_status create_sets(mn_vk_steps *steps, mossnet_error *error) {
    const mn_vk *vk = steps->vk;
    const mn_file *file = steps->file;
    VkDescriptorPoolSize size = {.type = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER};
    for (uint32_t i = 0; i < file->n_steps; i++)
        size.descriptorCount += file->steps[i].n_args;
    if (!file->n_steps) return MOSSNET_OK; /* a pool of none is not allowed */
    VkDescriptorPoolCreateInfo pool = {
        .sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO,
        .maxSets = file->n_steps,
        .poolSizeCount = 1,
        .pPoolSizes = &size,
    };
    VkResult result = vk->CreateDescriptorPool(vk->device, &pool, NULL, &steps->pool);
    if (result) return mn_vk_fail(error, "CreateDescriptorPool", result);
    for (uint32_t i = 0; i < file->n_steps; i++) {
        VkDescriptorSetAllocateInfo set = {
            .sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO,
            .descriptorPool = steps->pool,
            .descriptorSetCount = 1,
            .pSetLayouts = &steps->program->bindings[file->steps[i].n_args],
        };
        result = vk->AllocateDescriptorSets(vk->device, &set, &steps->set[i]);
        if (result) return mn_vk_fail(error, "AllocateDescriptorSets", result);
    }
    return MOSSNET_OK;
}

static VkDescriptorBufferInfo part_of_region(const mn_vk_region *region, const mn_buffer *buffer, uint32_t index) {
    uint32_t piece = region->pieces->of_buffer[index];
    return (VkDescriptorBufferInfo){
        .buffer = region->buffer[piece].buffer,
        .offset = buffer->offset - region->pieces->piece[piece].offset,
        .range = (buffer->bytes + WORD - 1) / WORD * WORD, /* kernels may read bytes by words */
    };
}

static void bind(const mn_vk_steps *steps, const mn_vk_region regions[MN_REGIONS], uint32_t i) {
    const mn_file *file = steps->file;
    const mn_step *step = &file->steps[i];
    VkDescriptorBufferInfo info[MN_MAX_PARAMS];
    VkWriteDescriptorSet write[MN_MAX_PARAMS];
    for (uint32_t a = 0; a < step->n_args; a++) {
        uint32_t index = file->args[step->first_arg + a];
        const mn_buffer *buffer = &file->buffers[index];
        info[a] = part_of_region(&regions[buffer->region], buffer, index);
        write[a] = (VkWriteDescriptorSet){
            .sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET,
            .dstSet = steps->set[i],
            .dstBinding = a,
            .descriptorCount = 1,
            .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
            .pBufferInfo = &info[a],
        };
    }
    steps->vk->UpdateDescriptorSets(steps->vk->device, step->n_args, write, 0, NULL);
}

mossnet_status mn_vk_steps_new(const mn_vk *vk, const mn_file *file, const mn_vk_program *program,
                               const mn_vk_region regions[MN_REGIONS], mn_vk_steps *out, mossnet_error *error) {
    *out = (mn_vk_steps){.vk = vk, .file = file, .program = program};
    out->set = calloc(file->n_steps + 1, sizeof *out->set);
    if (!out->set) return mn_fail(error, MOSSNET_MEMORY, "no memory for a session's steps");
    mossnet_status status = mn_hazards_new(file, &out->hazards, error);
    if (!status) status = create_sets(out, error);
    for (uint32_t i = 0; !status && i < file->n_steps; i++)
        bind(out, regions, i);
    return status;
}

void mn_vk_steps_free(mn_vk_steps *steps) {
    if (steps->pool) steps->vk->DestroyDescriptorPool(steps->vk->device, steps->pool, NULL);
    mn_hazards_free(&steps->hazards);
    free(steps->set);
    *steps = (mn_vk_steps){.vk = NULL};
}

static void dispatch(const mn_vk_steps *steps, VkCommandBuffer commands, uint32_t i, VkPipeline *bound) {
    const mn_vk *vk = steps->vk;
    const mn_step *step = &steps->file->steps[i];
    VkPipeline pipeline = steps->program->pipeline[step->kernel];
    if (pipeline != *bound) vk->CmdBindPipeline(commands, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline);
    *bound = pipeline;
    vk->CmdBindDescriptorSets(commands, VK_PIPELINE_BIND_POINT_COMPUTE, steps->program->layout[step->n_args], 0, 1,
                              &steps->set[i], 0, NULL);
    vk->CmdDispatch(commands, step->grid[0], step->grid[1], step->grid[2]);
}

mossnet_status mn_vk_steps_record(mn_vk_steps *steps, VkCommandBuffer commands, uint32_t first, uint32_t n,
                                  VkQueryPool times, mossnet_error *error) {
    const mn_vk *vk = steps->vk;
    VkPipeline bound = NULL;
    mossnet_status status = mn_vk_begin(vk, commands, 0, error);
    if (status) return status;
    if (times) vk->CmdResetQueryPool(commands, times, 0, n + 1);
    mn_vk_barrier(vk, commands, COMPUTE | TRANSFER, COMPUTE);
    if (times) vk->CmdWriteTimestamp(commands, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, times, 0);
    mn_hazards_clear(&steps->hazards);
    for (uint32_t i = 0; i < n; i++) {
        bool waits = mn_hazards_add(&steps->hazards, &steps->file->steps[first + i]);
        if (i && (waits || times)) mn_vk_barrier(vk, commands, COMPUTE, COMPUTE);
        dispatch(steps, commands, first + i, &bound);
        if (times) vk->CmdWriteTimestamp(commands, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, times, i + 1);
    }
    mn_vk_barrier(vk, commands, COMPUTE, COMPUTE | TRANSFER | HOST);
    return mn_vk_end(vk, commands, error);
}

mossnet_status mn_vk_times_new(const mn_vk *vk, uint32_t n, VkQueryPool *out, mossnet_error *error) {
    VkQueryPoolCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO,
        .queryType = VK_QUERY_TYPE_TIMESTAMP,
        .queryCount = n,
    };
    VkResult result = vk->CreateQueryPool(vk->device, &info, NULL, out);
    return result ? mn_vk_fail(error, "CreateQueryPool", result) : MOSSNET_OK;
}

mossnet_status mn_vk_times_read(const mn_vk *vk, VkQueryPool times, uint32_t n, double *seconds, mossnet_error *error) {
    uint64_t *ticks = calloc(n, sizeof *ticks);
    uint64_t mask = vk->facts.timestamp_bits < 64 ? (UINT64_C(1) << vk->facts.timestamp_bits) - 1 : UINT64_MAX;
    if (!ticks) return mn_fail(error, MOSSNET_MEMORY, "no memory for %u times", n);
    VkResult result = vk->GetQueryPoolResults(vk->device, times, 0, n, n * sizeof *ticks, ticks, sizeof *ticks,
                                              VK_QUERY_RESULT_64_BIT | VK_QUERY_RESULT_WAIT_BIT);
    for (uint32_t i = 0; !result && i + 1 < n; i++)
        seconds[i] = (double)((ticks[i + 1] - ticks[i]) & mask) * vk->facts.properties.limits.timestampPeriod * 1e-9;
    free(ticks);
    return result ? mn_vk_fail(error, "GetQueryPoolResults", result) : MOSSNET_OK;
}
