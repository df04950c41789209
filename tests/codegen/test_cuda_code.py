"""What the compilers of this machine make of every CUDA kernel: without a warning, without a register spilled.

The kernels are those of all modes of a model and of class S, each once; what they take of a device is read from the
cubins, which are ELF files.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import shutil
import struct
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tvm_ffi import structural_hash

from mossnet_tg.codegen.backends import backend
from mossnet_tg.codegen.emit import cubin
from mossnet_tg.codegen.emit.c_source import emit
from mossnet_tg.codegen.emit.cubin import Compiler, Kind
from mossnet_tg.codegen.emit.cuda import PRELUDE, Cuda
from mossnet_tg.codegen.kernels.build import Generated
from mossnet_tg.codegen.options import CompileOptions
from mossnet_tg.codegen.plan import make_plan
from mossnet_tg.config import Config
from mossnet_tg.errors import MossnetError
from mossnet_tg.targets.table import KERNEL_CLASSES, Target, parse_target
from tests.codegen.empty_models import size_class, zeros
from tests.codegen.random_models import CHUNK, MODES, config

ARCHITECTURES = (80, 90)
TARGET = parse_target("cuda:arch=80+90")
ALL_PLAIN = parse_target(f"cuda:arch=80+90,plain={'+'.join(KERNEL_CLASSES)}")
REGISTERS = 65536  # of a multiprocessor: a group must find its own there


@dataclass(frozen=True)
class Kernel:
    """A kernel under a name of its own, and the bytes that its groups share."""

    name: str
    source: str
    threads: int
    shared_bytes: int


Model = tuple[str, Config, str, bool, CompileOptions, str]


def models() -> Iterator[Model]:
    """(name, configuration, type of the weights, A_log shared, options, what the weights are converted to)."""
    small = CompileOptions(chunk=CHUNK, context=4 * CHUNK)
    for mode, dtype in itertools.product(MODES, ("F16", "F32")):
        yield f"{mode}_{dtype}", config(mode), dtype, MODES[mode][2], small, ""
    swa = {"layers": [3], "window": 2048, "n_heads": 4, "n_kv_heads": 4, "head_dim": 64}
    for weights in ("", "q8", "q4"):
        yield f"S{weights}", size_class("S", swa=swa), "F16", False, CompileOptions(), weights


def kernels_of(models: Iterable[Model], folder: Path, target: Target = TARGET) -> dict[str, Kernel]:
    """Every kernel of the models, those that are the same once."""
    found: dict[Any, Kernel] = {}
    for name, model, dtype, shared_a, options, weights in models:
        checkpoint = zeros(model, folder, dtype, shared_a).with_weights(weights)
        plan = make_plan(checkpoint, backend(target).schedule(target), options, lambda _: None)
        for kernel in (function.generated for function in plan.functions):
            nameless = structural_hash(kernel.func.without_attr("global_symbol"), map_free_vars=True)
            key = (nameless, *((p.name, p.written) for p in kernel.buffers))
            if key not in found:
                found[key] = emitted(f"{name}_{kernel.name}", kernel)
    return {kernel.name: kernel for kernel in found.values()}


def emitted(name: str, kernel: Generated) -> Kernel:
    source = emit(name, kernel.func, kernel.buffers, Cuda())
    return Kernel(name, source.text, math.prod(kernel.block), source.shared_bytes)


# ---- what stands in a cubin


@dataclass
class Resources:
    """What a kernel takes. frame_bytes: of a thread's stack, where spilled registers lie and arrays whose index is no
    constant.
    """

    registers: int = 0
    frame_bytes: int = 0
    shared_bytes: int = 0


_SECTION = struct.Struct("<IIQQQQIIQQ")
_FRAME_SIZE, _REGISTER_COUNT, _SIZED = 0x11, 0x2F, 4  # of .nv.info's records


def resources(code: bytes) -> Mapping[str, Resources]:
    """By kernel, and by what kernels call."""
    sections = _sections(code)
    found: dict[str, Resources] = defaultdict(Resources)
    symbols = _symbols(code, sections)
    for attribute, symbol, value in _information(code, *sections[".nv.info"][4:6]):
        if attribute == _REGISTER_COUNT:
            found[symbols[symbol]].registers = value
        elif attribute == _FRAME_SIZE:
            found[symbols[symbol]].frame_bytes = value
    for name, section in sections.items():
        if name.startswith(".nv.shared."):
            found[name.removeprefix(".nv.shared.")].shared_bytes = section[5]
    return found


def _sections(code: bytes) -> dict[str, tuple[int, ...]]:
    (table,) = struct.unpack_from("<Q", code, 40)
    size, n, names = struct.unpack_from("<HHH", code, 58)
    headers = [_SECTION.unpack_from(code, table + i * size) for i in range(n)]
    return {_text(code, headers[names][4] + header[0]): header for header in headers}


def _symbols(code: bytes, sections: Mapping[str, tuple[int, ...]]) -> list[str]:
    begin, n_bytes = sections[".symtab"][4:6]
    names = sections[".strtab"][4]
    return [_text(code, names + struct.unpack_from("<I", code, at)[0]) for at in range(begin, begin + n_bytes, 24)]


def _text(code: bytes, at: int) -> str:
    return code[at : code.index(b"\0", at)].decode()


def _information(code: bytes, at: int, n_bytes: int) -> Iterator[tuple[int, int, int]]:
    """(attribute, symbol, value) of the records that hold just that."""
    end = at + n_bytes
    while at < end:
        layout, attribute, size = struct.unpack_from("<BBH", code, at)
        if layout == _SIZED and size == 8:
            yield attribute, *struct.unpack_from("<II", code, at + 4)
        at += 4 + (size if layout == _SIZED else 0)


# ---- the tests


COMPILERS = {one.name: one for one in cubin.compilers() if one.architectures.issuperset(ARCHITECTURES)}


def require_compiler() -> Compiler:
    if not COMPILERS:
        pytest.skip("no CUDA compiler: pip install 'mossnet-tg[cuda]', or a toolkit's nvcc")
    return next(iter(COMPILERS.values()))


@contextlib.contextmanager
def strict(compiler: Compiler) -> Iterator[None]:
    """What the compiler says is an error, and so are registers that it spills."""
    logs: list[str] = []
    result = cubin._nvrtc_result

    def logged(library, what, program):
        logs.append(result(library, "ProgramLog", program).decode())
        return result(library, what, program)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cubin, "_nvrtc_result", logged)
        warnings = () if compiler.name.startswith("NVRTC") else ("-Werror=all-warnings",)
        patch.setattr(cubin, "_OPTIONS", (*cubin._OPTIONS, "-Xptxas=-warn-spills", "-Xptxas=-Werror", *warnings))
        yield
    if said := "".join(logs).strip("\0\n "):
        raise MossnetError(said)


def program(kernels: Mapping[str, Kernel]) -> str:
    return PRELUDE + "\n".join(kernel.source for kernel in kernels.values())


@pytest.mark.parametrize("name", list(COMPILERS) or [""])
def test_every_compiler(name, tmp_path):
    """NVRTC, which knows no headers, and nvcc differ in what they know without."""
    require_compiler()
    source = program(kernels_of((model for model in models() if model[0] == "attention_F16"), tmp_path))
    with strict(COMPILERS[name]):
        assert COMPILERS[name].compile(source, ARCHITECTURES[0], Kind.CUBIN).startswith(b"\x7fELF")


def test_every_kernel_assembles(tmp_path):
    """One test, since the kernels take long to make and to compile."""
    compiler, kernels = require_compiler(), kernels_of(models(), tmp_path)
    plain = (("plain", *rest) for name, *rest in models() if name == "attention_F16")
    kernels |= kernels_of(plain, tmp_path, ALL_PLAIN)
    source = program(kernels)
    with strict(compiler), ThreadPoolExecutor() as pool:
        jobs = {a: pool.submit(compiler.compile, source, a, Kind.CUBIN) for a in ARCHITECTURES}
        cubins = {architecture: job.result() for architecture, job in jobs.items()}
    for architecture, code in cubins.items():
        found = resources(code)
        assert {name for name, r in found.items() if r.registers} == set(kernels)
        for name, kernel in kernels.items():
            assert found[name].shared_bytes == shared_in(architecture, kernel.shared_bytes), name
            assert 0 < found[name].registers * kernel.threads <= REGISTERS, name
        assert {name: r.frame_bytes for name, r in found.items() if r.frame_bytes} == {}


def shared_in(architecture: int, n_bytes: int) -> int:
    """The size of a kernel's section: from sm_90 on it begins with what the system takes."""
    return n_bytes + 1024 if n_bytes and architecture >= 90 else n_bytes


