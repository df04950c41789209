/* A Vulkan driver that is a real one (lavapipe), made to look like what no test machine has: graphics cards, phones,
 * old or small devices, and devices that fail. It is loaded as any driver, by a loader or directly.
 *
 * FAKE_VULKAN_DRIVER names the real driver's library. FAKE_VULKAN says what to change, `key=value` separated by ';':
 *   devices=cpu:Slow,gpu:Fast  several devices of these types and names (only without a loader)
 *   api=1                      Vulkan 1.1
 *   hide=NAME,NAME             extensions
 *   features=0                 no features, no subgroup operations
 *   limit:NAME=N               max_range, max_allocation, heap, threads, dim, local, buffers, groups, import_alignment
 *   memory=card                the device's memory is not mapped; the host's is cached, not coherent
 *   memory=phone               one memory for both, cached, not coherent
 *   memory=window              as card, and a small coherent window into the device's memory before it
 *   timestamps=0               none
 *   log=PATH                   a letter for each call: B barrier, D dispatch, C copy, F fill, S submit, W write
 * timestamp, I import, X a device is destroyed fail=NAME                  each call of this function that returns a
 * result fails fail_allocation=N          the Nth allocation fails lose=N                     the Nth submission loses
 * the device hang=N                     the Nth submission never ends; its fence and device may not be destroyed of the
 * last three one at a time.
 *
 * Memory that is not coherent is a copy, filled with garbage, that only flushing and invalidating bring up to date. */
#include "vulkan_api.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))
enum { MAX_MEMORIES = 4096, MAX_DEVICES = 4, GARBAGE = 0xEE };

static struct {
#define FIELD(name, result, arguments) result(*name) arguments;
    VK_GLOBAL_FUNCTIONS(FIELD)
    VK_INSTANCE_FUNCTIONS(FIELD)
    VK_DEVICE_FUNCTIONS(FIELD)
    VK_OPTIONAL_FUNCTIONS(FIELD)
#undef FIELD
} real;
static PFN_vkGetInstanceProcAddr real_get;
static void (*real_get_memory2)(VkPhysicalDevice, void *);
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- What to change ---- */

/* The value of a key in FAKE_VULKAN; false when it is not there. */
static bool option(const char *key, char out[256]) {
    const char *at = getenv("FAKE_VULKAN");
    size_t length = strlen(key);
    while (at && *at) {
        size_t end = strcspn(at, ";");
        if (end > length && !strncmp(at, key, length) && at[length] == '=') {
            snprintf(out, 256, "%.*s", (int)(end - length - 1), at + length + 1);
            return true;
        }
        at += end + (at[end] == ';');
    }
    return false;
}

static bool is(const char *key, const char *value) {
    char found[256];
    return option(key, found) && !strcmp(found, value);
}

static unsigned long long number(const char *key, unsigned long long otherwise) {
    char found[256];
    return option(key, found) ? strtoull(found, NULL, 10) : otherwise;
}

static bool listed(const char *key, const char *name) {
    char found[256];
    if (!option(key, found)) return false;
    char *rest = NULL;
    for (char *word = strtok_r(found, ",", &rest); word; word = strtok_r(NULL, ",", &rest))
        if (!strcmp(word, name)) return true;
    return false;
}

static void note(char letter) {
    char path[256];
    if (!option("log", path)) return;
    FILE *file = fopen(path, "a");
    if (!file) return;
    fputc(letter, file);
    fclose(file);
}

/* How many calls are left until the one that a key counts to, from where FAKE_VULKAN was set; far too many without it.
 */
static long long calls_left(const char *key) {
    static char seen[256];
    static long long count;
    char found[256];
    if (!option(key, found)) return INT64_MAX;
    const char *all = getenv("FAKE_VULKAN");
    if (strncmp(all, seen, sizeof seen - 1)) count = 0;
    snprintf(seen, sizeof seen, "%s", all);
    return strtoll(found, NULL, 10) - ++count;
}

