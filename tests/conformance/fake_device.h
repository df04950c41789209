/* What fake_cuda.c is made of: handles that are never forgotten, memory, streams, and the kernels that it has. All of
 * it is called inside fake_lock. */
#ifndef FAKE_DEVICE_H
#define FAKE_DEVICE_H

#include "cuda_api.h"

#include <pthread.h>
#include <stdbool.h>

enum { ILLEGAL_ADDRESS = 700 }; /* a result */
enum { MAX_ARGS = 4 };

typedef enum kind { CONTEXT, MODULE, FUNCTION, MEMORY, PINNED, STREAM, EVENT, GRAPH, GRAPH_EXEC } kind;

typedef struct object object;

typedef struct toy {
    const char *name;
    uint32_t n_args;
    uint64_t bytes[MAX_ARGS]; /* that it touches of each argument */
    int max_threads, fixed_bytes, dynamic_bytes;
    void (*run)(void *const *args, uint32_t n_threads);
} toy;

typedef struct operation {
    enum { COPY, SET, LAUNCH, RECORD } what;
    char *to;
    const char *from;
    char *staged; /* the source, where the host's memory was pageable */
    size_t bytes;
    int value;
    const toy *kernel;
    void *args[MAX_ARGS];
    uint32_t n_groups, n_threads;
    object *event;
    struct operation *next;
} operation;

/* Objects are never freed, so that a handle used too late is known as what it was. */
struct object {
    kind kind;
    bool live, primary, done, destroyed;
    object *next, *context, *module; /* every object but a context is in one */
    int device, users, sticky, max_dynamic;
    char *memory;
    size_t bytes;
    char *image;
    const toy *kernel;
    operation *first, **last; /* a stream's work, a graph's content */
    bool recording;
    double clock_ms; /* a stream's, an event's */
};

extern pthread_mutex_t fake_lock;
extern object *fake_objects;

/* Says what was wrong and ends the process. */
__attribute__((format(printf, 1, 2), noreturn)) void die(const char *format, ...);
size_t setting(const char *name, size_t otherwise);
/* Whether this is the use of `what` that FAKE_CUDA_FAULT names. */
bool faulty(const char *what);
/* NULL without such a kernel. */
const toy *find_toy(const char *name);

const char *kind_name(kind k);
object *make(kind k, object *context);
/* The thread's contexts. */
void push(const char *call, object *context);
object *pop(const char *call);
object *current(const char *call);
int fake_cuda_depth(void);
/* The live object behind a handle of this kind, in the current context. */
object *use(const char *call, kind k, const void *handle);
/* The memory of the device or, pinned, of the host that holds the whole range; NULL for other memory. */
object *find_memory(kind k, const void *at, size_t bytes);
/* As find_memory; a range that is not all in the current context's memory ends the process. */
char *device_memory(const char *call, mn_cu_pointer pointer, size_t bytes);

void start_stream(object *stream);
void append(object *to, const operation *op);
/* As the real ones do, what frees waits for all that the context's streams were given. */
void wait_for(const object *context);
void end(object *o);
void end_context(object *context);

#endif
