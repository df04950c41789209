"""The search of one space: TVM's MetaSchedule proposes values of a schedule's fields and learns from what they took.

MetaSchedule schedules a TensorIR function. Ours is a placeholder that says by its attributes what is tuned; the fields
are its sampled decisions, noted on its only block, from where our generators read them. So MetaSchedule's search,
traces and databases work on kernels whose structure it does not know.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from mossnet_tg.codegen.schedules.space import Space

# A TuneContext imports every vendor's intrinsics, which takes twenty seconds, for schedules that are none of ours.
sys.modules.setdefault("tvm.s_tir.tensor_intrin", ModuleType("tvm.s_tir.tensor_intrin"))

_PREFIX = "mossnet."
_BLOCK = "kernel"
# MetaSchedule asks for a target; what is proposed does not depend on it.
_TARGET = {"kind": "llvm", "mtriple": "x86_64-linux-gnu"}


def workload(text: str) -> Any:
    """The module that stands for what `text` describes; equal texts have equal hashes."""
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name("main")
            T.func_attr({"global_symbol": "main", f"{_PREFIX}task": text})
            out = T.arg("out", T.buffer((1,), "float32"))
            with T.sblock(_BLOCK):
                T.reads([])
                T.writes([out[0:1]])
                T.buffer_store(out, T.float32(0), [0])
        func = builder.get()
    return tvm.IRModule({"main": func})


def target() -> Any:
    """The target that records carry."""
    return tvm.target.Target(_TARGET)


def fields_of(schedule: Any) -> dict[str, int]:
    """The values that a schedule, or a trace applied to one, decided on."""
    notes = schedule.get(schedule.get_sblock(_BLOCK)).annotations
    return {key.removeprefix(_PREFIX): int(value) for key, value in notes.items() if key.startswith(_PREFIX)}


@dataclass(frozen=True)
class Candidate:
    """What MetaSchedule proposes: `fields` of a schedule."""

    fields: Mapping[str, int]
    proposal: Any  # MetaSchedule's MeasureCandidate

    def record(self, workload: Any, seconds: float) -> Any:
        """For a database; `workload` is the database's entry for this search's module."""
        trace, info = self.proposal.sch.trace, self.proposal.args_info
        return ms.database.TuningRecord(trace, workload, [seconds], target(), info)


class Search:
    """An evolutionary search; the same seed and answers give the same proposals."""

    def __init__(
        self, text: str, space: Space, fits: Callable[[Mapping[str, int]], bool], seed: int, at_once: int = 8
    ) -> None:
        self.module = workload(text)
        self._database, self._model = ms.database.MemoryDatabase(), _Additive(space)
        generator = ms.space_generator.ScheduleFn(
            _sampled(space), sch_rules=[], postprocs=[_Fits(fits)], mutator_probs={_Mutator(seed): 1.0}
        )
        strategy = ms.search_strategy.EvolutionarySearch(
            population_size=64, init_measured_ratio=0.5, init_min_unmeasured=at_once, genetic_num_iters=3
        )
        self._context = ms.TuneContext(
            mod=self.module,
            target=target(),
            space_generator=generator,
            search_strategy=strategy,
            rand_state=seed + 1,
            num_threads=1,
        )
        most = int(np.prod([len(values) for values in space.values()], dtype=np.int64))
        self._context.pre_tuning(
            most, at_once, self._context.generate_design_space(), database=self._database, cost_model=self._model
        )

    def propose(self) -> list[Candidate]:
        """New candidates that fit, none twice; none at all when the space is exhausted."""
        proposals = self._context.generate_measure_candidates() or ()
        return [Candidate(fields_of(p.sch), p) for p in proposals]

    def tell(self, candidates: Sequence[Candidate], seconds: Sequence[float | None]) -> None:
        """What the candidates of one `propose` took; None for one that failed."""
        results = [
            ms.runner.RunnerResult([s], None) if s is not None else ms.runner.RunnerResult(None, "failed")
            for s in seconds
        ]
        entry = self._database.commit_workload(self.module)
        for candidate, s in zip(candidates, seconds, strict=True):
            if s is not None:
                self._database.commit_tuning_record(candidate.record(entry, s))
        self._model.learn([c.fields for c in candidates], seconds)
        self._context.notify_runner_results([c.proposal for c in candidates], results)


def _sampled(space: Space) -> Callable[[Any], None]:
    def apply(schedule: Any) -> None:
        block = schedule.get_sblock(_BLOCK)
        for name, values in space.items():
            choice = schedule.sample_categorical(list(values), [1 / len(values)] * len(values))
            schedule.annotate(block, f"{_PREFIX}{name}", choice)

    return apply


@derived_object
class _Fits(ms.postproc.PyPostproc):  # type: ignore[misc]
    """Refuses what no kernel can be made of."""

    def __init__(self, fits: Callable[[Mapping[str, int]], bool]) -> None:
        super().__init__()
        self.fits = fits

    def _initialize_with_tune_context(self, context: Any) -> None:
        pass

    def apply(self, schedule: Any) -> bool:
        return self.fits(fields_of(schedule))

    def clone(self) -> Any:
        return _Fits(self.fits)


@derived_object
class _Mutator(ms.mutator.PyMutator):  # type: ignore[misc]
    """Another value for one field."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)

    def _initialize_with_tune_context(self, context: Any) -> None:
        pass

    def apply(self, trace: Any, _: Any) -> Any:
        choices = [i for i in trace.insts if i.kind.name == "SampleCategorical" and len(i.attrs[0]) > 1]
        if not choices:
            return None
        chosen = self.random.choice(choices)
        others = [n for n in range(len(chosen.attrs[0])) if n != int(trace.decisions[chosen])]
        return trace.with_decision(chosen, self.random.choice(others), remove_postproc=True)

    def clone(self) -> Any:
        return _Mutator(self.random.randrange(1 << 30))


@derived_object
class _Additive(ms.cost_model.PyCostModel):  # type: ignore[misc]
    """The logarithm of the time as a sum of one number for each value of each field: ridge regression.

    Spaces are small and measurements dear: more than this cannot be learned from a few dozen.
    """

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.columns = [(name, value) for name, values in space.items() for value in values]
        self.rows: list[list[float]] = []
        self.logs: list[float] = []
        self.weights = np.zeros(len(self.columns))

    def learn(self, fields: Sequence[Mapping[str, int]], seconds: Sequence[float | None]) -> None:
        for one, s in zip(fields, seconds, strict=True):
            if s is not None:
                self.rows.append(self._row(one))
                self.logs.append(float(np.log(s)))
        if len(self.rows) > 1:
            rows, logs = np.array(self.rows), np.array(self.logs)
            square = rows.T @ rows + 0.3 * np.eye(len(self.columns))
            self.weights = np.linalg.solve(square, rows.T @ (logs - logs.mean()))

    def _row(self, fields: Mapping[str, int]) -> list[float]:
        return [float(fields[name] == value) for name, value in self.columns]

    def predict(self, context: Any, candidates: Sequence[Any]) -> npt.NDArray[np.float64]:
        return -np.array([np.dot(self._row(fields_of(c.sch)), self.weights) for c in candidates], np.float64)
