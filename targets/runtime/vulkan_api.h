/* The part of Vulkan's interface that the driver uses, declared by hand after the specification (1.1, its extensions in
 * the names' endings) and under its names; libmossnet is built without Vulkan's headers. tests/runtime/vulkan_abi.c
 * holds every size, offset, number and signature against the real ones. */
#ifndef MN_VULKAN_API_H
#define MN_VULKAN_API_H

#include <stddef.h>
#include <stdint.h>

_Static_assert(sizeof(void *) == 8, "handles are declared as the pointers that they are on 64-bit machines");

typedef uint32_t VkBool32;
typedef uint32_t VkFlags;
typedef uint64_t VkDeviceSize;

/* X(name) */
#define VK_HANDLES(X)                                                                                                  \
    X(VkInstance)                                                                                                      \
    X(VkPhysicalDevice)                                                                                                \
    X(VkDevice)                                                                                                        \
    X(VkQueue)                                                                                                         \
    X(VkCommandBuffer)                                                                                                 \
    X(VkBuffer)                                                                                                        \
    X(VkBufferView)                                                                                                    \
    X(VkDeviceMemory)                                                                                                  \
    X(VkCommandPool)                                                                                                   \
    X(VkDescriptorPool)                                                                                                \
    X(VkDescriptorSet)                                                                                                 \
    X(VkDescriptorSetLayout)                                                                                           \
    X(VkFence)                                                                                                         \
    X(VkPipeline)                                                                                                      \
    X(VkPipelineCache)                                                                                                 \
    X(VkPipelineLayout)                                                                                                \
    X(VkQueryPool)                                                                                                     \
    X(VkSampler)                                                                                                       \
    X(VkSemaphore)                                                                                                     \
    X(VkShaderModule)

#define VK_DECLARE_HANDLE(name) typedef struct name##_T *name;
VK_HANDLES(VK_DECLARE_HANDLE)
#undef VK_DECLARE_HANDLE

/* Records that the driver never fills: their pointers are NULL. */
typedef struct VkAllocationCallbacks VkAllocationCallbacks;
typedef struct VkBufferMemoryBarrier VkBufferMemoryBarrier;
typedef struct VkCommandBufferInheritanceInfo VkCommandBufferInheritanceInfo;
typedef struct VkCopyDescriptorSet VkCopyDescriptorSet;
typedef struct VkDescriptorImageInfo VkDescriptorImageInfo;
typedef struct VkImageMemoryBarrier VkImageMemoryBarrier;
typedef struct VkPushConstantRange VkPushConstantRange;
typedef struct VkSpecializationInfo VkSpecializationInfo;

/* ---- Numbers ---- */

typedef enum VkResult {
    VK_SUCCESS = 0,
    VK_NOT_READY = 1,
    VK_TIMEOUT = 2,
    VK_INCOMPLETE = 5,
    VK_ERROR_OUT_OF_HOST_MEMORY = -1,
    VK_ERROR_OUT_OF_DEVICE_MEMORY = -2,
    VK_ERROR_INITIALIZATION_FAILED = -3,
    VK_ERROR_DEVICE_LOST = -4,
    VK_ERROR_MEMORY_MAP_FAILED = -5,
    VK_ERROR_LAYER_NOT_PRESENT = -6,
    VK_ERROR_EXTENSION_NOT_PRESENT = -7,
    VK_ERROR_FEATURE_NOT_PRESENT = -8,
    VK_ERROR_INCOMPATIBLE_DRIVER = -9,
    VK_ERROR_TOO_MANY_OBJECTS = -10,
    VK_ERROR_FRAGMENTED_POOL = -12,
    VK_ERROR_UNKNOWN = -13,
    VK_ERROR_OUT_OF_POOL_MEMORY = -1000069000,
    VK_ERROR_INVALID_EXTERNAL_HANDLE = -1000072003,
    VK_RESULT_MAX_ENUM = 0x7fffffff
} VkResult;

