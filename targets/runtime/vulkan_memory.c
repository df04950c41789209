#include "vulkan_memory.h"

#include <stdlib.h>

enum {
    LOCAL = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT,
    VISIBLE = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT,
    COHERENT = VK_MEMORY_PROPERTY_HOST_COHERENT_BIT,
    CACHED = VK_MEMORY_PROPERTY_HOST_CACHED_BIT,
    USAGE = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT,
    WORD = 4, /* kernels may read bytes by words, and fills write words */
};

/* How good a kind of memory is for what; 0: not at all. Kinds with properties beyond these four are for what somebody
 * asked for (protected, uncached by the device, ...). */
typedef int rating(VkFlags properties);

/* Phones and CPUs have memory that device and host both reach at full speed. What a graphics card lets the host see of
 * its memory is small and slow to read: there copies are better. */
static int rate_own(VkFlags properties) {
    if (!(properties & LOCAL) || properties > (LOCAL | VISIBLE | COHERENT | CACHED)) return 0;
    if (properties & VISIBLE && properties & CACHED) return properties & COHERENT ? 4 : 3;
    return properties & VISIBLE ? 1 : 2;
}

/* Host memory was written before it became the device's, where no flush reaches. */
static int rate_import(VkFlags properties) {
    return properties & COHERENT ? rate_own(properties) : 0;
}

static int rate_staging(VkFlags properties) {
    if (!(properties & VISIBLE) || properties > (LOCAL | VISIBLE | COHERENT | CACHED)) return 0;
    return 1 + (properties & CACHED ? 4 : 0) + (properties & COHERENT ? 2 : 0) + (properties & LOCAL ? 0 : 1);
}

/* The best type among `bits`, or -1. */
static int best_type(const mn_vk *vk, uint32_t bits, rating *rate) {
    int best = -1, best_rate = 0;
    for (uint32_t i = 0; i < vk->facts.memory.memoryTypeCount; i++) {
        int r = bits & 1u << i ? rate(vk->facts.memory.memoryTypes[i].propertyFlags) : 0;
        if (r > best_rate) {
            best_rate = r;
            best = (int)i;
        }
    }
    return best;
}

static uint64_t round_up(uint64_t value, uint64_t to) {
    return (value + to - 1) / to * to;
}

static VkResult allocate(const mn_vk *vk, uint64_t bytes, uint32_t memory_type, const void *next, mn_vk_buffer *out) {
    VkMemoryAllocateInfo info = {
        .sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
        .pNext = next,
        .allocationSize = bytes,
        .memoryTypeIndex = memory_type,
    };
    out->memory_bytes = bytes;
    out->coherent = vk->facts.memory.memoryTypes[memory_type].propertyFlags & COHERENT;
    return vk->AllocateMemory(vk->device, &info, NULL, &out->memory);
}

/* From the best type that has room. */
static VkResult allocate_best(const mn_vk *vk, const VkMemoryRequirements *needs, rating *rate, mn_vk_buffer *out,
                              uint32_t *memory_type) {
    VkResult result = VK_ERROR_OUT_OF_DEVICE_MEMORY;
    uint64_t bytes = round_up(needs->size, vk->facts.properties.limits.nonCoherentAtomSize);
    uint32_t bits = needs->memoryTypeBits;
    for (int t = best_type(vk, bits, rate); t >= 0; t = best_type(vk, bits, rate)) {
        *memory_type = (uint32_t)t;
        result = allocate(vk, bytes, *memory_type, NULL, out);
        if (result != VK_ERROR_OUT_OF_DEVICE_MEMORY && result != VK_ERROR_OUT_OF_HOST_MEMORY) return result;
        bits &= ~(1u << t);
    }
    return result;
}

static VkResult create(const mn_vk *vk, uint64_t bytes, const void *next, mn_vk_buffer *out,
                       VkMemoryRequirements *needs) {
    VkBufferCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
        .pNext = next,
        .size = round_up(bytes, WORD),
        .usage = USAGE,
        .sharingMode = VK_SHARING_MODE_EXCLUSIVE,
    };
    *out = (mn_vk_buffer){.bytes = bytes};
    VkResult result = vk->CreateBuffer(vk->device, &info, NULL, &out->buffer);
    if (!result) vk->GetBufferMemoryRequirements(vk->device, out->buffer, needs);
    return result;
}

static mossnet_status make(const mn_vk *vk, uint64_t bytes, rating *rate, mn_vk_buffer *out, mossnet_error *error) {
    VkMemoryRequirements needs;
    uint32_t memory_type = 0;
    const char *call = "CreateBuffer";
    VkResult result = create(vk, bytes, NULL, out, &needs);
    if (!result) {
        call = "AllocateMemory";
        result = allocate_best(vk, &needs, rate, out, &memory_type);
    }
    if (!result) {
        call = "BindBufferMemory";
        result = vk->BindBufferMemory(vk->device, out->buffer, out->memory, 0);
    }
    /* Own memory is mapped where it was chosen for that; staging always. */
    if (!result && (rate == rate_staging || rate(vk->facts.memory.memoryTypes[memory_type].propertyFlags) >= 3)) {
        call = "MapMemory";
        result = vk->MapMemory(vk->device, out->memory, 0, out->memory_bytes, 0, (void **)&out->mapped);
    }
    if (!result) return MOSSNET_OK;
    mn_vk_buffer_free(vk, out);
    mossnet_error reason;
    mossnet_status status = mn_vk_fail(&reason, call, result);
    return mn_fail(error, status, "a buffer of %llu bytes on %.100s: %.200s", (unsigned long long)bytes,
                   vk->facts.properties.deviceName, reason.text);
}

mossnet_status mn_vk_buffer_own(const mn_vk *vk, uint64_t bytes, mn_vk_buffer *out, mossnet_error *error) {
    return make(vk, bytes, rate_own, out, error);
}

