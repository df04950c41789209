/* Waiting for a device whose interface has no time-out of its own. */
#ifndef MN_WAIT_H
#define MN_WAIT_H

#include <stdbool.h>
#include <stdint.h>

/* Asks until `done` says so; false when timeout_ms are over. */
bool mn_wait(bool (*done)(void *context), void *context, uint32_t timeout_ms);

#endif
