#include "jni_values.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void mj_throw(JNIEnv *env, const mossnet_error *error) {
    jclass kind = (*env)->FindClass(env, "org/mossnet/MossnetException");
    if (!kind) return;
    jmethodID make = (*env)->GetMethodID(env, kind, "<init>", "(I[B)V");
    jbyteArray text = make ? mj_byte_array(env, error->text, strlen(error->text)) : NULL;
    jobject made = text ? (*env)->NewObject(env, kind, make, (jint)error->status, text) : NULL;
    if (made && !(*env)->ExceptionCheck(env)) (*env)->Throw(env, made);
}

void *mj_no_memory(JNIEnv *env, size_t bytes) {
    mossnet_error error = {MOSSNET_MEMORY, ""};
    snprintf(error.text, sizeof error.text, "no memory for %zu bytes", bytes);
    mj_throw(env, &error);
    return NULL;
}

char *mj_bytes(JNIEnv *env, jbyteArray array, size_t *n) {
    jsize length = (*env)->GetArrayLength(env, array);
    *n = (size_t)length;
    char *copy = malloc(*n + 1);
    if (!copy) return mj_no_memory(env, *n + 1);
    (*env)->GetByteArrayRegion(env, array, 0, length, (jbyte *)copy);
    copy[*n] = 0;
    return copy;
}

int32_t *mj_ints(JNIEnv *env, jintArray array, size_t *n) {
    jsize length = (*env)->GetArrayLength(env, array);
    *n = (size_t)length;
    int32_t *copy = malloc((*n + 1) * sizeof *copy);
    if (!copy) return mj_no_memory(env, (*n + 1) * sizeof *copy);
    (*env)->GetIntArrayRegion(env, array, 0, length, copy);
    return copy;
}

/* Whether Java has an array of that length. */
static int fits(JNIEnv *env, size_t n) {
    if (n <= INT32_MAX) return 1;
    mj_no_memory(env, n);
    return 0;
}

jbyteArray mj_byte_array(JNIEnv *env, const void *bytes, size_t n) {
    jbyteArray array = fits(env, n) ? (*env)->NewByteArray(env, (jsize)n) : NULL;
    if (array) (*env)->SetByteArrayRegion(env, array, 0, (jsize)n, bytes);
    return array;
}

jintArray mj_int_array(JNIEnv *env, const int32_t *values, size_t n) {
    jintArray array = fits(env, n) ? (*env)->NewIntArray(env, (jsize)n) : NULL;
    if (array) (*env)->SetIntArrayRegion(env, array, 0, (jsize)n, values);
    return array;
}

jlongArray mj_long_array(JNIEnv *env, const int64_t *values, size_t n) {
    jlongArray array = fits(env, n) ? (*env)->NewLongArray(env, (jsize)n) : NULL;
    if (array) (*env)->SetLongArrayRegion(env, array, 0, (jsize)n, values);
    return array;
}
