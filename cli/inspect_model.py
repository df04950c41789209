"""`mossnet-tg inspect`: what a checkpoint or a compiled model holds. Nothing of it is run."""

from __future__ import annotations

import itertools
import json
import math
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mossnet_tg.cli import options
from mossnet_tg.cli.console import Console, table
from mossnet_tg.cli.facts import count, human, layer_of, n_active, n_parameters, tensors_of
from mossnet_tg.codegen.reads import read_per_token

if TYPE_CHECKING:
    from mossnet_tg.codegen.moss_file import Entry, MossFile

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
    the activations are not in it. "Launches per token" are the steps of the decode entry.

    \b
    Examples:
      mossnet-tg inspect ./my-model
      mossnet-tg inspect build/model.moss --steps
      mossnet-tg inspect build/model.moss --json | jq '.read_per_token, .launches.total'
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


def _checkpoint(path: str) -> dict[str, Any]:
    from mossnet_tg.codegen.options import CompileOptions
    from mossnet_tg.model import state_shapes
    from mossnet_tg.weights.checkpoint import Checkpoint

    checkpoint = Checkpoint.open(path)
    c = checkpoint.config
    tensors = [(name, math.prod(t.shape)) for name, t in checkpoint.tensors.items()]
    shapes = itertools.chain(*(state_shapes(c, i, CompileOptions.context).values() for i in range(c.n_layer)))
    return {
        "kind": "checkpoint",
        "name": checkpoint.name,
        "config": c.to_dict(),
        "parameters": n_parameters(tensors),
        "active_per_token": n_active(c, tensors),
        "weights_bytes": checkpoint.weights_bytes,
        "state_bytes": sum(4 * math.prod(shape) for shape in shapes),
        "eos": list(checkpoint.eos_ids),
        "tokenizer_bytes": len(checkpoint.tokenizer_json or b""),
        "nan_tensors": checkpoint.nan_tensors(),
        "tensors": [{"name": name, "dtype": t.dtype, "shape": list(t.shape)} for name, t in checkpoint.tensors.items()],
    }


def _checkpoint_lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"checkpoint {found['name']}"
    yield from table(
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
    yield from table(list(_flat(found["config"])))
    yield "tensors"
    yield from table([(t["name"], t["dtype"], "[" + ", ".join(map(str, t["shape"])) + "]") for t in found["tensors"]])


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

    moss, *others = moss_file.read_all(path)
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
        "launches": _launches(moss),
        "regions": regions,
        "code_bytes": len(moss.code),
        "images": _images(moss.code) if moss.meta.get("driver") == "cuda" else None,
        "tokenizer_bytes": len(moss.tokenizer),
        "nan_tensors": [name for name in moss.meta.get("nan_tensors", "").split(",") if name],
        "variants": [_variant(one) for one in (moss, *others)] if others else None,
        "kernels": [_kernel(moss, i) for i in range(len(moss.kernels))],
        "entries": [
            {"name": e.name, "n_tokens": e.n_tokens, "n_logits": e.n_logits, "steps": _steps(moss, e)}
            for e in moss.entries
        ],
    }


def _variant(moss: MossFile) -> dict[str, Any]:
    return {
        "target": moss.meta.get("target", ""),
        "kernels": len(moss.kernels),
        "code_bytes": len(moss.code),
        "session_bytes": moss.state_bytes + moss.arena_bytes + moss.io_bytes,
    }


def _is_gpu(moss: MossFile) -> bool:
    return moss.meta.get("driver", "cpu") != "cpu"


def _kernel(moss: MossFile, index: int) -> dict[str, Any]:
    k = moss.kernels[index]
    steps = [step for step in moss.steps if step.kernel == index]
    found = {
        "name": k.name,
        "class": k.name.partition("_")[2] or k.name,
        "params": len(k.params),
        "code_bytes": k.code_bytes,
        "steps": len(steps),
    }
    if not _is_gpu(moss):
        return found
    groups = sorted({math.prod(step.grid) for step in steps})  # one number, but in files that are not ours
    return {**found, "groups": groups, "block": list(k.block), "local_bytes": k.local_bytes}


def _launches(moss: MossFile) -> dict[str, Any]:
    """How many steps a decoded token takes: in all, of each layer, and outside of them by the part of the model."""
    from mossnet_tg.codegen.moss_file import EntryKind

    decode = next(e for e in moss.entries if e.kind == EntryKind.DECODE)
    labels = [layer_of(step.label) for step in moss.steps[decode.first_step : decode.first_step + decode.n_steps]]
    layers = Counter(layer for layer, _ in labels if layer >= 0)
    outside = Counter(label.partition("/")[0] for layer, label in labels if layer < 0)
    return {
        "total": len(labels),
        "largest_layer": max(layers.values(), default=0),
        "layers": [layers[i] for i in sorted(layers)],
        "outside": dict(outside),
    }


def _launches_text(launches: dict[str, Any]) -> str:
    """ "48: 9 a layer, embed 1, head 2"."""
    most = "" if len(set(launches["layers"])) == 1 else "at most "
    layer = [f"{most}{launches['largest_layer']} a layer"] if launches["layers"] else []
    return f"{launches['total']}: {', '.join(layer + [f'{name} {n}' for name, n in launches['outside'].items()])}"


