#include "vulkan_device.h"

#include "dso.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

/* Everything that is asked for and switched on. */
typedef struct features {
    VkPhysicalDeviceFeatures2 core;
    VkPhysicalDevice16BitStorageFeatures storage16;
    VkPhysicalDevice8BitStorageFeatures storage8;
    VkPhysicalDeviceShaderFloat16Int8Features small;
} features;

/* META's names, the capabilities of SPIR-V that need them, and where Vulkan keeps each: a switch in `features`, or a
 * kind of subgroup operation, which is there or not. */
static const struct feature {
    const char *name;
    uint32_t capability;
    VkFlags subgroup;
    size_t at;
} FEATURES[] = {
    {"shaderFloat16", 9, 0, offsetof(features, small.shaderFloat16)},
    {"shaderFloat64", 10, 0, offsetof(features, core.features.shaderFloat64)},
    {"shaderInt64", 11, 0, offsetof(features, core.features.shaderInt64)},
    {"shaderInt16", 22, 0, offsetof(features, core.features.shaderInt16)},
    {"shaderInt8", 39, 0, offsetof(features, small.shaderInt8)},
    {"storageBuffer16BitAccess", 4433, 0, offsetof(features, storage16.storageBuffer16BitAccess)},
    {"uniformAndStorageBuffer16BitAccess", 4434, 0, offsetof(features, storage16.uniformAndStorageBuffer16BitAccess)},
    {"storageBuffer8BitAccess", 4448, 0, offsetof(features, storage8.storageBuffer8BitAccess)},
    {"uniformAndStorageBuffer8BitAccess", 4449, 0, offsetof(features, storage8.uniformAndStorageBuffer8BitAccess)},
    {"subgroup_basic", 61, VK_SUBGROUP_FEATURE_BASIC_BIT, 0},
    {"subgroup_vote", 62, VK_SUBGROUP_FEATURE_VOTE_BIT, 0},
    {"subgroup_arithmetic", 63, VK_SUBGROUP_FEATURE_ARITHMETIC_BIT, 0},
    {"subgroup_ballot", 64, VK_SUBGROUP_FEATURE_BALLOT_BIT, 0},
    {"subgroup_shuffle", 65, VK_SUBGROUP_FEATURE_SHUFFLE_BIT, 0},
    {"subgroup_shuffle_relative", 66, VK_SUBGROUP_FEATURE_SHUFFLE_RELATIVE_BIT, 0},
    {"subgroup_clustered", 67, VK_SUBGROUP_FEATURE_CLUSTERED_BIT, 0},
    {"subgroup_quad", 68, VK_SUBGROUP_FEATURE_QUAD_BIT, 0},
};
enum { N_FEATURES = sizeof FEATURES / sizeof *FEATURES, MAX_DEVICES = 64, PAGE = 65536 };

const char *mn_vk_feature(uint32_t capability, uint32_t *number) {
    for (uint32_t i = 0; i < N_FEATURES; i++)
        if (FEATURES[i].capability == capability) {
            *number = i;
            return FEATURES[i].name;
        }
    return NULL;
}

static const char *meaning(VkResult result) {
    switch (result) {
    case VK_ERROR_OUT_OF_HOST_MEMORY: return "the system has no memory left";
    case VK_ERROR_OUT_OF_DEVICE_MEMORY: return "the device has no memory left";
    case VK_ERROR_INITIALIZATION_FAILED: return "the driver could not be initialised";
    case VK_ERROR_DEVICE_LOST: return "the device was lost";
    case VK_ERROR_MEMORY_MAP_FAILED: return "its memory could not be mapped";
    case VK_ERROR_LAYER_NOT_PRESENT: return "a layer is not there";
    case VK_ERROR_EXTENSION_NOT_PRESENT: return "an extension is not there";
    case VK_ERROR_FEATURE_NOT_PRESENT: return "a feature is not there";
    case VK_ERROR_INCOMPATIBLE_DRIVER: return "no driver fits";
    case VK_ERROR_TOO_MANY_OBJECTS: return "too many of its kind";
    case VK_ERROR_FRAGMENTED_POOL:
    case VK_ERROR_OUT_OF_POOL_MEMORY: return "the pool has no memory left";
    case VK_ERROR_INVALID_EXTERNAL_HANDLE: return "the memory is not taken";
    default: return "it failed";
    }
}

