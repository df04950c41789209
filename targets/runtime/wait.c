#include "wait.h"

#include "clock.h"

/* At first asking costs least; then the pauses grow with what has been waited, so that they add a sixteenth at most. */
enum { SPIN_NS = 20000, LONGEST_PAUSE_NS = 1000000 };

bool mn_wait(bool (*done)(void *context), void *context, uint32_t timeout_ms) {
    uint64_t start = mn_clock_ns();
    while (!done(context)) {
        uint64_t waited = mn_clock_ns() - start;
        if (waited >= timeout_ms * UINT64_C(1000000)) return false;
        if (waited < SPIN_NS) continue;
        uint64_t pause = waited / 16 < LONGEST_PAUSE_NS ? waited / 16 : LONGEST_PAUSE_NS;
        nanosleep(&(struct timespec){.tv_nsec = (long)pause}, NULL);
    }
    return true;
}
