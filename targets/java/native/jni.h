/* What is used of the Java Native Interface, declared by hand: it is needed where neither a JDK nor an NDK is, and is
 * the same everywhere, so that it is used there as well. tests/java/jni_abi.c holds the lists below against real
 * headers.
 *
 * A virtual machine hands out tables of functions; each is listed with its place in the table.
 */
#ifndef MOSSNET_JNI_H
#define MOSSNET_JNI_H

#include <stdint.h>

#define JNI_CONSTANTS(CONSTANT)                                                                                        \
    CONSTANT(JNI_OK, 0)                                                                                                \
    CONSTANT(JNI_ERR, -1)                                                                                              \
    CONSTANT(JNI_VERSION_1_6, 0x00010006)

#define JNI_TYPES(TYPE)                                                                                                \
    TYPE(jboolean, uint8_t)                                                                                            \
    TYPE(jbyte, int8_t)                                                                                                \
    TYPE(jint, int32_t)                                                                                                \
    TYPE(jlong, int64_t)                                                                                               \
    TYPE(jfloat, float)                                                                                                \
    TYPE(jsize, jint)

#define JNI_ENV_FUNCTIONS(FUNCTION)                                                                                    \
    FUNCTION(6, jclass, FindClass, (JNIEnv *, const char *))                                                           \
    FUNCTION(13, jint, Throw, (JNIEnv *, jthrowable))                                                                  \
    FUNCTION(23, void, DeleteLocalRef, (JNIEnv *, jobject))                                                            \
    FUNCTION(28, jobject, NewObject, (JNIEnv *, jclass, jmethodID, ...))                                               \
    FUNCTION(33, jmethodID, GetMethodID, (JNIEnv *, jclass, const char *, const char *))                               \
    FUNCTION(37, jboolean, CallBooleanMethod, (JNIEnv *, jobject, jmethodID, ...))                                     \
    FUNCTION(171, jsize, GetArrayLength, (JNIEnv *, jarray))                                                           \
    FUNCTION(176, jbyteArray, NewByteArray, (JNIEnv *, jsize))                                                         \
    FUNCTION(179, jintArray, NewIntArray, (JNIEnv *, jsize))                                                           \
    FUNCTION(180, jlongArray, NewLongArray, (JNIEnv *, jsize))                                                         \
    FUNCTION(200, void, GetByteArrayRegion, (JNIEnv *, jbyteArray, jsize, jsize, jbyte *))                             \
    FUNCTION(203, void, GetIntArrayRegion, (JNIEnv *, jintArray, jsize, jsize, jint *))                                \
    FUNCTION(208, void, SetByteArrayRegion, (JNIEnv *, jbyteArray, jsize, jsize, const jbyte *))                       \
    FUNCTION(211, void, SetIntArrayRegion, (JNIEnv *, jintArray, jsize, jsize, const jint *))                          \
    FUNCTION(212, void, SetLongArrayRegion, (JNIEnv *, jlongArray, jsize, jsize, const jlong *))                       \
    FUNCTION(213, void, SetFloatArrayRegion, (JNIEnv *, jfloatArray, jsize, jsize, const jfloat *))                    \
    FUNCTION(215, jint, RegisterNatives, (JNIEnv *, jclass, const JNINativeMethod *, jint))                            \
    FUNCTION(228, jboolean, ExceptionCheck, (JNIEnv *))

#define JNI_VM_FUNCTIONS(FUNCTION) FUNCTION(6, jint, GetEnv, (JavaVM *, void **, jint))

#ifndef JNI_LISTS_ONLY

#define JNI_CONSTANT(name, value) name = value,
enum { JNI_CONSTANTS(JNI_CONSTANT) };

#define JNI_TYPE(name, type) typedef type name;
JNI_TYPES(JNI_TYPE)

typedef struct jni_object *jobject;
typedef jobject jclass, jthrowable, jarray, jbyteArray, jintArray, jlongArray, jfloatArray;
typedef struct jni_method *jmethodID;

typedef struct JNINativeMethod {
    const char *name;
    const char *signature;
    void *fnPtr;
} JNINativeMethod;

typedef const union jni_env *JNIEnv;
typedef const union jni_vm *JavaVM;

/* Each function lies behind all those before it, whose names are not needed. */
#define JNI_FUNCTION(place, result, name, arguments)                                                                   \
    struct {                                                                                                           \
        void *before_##name[place];                                                                                    \
        result(*name) arguments;                                                                                       \
    };
union jni_env {
    JNI_ENV_FUNCTIONS(JNI_FUNCTION)
};
union jni_vm {
    JNI_VM_FUNCTIONS(JNI_FUNCTION)
};

#endif

#endif
