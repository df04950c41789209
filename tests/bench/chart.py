"""A record as bars: tokens per second by engine and type of weights."""

from __future__ import annotations

import io
from typing import Any

from tests.bench.figures import decode, median_per_s, of_part, per_s, spread
from tests.bench.record import Counted, Measured, Record

_OURS, _THEIRS = ("#1f5f8b", "#8fb7d3"), ("#5c6670", "#b9c0c7")  # the first number of threads dark, the others light


def png(record: Record) -> bytes:
    """The drawing as a file. Needs matplotlib (ImportError), which brings Pillow."""
    from PIL import Image

    drawn, out = io.BytesIO(), io.BytesIO()
    drawing(record).savefig(drawn, format="png", dpi=90)
    # A few greys and blues: a third of the bytes.
    Image.open(drawn).convert("RGB").quantize(32).save(out, "png", optimize=True)
    return out.getvalue()


def drawing(record: Record) -> Any:
    """A row of two pictures for each model: decode, and the longest prompt."""
    from matplotlib.figure import Figure

    models = [model for model in record.models if model.runs]
    heights = [1.2 + 0.3 * len(_labels(model)) for model in models] or [1.0]
    figure = Figure(figsize=(10, sum(heights)), layout="constrained")
    if models:
        axes = figure.subplots(len(models), 2, squeeze=False, gridspec_kw={"height_ratios": heights})
        for model, (left, right) in zip(models, axes, strict=True):
            _bars(left, model, decode(model))
            _bars(right, model, of_part(model, "main")[-2])
            right.set_yticklabels([])
    facts = record.machine
    figure.supxlabel(f"tokens per second, medians; {facts['cpu']}, commit {facts['commit']}", fontsize=8)
    return figure


def _labels(model: Measured) -> list[str]:
    return list(dict.fromkeys(run.label for run in model.runs))


def _bars(axes: Any, model: Measured, test: Counted) -> None:
    labels, threads = _labels(model), sorted({run.n_threads for run in model.runs})
    height = 0.8 / len(threads)
    for run in model.runs:
        speed, turn = median_per_s(test, run), threads.index(run.n_threads)
        y = labels.index(run.label) + (turn - (len(threads) - 1) / 2) * height
        colour = (_OURS if run.label.startswith("mossnet ") else _THEIRS)[min(turn, 1)]
        whisker = spread(per_s(test, run))
        axes.barh(y, speed or 0.0, height, color=colour, xerr=whisker, ecolor="0.3")
        axes.text((speed or 0.0) + whisker, y, f"  {speed:.0f}" if speed else "  none", va="center", fontsize=6)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    shades = ", ".join(f"{n} {shade}" for n, shade in zip(threads, ("dark", "light"), strict=False))
    axes.set_title(f"{model.name}, {test.name} (threads: {shades})", fontsize=8, loc="left")
