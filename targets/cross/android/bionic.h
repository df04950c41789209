/* What the runtime uses of bionic, Android's C library, on arm64 at API level 24, declared by hand: with this and the
 * libraries that stubs.c makes, programs for Android are built where no NDK is. It stands for every header that check.c
 * includes; check.c holds the lists below against the real ones.
 *
 * Everything here is in bionic since API level 21, the first with arm64, the streams since 23. What is listed is what
 * is used.
 */
#ifndef BIONIC_H
#define BIONIC_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

/* ---- The same on every arm64 Linux ---- */

#define BIONIC_CONSTANTS(CONSTANT)                                                                                     \
    CONSTANT(O_RDONLY, 0)                                                                                              \
    CONSTANT(O_WRONLY, 1)                                                                                              \
    CONSTANT(O_CREAT, 0100)                                                                                            \
    CONSTANT(O_TRUNC, 01000)                                                                                           \
    CONSTANT(O_CLOEXEC, 02000000)                                                                                      \
    CONSTANT(STDIN_FILENO, 0)                                                                                          \
    CONSTANT(STDOUT_FILENO, 1)                                                                                         \
    CONSTANT(STDERR_FILENO, 2)                                                                                         \
    CONSTANT(POLLOUT, 4)                                                                                               \
    CONSTANT(POLLERR, 8)                                                                                               \
    CONSTANT(POLLHUP, 0x10)                                                                                            \
    CONSTANT(POLLNVAL, 0x20)                                                                                           \
    CONSTANT(S_IFMT, 0170000)                                                                                          \
    CONSTANT(S_IFREG, 0100000)                                                                                         \
    CONSTANT(PROT_READ, 1)                                                                                             \
    CONSTANT(PROT_WRITE, 2)                                                                                            \
    CONSTANT(PROT_EXEC, 4)                                                                                             \
    CONSTANT(MAP_PRIVATE, 2)                                                                                           \
    CONSTANT(MAP_ANONYMOUS, 0x20)                                                                                      \
    CONSTANT(MAP_NORESERVE, 0x4000)                                                                                    \
    CONSTANT(MADV_WILLNEED, 3)                                                                                         \
    CONSTANT(MADV_DONTNEED, 4)                                                                                         \
    CONSTANT(MADV_HUGEPAGE, 14)                                                                                        \
    CONSTANT(EINTR, 4)                                                                                                 \
    CONSTANT(EEXIST, 17)                                                                                               \
    CONSTANT(SIGHUP, 1)                                                                                                \
    CONSTANT(SIGILL, 4)                                                                                                \
    CONSTANT(SIGTRAP, 5)                                                                                               \
    CONSTANT(SIGABRT, 6)                                                                                               \
    CONSTANT(SIGBUS, 7)                                                                                                \
    CONSTANT(SIGFPE, 8)                                                                                                \
    CONSTANT(SIGSEGV, 11)                                                                                              \
    CONSTANT(SIGPIPE, 13)                                                                                              \
    CONSTANT(SIG_BLOCK, 0)                                                                                             \
    CONSTANT(SIG_SETMASK, 2)                                                                                           \
    CONSTANT(CLOCK_MONOTONIC, 1)                                                                                       \
    CONSTANT(AT_PAGESZ, 6)                                                                                             \
    CONSTANT(AT_HWCAP, 16)                                                                                             \
    CONSTANT(AT_HWCAP2, 26)                                                                                            \
    CONSTANT(SYS_futex, 98)                                                                                            \
    CONSTANT(SYS_gettid, 178)                                                                                          \
    CONSTANT(FUTEX_WAIT_PRIVATE, 128)                                                                                  \
    CONSTANT(FUTEX_WAKE_PRIVATE, 129)                                                                                  \
    CONSTANT(RTLD_LOCAL, 0)                                                                                            \
    CONSTANT(RTLD_NOW, 2)

