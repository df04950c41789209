"""Measuring: the engines of a model take turns in every round, so that what else the machine does hits all alike."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mossnet_tg.engine import Library
from mossnet_tg.errors import MossnetError
from tests.bench.engines import Engine, Family
from tests.bench.process import EngineFailed, Process
from tests.bench.record import Counted, Measured, Run
from tests.bench.worker import N_FIRST

# Threads of OpenMP spin for some time after their work, on the cores of the next in turn.
_REST_S = 0.25
_BANDWIDTH_BYTES = 1 << 30


@dataclass(frozen=True)
class Plan:
    """What is asked of every engine. `limit_s` is for one answer, `first_limit_s` for the first of a kind, which may
    have to compile.
    """

    threads: tuple[int, ...] = (1, 2)
    prefill: tuple[int, ...] = (128, 512)
    decode: int = 64
    context: tuple[int, ...] = ()
    rounds: int = 5
    starts: int = 3
    busy: bool = False
    limit_s: float = 300
    first_limit_s: float = 600


@dataclass(frozen=True)
class Test:
    """A thing to measure; `work` is what worker.py takes, `part` the table that it belongs to."""

    name: str
    n_tokens: int
    work: dict[str, Any]
    part: Literal["main", "busy", "context"] = "main"

    def of(self, engine: Engine, n_threads: int, plan: Plan) -> bool:
        """Whether the engine takes it with so many threads."""
        if self.part == "busy":
            return engine.busy and n_threads == max(plan.threads)
        if self.part == "context":  # how flat that is one number of threads shows
            return engine.context and n_threads == min(plan.threads)
        return not engine.tests or self.work["kind"] in engine.tests


def tests(plan: Plan) -> list[Test]:
    """In the order of a round."""
    decode = {"kind": "decode", "n": plan.decode, "before": N_FIRST}
    found = [Test(f"prefill {n}", n, {"kind": "prefill", "n": n}) for n in plan.prefill]
    found.append(Test(f"decode {plan.decode}", plan.decode, decode))
    if plan.busy:
        found.append(Test(f"decode {plan.decode}, a core busy", plan.decode, decode, "busy"))
    for n in plan.context:
        # A token is needed to decode after.
        work = {**decode, "before": max(n, 1)}
        found.append(Test(f"decode {plan.decode} at {n}", plan.decode, work, "context"))
    return found


@dataclass
class _Live:
    """A run whose process is up, as long as it is."""

    engine: Engine
    model: Path
    run: Run
    tell: Callable[[str], None]
    process: Process | None = None

    def start(self, limit_s: float) -> None:
        if self.run.problem:
            return
        with self._failing("starting"):
            e = self.engine
            self.process = Process(e.adapter, self.model, self.run.n_threads, e.options, limit_s)
            self.run.read_per_token = self.process.read_per_token

    def ask(self, during: str, limit_s: float, **work: Any) -> float | None:
        """Seconds; None when the engine failed, now or before."""
        if self.process is None:
            return None
        with self._failing(during):
            answer = self.process.ask(limit_s, **work)
            self.run.notes = answer["notes"]
            for name, mib in answer["memory"].items():
                self.run.memory[name] = max(mib, self.run.memory.get(name, 0.0))
            return float(answer["seconds"])
        return None

    @contextmanager
    def _failing(self, during: str) -> Iterator[None]:
        try:
            yield
        except EngineFailed as e:
            self.run.problem, self.process = f"{during}: {e}", None
            self.tell(f"{self.run.label} with --threads {self.run.n_threads} fails, {self.run.problem}")

    def close(self) -> None:
        if self.process is not None:
            self.process.close()
        self.process = None


def measure(family: Family, kept: Path, plan: Plan, tell: Callable[[str], None]) -> Measured:
    """All engines of a model. `kept`: where the models are. `tell` hears what goes on.

    An engine that cannot run here, dies or hangs is part of the result.
    """
    found = Measured(
        family.name, family.about, family.oracle, [Counted(t.name, t.n_tokens, t.part) for t in tests(plan)]
    )
    live = _made(family, kept, plan, found, tell)
    with ExitStack() as stack:
        for one in live:
            stack.callback(one.close)
        _start(live, plan, tell)
        _compare(live, family.oracle, plan)
        for test in (test for test in tests(plan) if test.part == "main"):
            tell(f"{family.name}: warming up, {test.name}")
            for one in live:
                if test.of(one.engine, one.run.n_threads, plan):
                    first = {"n": 2} if test.work["kind"] == "decode" else {}
                    one.ask(f"{test.name}, the first", plan.first_limit_s, **{**test.work, **first})
        for number in range(plan.rounds):
            tell(f"{family.name}: round {number + 1} of {plan.rounds}")
            _round(live, plan, found)
    return found


def _made(family: Family, kept: Path, plan: Plan, found: Measured, tell: Callable[[str], None]) -> list[_Live]:
    """The runs of the engines that can run, their files made."""
    live = []
    for engine in family.engines:
        reason = engine.left_out
        if not reason:
            tell(f"{family.name}: the model for {engine.label}")
            try:
                model = engine.file(family.model(kept))
            except (MossnetError, ImportError, OSError) as e:
                reason = str(e)
        if reason:
            found.left_out[engine.label] = reason
            tell(f"{family.name}: {engine.label} is left out: {reason}")
            continue
        live += [_Live(engine, model, Run(engine.label, engine.type, n), tell) for n in plan.threads]
    found.runs = [one.run for one in live]
    return live


def _start(live: list[_Live], plan: Plan, tell: Callable[[str], None]) -> None:
    """Start everything so many times, in turns; the last of each stays up."""
    tell("a first start of each engine, which may compile and is not counted")
    for one in live:
        if one.run.n_threads == plan.threads[0]:
            one.start(plan.first_limit_s)
            one.close()
    for number in range(plan.starts):
        tell(f"start {number + 1} of {plan.starts}")
        for one in live:
            one.close()
            time.sleep(_REST_S)
            one.start(plan.first_limit_s)
            if one.process:
                one.run.seconds.setdefault("start", []).append(one.process.start_s)


def _compare(live: list[_Live], oracle: str, plan: Plan) -> None:
    """Hold every engine's logits after the same tokens against the oracle's."""
    said: dict[int, np.ndarray[Any, Any]] = {}
    expected = None
    with tempfile.TemporaryDirectory() as folder:
        for one in live:
            path = Path(folder) / "logits.npy"
            if one.ask("the logits", plan.first_limit_s, kind="logits", path=str(path)) is None:
                continue
            said[id(one)] = np.load(path)
            if one.run.label == oracle and expected is None:
                expected = said[id(one)][0]
    if expected is not None:
        for one in live:
            if id(one) in said:
                one.run.agreement = agreement(said[id(one)], expected)


def agreement(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Of logits [ways, vocab], the worst of the ways beside those that are expected [vocab]."""
    difference = found.astype(np.float64) - expected
    return {
        "max_abs": float(np.abs(difference).max()),
        "rel_l2": float(np.linalg.norm(difference, axis=-1).max() / np.linalg.norm(expected)),
        "same_argmax": bool((found.argmax(-1) == expected.argmax()).all()),
    }


def _round(live: list[_Live], plan: Plan, found: Measured) -> None:
    for n_threads in plan.threads:
        speed = Library.default().read_bandwidth(_BANDWIDTH_BYTES, n_threads, 3)
        found.bandwidth.setdefault(str(n_threads), []).append(speed)
    for test in tests(plan):
        with ExitStack() as stack:
            if test.part == "busy":
                stack.enter_context(_busy_core())
            for one in live:
                if test.of(one.engine, one.run.n_threads, plan):
                    time.sleep(_REST_S)
                    seconds = one.ask(test.name, plan.limit_s, **test.work)
                    if seconds is not None:
                        one.run.seconds.setdefault(test.name, []).append(seconds)


@contextmanager
def _busy_core() -> Iterator[None]:
    """Another process in a loop meanwhile, wherever the system puts it."""
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        loop.kill()
        loop.wait()
