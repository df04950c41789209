#include "pool.h"

#include "clock.h"

#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A wake-up costs 5 to 70 us, the gap between two steps of a token far less and the gap between two tokens (sampling,
 * printing) about 100: workers wait that long before they sleep. The owner waits less: when a chunk is late, its worker
 * has most likely lost its core, and an owner that sleeps makes room for it. */
enum { WORKER_SPIN_NS = 100000, OWNER_SPIN_NS = 30000, PAUSES_PER_CLOCK = 16 };

/* Where another process takes a core, a worker or the owner is pushed off every few ms, mostly inside a chunk, and all
 * others wait as long for it: together they are slower than the owner alone. So a worker rests when it was that late,
 * or had to wait that long between two steps: then the owner has a core for itself. It rests twice as long as the last
 * time if that was less than 8 rests ago. What is over sooner was one of the system's own threads. */
enum { LATE_NS = 500000, REST_LEAST_NS = 32000000, REST_MOST_NS = 256000000, REST_MEMORY = 8 };

struct mn_pool {
    /* sequence << 32 | chunks of the step << 16 | next chunk. fetch_add(1) claims a chunk, and the value that it
     * returns says by itself whether there was one to claim: a stale look can never become a wrong claim. */
    _Alignas(64) _Atomic uint64_t claim;
    _Alignas(64) _Atomic uint32_t done;     /* chunks of this step that workers have finished; futex of the owner */
    _Atomic uint64_t asleep_since;          /* of the owner's wait for them, when it went to sleep; 0: it did not */
    _Alignas(64) _Atomic uint32_t sleepers; /* workers that went to sleep since the last alarm */
    _Atomic uint32_t alarm;                 /* futex of the workers */
    _Atomic uint32_t stop;                  /* futex of the workers that rest */
    /* Written by the owner while no chunk is out, read by a worker that holds a claim. */
    _Alignas(64) const mn_job *job;
    uint32_t first_sequence;
    uint32_t sequence;
    uint32_t n_workers;
    pid_t process;
    pthread_t workers[];
};

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

/* A pause in a waiting loop; false when `budget_ns` have passed since about the first. */
static bool spin(wait *w, uint64_t budget_ns) {
    relax();
    if (w->pauses++ % PAUSES_PER_CLOCK) return true;
    uint64_t now = mn_clock_ns();
    if (!w->since) w->since = now;
    return now - w->since < budget_ns;
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

/* Waits for work, a while awake, then asleep; how long asleep. The order of the two accesses on either side (here:
 * sleepers, claim; in `publish`: claim, sleepers) is what no alarm can slip through. */
static uint64_t await_work(mn_pool *pool) {
    wait w = {0};
    uint64_t asleep_since = 0;
    while (!work_is_out(pool) && !atomic_load(&pool->stop)) {
        if (spin(&w, WORKER_SPIN_NS)) continue;
        if (!asleep_since) asleep_since = mn_clock_ns();
        uint32_t alarm = atomic_load(&pool->alarm);
        atomic_fetch_add(&pool->sleepers, 1);
        if (!work_is_out(pool) && !atomic_load(&pool->stop)) futex_wait(&pool->alarm, alarm, 0);
        w = (wait){0};
    }
    return asleep_since ? mn_clock_ns() - asleep_since : 0;
}

/* How long a worker rests, and when it did. */
typedef struct contention {
    uint64_t rest_ns, rested_until;
} contention;

static void rest(mn_pool *pool, contention *c) {
    uint64_t since = mn_clock_ns() - c->rested_until;
    if (since > REST_MEMORY * c->rest_ns)
        c->rest_ns = REST_LEAST_NS;
    else if (c->rest_ns < REST_MOST_NS)
        c->rest_ns *= 2;
    futex_wait(&pool->stop, 0, c->rest_ns);
    c->rested_until = mn_clock_ns();
}

/* Whether this thread was pushed off its core since `switches`, which is brought up to date. */
static bool pushed_off(long *switches) {
    struct rusage usage;
    if (getrusage(RUSAGE_THREAD, &usage)) return false;
    bool was = usage.ru_nivcsw != *switches;
    *switches = usage.ru_nivcsw;
    return was;
}

static void *work(void *argument) {
    mn_pool *pool = argument;
    contention state = {0};
    long switches = 0;
    uint64_t waited_ns = 0;
    uint32_t last_run = UINT32_MAX;
    while (!atomic_load(&pool->stop)) {
        if (!run_chunk(pool)) {
            waited_ns = await_work(pool);
            continue;
        }
        /* While the chunk is not counted as done, the run cannot end. */
        uint32_t run = pool->first_sequence;
        bool owner_late = run == last_run && waited_ns >= LATE_NS, late = false;
        last_run = run;
        waited_ns = 0;
        atomic_fetch_add(&pool->done, 1);
        uint64_t since = atomic_load(&pool->asleep_since);
        if (since) {
            futex_wake(&pool->done, 1);
            late = mn_clock_ns() - since >= LATE_NS && pushed_off(&switches);
        }
        if (owner_late || late) rest(pool, &state);
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
        if (spin(&w, OWNER_SPIN_NS)) continue;
        atomic_store(&pool->asleep_since, mn_clock_ns());
        for (uint32_t done; (done = atomic_load(&pool->done)) < n;)
            futex_wait(&pool->done, done, 0);
        atomic_store(&pool->asleep_since, 0);
    }
}

void mn_pool_run(mn_pool *pool, const mn_job *job) {
    uint32_t first_sequence = pool->sequence;
    pool->job = job;
    pool->first_sequence = first_sequence;
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