#define BIONIC_TYPES(TYPE)                                                                                             \
    TYPE(ssize_t, long)                                                                                                \
    TYPE(off_t, long)                                                                                                  \
    TYPE(time_t, long)                                                                                                 \
    TYPE(pid_t, int)                                                                                                   \
    TYPE(clockid_t, int)                                                                                               \
    TYPE(mode_t, unsigned)                                                                                             \
    TYPE(sighandler_t, bionic_sighandler)

typedef void (*bionic_sighandler)(int);

/* type, bytes */
#define BIONIC_SIZES(SIZE)                                                                                             \
    SIZE(struct timespec, 16)                                                                                          \
    SIZE(struct stat, 128)                                                                                             \
    SIZE(struct pollfd, 8)                                                                                             \
    SIZE(cpu_set_t, 128)

/* struct, field, its type, offset */
#define BIONIC_FIELDS(FIELD)                                                                                           \
    FIELD(timespec, tv_sec, time_t, 0)                                                                                 \
    FIELD(timespec, tv_nsec, long, 8)                                                                                  \
    FIELD(stat, st_mode, mode_t, 16)                                                                                   \
    FIELD(stat, st_size, off_t, 48)                                                                                    \
    FIELD(pollfd, fd, int, 0)                                                                                          \
    FIELD(pollfd, events, short, 4)                                                                                    \
    FIELD(pollfd, revents, short, 6)

/* result, name, arguments: what compilers call of their own accord, printf and its like being replaced by others */
#define BIONIC_COMPILED_FUNCTIONS(FUNCTION)                                                                            \
    FUNCTION(void *, memcpy, (void *, const void *, size_t))                                                           \
    FUNCTION(void *, memmove, (void *, const void *, size_t))                                                          \
    FUNCTION(void *, memset, (void *, int, size_t))                                                                    \
    FUNCTION(int, memcmp, (const void *, const void *, size_t))                                                        \
    FUNCTION(size_t, fwrite, (const void *, size_t, size_t, FILE *))                                                   \
    FUNCTION(int, fputc, (int, FILE *))                                                                                \
    FUNCTION(int, puts, (const char *))                                                                                \
    FUNCTION(int, putchar, (int))

