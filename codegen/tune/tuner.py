"""A tuning run: which kernels are tried, in which order, and what is kept of it."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mossnet_tg.codegen.moss_file import EntryKind
from mossnet_tg.codegen.plan import Plan
from mossnet_tg.codegen.schedules.space import fits, space, widths
from mossnet_tg.codegen.tune.crew import Batch, Crew
from mossnet_tg.codegen.tune.measure import Choice, Outcome, Subject
from mossnet_tg.codegen.tune.records import Records
from mossnet_tg.codegen.tune.search import Candidate, Search
from mossnet_tg.codegen.tune.twin import Twin
from mossnet_tg.codegen.tuning import matrix_key

# A width of panels is searched further while its kernels take at most so much more than the best width's.
_PROMISING = 1.1
# A choice is kept when in the last run beside the default it takes at most so much of its time.
_KEPT = 0.98
_FINAL_ROUNDS = 3


@dataclass(eq=False)
class Track:
    """The search of one subject at one width; `make` begins it, None where there is nothing to choose. `best_ratio` is
    the best choice's time over the default's.
    """

    subject: Subject
    width: int
    make: Callable[[], Search] | None
    search: Search | None = None
    best: Choice | None = None
    best_ratio: float = float("inf")
    stale: int = 0
    exhausted: bool = False


@dataclass(frozen=True)
class Trial:
    """A choice that was measured, `at_s` after the start: for curves."""

    task: str
    choice: Choice
    outcome: Outcome
    at_s: float
    remembered: bool


@dataclass
class Step:
    """Choices that are tried together, each for its track; `known` are the outcomes that the records have. Of a search:
    its track, and what it proposed.
    """

    wanted: Sequence[tuple[Track, Choice]]
    known: Sequence[Outcome | None]
    searched: Track | None = None
    candidates: Sequence[Candidate] = ()

    @property
    def subject(self) -> Subject:
        return self.wanted[0][0].subject


@dataclass(frozen=True)
class Chosen:
    """A task's choice, and what default and choice took side by side."""

    task: str
    choice: Choice
    default_s: float
    tuned_s: float


@dataclass(frozen=True)
class Pick:
    """Choices that are used together or not at all: of one task, or of all that read the same matrices, whose panels
    are as wide as `widths` says.
    """

    chosen: tuple[Chosen, ...]
    widths: Mapping[str, int]


def subjects(
    plan: Plan, twin: Twin, step_s: Mapping[EntryKind, Sequence[float]], schedule: Any, seed: int
) -> list[Subject]:
    """What can be tuned, what takes longest first. `step_s` are the seconds of the plan's steps with the defaults; a
    token is decoded once, and was a part of a prompt once.
    """
    weights: dict[str, float] = defaultdict(float)
    first: dict[str, int] = {}
    default_s: dict[str, list[float]] = defaultdict(list)
    for i, use in enumerate(plan.uses):
        if use.entry in step_s:
            text = use.workload.task.text
            n_tokens = 1 if use.entry == EntryKind.DECODE else plan.chunk
            default_s[text].append(float(sum(step_s[use.entry][use.first_step : use.first_step + use.n_steps])))
            weights[text] += default_s[text][-1] / n_tokens
            first.setdefault(text, i)
    samples = twin.samples(first.values(), seed)
    total = sum(weights.values())
    found = [
        Subject(plan.uses[i].workload, schedule, samples[i], float(np.median(default_s[text])), weights[text] / total)
        for text, i in first.items()
    ]
    return sorted(found, key=lambda s: -s.weight)


