/* A model's methods. */
#include "jni_calls.h"
#include "jni_values.h"

#include <stdlib.h>
#include <string.h>

jbyteArray mj_version(JNIEnv *env, jclass class) {
    (void)class;
    return mj_byte_array(env, mossnet_version(), strlen(mossnet_version()));
}

/* A name that may be NULL; false after a failure. */
static int get_name(JNIEnv *env, jbyteArray array, char **name) {
    size_t n;
    *name = array ? mj_bytes(env, array, &n) : NULL;
    return !array || *name;
}

jlong mj_modelLoad(JNIEnv *env, jclass class, jbyteArray path_utf8, jboolean allow_native, jint timeout_ms,
                   jbyteArray device_utf8, jbyteArray cache_dir_utf8, jbyteArray driver_utf8) {
    (void)class;
    char *path = NULL, *device = NULL, *cache_dir = NULL, *driver = NULL;
    mossnet_model *model = NULL;
    mossnet_error error;
    if (get_name(env, path_utf8, &path) && get_name(env, device_utf8, &device) &&
        get_name(env, cache_dir_utf8, &cache_dir) && get_name(env, driver_utf8, &driver)) {
        const mossnet_options options = {
            .flags = allow_native ? MOSSNET_ALLOW_NATIVE : 0,
            .timeout_ms = (uint32_t)timeout_ms,
            .device = device,
            .cache_dir = cache_dir,
            .driver = driver,
        };
        if (mossnet_model_load(path, &options, &model, &error)) mj_throw(env, &error);
    }
    free(path);
    free(device);
    free(cache_dir);
    free(driver);
    return MJ_ADDRESS(model);
}

void mj_modelFree(JNIEnv *env, jclass class, jlong model) {
    (void)env;
    (void)class;
    mossnet_model_free(MJ_POINTER(model));
}

jlongArray mj_modelInfo(JNIEnv *env, jclass class, jlong model) {
    (void)class;
    mossnet_info info;
    mossnet_model_info(MJ_POINTER(model), &info);
    const int64_t parts[] = {info.vocab_size, info.max_context, (int64_t)mossnet_session_bytes(MJ_POINTER(model))};
    return mj_long_array(env, parts, sizeof parts / sizeof *parts);
}

jbyteArray mj_modelMeta(JNIEnv *env, jclass class, jlong model, jbyteArray key_utf8) {
    (void)class;
    char *key;
    if (!get_name(env, key_utf8, &key)) return NULL;
    const char *value = mossnet_model_meta(MJ_POINTER(model), key);
    free(key);
    return value ? mj_byte_array(env, value, strlen(value)) : NULL;
}

jbyteArray mj_modelDevice(JNIEnv *env, jclass class, jlong model) {
    (void)class;
    size_t bytes = mossnet_model_device(MJ_POINTER(model), NULL, 0);
    char *text = malloc(bytes);
    if (!text) return mj_no_memory(env, bytes);
    mossnet_model_device(MJ_POINTER(model), text, bytes);
    jbyteArray array = mj_byte_array(env, text, strlen(text));
    free(text);
    return array;
}

jintArray mj_modelEncode(JNIEnv *env, jclass class, jlong model, jbyteArray utf8) {
    (void)class;
    size_t bytes, n = 0;
    mossnet_error error;
    char *text = mj_bytes(env, utf8, &bytes);
    if (!text) return NULL;
    jintArray array = NULL;
    int32_t *ids = NULL;
    mossnet_status status = mossnet_model_encode(MJ_POINTER(model), text, bytes, NULL, 0, &n, &error);
    if (!status && (ids = malloc((n + 1) * sizeof *ids))) {
        status = mossnet_model_encode(MJ_POINTER(model), text, bytes, ids, n, &n, &error);
        if (!status) array = mj_int_array(env, ids, n);
    } else if (!status)
        mj_no_memory(env, (n + 1) * sizeof *ids);
    if (status) mj_throw(env, &error);
    free(text);
    free(ids);
    return array;
}
