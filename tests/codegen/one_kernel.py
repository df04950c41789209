"""A call's kernels as a model of nothing else, compiled, loaded and run for any target."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mossnet_tg.codegen import moss_file
from mossnet_tg.codegen.backends import backend
from mossnet_tg.codegen.kernels.build import Generated, Param, itemsize
from mossnet_tg.codegen.schedules import CpuSchedule, Schedule
from mossnet_tg.engine import DECODE, CompiledModel, Library
from mossnet_tg.targets.table import CpuTarget, Target, parse_target


def host_targets() -> list[Target]:
    """This machine's own target, and the lowest level: few lanes, few registers, no float16 in hardware."""
    return [
        parse_target(name)
        for name in ("cpu", *(["cpu:mcpu=x86-64-v2"] if Library.default().cpu_arch == "x86_64" else []))
    ]


def schedule(target: Target) -> Schedule:
    return backend(target).schedule(target)


def cpu_schedule(target: Target) -> CpuSchedule:
    assert isinstance(target, CpuTarget)
    return CpuSchedule.of(target)


class OneKernel:
    """The kernels of one call; `names` are its buffers in order, where the kernels have but some of them. A cpu takes
    `n_threads`.
    """

    def __init__(
        self,
        kernels: Sequence[Generated],
        target: Target,
        names: Sequence[str] = (),
        device: str = "",
        n_threads: int = 1,
    ) -> None:
        names = names or [p.name for p in kernels[0].params]
        found = {p.name: p for kernel in kernels for p in kernel.params}
        self.params = [found[name] for name in names]
        scratch = [p for p in found.values() if p.name not in names]
        with tempfile.TemporaryDirectory(prefix="mossnet-kernel-") as folder:
            path = Path(folder, "kernel.moss")
            moss_file.write(path, _model(kernels, [*self.params, *scratch], target), [])
            self.model = CompiledModel(path, allow_native=True, device=device)
        self.session = self.model.session(n_threads)

    def run(self, *arrays: np.ndarray[Any, Any]) -> None:
        """Run on one array a buffer, in order; their sizes must be exactly the parameters', and outputs change."""
        assert [p.n for p in self.params] == [a.size for a in arrays]
        for i, array in enumerate(arrays):
            self.session.write(i, array)
        self.session.run(DECODE, 0, self.model.info.n_steps[DECODE])
        for i, (array, param) in enumerate(zip(arrays, self.params, strict=True)):
            if param.written:
                self.session.read(i, array)

    def seconds(self, reps: int) -> float:
        """The median time of a run on what the buffers hold."""
        return float(self.session.profile(DECODE, reps).sum())


def _bytes(p: Param) -> int:
    return p.n * itemsize(p.dtype)


def _model(kernels: Sequence[Generated], params: Sequence[Param], target: Target) -> moss_file.MossFile:
    """The parameters are buffers in their order, then ids, params and logits."""
    code = backend(target).compile(kernels, target, lambda _: None)
    buffers, arena_bytes = [], 0
    for p in params:
        buffers.append(moss_file.Buffer(p.name, moss_file.Region.ARENA, moss_file.DType.U8, arena_bytes, _bytes(p)))
        arena_bytes += -(-_bytes(p) // moss_file.BUFFER_ALIGN) * moss_file.BUFFER_ALIGN
    n, names = len(buffers), [p.name for p in params]
    for i, dtype in enumerate((moss_file.DType.I32, moss_file.DType.I32, moss_file.DType.F32)):
        buffers.append(moss_file.Buffer(f"io{i}", moss_file.Region.IO, dtype, i * moss_file.BUFFER_ALIGN, 8))
    made, steps = [], []
    for i, kernel in enumerate(kernels):
        access = (moss_file.Access.READ * p.read | moss_file.Access.WRITTEN * p.written for p in kernel.params)
        bound = tuple(
            moss_file.Param(_bytes(p), moss_file.Access(a)) for p, a in zip(kernel.params, access, strict=True)
        )
        local = code.local_bytes.get(kernel.name, 0)
        made.append(moss_file.Kernel(kernel.name, bound, *code.symbols[kernel.name], kernel.block, local))
        steps.append(moss_file.Step(i, tuple(names.index(p.name) for p in kernel.params), kernel.grid))
    kinds = (moss_file.EntryKind.DECODE, moss_file.EntryKind.PREFILL)
    return moss_file.MossFile(
        model_hash=bytes(32),
        vocab_size=1,
        chunk=1,
        max_context=0,
        n_params=2,
        state_bytes=0,
        arena_bytes=arena_bytes,
        io_bytes=3 * moss_file.BUFFER_ALIGN,
        weights_bytes=0,
        buffers=buffers,
        kernels=made,
        steps=steps,
        entries=[moss_file.Entry(k.name.lower(), k, 0, len(steps), 1, 1, n, n + 1, n + 2) for k in kinds],
        code=code.code,
        meta={
            "driver": target.driver,
            "features": ",".join(code.features),
            **({"arch": target.arch} if isinstance(target, CpuTarget) else {}),
        },
    )
