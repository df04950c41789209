#include "model.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const mn_driver *find_driver(const char *name) {
    static const mn_driver *const drivers[] = {
        &mn_driver_cpu,
#ifndef MOSSNET_NO_CUDA
        &mn_driver_cuda,
#endif
#ifndef MOSSNET_NO_OPENCL
        &mn_driver_opencl,
#endif
#ifndef MOSSNET_NO_VULKAN
        &mn_driver_vulkan,
#endif
    };
    for (size_t i = 0; i < sizeof drivers / sizeof *drivers; i++)
        if (!strcmp(drivers[i]->name, name)) return drivers[i];
    return NULL;
}

static mossnet_status map_file(mossnet_model *model, int fd, mossnet_error *error) {
    struct stat info;
    if (fstat(fd, &info)) return mn_fail(error, MOSSNET_IO, "%s", strerror(errno));
    if (!S_ISREG(info.st_mode)) return mn_fail(error, MOSSNET_IO, "not a file");
    if (!info.st_size) return mn_fail(error, MOSSNET_FORMAT, "the file is empty");
    void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) return mn_fail(error, MOSSNET_IO, "the file cannot be mapped: %s", strerror(errno));
    model->data = data;
    model->bytes = (size_t)info.st_size;
    return MOSSNET_OK;
}

/* Whether the device of the variant that model->file holds takes it. */
static mossnet_status open_variant(mossnet_model *model, int fd, const mossnet_options *options, mossnet_error *error) {
    const char *driver = mn_file_meta(&model->file, "driver");
    if (!driver) return mn_fail(error, MOSSNET_FORMAT, "META does not have `driver`");
    if (options->driver && strcmp(driver, options->driver) != 0)
        return mn_fail(error, MOSSNET_DEVICE, "runs through %.40s, %.40s is asked for", driver, options->driver);
    model->driver = find_driver(driver);
    if (!model->driver)
        return mn_fail(error, MOSSNET_UNSUPPORTED, "compiled for the driver %.80s, which this library does not have",
                       driver);
    mossnet_options own = *options;
    if ((!own.device || !*own.device) && model->file.n_variants > 1) own.device = mn_file_meta(&model->file, "device");
    mn_source source = {&model->file, model->data, fd, &own};
    return model->driver->open(&source, &model->device, error);
}

static void pass_over(mossnet_model *model, const mossnet_error *why) {
    mn_text text = {model->passed_over, sizeof model->passed_over, strlen(model->passed_over)};
    const char *target = mn_file_meta(&model->file, "target");
    mn_text_add(&text, "%s%.60s: %.150s", text.used ? "; " : "", target ? target : "unnamed", why->text);
    model->passed_over[sizeof model->passed_over - 1] = 0;
}

/* Another variant may run where one does not: for want of a device, of memory on it, of what the machine has. */
static bool may_another(mossnet_status status) {
    return status == MOSSNET_DEVICE || status == MOSSNET_UNSUPPORTED || status == MOSSNET_CONSENT ||
           status == MOSSNET_MEMORY;
}

static mossnet_status load(mossnet_model *model, int fd, const mossnet_options *options, mossnet_error *error) {
    bool lacks_consent = false;
    mossnet_status status = map_file(model, fd, error);
    if (!status) status = mn_file_parse(model->data, model->bytes, 0, &model->file, error);
    if (!status) status = mn_file_check_sums(model->data, error);
    if (status) return status;
    const uint32_t n = model->file.n_variants;
    for (model->variant = 0; (status = open_variant(model, fd, options, error)); model->variant++) {
        if (n == 1 || !may_another(status)) return status;
        lacks_consent |= status == MOSSNET_CONSENT;
        pass_over(model, error);
        if (model->variant + 1 == n)
            return mn_fail(error, lacks_consent ? MOSSNET_CONSENT : status, "none of its %u variants runs here: %s", n,
                           model->passed_over);
        mn_file_free(&model->file);
        status = mn_file_parse(model->data, model->bytes, model->variant + 1, &model->file, error);
        if (status) return status;
    }
    return MOSSNET_OK;
}

