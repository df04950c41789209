#include "fake_device.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_DEPTH = 8, DELAY_US = 30 };

pthread_mutex_t fake_lock = PTHREAD_MUTEX_INITIALIZER;
object *fake_objects;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static _Thread_local object *stack[MAX_DEPTH];
static _Thread_local int depth;

void die(const char *format, ...) {
    va_list list;
    va_start(list, format);
    fputs("fake_cuda: ", stderr);
    vfprintf(stderr, format, list);
    fputs("\n", stderr);
    va_end(list);
    abort();
}

size_t setting(const char *name, size_t otherwise) {
    const char *value = getenv(name);
    return value && *value ? strtoull(value, NULL, 0) : otherwise;
}

bool faulty(const char *what) {
    static char last[64];
    static uint64_t count;
    const char *value = getenv("FAKE_CUDA_FAULT");
    if (!value) value = "";
    if (strcmp(value, last)) {
        snprintf(last, sizeof last, "%s", value);
        count = 0;
    }
    size_t bytes = strlen(what);
    return !strncmp(value, what, bytes) && value[bytes] == ':' && ++count == strtoull(value + bytes + 1, NULL, 10);
}

/* ---- Kernels: the suite's, and `greedy`, which needs many registers ---- */

static void run_add(void *const *args, uint32_t n) {
    const float *a = args[0], *b = args[1];
    float *out = args[2];
    for (uint32_t i = 0; i < n; i++)
        out[i] = a[i] + b[i];
}

static void run_scale(void *const *args, uint32_t n) {
    float *x = args[0];
    for (uint32_t i = 0; i < n; i++)
        x[i] = 2 * x[i] + 1;
}

static void run_reverse(void *const *args, uint32_t n) {
    const float *in = args[0];
    float *out = args[1], shared[256];
    memcpy(shared, in, sizeof shared);
    for (uint32_t i = 0; i < n; i++)
        out[i] = shared[255 - i];
}

static void run_slow(void *const *args, uint32_t n) {
    uint32_t value = 1;
    (void)n;
    for (int32_t i = 0, count = *(volatile int32_t *)args[0]; i < count; i++)
        value = value * 1664525u + 1013904223u;
    memcpy(args[1], &value, sizeof value);
}

static void run_touch(void *const *args, uint32_t n) {
    const float *big = args[0];
    float *out = args[1];
    for (uint32_t i = 0; i < n; i++)
        out[i] = big[i * ((1u << 20) / 256)];
}

static const toy TOYS[] = {
    {"add", 3, {1024, 1024, 1024}, 1024, 0, 0, run_add},
    {"scale", 1, {1024}, 1024, 0, 0, run_scale},
    {"reverse", 2, {1024, 1024}, 1024, 0, 1024, run_reverse},
    {"fixed_reverse", 2, {1024, 1024}, 1024, 1024, 0, run_reverse},
    {"mixed_reverse", 2, {1024, 1024}, 1024, 512, 512, run_reverse},
    {"slow", 2, {4, 4}, 1024, 0, 0, run_slow},
    {"touch", 2, {4 << 20, 1024}, 1024, 0, 0, run_touch},
    {"greedy", 1, {1024}, 32, 0, 0, run_scale},
};

const toy *find_toy(const char *name) {
    for (size_t i = 0; i < sizeof TOYS / sizeof *TOYS; i++)
        if (!strcmp(TOYS[i].name, name)) return &TOYS[i];
    return NULL;
}

/* ---- Objects ---- */

const char *kind_name(kind k) {
    static const char *const names[] = {"context", "module", "function", "memory",    "pinned memory",
                                        "stream",  "event",  "graph",    "graph exec"};
    return names[k];
}

void push(const char *call, object *context) {
    if (depth == MAX_DEPTH) die("%s: %d contexts that were not left", call, depth);
    stack[depth++] = context;
}

object *pop(const char *call) {
    if (!depth) die("%s outside of a context", call);
    return stack[--depth];
}

__attribute__((visibility("default"))) int fake_cuda_depth(void) {
    return depth;
}

object *make(kind k, object *context) {
    object *made = calloc(1, sizeof *made);
    if (!made) die("no memory");
    *made = (object){.kind = k, .live = true, .context = context, .next = fake_objects};
    made->last = &made->first;
    return fake_objects = made;
}

