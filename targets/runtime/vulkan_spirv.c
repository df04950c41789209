#include "vulkan_spirv.h"

#include <string.h>

enum {
    MAGIC = 0x07230203,
    NEWEST = 0x00010300, /* what Vulkan 1.1 takes */
    HEADER_WORDS = 5,
    OP_ENTRY_POINT = 15,
    OP_EXECUTION_MODE = 16,
    OP_CAPABILITY = 17,
    OP_FUNCTION = 54,
    OP_FUNCTION_END = 56,
    OP_DECORATE = 71,
    MODEL_COMPUTE = 5,
    MODE_LOCAL_SIZE = 17,
    DECORATION_BINDING = 33,
    DECORATION_SET = 34,
    CAPABILITY_MATRIX = 0,
    CAPABILITY_SHADER = 1,
};

typedef struct module {
    const mn_vk *vk;
    const mn_kernel *kernel;
    const char *name;
    mossnet_error *error;
    bool entry, block; /* seen */
} module;

#define REFUSE(m, ...) mn_fail((m)->error, MOSSNET_FORMAT, "kernel %.60s: " __VA_ARGS__)

static mossnet_status check_capability(module *m, uint32_t capability) {
    uint32_t number = 0;
    if (capability == CAPABILITY_MATRIX || capability == CAPABILITY_SHADER) return MOSSNET_OK;
    const char *feature = mn_vk_feature(capability, &number);
    if (!feature)
        return mn_fail(m->error, MOSSNET_UNSUPPORTED,
                       "kernel %.60s: needs SPIR-V's capability %u, which this library does not switch on", m->name,
                       capability);
    if (!(m->vk->features & 1u << number))
        return mn_fail(m->error, MOSSNET_UNSUPPORTED,
                       "kernel %.60s: needs SPIR-V's capability %u, META `features` does not name %s", m->name,
                       capability, feature);
    return MOSSNET_OK;
}

/* words: model, function, name (padded with NUL to whole words), ... */
static mossnet_status check_entry_point(module *m, const uint32_t *words, uint32_t n) {
    static const char name[8] = "main";
    if (m->entry) return REFUSE(m, "its module has several entry points, expected one", m->name);
    if (n < 4 || words[0] != MODEL_COMPUTE || memcmp(&words[2], name, sizeof name))
        return REFUSE(m, "its module does not have the entry point main of a compute kernel", m->name);
    m->entry = true;
    return MOSSNET_OK;
}

/* words: function, mode, ... */
static mossnet_status check_mode(module *m, const uint32_t *words, uint32_t n) {
    const uint32_t *block = m->kernel->block;
    if (n < 5 || words[1] != MODE_LOCAL_SIZE) return MOSSNET_OK;
    if (memcmp(&words[2], block, 3 * sizeof *block))
        return REFUSE(m, "its module has groups of %u x %u x %u threads, the plan says %u x %u x %u", m->name, words[2],
                      words[3], words[4], block[0], block[1], block[2]);
    m->block = true;
    return MOSSNET_OK;
}

/* words: what, decoration, value */
static mossnet_status check_decoration(module *m, const uint32_t *words, uint32_t n) {
    if (n < 3) return MOSSNET_OK;
    if (words[1] == DECORATION_SET && words[2])
        return REFUSE(m, "its module uses descriptor set %u, expected only 0", m->name, words[2]);
    if (words[1] == DECORATION_BINDING && words[2] >= m->kernel->n_params)
        return REFUSE(m, "its module uses binding %u, the plan has %u parameters", m->name, words[2],
                      m->kernel->n_params);
    return MOSSNET_OK;
}

static mossnet_status check_instruction(module *m, uint32_t operation, const uint32_t *words, uint32_t n) {
    switch (operation) {
    case OP_CAPABILITY: return n ? check_capability(m, words[0]) : MOSSNET_OK;
    case OP_ENTRY_POINT: return check_entry_point(m, words, n);
    case OP_EXECUTION_MODE: return check_mode(m, words, n);
    case OP_DECORATE: return check_decoration(m, words, n);
    default: return MOSSNET_OK;
    }
}

mossnet_status mn_vk_check_spirv(const mn_vk *vk, const mn_file *file, const mn_kernel *kernel, const void *code,
                                 mossnet_error *error) {
    module m = {.vk = vk, .kernel = kernel, .name = file->strings + kernel->name, .error = error};
    const uint32_t *words = code;
    uint64_t n = kernel->code.bytes / sizeof *words;
    if (kernel->code.offset % sizeof *words || kernel->code.bytes % sizeof *words || n < HEADER_WORDS ||
        words[0] != MAGIC)
        return REFUSE(&m, "its %llu bytes of code at %llu are no SPIR-V module", m.name,
                      (unsigned long long)kernel->code.bytes, (unsigned long long)kernel->code.offset);
    if (words[1] > NEWEST)
        return REFUSE(&m, "its module is SPIR-V %u.%u, expected at most 1.3", m.name, words[1] >> 16,
                      words[1] >> 8 & 255);
    bool declarations = true;
    uint32_t operation = 0;
    for (uint64_t at = HEADER_WORDS; at < n;) {
        uint32_t length = words[at] >> 16;
        operation = words[at] & 0xffff;
        if (!length || length > n - at)
            return REFUSE(&m, "its module is damaged: the instruction at word %llu of %llu has %u words", m.name,
                          (unsigned long long)at, (unsigned long long)n, length);
        declarations = declarations && operation != OP_FUNCTION;
        mossnet_status status =
            declarations ? check_instruction(&m, operation, &words[at + 1], length - 1) : MOSSNET_OK;
        if (status) return status;
        at += length;
    }
    if (!m.entry || !m.block || declarations)
        return REFUSE(&m, "its module has no %s", m.name,
                      !m.entry   ? "entry point"
                      : !m.block ? "size of groups (LocalSize)"
                                 : "function");
    if (operation != OP_FUNCTION_END)
        return REFUSE(&m, "its module is damaged: it ends in the middle of a function", m.name);
    return MOSSNET_OK;
}