typedef enum VkStructureType {
    VK_STRUCTURE_TYPE_APPLICATION_INFO = 0,
    VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO = 1,
    VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO = 2,
    VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO = 3,
    VK_STRUCTURE_TYPE_SUBMIT_INFO = 4,
    VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO = 5,
    VK_STRUCTURE_TYPE_MAPPED_MEMORY_RANGE = 6,
    VK_STRUCTURE_TYPE_FENCE_CREATE_INFO = 8,
    VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO = 11,
    VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO = 12,
    VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO = 16,
    VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO = 17,
    VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO = 18,
    VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO = 29,
    VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO = 30,
    VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO = 32,
    VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO = 33,
    VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO = 34,
    VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET = 35,
    VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO = 39,
    VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO = 40,
    VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO = 42,
    VK_STRUCTURE_TYPE_MEMORY_BARRIER = 46,
    VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2 = 1000059000,
    VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2 = 1000059001,
    VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_BUFFER_CREATE_INFO = 1000072000,
    VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_FLOAT16_INT8_FEATURES = 1000082000,
    VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_16BIT_STORAGE_FEATURES = 1000083000,
    VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES = 1000094000,
    VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES = 1000168000,
    VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_8BIT_STORAGE_FEATURES = 1000177000,
    VK_STRUCTURE_TYPE_IMPORT_MEMORY_HOST_POINTER_INFO_EXT = 1000178000,
    VK_STRUCTURE_TYPE_MEMORY_HOST_POINTER_PROPERTIES_EXT = 1000178001,
    VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_MEMORY_HOST_PROPERTIES_EXT = 1000178002,
    VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_DRIVER_PROPERTIES = 1000196000,
    VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_4_PROPERTIES = 1000413001,
    VK_STRUCTURE_TYPE_MAX_ENUM = 0x7fffffff
} VkStructureType;

typedef enum VkPhysicalDeviceType {
    VK_PHYSICAL_DEVICE_TYPE_OTHER = 0,
    VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU = 1,
    VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU = 2,
    VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU = 3,
    VK_PHYSICAL_DEVICE_TYPE_CPU = 4,
    VK_PHYSICAL_DEVICE_TYPE_MAX_ENUM = 0x7fffffff
} VkPhysicalDeviceType;

/* Of what the driver chooses between one thing and itself, only that one stands here. */
typedef enum VkCommandBufferLevel {
    VK_COMMAND_BUFFER_LEVEL_PRIMARY = 0,
    VK_COMMAND_BUFFER_LEVEL_MAX_ENUM = 0x7fffffff
} VkCommandBufferLevel;
typedef enum VkDescriptorType {
    VK_DESCRIPTOR_TYPE_STORAGE_BUFFER = 7,
    VK_DESCRIPTOR_TYPE_MAX_ENUM = 0x7fffffff
} VkDescriptorType;
typedef enum VkPipelineBindPoint {
    VK_PIPELINE_BIND_POINT_COMPUTE = 1,
    VK_PIPELINE_BIND_POINT_MAX_ENUM = 0x7fffffff
} VkPipelineBindPoint;
typedef enum VkQueryType { VK_QUERY_TYPE_TIMESTAMP = 2, VK_QUERY_TYPE_MAX_ENUM = 0x7fffffff } VkQueryType;
typedef enum VkSharingMode { VK_SHARING_MODE_EXCLUSIVE = 0, VK_SHARING_MODE_MAX_ENUM = 0x7fffffff } VkSharingMode;

