/* Compiled, never run: the lists of bionic.h agree with real headers. With an NDK's all of them are compared, with
 * those of another C library for arm64 what every arm64 Linux has in common. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BIONIC_LISTS_ONLY
#include "bionic.h"

#define CONSTANT(name, value) _Static_assert((name) == (value), #name);
#define TYPE(name, type)      _Static_assert(__builtin_types_compatible_p(name, type), #name);
#define SIZE(type, bytes)     _Static_assert(sizeof(type) == (bytes), #type);
#define FIELD(type, field, field_type, offset)                                                                         \
    _Static_assert(offsetof(struct type, field) == (offset), #field);                                                  \
    _Static_assert(__builtin_types_compatible_p(__typeof__(((struct type *)0)->field), field_type), #field);
#define FUNCTION(result, name, arguments)                                                                              \
    _Static_assert(__builtin_types_compatible_p(__typeof__(&name), result(*) arguments), #name);
#define STREAM(name) _Static_assert(__builtin_types_compatible_p(__typeof__(name), FILE *), #name);

BIONIC_CONSTANTS(CONSTANT)
BIONIC_TYPES(TYPE)
BIONIC_SIZES(SIZE)
BIONIC_FIELDS(FIELD)
BIONIC_COMPILED_FUNCTIONS(FUNCTION)
BIONIC_FUNCTIONS(FUNCTION)
BIONIC_DL_FUNCTIONS(FUNCTION)

#ifdef __BIONIC__
BIONIC_OWN_TYPES(TYPE)
BIONIC_OWN_SIZES(SIZE)
BIONIC_OWN_FUNCTIONS(FUNCTION)
BIONIC_STREAMS(STREAM)
#endif