mossnet_status mn_vk_fail(mossnet_error *error, const char *call, VkResult result) {
    bool memory = result == VK_ERROR_OUT_OF_HOST_MEMORY || result == VK_ERROR_OUT_OF_DEVICE_MEMORY ||
                  result == VK_ERROR_OUT_OF_POOL_MEMORY || result == VK_ERROR_FRAGMENTED_POOL ||
                  result == VK_ERROR_TOO_MANY_OBJECTS;
    return mn_fail(error, memory ? MOSSNET_MEMORY : MOSSNET_DEVICE, "vk%s: %s (VkResult %d)", call, meaning(result),
                   (int)result);
}

/* ---- Library and instance ---- */

/* The library is a loader, or a driver that is asked as a loader would ask it. */
static PFN_vkGetInstanceProcAddr entry_point(void *library) {
    PFN_vkGetInstanceProcAddr get = (PFN_vkGetInstanceProcAddr)dlsym(library, "vkGetInstanceProcAddr");
    if (get) return get;
    VkResult (*negotiate)(uint32_t *) =
        (VkResult (*)(uint32_t *))dlsym(library, "vk_icdNegotiateLoaderICDInterfaceVersion");
    uint32_t version = 5;
    if (negotiate && negotiate(&version)) return NULL;
    return (PFN_vkGetInstanceProcAddr)dlsym(library, "vk_icdGetInstanceProcAddr");
}

