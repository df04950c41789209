"""A call's kernels as a model of nothing else, compiled, loaded and run for any target."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mossnet_tg.codegen.backends import backend
from mossnet_tg.codegen.kernels.build import Generated
from mossnet_tg.codegen.schedules import CpuSchedule, Schedule
from mossnet_tg.codegen.tune.bench import Bench, Trial
from mossnet_tg.engine import CompiledModel, Library
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
        trial = Trial(kernels, names or [p.name for p in kernels[0].params])
        with tempfile.TemporaryDirectory(prefix="mossnet-kernel-") as folder:

            def load(path: Path) -> CompiledModel:
                return CompiledModel(path, allow_native=True, device=device)

            self.bench = Bench([trial], target, Path(folder), load, n_threads)
        self.params, self.model, self.session = trial.params, self.bench.model, self.bench.session

    def run(self, *arrays: np.ndarray[Any, Any]) -> None:
        """Run on one array a buffer, in order; their sizes must be exactly the parameters', and outputs change."""
        assert [p.n for p in self.params] == [a.size for a in arrays]
        self.bench.write(0, arrays)
        self.bench.run(0)
        for param, array in zip(self.params, arrays, strict=True):
            if param.name in self.bench.trials[0].written:
                self.bench.read(0, param.name, array)

    def seconds(self, reps: int) -> float:
        """The median time of a run on what the buffers hold."""
        return self.bench.seconds(reps)[0][0]
