"""A whole tuning run: from a checkpoint and a device to records, and what they are worth."""

from __future__ import annotations

import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mossnet_tg.codegen import moss_file
from mossnet_tg.codegen.backends import backend
from mossnet_tg.codegen.cache import cached
from mossnet_tg.codegen.compile import compile_checkpoint
from mossnet_tg.codegen.moss_file import EntryKind
from mossnet_tg.codegen.options import CompileOptions
from mossnet_tg.codegen.plan import Plan, make_plan
from mossnet_tg.codegen.reads import read_per_token
from mossnet_tg.codegen.tune.crew import Crew
from mossnet_tg.codegen.tune.measure import Limits, Measurer, Place, Subject
from mossnet_tg.codegen.tune.records import Choices, Kept, Records
from mossnet_tg.codegen.tune.shelf import Found
from mossnet_tg.codegen.tune.tuner import Pick, Trial, Tuner, subjects
from mossnet_tg.codegen.tune.twin import Twin
from mossnet_tg.codegen.tune.wish import Wish, wanted
from mossnet_tg.codegen.tuning import matrix_key
from mossnet_tg.targets.table import CpuTarget, Target, parse_target, reference_target
from mossnet_tg.weights.checkpoint import Checkpoint

# Of the time that is given, for the last runs beside the defaults.
_LAST = 0.2
_ROUNDS, _FEW_ROUNDS, _BURST_S, _WARM = 9, 5, 0.2, 4
# How often an entry's steps are timed at once.
_REPS = {EntryKind.DECODE: 20, EntryKind.PREFILL: 5}
_SWEPT_BYTES = 64 << 20  # at most: more than caches hold
# Of a token's time, what a round trip to the device may take.
_NEAR = 0.25
# What a pick must win of a token's time to be tried by itself.
_LEAST = 0.002
_LAYER = re.compile(r"layers\.\d+\.")


@dataclass(frozen=True)
class Row:
    """One task of the model: `share` of a token's time before; `default_s` and `tuned_s` side by side, equal where the
    default stays; `fields` are what was chosen.
    """

    task: str
    name: str
    kernel_class: str
    n_tokens: int
    share: float
    default_s: float
    tuned_s: float
    n_trials: int
    fields: Mapping[str, int] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """How many times as fast."""
        return self.default_s / self.tuned_s


@dataclass
class Report:
    """What came of a run. `ratio` is end to end, of a token's decoding, default over tuned in turns; `prefill_ratio` of
    a prompt's chunk; 1 where nothing was chosen. `kept`: whether the choices are used from now on.
    """

    rows: list[Row]
    trials: list[Trial]
    seconds: float
    ratio: float = 1.0
    prefill_ratio: float = 1.0
    default_s: float = 0.0
    tuned_s: float = 0.0
    kept: bool = False
    n_discarded: int = 0
    n_devices: int = 1

    @property
    def n_remembered(self) -> int:
        """Trials that were known before."""
        return sum(trial.remembered for trial in self.trials)

    @property
    def ended(self) -> dict[str, int]:
        """How many trials ended how."""
        return dict(Counter(trial.outcome.status for trial in self.trials))


def tune(
    checkpoint: Checkpoint,
    target: Target,
    places: Callable[[], Sequence[Place]],
    limits: Limits,
    records: Records,
    options: CompileOptions,
    wish: Wish,
    n_threads: int,
    progress: Callable[[str], None],
    told: Callable[[Trial], None],
    warn: Callable[[str], None] = lambda text: None,
) -> Report:
    """Tune the kernels of `checkpoint` for the devices at `places`, as a `Crew` has them; `progress` is told steps,
    `told` every trial, `warn` which device was lost.

    Raises MossnetError, DeviceError when the device does not run the defaults.
    """
    started = time.monotonic()
    dot = target.dot if isinstance(target, CpuTarget) else ""
    host = parse_target(reference_target(dot, checkpoint.is_quantised))
    with tempfile.TemporaryDirectory(prefix="mossnet-tune-") as name:
        folder = Path(name)
        twin_file = cached(checkpoint, host, options, progress)
        default_file = cached(checkpoint, target, options, progress)
        progress("planning")
        twin = Twin(checkpoint, _plan(checkpoint, host, options), twin_file)
        plan, schedule = _plan(checkpoint, target, options), backend(target).schedule(target)

        swept_bytes = min(read_per_token(moss_file.read(default_file), checkpoint.config), _SWEPT_BYTES)

        def measurer(place: Place) -> Measurer:
            own = Path(tempfile.mkdtemp(dir=folder))
            return Measurer(twin, target, place, limits, own, n_threads, swept_bytes)

        progress("timing the defaults")
        crew = Crew(measurer, places, warn)
        step_s = crew.anywhere(lambda m: _step_s(m.place, default_file, n_threads))
        found = subjects(plan, twin, step_s, schedule, wish.seed)
        tried = [s for s in found if _is_wanted(s, wish)]
        others = [s for s in found if not _is_wanted(s, wish)]
        trials: list[Trial] = []

        def note(trial: Trial) -> None:
            trials.append(trial)
            told(trial)

        tuner = Tuner(tried, others, crew, records, wish.seed, started, note)
        tuner.run(wish.time_s * (1 - _LAST), wish.n_trials)
        progress("choices beside the defaults")
        picks = tuner.conclude()
        report = Report(_rows(plan, found, trials, crew), trials, 0.0)
        whole = _Whole(checkpoint, target, options, crew, default_file, folder / "tuned.moss", n_threads, plan.chunk)
        used = whole.settle(found, picks, report, records, progress) or picks
        report.rows = [_chosen(row, used) for row in report.rows]
        report.n_discarded, report.n_devices = crew.n_discarded, len(crew.measurers)
        twin.close()
        report.seconds = time.monotonic() - started
        return report


