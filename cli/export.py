"""`mossnet-tg export`: a checkpoint becomes files that other runtimes read."""

from __future__ import annotations

import time
from pathlib import Path

import click

from mossnet_tg.cli import options
from mossnet_tg.cli.compile_model import prepared, uncompiled
from mossnet_tg.cli.console import Console
from mossnet_tg.cli.facts import count, human
from mossnet_tg.errors import MossnetError


@click.command()
@options.model_argument
@click.option(
    "--format", "format_", type=click.Choice(["onnx"]), default="onnx", show_default=True, help="What the files are."
)
@click.option(
    "-o",
    "--out",
    metavar="DIR",
    required=True,
    help="The folder in which decode.onnx, prefill.onnx and weights.bin appear.",
)
@options.plan
@options.verbosity
@click.pass_obj
def command(
    console: Console,
    model: str | None,
    format_: str,
    out: str,
    chunk: int | None,
    context: int | None,
    weights: str | None,
) -> None:
    """Write a checkpoint as standard ONNX, for other runtimes.

    MODEL is a checkpoint folder or a .safetensors file; the bundled demo when left out. decode.onnx reads one token,
    prefill.onnx --chunk of them; both share weights.bin, and tokenizer.json is put beside them. The files appear when
    all are complete or not at all; their paths go to stdout. docs/onnx.md says what goes in and out.

    \b
    Examples:
      mossnet-tg export ./my-model --format onnx --out onnx/
      mossnet-tg export --out demo-onnx/ --chunk 64
    """
    plan = options.compile_options(chunk, context)
    checkpoint = uncompiled(model, weights)
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise MossnetError("export needs the package onnx", "pip install 'mossnet-tg[onnx]'") from None
    from mossnet_tg.codegen.onnx.export import export_checkpoint

    folder = prepared(Path(out))
    console.note(f"exporting {checkpoint.name} ({count(checkpoint.n_params)} parameters), chunk {plan.chunk}")
    started = time.perf_counter()
    paths = export_checkpoint(checkpoint, folder, plan, console.step)
    console.clear()
    size = sum(path.stat().st_size for path in paths)
    console.note(f"exported in {time.perf_counter() - started:.1f} s: {human(size)}")
    if damaged := checkpoint.nan_tensors():
        console.warning(f"the weights hold NaN or infinity: {', '.join(damaged)}")
    for path in paths:
        console.out(f"{path}\n")