mossnet_status mossnet_model_load(const char *path, const mossnet_options *options, mossnet_model **out,
                                  mossnet_error *error) {
    static const mossnet_options defaults;
    mossnet_error inner;
    *out = NULL;
    if (!options) options = &defaults;
    if (options->flags & ~MOSSNET_ALLOW_NATIVE ||
        memcmp(options->reserved, defaults.reserved, sizeof defaults.reserved))
        return mn_fail(error, MOSSNET_ARGUMENT, "unknown options: flags %#x", options->flags);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return mn_fail(error, MOSSNET_IO, "%.200s: %s", path, strerror(errno));
    mossnet_model *model = calloc(1, sizeof *model);
    if (model) model->n_users = 1;
    mossnet_status status =
        model ? load(model, fd, options, &inner) : mn_fail(&inner, MOSSNET_MEMORY, "no memory for a model");
    close(fd);
    if (status) {
        mossnet_model_free(model);
        return mn_fail(error, status, "%.140s: %.320s", path, inner.text);
    }
    *out = model;
    return mn_ok(error);
}

void mossnet_model_free(mossnet_model *model) {
    if (!model || atomic_fetch_sub(&model->n_users, 1) != 1) return;
    if (model->device) model->driver->close(model->device);
    mn_file_free(&model->file);
    if (model->data) munmap(model->data, model->bytes);
    free(model);
}

void mossnet_model_info(const mossnet_model *model, mossnet_info *info) {
    const mn_file *file = &model->file;
    *info = (mossnet_info){
        .vocab_size = file->vocab_size,
        .chunk = file->chunk,
        .max_context = file->max_context,
        .n_buffers = file->n_buffers,
        .file_bytes = model->bytes,
        .weights_bytes = file->region_bytes[MN_WEIGHTS],
        .code_bytes = file->code.bytes,
        .state_bytes = file->region_bytes[MN_STATE],
        .arena_bytes = file->region_bytes[MN_ARENA],
        .io_bytes = file->region_bytes[MN_IO],
    };
    info->session_bytes = info->state_bytes + info->arena_bytes + info->io_bytes;
    for (int kind = 0; kind < MOSSNET_ENTRY_KINDS; kind++)
        info->n_steps[kind] = file->entry[kind] ? file->entry[kind]->n_steps : 0;
    memcpy(info->model_hash, file->model_hash, sizeof info->model_hash);
}

const char *mossnet_model_meta(const mossnet_model *model, const char *key) {
    return mn_file_meta(&model->file, key);
}

const char *mossnet_model_tokenizer(const mossnet_model *model, size_t *bytes) {
    mn_span span = model->file.tokenizer;
    *bytes = (size_t)span.bytes;
    return span.bytes ? (const char *)model->data + span.offset : NULL;
}

/* What a description needs as a C string. */
static size_t finish(const mn_text *text) {
    if (text->capacity && text->used >= text->capacity) text->out[text->capacity - 1] = 0;
    return text->used + 1;
}

size_t mossnet_model_device(const mossnet_model *model, char *out, size_t capacity) {
    mn_text text = {out, capacity, 0};
    model->driver->describe(model->device, &text);
    if (model->file.n_variants > 1)
        mn_text_add(&text, "variant=%u\nn_variants=%u\npassed_over=%s\n", model->variant, model->file.n_variants,
                    model->passed_over);
    return finish(&text);
}

mossnet_status mossnet_model_bandwidth(mossnet_model *model, uint64_t bytes, uint32_t reps, double *bytes_per_s,
                                       mossnet_error *error) {
    if (bytes < 1 || bytes > SIZE_MAX || reps < 1 || reps > 1000)
        return mn_fail(error, MOSSNET_ARGUMENT, "%llu bytes and %u copies, expected at least one byte and 1 to 1000",
                       (unsigned long long)bytes, reps);
    if (!model->driver->bandwidth) return mossnet_read_bandwidth((size_t)bytes, 0, reps, bytes_per_s, error);
    return model->driver->bandwidth(model->device, bytes, reps, bytes_per_s, error);
}

mossnet_status mossnet_devices(const char *driver, char *out, size_t capacity, size_t *needed, mossnet_error *error) {
    const mn_driver *found = find_driver(driver);
    mn_text text = {out, capacity, 0};
    *needed = 0;
    if (capacity) out[0] = 0;
    if (!found) return mn_fail(error, MOSSNET_ARGUMENT, "unknown driver %.40s", driver);
    mossnet_status status = found->devices(&text, error);
    *needed = finish(&text);
    return status;
}
