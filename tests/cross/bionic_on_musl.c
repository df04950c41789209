/* The names that bionic has and musl has not, on top of musl: loaded first, a program for Android runs where musl does.
 * That tests what the program does, and nothing of how bionic lays out its types and numbers its constants. */
#include <stddef.h>

int *__errno_location(void);
int __libc_start_main(int (*main)(int, char **, char **), int argc, char **argv, void (*init)(void), void (*fini)(void),
                      void (*stop)(void));

int *__errno(void) {
    return __errno_location();
}

void __libc_init(void *stack, void (*on_exit)(void), int (*main)(int, char **, char **), const void *lists) {
    long *argc = stack;
    (void)on_exit, (void)lists;
    __libc_start_main(main, (int)*argc, (char **)(argc + 1), NULL, NULL, NULL);
}
