/* Ends the process when a request hangs, or when the other end goes away while one runs: a kernel that runs cannot be
 * stopped in any other way, and whoever started the runner can start it again. */
#ifndef MN_WATCHDOG_H
#define MN_WATCHDOG_H

#include "error.h"

#include <pthread.h>
#include <stdatomic.h>

enum { MN_EXIT_TIMEOUT = 75, MN_EXIT_HUNG_UP = 76 };

typedef struct mn_watchdog {
    int in, out;                  /* where requests come from and answers go to */
    _Atomic uint64_t deadline_ns; /* 0: no request runs */
    _Atomic uint32_t seq, timeout_ms;
    int stop[2]; /* a pipe: its end is the watchdog's */
    pthread_t thread;
} mn_watchdog;

mossnet_status mn_watchdog_start(mn_watchdog *dog, int in, int out, mossnet_error *error);
void mn_watchdog_stop(mn_watchdog *dog);
/* A request begins; timeout_ms 0: it may take for ever. */
void mn_watchdog_arm(mn_watchdog *dog, uint32_t seq, uint32_t timeout_ms);
/* It is over, and may be answered. Does not return when the watchdog was faster. */
void mn_watchdog_disarm(mn_watchdog *dog);

#endif