def _plan(checkpoint: Checkpoint, target: Target, options: CompileOptions) -> Plan:
    return make_plan(checkpoint, backend(target).schedule(target), options, lambda _: None)


def _step_s(place: Place, path: Path, n_threads: int) -> dict[EntryKind, Any]:
    """Seconds of each step with the defaults."""
    with place.load_whole(path) as model, model.session(n_threads) as session:
        return {kind: session.profile(int(kind), reps) for kind, reps in _REPS.items()}


def _is_wanted(subject: Subject, wish: Wish) -> bool:
    task = subject.workload.task
    return wanted(wish.kernels, task.kernel_class, task.n_tokens)


def _choices(found: list[Subject], picks: Sequence[Pick]) -> Choices:
    """What was chosen, as records keep it."""
    matrices = {s.workload.task.text: s.workload.task.matrices for s in found}
    tasks = {}
    for chosen in (chosen for pick in picks for chosen in pick.chosen):
        width = chosen.choice.width
        widths = {matrix_key(*m): width for m in matrices[chosen.task]} if width else {}
        tasks[chosen.task] = Kept(dict(chosen.choice.fields), widths, chosen.default_s, chosen.tuned_s)
    return Choices(tasks, {key: width for pick in picks for key, width in pick.widths.items()})


def _rows(plan: Plan, found: list[Subject], trials: list[Trial], crew: Crew) -> list[Row]:
    """Every task with its default."""
    names = {use.workload.task.text: _name(plan, use) for use in reversed(plan.uses)}
    rows = []
    for subject in found:
        task = subject.workload.task
        seconds = crew.default_s(task.text) or subject.default_s
        n_trials = sum(t.task == task.text for t in trials)
        name = names[task.text]
        rows.append(Row(task.text, name, task.kernel_class, task.n_tokens, subject.weight, seconds, seconds, n_trials))
    return rows


def _chosen(row: Row, picks: Sequence[Pick]) -> Row:
    """The row with what was chosen for it."""
    chosen = next((c for pick in picks for c in pick.chosen if c.task == row.task), None)
    if chosen is None:
        return row
    width = {"width": chosen.choice.width} if chosen.choice.width else {}
    fields = {**chosen.choice.fields, **width}
    return replace(row, default_s=chosen.default_s, tuned_s=chosen.tuned_s, fields=fields)


def _name(plan: Plan, use: Any) -> str:
    """A task for people: the label of a step of it, in any layer."""
    first = next(e.first_step for e in plan.entries if e.kind == use.entry) + use.first_step
    return _LAYER.sub("", plan.steps[first].label)


def _is_decoding(found: Sequence[Subject], pick: Pick) -> bool:
    """Whether it changes how a token is decoded."""
    decoding = {s.workload.task.text for s in found if s.workload.task.n_tokens == 1}
    return any(chosen.task in decoding for chosen in pick.chosen)


def _is_faster(report: Report, found: Sequence[Subject], picks: Sequence[Pick]) -> bool:
    """Whether the picks are worth it: in decoding, where they change it, else in prompts."""
    decoding = any(_is_decoding(found, pick) for pick in picks)
    return (report.ratio if decoding else report.prefill_ratio) > 1.0


