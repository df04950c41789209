"""Where the time of a token, or of a chunk of a prompt, goes: `mossnet-tg bench --profile`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mossnet_tg.cli.facts import layer_of
from mossnet_tg.codegen.work import work_by_step

if TYPE_CHECKING:
    from mossnet_tg.codegen.moss_file import EntryKind, MossFile
    from mossnet_tg.config import Config
    from mossnet_tg.remote import AnySession

# How long an entry is run, and how often: a small model's experts are all to be in the caches, as in a long text.
_MEASURE_S = 0.5
_LEAST_REPS, _MOST_REPS = 8, 500


@dataclass
class Row:
    """The launches of a kernel for one purpose, those of all layers together, and the seconds, bytes and operations of
    them all.
    """

    step: str
    kernel: str
    n_calls: int = 0
    seconds: float = 0.0
    bytes: float = 0.0
    flops: float = 0.0


@dataclass(frozen=True)
class Profile:
    """The rows of an entry, the one that takes longest first; the tokens that the entry reads; the bytes per second
    that the memory gives, where they were measured.
    """

    rows: Sequence[Row]
    n_tokens: int
    bandwidth_per_s: float | None

    @property
    def total(self) -> Row:
        """The sums of all rows."""
        names = ("n_calls", "seconds", "bytes", "flops")
        return Row("all", "", *(sum(getattr(row, name) for row in self.rows) for name in names))


def measure(session: AnySession, moss: MossFile, c: Config, kind: EntryKind, bandwidth_per_s: float | None) -> Profile:
    """Run every step of an entry by itself; resets the session. Raises MossnetError."""
    entry = next(e for e in moss.entries if e.kind == kind)
    steps = moss.steps[entry.first_step : entry.first_step + entry.n_steps]
    reps = round(_MEASURE_S / max(float(session.profile(kind, 1).sum()), 1e-6))
    step_s = session.profile(kind, min(max(reps, _LEAST_REPS), _MOST_REPS))
    rows: dict[tuple[str, int], Row] = {}
    for step, seconds, work in zip(steps, step_s.tolist(), work_by_step(moss, c, entry), strict=True):
        _, name = layer_of(step.label)
        row = rows.setdefault((name, step.kernel), Row(name, moss.kernels[step.kernel].name))
        row.n_calls += 1
        row.seconds += seconds
        row.bytes += work.bytes
        row.flops += work.flops
    return Profile(sorted(rows.values(), key=lambda row: -row.seconds), entry.n_tokens, bandwidth_per_s)


def _ratio(a: float, b: float | None) -> float | None:
    """None where a clock or a memory gave nothing to divide by."""
    return a / b if b else None


def as_json(profile: Profile) -> list[dict[str, Any]]:
    """A row as an object; what has no number is null."""
    total_s = profile.total.seconds
    return [
        {
            "step": row.step,
            "kernel": row.kernel,
            "n_calls": row.n_calls,
            "seconds": row.seconds,
            "share": _ratio(row.seconds, total_s),
            "bytes": row.bytes,
            "bytes_per_s": (per_s := _ratio(row.bytes, row.seconds)),
            "bandwidth_share": _ratio(per_s or 0.0, profile.bandwidth_per_s),
            "flops": row.flops,
            "flops_per_s": _ratio(row.flops, row.seconds),
        }
        for row in profile.rows
    ]


def cells(profile: Profile, bandwidth: str) -> Iterator[tuple[str, ...]]:
    """The head, then a row for each kernel, then their sum; `bandwidth` is what kind was measured."""
    yield "step", "kernel", "calls", "us/call", "us", "share", "GB/s", f"of {bandwidth} bandwidth", "GFLOP/s"
    total = profile.total
    for row in (*profile.rows, total):
        per_s = _ratio(row.bytes, row.seconds)
        yield (
            row.step,
            row.kernel,
            str(row.n_calls),
            "" if row is total else _shown(row.seconds * 1e6 / row.n_calls, 1.0),
            _shown(row.seconds * 1e6, 1.0),
            _shown(_ratio(row.seconds, total.seconds), 0.01, " %"),
            _shown(per_s, 1e9),
            _shown(_ratio(per_s or 0.0, profile.bandwidth_per_s), 0.01, " %"),
            _shown(_ratio(row.flops, row.seconds), 1e9),
        )


def _shown(x: float | None, unit: float, suffix: str = "") -> str:
    return f"{x / unit:.1f}{suffix}" if x else ""