enum { /* bits, counts and versions */
       VK_TRUE = 1,
       VK_API_VERSION_1_1 = 1 << 22 | 1 << 12,
       VK_API_VERSION_1_2 = 1 << 22 | 2 << 12,
       VK_QUEUE_COMPUTE_BIT = 0x2,
       VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT = 0x1,
       VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT = 0x2,
       VK_MEMORY_PROPERTY_HOST_COHERENT_BIT = 0x4,
       VK_MEMORY_PROPERTY_HOST_CACHED_BIT = 0x8,
       VK_MEMORY_HEAP_DEVICE_LOCAL_BIT = 0x1,
       VK_BUFFER_USAGE_TRANSFER_SRC_BIT = 0x1,
       VK_BUFFER_USAGE_TRANSFER_DST_BIT = 0x2,
       VK_BUFFER_USAGE_STORAGE_BUFFER_BIT = 0x20,
       VK_SHADER_STAGE_COMPUTE_BIT = 0x20,
       VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT = 0x800,
       VK_PIPELINE_STAGE_TRANSFER_BIT = 0x1000,
       VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT = 0x2000,
       VK_PIPELINE_STAGE_HOST_BIT = 0x4000,
       VK_ACCESS_SHADER_READ_BIT = 0x20,
       VK_ACCESS_SHADER_WRITE_BIT = 0x40,
       VK_ACCESS_TRANSFER_READ_BIT = 0x800,
       VK_ACCESS_TRANSFER_WRITE_BIT = 0x1000,
       VK_ACCESS_HOST_READ_BIT = 0x2000,
       VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT = 0x2,
       VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT = 0x1,
       VK_QUERY_RESULT_64_BIT = 0x1,
       VK_QUERY_RESULT_WAIT_BIT = 0x2,
       VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT = 0x80,
       VK_SUBGROUP_FEATURE_BASIC_BIT = 0x1,
       VK_SUBGROUP_FEATURE_VOTE_BIT = 0x2,
       VK_SUBGROUP_FEATURE_ARITHMETIC_BIT = 0x4,
       VK_SUBGROUP_FEATURE_BALLOT_BIT = 0x8,
       VK_SUBGROUP_FEATURE_SHUFFLE_BIT = 0x10,
       VK_SUBGROUP_FEATURE_SHUFFLE_RELATIVE_BIT = 0x20,
       VK_SUBGROUP_FEATURE_CLUSTERED_BIT = 0x40,
       VK_SUBGROUP_FEATURE_QUAD_BIT = 0x80,
       VK_PIPELINE_CACHE_HEADER_VERSION_ONE = 1
};

/* Enumerations of Vulkan's that the driver only passes on as numbers. */
typedef VkFlags VkShaderStageFlagBits, VkPipelineStageFlagBits, VkExternalMemoryHandleTypeFlagBits;

/* ---- Records ---- */

typedef struct VkApplicationInfo {
    VkStructureType sType;
    const void *pNext;
    const char *pApplicationName;
    uint32_t applicationVersion;
    const char *pEngineName;
    uint32_t engineVersion;
    uint32_t apiVersion;
} VkApplicationInfo;

typedef struct VkInstanceCreateInfo {
    VkStructureType sType;
    const void *pNext;
    VkFlags flags;
    const VkApplicationInfo *pApplicationInfo;
    uint32_t enabledLayerCount;
    const char *const *ppEnabledLayerNames;
    uint32_t enabledExtensionCount;
    const char *const *ppEnabledExtensionNames;
} VkInstanceCreateInfo;

typedef struct VkPhysicalDeviceLimits { /* with room for those that the driver does not look at */
    unsigned char room0[28];
    uint32_t maxStorageBufferRange;
    unsigned char room1[44];
    uint32_t maxPerStageDescriptorStorageBuffers;
    unsigned char room2[12];
    uint32_t maxPerStageResources;
    unsigned char room3[12];
    uint32_t maxDescriptorSetStorageBuffers;
    unsigned char room4[104];
    uint32_t maxComputeSharedMemorySize;
    uint32_t maxComputeWorkGroupCount[3];
    uint32_t maxComputeWorkGroupInvocations;
    uint32_t maxComputeWorkGroupSize[3];
    unsigned char room5[80];
    VkDeviceSize minStorageBufferOffsetAlignment;
    unsigned char room6[88];
    float timestampPeriod;
    unsigned char room7[68];
    VkDeviceSize nonCoherentAtomSize;
} VkPhysicalDeviceLimits;

typedef struct VkPhysicalDeviceProperties {
    uint32_t apiVersion;
    uint32_t driverVersion;
    uint32_t vendorID;
    uint32_t deviceID;
    VkPhysicalDeviceType deviceType;
    char deviceName[256];
    uint8_t pipelineCacheUUID[16];
    VkPhysicalDeviceLimits limits;
    VkBool32 sparseProperties[5];
} VkPhysicalDeviceProperties;

typedef struct VkPhysicalDeviceProperties2 {
    VkStructureType sType;
    void *pNext;
    VkPhysicalDeviceProperties properties;
} VkPhysicalDeviceProperties2;

typedef struct VkPhysicalDeviceSubgroupProperties {
    VkStructureType sType;
    void *pNext;
    uint32_t subgroupSize;
    VkFlags supportedStages;
    VkFlags supportedOperations;
    VkBool32 quadOperationsInAllStages;
} VkPhysicalDeviceSubgroupProperties;

