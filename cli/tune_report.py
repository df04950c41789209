"""A tuning run as a picture: how the search of each kernel went, and what came of it."""

from __future__ import annotations

import html
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mossnet_tg.errors import MossnetError, UsageError
from mossnet_tg.folders import write_whole

if TYPE_CHECKING:
    from mossnet_tg.codegen.tune.records import Device
    from mossnet_tg.codegen.tune.run import Report, Row

_CURVES = 8
# Of the table, on a terminal as on a page.
COLUMNS = ("kernel", "of", "tokens", "default us", "tuned us", "speed-up", "share of a token", "trials", "chosen")


def cells(row: Row) -> tuple[str, ...]:
    """A kernel's line."""
    chosen = " ".join(f"{name}={value}" for name, value in sorted(row.fields.items()))
    times = (f"{row.default_s * 1e6:.1f}", f"{row.tuned_s * 1e6:.1f}", f"{row.ratio:.2f}x")
    return (row.name, row.kernel_class, str(row.n_tokens), *times, f"{row.share:.1%}", str(row.n_trials), chosen)


def drawing(path: Path) -> Callable[[Report, Device], None]:
    """What writes the report to `path`. Raises UsageError for a kind of file that it cannot be, MossnetError without
    matplotlib.
    """
    kind = path.suffix.lower()
    if kind not in (".html", ".png"):
        raise UsageError(f"--report is '{path}', expected a name that ends in .html or .png")
    if not path.parent.is_dir():
        raise UsageError(f"--report: {path.parent} is no folder")
    try:
        import matplotlib
    except ImportError:
        raise MossnetError("--report needs matplotlib", "pip install 'mossnet-tg[report]'") from None
    matplotlib.use("Agg")

    def draw(report: Report, device: Device) -> None:
        content = _page(report, device) if kind == ".html" else _picture(report, device, "png")
        try:
            write_whole(path, content)
        except OSError as e:
            raise MossnetError(f"{path}: cannot be written: {e.strerror}") from None

    return draw


def _picture(report: Report, device: Device, form: str) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    search, bars = figure.subplots(2, 1)
    _curves(search, report)
    _bars(bars, report)
    figure.suptitle(f"{device.name}, {device.target}: a token {report.ratio:.2f} times as fast")
    out = io.BytesIO()
    figure.savefig(out, format=form, dpi=120)
    return out.getvalue()


def _curves(axes: Any, report: Report) -> None:
    """The best so far over time, for the kernels that had most trials; every trial a dot."""
    rows = sorted((row for row in report.rows if row.n_trials), key=lambda row: -row.n_trials)[:_CURVES]
    for row in rows:
        done = [(t.at_s, 1 / t.outcome.ratio) for t in report.trials if t.task == row.task and t.outcome.ratio]
        if not done:
            continue
        times, best, so_far = [], [], 1.0
        for at_s, ratio in done:
            so_far = max(so_far, ratio)
            times.append(at_s)
            best.append(so_far)
        (line,) = axes.step(times, best, where="post", label=f"{row.name}, {row.n_tokens} tokens")
        axes.plot([t for t, _ in done], [r for _, r in done], ".", markersize=3, color=line.get_color(), alpha=0.5)
    axes.axhline(1.0, color="0.6", linewidth=1)
    axes.set_xlabel("seconds")
    axes.set_ylabel("times as fast as the default")
    if rows:
        axes.legend(fontsize=7, ncols=2)


def _bars(axes: Any, report: Report) -> None:
    rows = [row for row in report.rows if row.share >= 0.005][::-1]
    names = [f"{row.name}, {row.n_tokens} ({row.share:.0%})" for row in rows]
    colours = ["tab:green" if row.fields else "0.7" for row in rows]
    axes.barh(names, [row.ratio for row in rows], color=colours)
    axes.axvline(1.0, color="0.4", linewidth=1)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel("times as fast, beside the default in a last run (share of a token's time)")


def _page(report: Report, device: Device) -> bytes:
    picture = _picture(report, device, "svg").decode()
    picture = picture[picture.index("<svg") :]
    head = "".join(f"<th>{column}</th>" for column in COLUMNS)
    rows = ("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells(row)) + "</tr>" for row in report.rows)
    title = html.escape(f"mossnet-tg tune: {device.name}, {device.target}")
    style = "body{font:14px sans-serif;margin:2em}table{border-collapse:collapse}td,th{padding:2px 8px;text-align:left}"
    said = f"A token {report.ratio:.2f} times as fast, prompts {report.prefill_ratio:.2f}; {report.seconds:.0f} s."
    return (
        f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{style} tr:nth-child(even){{background:#eee}}"
        f" svg{{max-width:100%;height:auto}}</style><h1>{title}</h1><p>{said}</p>{picture}"
        f"<table><tr>{head}</tr>{''.join(rows)}</table>\n"
    ).encode()
