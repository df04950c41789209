/* Compiled, never run: what opencl_api.h declares by hand agrees with Khronos' headers. Qualcomm's recordable queues
 * are not in them. */
#define CL_TARGET_OPENCL_VERSION 300
#define CL_USE_DEPRECATED_OPENCL_1_2_APIS
#include <CL/cl.h>
#include <CL/cl_icd.h>
#include <stddef.h>

#define MN_CL_CHECK
#include "opencl_api.h"

/* The types that opencl_api.h uses where it is not compared. */
_Static_assert(sizeof(cl_int) == sizeof(int32_t) && (cl_int)-1 < 0, "cl_int");
_Static_assert(sizeof(cl_uint) == sizeof(uint32_t) && (cl_uint)-1 > 0, "cl_uint");
_Static_assert(sizeof(cl_bool) == sizeof(uint32_t), "cl_bool");
_Static_assert(sizeof(cl_bitfield) == sizeof(uint64_t) && (cl_bitfield)-1 > 0, "cl_bitfield");
_Static_assert(sizeof(cl_context_properties) == sizeof(intptr_t), "cl_context_properties");
_Static_assert(sizeof(cl_mem) == sizeof(void *), "objects are pointers");

_Static_assert(sizeof(mn_cl_region) == sizeof(cl_buffer_region), "cl_buffer_region");
_Static_assert(offsetof(mn_cl_region, origin) == offsetof(cl_buffer_region, origin), "cl_buffer_region.origin");
_Static_assert(offsetof(mn_cl_region, size) == offsetof(cl_buffer_region, size), "cl_buffer_region.size");
_Static_assert(MN_CL_DEVICE_TYPE_ALL == CL_DEVICE_TYPE_ALL, "CL_DEVICE_TYPE_ALL");

#define VALUE(name, value) _Static_assert((value) == CL_##name, #name);
MN_CL_CONSTANTS(VALUE)
MN_CL_ERRORS(VALUE)

#define FUNCTION(name, slot, result, arguments)                                                                        \
    _Static_assert(__builtin_types_compatible_p(__typeof__(&name), result(*) arguments), #name);                       \
    _Static_assert(offsetof(struct _cl_icd_dispatch, name) == (slot) * sizeof(void *), #name " in the ICD's table");
MN_CL_FUNCTIONS(FUNCTION)