typedef struct VkPhysicalDeviceMaintenance3Properties {
    VkStructureType sType;
    void *pNext;
    uint32_t maxPerSetDescriptors;
    VkDeviceSize maxMemoryAllocationSize;
} VkPhysicalDeviceMaintenance3Properties;

typedef struct VkPhysicalDeviceMaintenance4Properties {
    VkStructureType sType;
    void *pNext;
    VkDeviceSize maxBufferSize;
} VkPhysicalDeviceMaintenance4Properties;

typedef struct VkPhysicalDeviceDriverProperties {
    VkStructureType sType;
    void *pNext;
    uint32_t driverID;
    char driverName[256];
    char driverInfo[256];
    uint8_t conformanceVersion[4];
} VkPhysicalDeviceDriverProperties;

typedef struct VkPhysicalDeviceExternalMemoryHostPropertiesEXT {
    VkStructureType sType;
    void *pNext;
    VkDeviceSize minImportedHostPointerAlignment;
} VkPhysicalDeviceExternalMemoryHostPropertiesEXT;

typedef struct VkPhysicalDeviceFeatures { /* with room, as the limits */
    VkBool32 room0[39];
    VkBool32 shaderFloat64;
    VkBool32 shaderInt64;
    VkBool32 shaderInt16;
    VkBool32 room1[13];
} VkPhysicalDeviceFeatures;

typedef struct VkPhysicalDeviceFeatures2 {
    VkStructureType sType;
    void *pNext;
    VkPhysicalDeviceFeatures features;
} VkPhysicalDeviceFeatures2;

typedef struct VkPhysicalDevice16BitStorageFeatures {
    VkStructureType sType;
    void *pNext;
    VkBool32 storageBuffer16BitAccess;
    VkBool32 uniformAndStorageBuffer16BitAccess;
    VkBool32 storagePushConstant16;
    VkBool32 storageInputOutput16;
} VkPhysicalDevice16BitStorageFeatures;

typedef struct VkPhysicalDevice8BitStorageFeatures {
    VkStructureType sType;
    void *pNext;
    VkBool32 storageBuffer8BitAccess;
    VkBool32 uniformAndStorageBuffer8BitAccess;
    VkBool32 storagePushConstant8;
} VkPhysicalDevice8BitStorageFeatures;

typedef struct VkPhysicalDeviceShaderFloat16Int8Features {
    VkStructureType sType;
    void *pNext;
    VkBool32 shaderFloat16;
    VkBool32 shaderInt8;
} VkPhysicalDeviceShaderFloat16Int8Features;

typedef struct VkMemoryType {
    VkFlags propertyFlags;
    uint32_t heapIndex;
} VkMemoryType;

typedef struct VkMemoryHeap {
    VkDeviceSize size;
    VkFlags flags;
} VkMemoryHeap;

typedef struct VkPhysicalDeviceMemoryProperties {
    uint32_t memoryTypeCount;
    VkMemoryType memoryTypes[32];
    uint32_t memoryHeapCount;
    VkMemoryHeap memoryHeaps[16];
} VkPhysicalDeviceMemoryProperties;

typedef struct VkQueueFamilyProperties {
    VkFlags queueFlags;
    uint32_t queueCount;
    uint32_t timestampValidBits;
    uint32_t minImageTransferGranularity[3];
} VkQueueFamilyProperties;

typedef struct VkExtensionProperties {
    char extensionName[256];
    uint32_t specVersion;
} VkExtensionProperties;

typedef struct VkDeviceQueueCreateInfo {
    VkStructureType sType;
    const void *pNext;
    VkFlags flags;
    uint32_t queueFamilyIndex;
    uint32_t queueCount;
    const float *pQueuePriorities;
} VkDeviceQueueCreateInfo;

typedef struct VkDeviceCreateInfo {
    VkStructureType sType;
    const void *pNext;
    VkFlags flags;
    uint32_t queueCreateInfoCount;
    const VkDeviceQueueCreateInfo *pQueueCreateInfos;
    uint32_t enabledLayerCount;
    const char *const *ppEnabledLayerNames;
    uint32_t enabledExtensionCount;
    const char *const *ppEnabledExtensionNames;
    const VkPhysicalDeviceFeatures *pEnabledFeatures;
} VkDeviceCreateInfo;