#define VK_FIND(name, result, arguments)                                                                               \
    if (!(vk->name = (result(*) arguments)vk->get(vk->instance, "vk" #name)))                                          \
        return mn_fail(error, MOSSNET_DEVICE, "the Vulkan library does not have vk" #name);

static mossnet_status find_global(mn_vk *vk, mossnet_error *error) {
    VK_GLOBAL_FUNCTIONS(VK_FIND)
    return MOSSNET_OK;
}

static mossnet_status find_of_instance(mn_vk *vk, mossnet_error *error) {
    VK_INSTANCE_FUNCTIONS(VK_FIND)
    return MOSSNET_OK;
}

#undef VK_FIND

static void disconnect(mn_vk *vk) {
    if (vk->instance && vk->DestroyInstance) vk->DestroyInstance(vk->instance, NULL);
    vk->instance = NULL;
}

/* The library stays open for good: drivers leave threads behind, and destructors that run when a thread ends. */
static mossnet_status connect(mn_vk *vk, mossnet_error *error) {
    static const char *const names[] = {"libvulkan.so.1", "libvulkan.so", NULL};
    void *library;
    uint32_t version = 0;
    *vk = (mn_vk){.get = NULL};
    mossnet_error reason;
    mossnet_status status = mn_dso_open("MOSSNET_VULKAN_LIB", names, &library, &reason);
    if (status) return mn_fail(error, status, "no Vulkan library: %.300s", reason.text);
    if (!(vk->get = entry_point(library)))
        return mn_fail(error, MOSSNET_DEVICE, "the library is neither a Vulkan loader nor a driver");
    status = find_global(vk, error);
    if (status) return status;
    VkResult result = vk->EnumerateInstanceVersion(&version);
    if (result) return mn_vk_fail(error, "EnumerateInstanceVersion", result);
    VkApplicationInfo application = {
        .sType = VK_STRUCTURE_TYPE_APPLICATION_INFO,
        .pApplicationName = "mossnet",
        .apiVersion = version < VK_API_VERSION_1_2 ? VK_API_VERSION_1_1 : VK_API_VERSION_1_2,
    };
    VkInstanceCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
        .pApplicationInfo = &application,
    };
    result = vk->CreateInstance(&info, NULL, &vk->instance);
    if (result == VK_ERROR_INCOMPATIBLE_DRIVER)
        return mn_fail(error, MOSSNET_DEVICE, "Vulkan is installed, but no driver of version 1.1 or newer");
    if (result) return mn_vk_fail(error, "CreateInstance", result);
    vk->facts.api = application.apiVersion;
    status = find_of_instance(vk, error);
    if (status) disconnect(vk);
    return status;
}

/* ---- What a device is ---- */

static unsigned api_major(uint32_t version) {
    return version >> 22 & 0x7f;
}

static unsigned api_minor(uint32_t version) {
    return version >> 12 & 0x3ff;
}

static bool has_extension(const VkExtensionProperties *all, uint32_t n, const char *name) {
    for (uint32_t i = 0; i < n; i++)
        if (!strcmp(all[i].extensionName, name)) return true;
    return false;
}

/* Links what the device knows of, below 1.2 through extensions. */
static void link_features(const mn_vk_facts *facts, features *all) {
    *all = (features){
        .core.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2,
        .storage16.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_16BIT_STORAGE_FEATURES,
        .storage8.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_8BIT_STORAGE_FEATURES,
        .small.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_FLOAT16_INT8_FEATURES,
    };
    all->core.pNext = &all->storage16;
    if (facts->storage8 || facts->api >= VK_API_VERSION_1_2) {
        all->storage8.pNext = all->core.pNext;
        all->core.pNext = &all->storage8;
    }
    if (facts->float16_int8 || facts->api >= VK_API_VERSION_1_2) {
        all->small.pNext = all->core.pNext;
        all->core.pNext = &all->small;
    }
}

static VkBool32 *feature_switch(features *all, uint32_t number) {
    return (VkBool32 *)(void *)((char *)all + FEATURES[number].at);
}

static void read_features(const mn_vk *vk, mn_vk_facts *facts, VkFlags subgroup_operations) {
    features all;
    link_features(facts, &all);
    vk->GetPhysicalDeviceFeatures2(facts->handle, &all.core);
    for (uint32_t i = 0; i < N_FEATURES; i++)
        if (FEATURES[i].subgroup ? subgroup_operations & FEATURES[i].subgroup : *feature_switch(&all, i))
            facts->features |= 1u << i;
}

/* The first family that computes, one with timestamps before others. */
static void read_queues(const mn_vk *vk, mn_vk_facts *facts) {
    VkQueueFamilyProperties family[32];
    uint32_t n = sizeof family / sizeof *family;
    vk->GetPhysicalDeviceQueueFamilyProperties(facts->handle, &n, family);
    facts->queue_family = ~0u;
    for (uint32_t i = 0; i < n; i++) {
        if (!(family[i].queueFlags & VK_QUEUE_COMPUTE_BIT)) continue;
        if (facts->queue_family != ~0u && (facts->timestamp_bits || !family[i].timestampValidBits)) continue;
        facts->queue_family = i;
        facts->timestamp_bits = family[i].timestampValidBits;
    }
}

static void read_memory(const mn_vk *vk, mn_vk_facts *facts) {
    vk->GetPhysicalDeviceMemoryProperties(facts->handle, &facts->memory);
    for (uint32_t i = 0; i < facts->memory.memoryHeapCount; i++) {
        const VkMemoryHeap *heap = &facts->memory.memoryHeaps[i];
        if (heap->flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT && heap->size > facts->memory_bytes)
            facts->memory_bytes = heap->size;
    }
}

/* Drivers write what they like into their texts; one line of a description is one fact. */
static void add_words(char *out, size_t capacity, const char *words) {
    size_t used = strlen(out);
    if (used && *words && used + 1 < capacity) out[used++] = ' ';
    for (; *words && used + 1 < capacity; words++)
        out[used++] = (unsigned char)*words < ' ' ? ' ' : *words;
    out[used] = 0;
}

static void read_properties(const mn_vk *vk, mn_vk_facts *facts, const VkExtensionProperties *extensions, uint32_t n) {
    VkPhysicalDeviceSubgroupProperties subgroup = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES};
    VkPhysicalDeviceMaintenance3Properties memory = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES, .pNext = &subgroup};
    VkPhysicalDeviceMaintenance4Properties buffer = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_4_PROPERTIES, .maxBufferSize = UINT64_MAX};
    VkPhysicalDeviceDriverProperties driver = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_DRIVER_PROPERTIES};
    VkPhysicalDeviceExternalMemoryHostPropertiesEXT import = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_MEMORY_HOST_PROPERTIES_EXT};
    VkPhysicalDeviceProperties2 all = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &memory};
    if (has_extension(extensions, n, "VK_KHR_maintenance4")) {
        buffer.pNext = all.pNext;
        all.pNext = &buffer;
    }
    if (has_extension(extensions, n, "VK_EXT_external_memory_host")) {
        import.pNext = all.pNext;
        all.pNext = &import;
    }
    if (facts->api >= VK_API_VERSION_1_2 || has_extension(extensions, n, "VK_KHR_driver_properties")) {
        driver.pNext = all.pNext;
        all.pNext = &driver;
    }
    vk->GetPhysicalDeviceProperties2(facts->handle, &all);
    char name[sizeof all.properties.deviceName] = "";
    add_words(name, sizeof name, all.properties.deviceName);
    facts->properties = all.properties;
    memcpy(facts->properties.deviceName, name, sizeof name);
    facts->max_piece_bytes =
        memory.maxMemoryAllocationSize < buffer.maxBufferSize ? memory.maxMemoryAllocationSize : buffer.maxBufferSize;
    facts->max_piece_bytes -= facts->max_piece_bytes % PAGE; /* drivers round a buffer's memory up */
    facts->import_alignment = import.minImportedHostPointerAlignment;
    add_words(facts->driver, sizeof facts->driver, driver.driverName);
    add_words(facts->driver, sizeof facts->driver, driver.driverInfo);
    bool computes = subgroup.supportedStages & VK_SHADER_STAGE_COMPUTE_BIT;
    read_features(vk, facts, computes ? subgroup.supportedOperations : 0);
}

