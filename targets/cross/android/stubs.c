/* A library to link with where the real one is not: it has the names and nothing behind them. LIBRARY is one of
 * bionic.h's lists; the names are assembler's, because a compiler has its own ideas of what these functions are. */
#define BIONIC_LISTS_ONLY
#include "bionic.h"

#define FUNCTION(result, name, arguments) __asm__(".text\n.globl " #name "\n.type " #name ",%function\n" #name ": ret");
#define STREAM(name)                                                                                                   \
    __asm__(".data\n.globl " #name "\n.type " #name ",%object\n.size " #name ", 8\n" #name ": .quad 0");

LIBRARY(FUNCTION, STREAM)
