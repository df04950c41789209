/* Holds targets/runtime/vulkan_api.h against the Khronos headers: it compiles when every number, size, offset and
 * signature agrees. Needs libvulkan-dev; links with nothing.
 *
 * Both declare the same names. Here the real ones stand at file scope under a second name, and the driver's inside a
 * function, where they hide the real ones; what is listed for the one is compared with the other. */
#include <stddef.h>
#include <stdint.h>
#include <vulkan/vulkan_core.h>

/* The formatter would write these lists in one column. */
/* clang-format off */

/* N: a number */
#define NUMBERS(N) \
    N(VK_SUCCESS) N(VK_NOT_READY) N(VK_TIMEOUT) N(VK_INCOMPLETE) N(VK_ERROR_OUT_OF_HOST_MEMORY) \
    N(VK_ERROR_OUT_OF_DEVICE_MEMORY) N(VK_ERROR_INITIALIZATION_FAILED) N(VK_ERROR_DEVICE_LOST) \
    N(VK_ERROR_MEMORY_MAP_FAILED) N(VK_ERROR_LAYER_NOT_PRESENT) N(VK_ERROR_EXTENSION_NOT_PRESENT) \
    N(VK_ERROR_FEATURE_NOT_PRESENT) N(VK_ERROR_INCOMPATIBLE_DRIVER) N(VK_ERROR_TOO_MANY_OBJECTS) \
    N(VK_ERROR_FRAGMENTED_POOL) N(VK_ERROR_UNKNOWN) N(VK_ERROR_OUT_OF_POOL_MEMORY) \
    N(VK_ERROR_INVALID_EXTERNAL_HANDLE) N(VK_RESULT_MAX_ENUM) N(VK_STRUCTURE_TYPE_APPLICATION_INFO) \
    N(VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO) N(VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO) \
    N(VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO) N(VK_STRUCTURE_TYPE_SUBMIT_INFO) \
    N(VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO) N(VK_STRUCTURE_TYPE_MAPPED_MEMORY_RANGE) \
    N(VK_STRUCTURE_TYPE_FENCE_CREATE_INFO) N(VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO) \
    N(VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO) N(VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO) \
    N(VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO) N(VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO) \
    N(VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO) N(VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO) \
    N(VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO) N(VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO) \
    N(VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO) N(VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET) \
    N(VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO) N(VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO) \
    N(VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO) N(VK_STRUCTURE_TYPE_MEMORY_BARRIER) \
    N(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2) N(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2) \
    N(VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_BUFFER_CREATE_INFO) \
    N(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_FLOAT16_INT8_FEATURES) \
    N(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_16BIT_STORAGE_FEATURES) \
    N(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES) \
    N(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES) \
    N(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_8BIT_STORAGE_FEATURES) \
    N(VK_STRUCTURE_TYPE_IMPORT_MEMORY_HOST_POINTER_INFO_EXT) N(VK_STRUCTURE_TYPE_MEMORY_HOST_POINTER_PROPERTIES_EXT) \
    N(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_MEMORY_HOST_PROPERTIES_EXT) \
    N(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_DRIVER_PROPERTIES) \
    N(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_4_PROPERTIES) N(VK_STRUCTURE_TYPE_MAX_ENUM) \
    N(VK_PHYSICAL_DEVICE_TYPE_OTHER) N(VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU) \
    N(VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU) N(VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU) N(VK_PHYSICAL_DEVICE_TYPE_CPU) \
    N(VK_PHYSICAL_DEVICE_TYPE_MAX_ENUM) N(VK_COMMAND_BUFFER_LEVEL_PRIMARY) N(VK_COMMAND_BUFFER_LEVEL_MAX_ENUM) \
    N(VK_DESCRIPTOR_TYPE_STORAGE_BUFFER) N(VK_DESCRIPTOR_TYPE_MAX_ENUM) N(VK_PIPELINE_BIND_POINT_COMPUTE) \
    N(VK_PIPELINE_BIND_POINT_MAX_ENUM) N(VK_TRUE) N(VK_API_VERSION_1_1) N(VK_API_VERSION_1_2) N(VK_QUEUE_COMPUTE_BIT) \
    N(VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT) N(VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT) \
    N(VK_MEMORY_PROPERTY_HOST_COHERENT_BIT) N(VK_MEMORY_PROPERTY_HOST_CACHED_BIT) N(VK_MEMORY_HEAP_DEVICE_LOCAL_BIT) \
    N(VK_BUFFER_USAGE_TRANSFER_SRC_BIT) N(VK_BUFFER_USAGE_TRANSFER_DST_BIT) N(VK_BUFFER_USAGE_STORAGE_BUFFER_BIT) \
    N(VK_SHADER_STAGE_COMPUTE_BIT) N(VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT) N(VK_PIPELINE_STAGE_TRANSFER_BIT) \
    N(VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT) N(VK_PIPELINE_STAGE_HOST_BIT) N(VK_ACCESS_SHADER_READ_BIT) \
    N(VK_ACCESS_SHADER_WRITE_BIT) N(VK_ACCESS_TRANSFER_READ_BIT) N(VK_ACCESS_TRANSFER_WRITE_BIT) \
    N(VK_ACCESS_HOST_READ_BIT) N(VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT) \
    N(VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT) N(VK_QUERY_RESULT_64_BIT) N(VK_QUERY_RESULT_WAIT_BIT) \
    N(VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT) N(VK_SUBGROUP_FEATURE_BASIC_BIT) \
    N(VK_SUBGROUP_FEATURE_VOTE_BIT) N(VK_SUBGROUP_FEATURE_ARITHMETIC_BIT) N(VK_SUBGROUP_FEATURE_BALLOT_BIT) \
    N(VK_SUBGROUP_FEATURE_SHUFFLE_BIT) N(VK_SUBGROUP_FEATURE_SHUFFLE_RELATIVE_BIT) \
    N(VK_SUBGROUP_FEATURE_CLUSTERED_BIT) N(VK_SUBGROUP_FEATURE_QUAD_BIT) N(VK_PIPELINE_CACHE_HEADER_VERSION_ONE) \
    N(VK_QUERY_TYPE_TIMESTAMP) N(VK_QUERY_TYPE_MAX_ENUM) N(VK_SHARING_MODE_EXCLUSIVE) N(VK_SHARING_MODE_MAX_ENUM)

