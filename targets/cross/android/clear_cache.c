/* What a compiler makes of __builtin___clear_cache: code that was written as data reaches what fetches instructions. An
 * NDK's compiler has it in a library of its own. */
#include <stdint.h>

void __clear_cache(void *begin, void *end) {
    uint64_t lines, end_at = (uint64_t)(uintptr_t)end;
    __asm__ volatile("mrs %0, ctr_el0" : "=r"(lines));
    uint64_t data = UINT64_C(4) << (lines >> 16 & 15), code = UINT64_C(4) << (lines & 15);
    for (uint64_t at = (uint64_t)(uintptr_t)begin & -data; at < end_at; at += data)
        __asm__ volatile("dc cvau, %0" ::"r"(at) : "memory");
    __asm__ volatile("dsb ish" ::: "memory");
    for (uint64_t at = (uint64_t)(uintptr_t)begin & -code; at < end_at; at += code)
        __asm__ volatile("ic ivau, %0" ::"r"(at) : "memory");
    __asm__ volatile("dsb ish\n\tisb" ::: "memory");
}
