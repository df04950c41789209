#include "cpu_features.h"

#include <stdio.h>
#include <string.h>

#include <sched.h>

/* One bit of what the machine reports. */
typedef struct feature {
    const char *name; /* LLVM's */
    uint8_t word;     /* which word of `machine` */
    uint8_t bit;
    uint8_t needs; /* what the system must save at a task switch for it */
} feature;

#if defined(__x86_64__)

#include <cpuid.h>

enum { ANY, YMM, ZMM, TILE };
enum { LEAF1_C, LEAF1_D, LEAF7_B, LEAF7_C, LEAF7_D, LEAF7_1_A, LEAF7_1_D, EXT1_C, XSAVE1_A, WORDS };

static const feature FEATURES[] = {
    {"sse", LEAF1_D, 25, ANY},
    {"sse2", LEAF1_D, 26, ANY},
    {"sse3", LEAF1_C, 0, ANY},
    {"pclmul", LEAF1_C, 1, ANY},
    {"ssse3", LEAF1_C, 9, ANY},
    {"fma", LEAF1_C, 12, YMM},
    {"cx16", LEAF1_C, 13, ANY},
    {"sse4.1", LEAF1_C, 19, ANY},
    {"sse4.2", LEAF1_C, 20, ANY},
    {"movbe", LEAF1_C, 22, ANY},
    {"popcnt", LEAF1_C, 23, ANY},
    {"aes", LEAF1_C, 25, ANY},
    {"xsave", LEAF1_C, 26, ANY},
    {"avx", LEAF1_C, 28, YMM},
    {"f16c", LEAF1_C, 29, YMM},
    {"rdrnd", LEAF1_C, 30, ANY},
    {"fsgsbase", LEAF7_B, 0, ANY},
    {"bmi", LEAF7_B, 3, ANY},
    {"bmi1", LEAF7_B, 3, ANY}, /* GCC's and Intel's name for LLVM's bmi */
    {"avx2", LEAF7_B, 5, YMM},
    {"bmi2", LEAF7_B, 8, ANY},
    {"avx512f", LEAF7_B, 16, ZMM},
    {"avx512dq", LEAF7_B, 17, ZMM},
    {"rdseed", LEAF7_B, 18, ANY},
    {"adx", LEAF7_B, 19, ANY},
    {"avx512ifma", LEAF7_B, 21, ZMM},
    {"clflushopt", LEAF7_B, 23, ANY},
    {"clwb", LEAF7_B, 24, ANY},
    {"avx512cd", LEAF7_B, 28, ZMM},
    {"sha", LEAF7_B, 29, ANY},
    {"avx512bw", LEAF7_B, 30, ZMM},
    {"avx512vl", LEAF7_B, 31, ZMM},
    {"avx512vbmi", LEAF7_C, 1, ZMM},
    {"avx512vbmi2", LEAF7_C, 6, ZMM},
    {"gfni", LEAF7_C, 8, ANY},
    {"vaes", LEAF7_C, 9, YMM},
    {"vpclmulqdq", LEAF7_C, 10, YMM},
    {"avx512vnni", LEAF7_C, 11, ZMM},
    {"avx512bitalg", LEAF7_C, 12, ZMM},
    {"avx512vpopcntdq", LEAF7_C, 14, ZMM},
    {"movdiri", LEAF7_C, 27, ANY},
    {"movdir64b", LEAF7_C, 28, ANY},
    {"avx512vp2intersect", LEAF7_D, 8, ZMM},
    {"amx-bf16", LEAF7_D, 22, TILE},
    {"avx512fp16", LEAF7_D, 23, ZMM},
    {"amx-tile", LEAF7_D, 24, TILE},
    {"amx-int8", LEAF7_D, 25, TILE},
    {"avxvnni", LEAF7_1_A, 4, YMM},
    {"avx512bf16", LEAF7_1_A, 5, ZMM},
    {"avxifma", LEAF7_1_A, 23, YMM},
    {"avxvnniint8", LEAF7_1_D, 4, YMM},
    {"avxneconvert", LEAF7_1_D, 5, YMM},
    {"avxvnniint16", LEAF7_1_D, 10, YMM},
    {"sahf", EXT1_C, 0, ANY},
    {"lzcnt", EXT1_C, 5, ANY},
    {"sse4a", EXT1_C, 6, ANY},
    {"prfchw", EXT1_C, 8, ANY},
    {"xsaveopt", XSAVE1_A, 0, YMM},
    {"xsavec", XSAVE1_A, 1, YMM},
};