/* R: a type; F: a field of it */
#define RECORDS(R, F) \
    R(VkBool32) R(VkFlags) R(VkDeviceSize) R(VkResult) R(VkStructureType) R(VkPhysicalDeviceType) \
    R(VkCommandBufferLevel) R(VkDescriptorType) R(VkPipelineBindPoint) R(VkQueryType) R(VkSharingMode) \
    R(VkApplicationInfo) F(VkApplicationInfo, sType) F(VkApplicationInfo, pNext) \
    F(VkApplicationInfo, pApplicationName) F(VkApplicationInfo, applicationVersion) F(VkApplicationInfo, pEngineName) \
    F(VkApplicationInfo, engineVersion) F(VkApplicationInfo, apiVersion) \
    R(VkInstanceCreateInfo) F(VkInstanceCreateInfo, sType) F(VkInstanceCreateInfo, pNext) \
    F(VkInstanceCreateInfo, flags) F(VkInstanceCreateInfo, pApplicationInfo) \
    F(VkInstanceCreateInfo, enabledLayerCount) F(VkInstanceCreateInfo, ppEnabledLayerNames) \
    F(VkInstanceCreateInfo, enabledExtensionCount) F(VkInstanceCreateInfo, ppEnabledExtensionNames) \
    R(VkPhysicalDeviceLimits) F(VkPhysicalDeviceLimits, maxStorageBufferRange) \
    F(VkPhysicalDeviceLimits, maxPerStageDescriptorStorageBuffers) F(VkPhysicalDeviceLimits, maxPerStageResources) \
    F(VkPhysicalDeviceLimits, maxDescriptorSetStorageBuffers) F(VkPhysicalDeviceLimits, maxComputeSharedMemorySize) \
    F(VkPhysicalDeviceLimits, maxComputeWorkGroupCount) F(VkPhysicalDeviceLimits, maxComputeWorkGroupInvocations) \
    F(VkPhysicalDeviceLimits, maxComputeWorkGroupSize) F(VkPhysicalDeviceLimits, minStorageBufferOffsetAlignment) \
    F(VkPhysicalDeviceLimits, timestampPeriod) F(VkPhysicalDeviceLimits, nonCoherentAtomSize) \
    R(VkPhysicalDeviceProperties) F(VkPhysicalDeviceProperties, apiVersion) \
    F(VkPhysicalDeviceProperties, driverVersion) F(VkPhysicalDeviceProperties, vendorID) \
    F(VkPhysicalDeviceProperties, deviceID) F(VkPhysicalDeviceProperties, deviceType) \
    F(VkPhysicalDeviceProperties, deviceName) F(VkPhysicalDeviceProperties, pipelineCacheUUID) \
    F(VkPhysicalDeviceProperties, limits) F(VkPhysicalDeviceProperties, sparseProperties) \
    R(VkPhysicalDeviceProperties2) F(VkPhysicalDeviceProperties2, sType) F(VkPhysicalDeviceProperties2, pNext) \
    F(VkPhysicalDeviceProperties2, properties) \
    R(VkPhysicalDeviceSubgroupProperties) F(VkPhysicalDeviceSubgroupProperties, sType) \
    F(VkPhysicalDeviceSubgroupProperties, pNext) F(VkPhysicalDeviceSubgroupProperties, subgroupSize) \
    F(VkPhysicalDeviceSubgroupProperties, supportedStages) F(VkPhysicalDeviceSubgroupProperties, supportedOperations) \
    F(VkPhysicalDeviceSubgroupProperties, quadOperationsInAllStages) \
    R(VkPhysicalDeviceMaintenance3Properties) F(VkPhysicalDeviceMaintenance3Properties, sType) \
    F(VkPhysicalDeviceMaintenance3Properties, pNext) F(VkPhysicalDeviceMaintenance3Properties, maxPerSetDescriptors) \
    F(VkPhysicalDeviceMaintenance3Properties, maxMemoryAllocationSize) \
    R(VkPhysicalDeviceMaintenance4Properties) F(VkPhysicalDeviceMaintenance4Properties, sType) \
    F(VkPhysicalDeviceMaintenance4Properties, pNext) F(VkPhysicalDeviceMaintenance4Properties, maxBufferSize) \
    R(VkPhysicalDeviceDriverProperties) F(VkPhysicalDeviceDriverProperties, sType) \
    F(VkPhysicalDeviceDriverProperties, pNext) F(VkPhysicalDeviceDriverProperties, driverID) \
    F(VkPhysicalDeviceDriverProperties, driverName) F(VkPhysicalDeviceDriverProperties, driverInfo) \
    F(VkPhysicalDeviceDriverProperties, conformanceVersion) \
    R(VkPhysicalDeviceExternalMemoryHostPropertiesEXT) F(VkPhysicalDeviceExternalMemoryHostPropertiesEXT, sType) \
    F(VkPhysicalDeviceExternalMemoryHostPropertiesEXT, pNext) \
    F(VkPhysicalDeviceExternalMemoryHostPropertiesEXT, minImportedHostPointerAlignment) \
    R(VkPhysicalDeviceFeatures) F(VkPhysicalDeviceFeatures, shaderFloat64) F(VkPhysicalDeviceFeatures, shaderInt64) \
    F(VkPhysicalDeviceFeatures, shaderInt16) \
    R(VkPhysicalDeviceFeatures2) F(VkPhysicalDeviceFeatures2, sType) F(VkPhysicalDeviceFeatures2, pNext) \
    F(VkPhysicalDeviceFeatures2, features) \
    R(VkPhysicalDevice16BitStorageFeatures) F(VkPhysicalDevice16BitStorageFeatures, sType) \
    F(VkPhysicalDevice16BitStorageFeatures, pNext) F(VkPhysicalDevice16BitStorageFeatures, storageBuffer16BitAccess) \
    F(VkPhysicalDevice16BitStorageFeatures, uniformAndStorageBuffer16BitAccess) \
    F(VkPhysicalDevice16BitStorageFeatures, storagePushConstant16) \
    F(VkPhysicalDevice16BitStorageFeatures, storageInputOutput16) \
    R(VkPhysicalDevice8BitStorageFeatures) F(VkPhysicalDevice8BitStorageFeatures, sType) \
    F(VkPhysicalDevice8BitStorageFeatures, pNext) F(VkPhysicalDevice8BitStorageFeatures, storageBuffer8BitAccess) \
    F(VkPhysicalDevice8BitStorageFeatures, uniformAndStorageBuffer8BitAccess) \
    F(VkPhysicalDevice8BitStorageFeatures, storagePushConstant8) \
    R(VkPhysicalDeviceShaderFloat16Int8Features) F(VkPhysicalDeviceShaderFloat16Int8Features, sType) \
    F(VkPhysicalDeviceShaderFloat16Int8Features, pNext) F(VkPhysicalDeviceShaderFloat16Int8Features, shaderFloat16) \
    F(VkPhysicalDeviceShaderFloat16Int8Features, shaderInt8) \
    R(VkMemoryType) F(VkMemoryType, propertyFlags) F(VkMemoryType, heapIndex) \
    R(VkMemoryHeap) F(VkMemoryHeap, size) F(VkMemoryHeap, flags) \
    R(VkPhysicalDeviceMemoryProperties) F(VkPhysicalDeviceMemoryProperties, memoryTypeCount) \
    F(VkPhysicalDeviceMemoryProperties, memoryTypes) F(VkPhysicalDeviceMemoryProperties, memoryHeapCount) \
    F(VkPhysicalDeviceMemoryProperties, memoryHeaps) \
    R(VkQueueFamilyProperties) F(VkQueueFamilyProperties, queueFlags) F(VkQueueFamilyProperties, queueCount) \
    F(VkQueueFamilyProperties, timestampValidBits) F(VkQueueFamilyProperties, minImageTransferGranularity) \
    R(VkExtensionProperties) F(VkExtensionProperties, extensionName) F(VkExtensionProperties, specVersion) \
    R(VkDeviceQueueCreateInfo) F(VkDeviceQueueCreateInfo, sType) F(VkDeviceQueueCreateInfo, pNext) \
    F(VkDeviceQueueCreateInfo, flags) F(VkDeviceQueueCreateInfo, queueFamilyIndex) \
    F(VkDeviceQueueCreateInfo, queueCount) F(VkDeviceQueueCreateInfo, pQueuePriorities) \
    R(VkDeviceCreateInfo) F(VkDeviceCreateInfo, sType) F(VkDeviceCreateInfo, pNext) F(VkDeviceCreateInfo, flags) \
    F(VkDeviceCreateInfo, queueCreateInfoCount) F(VkDeviceCreateInfo, pQueueCreateInfos) \
    F(VkDeviceCreateInfo, enabledLayerCount) F(VkDeviceCreateInfo, ppEnabledLayerNames) \
    F(VkDeviceCreateInfo, enabledExtensionCount) F(VkDeviceCreateInfo, ppEnabledExtensionNames) \
    F(VkDeviceCreateInfo, pEnabledFeatures) \
    R(VkBufferCreateInfo) F(VkBufferCreateInfo, sType) F(VkBufferCreateInfo, pNext) F(VkBufferCreateInfo, flags) \
    F(VkBufferCreateInfo, size) F(VkBufferCreateInfo, usage) F(VkBufferCreateInfo, sharingMode) \
    F(VkBufferCreateInfo, queueFamilyIndexCount) F(VkBufferCreateInfo, pQueueFamilyIndices) \
    R(VkExternalMemoryBufferCreateInfo) F(VkExternalMemoryBufferCreateInfo, sType) \
    F(VkExternalMemoryBufferCreateInfo, pNext) F(VkExternalMemoryBufferCreateInfo, handleTypes) \
    R(VkMemoryRequirements) F(VkMemoryRequirements, size) F(VkMemoryRequirements, alignment) \
    F(VkMemoryRequirements, memoryTypeBits) \
    R(VkMemoryAllocateInfo) F(VkMemoryAllocateInfo, sType) F(VkMemoryAllocateInfo, pNext) \
    F(VkMemoryAllocateInfo, allocationSize) F(VkMemoryAllocateInfo, memoryTypeIndex) \
    R(VkImportMemoryHostPointerInfoEXT) F(VkImportMemoryHostPointerInfoEXT, sType) \
    F(VkImportMemoryHostPointerInfoEXT, pNext) F(VkImportMemoryHostPointerInfoEXT, handleType) \
    F(VkImportMemoryHostPointerInfoEXT, pHostPointer) \
    R(VkMemoryHostPointerPropertiesEXT) F(VkMemoryHostPointerPropertiesEXT, sType) \
    F(VkMemoryHostPointerPropertiesEXT, pNext) F(VkMemoryHostPointerPropertiesEXT, memoryTypeBits) \
    R(VkMappedMemoryRange) F(VkMappedMemoryRange, sType) F(VkMappedMemoryRange, pNext) F(VkMappedMemoryRange, memory) \
    F(VkMappedMemoryRange, offset) F(VkMappedMemoryRange, size) \
    R(VkDescriptorSetLayoutBinding) F(VkDescriptorSetLayoutBinding, binding) \
    F(VkDescriptorSetLayoutBinding, descriptorType) F(VkDescriptorSetLayoutBinding, descriptorCount) \
    F(VkDescriptorSetLayoutBinding, stageFlags) F(VkDescriptorSetLayoutBinding, pImmutableSamplers) \
    R(VkDescriptorSetLayoutCreateInfo) F(VkDescriptorSetLayoutCreateInfo, sType) \
    F(VkDescriptorSetLayoutCreateInfo, pNext) F(VkDescriptorSetLayoutCreateInfo, flags) \
    F(VkDescriptorSetLayoutCreateInfo, bindingCount) F(VkDescriptorSetLayoutCreateInfo, pBindings) \
    R(VkDescriptorPoolSize) F(VkDescriptorPoolSize, type) F(VkDescriptorPoolSize, descriptorCount) \
    R(VkDescriptorPoolCreateInfo) F(VkDescriptorPoolCreateInfo, sType) F(VkDescriptorPoolCreateInfo, pNext) \
    F(VkDescriptorPoolCreateInfo, flags) F(VkDescriptorPoolCreateInfo, maxSets) \
    F(VkDescriptorPoolCreateInfo, poolSizeCount) F(VkDescriptorPoolCreateInfo, pPoolSizes) \
    R(VkDescriptorSetAllocateInfo) F(VkDescriptorSetAllocateInfo, sType) F(VkDescriptorSetAllocateInfo, pNext) \
    F(VkDescriptorSetAllocateInfo, descriptorPool) F(VkDescriptorSetAllocateInfo, descriptorSetCount) \
    F(VkDescriptorSetAllocateInfo, pSetLayouts) \
    R(VkDescriptorBufferInfo) F(VkDescriptorBufferInfo, buffer) F(VkDescriptorBufferInfo, offset) \
    F(VkDescriptorBufferInfo, range) \
    R(VkWriteDescriptorSet) F(VkWriteDescriptorSet, sType) F(VkWriteDescriptorSet, pNext) \
    F(VkWriteDescriptorSet, dstSet) F(VkWriteDescriptorSet, dstBinding) F(VkWriteDescriptorSet, dstArrayElement) \
    F(VkWriteDescriptorSet, descriptorCount) F(VkWriteDescriptorSet, descriptorType) \
    F(VkWriteDescriptorSet, pImageInfo) F(VkWriteDescriptorSet, pBufferInfo) \
    F(VkWriteDescriptorSet, pTexelBufferView) \
    R(VkPipelineLayoutCreateInfo) F(VkPipelineLayoutCreateInfo, sType) F(VkPipelineLayoutCreateInfo, pNext) \
    F(VkPipelineLayoutCreateInfo, flags) F(VkPipelineLayoutCreateInfo, setLayoutCount) \
    F(VkPipelineLayoutCreateInfo, pSetLayouts) F(VkPipelineLayoutCreateInfo, pushConstantRangeCount) \
    F(VkPipelineLayoutCreateInfo, pPushConstantRanges) \
    R(VkShaderModuleCreateInfo) F(VkShaderModuleCreateInfo, sType) F(VkShaderModuleCreateInfo, pNext) \
    F(VkShaderModuleCreateInfo, flags) F(VkShaderModuleCreateInfo, codeSize) F(VkShaderModuleCreateInfo, pCode) \
    R(VkPipelineShaderStageCreateInfo) F(VkPipelineShaderStageCreateInfo, sType) \
    F(VkPipelineShaderStageCreateInfo, pNext) F(VkPipelineShaderStageCreateInfo, flags) \
    F(VkPipelineShaderStageCreateInfo, stage) F(VkPipelineShaderStageCreateInfo, module) \
    F(VkPipelineShaderStageCreateInfo, pName) F(VkPipelineShaderStageCreateInfo, pSpecializationInfo) \
    R(VkComputePipelineCreateInfo) F(VkComputePipelineCreateInfo, sType) F(VkComputePipelineCreateInfo, pNext) \
    F(VkComputePipelineCreateInfo, flags) F(VkComputePipelineCreateInfo, stage) \
    F(VkComputePipelineCreateInfo, layout) F(VkComputePipelineCreateInfo, basePipelineHandle) \
    F(VkComputePipelineCreateInfo, basePipelineIndex) \
    R(VkPipelineCacheCreateInfo) F(VkPipelineCacheCreateInfo, sType) F(VkPipelineCacheCreateInfo, pNext) \
    F(VkPipelineCacheCreateInfo, flags) F(VkPipelineCacheCreateInfo, initialDataSize) \
    F(VkPipelineCacheCreateInfo, pInitialData) \
    R(VkPipelineCacheHeaderVersionOne) F(VkPipelineCacheHeaderVersionOne, headerSize) \
    F(VkPipelineCacheHeaderVersionOne, headerVersion) F(VkPipelineCacheHeaderVersionOne, vendorID) \
    F(VkPipelineCacheHeaderVersionOne, deviceID) F(VkPipelineCacheHeaderVersionOne, pipelineCacheUUID) \
    R(VkCommandPoolCreateInfo) F(VkCommandPoolCreateInfo, sType) F(VkCommandPoolCreateInfo, pNext) \
    F(VkCommandPoolCreateInfo, flags) F(VkCommandPoolCreateInfo, queueFamilyIndex) \
    R(VkCommandBufferAllocateInfo) F(VkCommandBufferAllocateInfo, sType) F(VkCommandBufferAllocateInfo, pNext) \
    F(VkCommandBufferAllocateInfo, commandPool) F(VkCommandBufferAllocateInfo, level) \
    F(VkCommandBufferAllocateInfo, commandBufferCount) \
    R(VkCommandBufferBeginInfo) F(VkCommandBufferBeginInfo, sType) F(VkCommandBufferBeginInfo, pNext) \
    F(VkCommandBufferBeginInfo, flags) F(VkCommandBufferBeginInfo, pInheritanceInfo) \
    R(VkSubmitInfo) F(VkSubmitInfo, sType) F(VkSubmitInfo, pNext) F(VkSubmitInfo, waitSemaphoreCount) \
    F(VkSubmitInfo, pWaitSemaphores) F(VkSubmitInfo, pWaitDstStageMask) F(VkSubmitInfo, commandBufferCount) \
    F(VkSubmitInfo, pCommandBuffers) F(VkSubmitInfo, signalSemaphoreCount) F(VkSubmitInfo, pSignalSemaphores) \
    R(VkFenceCreateInfo) F(VkFenceCreateInfo, sType) F(VkFenceCreateInfo, pNext) F(VkFenceCreateInfo, flags) \
    R(VkQueryPoolCreateInfo) F(VkQueryPoolCreateInfo, sType) F(VkQueryPoolCreateInfo, pNext) \
    F(VkQueryPoolCreateInfo, flags) F(VkQueryPoolCreateInfo, queryType) F(VkQueryPoolCreateInfo, queryCount) \
    F(VkQueryPoolCreateInfo, pipelineStatistics) \
    R(VkMemoryBarrier) F(VkMemoryBarrier, sType) F(VkMemoryBarrier, pNext) F(VkMemoryBarrier, srcAccessMask) \
    F(VkMemoryBarrier, dstAccessMask) \
    R(VkBufferCopy) F(VkBufferCopy, srcOffset) F(VkBufferCopy, dstOffset) F(VkBufferCopy, size)

