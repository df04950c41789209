"""How code for each of libmossnet's drivers is made: which schedule, which emitter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mossnet_tg.codegen.kernels.build import Generated
from mossnet_tg.codegen.schedules import CpuSchedule, GpuSchedule, Schedule
from mossnet_tg.targets.table import CpuTarget, GpuTarget, Target

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Code:
    """The CODE of a model file: `symbols` are each kernel's (offset, bytes), `local_bytes` what its groups share, and
    `features` what the device must have.
    """

    code: bytes
    symbols: dict[str, tuple[int, int]]
    features: tuple[str, ...] = ()
    local_bytes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Backend:
    """One driver's compiler. `source` is a kernel's code for people."""

    schedule: Callable[[Target], Schedule]
    compile: Callable[[Sequence[Generated], Target, Progress], Code]
    source: Callable[[Generated, Target], str]


def backend(target: Target) -> Backend:
    return _BACKENDS[target.driver]


def _each(kernels: Sequence[Generated], progress: Progress) -> Iterator[Generated]:
    for i, kernel in enumerate(kernels):
        progress(f"kernel {i + 1}/{len(kernels)} {kernel.name}")
        yield kernel


# ---- cpu


def _cpu_schedule(target: Target) -> CpuSchedule:
    assert isinstance(target, CpuTarget)
    return CpuSchedule.of(target)


def _compile_cpu(kernels: Sequence[Generated], target: Target, progress: Progress) -> Code:
    from mossnet_tg.codegen.emit.llvm import compile_object
    from mossnet_tg.codegen.link import link

    assert isinstance(target, CpuTarget)
    linked = link([compile_object(k.name, k.func, _tvm(target, k)) for k in _each(kernels, progress)])
    features = sorted({*target.features, *(k.feature for k in kernels if k.feature)})
    return Code(linked.code, linked.symbols, tuple(features))


def _tvm(target: CpuTarget, kernel: Generated) -> dict[str, Any]:
    more = {"mattr": [f"+{kernel.feature}"]} if kernel.feature and kernel.feature not in target.features else {}
    return {**target.tvm, **more}


# ---- GPUs


def _gpu_schedule(target: Target) -> Schedule:
    assert isinstance(target, GpuTarget)
    if target.simd:
        return CpuSchedule.of_items(target.simd, target.max_buffer_bytes)
    return GpuSchedule(
        target.threads, target.shared_bytes, target.max_buffer_bytes, half=target.half, plain=target.plain
    )


def _join(codes: Sequence[tuple[str, bytes]], align: int) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """The kernels' codes one after the other, and where each stands."""
    joined, symbols = bytearray(), {}
    for name, code in codes:
        joined += bytes(-len(joined) % align)
        symbols[name] = (len(joined), len(code))
        joined += code
    return bytes(joined), symbols


def _opencl_source(kernel: Generated, target: Target) -> str:
    from mossnet_tg.codegen.emit.c_source import emit
    from mossnet_tg.codegen.emit.opencl import OpenCL

    return emit(kernel.name, kernel.func, kernel.buffers, OpenCL()).text


def _compile_opencl(kernels: Sequence[Generated], target: Target, progress: Progress) -> Code:
    from mossnet_tg.codegen.emit.c_source import emit
    from mossnet_tg.codegen.emit.opencl import OpenCL

    emitted = {k.name: emit(k.name, k.func, k.buffers, OpenCL()) for k in _each(kernels, progress)}
    code, symbols = _join([(name, source.text.encode()) for name, source in emitted.items()], 1)
    features = sorted({feature for source in emitted.values() for feature in source.features})
    return Code(code, symbols, tuple(features), {name: source.shared_bytes for name, source in emitted.items()})


def _cuda_source(kernel: Generated, target: Target) -> str:
    from mossnet_tg.codegen.emit.c_source import emit
    from mossnet_tg.codegen.emit.cuda import Cuda

    return emit(kernel.name, kernel.func, kernel.buffers, Cuda()).text


def _compile_cuda(kernels: Sequence[Generated], target: Target, progress: Progress) -> Code:
    from mossnet_tg.codegen.emit.c_source import emit
    from mossnet_tg.codegen.emit.cubin import images
    from mossnet_tg.codegen.emit.cuda import PRELUDE, Cuda

    assert isinstance(target, GpuTarget)
    emitted = {k.name: emit(k.name, k.func, k.buffers, Cuda()) for k in _each(kernels, progress)}
    progress("cubins")
    code = images(PRELUDE + "\n".join(source.text for source in emitted.values()), target.archs)
    whole = dict.fromkeys(emitted, (0, len(code)))
    oldest = f"sm_{min(target.archs)}"
    return Code(code, whole, (oldest,), {name: source.shared_bytes for name, source in emitted.items()})


def _vulkan_source(kernel: Generated, target: Target) -> str:
    from mossnet_tg.codegen.emit.spirv import emit, source

    return source(emit(kernel.name, kernel.func, kernel.buffers).code)


def _compile_vulkan(kernels: Sequence[Generated], target: Target, progress: Progress) -> Code:
    from mossnet_tg.codegen.emit.spirv import emit

    modules = {k.name: emit(k.name, k.func, k.buffers) for k in _each(kernels, progress)}
    code, symbols = _join([(name, module.code) for name, module in modules.items()], 4)
    features = sorted({feature for module in modules.values() for feature in module.features})
    return Code(code, symbols, tuple(features), {name: module.local_bytes for name, module in modules.items()})


def _cpu_source(kernel: Generated, target: Target) -> str:
    from mossnet_tg.codegen.emit.llvm import kernel_source

    assert isinstance(target, CpuTarget)
    return kernel_source(kernel.name, kernel.func, _tvm(target, kernel))


_BACKENDS = {
    "cpu": Backend(_cpu_schedule, _compile_cpu, _cpu_source),
    "opencl": Backend(_gpu_schedule, _compile_opencl, _opencl_source),
    "vulkan": Backend(_gpu_schedule, _compile_vulkan, _vulkan_source),
    "cuda": Backend(_gpu_schedule, _compile_cuda, _cuda_source),
}