mossnet_status mn_vk_buffer_staging(const mn_vk *vk, uint64_t bytes, mn_vk_buffer *out, mossnet_error *error) {
    return make(vk, bytes, rate_staging, out, error);
}

/* What the device says of host memory: the types that it can become, none where it cannot. */
static uint32_t importable_types(const mn_vk *vk, const void *begin) {
    VkMemoryHostPointerPropertiesEXT found = {.sType = VK_STRUCTURE_TYPE_MEMORY_HOST_POINTER_PROPERTIES_EXT};
    if (vk->GetMemoryHostPointerPropertiesEXT(vk->device, VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT, begin,
                                              &found))
        return 0;
    return found.memoryTypeBits;
}

bool mn_vk_buffer_import(const mn_vk *vk, const unsigned char *begin, const unsigned char *end, const unsigned char *at,
                         uint64_t bytes, mn_vk_buffer *out) {
    uint64_t alignment = vk->facts.import_alignment;
    *out = (mn_vk_buffer){.bytes = 0};
    if (!alignment || !vk->GetMemoryHostPointerPropertiesEXT) return false;
    uint64_t before = (uint64_t)((uintptr_t)at % alignment),
             length = round_up(before + round_up(bytes, WORD), alignment);
    if (before > (uint64_t)(at - begin) || length > (uint64_t)(end - (at - before)) ||
        length > vk->facts.max_piece_bytes)
        return false;
    VkExternalMemoryBufferCreateInfo external = {
        .sType = VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_BUFFER_CREATE_INFO,
        .handleTypes = VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT,
    };
    VkImportMemoryHostPointerInfoEXT import = {
        .sType = VK_STRUCTURE_TYPE_IMPORT_MEMORY_HOST_POINTER_INFO_EXT,
        .handleType = VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT,
        .pHostPointer = (void *)(uintptr_t)(at - before),
    };
    VkMemoryRequirements needs;
    VkResult result = create(vk, bytes, &external, out, &needs);
    /* Only as the device's own: a graphics card could read host memory too, at a hundredth of its speed. */
    int memory_type =
        result ? -1 : best_type(vk, needs.memoryTypeBits & importable_types(vk, import.pHostPointer), rate_import);
    if (memory_type >= 0 && before % needs.alignment == 0 && before + needs.size <= length &&
        !allocate(vk, length, (uint32_t)memory_type, &import, out) &&
        !vk->BindBufferMemory(vk->device, out->buffer, out->memory, before)) {
        out->mapped = (unsigned char *)(uintptr_t)at;
        out->coherent = true; /* never written by the device */
        return true;
    }
    mn_vk_buffer_free(vk, out);
    return false;
}

void mn_vk_buffer_free(const mn_vk *vk, mn_vk_buffer *buffer) {
    if (buffer->buffer) vk->DestroyBuffer(vk->device, buffer->buffer, NULL);
    if (buffer->memory) vk->FreeMemory(vk->device, buffer->memory, NULL); /* unmaps it too */
    *buffer = (mn_vk_buffer){.bytes = 0};
}

/* The range in whole atoms; the memory itself was rounded up to them. */
static VkMappedMemoryRange in_atoms(const mn_vk *vk, const mn_vk_buffer *buffer, uint64_t offset, uint64_t bytes) {
    uint64_t atom = vk->facts.properties.limits.nonCoherentAtomSize, begin = offset / atom * atom;
    return (VkMappedMemoryRange){
        .sType = VK_STRUCTURE_TYPE_MAPPED_MEMORY_RANGE,
        .memory = buffer->memory,
        .offset = begin,
        .size = round_up(offset + bytes, atom) - begin,
    };
}

mossnet_status mn_vk_flush(const mn_vk *vk, const mn_vk_buffer *buffer, uint64_t offset, uint64_t bytes,
                           mossnet_error *error) {
    if (buffer->coherent || !bytes) return MOSSNET_OK;
    VkMappedMemoryRange range = in_atoms(vk, buffer, offset, bytes);
    VkResult result = vk->FlushMappedMemoryRanges(vk->device, 1, &range);
    return result ? mn_vk_fail(error, "FlushMappedMemoryRanges", result) : MOSSNET_OK;
}

mossnet_status mn_vk_invalidate(const mn_vk *vk, const mn_vk_buffer *buffer, uint64_t offset, uint64_t bytes,
                                mossnet_error *error) {
    if (buffer->coherent || !bytes) return MOSSNET_OK;
    VkMappedMemoryRange range = in_atoms(vk, buffer, offset, bytes);
    VkResult result = vk->InvalidateMappedMemoryRanges(vk->device, 1, &range);
    return result ? mn_vk_fail(error, "InvalidateMappedMemoryRanges", result) : MOSSNET_OK;
}

mossnet_status mn_vk_region_new(const mn_vk *vk, const mn_pieces *pieces, mn_vk_region *out, mossnet_error *error) {
    *out = (mn_vk_region){pieces, calloc(pieces->n + 1, sizeof *out->buffer)};
    if (!out->buffer) return mn_fail(error, MOSSNET_MEMORY, "no memory for a list of buffers");
    for (uint32_t i = 0; i < pieces->n; i++) {
        mossnet_status status = mn_vk_buffer_own(vk, pieces->piece[i].bytes, &out->buffer[i], error);
        if (status) return status;
    }
    return MOSSNET_OK;
}

void mn_vk_region_free(const mn_vk *vk, mn_vk_region *region) {
    for (uint32_t i = 0; region->buffer && i < region->pieces->n; i++)
        mn_vk_buffer_free(vk, &region->buffer[i]);
    free(region->buffer);
    region->buffer = NULL;
}
