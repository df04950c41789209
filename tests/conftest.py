"""Which OpenCL and Vulkan drivers the tests take, before any is opened: the processor's, and no others."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

from tests.conformance import opencl, vulkan

# PoCL keeps what it compiled here, and asks for the folder once per process.
if "POCL_CACHE_DIR" not in os.environ:
    os.environ["POCL_CACHE_DIR"] = tempfile.mkdtemp(prefix="mossnet-pocl-")
    atexit.register(shutil.rmtree, os.environ["POCL_CACHE_DIR"], ignore_errors=True)
# No test sees the user's records of tuning, or leaves any.
os.environ["MOSSNET_RECORDS_DIR"] = tempfile.mkdtemp(prefix="mossnet-records-")
atexit.register(shutil.rmtree, os.environ["MOSSNET_RECORDS_DIR"], ignore_errors=True)
if driver := opencl.pocl():
    os.environ.setdefault("MOSSNET_OPENCL_LIB", driver)
if vulkan.MANIFEST:
    os.environ.setdefault("VK_ICD_FILENAMES", vulkan.MANIFEST)