static mossnet_status read_facts(const mn_vk *vk, VkPhysicalDevice device, mn_vk_facts *facts, mossnet_error *error) {
    *facts = (mn_vk_facts){.handle = device};
    /* Of a device that has no more than Vulkan 1.0 nothing but this may be asked. */
    vk->GetPhysicalDeviceProperties(device, &facts->properties);
    facts->api = facts->properties.apiVersion < vk->facts.api ? facts->properties.apiVersion : vk->facts.api;
    facts->queue_family = ~0u;
    if (facts->api < VK_API_VERSION_1_1) return MOSSNET_OK;
    uint32_t n = 0;
    VkResult result = vk->EnumerateDeviceExtensionProperties(device, NULL, &n, NULL);
    if (result) return mn_vk_fail(error, "EnumerateDeviceExtensionProperties", result);
    VkExtensionProperties *extensions = calloc(n + 1, sizeof *extensions);
    if (!extensions) return mn_fail(error, MOSSNET_MEMORY, "no memory for a list of %u extensions", n);
    result = vk->EnumerateDeviceExtensionProperties(device, NULL, &n, extensions);
    if (result >= 0) {
        facts->float16_int8 = has_extension(extensions, n, "VK_KHR_shader_float16_int8");
        facts->storage8 = has_extension(extensions, n, "VK_KHR_8bit_storage");
        read_properties(vk, facts, extensions, n);
        read_queues(vk, facts);
        read_memory(vk, facts);
    }
    free(extensions);
    return result < 0 ? mn_vk_fail(error, "EnumerateDeviceExtensionProperties", result) : MOSSNET_OK;
}

static const char *vendor(uint32_t id) {
    switch (id) {
    case 0x1002: return "AMD";
    case 0x1010: return "Imagination";
    case 0x106b: return "Apple";
    case 0x10de: return "NVIDIA";
    case 0x13b5: return "ARM";
    case 0x144d: return "Samsung";
    case 0x5143: return "Qualcomm";
    case 0x8086: return "Intel";
    case 0x10005: return "Mesa";
    default: return NULL;
    }
}

static const char *type(const mn_vk_facts *facts) {
    switch (facts->properties.deviceType) {
    case VK_PHYSICAL_DEVICE_TYPE_CPU: return "cpu";
    case VK_PHYSICAL_DEVICE_TYPE_OTHER: return "accelerator";
    default: return "gpu";
    }
}