typedef struct VkBufferCreateInfo {
    VkStructureType sType;
    const void *pNext;
    VkFlags flags;
    VkDeviceSize size;
    VkFlags usage;
    VkSharingMode sharingMode;
    uint32_t queueFamilyIndexCount;
    const uint32_t *pQueueFamilyIndices;
} VkBufferCreateInfo;

typedef struct VkExternalMemoryBufferCreateInfo {
    VkStructureType sType;
    const void *pNext;
    VkFlags handleTypes;
} VkExternalMemoryBufferCreateInfo;

typedef struct VkMemoryRequirements {
    VkDeviceSize size;
    VkDeviceSize alignment;
    uint32_t memoryTypeBits;
} VkMemoryRequirements;

typedef struct VkMemoryAllocateInfo {
    VkStructureType sType;
    const void *pNext;
    VkDeviceSize allocationSize;
    uint32_t memoryTypeIndex;
} VkMemoryAllocateInfo;

typedef struct VkImportMemoryHostPointerInfoEXT {
    VkStructureType sType;
    const void *pNext;
    VkExternalMemoryHandleTypeFlagBits handleType;
    void *pHostPointer;
} VkImportMemoryHostPointerInfoEXT;

typedef struct VkMemoryHostPointerPropertiesEXT {
    VkStructureType sType;
    void *pNext;
    uint32_t memoryTypeBits;
} VkMemoryHostPointerPropertiesEXT;

typedef struct VkMappedMemoryRange {
    VkStructureType sType;
    const void *pNext;
    VkDeviceMemory memory;
    VkDeviceSize offset;
    VkDeviceSize size;
} VkMappedMemoryRange;

typedef struct VkDescriptorSetLayoutBinding {
    uint32_t binding;
    VkDescriptorType descriptorType;
    uint32_t descriptorCount;
    VkFlags stageFlags;
    const VkSampler *pImmutableSamplers;
} VkDescriptorSetLayoutBinding;

typedef struct VkDescriptorSetLayoutCreateInfo {
    VkStructureType sType;
    const void *pNext;
    VkFlags flags;
    uint32_t bindingCount;
    const VkDescriptorSetLayoutBinding *pBindings;
} VkDescriptorSetLayoutCreateInfo;

typedef struct VkDescriptorPoolSize {
    VkDescriptorType type;
    uint32_t descriptorCount;
} VkDescriptorPoolSize;

typedef struct VkDescriptorPoolCreateInfo {
    VkStructureType sType;
    const void *pNext;
    VkFlags flags;
    uint32_t maxSets;
    uint32_t poolSizeCount;
    const VkDescriptorPoolSize *pPoolSizes;
} VkDescriptorPoolCreateInfo;

typedef struct VkDescriptorSetAllocateInfo {
    VkStructureType sType;
    const void *pNext;
    VkDescriptorPool descriptorPool;
    uint32_t descriptorSetCount;
    const VkDescriptorSetLayout *pSetLayouts;
} VkDescriptorSetAllocateInfo;

typedef struct VkDescriptorBufferInfo {
    VkBuffer buffer;
    VkDeviceSize offset;
    VkDeviceSize range;
} VkDescriptorBufferInfo;

typedef struct VkWriteDescriptorSet {
    VkStructureType sType;
    const void *pNext;
    VkDescriptorSet dstSet;
    uint32_t dstBinding;
    uint32_t dstArrayElement;
    uint32_t descriptorCount;
    VkDescriptorType descriptorType;
    const VkDescriptorImageInfo *pImageInfo;
    const VkDescriptorBufferInfo *pBufferInfo;
    const VkBufferView *pTexelBufferView;
} VkWriteDescriptorSet;

typedef struct VkPipelineLayoutCreateInfo {
    VkStructureType sType;
    const void *pNext;
    VkFlags flags;
    uint32_t setLayoutCount;
    const VkDescriptorSetLayout *pSetLayouts;
    uint32_t pushConstantRangeCount;
    const VkPushConstantRange *pPushConstantRanges;
} VkPipelineLayoutCreateInfo;

typedef struct VkShaderModuleCreateInfo {
    VkStructureType sType;
    const void *pNext;
    VkFlags flags;
    size_t codeSize;
    const uint32_t *pCode;
} VkShaderModuleCreateInfo;

