"""The row of the driver opencl: PoCL, which runs OpenCL on the CPU."""

from __future__ import annotations

import ctypes.util
import functools
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import mock

from mossnet_tg.errors import MossnetError
from tests.conformance.suite import Code, Driver, Toy
from tests.runtime.toy import build

HERE = Path(__file__).parent
SOURCES = {
    "add": "__kernel void add(__global const float *a, __global const float *b, __global float *out) {\n"
    "    size_t i = get_global_id(0);\n"
    "    out[i] = a[i] + b[i];\n"
    "}\n",
    "scale": "__kernel void scale(__global float *x) {\n"
    "    size_t i = get_global_id(0);\n"
    "    x[i] = 2.0f * x[i] + 1.0f;\n"
    "}\n",
    "reverse": "__kernel __attribute__((reqd_work_group_size(256, 1, 1)))\n"
    "void reverse(__global const float *in, __global float *out) {\n"
    "    __local float shared[256];\n"
    "    int i = get_local_id(0);\n"
    "    shared[i] = in[i];\n"
    "    barrier(CLK_LOCAL_MEM_FENCE);\n"
    "    out[i] = shared[255 - i];\n"
    "}\n",
    "slow": "__kernel void slow(__global const volatile int *count, __global uint *out) {\n"
    "    uint v = 1;\n"
    "    for (int i = 0; i < count[0]; i++) v = v * 1664525u + 1013904223u;\n"
    "    out[0] = v;\n"
    "}\n",
    "touch": "__kernel void touch(__global const float *big, __global float *out) {\n"
    "    size_t i = get_global_id(0);\n"
    "    out[i] = big[i * 4096];\n"
    "}\n",
}


def code(kernels: Sequence[str]) -> Code:
    block, places = b"", {}
    for name in kernels:
        source = SOURCES[name].encode()
        places[name] = (len(block), len(source))
        block += source
    return block, places


def in_wheel(package: str, pattern: str) -> list[str]:
    """Drivers from PyPI lie with pyopencl, whose loader finds them."""
    found = importlib.util.find_spec(package) and importlib.util.find_spec("pyopencl")
    if not found or not found.origin:
        return []
    return sorted(map(str, Path(found.origin).parent.glob(f".libs/{pattern}")))


@functools.cache
def pocl() -> str | None:
    """The driver itself, no loader: Debian's, or the one of pocl-binary-distribution."""
    debian = ctypes.util.find_library("pocl")
    return debian or next(iter(in_wheel("pocl_binary_distribution", "libpocl-*.so")), None)


# For what this run of the tests builds; PoCL asks for the place of its cache once per process.
FOLDER = tempfile.TemporaryDirectory(prefix="mossnet-opencl-")


@functools.cache
def shim() -> str:
    """opencl_shim.c, built: PoCL with less than it has, with more, or with failures."""
    out = Path(FOLDER.name, "libshim.so")
    build(out, [HERE / "opencl_shim.c"], "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-ldl")
    return str(out)


def shimmed(**settings: str | int) -> Mapping[str, str]:
    """The environment in which the driver finds the shim with these settings (opencl_shim.c)."""
    driver = pocl()
    assert driver
    named = {f"MOSSNET_SHIM_{name.upper()}": str(value) for name, value in settings.items()}
    return {"MOSSNET_OPENCL_LIB": shim(), "MOSSNET_SHIM_DRIVER": driver, **named}


def small() -> Mapping[str, str]:
    return shimmed(max_alloc=8 << 20, max_block=128, local=4096)


def caching() -> Mapping[str, str]:
    """The driver leaves PoCL's programs to PoCL's own cache; under another name it treats it as it does others."""
    return shimmed(platform="Shim")


@functools.cache
def unavailable() -> str | None:
    if not shutil.which("gcc"):
        return "no gcc to build the shim with"
    if not pocl():
        return "PoCL is not installed (Debian: pocl-opencl-icd)"
    toy = Toy(DRIVER)
    toy.step("add", "logits", "logits", "logits")
    with mock.patch.dict(os.environ, DRIVER.env):
        try:
            toy.load(Path(FOLDER.name, "probe.moss"))
        except MossnetError as error:
            # LLVM 14 in PoCL's wheel knows no CPU that came after it.
            if "unknown target CPU" in str(error):
                return f"{pocl()}: {error}"
            raise
    return None


DRIVER = Driver(
    "opencl",
    unavailable,
    code,
    env={"MOSSNET_OPENCL_LIB": pocl() or "", "POCL_CACHE_DIR": str(Path(FOLDER.name, "pocl"))},
    small=small,
    caching=caching,
)
