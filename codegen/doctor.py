"""Every kernel of a plan on a device against the same kernel on this machine's processor, on the same inputs.

Phones give wrong results for single kernels: the text is nonsense and nothing says why. Here both models, of one
checkpoint and made with the same options, are stepped side by side: before each step the device's buffers are set to
the processor's, so that an error shows where it is made and nowhere else.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mossnet_tg.codegen.moss_file import Access, DType, Entry, EntryKind, MossFile, Region, Step
from mossnet_tg.errors import ArtifactError, MossnetError, UsageError
from mossnet_tg.remote import AnyModel, AnySession

ENTRIES = (EntryKind.PREFILL, EntryKind.DECODE, EntryKind.SCORE)
_Place: TypeAlias = tuple[Region, str]
_NUMPY: dict[DType, Any] = {DType.F32: np.float32, DType.I32: np.int32}

# Of the largest value expected. Both sides compute in float32, in other orders; the recurrence amplifies rounding.
TOLERANCE = 2e-4
# The same for kernels that multiply in float16.
HALF_TOLERANCE = 1e-2
_HALF_CLASSES = ("product", "ExpertMatmul")


@dataclass(frozen=True)
class Finding:
    """One step: the entry, what it does, the device's kernels, and the worst error relative to the largest value
    expected (infinite for NaN, or for indices that differ); `buffer` is where it stands, `allowed` what is none yet.
    """

    entry: str
    label: str
    kernels: tuple[str, ...]
    error: float
    buffer: str
    allowed: float

    @property
    def passed(self) -> bool:
        return self.error <= self.allowed


class _Side:
    """A model with a session, its file's tables, and the steps of the entry that is looked at."""

    def __init__(self, file: MossFile, session: AnySession) -> None:
        self.file, self.session = file, session
        self.places: dict[_Place, int] = {
            (b.region, b.name): i for i, b in enumerate(file.buffers) if b.region != Region.WEIGHTS
        }

    def entry(self, kind: EntryKind) -> Entry:
        return next(e for e in self.file.entries if e.kind == kind)

    def steps(self, kind: EntryKind) -> Sequence[Step]:
        entry = self.entry(kind)
        return self.file.steps[entry.first_step : entry.first_step + entry.n_steps]

    def read(self, place: _Place) -> npt.NDArray[Any]:
        index = self.places[place]
        buffer = self.file.buffers[index]
        values = np.empty(buffer.bytes // 4, _NUMPY[buffer.dtype])
        self.session.read(index, values)
        return values

    def write(self, place: _Place, values: npt.NDArray[Any]) -> None:
        self.session.write(self.places[place], values)

    def touched(self, steps: Sequence[Step]) -> tuple[set[_Place], set[_Place]]:
        """(all buffers but weights, those that are written) of some steps."""
        every: set[_Place] = set()
        written: set[_Place] = set()
        for step in steps:
            for arg, param in zip(step.args, self.file.kernels[step.kernel].params, strict=True):
                buffer = self.file.buffers[arg]
                if buffer.region != Region.WEIGHTS:
                    every.add((buffer.region, buffer.name))
                    if param.access & Access.WRITTEN:
                        written.add((buffer.region, buffer.name))
        return every, written


def examine(
    expected: AnyModel,
    expected_file: MossFile,
    found: AnyModel,
    found_file: MossFile,
    entries: Collection[EntryKind] = ENTRIES,
    seed: int = 0,
) -> Iterator[Finding]:
    """Step through prefill, then decode and score, each from the state that the one before left; one finding for each
    step of `expected` in `entries`.

    Raises ArtifactError when the two plans are not of one model and compiler, and what the device says when it fails.
    """
    rng = np.random.default_rng(seed)
    with expected.session() as a, found.session() as b:
        ours, theirs, position = _Side(expected_file, a), _Side(found_file, b), 0
        for kind in (k for k in ENTRIES if k in {e.kind for e in expected_file.entries}):
            entry = ours.entry(kind)
            position = _fitting(position, entry.n_tokens, expected_file.max_context)
            a.write(entry.ids, rng.integers(0, expected_file.vocab_size, entry.n_tokens).astype(np.int32))
            a.write(entry.params, np.array([entry.n_tokens, position], np.int32))
            if kind in entries:
                yield from _examine_entry(kind, ours, theirs)
            else:
                a.run(kind, 0, entry.n_steps)
            position += entry.n_tokens


def _fitting(position: int, n_tokens: int, max_context: int) -> int:
    """Where a full entry fits into the state; a part of one would leave rows that nobody computes."""
    if not max_context or position + n_tokens <= max_context:
        return position
    if n_tokens > max_context:
        text = f"a chunk of {n_tokens} tokens does not fit into a context of {max_context}"
        raise UsageError(text, "examine the model with a smaller --chunk or a larger --context")
    return 0


def _examine_entry(kind: EntryKind, ours: _Side, theirs: _Side) -> Iterator[Finding]:
    first = other_first = 0
    for mine, others in _calls(ours.steps(kind), theirs.steps(kind)):
        every, written = ours.touched(mine)
        # Inputs last: where one of our steps is several of theirs, an output may lie where an input has been.
        for place in sorted(every & set(theirs.places), key=lambda place: place not in written):
            theirs.write(place, ours.read(place))
        kernels = tuple(theirs.file.kernels[step.kernel].name for step in others)
        ours.session.run(kind, first, len(mine))
        try:
            theirs.session.run(kind, other_first, len(others))
        except MossnetError as e:
            raise type(e)(f"{' and '.join(kernels)}, {mine[0].label} of {kind.name.lower()}: {e}", e.hint) from None
        first, other_first = first + len(mine), other_first + len(others)
        errors = {place: difference(ours.read(place), theirs.read(place)) for place in written & set(theirs.places)}
        worst = max(errors, key=lambda place: errors[place])
        half = "half=1" in theirs.file.meta.get("target", "")
        most = allowed(half, theirs.entry(kind).n_tokens, kernels)
        yield Finding(kind.name.lower(), mine[0].label, kernels, errors[worst], worst[1], most)


def allowed(half: bool, n_tokens: int, kernels: Sequence[str]) -> float:
    """The largest error that is none: with the option `half`, products of many tokens are multiplied in float16."""
    multiplies = any(name in kernel for kernel in kernels for name in _HALF_CLASSES)
    return HALF_TOLERANCE if half and n_tokens > 1 and multiplies else TOLERANCE


def _calls(ours: Sequence[Step], theirs: Sequence[Step]) -> Iterator[tuple[Sequence[Step], Sequence[Step]]]:
    """The steps that do the same: one of ours may be several of a device's, which have its label."""
    runs = [
        [list(steps) for _, steps in itertools.groupby(side, key=lambda step: step.label)] for side in (ours, theirs)
    ]
    if [run[0].label for run in runs[0]] != [run[0].label for run in runs[1]]:
        text = f"the plans differ, {len(ours)} steps here and {len(theirs)} on the device"
        raise ArtifactError(text, "compile both with the same version of mossnet-tg")
    for mine, others in zip(*runs, strict=True):
        if len(mine) == len(others):
            yield from zip(([step] for step in mine), ([step] for step in others), strict=True)
        else:
            yield mine, others


def difference(expected: npt.NDArray[Any], found: npt.NDArray[Any]) -> float:
    """The worst, of the largest value expected; infinite for NaN, and for integers that are not the same."""
    if expected.dtype == np.int32:
        return 0.0 if np.array_equal(expected, found) else math.inf
    worst = float(np.abs(found.astype(np.float64) - expected).max() / max(float(np.abs(expected).max()), 1e-30))
    return math.inf if math.isnan(worst) else worst