typedef struct VkPipelineShaderStageCreateInfo {
    VkStructureType sType;
    const void *pNext;
    VkFlags flags;
    VkShaderStageFlagBits stage;
    VkShaderModule module;
    const char *pName;
    const VkSpecializationInfo *pSpecializationInfo;
} VkPipelineShaderStageCreateInfo;

typedef struct VkComputePipelineCreateInfo {
    VkStructureType sType;
    const void *pNext;
    VkFlags flags;
    VkPipelineShaderStageCreateInfo stage;
    VkPipelineLayout layout;
    VkPipeline basePipelineHandle;
    int32_t basePipelineIndex;
} VkComputePipelineCreateInfo;

typedef struct VkPipelineCacheCreateInfo {
    VkStructureType sType;
    const void *pNext;
    VkFlags flags;
    size_t initialDataSize;
    const void *pInitialData;
} VkPipelineCacheCreateInfo;

typedef struct VkPipelineCacheHeaderVersionOne {
    uint32_t headerSize;
    uint32_t headerVersion;
    uint32_t vendorID;
    uint32_t deviceID;
    uint8_t pipelineCacheUUID[16];
} VkPipelineCacheHeaderVersionOne;

typedef struct VkCommandPoolCreateInfo {
    VkStructureType sType;
    const void *pNext;
    VkFlags flags;
    uint32_t queueFamilyIndex;
} VkCommandPoolCreateInfo;

typedef struct VkCommandBufferAllocateInfo {
    VkStructureType sType;
    const void *pNext;
    VkCommandPool commandPool;
    VkCommandBufferLevel level;
    uint32_t commandBufferCount;
} VkCommandBufferAllocateInfo;

typedef struct VkCommandBufferBeginInfo {
    VkStructureType sType;
    const void *pNext;
    VkFlags flags;
    const VkCommandBufferInheritanceInfo *pInheritanceInfo;
} VkCommandBufferBeginInfo;

typedef struct VkSubmitInfo {
    VkStructureType sType;
    const void *pNext;
    uint32_t waitSemaphoreCount;
    const VkSemaphore *pWaitSemaphores;
    const VkFlags *pWaitDstStageMask;
    uint32_t commandBufferCount;
    const VkCommandBuffer *pCommandBuffers;
    uint32_t signalSemaphoreCount;
    const VkSemaphore *pSignalSemaphores;
} VkSubmitInfo;

typedef struct VkFenceCreateInfo {
    VkStructureType sType;
    const void *pNext;
    VkFlags flags;
} VkFenceCreateInfo;

typedef struct VkQueryPoolCreateInfo {
    VkStructureType sType;
    const void *pNext;
    VkFlags flags;
    VkQueryType queryType;
    uint32_t queryCount;
    VkFlags pipelineStatistics;
} VkQueryPoolCreateInfo;

typedef struct VkMemoryBarrier {
    VkStructureType sType;
    const void *pNext;
    VkFlags srcAccessMask;
    VkFlags dstAccessMask;
} VkMemoryBarrier;

typedef struct VkBufferCopy {
    VkDeviceSize srcOffset;
    VkDeviceSize dstOffset;
    VkDeviceSize size;
} VkBufferCopy;

/* ---- Functions: X(name without vk, result, arguments) ---- */

typedef void (*PFN_vkVoidFunction)(void);

/* Found without an instance. */
#define VK_GLOBAL_FUNCTIONS(X)                                                                                         \
    X(EnumerateInstanceVersion, VkResult, (uint32_t *))                                                                \
    X(CreateInstance, VkResult, (const VkInstanceCreateInfo *, const VkAllocationCallbacks *, VkInstance *))

/* Found through the instance. */
#define VK_INSTANCE_FUNCTIONS(X)                                                                                       \
    X(DestroyInstance, void, (VkInstance, const VkAllocationCallbacks *))                                              \
    X(EnumeratePhysicalDevices, VkResult, (VkInstance, uint32_t *, VkPhysicalDevice *))                                \
    X(EnumerateDeviceExtensionProperties, VkResult,                                                                    \
      (VkPhysicalDevice, const char *, uint32_t *, VkExtensionProperties *))                                           \
    X(GetPhysicalDeviceProperties, void, (VkPhysicalDevice, VkPhysicalDeviceProperties *))                             \
    X(GetPhysicalDeviceProperties2, void, (VkPhysicalDevice, VkPhysicalDeviceProperties2 *))                           \
    X(GetPhysicalDeviceFeatures2, void, (VkPhysicalDevice, VkPhysicalDeviceFeatures2 *))                               \
    X(GetPhysicalDeviceMemoryProperties, void, (VkPhysicalDevice, VkPhysicalDeviceMemoryProperties *))                 \
    X(GetPhysicalDeviceQueueFamilyProperties, void, (VkPhysicalDevice, uint32_t *, VkQueueFamilyProperties *))         \
    X(CreateDevice, VkResult,                                                                                          \
      (VkPhysicalDevice, const VkDeviceCreateInfo *, const VkAllocationCallbacks *, VkDevice *))                       \
    X(GetDeviceProcAddr, PFN_vkVoidFunction, (VkDevice, const char *))

