"""The tables of a record, in Markdown."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from tests.bench.record import Counted, Measured, Record, Run

_NONE = "–"
_WIDTH = 120
_IDLE_LOAD = 0.5


def per_s(test: Counted, run: Run) -> list[float]:
    """Tokens per second of each sample."""
    return [test.n_tokens / s for s in run.seconds.get(test.name, [])]


def spread(samples: Sequence[float]) -> float:
    """Their standard deviation."""
    return statistics.stdev(samples) if len(samples) > 1 else 0.0


def median_per_s(test: Counted, run: Run) -> float | None:
    """None where nothing was measured."""
    samples = per_s(test, run)
    return statistics.median(samples) if samples else None


def of_part(model: Measured, part: str) -> list[Counted]:
    """The tests of a table."""
    return [test for test in model.tests if test.part == part]


def decode(model: Measured) -> Counted:
    """The last test of the main table."""
    return of_part(model, "main")[-1]


def bandwidth_share(model: Measured, run: Run) -> float | None:
    """What decoding read of the weights per second, over the speed at which memory was read in the same rounds."""
    speed, limit = median_per_s(decode(model), run), model.bandwidth.get(str(run.n_threads))
    return speed * run.read_per_token / statistics.median(limit) if speed and limit else None


def markdown(record: Record) -> list[str]:
    """Everything but prose."""
    facts = [*record.machine.items(), *record.versions.items()]
    lines = [textwrap.fill("; ".join(f"{name} {value}" for name, value in facts) + ".", _WIDTH)]
    lines.append(f"Options: `{record.options}`." if record.options else "No options.")
    if float(record.machine["load before"]) > _IDLE_LOAD:
        lines += [
            "",
            "**The machine was not idle** (see its load): these figures are rough, those of two threads most.",
        ]
    for model in record.models:
        lines += ["", f"### {model.name}", "", f"{model.about}.", *_sections(model)]
    return lines


def _sections(model: Measured) -> Iterator[str]:
    """Each table with a line of what it is before it."""
    yield from ("", *_main(model))
    if notes := [*_notes(model)]:
        yield from ("", *notes)
    for title, rows in (
        (f"Logits after 32 tokens beside those of {model.oracle}, the worse of prompt and step:", [*_agreement(model)]),
        ("How many times as fast as a peer with weights of the same type:", [*_ratios(model)]),
        ("Decode with one core kept busy by another process, tokens per second:", [*_busy(model)]),
        ("Milliseconds per token behind a context of so many tokens:", [*_context(model)]),
    ):
        if len(rows) > 1:
            yield from ("", title, "", *table(rows))


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Markdown; the first row is the head, the first column text and the others numbers."""
    head, *rest = rows
    yield f"| {' | '.join(head)} |"
    yield "|---" + "|--:" * (len(head) - 1) + "|"
    for row in rest:
        yield f"| {' | '.join(row)} |"


def _main(model: Measured) -> Iterator[str]:
    tests = of_part(model, "main")
    columns = ("of read bandwidth", "MB per token", "first token s", "peak MiB", "private MiB")
    rows = [("engine", "threads", *(test.name for test in tests), *columns)]
    for run in _by_threads(model.runs):
        share, start = bandwidth_share(model, run), run.seconds.get("start")
        rows.append(
            (
                run.label,
                str(run.n_threads),
                *(_speed(test, run) for test in tests),
                _NONE if share is None else f"{100 * share:.0f} %",
                f"{run.read_per_token / 1e6:.0f}" if run.read_per_token else _NONE,
                f"{statistics.median(start):.2f}" if start else _NONE,
                *(f"{run.memory[name]:.0f}" if name in run.memory else _NONE for name in ("peak", "private")),
            )
        )
    return table(rows)


def _by_threads(runs: Iterable[Run]) -> list[Run]:
    return sorted(runs, key=lambda run: run.n_threads)