class Tuner:
    """Searches for `subjects` until time or trials are over; what the records know is not measured again. `others` are
    not tried: matrices that they read keep their widths. `started`: the time.monotonic() from which time is counted.
    """

    def __init__(
        self,
        subjects: Sequence[Subject],
        others: Sequence[Subject],
        crew: Crew,
        records: Records,
        seed: int,
        started: float,
        told: Callable[[Trial], None],
    ) -> None:
        self.crew, self.records, self.started, self.told = crew, records, started, told
        self.n_left: int | None = None
        fixed = {matrix_key(*m) for subject in others for m in subject.workload.task.matrices}
        self.tracks = [track for subject in subjects for track in _tracks(subject, seed, fixed)]
        self._unmet = deque({id(t.subject): t.subject for t in self.tracks}.values())
        self._running: dict[Batch, Step] = {}

    def run(self, time_s: float, n_trials: int | None) -> None:
        """Search until `time_s` have passed since the start, or until `n_trials` were measured."""
        self.n_left = n_trials

        def over() -> bool:
            return time.monotonic() - self.started >= time_s or self.n_left == 0

        while True:
            while not over() and self.crew.is_free and (step := self._next()):
                self._begin(step)
            if not self._running:
                return
            batch = self.crew.wait()
            step = self._running.pop(batch)
            self.records.end(step.subject.workload.task.text, batch.choices, batch.outcomes)
            self._end(step, batch.outcomes)

    def _next(self) -> Step | None:
        """What to try now, None when there is nothing, as long as nothing more is known."""
        while self._unmet:
            if step := self._first(self._unmet.popleft()):
                return step
        while True:
            searched = [step.searched for step in self._running.values()]
            track = max((t for t in self.tracks if t not in searched), key=self._hope, default=None)
            if track is None or self._hope(track) <= 0:
                return None
            if step := self._further(track):
                return step

    def _first(self, subject: Subject) -> Step | None:
        """The default's fields at every width."""
        tracks = [t for t in self.tracks if t.subject is subject]
        others = [t for t in tracks if t.width != subject.default.width]
        for track in tracks:
            if track not in others:
                track.best, track.best_ratio = subject.default, 1.0
        return self._step([(t, Choice({}, t.width)) for t in others]) if others else None

    def _further(self, track: Track) -> Step | None:
        assert track.make is not None
        if track.search is None:
            track.search = track.make()
        candidates = track.search.propose()
        if not candidates:
            track.exhausted = True
            return None
        return self._step([(track, Choice(c.fields, track.width)) for c in candidates], track, candidates)

    def _step(
        self,
        wanted: Sequence[tuple[Track, Choice]],
        searched: Track | None = None,
        candidates: Sequence[Candidate] = (),
    ) -> Step:
        text = wanted[0][0].subject.workload.task.text
        return Step(wanted, [self.records.known(text, choice.key) for _, choice in wanted], searched, candidates)

    def _begin(self, step: Step) -> None:
        """Have what is new measured; what is one too many fails untried."""
        pairs = zip(step.wanted, step.known, strict=True)
        new = [choice for (_, choice), outcome in pairs if outcome is None][: self.n_left]
        if self.n_left is not None:
            self.n_left -= len(new)
        if not new:
            self._end(step, [])
            return
        self.records.begin(step.subject.workload.task.text, new)
        batch = Batch(step.subject, new)
        self._running[batch] = step
        self.crew.begin(batch)

    def _end(self, step: Step, measured: Sequence[Outcome]) -> None:
        """Learn from what became of it."""
        text, fresh = step.subject.workload.task.text, iter(measured)
        before = step.searched.best_ratio if step.searched else 0.0
        outcomes = []
        for (track, choice), old in zip(step.wanted, step.known, strict=True):
            outcome = old or next(fresh, None)
            outcomes.append(outcome or Outcome("failed"))
            if outcome is None:
                continue
            if outcome.ratio is not None and outcome.ratio < track.best_ratio:
                track.best, track.best_ratio = choice, outcome.ratio
            self.told(Trial(text, choice, outcome, time.monotonic() - self.started, old is not None))
        if step.searched is not None:
            self._learn(step.searched, step.candidates, [o.ratio for o in outcomes])
            step.searched.stale = 0 if step.searched.best_ratio < 0.99 * before else step.searched.stale + 1

    def _learn(self, track: Track, candidates: Sequence[Candidate], ratios: Sequence[float | None]) -> None:
        assert track.search is not None
        track.search.tell(candidates, ratios)
        done = [(c, ratio) for c, ratio in zip(candidates, ratios, strict=True) if ratio is not None]
        if usual := self.crew.default_s(track.subject.workload.task.text):
            self.records.commit(track.search.module, [c.record for c, _ in done], [ratio * usual for _, ratio in done])

    # ---- where to go on

    def _hope(self, track: Track) -> float:
        """How much a token's time may still win there."""
        if track.exhausted or track.make is None:
            return 0.0
        if track.width and (ratio := self._behind(track)) > 1:
            if ratio > _PROMISING:
                return 0.0
            return 0.3 * track.subject.weight * 0.5**track.stale
        return track.subject.weight * float(0.5**track.stale)

    def _behind(self, track: Track) -> float:
        """What the track's width takes of all that read its matrices, beside the best width."""
        costs = self._costs(_key(track.subject))
        return costs[track.width] / min(costs.values())

    def _costs(self, key: str) -> dict[int, float]:
        found: dict[int, float] = defaultdict(float)
        for track in self.tracks:
            if track.width and _key(track.subject) == key:
                found[track.width] += track.subject.weight * track.best_ratio
        return found

    # ---- what is kept

    def conclude(self) -> list[Pick]:
        """What beats the defaults in a last run of both."""
        picks = []
        for key in dict.fromkeys(_key(t.subject) for t in self.tracks if t.width):
            costs = self._costs(key)
            default = next(t.subject.default.width for t in self.tracks if t.width and _key(t.subject) == key)
            for width in dict.fromkeys((min(costs, key=lambda width: costs[width]), default)):
                group = [t for t in self.tracks if t.width == width and _key(t.subject) == key]
                if found := list(self._picks(group, {key: width}, together=width != default)):
                    picks += found
                    break
        return [*picks, *self._picks([t for t in self.tracks if not t.width], {}, together=False)]

    def _picks(self, tracks: Sequence[Track], widths: Mapping[str, int], together: bool) -> Iterator[Pick]:
        """The picks of some tracks; `together`: one of all, or none."""
        if together and any(t.best is None for t in tracks):
            return
        measured = [(t, self._paired(t)) for t in tracks if t.best is not None]
        for group in [measured] if together else [[one] for one in measured]:
            before = sum(t.subject.weight for t, _ in group)
            after = sum(t.subject.weight * chosen.tuned_s / chosen.default_s for t, chosen in group)
            if after < _KEPT * before:
                yield Pick(tuple(chosen for _, chosen in group), widths)

    def _paired(self, track: Track) -> Chosen:
        """The best choice and the default, in turns."""
        assert track.best is not None
        text = track.subject.workload.task.text
        if track.best == track.subject.default:
            seconds = self.crew.default_s(text) or track.subject.default_s
            return Chosen(text, track.best, seconds, seconds)
        found = [self.crew.pair(track.subject, track.best) for _ in range(_FINAL_ROUNDS)]
        ratio = float(np.median([tuned / default for default, tuned in found]))
        default = float(np.median([default for default, _ in found]))
        return Chosen(text, track.best, default, default * ratio)


def _key(subject: Subject) -> str:
    return matrix_key(*subject.workload.task.matrices[0])


def _tracks(subject: Subject, seed: int, fixed: Collection[str]) -> Iterator[Track]:
    """One for each width, or one of width 0; none for what leaves no choice."""
    task = subject.workload.task
    of_task = subject.schedule.of_task(task)
    keys = {matrix_key(*m) for m in task.matrices}
    # Matrices that lie differently would need a width each: no kernel of ours reads such.
    alike = len(keys) == 1
    fields = space(of_task, task)
    several = any(len(values) > 1 for values in fields.values())
    tried = widths(of_task, task) if alike else ()
    for width in (of_task.width,) if keys & set(fixed) else tried or (0,):

        def fitting(chosen: Mapping[str, int], width: int = width) -> bool:
            return fits(subject.tuned(Choice(chosen, width)).of_task(task), task)

        def make(width: int = width, fitting: Callable[[Mapping[str, int]], bool] = fitting) -> Search:
            return Search(f"{task.text} | width {width}", fields, fitting, seed)

        if not fitting({}) and width != 0:
            continue
        if several or width:
            yield Track(subject, width, make if several else None)
