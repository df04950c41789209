"""From CUDA C to CODE of the driver cuda (docs/format.md, KERNEL): machine code for each architecture, and PTX, which
the driver of a device that is newer than all of them translates.

The source is one translation unit with every kernel as `extern "C" __global__`. It includes nothing: NVRTC, the
compiler that needs neither a toolkit nor a host's compiler, comes without headers. Multiplications and additions may be
fused; NaN, infinity and division are IEEE's.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_void_p
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from mossnet_tg.errors import MossnetError, UsageError

# Machine code runs on its own architecture and on later ones of the same ten; so these are all GPUs since 2018 but
# Jetson Thor (11.0), which takes the PTX.
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
# The PTX is for devices that no machine code fits, and all of those can do what an sm_80 can.
_PTX_ARCHITECTURE = 80
_IMAGE_ALIGN = 64
_OPTIONS = ("-std=c++17",)  # the default of both compilers, said so that it stays


class Kind(IntEnum):
    """What an image holds."""

    CUBIN = 0
    PTX = 1


@dataclass(frozen=True)
class Image:
    """The program for one architecture, e.g. 90."""

    kind: Kind
    architecture: int
    code: bytes


@dataclass(frozen=True)
class Compiler:
    """A compiler on this machine; `name` has its version, so that it can be part of a key. `compile` raises
    `MossnetError` with the compiler's log."""

    name: str
    architectures: frozenset[int]
    compile: Callable[[str, int, Kind], bytes]


def images(source: str, architectures: Sequence[int] = ARCHITECTURES) -> bytes:
    """CODE for the architectures, and for those that come after them.

    Raises `MossnetError` for a source that the compiler refuses, with its log, and as `compiler` does.
    """
    found = compiler(architectures)
    wanted = sorted(set(architectures))
    ptx = next((a for a in wanted if a >= _PTX_ARCHITECTURE), wanted[-1])
    jobs = [*((Kind.CUBIN, a) for a in wanted), (Kind.PTX, ptx)]
    return encode([Image(kind, a, found.compile(source, a, kind)) for kind, a in jobs])


def encode(images: Sequence[Image]) -> bytes:
    """The table of images, and the images behind it."""
    code = bytearray(8 + 24 * len(images))
    struct.pack_into("<II", code, 0, len(images), 0)
    for i, image in enumerate(images):
        code += bytes(-len(code) % _IMAGE_ALIGN)
        struct.pack_into("<IIQQ", code, 8 + 24 * i, image.kind, image.architecture, len(code), len(image.code))
        code += image.code
    return bytes(code)


def compiler(architectures: Sequence[int] = ARCHITECTURES) -> Compiler:
    """The compiler that makes code for all of the architectures.

    Raises `MossnetError` when there is none on this machine, and `UsageError` when none knows all the architectures.
    """
    if not architectures:
        raise UsageError("no CUDA architectures, expected at least one, e.g. 90")
    found: dict[str, Compiler] = {}
    for one in compilers():
        if one.architectures.issuperset(architectures):
            return one
        found[one.name] = one
    if not found:
        text = "neither NVRTC nor nvcc is on this machine, and compiling for CUDA takes one of them"
        raise MossnetError(text, hint="pip install 'mossnet-tg[cuda]'")
    wanted = ", ".join(f"sm_{a}" for a in sorted(set(architectures)))
    known = "; ".join(f"{name} knows {', '.join(map(str, sorted(one.architectures)))}" for name, one in found.items())
    raise UsageError(f"no CUDA compiler on this machine makes code for all of {wanted}: {known}")


def compilers() -> Iterator[Compiler]:
    """Every compiler on this machine that works, best first; one may come twice."""
    for place in _nvrtc_places():
        if one := _nvrtc(place):
            yield one
    if one := _nvcc():
        yield one


