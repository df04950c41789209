/* Where a program for Android begins, as the loader jumps to it: with the stack pointer at argc. An NDK links its own.
 */
#include "bionic.h"

int main(int argc, char **argv, char **environment);

/* Lists of constructors and destructors. The loader runs a program's constructors; destructors, C has none. */
static const void *const NO_LISTS[8];

__attribute__((used)) void mn_start(void *stack) {
    __libc_init(stack, NULL, main, NO_LISTS);
}

/* No frame and no return address: here unwinding ends. */
__asm__(".text\n"
        ".globl _start\n"
        ".type _start,%function\n"
        "_start:\n"
        "    mov x29, #0\n"
        "    mov x30, #0\n"
        "    mov x0, sp\n"
        "    b mn_start\n"
        ".size _start, . - _start\n");
