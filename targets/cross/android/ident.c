/* The note by which Android's tools know for which API level a file was built, as an NDK's linker adds it. */
#include <stdint.h>

__attribute__((used, section(".note.android.ident"), aligned(4))) static const struct ident {
    uint32_t name_bytes, bytes, type;
    char name[8];
    uint32_t api_level;
    char ndk[64], build[64];
} ident = {8, 132, 1, "Android", __ANDROID_API__, "none", ""};
