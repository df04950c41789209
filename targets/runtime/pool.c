#include "pool.h"

#include "clock.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A wake-up costs 5 to 70 us, and several ms where the system wakes the thread on the core of another one of these. The
 * gap between two steps is far shorter, that between two tokens (sampling, printing, an application's Python) some 100
 * us: everybody waits awake for longer than that. */
enum { SPIN_NS = 1000000, PAUSES_PER_CLOCK = 16 };

/* Where another process takes a core, a worker or the owner is pushed off every few ms, mostly inside a chunk, and all
 * others wait as long for it: together they are slower than the owner alone. So a worker rests, which leaves a core to
 * the others. But an idle system's own threads do the same a few times a second, for some ms, and there a rest
 * would cost more than it saves. So the time that a worker lacks a core (the first: that it or the owner does) fills a
 * bucket, which leaks an eighth of the time that passes. It rests when that is full, twice as long as the last time if
 * it has not been empty since. */
enum { FULL_NS = 8000000, LEAK = 8, LOOK_NS = 2000000, REST_LEAST_NS = 32000000, REST_MOST_NS = 256000000 };

struct mn_pool {
    /* sequence << 32 | chunks of the step << 16 | next chunk. fetch_add(1) claims a chunk, and the value that it
     * returns says by itself whether there was one to claim: a stale look can never become a wrong claim. */
    _Alignas(64) _Atomic uint64_t claim;
    _Alignas(64) _Atomic uint32_t done;     /* chunks of this step that workers have finished; futex of the owner */
    _Atomic uint32_t owner_sleeps;          /* until they are */
    _Alignas(64) _Atomic uint32_t sleepers; /* workers that went to sleep since the last alarm */
    _Atomic uint32_t alarm;                 /* futex of the workers */
    _Atomic uint32_t stop;                  /* futex of the workers that rest */
    /* Written by the owner while no chunk is out, read by a worker that holds a claim. */
    _Alignas(64) const mn_job *job;
    uint32_t first_sequence;
    uint32_t sequence;
    uint32_t n_workers;
    _Atomic uint32_t n_started; /* workers */
    _Atomic pid_t owner;        /* the thread of the last run */
    pid_t process;
    pthread_t workers[];
};

static pid_t this_thread(void) {
    return (pid_t)syscall(SYS_gettid);
}

/* At most for `most_ns`; 0: without limit. */
static void futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t most_ns) {
    struct timespec most = {(time_t)(most_ns / 1000000000u), (long)(most_ns % 1000000000u)};
    syscall(SYS_futex, (void *)word, FUTEX_WAIT_PRIVATE, expected, most_ns ? &most : NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int n) {
    syscall(SYS_futex, (void *)word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory"); /* `yield` does nothing on most cores */
#endif
}

typedef struct wait {
    uint32_t pauses;
    uint64_t since;
} wait;

/* A pause in a waiting loop; false when SPIN_NS have passed since about the first. */
static bool spin(wait *w) {
    relax();
    if (w->pauses++ % PAUSES_PER_CLOCK) return true;
    uint64_t now = mn_clock_ns();
    if (!w->since) w->since = now;
    return now - w->since < SPIN_NS;
}

static uint32_t word_chunks(uint64_t word) {
    return (uint32_t)(word >> 16) & 0xffff;
}

static uint32_t word_next(uint64_t word) {
    return (uint32_t)word & 0xffff;
}

static bool work_is_out(mn_pool *pool) {
    uint64_t word = atomic_load(&pool->claim);
    return word_next(word) < word_chunks(word);
}

/* Runs one chunk if there is one. Looks before it claims: a failed claim moves `next` on, and so it happens at most
 * once per thread and step, far from the 65536 that would carry. */
static bool run_chunk(mn_pool *pool) {
    if (!work_is_out(pool)) return false;
    uint64_t word = atomic_fetch_add(&pool->claim, 1);
    uint32_t chunk = word_next(word), n_chunks = word_chunks(word);
    if (chunk >= n_chunks) return false;
    const mn_job *job = pool->job;
    job->run(job->context, (uint32_t)(word >> 32) - pool->first_sequence, chunk, n_chunks);
    return true;
}

/* Waits for work, a while awake, then asleep; whether it went to sleep. The order of the two accesses on either side
 * (here: sleepers, claim; in `publish`: claim, sleepers) is what no alarm can slip through. */
static bool await_work(mn_pool *pool) {
    wait w = {0};
    bool slept = false;
    while (!work_is_out(pool) && !atomic_load(&pool->stop)) {
        if (spin(&w)) continue;
        uint32_t alarm = atomic_load(&pool->alarm);
        atomic_fetch_add(&pool->sleepers, 1);
        if (!work_is_out(pool) && !atomic_load(&pool->stop)) futex_wait(&pool->alarm, alarm, 0);
        w = (wait){0};
        slept = true;
    }
    return slept;
}

/* How long a thread of this process has been ready to run without a core, in all; 0 where the system does not say. */
static uint64_t lacked_core_ns(pid_t thread) {
    char path[40], text[80] = "";
    unsigned long long lacked_ns;
    snprintf(path, sizeof path, "/proc/self/task/%d/schedstat", (int)thread);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    return n > 0 && sscanf(text, "%*s %llu", &lacked_ns) == 1 ? lacked_ns : 0;
}

typedef struct contention {
    bool watches_owner;
    pid_t owner;                   /* of the last look, if it is watched */
    uint64_t looked_ns, lacked_ns; /* when, and what was lacked by then */
    uint64_t bucket_ns, rest_ns;
} contention;

static void look(mn_pool *pool, contention *c, uint64_t now) {
    c->looked_ns = now;
    c->lacked_ns = lacked_core_ns(this_thread());
    if (!c->watches_owner) return;
    c->owner = pool->owner;
    c->lacked_ns += lacked_core_ns(c->owner);
}

/* Called where somebody had to wait. */
static void rest_if_contended(mn_pool *pool, contention *c) {
    contention last = *c;
    uint64_t now = mn_clock_ns(), passed = now - last.looked_ns;
    if (passed < LOOK_NS) return;
    look(pool, c, now);
    /* The first look, or one at another thread, whose number may be that of one that has ended. */
    if (!last.looked_ns || c->owner != last.owner || c->lacked_ns < last.lacked_ns) return;
    c->bucket_ns += c->lacked_ns - last.lacked_ns;
    c->bucket_ns -= c->bucket_ns < passed / LEAK ? c->bucket_ns : passed / LEAK;
    if (!c->bucket_ns) c->rest_ns = 0;
    if (c->bucket_ns < FULL_NS) return;
    c->rest_ns = c->rest_ns ? c->rest_ns * 2 : REST_LEAST_NS;
    if (c->rest_ns > REST_MOST_NS) c->rest_ns = REST_MOST_NS;
    futex_wait(&pool->stop, 0, c->rest_ns);
    /* Nearly full: after a rest, what did not pass is noticed at once. */
    c->bucket_ns = FULL_NS - FULL_NS / 4;
    look(pool, c, mn_clock_ns());
}

static void *work(void *argument) {
    mn_pool *pool = argument;
    contention state = {.watches_owner = !atomic_fetch_add(&pool->n_started, 1)};
    bool waited = false;
    while (!atomic_load(&pool->stop)) {
        if (!run_chunk(pool)) {
            waited = await_work(pool);
            continue;
        }
        atomic_fetch_add(&pool->done, 1);
        if (atomic_load(&pool->owner_sleeps)) {
            futex_wake(&pool->done, 1);
            waited = true;
        }
        if (waited) rest_if_contended(pool, &state);
        waited = false;
    }
    return NULL;
}

static void sound_alarm(mn_pool *pool) {
    atomic_store(&pool->sleepers, 0);
    atomic_fetch_add(&pool->alarm, 1);
    futex_wake(&pool->alarm, MN_POOL_MAX_THREADS);
}

static void publish(mn_pool *pool, uint32_t sequence, uint32_t n_chunks) {
    atomic_store(&pool->done, 0);
    atomic_store(&pool->claim, (uint64_t)sequence << 32 | n_chunks << 16);
    if (atomic_load(&pool->sleepers)) sound_alarm(pool);
}

static void await_done(mn_pool *pool, uint32_t n) {
    wait w = {0};
    while (atomic_load(&pool->done) < n) {
        if (spin(&w)) continue;
        atomic_store(&pool->owner_sleeps, 1);
        for (uint32_t done; (done = atomic_load(&pool->done)) < n;)
            futex_wait(&pool->done, done, 0);
        atomic_store(&pool->owner_sleeps, 0);
    }
}

void mn_pool_run(mn_pool *pool, const mn_job *job) {
    uint32_t first_sequence = pool->sequence;
    pool->job = job;
    pool->first_sequence = first_sequence;
    if (pool->n_workers) pool->owner = this_thread();
    for (uint32_t step = 0; step < job->n_steps; step++) {
        uint32_t n_chunks = job->n_chunks[step], mine = 0;
        if (n_chunks == 1 || !pool->n_workers) {
            for (uint32_t chunk = 0; chunk < n_chunks; chunk++)
                job->run(job->context, step, chunk, n_chunks);
            continue;
        }
        publish(pool, first_sequence + step, n_chunks);
        while (run_chunk(pool))
            mine++;
        await_done(pool, n_chunks - mine);
    }
    pool->sequence = first_sequence + job->n_steps;
}

static void stop(mn_pool *pool) {
    atomic_store(&pool->stop, 1);
    futex_wake(&pool->stop, MN_POOL_MAX_THREADS);
    sound_alarm(pool);
    for (uint32_t i = 0; i < pool->n_workers; i++)
        pthread_join(pool->workers[i], NULL);
}

/* Workers take no signals but those of their own faults: an application's handlers run on its own threads. */
static int start_workers(mn_pool *pool, uint32_t n) {
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT};
    sigset_t blocked, before;
    int code = 0;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        sigdelset(&blocked, own[i]);
    pthread_sigmask(SIG_BLOCK, &blocked, &before);
    while (pool->n_workers < n && !(code = pthread_create(&pool->workers[pool->n_workers], NULL, work, pool)))
        pool->n_workers++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

mossnet_status mn_pool_new(uint32_t n_threads, mn_pool **out, mossnet_error *error) {
    *out = NULL;
    if (n_threads < 1 || n_threads > MN_POOL_MAX_THREADS)
        return mn_fail(error, MOSSNET_ARGUMENT, "%u threads, expected 1 to %d", n_threads, MN_POOL_MAX_THREADS);
    /* Android has no aligned_alloc before API level 28. */
    void *memory;
    if (posix_memalign(&memory, _Alignof(mn_pool), sizeof(mn_pool) + (n_threads - 1) * sizeof(pthread_t)))
        return mn_fail(error, MOSSNET_MEMORY, "no memory for a pool of %u threads", n_threads);
    mn_pool *pool = memset(memory, 0, sizeof *pool);
    pool->process = getpid();
    int code = start_workers(pool, n_threads - 1);
    if (code) {
        mossnet_status status = mn_fail(error, MOSSNET_MEMORY, "the system gave %u of %u threads: %s",
                                        pool->n_workers + 1, n_threads, strerror(code));
        mn_pool_free(pool);
        return status;
    }
    *out = pool;
    return mn_ok(error);
}

void mn_pool_free(mn_pool *pool) {
    if (!pool) return;
    /* A process that was forked off has this memory, but not these threads. */
    if (pool->process == getpid()) stop(pool);
    free(pool);
}