def _speed(test: Counted, run: Run) -> str:
    speed = median_per_s(test, run)
    return _NONE if speed is None else f"{speed:.1f} ± {spread(per_s(test, run)):.1f}"


def _notes(model: Measured) -> Iterator[str]:
    """What was left out or failed, and what the engines say of themselves."""
    left_out: dict[str, list[str]] = {}
    for label, reason in model.left_out.items():
        left_out.setdefault(reason, []).append(label)
    for reason, labels in left_out.items():
        yield _item(f"{', '.join(labels)}: left out, {reason}.")
    for run in model.runs:
        if run.problem:
            yield _item(f"**{run.label}, {_threads(run.n_threads)}, failed**: {run.problem}.")
    told: dict[str, list[Run]] = {}
    for run in model.runs:
        for note in run.notes:
            told.setdefault(note, []).append(run)
    for note, runs in told.items():
        labels = dict.fromkeys(run.label for run in runs)
        differ = any(run.notes and note not in run.notes for run in model.runs if run.label in labels)
        subjects = [f"{run.label} ({_threads(run.n_threads)})" for run in runs] if differ else [*labels]
        yield _item(f"{', '.join(subjects)}: {note}.")


def _item(text: str) -> str:
    return textwrap.fill(f"- {text}", _WIDTH, subsequent_indent="  ")


def _threads(n: int) -> str:
    return "1 thread" if n == 1 else f"{n} threads"


def _agreement(model: Measured) -> Iterator[tuple[str, ...]]:
    yield ("engine", "max abs", "rel L2", "same argmax")
    seen = set()
    for run in model.runs:
        if run.agreement and run.label not in seen:
            seen.add(run.label)
            a = run.agreement
            yield (run.label, f"{a['max_abs']:.1e}", f"{a['rel_l2']:.1e}", "yes" if a["same_argmax"] else "no")


def _ratios(model: Measured) -> Iterator[tuple[str, ...]]:
    tests = of_part(model, "main")
    yield ("ours beside", "type", "threads", *(test.name for test in tests))
    ours = {(run.type, run.n_threads): run for run in model.runs if _is_ours(run)}
    for run in _by_threads(model.runs):
        mine = ours.get((run.type, run.n_threads))
        if mine is not None and not _is_ours(run):
            yield (run.label, run.type, str(run.n_threads), *(_ratio(test, mine, run) for test in tests))


def _is_ours(run: Run) -> bool:
    return run.label.startswith("mossnet ")


def _ratio(test: Counted, ours: Run, theirs: Run) -> str:
    mine, other = median_per_s(test, ours), median_per_s(test, theirs)
    return f"{mine / other:.2f}" if mine and other else _NONE


def _busy(model: Measured) -> Iterator[tuple[str, ...]]:
    idle, alone = decode(model), min((run.n_threads for run in model.runs), default=1)
    single = {run.label: run for run in model.runs if run.n_threads == alone}
    yield ("engine", "threads", "core busy", f"idle, {_threads(alone)}", "of that")
    for test in of_part(model, "busy"):
        for run in model.runs:
            if median_per_s(test, run):
                one = single.get(run.label, run)
                part = (median_per_s(test, run) or 0.0) / (median_per_s(idle, one) or float("nan"))
                speeds = _speed(test, run), _speed(idle, one)
                yield (run.label, str(run.n_threads), *speeds, f"{100 * part:.0f} %")


def _context(model: Measured) -> Iterator[tuple[str, ...]]:
    tests = of_part(model, "context")
    yield ("engine", "threads", *(test.name.rpartition(" ")[2] for test in tests), "last over first")
    for run in _by_threads(model.runs):
        times = [1e3 / speed if (speed := median_per_s(test, run)) else None for test in tests]
        if any(times):
            shown = (_NONE if ms is None else f"{ms:.2f}" for ms in times)
            both = times[0] and times[-1]
            yield (run.label, str(run.n_threads), *shown, f"{times[-1] / times[0]:.2f}" if both else _NONE)  # type: ignore[operator]