#define BIONIC_FUNCTIONS(FUNCTION)                                                                                     \
    FUNCTION(void *, malloc, (size_t))                                                                                 \
    FUNCTION(void *, calloc, (size_t, size_t))                                                                         \
    FUNCTION(void *, realloc, (void *, size_t))                                                                        \
    FUNCTION(int, posix_memalign, (void **, size_t, size_t))                                                           \
    FUNCTION(void, free, (void *))                                                                                     \
    FUNCTION(void, qsort, (void *, size_t, size_t, int (*)(const void *, const void *)))                               \
    FUNCTION(char *, getenv, (const char *))                                                                           \
    FUNCTION(long, strtol, (const char *, char **, int))                                                               \
    FUNCTION(unsigned long, strtoul, (const char *, char **, int))                                                     \
    FUNCTION(void *, memchr, (const void *, int, size_t))                                                              \
    FUNCTION(size_t, strlen, (const char *))                                                                           \
    FUNCTION(int, strcmp, (const char *, const char *))                                                                \
    FUNCTION(int, strncmp, (const char *, const char *, size_t))                                                       \
    FUNCTION(int, strcasecmp, (const char *, const char *))                                                            \
    FUNCTION(char *, strcat, (char *, const char *))                                                                   \
    FUNCTION(char *, strchr, (const char *, int))                                                                      \
    FUNCTION(char *, strstr, (const char *, const char *))                                                             \
    FUNCTION(char *, strcasestr, (const char *, const char *))                                                         \
    FUNCTION(size_t, strspn, (const char *, const char *))                                                             \
    FUNCTION(size_t, strcspn, (const char *, const char *))                                                            \
    FUNCTION(char *, strdup, (const char *))                                                                           \
    FUNCTION(char *, strerror, (int))                                                                                  \
    FUNCTION(FILE *, fopen, (const char *, const char *))                                                              \
    FUNCTION(int, fclose, (FILE *))                                                                                    \
    FUNCTION(char *, fgets, (char *, int, FILE *))                                                                     \
    FUNCTION(int, fputs, (const char *, FILE *))                                                                       \
    FUNCTION(int, printf, (const char *, ...))                                                                         \
    FUNCTION(int, fprintf, (FILE *, const char *, ...))                                                                \
    FUNCTION(int, snprintf, (char *, size_t, const char *, ...))                                                       \
    FUNCTION(int, vsnprintf, (char *, size_t, const char *, va_list))                                                  \
    FUNCTION(int, sscanf, (const char *, const char *, ...))                                                           \
    FUNCTION(int, open, (const char *, int, ...))                                                                      \
    FUNCTION(int, close, (int))                                                                                        \
    FUNCTION(ssize_t, read, (int, void *, size_t))                                                                     \
    FUNCTION(ssize_t, write, (int, const void *, size_t))                                                              \
    FUNCTION(int, dup, (int))                                                                                          \
    FUNCTION(int, dup2, (int, int))                                                                                    \
    FUNCTION(int, pipe2, (int *, int))                                                                                 \
    FUNCTION(int, poll, (struct pollfd *, nfds_t, int))                                                                \
    FUNCTION(int, stat, (const char *, struct stat *))                                                                 \
    FUNCTION(int, fstat, (int, struct stat *))                                                                         \
    FUNCTION(int, mkdir, (const char *, mode_t))                                                                       \
    FUNCTION(int, rename, (const char *, const char *))                                                                \
    FUNCTION(int, unlink, (const char *))                                                                              \
    FUNCTION(void *, mmap, (void *, size_t, int, int, int, off_t))                                                     \
    FUNCTION(int, mprotect, (void *, size_t, int))                                                                     \
    FUNCTION(int, madvise, (void *, size_t, int))                                                                      \
    FUNCTION(int, munmap, (void *, size_t))                                                                            \
    FUNCTION(int, clock_gettime, (clockid_t, struct timespec *))                                                       \
    FUNCTION(int, nanosleep, (const struct timespec *, struct timespec *))                                             \
    FUNCTION(pid_t, getpid, (void))                                                                                    \
    FUNCTION(int, sched_getaffinity, (pid_t, size_t, cpu_set_t *))                                                     \
    FUNCTION(int, __sched_cpucount, (size_t, const cpu_set_t *))                                                       \
    FUNCTION(unsigned long, getauxval, (unsigned long))                                                                \
    FUNCTION(long, syscall, (long, ...))                                                                               \
    FUNCTION(int, sigfillset, (sigset_t *))                                                                            \
    FUNCTION(int, sigdelset, (sigset_t *, int))                                                                        \
    FUNCTION(sighandler_t, signal, (int, sighandler_t))                                                                \
    FUNCTION(int, pthread_sigmask, (int, const sigset_t *, sigset_t *))                                                \
    FUNCTION(int, pthread_create, (pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))                    \
    FUNCTION(int, pthread_join, (pthread_t, void **))                                                                  \
    FUNCTION(int, pthread_mutex_init, (pthread_mutex_t *, const pthread_mutexattr_t *))                                \
    FUNCTION(int, pthread_mutex_destroy, (pthread_mutex_t *))                                                          \
    FUNCTION(int, pthread_mutex_lock, (pthread_mutex_t *))                                                             \
    FUNCTION(int, pthread_mutex_unlock, (pthread_mutex_t *))

#define BIONIC_DL_FUNCTIONS(FUNCTION)                                                                                  \
    FUNCTION(void *, dlopen, (const char *, int))                                                                      \
    FUNCTION(void *, dlsym, (void *, const char *))                                                                    \
    FUNCTION(int, dlclose, (void *))                                                                                   \
    FUNCTION(char *, dlerror, (void))

/* ---- Where C libraries differ ---- */

#define BIONIC_OWN_TYPES(TYPE)                                                                                         \
    TYPE(pthread_t, long)                                                                                              \
    TYPE(nfds_t, unsigned)                                                                                             \
    TYPE(pthread_mutexattr_t, long)

