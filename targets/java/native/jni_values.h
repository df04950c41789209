/* What goes from Java to C and back. Where a function fails, an exception is pending, and its caller returns. */
#ifndef MJ_VALUES_H
#define MJ_VALUES_H

#include "jni.h"
#include "mossnet.h"

/* An object of the library as Java holds it. */
#define MJ_POINTER(address) ((void *)(uintptr_t)(address))
#define MJ_ADDRESS(pointer) ((jlong)(uintptr_t)(pointer))

/* Throws what the error says as a MossnetException. */
void mj_throw(JNIEnv *env, const mossnet_error *error);
/* Throws that there is no memory for a copy; NULL. */
void *mj_no_memory(JNIEnv *env, size_t bytes);

/* A copy of an array, to be freed, and its length; NULL after a failure. Of bytes it has a NUL behind them. */
char *mj_bytes(JNIEnv *env, jbyteArray array, size_t *n);
int32_t *mj_ints(JNIEnv *env, jintArray array, size_t *n);

/* Arrays; NULL after a failure, MEMORY for more than Java's arrays hold. */
jbyteArray mj_byte_array(JNIEnv *env, const void *bytes, size_t n);
jintArray mj_int_array(JNIEnv *env, const int32_t *values, size_t n);
jlongArray mj_long_array(JNIEnv *env, const int64_t *values, size_t n);

#endif
