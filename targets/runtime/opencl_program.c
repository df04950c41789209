#include "opencl_program.h"

#include "program_cache.h"

#include <stdlib.h>
#include <string.h>

/* Nothing that takes NaN and infinities for impossible. */
static const char OPTIONS[] = "-cl-std=CL1.2 -cl-mad-enable";

static mn_cache_key key_of(const mn_cl_builder *b, const mn_kernel *kernel) {
    const mn_cl_device *device = b->device;
    const char *texts[] = {"opencl", OPTIONS, device->platform_name, device->name, device->driver, device->version};
    mn_cache_key key = {{0}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        mn_cache_key_add(&key, texts[i], strlen(texts[i]));
    mn_cache_key_add(&key, b->code + kernel->code.offset, (size_t)kernel->code.bytes);
    return key;
}

/* PoCL keeps a cache of its own, and asking it for a program's binary takes longer than anything else: it compiles each
 * kernel once more, for groups of any size (0.3 to 0.7 s each). */
static const char *cache_of(const mn_cl_builder *b) {
    return strcmp(b->device->platform_name, "Portable Computing Language") ? b->cache_dir : NULL;
}

static char *read_log(const mn_cl_builder *b, mn_cl_program program) {
    size_t bytes = 0;
    (void)b->cl->clGetProgramBuildInfo(program, b->device->id, MN_CL_PROGRAM_BUILD_LOG, 0, NULL, &bytes);
    char *log = calloc(1, bytes + 1);
    if (log && bytes)
        (void)b->cl->clGetProgramBuildInfo(program, b->device->id, MN_CL_PROGRAM_BUILD_LOG, bytes, log, NULL);
    return log;
}

/* An error's text has room for one line: the first that speaks of an error, not the warnings before it. */
static mossnet_status fail_build(const mn_cl_builder *b, const mn_kernel *kernel, mn_cl_program program, mn_cl_int code,
                                 mossnet_error *error) {
    char *log = read_log(b, program);
    const char *line = log ? strstr(log, "error") : NULL;
    while (line && line > log && line[-1] != '\n')
        line--;
    line = line ? line : log ? log + strspn(log, " \r\n\t") : "";
    mossnet_status status = mn_fail(error, MOSSNET_UNSUPPORTED, "kernel %.80s does not build on %.60s (%s): %.*s",
                                    b->file->strings + kernel->name, b->device->name, mn_cl_error_name(code),
                                    (int)strcspn(line, "\r\n"), line);
    free(log);
    return status;
}

static mossnet_status check_shape(const mn_cl_builder *b, const mn_kernel *kernel, mn_cl_kernel object,
                                  mossnet_error *error) {
    const char *name = b->file->strings + kernel->name, *device = b->device->name;
    size_t most = 0, fixed[3] = {0};
    uint64_t local = 0;
    mn_cl_uint n_arguments = 0;
    mn_cl_int code = b->cl->clGetKernelInfo(object, MN_CL_KERNEL_NUM_ARGS, sizeof n_arguments, &n_arguments, NULL);
    if (!code)
        code = b->cl->clGetKernelWorkGroupInfo(object, b->device->id, MN_CL_KERNEL_WORK_GROUP_SIZE, sizeof most, &most,
                                               NULL);
    if (!code)
        code = b->cl->clGetKernelWorkGroupInfo(object, b->device->id, MN_CL_KERNEL_COMPILE_WORK_GROUP_SIZE,
                                               sizeof fixed, fixed, NULL);
    if (!code)
        code = b->cl->clGetKernelWorkGroupInfo(object, b->device->id, MN_CL_KERNEL_LOCAL_MEM_SIZE, sizeof local, &local,
                                               NULL);
    if (code)
        return mn_fail(error, MOSSNET_DEVICE, "%s says nothing about kernel %.80s: %s (%d)", device, name,
                       mn_cl_error_name(code), code);
    if (n_arguments != kernel->n_params)
        return mn_fail(error, MOSSNET_FORMAT, "kernel %.80s has %u parameters, its source %u arguments", name,
                       kernel->n_params, n_arguments);
    const uint32_t *block = kernel->block;
    if (fixed[0] && (fixed[0] != block[0] || fixed[1] != block[1] || fixed[2] != block[2]))
        return mn_fail(error, MOSSNET_FORMAT,
                       "kernel %.80s has groups of %u x %u x %u threads, its source is for %zu x %zu x %zu", name,
                       block[0], block[1], block[2], fixed[0], fixed[1], fixed[2]);
    if ((size_t)block[0] * block[1] * block[2] > most)
        return mn_fail(error, MOSSNET_UNSUPPORTED,
                       "kernel %.80s runs in groups of %zu threads, %s has registers for %zu of it", name,
                       (size_t)block[0] * block[1] * block[2], device, most);
    if (local > b->device->local_bytes)
        return mn_fail(error, MOSSNET_UNSUPPORTED, "kernel %.80s shares %llu bytes in a group, %s has %llu", name,
                       (unsigned long long)local, device, (unsigned long long)b->device->local_bytes);
    return MOSSNET_OK;
}

static mossnet_status check_program(const mn_cl_builder *b, const mn_kernel *kernel, mn_cl_program program,
                                    mossnet_error *error) {
    const char *name = b->file->strings + kernel->name;
    mn_cl_int code = 0;
    mn_cl_kernel object = b->cl->clCreateKernel(program, name, &code);
    if (!object)
        return mn_fail(error, MOSSNET_UNSUPPORTED, "%s makes no kernel %.80s of its source: %s (%d)", b->device->name,
                       name, mn_cl_error_name(code), code);
    mossnet_status status = check_shape(b, kernel, object, error);
    (void)b->cl->clReleaseKernel(object);
    return status;
}

/* NULL when there is none, or none that the driver takes. */
static mn_cl_program load_program(const mn_cl_builder *b, const mn_kernel *kernel, const mn_cache_key *key) {
    size_t bytes = 0;
    unsigned char *binary = mn_cache_load(cache_of(b), key, &bytes);
    if (!binary) return NULL;
    mn_cl_int of_binary = 0, code = 0;
    mn_cl_program program = b->cl->clCreateProgramWithBinary(b->context, 1, &b->device->id, &bytes,
                                                             (const unsigned char **)&binary, &of_binary, &code);
    free(binary);
    if (!program) return NULL;
    if (!of_binary && !b->cl->clBuildProgram(program, 1, &b->device->id, OPTIONS, NULL, NULL) &&
        !check_program(b, kernel, program, NULL))
        return program;
    (void)b->cl->clReleaseProgram(program);
    return NULL;
}

/* A program that cannot be stored is built again next time. */
static void store_program(const mn_cl_builder *b, mn_cl_program program, const mn_cache_key *key) {
    size_t bytes = 0;
    if (!cache_of(b) || b->cl->clGetProgramInfo(program, MN_CL_PROGRAM_BINARY_SIZES, sizeof bytes, &bytes, NULL) ||
        !bytes)
        return;
    unsigned char *binary = malloc(bytes);
    if (binary && !b->cl->clGetProgramInfo(program, MN_CL_PROGRAM_BINARIES, sizeof binary, &binary, NULL))
        (void)mn_cache_store(b->cache_dir, key, binary, bytes);
    free(binary);
}

static mossnet_status compile(const mn_cl_builder *b, const mn_kernel *kernel, mn_cl_program *out,
                              mossnet_error *error) {
    const char *source = (const char *)b->code + kernel->code.offset;
    size_t bytes = (size_t)kernel->code.bytes;
    mn_cl_int code = 0;
    *out = b->cl->clCreateProgramWithSource(b->context, 1, &source, &bytes, &code);
    if (!*out)
        return mn_fail(error, MOSSNET_DEVICE, "%s takes no source: %s (%d)", b->device->name, mn_cl_error_name(code),
                       code);
    code = b->cl->clBuildProgram(*out, 1, &b->device->id, OPTIONS, NULL, NULL);
    mossnet_status status = code ? fail_build(b, kernel, *out, code, error) : check_program(b, kernel, *out, error);
    if (status) {
        (void)b->cl->clReleaseProgram(*out);
        *out = NULL;
    }
    return status;
}

mossnet_status mn_cl_build(mn_cl_builder *builder, uint32_t index, mn_cl_program *out, mossnet_error *error) {
    const mn_kernel *kernel = &builder->file->kernels[index];
    mn_cache_key key = key_of(builder, kernel);
    *out = load_program(builder, kernel, &key);
    if (*out) {
        builder->n_cached++;
        return MOSSNET_OK;
    }
    mossnet_status status = compile(builder, kernel, out, error);
    if (status) return status;
    builder->n_built++;
    store_program(builder, *out, &key);
    return status;
}