PLAIN = """
extern "C" __global__ void __launch_bounds__(64) plain(const float *x, float *out) {
  __shared__ float shared[96];
  float r[40];
  for (int i = 0; i < 40; ++i) r[i] = x[i * 64 + threadIdx.x];
  for (int i = 0; i < 64; ++i) r[(int)x[i]] += r[(int)x[i + 1]];
  shared[threadIdx.x] = r[(int)x[0]];
  __syncthreads();
  out[threadIdx.x] = shared[63 - threadIdx.x];
}
"""
SPILLS = """
extern "C" __global__ void __launch_bounds__(1024) spills(float *x) {
  float a[200];
  for (int i = 0; i < 200; ++i) a[i] = x[i * 1024 + threadIdx.x];
  for (int j = 0; j < 8; ++j)
    for (int i = 0; i < 200; ++i) a[i] = a[i] * a[(i + 7) % 200] + x[i];
  for (int i = 0; i < 200; ++i) x[i * 1024 + threadIdx.x] = a[i];
}
"""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_a_cubin_says(architecture, tmp_path):
    """The reader above says what the assembler says."""
    found = resources(require_compiler().compile(PLAIN, architecture, Kind.CUBIN))["plain"]
    assert found.shared_bytes == shared_in(architecture, 96 * 4) and found.frame_bytes == 160 and found.registers > 4
    if not (ptxas := shutil.which("ptxas")):
        return
    (tmp_path / "plain.ptx").write_bytes(require_compiler().compile(PLAIN, 80, Kind.PTX))
    command = [ptxas, "-v", f"-arch=sm_{architecture}", "plain.ptx", "-o", "plain.cubin"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    if "Unsupported .version" not in said.stderr:
        read = resources((tmp_path / "plain.cubin").read_bytes())["plain"]
        assert f"Used {read.registers} registers" in said.stderr
        assert f"{read.frame_bytes} bytes stack frame" in said.stderr and "384 bytes smem" in said.stderr


def test_a_warning_is_seen():
    with pytest.raises(MossnetError, match="unused"), strict(require_compiler()):
        require_compiler().compile(PLAIN.replace("float r[40]", "int unused; float r[40]"), 80, Kind.CUBIN)


def test_a_spilled_register_is_seen():
    with pytest.raises(MossnetError, match="spilled"), strict(require_compiler()):
        require_compiler().compile(SPILLS, 80, Kind.CUBIN)
