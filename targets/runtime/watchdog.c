#include "watchdog.h"

#include "clock.h"
#include "frames.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { LOOK_EVERY_MS = 50, SAY_WITHIN_MS = 1000 };
static const uint64_t NEVER = UINT64_MAX;

/* The other end may be gone or stuck, and then nobody hears it. */
static void say_timeout(mn_watchdog *dog) {
    struct pollfd out = {.fd = dog->out, .events = POLLOUT};
    if (poll(&out, 1, SAY_WITHIN_MS) != 1 || !(out.revents & POLLOUT)) return;
    unsigned char error[256];
    uint32_t status = MN_STATUS_TIMEOUT;
    char *text = (char *)error + sizeof status;
    memcpy(error, &status, sizeof status);
    int length = snprintf(text, sizeof error - sizeof status, "not done after %u ms, so it counts as hung",
                          (unsigned)atomic_load(&dog->timeout_ms));
    mn_frame_send(dog->out, MN_ERROR, atomic_load(&dog->seq), error, sizeof status + (size_t)length);
}

static bool is_hung_up(const mn_watchdog *dog) {
    struct pollfd in = {.fd = dog->in};
    return poll(&in, 1, 0) == 1 && in.revents & (POLLHUP | POLLERR | POLLNVAL);
}

static void *watch(void *context) {
    mn_watchdog *dog = context;
    struct pollfd stop = {.fd = dog->stop[0]};
    while (!poll(&stop, 1, LOOK_EVERY_MS)) {
        uint64_t deadline = atomic_load(&dog->deadline_ns);
        if (!deadline) continue;
        if (is_hung_up(dog)) _exit(MN_EXIT_HUNG_UP);
        if (mn_clock_ns() < deadline || !atomic_compare_exchange_strong(&dog->deadline_ns, &deadline, 0)) continue;
        say_timeout(dog);
        _exit(MN_EXIT_TIMEOUT);
    }
    return NULL;
}

mossnet_status mn_watchdog_start(mn_watchdog *dog, int in, int out, mossnet_error *error) {
    *dog = (mn_watchdog){.in = in, .out = out};
    if (pipe2(dog->stop, O_CLOEXEC)) return mn_fail(error, MOSSNET_MEMORY, "no pipe for the watchdog");
    if (!pthread_create(&dog->thread, NULL, watch, dog)) return MOSSNET_OK;
    close(dog->stop[0]);
    close(dog->stop[1]);
    return mn_fail(error, MOSSNET_MEMORY, "no thread for the watchdog");
}

void mn_watchdog_stop(mn_watchdog *dog) {
    close(dog->stop[1]);
    pthread_join(dog->thread, NULL);
    close(dog->stop[0]);
}

void mn_watchdog_arm(mn_watchdog *dog, uint32_t seq, uint32_t timeout_ms) {
    atomic_store(&dog->seq, seq);
    atomic_store(&dog->timeout_ms, timeout_ms);
    atomic_store(&dog->deadline_ns, timeout_ms ? mn_clock_ns() + timeout_ms * UINT64_C(1000000) : NEVER);
}

void mn_watchdog_disarm(mn_watchdog *dog) {
    if (atomic_exchange(&dog->deadline_ns, 0)) return;
    for (;;) /* it is answering, and then ends the process */
        nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
}