def _nvrtc_places() -> Iterator[str]:
    """Where NVRTC may be: PyPI's packages, a toolkit, the system. CUDA 12's comes before 13's: what it makes for sm_90
    and before loads with drivers since 525, what the newer one makes needs 580."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(f) for f in (spec.submodule_search_locations or ())] if spec else []
    names = ("libnvrtc.so.12", "libnvrtc.so.13")
    for name in names:
        for folder in folders:
            yield from sorted(str(p) for p in folder.glob(f"*/lib/{name}"))
    for name in names:
        if home := os.environ.get("CUDA_HOME"):
            yield str(Path(home, "lib64", name))
        yield name


@functools.cache
def _nvrtc(place: str) -> Compiler | None:
    try:
        library = ctypes.CDLL(place)
    except OSError:
        return None
    major, minor, count = c_int(), c_int(), c_int()
    if library.nvrtcVersion(byref(major), byref(minor)) or library.nvrtcGetNumSupportedArchs(byref(count)):
        return None
    architectures = (c_int * count.value)()
    if library.nvrtcGetSupportedArchs(architectures):
        return None
    name = f"NVRTC {major.value}.{minor.value}"
    compile = functools.partial(_run_nvrtc, library, name)
    try:  # one that is loaded may still lack its second library
        compile('extern "C" __global__ void probe() {}', max(architectures), Kind.PTX)
    except MossnetError:
        return None
    return Compiler(name, frozenset(architectures), compile)


def _run_nvrtc(library: ctypes.CDLL, name: str, source: str, architecture: int, kind: Kind) -> bytes:
    program = c_void_p()
    library.nvrtcCreateProgram.argtypes = [POINTER(c_void_p), c_char_p, c_char_p, c_int, c_void_p, c_void_p]
    if library.nvrtcCreateProgram(byref(program), source.encode(), b"kernels.cu", 0, None, None):
        raise MossnetError(f"{name} does not start")
    try:
        options = [option.encode() for option in (_architecture(architecture, kind), *_OPTIONS)]
        if library.nvrtcCompileProgram(program, len(options), (c_char_p * len(options))(*options)):
            raise _refused(name, architecture, _nvrtc_result(library, "ProgramLog", program).decode(errors="replace"))
        return _nvrtc_result(library, "CUBIN" if kind == Kind.CUBIN else "PTX", program)
    finally:
        library.nvrtcDestroyProgram(byref(program))


def _nvrtc_result(library: ctypes.CDLL, what: str, program: c_void_p) -> bytes:
    size = c_size_t()
    if getattr(library, f"nvrtcGet{what}Size")(program, byref(size)):
        return b""
    result = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{what}")(program, result)
    return result.raw if what == "CUBIN" else result.value  # text ends with a NUL


@functools.cache
def _nvcc() -> Compiler | None:
    home = os.environ.get("CUDA_HOME")
    path = shutil.which("nvcc", path=str(Path(home, "bin"))) if home else None
    path = path or shutil.which("nvcc")
    if not path:
        return None
    try:
        version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
        known = subprocess.run([path, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    number = re.search(r"V([0-9.]+)", version)
    name = f"nvcc {number[1] if number else 'of an unknown version'}"
    architectures = frozenset(int(a) for a in re.findall(r"^sm_([0-9]+)$", known, re.MULTILINE))
    return Compiler(name, architectures, functools.partial(_run_nvcc, path, name))


def _run_nvcc(path: str, name: str, source: str, architecture: int, kind: Kind) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "kernels.cu").write_text(source)
        options = ["-cubin" if kind == Kind.CUBIN else "-ptx", _architecture(architecture, kind), *_OPTIONS]
        command = [path, *options, "kernels.cu", "-o", "kernels.out"]
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        if run.returncode:
            raise _refused(name, architecture, run.stderr or run.stdout)
        return Path(folder, "kernels.out").read_bytes()


def _architecture(architecture: int, kind: Kind) -> str:
    return f"-arch={'sm' if kind == Kind.CUBIN else 'compute'}_{architecture}"


def _refused(name: str, architecture: int, log: str) -> MossnetError:
    return MossnetError(f"{name} refuses the kernels for sm_{architecture}:\n{log.strip()[:2000]}")
