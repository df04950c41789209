"""`mossnet-tg quantize`: a checkpoint in narrower weights."""

from __future__ import annotations

import math
import time
from collections import Counter
from pathlib import Path

import click

from mossnet_tg.cli import options
from mossnet_tg.cli.compile_model import prepared, uncompiled
from mossnet_tg.cli.console import Console
from mossnet_tg.cli.facts import count, human
from mossnet_tg.errors import UsageError
from mossnet_tg.weights.weight_types import WEIGHT_TYPES


@click.command()
@options.model_argument
@click.option("--type", "type_", type=click.Choice(WEIGHT_TYPES), required=True, help="What the matrices become.")
@click.option("-o", "--out", metavar="DIR", required=True, help="The folder in which the new checkpoint appears.")
@options.verbosity
@click.pass_obj
def command(console: Console, model: str | None, type_: str, out: str) -> None:
    """Write a checkpoint with its matrices in another type.

    MODEL is a checkpoint folder or a .safetensors file; the bundled demo when left out. What is written is a checkpoint
    as well, which every verb takes; its folder goes to stdout. --weights of generate, compile and bench does the same
    in passing, and writes none.

    \b
      q8   int8 in groups of 32 along the input, each with a float16 scale: 8.5 bits a weight
      q4   4 bits in such groups: 4.5 bits a weight. Embeddings and an output of their own become q8
      f16, bf16, f32

    Norms, biases, rates, convolutions and routers stay as they are; a matrix without whole groups becomes f16 in a
    quantised model. On processors products of q8 and q4 are computed in integers (see: mossnet-tg targets, dot).

    \b
    Examples:
      mossnet-tg quantize ./my-model --type q4 --out my-model-q4/
      mossnet-tg quantize --type q8 --out demo-q8/ && mossnet-tg generate -m demo-q8/ "def fibonacci(n):"
    """
    checkpoint = uncompiled(model)
    before, folder = checkpoint.weights_bytes, prepared(Path(out))
    if folder.samefile(checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent):
        raise UsageError(f"{out}: the model itself lies there", "give --out another folder")
    from mossnet_tg.weights.write import write_checkpoint

    converted, started = checkpoint.with_weights(type_), time.perf_counter()
    write_checkpoint(converted, folder, console.step)
    console.clear()
    elements = Counter[str]()
    for tensor in converted.tensors.values():
        elements[tensor.dtype] += math.prod(tensor.shape)
    parts = ", ".join(f"{count(n)} {dtype}" for dtype, n in elements.most_common())
    bits = 8 * converted.weights_bytes / converted.n_params
    console.note(
        f"{checkpoint.name} in {time.perf_counter() - started:.1f} s: {parts}; {human(before)} became"
        f" {human(converted.weights_bytes)}, {bits:.2f} bits a weight"
    )
    if damaged := checkpoint.nan_tensors():
        console.warning(f"the weights hold NaN or infinity: {', '.join(damaged)}")
    console.out(f"{folder}\n")
