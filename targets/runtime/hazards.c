#include "hazards.h"

#include <stdlib.h>

typedef struct mn_access {
    uint64_t begin, end; /* inside the region */
    uint32_t region;
    bool written;
} mn_access;

mossnet_status mn_hazards_new(const mn_file *file, mn_hazards *out, mossnet_error *error) {
    *out = (mn_hazards){file, NULL, 0};
    /* Since the last wait no step comes twice, so there are never more accesses than arguments of all steps. */
    uint64_t n = 1;
    for (uint32_t i = 0; i < file->n_steps; i++)
        n += file->steps[i].n_args;
    out->access = calloc(n, sizeof *out->access);
    return out->access ? MOSSNET_OK : mn_fail(error, MOSSNET_MEMORY, "no memory for a list of accesses");
}

void mn_hazards_free(mn_hazards *hazards) {
    free(hazards->access);
    hazards->access = NULL;
}

void mn_hazards_clear(mn_hazards *hazards) {
    hazards->n = 0;
}

static bool conflicts(const mn_hazards *hazards, const mn_access *access) {
    for (uint32_t i = 0; i < hazards->n; i++) {
        const mn_access *earlier = &hazards->access[i];
        if ((access->written || earlier->written) && access->region == earlier->region &&
            access->begin < earlier->end && earlier->begin < access->end)
            return true;
    }
    return false;
}

bool mn_hazards_add(mn_hazards *hazards, const mn_step *step) {
    const mn_file *file = hazards->file;
    const mn_param *params = &file->params[file->kernels[step->kernel].first_param];
    mn_access own[MN_MAX_PARAMS];
    uint32_t n = 0;
    bool waits = false;
    for (uint32_t i = 0; i < step->n_args; i++) {
        const mn_buffer *buffer = &file->buffers[file->args[step->first_arg + i]];
        if (!params[i].access || buffer->region == MN_WEIGHTS) continue; /* weights are never written */
        own[n] = (mn_access){buffer->offset, buffer->offset + buffer->bytes, buffer->region,
                             params[i].access & MN_ACCESS_WRITTEN};
        waits = waits || conflicts(hazards, &own[n]);
        n++;
    }
    if (waits) hazards->n = 0;
    for (uint32_t i = 0; i < n; i++)
        hazards->access[hazards->n++] = own[i];
    return waits;
}
