"""`mossnet-tg compile`: a checkpoint becomes a model.moss."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mossnet_tg.cli import options
from mossnet_tg.cli.console import Console
from mossnet_tg.cli.facts import count, human
from mossnet_tg.errors import MossnetError, UsageError

if TYPE_CHECKING:
    from mossnet_tg.targets.table import Target
    from mossnet_tg.weights.checkpoint import Checkpoint

FILE_NAME = "model.moss"


@click.command()
@options.model_argument
@options.target
@click.option("-o", "--out", metavar="DIR", required=True, help=f"The folder in which {FILE_NAME} appears.")
@options.plan
@options.verbosity
@click.pass_obj
def command(
    console: Console, model: str | None, target: str | None, out: str, chunk: int | None, context: int | None
) -> None:
    """Compile a checkpoint into one file, model.moss.

    MODEL is a checkpoint folder or a .safetensors file; the bundled demo when left out. The file appears when it is
    complete or not at all. Its path goes to stdout.

    \b
    Examples:
      mossnet-tg compile ./my-model --out build/
      mossnet-tg compile ./my-model --out build/ --target cpu:mcpu=x86-64-v3
      mossnet-tg compile ./my-model --out phone/ --target cpu:arch=aarch64,mcpu=cortex-a76
    """
    from mossnet_tg.codegen.options import CompileOptions
    from mossnet_tg.weights.checkpoint import DEMO, Checkpoint

    if model is not None and _is_compiled(Path(model)):
        raise UsageError(f"{model}: a compiled model, expected a checkpoint", "mossnet-tg inspect shows what it holds")
    checkpoint = Checkpoint.open(DEMO if model is None else model)
    resolved = compiled_target(target)
    given = {key: value for key, value in (("chunk", chunk), ("context", context)) if value is not None}
    plan = CompileOptions(**given)
    path = _prepared(Path(out)) / FILE_NAME
    console.note(
        f"compiling {checkpoint.name} ({count(checkpoint.n_params)} parameters) for {resolved.name}, chunk {plan.chunk}"
    )
    started = time.perf_counter()
    console.step("loading the compiler")
    from mossnet_tg.codegen.compile import compile_checkpoint  # brings TVM, which takes seconds

    compile_checkpoint(checkpoint, resolved, path, plan, console.step)
    console.clear()
    _report(console, checkpoint, resolved, path, time.perf_counter() - started)
    console.out(f"{path}\n")


def compiled_target(text: str | None) -> Target:
    """A target that there is something to compile for; UsageError otherwise."""
    from mossnet_tg.targets.table import parse_target

    if (text or "").partition(":")[0] == "tinygrad":
        raise UsageError(f"target '{text}' runs a model uncompiled", "only mossnet-tg generate takes it")
    return parse_target(text or "cpu")


def _is_compiled(path: Path) -> bool:
    from mossnet_tg.codegen.moss_file import MAGIC

    try:
        if not path.is_file():  # a named pipe would block
            return False
        with path.open("rb") as f:
            return f.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return False


def _prepared(folder: Path) -> Path:
    """The folder, made where it is not there: minutes of work should not end at its door."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "not writable")
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else e
        raise MossnetError(f"{folder}: the folder cannot be used: {reason}", "give --out another folder") from None
    return folder


def _report(console: Console, checkpoint: Checkpoint, target: Target, path: Path, seconds: float) -> None:
    from mossnet_tg.codegen import moss_file
    from mossnet_tg.engine import Library

    moss = moss_file.read(path)
    session = moss.state_bytes + moss.arena_bytes + moss.io_bytes
    console.note(
        f"compiled in {seconds:.1f} s: {human(path.stat().st_size)}, {len(moss.kernels)} kernels,"
        f" {human(session)} of memory per session"
    )
    if names := [name for name in moss.meta.get("nan_tensors", "").split(",") if name]:
        console.warning(f"the weights hold NaN or infinity: {', '.join(names)}")
    host = Library.default()
    lacks = [name for name in target.features if name not in host.cpu_features]
    if target.arch != host.cpu_arch:
        console.note(f"this machine is {host.cpu_arch} and cannot run it: copy it to a machine of {target.arch}")
    elif lacks:
        console.note(f"this machine lacks {', '.join(lacks)} and cannot run it: copy it to one that has them")
    for entry in moss.entries:
        console.detail(2, f"{entry.name}: {entry.n_steps} steps, {entry.n_tokens} tokens")
    console.detail(2, f"state {moss.state_bytes}, arena {moss.arena_bytes}, io {moss.io_bytes} bytes")
