"""Kernels as a model file of nothing else: several trials side by side, each a few steps on buffers of its own, so that
they are run and timed under the same conditions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from tvm.script.ir_builder import tirx as T

from mossnet_tg.codegen import moss_file
from mossnet_tg.codegen.backends import Code, backend
from mossnet_tg.codegen.kernels.build import Expr, Generated, Param, itemsize, local, tile_kernel, vector
from mossnet_tg.codegen.package import kernel_record, machine_meta
from mossnet_tg.codegen.plan import ALIGN, align
from mossnet_tg.codegen.schedules import Schedule
from mossnet_tg.engine import DECODE
from mossnet_tg.targets.table import Target

Array: TypeAlias = npt.NDArray[Any]

_PAGE, _PAGES = 1024, 4  # floats of a page, and how many of these a thread sweeps
_LINE = 16  # floats of a cache's line

# Several devices measure from threads of their own; kernels are made by one thread at a time.
COMPILING = threading.Lock()


@dataclass(frozen=True)
class Trial:
    """Kernels that run in order, and their buffers' names in the order that `arrays` come in. A buffer that is not
    among them is scratch. When trials are timed, `before` runs before them, and does not count.
    """

    kernels: Sequence[Generated]
    names: Sequence[str]
    before: Sequence[Generated] = ()

    @property
    def params(self) -> list[Param]:
        """The named buffers, each as its widest kernel has it."""
        found = self._found
        return [found[name] for name in self.names]

    @property
    def scratch(self) -> list[Param]:
        return [p for name, p in self._found.items() if name not in self.names]

    @property
    def written(self) -> set[str]:
        """The buffers that a kernel writes."""
        return {p.name for kernel in self.kernels for p in kernel.params if p.written}

    @property
    def _found(self) -> dict[str, Param]:
        params = (p for kernel in [*self.before, *self.kernels] for p in kernel.params)
        return {p.name: p for p in sorted(params, key=lambda p: p.n)}


def sweep(s: Schedule, n_bytes: int) -> Generated:
    """A kernel that reads so much memory: behind it, caches hold of other kernels' what they hold within a model."""
    n_tiles, n_pages = max(n_bytes // (4 * _PAGE * _PAGES), 1), _PAGES
    params = [
        Param("sums", n_tiles * s.lanes, written=True),
        Param("swept", n_tiles * n_pages * _PAGE, written=True, read=True),
    ]
    with tile_kernel("sweep", params, n_tiles, s.group_size) as k:
        sums, swept = k.buffers
        total = local(s.lanes)
        with vector(s.lanes) as v:
            T.buffer_store(total, T.float32(0), [v])

        def at(i: Expr, v: Expr) -> Expr:  # neighbouring threads of a GPU read neighbours
            return i * n_tiles + k.tile if s.flat else k.tile * (n_pages * _PAGE) + i * s.lanes + v

        with T.serial(n_pages) as page:
            with T.serial(_PAGE // s.lanes) as i, vector(s.lanes) as v:
                T.buffer_store(total, total[v] + swept[at(page * (_PAGE // s.lanes) + i, v)], [v])
            # Pages that nobody has written may all be the same one.
            T.buffer_store(swept, T.float32(0), [at(page * (_PAGE // s.lanes), 0)])
        with vector(s.lanes) as v:
            T.buffer_store(sums, total[v], [k.tile * s.lanes + v])
    return k.generated(n_tiles * n_pages * _PAGE)


def touch(buffers: Sequence[Param], s: Schedule) -> Generated:
    """A kernel that reads a value of each line of some buffers: behind it, caches hold of them what they do when other
    kernels have just made them. Its name says all of it.
    """
    n_tiles = max(-(-p.n // _PAGE) for p in buffers)
    params = [Param("sums", n_tiles, written=True), *(replace(p, written=False, read=True) for p in buffers)]
    with tile_kernel("_".join(["touch", *(f"{p.dtype}x{p.n}" for p in buffers)]), params, n_tiles, s.group_size) as k:
        total = local(1)
        T.buffer_store(total, T.float32(0), [0])
        for param, buffer in zip(buffers, k.buffers[1:], strict=True):
            with T.serial(_PAGE // _LINE) as i:
                at = T.min(k.tile * _PAGE + i * _LINE, param.n - 1)
                T.buffer_store(total, total[0] + T.Cast("float32", buffer[at]), [0])
        T.buffer_store(k.buffers[0], total[0], [k.tile])
    return k.generated(n_tiles * len(buffers) * _PAGE // _LINE)


class Bench:
    """Trials in a loaded model. `open_model(path)` loads the file, which is in `folder` for that long only. `between`
    runs behind each trial when they are timed.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        target: Target,
        folder: Path,
        open_model: Callable[[Path], Any],
        n_threads: int,
        between: Generated | None = None,
    ) -> None:
        self.trials = trials
        with COMPILING:
            plan = _Plan(trials, target, between)
        path = folder / "trials.moss"
        moss_file.write(path, plan.file(), [])
        try:
            self.model = open_model(path)
        finally:
            path.unlink()
        self.session = self.model.session(n_threads)
        self._index, self._steps = plan.index, plan.steps_of

    def close(self) -> None:
        self.session.close()
        self.model.close()

    def write(self, trial: int, arrays: Sequence[Array]) -> None:
        """Fill a trial's buffers from the beginning of the arrays."""
        for param, array in zip(self.trials[trial].params, arrays, strict=True):
            flat, begin = np.ascontiguousarray(array).reshape(-1), 0
            assert param.n <= flat.size, (param.name, param.n, flat.size)
            for part in param.buffers:
                self.session.write(self._index[trial, part.name], flat[begin : begin + part.n])
                begin += part.n

    def run(self, trial: int) -> None:
        self.session.run(DECODE, *self._steps[trial])

    def read(self, trial: int, name: str, out: Array) -> None:
        """Fill `out` from a buffer that is no weight."""
        self.session.read(self._index[trial, name], out)

    def seconds(self, reps: int) -> tuple[list[float], float]:
        """The median time of each trial over `reps` rounds in which all take turns, and that of a round."""
        steps = self.session.profile(DECODE, reps)
        return [float(steps[first : first + n].sum()) for first, n in self._steps], float(steps.sum())


class _Plan:
    """Buffers, kernels and steps of a file of trials."""

    def __init__(self, trials: Sequence[Trial], target: Target, between: Generated | None) -> None:
        self.target = target
        kernels = [kernel for trial in trials for kernel in [*trial.before, *trial.kernels]]
        kernels += [between] if between else []
        by_name = {kernel.name: kernel for kernel in kernels}  # trials are touched alike
        self.code: Code = backend(target).compile(list(by_name.values()), target, lambda _: None)
        self.index: dict[tuple[int, str], int] = {}
        self.steps_of: list[tuple[int, int]] = []
        self.buffers: list[moss_file.Buffer] = []
        self.kernels: list[moss_file.Kernel] = []
        self.steps: list[moss_file.Step] = []
        self.arena_bytes = 0
        self._buffers(len(trials), between.params if between else [])
        for i, trial in enumerate(trials):
            self._buffers(i, [*trial.params, *trial.scratch])
            for kernel in trial.before:
                self._step(i, kernel)
            first = len(self.steps)
            for kernel in trial.kernels:
                self._step(i, kernel)
            self.steps_of.append((first, len(trial.kernels)))
            if between:
                self._step(len(trials), between)

    def _buffers(self, trial: int, params: Sequence[Param]) -> None:
        for part in (part for param in params for part in param.buffers):
            self.index[trial, part.name] = self._buffer(f"{trial}/{part.name}", part.n * itemsize(part.dtype))

    def _buffer(self, name: str, n_bytes: int) -> int:
        self.buffers.append(
            moss_file.Buffer(name, moss_file.Region.ARENA, moss_file.DType.U8, self.arena_bytes, n_bytes)
        )
        self.arena_bytes = align(self.arena_bytes + n_bytes)
        return len(self.buffers) - 1

    def _step(self, trial: int, kernel: Generated) -> None:
        name = kernel.name
        args = tuple(self.index[trial, p.name] for p in kernel.buffers)
        self.steps.append(moss_file.Step(len(self.kernels), args, kernel.grid, f"{trial}/{name}", kernel.small))
        self.kernels.append(kernel_record(kernel, self.code))

    def file(self) -> moss_file.MossFile:
        n = len(self.buffers)
        io = [
            moss_file.Buffer(f"io{i}", moss_file.Region.IO, dtype, i * ALIGN, 8)
            for i, dtype in enumerate((moss_file.DType.I32, moss_file.DType.I32, moss_file.DType.F32))
        ]
        kinds = (moss_file.EntryKind.DECODE, moss_file.EntryKind.PREFILL)
        return moss_file.MossFile(
            model_hash=bytes(32),
            vocab_size=1,
            chunk=1,
            max_context=0,
            n_params=2,
            state_bytes=0,
            arena_bytes=self.arena_bytes,
            io_bytes=len(io) * ALIGN,
            weights_bytes=0,
            buffers=[*self.buffers, *io],
            kernels=self.kernels,
            steps=self.steps,
            entries=[
                moss_file.Entry(kind.name.lower(), kind, 0, len(self.steps), 1, 1, n, n + 1, n + 2) for kind in kinds
            ],
            code=self.code.code,
            meta=machine_meta(self.target, self.code),
        )
