/* Loads of constants in every width, each of which a compiler addresses with a relocation of its own. */
typedef float f32x4 __attribute__((vector_size(16)));

static const char table[9000] = {[6] = 2, [8999] = 1}; /* more than two pages: distances cross them */

/* In assembly, or their values would be used instead of loads. */
extern const char byte __attribute__((visibility("hidden")));
extern const short half __attribute__((visibility("hidden")));
extern const int word __attribute__((visibility("hidden")));
__asm__(".pushsection .rodata\n"
        ".balign 4\n"
        "word: .word 70000\n"
        "half: .hword 300\n"
        "byte: .byte 5\n"
        ".popsection\n");

void constants(float *out, int i) {
    f32x4 v = {1.5f, 2.25f, 3.125f, 4.0625f};
    out[0] = (float)(0.1 * i); /* 8 bytes */
    out[1] = 0.3f * (float)i;
    v = v * (f32x4){0.1f, 0.2f, 0.7f, 0.9f} * (float)i; /* 16 bytes */
    for (int k = 0; k < 4; k++)
        out[2 + k] = v[k];
    out[6] = (float)table[i];
    out[7] = (float)(byte + half + word);
}