#define BIONIC_OWN_SIZES(SIZE)                                                                                         \
    SIZE(sigset_t, 8)                                                                                                  \
    SIZE(pthread_mutex_t, 40)

#define BIONIC_OWN_FUNCTIONS(FUNCTION)                                                                                 \
    FUNCTION(int *, __errno, (void))                                                                                   \
    FUNCTION(void, _exit, (int))

/* In no public header: what a compiler calls, and what an executable starts with. */
#define BIONIC_HIDDEN_FUNCTIONS(FUNCTION)                                                                              \
    FUNCTION(void, __stack_chk_fail, (void))                                                                           \
    FUNCTION(void, __libc_init, (void *, void (*)(void), int (*)(int, char **, char **), const void *))

#define BIONIC_STREAMS(STREAM)                                                                                         \
    STREAM(stdout)                                                                                                     \
    STREAM(stderr)

/* ---- The libraries, for stubs.c ---- */

#define BIONIC_LIBC(FUNCTION, STREAM)                                                                                  \
    BIONIC_COMPILED_FUNCTIONS(FUNCTION)                                                                                \
    BIONIC_FUNCTIONS(FUNCTION)                                                                                         \
    BIONIC_OWN_FUNCTIONS(FUNCTION)                                                                                     \
    BIONIC_HIDDEN_FUNCTIONS(FUNCTION)                                                                                  \
    BIONIC_STREAMS(STREAM)

#define BIONIC_LIBDL(FUNCTION, STREAM) BIONIC_DL_FUNCTIONS(FUNCTION)

/* ---- The declarations ---- */

#ifndef BIONIC_LISTS_ONLY

#define BIONIC_CONSTANT(name, value) name = value,
enum { BIONIC_CONSTANTS(BIONIC_CONSTANT) };

#define BIONIC_TYPE(name, type) typedef type name;
BIONIC_TYPES(BIONIC_TYPE)
BIONIC_OWN_TYPES(BIONIC_TYPE)

typedef struct __sFILE FILE;
typedef struct pthread_attr pthread_attr_t;

typedef struct cpu_set {
    unsigned long bits[16];
} cpu_set_t;

typedef struct sigset {
    unsigned long bits[1];
} sigset_t;

typedef struct pthread_mutex {
    int32_t parts[10];
} pthread_mutex_t;

struct timespec {
    time_t tv_sec;
    long tv_nsec;
};

struct stat {
    long before[2];
    mode_t st_mode;
    unsigned between[7];
    off_t st_size;
    long after[9];
};

struct pollfd {
    int fd;
    short events;
    short revents;
};

#define BIONIC_SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), #type);
BIONIC_SIZES(BIONIC_SIZE)
BIONIC_OWN_SIZES(BIONIC_SIZE)
#define BIONIC_FIELD(type, field, field_type, offset) _Static_assert(offsetof(struct type, field) == (offset), #field);
BIONIC_FIELDS(BIONIC_FIELD)

#define BIONIC_FUNCTION(result, name, arguments) result name arguments;
BIONIC_COMPILED_FUNCTIONS(BIONIC_FUNCTION)
BIONIC_FUNCTIONS(BIONIC_FUNCTION)
BIONIC_DL_FUNCTIONS(BIONIC_FUNCTION)
BIONIC_OWN_FUNCTIONS(BIONIC_FUNCTION)
BIONIC_HIDDEN_FUNCTIONS(BIONIC_FUNCTION)

#define BIONIC_STREAM(name) extern FILE *name;
BIONIC_STREAMS(BIONIC_STREAM)

#define errno          (*__errno())
#define SIG_IGN        ((sighandler_t)1)
#define MAP_FAILED     ((void *)-1)
#define S_ISREG(mode)  (((mode) & S_IFMT) == S_IFREG)
#define INFINITY       __builtin_inff()
#define CPU_COUNT(set) __sched_cpucount(sizeof(cpu_set_t), set)

#endif

#endif
