#include "model.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* The driver for META `target`, whose first word ("cpu" in "cpu:avx2") names the kind of device. */
static const mn_driver *find_driver(const char *target) {
    static const mn_driver *const drivers[] = {&mn_driver_cpu};
    size_t length = strcspn(target, ": ,");
    for (size_t i = 0; i < sizeof drivers / sizeof *drivers; i++)
        if (strlen(drivers[i]->target) == length && !memcmp(drivers[i]->target, target, length)) return drivers[i];
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

static mossnet_status load(mossnet_model *model, int fd, uint32_t flags, mossnet_error *error) {
    mossnet_status status = map_file(model, fd, error);
    if (!status) status = mn_file_parse(model->data, model->bytes, &model->file, error);
    if (!status) status = mn_file_check_sums(model->data, error);
    if (status) return status;
    const char *target = mn_file_meta(&model->file, "target");
    if (!target) return mn_fail(error, MOSSNET_FORMAT, "META does not have `target`");
    model->driver = find_driver(target);
    if (!model->driver)
        return mn_fail(error, MOSSNET_UNSUPPORTED,
                       "compiled for the target %.80s, which this library has no driver for", target);
    mn_source source = {&model->file, model->data, fd, flags};
    return model->driver->open(&source, &model->device, error);
}

mossnet_status mossnet_model_load(const char *path, uint32_t flags, mossnet_model **out, mossnet_error *error) {
    mossnet_error inner;
    *out = NULL;
    if (flags & ~MOSSNET_ALLOW_NATIVE) return mn_fail(error, MOSSNET_ARGUMENT, "unknown flags %#x", flags);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return mn_fail(error, MOSSNET_IO, "%.200s: %s", path, strerror(errno));
    mossnet_model *model = calloc(1, sizeof *model);
    if (model) model->n_users = 1;
    mossnet_status status =
        model ? load(model, fd, flags, &inner) : mn_fail(&inner, MOSSNET_MEMORY, "no memory for a model");
    close(fd);
    if (status) {
        mossnet_model_free(model);
        return mn_fail(error, status, "%.200s: %.270s", path, inner.text);
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