void mn_vk_describe(const mn_vk_facts *facts, mn_text *out) {
    const VkPhysicalDeviceLimits *limits = &facts->properties.limits;
    const char *known = vendor(facts->properties.vendorID), *separator = "";
    uint64_t largest = limits->maxStorageBufferRange;
    mn_text_add(out, "name=%s\ntype=%s\n", facts->properties.deviceName, type(facts));
    if (known)
        mn_text_add(out, "vendor=%s\n", known);
    else
        mn_text_add(out, "vendor=%#x\n", facts->properties.vendorID);
    if (*facts->driver)
        mn_text_add(out, "driver=%s\n", facts->driver);
    else
        mn_text_add(out, "driver=%#x\n", facts->properties.driverVersion);
    mn_text_add(out, "api=Vulkan %u.%u\n", api_major(facts->properties.apiVersion),
                api_minor(facts->properties.apiVersion));
    mn_text_add(out, "memory_bytes=%llu\nmax_buffer_bytes=%llu\nlocal_bytes=%u\nmax_block=%u\nfeatures=",
                (unsigned long long)facts->memory_bytes,
                (unsigned long long)(largest < facts->max_piece_bytes ? largest : facts->max_piece_bytes),
                limits->maxComputeSharedMemorySize, limits->maxComputeWorkGroupInvocations);
    for (uint32_t i = 0; i < N_FEATURES; i++)
        if (facts->features & 1u << i) {
            mn_text_add(out, "%s%s", separator, FEATURES[i].name);
            separator = ",";
        }
    mn_text_add(out, "\n");
}

/* ---- Which device ---- */

static mossnet_status list_devices(const mn_vk *vk, VkPhysicalDevice devices[MAX_DEVICES], uint32_t *n,
                                   mossnet_error *error) {
    *n = MAX_DEVICES;
    VkResult result = vk->EnumeratePhysicalDevices(vk->instance, n, devices);
    if (result < 0) return mn_vk_fail(error, "EnumeratePhysicalDevices", result);
    if (!*n) return mn_fail(error, MOSSNET_DEVICE, "Vulkan is installed, but has no device");
    return MOSSNET_OK;
}

static bool usable(const mn_vk_facts *facts) {
    return facts->api >= VK_API_VERSION_1_1 && facts->queue_family != ~0u;
}

mossnet_status mn_vk_devices(mn_text *out, mossnet_error *error) {
    mn_vk *vk = malloc(sizeof *vk);
    VkPhysicalDevice devices[MAX_DEVICES];
    uint32_t n = 0, found = 0;
    if (!vk) return mn_fail(error, MOSSNET_MEMORY, "no memory for a list of devices");
    mossnet_status status = connect(vk, error);
    if (!status) status = list_devices(vk, devices, &n, error);
    for (uint32_t i = 0; !status && i < n; i++) {
        mn_vk_facts facts;
        status = read_facts(vk, devices[i], &facts, error);
        if (status || !usable(&facts)) continue;
        mn_vk_describe(&facts, out);
        found++;
    }
    if (!status && !found) status = mn_fail(error, MOSSNET_DEVICE, "no device that computes with Vulkan 1.1 or newer");
    disconnect(vk);
    free(vk);
    return status;
}

/* Graphics cards before what shares the host's memory, and both before what only plays a device. */
static int rank(const mn_vk_facts *facts) {
    switch (facts->properties.deviceType) {
    case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU: return 5;
    case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU: return 4;
    case VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU: return 3;
    case VK_PHYSICAL_DEVICE_TYPE_CPU: return 1;
    default: return 2;
    }
}

static mossnet_status choose(mn_vk *vk, const char *name, mossnet_error *error) {
    VkPhysicalDevice devices[MAX_DEVICES];
    uint32_t n = 0;
    char there[300];
    mn_text names = {there, sizeof there, 0};
    int best = 0;
    mn_vk_facts chosen = {.handle = NULL};
    mossnet_status status = list_devices(vk, devices, &n, error);
    for (uint32_t i = 0; !status && i < n; i++) {
        mn_vk_facts facts;
        status = read_facts(vk, devices[i], &facts, error);
        if (status || !usable(&facts)) continue;
        mn_text_add(&names, "%s%s", names.used ? ", " : "", facts.properties.deviceName);
        if (name && !strcasestr(facts.properties.deviceName, name)) continue;
        if (rank(&facts) > best) {
            best = rank(&facts);
            chosen = facts;
        }
    }
    if (status) return status;
    if (!names.used) return mn_fail(error, MOSSNET_DEVICE, "no device that computes with Vulkan 1.1 or newer");
    if (!best) return mn_fail(error, MOSSNET_DEVICE, "no Vulkan device is called %.80s; there are: %s", name, there);
    vk->facts = chosen;
    return MOSSNET_OK;
}

