/* The methods of org.mossnet.Native. The second argument of each is that class. */
#ifndef MJ_CALLS_H
#define MJ_CALLS_H

#include "jni.h"

/* result, name, its type as Java writes it, arguments behind the first two */
#define MJ_METHODS(METHOD)                                                                                             \
    METHOD(jbyteArray, version, "()[B", (JNIEnv *, jclass))                                                            \
    METHOD(jlong, modelLoad, "([BZI[B[B[B)J",                                                                          \
           (JNIEnv *, jclass, jbyteArray, jboolean, jint, jbyteArray, jbyteArray, jbyteArray))                         \
    METHOD(void, modelFree, "(J)V", (JNIEnv *, jclass, jlong))                                                         \
    METHOD(jlongArray, modelInfo, "(J)[J", (JNIEnv *, jclass, jlong))                                                  \
    METHOD(jbyteArray, modelMeta, "(J[B)[B", (JNIEnv *, jclass, jlong, jbyteArray))                                    \
    METHOD(jbyteArray, modelDevice, "(J)[B", (JNIEnv *, jclass, jlong))                                                \
    METHOD(jintArray, modelEncode, "(J[B)[I", (JNIEnv *, jclass, jlong, jbyteArray))                                   \
    METHOD(jbyteArray, modelDecode, "(J[I)[B", (JNIEnv *, jclass, jlong, jintArray))                                   \
    METHOD(jlong, sessionNew, "(JI)J", (JNIEnv *, jclass, jlong, jint))                                                \
    METHOD(void, sessionFree, "(J)V", (JNIEnv *, jclass, jlong))                                                       \
    METHOD(jlong, sessionFork, "(J)J", (JNIEnv *, jclass, jlong))                                                      \
    METHOD(void, sessionReset, "(J)V", (JNIEnv *, jclass, jlong))                                                      \
    METHOD(void, sessionCancel, "(J)V", (JNIEnv *, jclass, jlong))                                                     \
    METHOD(jlong, sessionPosition, "(J)J", (JNIEnv *, jclass, jlong))                                                  \
    METHOD(void, sessionPrefill, "(J[I[F)V", (JNIEnv *, jclass, jlong, jintArray, jfloatArray))                        \
    METHOD(void, sessionDecode, "(JI[F)V", (JNIEnv *, jclass, jlong, jint, jfloatArray))                               \
    METHOD(jbyteArray, sessionSave, "(J)[B", (JNIEnv *, jclass, jlong))                                                \
    METHOD(void, sessionRestore, "(J[B)V", (JNIEnv *, jclass, jlong, jbyteArray))                                      \
    METHOD(jlongArray, sessionGenerate, "(J[BJFFFFIIJLorg/mossnet/TokenSink;)[J",                                      \
           (JNIEnv *, jclass, jlong, jbyteArray, jlong, jfloat, jfloat, jfloat, jfloat, jint, jint, jlong, jobject))

#define MJ_DECLARE(result, name, type, arguments) result mj_##name arguments;
MJ_METHODS(MJ_DECLARE)

#endif
