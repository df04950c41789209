#include "mock_driver.h"

#include <sanitizer/asan_interface.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct mn_queue {
    const mn_device *device;
    unsigned char *region[MN_REGIONS];
};

void must_be_memory(const void *at, uint64_t bytes) {
    if (bytes && __asan_region_is_poisoned((void *)(uintptr_t)at, bytes)) {
        fprintf(stderr, "a range of an accepted plan lies outside its memory\n");
        abort();
    }
}

static void mock_stop(mn_queue *queue) {
    for (int region = MN_STATE; region < MN_REGIONS; region++)
        free(queue->region[region]);
    free(queue);
}

static mossnet_status mock_start(mn_device *device, uint32_t n_threads, mn_queue **out, mossnet_error *error) {
    const mn_file *file = device->file;
    mn_queue *queue = calloc(1, sizeof *queue);
    (void)n_threads;
    queue->device = device;
    queue->region[MN_WEIGHTS] = (unsigned char *)(uintptr_t)device->data + file->weights.offset;
    for (int region = MN_STATE; region < MN_REGIONS; region++)
        queue->region[region] = calloc(1, file->region_bytes[region]);
    *out = queue;
    return mn_ok(error);
}

static uint32_t mock_threads(const mn_queue *queue) {
    (void)queue;
    return 1;
}

static mossnet_status mock_run(mn_queue *queue, uint32_t first_step, uint32_t n_steps, mossnet_error *error) {
    const mn_file *file = queue->device->file;
    for (uint32_t i = first_step; i < first_step + n_steps; i++) {
        const mn_step *step = &file->steps[i];
        const mn_kernel *kernel = &file->kernels[step->kernel];
        must_be_memory(queue->device->data + file->code.offset + kernel->code.offset, kernel->code.bytes);
        must_be_memory(file->strings + step->label, strlen(file->strings + step->label) + 1);
        for (uint32_t a = 0; a < step->n_args; a++) {
            const mn_param *param = &file->params[kernel->first_param + a];
            const mn_buffer *buffer = &file->buffers[file->args[step->first_arg + a]];
            unsigned char *at = queue->region[buffer->region] + buffer->offset;
            must_be_memory(at, param->bytes);
            if (param->access & MN_ACCESS_WRITTEN && param->bytes) at[param->bytes - 1] ^= 1;
        }
    }
    return mn_ok(error);
}

static mossnet_status mock_wait(mn_queue *queue, mossnet_error *error) {
    (void)queue;
    return mn_ok(error);
}

static mossnet_status mock_read(const mn_queue *queue, uint32_t region, uint64_t offset, uint64_t bytes, void *out,
                                mossnet_error *error) {
    memcpy(out, queue->region[region] + offset, bytes);
    return mn_ok(error);
}

static mossnet_status mock_write(mn_queue *queue, uint32_t region, uint64_t offset, uint64_t bytes, const void *in,
                                 mossnet_error *error) {
    memcpy(queue->region[region] + offset, in, bytes);
    return mn_ok(error);
}

static mossnet_status mock_clear(mn_queue *queue, uint32_t region, mossnet_error *error) {
    memset(queue->region[region], 0, queue->device->file->region_bytes[region]);
    return mn_ok(error);
}

static mossnet_status mock_view(const mn_queue *queue, uint32_t region, uint64_t offset, uint64_t bytes,
                                const void **out, mossnet_error *error) {
    must_be_memory(queue->region[region] + offset, bytes);
    *out = queue->region[region] + offset;
    return mn_ok(error);
}

static mossnet_status mock_devices(mn_text *out, mossnet_error *error) {
    mn_text_add(out, "name=mock\n");
    return mn_ok(error);
}

static mossnet_status mock_open(const mn_source *source, mn_device **out, mossnet_error *error) {
    *out = malloc(sizeof **out);
    **out = (mn_device){source->file, source->data};
    return mn_ok(error);
}

static void mock_close(mn_device *device) {
    free(device);
}

static void mock_describe(const mn_device *device, mn_text *out) {
    (void)device;
    mock_devices(out, NULL);
}

#define MOCK(driver_name)                                                                                              \
    {                                                                                                                  \
        .name = driver_name,                                                                                           \
        .devices = mock_devices,                                                                                       \
        .open = mock_open,                                                                                             \
        .close = mock_close,                                                                                           \
        .describe = mock_describe,                                                                                     \
        .start = mock_start,                                                                                           \
        .stop = mock_stop,                                                                                             \
        .threads = mock_threads,                                                                                       \
        .run = mock_run,                                                                                               \
        .wait = mock_wait,                                                                                             \
        .read = mock_read,                                                                                             \
        .write = mock_write,                                                                                           \
        .clear = mock_clear,                                                                                           \
        .view = mock_view,                                                                                             \
    }

const mn_driver mn_driver_cpu = MOCK("cpu");
const mn_driver mn_driver_cuda = MOCK("cuda");
const mn_driver mn_driver_opencl = MOCK("opencl");
const mn_driver mn_driver_vulkan = MOCK("vulkan");
