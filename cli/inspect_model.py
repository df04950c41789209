"""`mossnet-tg inspect`: what a checkpoint or a compiled model holds. Nothing of it is run."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mossnet_tg.cli import options
from mossnet_tg.cli.console import Console
from mossnet_tg.cli.facts import count, human, n_active, n_parameters, read_per_token, tensors_of

if TYPE_CHECKING:
    from mossnet_tg.codegen.moss_file import Entry, MossFile

_LAYER = re.compile(r"layers\.(\d+)\.(.*)")

# What META holds for programs, or what is shown elsewhere.
_NOT_SHOWN = ("config", "nan_tensors")


@click.command()
@click.argument("path", required=False)
@click.option("--steps", "all_steps", is_flag=True, help="Of a model.moss, show every step of every layer.")
@options.as_json
@options.verbosity
@click.pass_obj
def command(console: Console, path: str | None, all_steps: bool, as_json: bool) -> None:
    """Show what a checkpoint or a model.moss holds; without PATH, the bundled demo.

    Nothing of it is run, so it needs no consent.

    "Read per token" is the weights that one decoded token reads: for each step of the decode entry its weight buffers,
    of the routed ones the share of the selected experts (top_k / n_experts), of the embedding one row. The state and
    the activations are not in it.

    \b
    Examples:
      mossnet-tg inspect ./my-model
      mossnet-tg inspect build/model.moss --steps
      mossnet-tg inspect build/model.moss --json | jq .read_per_token
    """
    from mossnet_tg.weights.checkpoint import DEMO, is_checkpoint

    path = str(DEMO) if path is None else path
    if is_checkpoint(path) or not Path(path).exists():  # Checkpoint.open has the words for what is not there
        found = _checkpoint(path)
        lines = _checkpoint_lines(found)
    else:
        found = _compiled(path)
        lines = _compiled_lines(found, all_steps)
    if as_json:
        console.out(json.dumps(found, indent=1) + "\n")
        return
    for line in lines:
        console.out(line.rstrip() + "\n")
    if found["nan_tensors"]:
        console.warning(f"the weights hold NaN or infinity: {', '.join(found['nan_tensors'])}")


def _table(rows: list[tuple[str, ...]], right: str = "") -> Iterator[str]:
    """Columns of one width each; `right` has an "r" where one is aligned to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    for row in rows:
        cells = (
            c.rjust(w) if r == "r" else c.ljust(w) for c, w, r in zip(row, widths, right.ljust(len(row)), strict=True)
        )
        yield "  " + "  ".join(cells)


def _checkpoint(path: str) -> dict[str, Any]:
    from mossnet_tg.codegen.options import CompileOptions
    from mossnet_tg.model import state_shapes
    from mossnet_tg.weights.checkpoint import Checkpoint

    checkpoint = Checkpoint.open(path)
    c = checkpoint.config
    tensors = [(name, t.n_elements) for name, t in checkpoint.tensors.items()]
    shapes = itertools.chain(*(state_shapes(c, i, CompileOptions.context).values() for i in range(c.n_layer)))
    return {
        "kind": "checkpoint",
        "name": checkpoint.name,
        "config": c.to_dict(),
        "parameters": n_parameters(tensors),
        "active_per_token": n_active(c, tensors),
        "weights_bytes": checkpoint.weights_bytes,
        "state_bytes": sum(4 * _product(shape) for shape in shapes),
        "eos": list(checkpoint.eos_ids),
        "tokenizer_bytes": len(checkpoint.tokenizer_json or b""),
        "nan_tensors": checkpoint.nan_tensors(),
        "tensors": [{"name": name, "dtype": t.dtype, "shape": list(t.shape)} for name, t in checkpoint.tensors.items()],
    }


def _product(shape: tuple[int, ...]) -> int:
    n = 1
    for size in shape:
        n *= size
    return n


def _checkpoint_lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"checkpoint {found['name']}"
    yield from _table(
        [
            ("parameters", f"{found['parameters']:,}"),
            ("  active per token", f"{found['active_per_token']:,} without embedding and head"),
            ("weights", human(found["weights_bytes"])),
            ("state", f"{human(found['state_bytes'])} per session"),
            ("tokenizer", human(found["tokenizer_bytes"]) if found["tokenizer_bytes"] else "none"),
            ("end of text", ", ".join(map(str, found["eos"])) or "none"),
        ]
    )
    yield "config"
    yield from _table(list(_flat(found["config"])))
    yield "tensors"
    yield from _table([(t["name"], t["dtype"], "[" + ", ".join(map(str, t["shape"])) + "]") for t in found["tensors"]])


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value)