/* XCR0: the register sets that the system saves. cpuid alone would promise registers that get lost. */
static uint32_t saved_registers(uint32_t leaf1_c) {
    uint32_t low, high;
    if (!(leaf1_c >> 27 & 1)) return 0; /* OSXSAVE */
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

typedef struct machine {
    uint32_t word[WORDS];
    bool saves[4]; /* by ANY, YMM, ZMM, TILE */
} machine;

static machine read_machine(void) {
    machine m = {.word = {0}};
    uint32_t a, b, c, d;
    if (__get_cpuid(1, &a, &b, &c, &d)) m.word[LEAF1_C] = c, m.word[LEAF1_D] = d;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        uint32_t subleaves = a;
        m.word[LEAF7_B] = b, m.word[LEAF7_C] = c, m.word[LEAF7_D] = d;
        if (subleaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) m.word[LEAF7_1_A] = a, m.word[LEAF7_1_D] = d;
    }
    if (__get_cpuid_count(13, 1, &a, &b, &c, &d)) m.word[XSAVE1_A] = a;
    if (__get_cpuid(0x80000001, &a, &b, &c, &d)) m.word[EXT1_C] = c;
    uint32_t saved = saved_registers(m.word[LEAF1_C]);
    m.saves[ANY] = true;
    m.saves[YMM] = (saved & 0x6) == 0x6;
    m.saves[ZMM] = (saved & 0xe6) == 0xe6;
    m.saves[TILE] = (saved & 0x60000) == 0x60000;
    return m;
}

static bool has(const machine *m, const feature *f) {
    return m->word[f->word] >> f->bit & 1 && m->saves[f->needs];
}

const char *mossnet_cpu_arch(void) {
    return "x86_64";
}

#elif defined(__aarch64__)

#include <sys/auxv.h>

enum { HWCAP, HWCAP2, WORDS };

/* Bits of the kernel's <asm/hwcap.h>, by number: older headers lack the younger ones. */
static const feature FEATURES[] = {
    {"fp-armv8", HWCAP, 0, 0}, {"neon", HWCAP, 1, 0},       {"aes", HWCAP, 3, 0},       {"sha2", HWCAP, 6, 0},
    {"crc", HWCAP, 7, 0},      {"lse", HWCAP, 8, 0},        {"fullfp16", HWCAP, 10, 0}, {"rdm", HWCAP, 12, 0},
    {"jsconv", HWCAP, 13, 0},  {"complxnum", HWCAP, 14, 0}, {"rcpc", HWCAP, 15, 0},     {"sha3", HWCAP, 17, 0},
    {"sm4", HWCAP, 19, 0},     {"dotprod", HWCAP, 20, 0},   {"sve", HWCAP, 22, 0},      {"fp16fml", HWCAP, 23, 0},
    {"sve2", HWCAP2, 1, 0},    {"i8mm", HWCAP2, 13, 0},     {"bf16", HWCAP2, 14, 0},    {"sme", HWCAP2, 23, 0},
};

typedef struct machine {
    unsigned long word[WORDS];
} machine;

static machine read_machine(void) {
    return (machine){{getauxval(AT_HWCAP), getauxval(AT_HWCAP2)}};
}

static bool has(const machine *m, const feature *f) {
    return m->word[f->word] >> f->bit & 1;
}

const char *mossnet_cpu_arch(void) {
    return "aarch64";
}

#else
#error "libmossnet runs on x86_64 and aarch64"
#endif

enum { N_FEATURES = sizeof FEATURES / sizeof *FEATURES };

/* Appends to a comma separated list that is cut at `capacity`; returns the bytes that the whole list needs so far. */
static size_t append(char *list, size_t capacity, size_t used, const char *name, size_t length) {
    const char *comma = used ? "," : "";
    if (used < capacity) snprintf(list + used, capacity - used, "%s%.*s", comma, (int)length, name);
    return used + strlen(comma) + length;
}

size_t mossnet_cpu_features(char *out, size_t capacity) {
    machine m = read_machine();
    size_t used = 0;
    if (capacity) out[0] = 0;
    for (int i = 0; i < N_FEATURES; i++)
        if (has(&m, &FEATURES[i])) used = append(out, capacity, used, FEATURES[i].name, strlen(FEATURES[i].name));
    return used + 1;
}

static bool machine_has(const machine *m, const char *name, size_t length) {
    for (int i = 0; i < N_FEATURES; i++)
        if (strlen(FEATURES[i].name) == length && !memcmp(FEATURES[i].name, name, length)) return has(m, &FEATURES[i]);
    return false;
}

bool mn_cpu_missing(const char *features, char *missing, size_t capacity) {
    machine m = read_machine();
    size_t used = 0;
    for (const char *name = features; *name;) {
        size_t length = strcspn(name, ",");
        if (length && !machine_has(&m, name, length)) used = append(missing, capacity, used, name, length);
        name += length + (name[length] == ',');
    }
    return used;
}

uint32_t mossnet_cpu_count(void) {
    cpu_set_t allowed; /* 1024 CPUs, as many as a pool takes */
    if (sched_getaffinity(0, sizeof allowed, &allowed)) return 1;
    int n = CPU_COUNT(&allowed);
    return n > 0 ? (uint32_t)n : 1;
}
