/* Loading the library into a Java virtual machine: its methods are named to it. Nothing is kept between calls. */
#include "jni_calls.h"
#include "mossnet.h"

MOSSNET_API jint JNI_OnLoad(JavaVM *vm, void *reserved);

jint JNI_OnLoad(JavaVM *vm, void *reserved) {
#define MJ_METHOD(result, name, type, arguments) {#name, type, (void *)(uintptr_t)mj_##name},
    static const JNINativeMethod methods[] = {MJ_METHODS(MJ_METHOD)};
    (void)reserved;
    void *found;
    if ((*vm)->GetEnv(vm, &found, JNI_VERSION_1_6)) return JNI_ERR;
    JNIEnv *env = found;
    jclass native = (*env)->FindClass(env, "org/mossnet/Native");
    if (!native || (*env)->RegisterNatives(env, native, methods, sizeof methods / sizeof *methods)) return JNI_ERR;
    return JNI_VERSION_1_6;
}