@dataclass
class _Whole:
    """The whole model with choices, beside the one with the defaults, both as `generate` runs them; where the way to
    the device would be most of it, their steps are timed.
    """

    checkpoint: Checkpoint
    target: Target
    options: CompileOptions
    crew: Crew
    default: Path
    tuned: Path
    n_threads: int
    chunk: int

    def settle(
        self,
        found: list[Subject],
        picks: list[Pick],
        report: Report,
        records: Records,
        progress: Callable[[str], None],
    ) -> list[Pick]:
        """Keep those that make the whole faster: all of them, those that do so in it, or those of prompts alone."""
        tried: list[list[Pick]] = [[]]
        choices: Sequence[Callable[[], list[Pick]]] = (
            lambda: picks,
            lambda: self.chosen_one_by_one(found, picks, progress),
            lambda: [pick for pick in picks if not _is_decoding(found, pick)],
        )
        for choose in choices:
            chosen = choose()
            if chosen in tried:  # noise would let it pass some time
                continue
            tried.append(chosen)
            progress("end to end")
            self.compare(_choices(found, chosen), report)
            if _is_faster(report, found, chosen):
                report.kept = True
                records.keep(_choices(found, chosen))
                return chosen
        return []

    def compare(self, choices: Choices, report: Report) -> None:
        """Note in `report` what a token and a prompt take."""
        decode, prefill = self._times(choices, _ROUNDS, [EntryKind.DECODE, EntryKind.PREFILL])
        report.ratio, report.prefill_ratio = (statistics.median(a / b for a, b in pairs) for pairs in (decode, prefill))
        report.default_s = statistics.median(a for a, _ in decode)
        report.tuned_s = statistics.median(b for _, b in decode)

    def chosen_one_by_one(
        self, found: list[Subject], picks: Sequence[Pick], progress: Callable[[str], None]
    ) -> list[Pick]:
        """The picks of prompts, and those that make decoding faster, one after the other: beside its neighbours a
        kernel may take longer than by itself, for what it leaves to them in caches and of threads.
        """
        weights = {s.workload.task.text: s.weight for s in found}

        def gain(pick: Pick) -> float:
            return sum(weights[c.task] * (1 - c.tuned_s / c.default_s) for c in pick.chosen)

        kept = [pick for pick in picks if not _is_decoding(found, pick)]
        decoding = sorted((p for p in picks if p not in kept and gain(p) >= _LEAST), key=gain, reverse=True)
        best = 1.0
        for i, pick in enumerate(decoding):
            progress(f"end to end, {i + 1} of {len(decoding)}")
            (times,) = self._times(_choices(found, [*kept, pick]), _FEW_ROUNDS, [EntryKind.DECODE])
            ratio = statistics.median(a / b for a, b in times)
            if ratio > best:
                kept, best = [*kept, pick], ratio
        return kept

    def _times(self, choices: Choices, n_rounds: int, what: Sequence[EntryKind]) -> list[list[tuple[float, float]]]:
        """(seconds with the defaults, with the choices) of each round, for each entry that is timed."""
        found = Found(choices, "this run's")
        compile_checkpoint(self.checkpoint, self.target, self.tuned, self.options, lambda step: None, found)

        def timed(measurer: Measurer) -> list[list[tuple[float, float]]]:
            load, n = measurer.place.load_whole, self.n_threads
            with load(self.default) as a, load(self.tuned) as b, a.session(n) as x, b.session(n) as y:
                near = {EntryKind.DECODE: _decode_s, EntryKind.PREFILL: self._prefill_s}
                far = _is_far(x)
                clocks = [_steps_s(kind) if far else near[kind] for kind in what]
                return [[(clock(x), clock(y)) for _ in range(n_rounds)] for clock in clocks]

        return self.crew.anywhere(timed)

    def _prefill_s(self, session: Any) -> float:
        ids = np.arange(self.chunk, dtype=np.int32) % session.model.info.vocab_size
        session.reset()
        start = time.perf_counter()
        _ = np.asarray(session.prefill(ids))[0]
        return time.perf_counter() - start


def _decode_s(session: Any) -> float:
    """Seconds of a token, of as many as a burst has time for; the first ones bring caches and threads back."""
    burst_s, n = 0.0, -_WARM
    while burst_s < _BURST_S or n < _WARM:
        start = time.perf_counter()
        _ = np.asarray(session.decode(max(n, 0) % 64, copy=False))[0]
        if n >= 0:
            burst_s += time.perf_counter() - start
        n += 1
    return burst_s / n


def _is_far(session: Any) -> bool:
    """Whether a round trip would drown what the kernels won."""
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        _ = session.position
        times.append(time.perf_counter() - start)
    return statistics.median(times) > _NEAR * _steps_s(EntryKind.DECODE)(session)


def _steps_s(kind: EntryKind) -> Callable[[Any], float]:
    """A clock for an entry: the seconds of its steps, as the device has them."""
    return lambda session: float(session.profile(int(kind), _REPS[kind]).sum())
