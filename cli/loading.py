"""Models for the verbs that run them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from mossnet_tg import Model
from mossnet_tg.cli.console import Console
from mossnet_tg.cli.facts import human
from mossnet_tg.errors import UsageError


@dataclass(frozen=True)
class Loaded:
    """A model, how long it took and what was done: "compiled", "from the cache", "compiled before"."""

    model: Model
    seconds: float
    how: str


def load_model(
    console: Console,
    path: str | None,
    target: str | None,
    chunk: int | None,
    context: int | None,
    n_threads: int,
    allow_native: bool,
    needs_text: bool = False,
) -> Loaded:
    """Load what the options name (None: not given), with progress and warnings. Raises MossnetError."""
    from mossnet_tg.weights.checkpoint import DEMO, Checkpoint, is_checkpoint

    compiled = path is not None and Path(path).is_file() and not is_checkpoint(path)
    plan = {key: value for key, value in (("chunk", chunk), ("context", context)) if value is not None}
    if compiled and (given := [f"--{key}" for key in plan] + ["--target"] * (target is not None)):
        raise UsageError(
            f"{path}: {' and '.join(given)} cannot be changed in a compiled model",
            "leave it out, or compile the checkpoint again",
        )
    if needs_text and not compiled and Checkpoint.open(DEMO if path is None else path).tokenizer_json is None:
        # Before minutes of compiling, not after.
        raise UsageError(
            f"{path}: no tokenizer.json, which text takes", "copy the model's tokenizer.json beside config.json"
        )
    started, n_steps = time.perf_counter(), 0

    def progress(step: str) -> None:
        nonlocal n_steps
        n_steps += 1
        console.step(step)

    try:
        model = Model.load(
            path, target or "cpu", n_threads=n_threads, allow_native=allow_native, progress=progress, **plan
        )
    except UsageError as e:
        if compiled and not allow_native:
            hint = "add --allow-native if you trust who made the file"
            raise UsageError(f"{path}: holds machine code, which would run with your rights", hint) from e
        raise
    console.clear()
    how = "compiled before" if compiled else "compiled now" if n_steps else "from the cache"
    loaded = Loaded(model, time.perf_counter() - started, how)
    if damaged := [name for name in (model.meta("nan_tensors") or "").split(",") if name]:
        more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        console.warning(
            f"the weights hold NaN or infinity, so the output means nothing: {', '.join(damaged[:3])}{more}"
        )
    console.detail(1, f"loaded {model.meta('source') or path} in {loaded.seconds:.2f} s ({how})")
    if model.path is not None:
        info = model.engine.info
        console.detail(
            2,
            f"{info.n_steps[0]} steps a token, prefill chunk {info.chunk}, {human(info.weights_bytes)} of weights,"
            f" {human(info.session_bytes)} of memory per session",
        )
    return loaded