/* clang-format on */

#define KEEP_NUMBER(name) real_##name = name,
#define KEEP_TYPE(name)   typedef name real_##name;
#define NOTHING(type, field)
enum { NUMBERS(KEEP_NUMBER) };
RECORDS(KEEP_TYPE, NOTHING)

/* In the real header these are macros, which no declaration hides. */
#undef VK_TRUE
#undef VK_API_VERSION_1_1
#undef VK_API_VERSION_1_2

/* Not every type that the driver declares is in a record. */
#pragma GCC diagnostic ignored "-Wunused-local-typedefs"

static inline void compare(void) {
#include "vulkan_api.h"
#define SAME_NUMBER(name) _Static_assert((long)name == (long)real_##name, #name " is another number");
#define SAME_SIZE(name)   _Static_assert(sizeof(name) == sizeof(real_##name), #name " has another size");
#define SAME_FIELD(type, field)                                                                                        \
    _Static_assert(offsetof(type, field) == offsetof(real_##type, field) &&                                            \
                       sizeof(((type *)0)->field) == sizeof(((real_##type *)0)->field),                                \
                   #type "." #field " lies elsewhere");
#define SAME_HANDLE(name) _Static_assert(sizeof(name) == sizeof(void *), #name " is no pointer");
    NUMBERS(SAME_NUMBER)
    RECORDS(SAME_SIZE, SAME_FIELD)
    VK_HANDLES(SAME_HANDLE)
}

/* The signatures are macros: here they mean the real types. */
#define SAME_SIGNATURE(name, result, arguments)                                                                        \
    _Static_assert(__builtin_types_compatible_p(PFN_vk##name, result(*) arguments), "vk" #name " differs");
VK_GLOBAL_FUNCTIONS(SAME_SIGNATURE)
VK_INSTANCE_FUNCTIONS(SAME_SIGNATURE)
VK_DEVICE_FUNCTIONS(SAME_SIGNATURE)
VK_OPTIONAL_FUNCTIONS(SAME_SIGNATURE)
_Static_assert(__builtin_types_compatible_p(PFN_vkGetInstanceProcAddr,
                                            PFN_vkVoidFunction (*)(VkInstance, const char *)),
               "vkGetInstanceProcAddr differs");

int main(void) {
    compare();
    return 0;
}