def _compiled(path: str) -> dict[str, Any]:
    from mossnet_tg.codegen import moss_file
    from mossnet_tg.config import Config
    from mossnet_tg.errors import ArtifactError

    moss = moss_file.read(path)
    if "config" not in moss.meta:
        raise ArtifactError(f"{path}: META has no configuration", "compile the checkpoint again")
    c = Config.from_json(moss.meta["config"], f"{path}: config")
    tensors = tensors_of(moss, c)
    regions = {"weights": moss.weights_bytes, "state": moss.state_bytes, "arena": moss.arena_bytes, "io": moss.io_bytes}
    return {
        "kind": "compiled",
        "meta": dict(moss.meta),
        "model_hash": moss.model_hash.hex(),
        "file_bytes": Path(path).stat().st_size,
        "parameters": n_parameters(tensors),
        "active_per_token": n_active(c, tensors),
        "vocab_size": moss.vocab_size,
        "chunk": moss.chunk,
        "max_context": moss.max_context or None,
        "read_per_token": read_per_token(moss, c),
        "regions": regions,
        "code_bytes": len(moss.code),
        "tokenizer_bytes": len(moss.tokenizer),
        "nan_tensors": [name for name in moss.meta.get("nan_tensors", "").split(",") if name],
        "kernels": [
            {
                "name": k.name,
                "class": k.name.partition("_")[2] or k.name,
                "params": len(k.params),
                "code_bytes": k.code_bytes,
                "steps": sum(step.kernel == i for step in moss.steps),
            }
            for i, k in enumerate(moss.kernels)
        ],
        "entries": [
            {"name": e.name, "n_tokens": e.n_tokens, "n_logits": e.n_logits, "steps": _steps(moss, e)}
            for e in moss.entries
        ],
    }


def _steps(moss: MossFile, entry: Entry) -> list[dict[str, Any]]:
    from mossnet_tg.codegen.moss_file import Region

    return [
        {
            "label": step.label,
            "kernel": moss.kernels[step.kernel].name,
            "tiles": step.grid[0],
            "small": step.small,
            "weights_bytes": sum(
                moss.buffers[a].bytes for a in set(step.args) if moss.buffers[a].region == Region.WEIGHTS
            ),
        }
        for step in moss.steps[entry.first_step : entry.first_step + entry.n_steps]
    ]


def _compiled_lines(found: dict[str, Any], all_steps: bool) -> Iterator[str]:
    yield f"compiled model, {human(found['file_bytes'])}"
    regions = found["regions"]
    yield from _table(
        [
            *((key, value) for key, value in found["meta"].items() if key not in _NOT_SHOWN),
            ("model hash", found["model_hash"]),
            ("parameters", f"{count(found['parameters'])}, active per token {count(found['active_per_token'])}"),
            ("prefill chunk", f"{found['chunk']} tokens"),
            ("context", f"{found['max_context']} tokens" if found["max_context"] else "no limit"),
            ("read per token", f"{human(found['read_per_token'])} of weights"),
        ]
    )
    yield "memory"
    yield from _table(
        [
            ("weights", human(regions["weights"]), "shared by all sessions"),
            ("state", human(regions["state"]), "per session"),
            ("arena", human(regions["arena"]), "per session"),
            ("io", human(regions["io"]), "per session"),
        ],
        " r",
    )
    yield f"kernels: {len(found['kernels'])}, {human(found['code_bytes'])} of code"
    header = ("name", "class", "params", "code bytes", "steps")
    rows = [(k["name"], k["class"], str(k["params"]), str(k["code_bytes"]), str(k["steps"])) for k in found["kernels"]]
    yield from _table([header, *rows], "  rrr")
    for entry in found["entries"]:
        steps = entry["steps"]
        size = f"{entry['n_tokens']} tokens, {entry['n_logits']} rows of logits, {len(steps)} steps"
        yield f"entry {entry['name']}: {size}"
        for group, shown in [("", steps)] if all_steps else _grouped(steps):
            if group:
                yield f"  {group}, {len(shown)} steps each:"
            yield from _table(
                [
                    ("  " * bool(group) + s["label"], s["kernel"], f"{s['tiles']} tiles" + ", small" * s["small"])
                    for s in shown
                ]
            )


def _grouped(steps: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(what repeats, its steps): layers in a row that do the same are shown once; "" for steps outside the layers."""

    def layer(step: dict[str, Any]) -> int:
        found = _LAYER.match(step["label"])
        return int(found[1]) if found else -1

    def shape(steps: list[dict[str, Any]]) -> list[tuple[str, str]]:
        return [(_LAYER.sub(r"\2", s["label"]), s["kernel"]) for s in steps]

    runs = [(number, list(run)) for number, run in itertools.groupby(steps, layer)]
    at = 0
    while at < len(runs):
        first, shown = runs[at]
        end = at + 1
        while first >= 0 and end < len(runs) and runs[end][0] >= 0 and shape(runs[end][1]) == shape(shown):
            end += 1
        last = runs[end - 1][0]
        if first < 0:
            yield "", shown
        else:
            plain = [{**s, "label": _LAYER.sub(r"\2", s["label"])} for s in shown]
            yield f"layer {first}" if first == last else f"layers {first} to {last}", plain
        at = end