/* A wrong use ends the process, as a real driver might. */
static void die(const char *what) {
    fprintf(stderr, "fake_vulkan: %s\n", what);
    abort();
}

/* ---- Instances and physical devices ---- */

static struct device { /* the first word is what a loader expects of a handle */
    uintptr_t magic;
    VkPhysicalDevice handle;
    char name[64];
    VkPhysicalDeviceType type;
} devices[MAX_DEVICES];
static uint32_t n_devices;

static struct device *faked(VkPhysicalDevice device) {
    for (uint32_t i = 0; i < n_devices; i++)
        if ((VkPhysicalDevice)(void *)&devices[i] == device) return &devices[i];
    return NULL;
}

static VkPhysicalDevice unwrap(VkPhysicalDevice device) {
    const struct device *own = faked(device);
    return own ? own->handle : device;
}

static VkResult create_instance(const VkInstanceCreateInfo *info, const VkAllocationCallbacks *a, VkInstance *out) {
    VkResult result = real.CreateInstance(info, a, out);
    if (result) return result;
#define FIND(name, type, arguments) real.name = (type(*) arguments)real_get(*out, "vk" #name);
    VK_INSTANCE_FUNCTIONS(FIND)
#undef FIND
    real_get_memory2 = (void (*)(VkPhysicalDevice, void *))real_get(*out, "vkGetPhysicalDeviceMemoryProperties2");
    return VK_SUCCESS;
}

