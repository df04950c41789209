#ifndef MN_MODEL_H
#define MN_MODEL_H

#include "driver.h"

struct mossnet_model {
    _Atomic uint32_t n_users; /* the caller, until it frees the model, and each session */
    unsigned char *data;      /* the mapped file */
    size_t bytes;
    mn_file file;          /* the variant in use */
    uint32_t variant;      /* which it is */
    char passed_over[480]; /* the ones before it, and why */
    const mn_driver *driver;
    mn_device *device;
};

#endif