/* ---- Opening ---- */

static int feature_named(const char *name, size_t length) {
    for (int i = 0; i < N_FEATURES; i++)
        if (strlen(FEATURES[i].name) == length && !memcmp(FEATURES[i].name, name, length)) return i;
    return -1;
}

/* The bits of the features named, or what of them is missing. */
static mossnet_status find_features(mn_vk *vk, const char *names, mossnet_error *error) {
    char missing[300];
    mn_text list = {missing, sizeof missing, 0};
    vk->features = 0;
    for (const char *at = names; *at;) {
        size_t length = strcspn(at, ",");
        int number = feature_named(at, length);
        if (number >= 0 && vk->facts.features & 1u << number)
            vk->features |= 1u << number;
        else if (length)
            mn_text_add(&list, "%s%.*s", list.used ? ", " : "", (int)length, at);
        at += length + (at[length] == ',');
    }
    if (list.used)
        return mn_fail(error, MOSSNET_UNSUPPORTED, "compiled for Vulkan features that %.100s does not have: %s",
                       vk->facts.properties.deviceName, missing);
    return MOSSNET_OK;
}

static mossnet_status create_device(mn_vk *vk, mossnet_error *error) {
    const mn_vk_facts *facts = &vk->facts;
    const char *extensions[3];
    uint32_t n_extensions = 0;
    float priority = 1;
    features on;
    link_features(facts, &on);
    for (uint32_t i = 0; i < N_FEATURES; i++)
        if (vk->features & 1u << i && !FEATURES[i].subgroup) *feature_switch(&on, i) = VK_TRUE;
    if (facts->api < VK_API_VERSION_1_2 && facts->float16_int8)
        extensions[n_extensions++] = "VK_KHR_shader_float16_int8";
    if (facts->api < VK_API_VERSION_1_2 && facts->storage8) extensions[n_extensions++] = "VK_KHR_8bit_storage";
    if (facts->import_alignment) extensions[n_extensions++] = "VK_EXT_external_memory_host";
    VkDeviceQueueCreateInfo queue = {
        .sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
        .queueFamilyIndex = facts->queue_family,
        .queueCount = 1,
        .pQueuePriorities = &priority,
    };
    VkDeviceCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
        .pNext = &on.core,
        .queueCreateInfoCount = 1,
        .pQueueCreateInfos = &queue,
        .enabledExtensionCount = n_extensions,
        .ppEnabledExtensionNames = extensions,
    };
    VkResult result = vk->CreateDevice(facts->handle, &info, NULL, &vk->device);
    return result ? mn_vk_fail(error, "CreateDevice", result) : MOSSNET_OK;
}

static mossnet_status find_of_device(mn_vk *vk, mossnet_error *error) {
#define VK_FIND(name, result, arguments)                                                                               \
    if (!(vk->name = (result(*) arguments)vk->GetDeviceProcAddr(vk->device, "vk" #name)))                              \
        return mn_fail(error, MOSSNET_DEVICE, "the driver does not have vk" #name);
#define VK_TRY(name, result, arguments) vk->name = (result(*) arguments)vk->GetDeviceProcAddr(vk->device, "vk" #name);
    VK_DEVICE_FUNCTIONS(VK_FIND)
    VK_OPTIONAL_FUNCTIONS(VK_TRY)
#undef VK_FIND
#undef VK_TRY
    return MOSSNET_OK;
}

mossnet_status mn_vk_open(mn_vk *vk, const char *name, const char *wanted, mossnet_error *error) {
    mossnet_status status = connect(vk, error);
    if (status) return status;
    pthread_mutex_init(&vk->submitting, NULL);
    status = choose(vk, name, error);
    if (!status) status = find_features(vk, wanted, error);
    if (!status) status = create_device(vk, error);
    if (!status) status = find_of_device(vk, error);
    if (status) {
        mn_vk_close(vk);
        return status;
    }
    vk->GetDeviceQueue(vk->device, vk->facts.queue_family, 0, &vk->queue);
    return MOSSNET_OK;
}

void mn_vk_close(mn_vk *vk) {
    if (!vk->instance) return;
    if (vk->device && vk->DestroyDevice) vk->DestroyDevice(vk->device, NULL);
    disconnect(vk);
    pthread_mutex_destroy(&vk->submitting);
}
