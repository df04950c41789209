"""Models for the verbs that run them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from mossnet_tg import Model
from mossnet_tg.cli import options
from mossnet_tg.cli.console import Console
from mossnet_tg.cli.devices import device_of, in_a_line
from mossnet_tg.cli.facts import human
from mossnet_tg.errors import ConsentError, UsageError


@dataclass(frozen=True)
class Wanted:
    """What the options name of a model and where it shall run; None: not given."""

    path: str | None = None
    target: str | None = None
    device: str = ""
    chunk: int | None = None
    context: int | None = None
    weights: str | None = None
    n_threads: int = 0
    allow_native: bool = False

    @property
    def is_compiled(self) -> bool:
        """Whether it is a model.moss."""
        from mossnet_tg.weights.checkpoint import is_checkpoint

        return self.path is not None and Path(self.path).is_file() and not is_checkpoint(self.path)


@dataclass(frozen=True)
class Loaded:
    """A model, how long it took and what was done: "compiled", "from the cache", "compiled before"."""

    model: Model
    seconds: float
    how: str


def load_model(console: Console, wanted: Wanted, needs_text: bool = False) -> Loaded:
    """Load a model with progress and warnings. Raises MossnetError."""
    from mossnet_tg.targets.transport import split_place
    from mossnet_tg.weights.checkpoint import DEMO, Checkpoint

    compiled = wanted.is_compiled
    given = [f"--{key}" for key in ("chunk", "context", "weights", "target") if getattr(wanted, key) is not None]
    if compiled and given:
        raise UsageError(
            f"{wanted.path}: {' and '.join(given)} cannot be changed in a compiled model",
            "leave it out, or compile the checkpoint again",
        )
    source = DEMO if wanted.path is None else wanted.path
    if needs_text and not compiled and Checkpoint.open(source).tokenizer_json is None:
        # Before minutes of compiling, not after.
        raise UsageError(
            f"{wanted.path}: no tokenizer.json, which text takes", "copy the model's tokenizer.json beside config.json"
        )
    started = time.perf_counter()
    plan = options.compile_options(wanted.chunk, wanted.context)
    try:
        model = Model.load(
            wanted.path,
            wanted.target,
            device=wanted.device,
            n_threads=wanted.n_threads,
            allow_native=wanted.allow_native,
            progress=console.step,
            chunk=plan.chunk,
            context=plan.context,
            weights=wanted.weights or "",
        )
    except ConsentError as e:
        hint = "add --allow-native if you trust who made the file"
        where = split_place(wanted.device)[0] or "this machine"
        raise UsageError(f"{wanted.path}: its code would run on {where}'s processor, with your rights", hint) from e
    console.clear()
    how = "compiled before" if compiled else "compiled now" if model.was_compiled else "from the cache"
    loaded = Loaded(model, time.perf_counter() - started, how)
    _tell(console, loaded, wanted)
    return loaded


def _tell(console: Console, loaded: Loaded, wanted: Wanted) -> None:
    """What is remarkable about a model that was loaded, and with -v what was loaded."""
    from mossnet_tg.targets.table import KINDS

    model = loaded.model
    if damaged := [name for name in (model.meta("nan_tensors") or "").split(",") if name]:
        more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        console.warning(
            f"the weights hold NaN or infinity, so the output means nothing: {', '.join(damaged[:3])}{more}"
        )
    device = device_of(model)
    kind = KINDS.get((model.meta("target") or "").partition(":")[0])
    if kind and kind.device not in device["name"].lower():
        console.note(f"note: {device['name']} is no {kind.device.capitalize()}, for which the model was compiled")
    console.detail(1, f"loaded {model.meta('source') or wanted.path} in {loaded.seconds:.2f} s ({loaded.how})")
    console.detail(1, f"device: {in_a_line(device)}")
    if "variant" in device:
        passed = f", passed over: {device['passed_over']}" if device["passed_over"] else ""
        console.detail(
            1, f"variant {int(device['variant']) + 1} of {device['n_variants']}: {model.meta('target')}{passed}"
        )
    if records := model.meta("records"):
        console.detail(1, f"with the records of tuning: {records}")
    if model.path is not None:
        info = model.engine.info
        console.detail(
            2,
            f"{info.n_steps[0]} steps a token, prefill chunk {info.chunk}, {human(info.weights_bytes)} of weights,"
            f" {human(info.session_bytes)} of memory per session",
        )
