/* Compiled, never run: the lists of targets/java/native/jni.h agree with a real header, a JDK's or Android's. Places in
 * the tables are part of the interface, names and types are the header's. */
#include <jni.h>
#include <stddef.h>

#define JNI_LISTS_ONLY
#include DECLARED

#define CONSTANT(name, value) _Static_assert((name) == (value), #name);
#define TYPE(name, type)      _Static_assert(__builtin_types_compatible_p(name, type), #name);
#define IN(table, place, result, name, arguments)                                                                      \
    _Static_assert(offsetof(__typeof__(*(table)0), name) == (place) * sizeof(void *), #name);                          \
    _Static_assert(__builtin_types_compatible_p(__typeof__(((table)0)->name), result(*) arguments), #name);
#define ENV_FUNCTION(place, result, name, arguments) IN(JNIEnv, place, result, name, arguments)
#define VM_FUNCTION(place, result, name, arguments)  IN(JavaVM, place, result, name, arguments)

JNI_CONSTANTS(CONSTANT)
JNI_TYPES(TYPE)
JNI_ENV_FUNCTIONS(ENV_FUNCTION)
JNI_VM_FUNCTIONS(VM_FUNCTION)

_Static_assert(sizeof(JNINativeMethod) == 3 * sizeof(void *), "JNINativeMethod");
_Static_assert(offsetof(JNINativeMethod, signature) == sizeof(void *), "JNINativeMethod.signature");
_Static_assert(offsetof(JNINativeMethod, fnPtr) == 2 * sizeof(void *), "JNINativeMethod.fnPtr");
_Static_assert(__builtin_types_compatible_p(jclass, jobject) && __builtin_types_compatible_p(jbyteArray, jobject) &&
                   __builtin_types_compatible_p(jthrowable, jobject),
               "in C all objects have one type");
