"""Whether a choice of fields is right, and how long its kernels take: beside the default's, in the same run."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from mossnet_tg.codegen.doctor import allowed, difference
from mossnet_tg.codegen.schedules import Schedule
from mossnet_tg.codegen.schedules.space import fits
from mossnet_tg.codegen.tune.bench import COMPILING, Array, Bench, Trial, sweep, touch
from mossnet_tg.codegen.tune.twin import Sample, Twin
from mossnet_tg.codegen.tuning import Tuning, matrix_key
from mossnet_tg.codegen.workload import Workload
from mossnet_tg.errors import DeviceError, MossnetError
from mossnet_tg.targets.table import GpuTarget, Target

Status = Literal["ok", "wrong", "refused", "failed", "lost"]
_SPREAD, _MOST_ROUNDS, _WARM = 0.03, 12, 2
_ANCHOR_DRIFT = 0.25


@dataclass(frozen=True)
class Choice:
    """Fields of a task's schedule, and the width of its matrices' panels (0: it has none)."""

    fields: Mapping[str, int]
    width: int = 0

    @property
    def key(self) -> str:
        """The same for the same choice."""
        return " ".join([f"width={self.width}", *(f"{name}={value}" for name, value in sorted(self.fields.items()))])


@dataclass(frozen=True)
class Outcome:
    """What became of a choice. `ratio`: its kernels' time over the default's in the same run. refused: outside of the
    limits; failed: no code could be made of it; wrong: `error`, of the largest value expected, is too large; lost: the
    device did not answer.
    """

    status: Status
    ratio: float | None = None
    error: float = 0.0
    text: str = ""


@dataclass(frozen=True)
class Subject:
    """A workload with what it meets in a model. `schedule` is the default, which takes `default_s` in it; `weight`: its
    share of a token's time.
    """

    workload: Workload
    schedule: Schedule
    sample: Sample
    default_s: float
    weight: float

    @property
    def default(self) -> Choice:
        return Choice({}, self.schedule.of_task(self.workload.task).width if self.workload.task.matrices else 0)

    def tuned(self, choice: Choice) -> Schedule:
        """The schedule with a choice."""
        task = self.workload.task
        keys = {matrix_key(shape, dtype) for shape, dtype in task.matrices}
        tuning = Tuning(dict.fromkeys(keys, choice.width) if choice.width else {}, {task.text: choice.fields})
        return replace(self.schedule, tuning=tuning)


class Place(Protocol):
    """Where candidates run: a process that may die of them."""

    def load(self, path: Path) -> Any:
        """A model of trials, as engine.CompiledModel."""

    def load_whole(self, path: Path) -> Any:
        """A model as `generate` would run it: all its kernels are right."""

    def restart(self) -> None:
        """A new process, after a device was lost."""


@dataclass(frozen=True)
class Limits:
    """What a group of threads may have on the device."""

    threads: int
    shared_bytes: int


class Measurer:
    """Runs trials of a subject, each with weights of its own: what one leaves in a cache serves none of the others.
    Between them so much memory is read as `swept_bytes` says, what the model reads between two runs of a kernel, and
    then what kernels just before this one have made.
    """

    def __init__(
        self,
        twin: Twin,
        target: Target,
        place: Place,
        limits: Limits,
        folder: Path,
        n_threads: int = 0,
        swept_bytes: int = 0,
    ) -> None:
        self.twin, self.target, self.place, self.limits = twin, target, place, limits
        self.folder, self.n_threads, self.swept_bytes = folder, n_threads, swept_bytes
        self.anchors: dict[str, list[float]] = {}
        self.n_discarded = 0

    def measure(self, subject: Subject, choices: Sequence[Choice]) -> list[Outcome]:
        """One outcome for each choice."""
        made: dict[int, Trial] = {}
        outcomes: dict[int, Outcome] = {}
        for i, choice in enumerate(choices):
            try:
                made[i] = self._trial(subject, choice, f"t{i}_")
            except _RefusedError as e:
                outcomes[i] = Outcome("refused", text=str(e))
            except Exception as e:  # TVM raises what it likes
                outcomes[i] = Outcome("failed", text=_short(e))
        anchor = self._trial(subject, subject.default, "anchor_")
        while made:
            try:
                with self._bench(
                    subject, [anchor, *made.values()], [subject.default, *(choices[i] for i in made)]
                ) as b:
                    outcomes |= self._outcomes(subject, b, list(made))
                break
            except _LostError as e:
                self.place.restart()
                if e.trial == 0:
                    raise DeviceError(f"the default of {subject.workload.task.text} does not run: {e}") from None
                lost = list(made)[e.trial - 1]
                outcomes[lost] = Outcome("lost", text=str(e))
                del made[lost]
            except DeviceError:
                raise
            except Exception as e:
                outcomes |= self._one_by_one(subject, choices, made, e)
                break
        return [outcomes[i] for i in range(len(choices))]

    def _one_by_one(
        self, subject: Subject, choices: Sequence[Choice], made: Mapping[int, Trial], error: Exception
    ) -> dict[int, Outcome]:
        """What one trial cannot be compiled for, the others need not fail of."""
        if len(made) == 1:
            return {i: Outcome("failed", text=_short(error)) for i in made}
        return {i: self.measure(subject, [choices[i]])[0] for i in made}

    def _trial(self, subject: Subject, choice: Choice, prefix: str) -> Trial:
        workload, schedule = subject.workload, subject.tuned(choice)
        of_task = schedule.of_task(workload.task)
        if not fits(of_task, workload.task):
            raise _RefusedError("its fields do not fit each other")
        with COMPILING:
            kernels = workload.make(prefix + workload.task.kernel_class, schedule)
        for kernel in kernels:
            threads = math.prod(kernel.block)
            if threads > self.limits.threads:
                raise _RefusedError(f"groups of {threads} threads, the device allows {self.limits.threads}")
        names = [p.name for p in kernels[0].params] if len(kernels) == 1 else workload.names(schedule)
        trial = Trial(kernels, names)
        near = [p for p, is_near in zip(trial.params, subject.sample.near, strict=True) if is_near]
        if not near or not self.swept_bytes:
            return trial
        with COMPILING:
            return replace(trial, before=[touch(near, subject.schedule)])

    @contextlib.contextmanager
    def _bench(self, subject: Subject, trials: Sequence[Trial], choices: Sequence[Choice]) -> Iterator[Bench]:
        with COMPILING:
            between = sweep(subject.schedule, self.swept_bytes) if self.swept_bytes else None
        bench = Bench(trials, self.target, self.folder, self.place.load, self.n_threads, between)
        try:
            for trial, choice in enumerate(choices):
                bench.write(trial, self._arrays(subject, choice))
            yield bench
        finally:
            with contextlib.suppress(MossnetError):  # of a device that is lost
                bench.close()

    def _arrays(self, subject: Subject, choice: Choice) -> list[Array]:
        schedule, task = subject.tuned(choice), subject.workload.task
        panels = schedule.of_task(task).panels
        return [self.twin.weight(b, panels) if isinstance(b, str) else b for b in subject.sample.before]

    def _outcomes(self, subject: Subject, bench: Bench, numbers: Sequence[int]) -> dict[int, Outcome]:
        outcomes = {}
        half, task = isinstance(self.target, GpuTarget) and self.target.half, subject.workload.task
        most = allowed(half, task.n_tokens, [task.kernel_class])
        for trial in range(len(bench.trials)):
            with _blaming(trial):
                bench.run(trial)
                error = self._error(subject, bench, trial)
            wrong = error > most
            if trial:
                text = f"error {error:.1e}" if wrong else ""
                outcomes[numbers[trial - 1]] = Outcome("wrong" if wrong else "ok", error=error, text=text)
            elif wrong:
                raise MossnetError(
                    f"the default of {task.text} gives wrong results, error {error:.1e}",
                    "mossnet-tg doctor says which kernels this device gets wrong",
                )
        seconds = self._seconds(subject, bench)
        for trial, number in enumerate(numbers, 1):
            if outcomes[number].status == "ok":
                outcomes[number] = replace(outcomes[number], ratio=seconds[trial] / seconds[0])
        return outcomes

    def _error(self, subject: Subject, bench: Bench, trial: int) -> float:
        """The worst of all that the kernels write."""
        worst, written = 0.0, bench.trials[trial].written
        for param, whole in zip(bench.trials[trial].params, subject.sample.after, strict=True):
            if param.name not in written or isinstance(whole, str):
                continue
            found = np.empty_like(whole[: param.n])
            bench.read(trial, param.name, found)
            worst = max(worst, difference(whole[: param.n], found))
        return worst

    def _seconds(self, subject: Subject, bench: Bench) -> list[float]:
        """Of each trial; where the default is much slower than it was, the device is given time and another run."""
        text = subject.workload.task.text
        for attempt in range(3):
            found = self._rounds(bench)
            usual = self.default_s(text) or found[0]
            if found[0] <= usual * (1 + _ANCHOR_DRIFT) or attempt == 2:
                break
            self.n_discarded += 1
            time.sleep(0.5 * (attempt + 1))
        self.anchors.setdefault(text, []).append(found[0])
        return found

    def default_s(self, task: str) -> float | None:
        """What the default of a task usually takes, by its text; None before it was measured."""
        return float(np.median(self.anchors[task])) if task in self.anchors else None

    def pair(self, subject: Subject, choice: Choice) -> tuple[float, float]:
        """Seconds of the default and of a choice that was right before, in turns."""
        trials = [self._trial(subject, subject.default, "anchor_"), self._trial(subject, choice, "tuned_")]
        try:
            with self._bench(subject, trials, [subject.default, choice]) as bench:
                default, tuned = self._rounds(bench)
        except _LostError as e:
            raise DeviceError(str(e)) from None
        return default, tuned

    def _rounds(self, bench: Bench) -> list[float]:
        """Medians over rounds, until half of the rounds agree on every trial."""
        with _blaming(0):
            _, round_s = bench.seconds(_WARM)
        reps = max(3, min(50, int(0.02 / max(round_s, 1e-9))))
        rounds: list[list[float]] = []
        for _ in range(_MOST_ROUNDS):
            rounds.append(bench.seconds(reps)[0])
            if len(rounds) >= 4:
                times = np.array(rounds)
                low, high = np.quantile(times, [0.25, 0.75], axis=0)
                if ((high - low) <= _SPREAD * np.median(times, axis=0)).all():
                    break
        return [float(s) for s in np.median(np.array(rounds), axis=0)]


class _RefusedError(Exception):
    """A choice that the limits of the target forbid."""


class _LostError(Exception):
    """The device did not survive a trial."""

    def __init__(self, trial: int, text: str) -> None:
        super().__init__(text)
        self.trial = trial


@contextlib.contextmanager
def _blaming(trial: int) -> Iterator[None]:
    try:
        yield
    except DeviceError as e:
        raise _LostError(trial, str(e)) from None


def _short(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
