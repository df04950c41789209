/* Which steps have to wait for those before them, where a device may run several at once. */
#ifndef MN_HAZARDS_H
#define MN_HAZARDS_H

#include "file.h"

#include <stdbool.h>

typedef struct mn_hazards {
    const mn_file *file;
    struct mn_access *access; /* what the steps since the last wait touch */
    uint32_t n;
} mn_hazards;

mossnet_status mn_hazards_new(const mn_file *file, mn_hazards *out, mossnet_error *error);
void mn_hazards_free(mn_hazards *hazards);

/* As at the start of a run: everything before is done. */
void mn_hazards_clear(mn_hazards *hazards);
/* Adds a step; whether it must wait for all those since the last wait: it reads what one of them wrote, or writes what
 * one of them read or wrote. Buffers that overlap count as the same memory. */
bool mn_hazards_add(mn_hazards *hazards, const mn_step *step);

#endif