object *current(const char *call) {
    if (!depth) die("%s outside of a context", call);
    if (!stack[depth - 1]->live) die("%s in a context that is gone", call);
    return stack[depth - 1];
}

object *use(const char *call, kind k, const void *handle) {
    for (object *o = fake_objects; o; o = o->next) {
        if (o != handle) continue;
        if (o->kind != k) die("%s: a %s where a %s is expected", call, kind_name(o->kind), kind_name(k));
        if (!o->live) die("%s: a %s that is gone", call, kind_name(k));
        if (o->context && o->context != current(call)) die("%s: a %s of another context", call, kind_name(k));
        return o;
    }
    die("%s: %p is no %s", call, handle, kind_name(k));
}

object *find_memory(kind k, const void *at, size_t bytes) {
    const char *begin = at;
    for (object *o = fake_objects; o; o = o->next)
        if (o->kind == k && o->live && begin >= o->memory && begin < o->memory + o->bytes)
            return bytes <= (size_t)(o->memory + o->bytes - begin) ? o : NULL;
    return NULL;
}

char *device_memory(const char *call, mn_cu_pointer pointer, size_t bytes) {
    object *found = find_memory(MEMORY, (void *)(uintptr_t)pointer, bytes);
    if (!found) die("%s: %zu bytes at %#llx are not all in one allocation", call, bytes, pointer);
    if (found->context != current(call)) die("%s: memory of another context", call);
    return (char *)(uintptr_t)pointer;
}

/* ---- Streams ---- */

static int execute(object *stream, operation *op) {
    switch (op->what) {
    case COPY:
        memcpy(op->to, op->staged ? op->staged : op->from, op->bytes);
        stream->clock_ms += (double)op->bytes * 1e-8; /* 100 GB/s */
        return 0;
    case SET: memset(op->to, op->value, op->bytes); return 0;
    case RECORD:
        op->event->clock_ms = stream->clock_ms;
        op->event->done = true;
        return 0;
    case LAUNCH: break;
    }
    stream->clock_ms += 0.001 * op->n_groups;
    for (uint32_t i = 0; i < op->kernel->n_args; i++)
        if (!find_memory(MEMORY, op->args[i], op->kernel->bytes[i])) return ILLEGAL_ADDRESS;
    if (faulty("fault")) return ILLEGAL_ADDRESS;
    if (faulty("hang"))
        for (;;)
            pthread_cond_wait(&changed, &fake_lock);
    pthread_mutex_unlock(&fake_lock);
    op->kernel->run(op->args, op->n_threads);
    pthread_mutex_lock(&fake_lock);
    return 0;
}

static void *work(void *argument) {
    object *stream = argument;
    pthread_mutex_lock(&fake_lock);
    while (stream->first || !stream->destroyed) {
        operation *op = stream->first;
        if (!op) {
            pthread_cond_wait(&changed, &fake_lock);
            continue;
        }
        pthread_mutex_unlock(&fake_lock);
        nanosleep(&(struct timespec){.tv_nsec = DELAY_US * 1000}, NULL);
        pthread_mutex_lock(&fake_lock);
        if (!stream->context->sticky) stream->context->sticky = execute(stream, op);
        if (!(stream->first = op->next)) stream->last = &stream->first;
        free(op->staged);
        free(op);
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&fake_lock);
    return NULL;
}

void start_stream(object *stream) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, work, stream) || pthread_detach(thread)) die("no thread");
}

void append(object *to, const operation *op) {
    operation *copy = malloc(sizeof *copy);
    if (!copy) die("no memory");
    *copy = *op;
    copy->next = NULL;
    *to->last = copy;
    to->last = &copy->next;
    pthread_cond_broadcast(&changed);
}

void wait_for(const object *context) {
    for (object *o = fake_objects; o; o = o->next)
        while (o->kind == STREAM && o->context == context && o->first) {
            pthread_cond_wait(&changed, &fake_lock);
            o = fake_objects;
        }
}

void end(object *o) {
    operation *next;
    o->live = false;
    if (o->kind == STREAM) {
        o->destroyed = true;
        pthread_cond_broadcast(&changed);
        return;
    }
    free(o->memory);
    free(o->image);
    o->memory = o->image = NULL;
    for (; o->first; o->first = next) {
        next = o->first->next;
        free(o->first);
    }
}

void end_context(object *context) {
    wait_for(context);
    for (object *o = fake_objects; o; o = o->next)
        if (o->context == context && o->live) end(o);
    context->live = false;
}
