"""The rows of the driver cuda: a GPU where there is one, and a mock of NVIDIA's library (fake_cuda.c) everywhere."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mossnet_tg.codegen.emit import cubin
from mossnet_tg.codegen.emit.cubin import Image, Kind
from mossnet_tg.engine import Library
from mossnet_tg.errors import DeviceError, MossnetError
from tests.conformance.suite import KERNELS, Code, Driver
from tests.runtime.toy import build

HERE = Path(__file__).parent
SOURCES = {
    "add": "add(const float *a, const float *b, float *out) {\n"
    "    int i = blockIdx.x * 64 + threadIdx.x;\n"
    "    out[i] = a[i] + b[i];\n"
    "}\n",
    "scale": "scale(float *x) {\n    int i = blockIdx.x * 64 + threadIdx.x;\n    x[i] = 2.0f * x[i] + 1.0f;\n}\n",
    "reverse": "reverse(const float *in, float *out) {\n"
    "    __shared__ float shared[256];\n"
    "    int i = threadIdx.x;\n"
    "    shared[i] = in[i];\n"
    "    __syncthreads();\n"
    "    out[i] = shared[255 - i];\n"
    "}\n",
    "slow": "slow(const int *count, unsigned *out) {\n"
    "    unsigned v = 1, a = 1664525u + (*count < 0);\n"  # no compiler knows the multiplier
    "    for (int i = 0, n = *count; i < n; i++) v = v * a + 1013904223u;\n"
    "    *out = v;\n"
    "}\n",
    "touch": "touch(const float *big, float *out) {\n"
    "    int i = blockIdx.x * 64 + threadIdx.x;\n"
    "    out[i] = big[i * 4096];\n"
    "}\n",
}


def places(code: bytes, kernels: Sequence[str]) -> Code:
    """Every kernel's code is the whole of CODE."""
    return code, {name: (0, len(code)) for name in kernels}


def source(kernels: Sequence[str]) -> str:
    heads = (f'extern "C" __global__ void __launch_bounds__({KERNELS[name].block[0]}) ' for name in kernels)
    return "".join(head + SOURCES[name] for head, name in zip(heads, kernels, strict=True))


# ---- A GPU ----


def architecture() -> int:
    """Of the first device, e.g. 90."""
    return int(Library.default().devices("cuda")[0]["features"].removeprefix("sm_"))


def unavailable() -> str | None:
    try:
        cubin.compiler([architecture()])
    except MossnetError as error:
        return f"no GPU of NVIDIA: {error}" if isinstance(error, DeviceError) else str(error)
    return None


def code(kernels: Sequence[str]) -> Code:
    return places(cubin.images(source(kernels), [architecture()]), kernels)


# ---- The mock ----


@functools.cache
def folder() -> Path:
    """For what this run of the tests builds."""
    made = tempfile.TemporaryDirectory(prefix="mossnet-cuda-")
    folder.made = made  # type: ignore[attr-defined] # lives as long as the process
    return Path(made.name)


def mock_library(name: str = "libfake_cuda.so", *flags: str) -> str:
    """fake_cuda.c, built once."""
    out = folder() / name
    if not out.exists():
        files = [HERE / "fake_cuda.c", HERE / "fake_device.c"]
        build(out, files, "-shared", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror", *flags)
    return str(out)


def mock_unavailable() -> str | None:
    if not shutil.which("gcc"):
        return "no gcc to build the mock with"
    mock_library()
    return None


def mock_image(kind: Kind, architecture: int, kernels: Sequence[str], *lines: str) -> Image:
    """As fake_cuda.c reads it; a cubin ends with a NUL, since the library is not told its length."""
    head = f"MOCK cubin sm_{architecture}" if kind == Kind.CUBIN else "MOCK PTX"
    text = "".join(f"{line}\n" for line in (head, *kernels, *lines))
    return Image(kind, architecture, text.encode() + b"\0" * (kind == Kind.CUBIN))


def mock_code(kernels: Sequence[str]) -> Code:
    return places(cubin.encode([mock_image(Kind.CUBIN, 90, kernels)]), kernels)


# What libcuda translates it keeps itself: the library's program cache is not used.
DRIVER = Driver("cuda", unavailable, code, caching=None)
MOCK = Driver(
    "cuda",
    mock_unavailable,
    mock_code,
    env={"MOSSNET_CUDA_LIB": str(folder() / "libfake_cuda.so")},
    caching=None,
    title="cuda mock",
)
DRIVERS = (DRIVER, MOCK)