/* Found through the device. */
#define VK_DEVICE_FUNCTIONS(X)                                                                                         \
    X(DestroyDevice, void, (VkDevice, const VkAllocationCallbacks *))                                                  \
    X(GetDeviceQueue, void, (VkDevice, uint32_t, uint32_t, VkQueue *))                                                 \
    X(CreateBuffer, VkResult, (VkDevice, const VkBufferCreateInfo *, const VkAllocationCallbacks *, VkBuffer *))       \
    X(DestroyBuffer, void, (VkDevice, VkBuffer, const VkAllocationCallbacks *))                                        \
    X(GetBufferMemoryRequirements, void, (VkDevice, VkBuffer, VkMemoryRequirements *))                                 \
    X(AllocateMemory, VkResult,                                                                                        \
      (VkDevice, const VkMemoryAllocateInfo *, const VkAllocationCallbacks *, VkDeviceMemory *))                       \
    X(FreeMemory, void, (VkDevice, VkDeviceMemory, const VkAllocationCallbacks *))                                     \
    X(BindBufferMemory, VkResult, (VkDevice, VkBuffer, VkDeviceMemory, VkDeviceSize))                                  \
    X(MapMemory, VkResult, (VkDevice, VkDeviceMemory, VkDeviceSize, VkDeviceSize, VkFlags, void **))                   \
    X(FlushMappedMemoryRanges, VkResult, (VkDevice, uint32_t, const VkMappedMemoryRange *))                            \
    X(InvalidateMappedMemoryRanges, VkResult, (VkDevice, uint32_t, const VkMappedMemoryRange *))                       \
    X(CreateDescriptorSetLayout, VkResult,                                                                             \
      (VkDevice, const VkDescriptorSetLayoutCreateInfo *, const VkAllocationCallbacks *, VkDescriptorSetLayout *))     \
    X(DestroyDescriptorSetLayout, void, (VkDevice, VkDescriptorSetLayout, const VkAllocationCallbacks *))              \
    X(CreateDescriptorPool, VkResult,                                                                                  \
      (VkDevice, const VkDescriptorPoolCreateInfo *, const VkAllocationCallbacks *, VkDescriptorPool *))               \
    X(DestroyDescriptorPool, void, (VkDevice, VkDescriptorPool, const VkAllocationCallbacks *))                        \
    X(AllocateDescriptorSets, VkResult, (VkDevice, const VkDescriptorSetAllocateInfo *, VkDescriptorSet *))            \
    X(UpdateDescriptorSets, void,                                                                                      \
      (VkDevice, uint32_t, const VkWriteDescriptorSet *, uint32_t, const VkCopyDescriptorSet *))                       \
    X(CreatePipelineLayout, VkResult,                                                                                  \
      (VkDevice, const VkPipelineLayoutCreateInfo *, const VkAllocationCallbacks *, VkPipelineLayout *))               \
    X(DestroyPipelineLayout, void, (VkDevice, VkPipelineLayout, const VkAllocationCallbacks *))                        \
    X(CreateShaderModule, VkResult,                                                                                    \
      (VkDevice, const VkShaderModuleCreateInfo *, const VkAllocationCallbacks *, VkShaderModule *))                   \
    X(DestroyShaderModule, void, (VkDevice, VkShaderModule, const VkAllocationCallbacks *))                            \
    X(CreatePipelineCache, VkResult,                                                                                   \
      (VkDevice, const VkPipelineCacheCreateInfo *, const VkAllocationCallbacks *, VkPipelineCache *))                 \
    X(GetPipelineCacheData, VkResult, (VkDevice, VkPipelineCache, size_t *, void *))                                   \
    X(DestroyPipelineCache, void, (VkDevice, VkPipelineCache, const VkAllocationCallbacks *))                          \
    X(CreateComputePipelines, VkResult,                                                                                \
      (VkDevice, VkPipelineCache, uint32_t, const VkComputePipelineCreateInfo *, const VkAllocationCallbacks *,        \
       VkPipeline *))                                                                                                  \
    X(DestroyPipeline, void, (VkDevice, VkPipeline, const VkAllocationCallbacks *))                                    \
    X(CreateCommandPool, VkResult,                                                                                     \
      (VkDevice, const VkCommandPoolCreateInfo *, const VkAllocationCallbacks *, VkCommandPool *))                     \
    X(DestroyCommandPool, void, (VkDevice, VkCommandPool, const VkAllocationCallbacks *))                              \
    X(AllocateCommandBuffers, VkResult, (VkDevice, const VkCommandBufferAllocateInfo *, VkCommandBuffer *))            \
    X(BeginCommandBuffer, VkResult, (VkCommandBuffer, const VkCommandBufferBeginInfo *))                               \
    X(EndCommandBuffer, VkResult, (VkCommandBuffer))                                                                   \
    X(CmdBindPipeline, void, (VkCommandBuffer, VkPipelineBindPoint, VkPipeline))                                       \
    X(CmdBindDescriptorSets, void,                                                                                     \
      (VkCommandBuffer, VkPipelineBindPoint, VkPipelineLayout, uint32_t, uint32_t, const VkDescriptorSet *, uint32_t,  \
       const uint32_t *))                                                                                              \
    X(CmdDispatch, void, (VkCommandBuffer, uint32_t, uint32_t, uint32_t))                                              \
    X(CmdPipelineBarrier, void,                                                                                        \
      (VkCommandBuffer, VkFlags, VkFlags, VkFlags, uint32_t, const VkMemoryBarrier *, uint32_t,                        \
       const VkBufferMemoryBarrier *, uint32_t, const VkImageMemoryBarrier *))                                         \
    X(CmdCopyBuffer, void, (VkCommandBuffer, VkBuffer, VkBuffer, uint32_t, const VkBufferCopy *))                      \
    X(CmdFillBuffer, void, (VkCommandBuffer, VkBuffer, VkDeviceSize, VkDeviceSize, uint32_t))                          \
    X(CmdResetQueryPool, void, (VkCommandBuffer, VkQueryPool, uint32_t, uint32_t))                                     \
    X(CmdWriteTimestamp, void, (VkCommandBuffer, VkPipelineStageFlagBits, VkQueryPool, uint32_t))                      \
    X(CreateQueryPool, VkResult,                                                                                       \
      (VkDevice, const VkQueryPoolCreateInfo *, const VkAllocationCallbacks *, VkQueryPool *))                         \
    X(DestroyQueryPool, void, (VkDevice, VkQueryPool, const VkAllocationCallbacks *))                                  \
    X(GetQueryPoolResults, VkResult,                                                                                   \
      (VkDevice, VkQueryPool, uint32_t, uint32_t, size_t, void *, VkDeviceSize, VkFlags))                              \
    X(CreateFence, VkResult, (VkDevice, const VkFenceCreateInfo *, const VkAllocationCallbacks *, VkFence *))          \
    X(DestroyFence, void, (VkDevice, VkFence, const VkAllocationCallbacks *))                                          \
    X(ResetFences, VkResult, (VkDevice, uint32_t, const VkFence *))                                                    \
    X(WaitForFences, VkResult, (VkDevice, uint32_t, const VkFence *, VkBool32, uint64_t))                              \
    X(QueueSubmit, VkResult, (VkQueue, uint32_t, const VkSubmitInfo *, VkFence))

/* Found through the device where it has VK_EXT_external_memory_host. */
#define VK_OPTIONAL_FUNCTIONS(X)                                                                                       \
    X(GetMemoryHostPointerPropertiesEXT, VkResult,                                                                     \
      (VkDevice, VkExternalMemoryHandleTypeFlagBits, const void *, VkMemoryHostPointerPropertiesEXT *))

/* How the library itself is asked: vkGetInstanceProcAddr. */
typedef PFN_vkVoidFunction (*PFN_vkGetInstanceProcAddr)(VkInstance, const char *);

#endif