def _images(code: bytes) -> list[dict[str, Any]]:
    """The programs in CODE for cuda, as docs/format.md says; a table that does not fit is left to libmossnet."""
    table, record = struct.Struct("<II"), struct.Struct("<IIQQ")
    n_images = table.unpack_from(code)[0] if len(code) >= table.size else 0
    if table.size + n_images * record.size > len(code):
        return []
    rows = record.iter_unpack(code[table.size : table.size + n_images * record.size])
    return [
        {"kind": {0: "cubin", 1: "PTX"}.get(kind, "unknown"), "arch": arch, "bytes": size}
        for kind, arch, _, size in rows
    ]


def _steps(moss: MossFile, entry: Entry) -> list[dict[str, Any]]:
    from mossnet_tg.codegen.moss_file import Region

    return [
        {
            "label": step.label,
            "kernel": moss.kernels[step.kernel].name,
            **({"groups": list(step.grid)} if _is_gpu(moss) else {"tiles": step.grid[0]}),
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
    yield from table(
        [
            *((key, value or "none") for key, value in found["meta"].items() if key not in _NOT_SHOWN),
            ("model hash", found["model_hash"]),
            ("parameters", f"{count(found['parameters'])}, active per token {count(found['active_per_token'])}"),
            ("prefill chunk", f"{found['chunk']} tokens"),
            ("context", f"{found['max_context']} tokens" if found["max_context"] else "no limit"),
            ("read per token", f"{human(found['read_per_token'])} of weights"),
            ("launches per token", _launches_text(found["launches"])),
        ]
    )
    yield "memory"
    yield from table(
        [
            ("weights", human(regions["weights"]), "shared by all sessions"),
            ("state", human(regions["state"]), "per session"),
            ("arena", human(regions["arena"]), "per session"),
            ("io", human(regions["io"]), "per session"),
        ],
        " r",
    )
    yield from _kernel_lines(found)
    for entry in found["entries"]:
        steps = entry["steps"]
        size = f"{entry['n_tokens']} tokens, {entry['n_logits']} rows of logits, {len(steps)} steps"
        yield f"entry {entry['name']}: {size}"
        for group, shown in [("", steps)] if all_steps else _grouped(steps):
            if group:
                yield f"  {group}, {len(shown)} steps each:"
            yield from table([("  " * bool(group) + s["label"], s["kernel"], _size(s)) for s in shown])


def _size(step: dict[str, Any]) -> str:
    if "groups" in step:
        return f"{math.prod(step['groups'])} groups"
    return f"{step['tiles']} tiles{', small' * step['small']}"


# The heads of the kernels' table, and the key of each; those of GPUs come behind.
_KERNEL_COLUMNS = (
    ("name", "name"),
    ("class", "class"),
    ("params", "params"),
    ("code bytes", "code_bytes"),
    ("steps", "steps"),
)
_GPU_COLUMNS = (("groups", "groups"), ("block", "block"), ("local bytes", "local_bytes"))


def _kernel_lines(found: dict[str, Any]) -> Iterator[str]:
    kernels = found["kernels"]
    if found["variants"]:
        yield "variants, the first that runs is taken; the kernels below are those of the first"
        yield from table(
            [
                (
                    v["target"],
                    f"{v['kernels']} kernels",
                    human(v["code_bytes"]),
                    f"{human(v['session_bytes'])} a session",
                )
                for v in found["variants"]
            ],
            " rrr",
        )
    yield f"kernels: {len(kernels)}, {human(found['code_bytes'])} of code"
    if found["images"] is not None:
        yield from table([(f"{i['kind']} {i['arch']}", human(i["bytes"])) for i in found["images"]], " r")
    gpu = _GPU_COLUMNS if kernels and "block" in kernels[0] else ()
    # An image of CUDA holds every kernel: none has code of its own.
    columns = [c for c in (*_KERNEL_COLUMNS, *gpu) if c[1] != "code_bytes" or found["images"] is None]
    rows = [tuple(_cell(k[key]) for _, key in columns) for k in kernels]
    yield from table([tuple(head for head, _ in columns), *rows], "  " + "r" * (len(columns) - 2))


def _cell(value: object) -> str:
    """A number or a name; for lists, "64 x 2" of a block, without the ones at its end."""
    if not isinstance(value, list):
        return str(value)
    while len(value) > 1 and value[-1] == 1:
        value = value[:-1]
    return " x ".join(map(str, value))


def _grouped(steps: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(what repeats, its steps): layers in a row that do the same are shown once; "" for steps outside the layers."""

    def shape(steps: list[dict[str, Any]]) -> list[tuple[str, str]]:
        return [(layer_of(s["label"])[1], s["kernel"]) for s in steps]

    runs = [(number, list(run)) for number, run in itertools.groupby(steps, lambda s: layer_of(s["label"])[0])]
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
            plain = [{**s, "label": layer_of(s["label"])[1]} for s in shown]
            yield f"layer {first}" if first == last else f"layers {first} to {last}", plain
        at = end