static VkResult enumerate_devices(VkInstance instance, uint32_t *n, VkPhysicalDevice *out) {
    char list[256], *rest = NULL;
    uint32_t one = 1, room = *n;
    if (!option("devices", list)) return real.EnumeratePhysicalDevices(instance, n, out);
    n_devices = 0;
    for (char *word = strtok_r(list, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
        struct device *d = &devices[n_devices++];
        VkResult result = real.EnumeratePhysicalDevices(instance, &one, &d->handle);
        if (result < 0) return result;
        d->type = !strncmp(word, "gpu:", 4)           ? VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU
                  : !strncmp(word, "integrated:", 11) ? VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU
                  : !strncmp(word, "virtual:", 8)     ? VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU
                  : !strncmp(word, "cpu:", 4)         ? VK_PHYSICAL_DEVICE_TYPE_CPU
                                                      : VK_PHYSICAL_DEVICE_TYPE_OTHER;
        snprintf(d->name, sizeof d->name, "%s", strchr(word, ':') + 1);
    }
    *n = n_devices;
    for (uint32_t i = 0; out && i < n_devices && i < room; i++)
        out[i] = (VkPhysicalDevice)(void *)&devices[i];
    return VK_SUCCESS;
}

static void change_properties(VkPhysicalDevice device, VkPhysicalDeviceProperties *p) {
    const struct device *own = faked(device);
    uint32_t dim = (uint32_t)number("limit:dim", UINT32_MAX), groups = (uint32_t)number("limit:groups", UINT32_MAX);
    VkPhysicalDeviceLimits *l = &p->limits;
    if (own) {
        snprintf(p->deviceName, sizeof p->deviceName, "%s", own->name);
        p->deviceType = own->type;
    }
    if (is("api", "1")) p->apiVersion = VK_API_VERSION_1_1;
    if (is("api", "0")) p->apiVersion = 1 << 22;
    l->maxStorageBufferRange = (uint32_t)number("limit:max_range", l->maxStorageBufferRange);
    l->maxComputeWorkGroupInvocations = (uint32_t)number("limit:threads", l->maxComputeWorkGroupInvocations);
    l->maxComputeSharedMemorySize = (uint32_t)number("limit:local", l->maxComputeSharedMemorySize);
    l->maxPerStageDescriptorStorageBuffers = (uint32_t)number("limit:buffers", l->maxPerStageDescriptorStorageBuffers);
    for (int d = 0; d < 3; d++) {
        if (l->maxComputeWorkGroupSize[d] > dim) l->maxComputeWorkGroupSize[d] = dim;
        if (l->maxComputeWorkGroupCount[d] > groups) l->maxComputeWorkGroupCount[d] = groups;
    }
}

static void get_properties(VkPhysicalDevice device, VkPhysicalDeviceProperties *p) {
    real.GetPhysicalDeviceProperties(unwrap(device), p);
    change_properties(device, p);
}

/* Every record of a chain begins like this one. */
typedef VkPhysicalDeviceSubgroupProperties record;

static void get_properties2(VkPhysicalDevice device, VkPhysicalDeviceProperties2 *p) {
    real.GetPhysicalDeviceProperties2(unwrap(device), p);
    change_properties(device, &p->properties);
    for (record *r = p->pNext; r; r = r->pNext) {
        VkPhysicalDeviceMaintenance3Properties *memory = (void *)r;
        VkPhysicalDeviceExternalMemoryHostPropertiesEXT *import = (void *)r;
        if (r->sType == VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES)
            memory->maxMemoryAllocationSize = number("limit:max_allocation", memory->maxMemoryAllocationSize);
        if (r->sType == VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_MEMORY_HOST_PROPERTIES_EXT)
            import->minImportedHostPointerAlignment =
                number("limit:import_alignment", import->minImportedHostPointerAlignment);
        if (r->sType == VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES && is("features", "0"))
            r->supportedOperations = 0;
    }
}

static void get_features2(VkPhysicalDevice device, VkPhysicalDeviceFeatures2 *f) {
    real.GetPhysicalDeviceFeatures2(unwrap(device), f);
    if (!is("features", "0")) return;
    memset(&f->features, 0, sizeof f->features);
    for (record *r = f->pNext; r; r = r->pNext) {
        VkPhysicalDevice16BitStorageFeatures *storage16 = (void *)r;
        VkPhysicalDevice8BitStorageFeatures *storage8 = (void *)r;
        VkPhysicalDeviceShaderFloat16Int8Features *small = (void *)r;
        if (r->sType == VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_16BIT_STORAGE_FEATURES)
            storage16->storageBuffer16BitAccess = storage16->uniformAndStorageBuffer16BitAccess = 0;
        if (r->sType == VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_8BIT_STORAGE_FEATURES)
            storage8->storageBuffer8BitAccess = storage8->uniformAndStorageBuffer8BitAccess = 0;
        if (r->sType == VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_FLOAT16_INT8_FEATURES)
            small->shaderFloat16 = small->shaderInt8 = 0;
    }
}

static VkResult get_extensions(VkPhysicalDevice device, const char *layer, uint32_t *n, VkExtensionProperties *out) {
    uint32_t all = 0, kept = 0;
    VkResult result = real.EnumerateDeviceExtensionProperties(unwrap(device), layer, &all, NULL);
    if (result) return result;
    VkExtensionProperties *found = calloc(all + 1, sizeof *found);
    result = real.EnumerateDeviceExtensionProperties(unwrap(device), layer, &all, found);
    for (uint32_t i = 0; i < all; i++)
        if (!listed("hide", found[i].extensionName)) found[kept++] = found[i];
    for (uint32_t i = 0; out && i < kept && i < *n; i++)
        out[i] = found[i];
    *n = kept;
    free(found);
    return result;
}

static void get_queues(VkPhysicalDevice device, uint32_t *n, VkQueueFamilyProperties *out) {
    real.GetPhysicalDeviceQueueFamilyProperties(unwrap(device), n, out);
    for (uint32_t i = 0; out && i < *n && is("timestamps", "0"); i++)
        out[i].timestampValidBits = 0;
}

/* ---- Memory ---- */

typedef struct memory {
    VkDeviceMemory handle;
    uint64_t bytes;
    bool coherent;
    unsigned char *real, *copy; /* while it is mapped */
} memory;
static memory memories[MAX_MEMORIES];

static bool many_types(void) {
    char found[256];
    return option("memory", found);
}

static void change_memory(VkPhysicalDeviceMemoryProperties *m) {
    enum { LOCAL = 1, VISIBLE = 2, COHERENT = 4, CACHED = 8 };
    VkDeviceSize heap = number("limit:heap", m->memoryHeaps[0].size);
    m->memoryHeaps[0].size = heap;
    if (!many_types()) return;
    m->memoryTypeCount = 0;
    m->memoryHeapCount = 2;
    m->memoryHeaps[1] = (VkMemoryHeap){heap, 0};
    if (is("memory", "window")) m->memoryTypes[m->memoryTypeCount++] = (VkMemoryType){LOCAL | VISIBLE | COHERENT, 0};
    if (is("memory", "phone")) m->memoryTypes[m->memoryTypeCount++] = (VkMemoryType){LOCAL | VISIBLE | CACHED, 0};
    m->memoryTypes[m->memoryTypeCount++] = (VkMemoryType){LOCAL, 0};
    m->memoryTypes[m->memoryTypeCount++] = (VkMemoryType){VISIBLE | COHERENT, 1};
    m->memoryTypes[m->memoryTypeCount++] = (VkMemoryType){VISIBLE | CACHED, 1};
}

static void get_memory(VkPhysicalDevice device, VkPhysicalDeviceMemoryProperties *m) {
    real.GetPhysicalDeviceMemoryProperties(unwrap(device), m);
    change_memory(m);
}

typedef struct memory2 { /* VkPhysicalDeviceMemoryProperties2, which only the loader's layers ask for */
    VkStructureType sType;
    void *pNext;
    VkPhysicalDeviceMemoryProperties properties;
} memory2;

static void get_memory2(VkPhysicalDevice device, memory2 *m) {
    real_get_memory2(unwrap(device), m);
    change_memory(&m->properties);
}

static VkFlags properties_of(uint32_t type) {
    VkPhysicalDeviceMemoryProperties m = {.memoryTypeCount = 0};
    if (!many_types()) return VK_MEMORY_PROPERTY_HOST_COHERENT_BIT | VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT;
    change_memory(&m);
    return m.memoryTypes[type].propertyFlags;
}

static VkResult create_buffer(VkDevice device, const VkBufferCreateInfo *info, const VkAllocationCallbacks *a,
                              VkBuffer *out) {
    for (const record *next = info->pNext; next; next = next->pNext)
        if (next->sType == VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_BUFFER_CREATE_INFO) note('E');
    return real.CreateBuffer(device, info, a, out);
}

static void get_requirements(VkDevice device, VkBuffer buffer, VkMemoryRequirements *out) {
    VkPhysicalDeviceMemoryProperties m = {.memoryTypeCount = 1};
    real.GetBufferMemoryRequirements(device, buffer, out);
    change_memory(&m);
    out->memoryTypeBits = (1u << m.memoryTypeCount) - 1;
}

static VkResult get_host_pointer(VkDevice device, VkExternalMemoryHandleTypeFlagBits type, const void *at,
                                 VkMemoryHostPointerPropertiesEXT *out) {
    VkResult result = real.GetMemoryHostPointerPropertiesEXT(device, type, at, out);
    if (many_types()) out->memoryTypeBits = is("memory", "phone") ? 1 : 1u << (is("memory", "window") ? 2 : 1);
    return result;
}

static VkResult allocate(VkDevice device, const VkMemoryAllocateInfo *info, const VkAllocationCallbacks *a,
                         VkDeviceMemory *out) {
    VkMemoryAllocateInfo changed = *info;
    const record *next = info->pNext;
    if (calls_left("fail_allocation") <= 0 || number("fail_type", UINT32_MAX) == info->memoryTypeIndex)
        return VK_ERROR_OUT_OF_DEVICE_MEMORY;
    if (info->allocationSize > number("limit:max_allocation", UINT64_MAX)) die("an allocation larger than allowed");
    changed.memoryTypeIndex = 0;
    VkResult result = real.AllocateMemory(device, &changed, a, out);
    if (result) return result;
    for (; next; next = next->pNext)
        if (next->sType == VK_STRUCTURE_TYPE_IMPORT_MEMORY_HOST_POINTER_INFO_EXT) note('I');
    pthread_mutex_lock(&lock);
    memory *m = memories;
    while (m->handle)
        m++;
    *m = (memory){*out, info->allocationSize,
                  properties_of(info->memoryTypeIndex) & VK_MEMORY_PROPERTY_HOST_COHERENT_BIT, NULL, NULL};
    pthread_mutex_unlock(&lock);
    return VK_SUCCESS;
}

static memory *find(VkDeviceMemory handle) {
    for (memory *m = memories; m < memories + MAX_MEMORIES; m++)
        if (m->handle == handle) return m;
    die("memory that is not there");
    return NULL;
}

static void free_memory(VkDevice device, VkDeviceMemory handle, const VkAllocationCallbacks *a) {
    if (!handle) return;
    pthread_mutex_lock(&lock);
    memory *m = find(handle);
    free(m->copy);
    *m = (memory){.handle = NULL};
    pthread_mutex_unlock(&lock);
    real.FreeMemory(device, handle, a);
}

static VkResult map(VkDevice device, VkDeviceMemory handle, VkDeviceSize offset, VkDeviceSize bytes, VkFlags flags,
                    void **out) {
    memory *m = find(handle);
    VkResult result = real.MapMemory(device, handle, 0, m->bytes, flags, (void **)&m->real);
    if (result) return result;
    if (offset || bytes != m->bytes) die("only whole memories are mapped here");
    *out = m->real;
    if (m->coherent) return VK_SUCCESS;
    *out = m->copy = malloc(m->bytes);
    memset(m->copy, GARBAGE, m->bytes);
    return VK_SUCCESS;
}

static void copy_ranges(uint32_t n, const VkMappedMemoryRange *ranges, bool to_device) {
    for (uint32_t i = 0; i < n; i++) {
        const VkMappedMemoryRange *r = &ranges[i];
        memory *m = find(r->memory);
        if (!m->copy) die("a range of memory that needs no flush");
        if (r->offset % 64 || r->size % 64 || r->offset + r->size > m->bytes) die("a range that is not of whole atoms");
        memcpy((to_device ? m->real : m->copy) + r->offset, (to_device ? m->copy : m->real) + r->offset, r->size);
    }
}

static VkResult flush(VkDevice device, uint32_t n, const VkMappedMemoryRange *ranges) {
    (void)device;
    copy_ranges(n, ranges, true);
    return VK_SUCCESS;
}

static VkResult invalidate(VkDevice device, uint32_t n, const VkMappedMemoryRange *ranges) {
    (void)device;
    copy_ranges(n, ranges, false);
    return VK_SUCCESS;
}

/* ---- Commands ---- */

static VkFence hung_fence, lost_fence;
static VkDevice hung_device;

static VkResult submit(VkQueue queue, uint32_t n, const VkSubmitInfo *infos, VkFence fence) {
    note('S');
    if (!calls_left("lose")) {
        lost_fence = fence;
        return VK_ERROR_DEVICE_LOST;
    }
    if (!calls_left("hang")) {
        hung_fence = fence;
        return VK_SUCCESS;
    }
    return real.QueueSubmit(queue, n, infos, fence);
}

static VkResult wait(VkDevice device, uint32_t n, const VkFence *fences, VkBool32 all, uint64_t timeout_ns) {
    if (fences[0] == lost_fence) return VK_ERROR_DEVICE_LOST;
    if (fences[0] != hung_fence) return real.WaitForFences(device, n, fences, all, timeout_ns);
    hung_device = device;
    nanosleep(&(struct timespec){(time_t)(timeout_ns / 1000000000), (long)(timeout_ns % 1000000000)}, NULL);
    return VK_TIMEOUT;
}

static void destroy_fence(VkDevice device, VkFence fence, const VkAllocationCallbacks *a) {
    if (fence && fence == hung_fence) die("a fence was destroyed while the device hangs");
    if (fence == lost_fence) lost_fence = NULL;
    real.DestroyFence(device, fence, a);
}

static void destroy_device(VkDevice device, const VkAllocationCallbacks *a) {
    note('X');
    if (device == hung_device) die("a device was destroyed while it hangs");
    real.DestroyDevice(device, a);
}

/* What either side of a barrier has to name of its stages. */
static VkFlags accesses(VkFlags stages, bool written_only) {
    VkFlags compute = VK_ACCESS_SHADER_WRITE_BIT | (written_only ? 0u : VK_ACCESS_SHADER_READ_BIT);
    VkFlags transfer = VK_ACCESS_TRANSFER_WRITE_BIT | (written_only ? 0u : VK_ACCESS_TRANSFER_READ_BIT);
    return (stages & VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT ? compute : 0u) |
           (stages & VK_PIPELINE_STAGE_TRANSFER_BIT ? transfer : 0u) |
           (stages & VK_PIPELINE_STAGE_HOST_BIT ? VK_ACCESS_HOST_READ_BIT : 0u);
}

static void barrier(VkCommandBuffer commands, VkFlags from, VkFlags to, VkFlags flags, uint32_t n,
                    const VkMemoryBarrier *barriers, uint32_t n_buffers, const VkBufferMemoryBarrier *buffers,
                    uint32_t n_images, const VkImageMemoryBarrier *images) {
    note('B');
    if (n != 1 || barriers->srcAccessMask != accesses(from, true) || barriers->dstAccessMask != accesses(to, false))
        die("a barrier that does not name all accesses");
    real.CmdPipelineBarrier(commands, from, to, flags, n, barriers, n_buffers, buffers, n_images, images);
}

static void dispatch(VkCommandBuffer commands, uint32_t x, uint32_t y, uint32_t z) {
    note('D');
    real.CmdDispatch(commands, x, y, z);
}

static void copy(VkCommandBuffer commands, VkBuffer from, VkBuffer to, uint32_t n, const VkBufferCopy *ranges) {
    note('C');
    real.CmdCopyBuffer(commands, from, to, n, ranges);
}

static void fill(VkCommandBuffer commands, VkBuffer buffer, VkDeviceSize offset, VkDeviceSize bytes, uint32_t value) {
    note('F');
    real.CmdFillBuffer(commands, buffer, offset, bytes, value);
}

static void write_time(VkCommandBuffer commands, VkPipelineStageFlagBits stage, VkQueryPool pool, uint32_t i) {
    note('W');
    real.CmdWriteTimestamp(commands, stage, pool, i);
}

/* ---- How functions are found ---- */

static VkResult failing(void) {
    return VK_ERROR_INITIALIZATION_FAILED;
}

static PFN_vkVoidFunction get_device(VkDevice device, const char *name);

/* Of what Vulkan 1.2 has, a device of 1.1 is told through extensions. */
static void need_extension(const VkDeviceCreateInfo *info, const char *name) {
    bool found = !is("api", "1");
    for (uint32_t i = 0; i < info->enabledExtensionCount; i++)
        found = found || !strcmp(info->ppEnabledExtensionNames[i], name);
    if (!found) die("a record of an extension that is not switched on");
}

static VkResult create_device(VkPhysicalDevice device, const VkDeviceCreateInfo *info, const VkAllocationCallbacks *a,
                              VkDevice *out) {
    for (const record *next = info->pNext; next; next = next->pNext) {
        if (next->sType == VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_8BIT_STORAGE_FEATURES)
            need_extension(info, "VK_KHR_8bit_storage");
        if (next->sType == VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_FLOAT16_INT8_FEATURES)
            need_extension(info, "VK_KHR_shader_float16_int8");
    }
    VkResult result = real.CreateDevice(unwrap(device), info, a, out);
    if (result) return result;
#define FIND(name, type, arguments) real.name = (type(*) arguments)real.GetDeviceProcAddr(*out, "vk" #name);
    VK_DEVICE_FUNCTIONS(FIND)
    VK_OPTIONAL_FUNCTIONS(FIND)
#undef FIND
    note('O');
    return VK_SUCCESS;
}

static PFN_vkVoidFunction get_instance(VkInstance instance, const char *name);

#define OWN(name, function) {"vk" name, (PFN_vkVoidFunction)(function)}
static const struct own {
    const char *name;
    PFN_vkVoidFunction function;
} OWNS[] = {
    OWN("GetInstanceProcAddr", get_instance),
    OWN("GetDeviceProcAddr", get_device),
    OWN("CreateInstance", create_instance),
    OWN("EnumeratePhysicalDevices", enumerate_devices),
    OWN("GetPhysicalDeviceProperties", get_properties),
    OWN("GetPhysicalDeviceProperties2", get_properties2),
    OWN("GetPhysicalDeviceFeatures2", get_features2),
    OWN("EnumerateDeviceExtensionProperties", get_extensions),
    OWN("GetPhysicalDeviceQueueFamilyProperties", get_queues),
    OWN("GetPhysicalDeviceMemoryProperties", get_memory),
    OWN("GetPhysicalDeviceMemoryProperties2", get_memory2),
    OWN("CreateDevice", create_device),
    OWN("DestroyDevice", destroy_device),
    OWN("CreateBuffer", create_buffer),
    OWN("GetBufferMemoryRequirements", get_requirements),
    OWN("GetMemoryHostPointerPropertiesEXT", get_host_pointer),
    OWN("AllocateMemory", allocate),
    OWN("FreeMemory", free_memory),
    OWN("MapMemory", map),
    OWN("FlushMappedMemoryRanges", flush),
    OWN("InvalidateMappedMemoryRanges", invalidate),
    OWN("QueueSubmit", submit),
    OWN("WaitForFences", wait),
    OWN("DestroyFence", destroy_fence),
    OWN("CmdPipelineBarrier", barrier),
    OWN("CmdDispatch", dispatch),
    OWN("CmdCopyBuffer", copy),
    OWN("CmdFillBuffer", fill),
    OWN("CmdWriteTimestamp", write_time),
};

/* The function that stands before the real one; names that once ended with KHR mean the same. */
static PFN_vkVoidFunction find_own(const char *name, PFN_vkVoidFunction found) {
    size_t length = strlen(name);
    if (!found) return NULL;
    if (listed("fail", name)) return (PFN_vkVoidFunction)failing;
    if (length > 3 && !strcmp(name + length - 3, "KHR")) length -= 3;
    for (size_t i = 0; i < sizeof OWNS / sizeof *OWNS; i++)
        if (strlen(OWNS[i].name) == length && !strncmp(OWNS[i].name, name, length)) return OWNS[i].function;
    return found;
}

static PFN_vkVoidFunction get_device(VkDevice device, const char *name) {
    return find_own(name, real.GetDeviceProcAddr(device, name));
}

static PFN_vkVoidFunction get_instance(VkInstance instance, const char *name) {
    return find_own(name, real_get(instance, name));
}

EXPORT VkResult vk_icdNegotiateLoaderICDInterfaceVersion(uint32_t *version);
EXPORT VkResult vk_icdNegotiateLoaderICDInterfaceVersion(uint32_t *version) {
    const char *path = getenv("FAKE_VULKAN_DRIVER");
    void *library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!library) die("FAKE_VULKAN_DRIVER names no library");
    VkResult (*negotiate)(uint32_t *) =
        (VkResult (*)(uint32_t *))dlsym(library, "vk_icdNegotiateLoaderICDInterfaceVersion");
    real_get = (PFN_vkGetInstanceProcAddr)dlsym(library, "vk_icdGetInstanceProcAddr");
#define FIND(name, type, arguments) real.name = (type(*) arguments)real_get(NULL, "vk" #name);
    VK_GLOBAL_FUNCTIONS(FIND)
#undef FIND
    return negotiate(version);
}

EXPORT PFN_vkVoidFunction vk_icdGetInstanceProcAddr(VkInstance instance, const char *name);
EXPORT PFN_vkVoidFunction vk_icdGetInstanceProcAddr(VkInstance instance, const char *name) {
    return get_instance(instance, name);
}
