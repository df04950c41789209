"""`mossnet-tg compile`: a checkpoint becomes a model.moss."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mossnet_tg.cli import options
from mossnet_tg.cli.console import Console
from mossnet_tg.cli.devices import typed
from mossnet_tg.cli.facts import count, human
from mossnet_tg.errors import MossnetError, UsageError

if TYPE_CHECKING:
    from mossnet_tg.codegen.moss_file import MossFile
    from mossnet_tg.targets.table import CpuTarget, Target
    from mossnet_tg.weights.checkpoint import Checkpoint

FILE_NAME = "model.moss"


@click.command()
@options.model_argument
@click.option(
    "--target",
    metavar="TARGET[,TARGET…]",
    help="What to compile for (see: mossnet-tg targets); of several, the first that a device can run is used there."
    "  [default: cpu]",
)
@options.device
@click.option("-o", "--out", metavar="DIR", required=True, help=f"The folder in which {FILE_NAME} and the rest appear.")
@click.option(
    "--abi",
    metavar="NAME",
    default="",
    help="The platform of the app that embeds the model: android-arm64 (or arm64-v8a), linux-arm64 or linux-x86_64."
    "  [default: this machine's]",
)
@click.option(
    "--ndk", metavar="DIR", type=click.Path(path_type=Path), help="Android's NDK.  [default: ANDROID_NDK_HOME]"
)
@click.option("--require-ndk", is_flag=True, help="Fail without an NDK: for what you ship.")
@options.plan
@options.verbosity
@click.pass_obj
def command(
    console: Console,
    model: str | None,
    target: str | None,
    device: str,
    out: str,
    abi: str,
    ndk: Path | None,
    require_ndk: bool,
    chunk: int | None,
    context: int | None,
    weights: str | None,
) -> None:
    """Compile a checkpoint into one file, model.moss, and put what an app needs to run it beside it.

    MODEL is a checkpoint folder or a .safetensors file; the bundled demo when left out. Beside the model appear
    libmossnet, shared and static, its header, files for CMake and pkg-config, app.c, which continues a text, and
    manifest.json, with sizes and hashes; for Android also mossnet.aar, for apps in Java and Kotlin, which takes a JDK.
    Each file appears when it is complete or not at all. The model's path goes to stdout.

    No target needs its device here; cuda needs NVRTC or nvcc. Where there are records of tuning (see: mossnet-tg tune)
    for --device, the kernels are made by them. Libraries for other platforms are built here, as docs/android.md says.

    \b
    Examples:
      mossnet-tg compile ./my-model --out build/
      mossnet-tg compile ./my-model --out build/ --target cpu:mcpu=x86-64-v3
      mossnet-tg compile ./my-model --out build/ --target cpu:mcpu=all
      mossnet-tg compile ./my-model --out build/ --weights q4
      mossnet-tg compile ./my-model --out phone/ --target cpu:arch=aarch64,mcpu=cortex-a76
      mossnet-tg compile ./my-model --out phone/ --target adreno,vulkan,cpu:arch=aarch64 --abi arm64-v8a
    """
    from mossnet_tg import host_at
    from mossnet_tg.codegen.tune.shelf import lookup
    from mossnet_tg.targets.cross.toolchain import Wanted
    from mossnet_tg.targets.devices import default_target
    from mossnet_tg.targets.distribution import abi_named, distribute, for_android, libraries
    from mossnet_tg.targets.table import KINDS, parse_target, split_targets
    from mossnet_tg.targets.transport import split_place

    checkpoint = uncompiled(model, weights)
    refuse_uncompiled(target)
    place, device = split_place(device)
    host = host_at(place, console.step)
    plan = options.compile_options(chunk, context)
    names = split_targets(target or default_target(device, host), checkpoint.is_quantised)
    if device and len(names) > 1:
        raise UsageError(f"--device '{device}' is for one target, and there are {len(names)}", "leave it out")
    resolved = [parse_target(name, device, host) for name in names]
    abi = abi_named(abi)
    folder = prepared(Path(out))
    path = folder / FILE_NAME
    console.note(
        f"compiling {checkpoint.name} ({count(checkpoint.n_params)} parameters) for"
        f" {' and '.join(one.name for one in resolved)}, chunk {plan.chunk}"
    )
    started = time.perf_counter()
    wanted = Wanted(ndk, require_ndk)
    built = libraries(abi, console.step, wanted)
    console.step("loading the compiler")
    from mossnet_tg.codegen.compile import compile_checkpoint, compile_for_several  # brings TVM, which takes seconds

    if len(resolved) > 1:
        compile_for_several(checkpoint, resolved, path, plan, console.step)
    else:
        found = lookup(resolved[0], KINDS[resolved[0].kind].wanted(device, host), host)
        compile_checkpoint(checkpoint, resolved[0], path, plan, console.step, found)
    facts = {"targets": [one.name for one in resolved], "model_hash": checkpoint.model_hash().hex()}
    built |= for_android(abi, _code_for(abi, path), console.step, console.warning, wanted)
    distribute(folder, path, abi, built, facts)
    console.clear()
    _report(console, resolved, path, time.perf_counter() - started)
    console.out(f"{path}\n")


def _code_for(abi: str, path: Path) -> bytes:
    """The model's code for processors of a platform; nothing where it has none."""
    from mossnet_tg.codegen import moss_file

    arch = "aarch64" if abi.endswith("arm64") else "x86_64"
    variants = moss_file.read_all(path)
    return next((one.code for one in variants if one.meta["driver"] == "cpu" and one.meta["arch"] == arch), b"")


def refuse_uncompiled(text: str | None) -> None:
    """Raise UsageError for a target that there is nothing to compile for."""
    if (text or "").partition(":")[0] == "tinygrad":
        raise UsageError(f"target '{text}' runs a model uncompiled", "only mossnet-tg generate takes it")


def uncompiled(model: str | None, weights: str | None = None) -> Checkpoint:
    """The checkpoint at a path, the demo without one, with its matrices converted to `weights` if that is given. Raises
    MossnetError; UsageError for a compiled model.
    """
    from mossnet_tg.weights.checkpoint import DEMO, Checkpoint

    if model is not None and _is_compiled(Path(model)):
        raise UsageError(f"{model}: a compiled model, expected a checkpoint", "mossnet-tg inspect shows what it holds")
    return Checkpoint.open(DEMO if model is None else model).with_weights(weights or "")


def _is_compiled(path: Path) -> bool:
    from mossnet_tg.codegen.moss_file import MAGIC

    try:
        if not path.is_file():  # a named pipe would block
            return False
        with path.open("rb") as f:
            return f.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return False


def prepared(folder: Path) -> Path:
    """The folder, made where it is not there: minutes of work should not end at its door."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "not writable")
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else e
        raise MossnetError(f"{folder}: the folder cannot be used: {reason}", "give --out another folder") from None
    return folder


def _report(console: Console, targets: Sequence[Target], path: Path, seconds: float) -> None:
    from mossnet_tg.codegen import moss_file
    from mossnet_tg.targets.table import CpuTarget

    variants = moss_file.read_all(path)
    session = max(moss.state_bytes + moss.arena_bytes + moss.io_bytes for moss in variants)
    console.note(
        f"compiled in {seconds:.1f} s: {human(path.stat().st_size)},"
        f" {sum(len(moss.kernels) for moss in variants)} kernels, {human(session)} of memory per session"
    )
    if records := variants[0].meta.get("records"):
        console.note(f"with the records of tuning: {records}")
    if names := [name for name in variants[0].meta.get("nan_tensors", "").split(",") if name]:
        console.warning(f"the weights hold NaN or infinity: {', '.join(names)}")
    for target, moss in zip(targets, variants, strict=True):
        which = f"{target.kind}: " if len(targets) > 1 else ""
        for line in _elsewhere(target) if isinstance(target, CpuTarget) else _on_gpus(moss, target, path):
            console.note(f"{which}{line}")
        for entry in moss.entries:
            console.detail(2, f"{which}{entry.name}: {entry.n_steps} steps, {entry.n_tokens} tokens")
        console.detail(2, f"{which}state {moss.state_bytes}, arena {moss.arena_bytes}, io {moss.io_bytes} bytes")


def _elsewhere(target: CpuTarget) -> Iterator[str]:
    """Why this machine cannot run what was made for processors, if so."""
    from mossnet_tg.engine import Library

    host = Library.default()
    lacks = [name for name in target.features if name not in host.cpu_features]
    if target.arch != host.cpu_arch:
        yield f"this machine is {host.cpu_arch} and cannot run it: copy it to a machine of {target.arch}"
    elif lacks:
        yield f"this machine lacks {', '.join(lacks)} and cannot run it: copy it to one that has them"


def _on_gpus(moss: MossFile, target: Target, path: Path) -> Iterator[str]:
    """What a device must have, and where one is."""
    from mossnet_tg.engine import Library
    from mossnet_tg.targets.table import KINDS, GpuTarget

    kind = KINDS[target.kind]
    threads, shared = _most(moss)
    groups = [f"groups of {threads} threads that share {human(shared)}"] if threads > 1 else []
    yield f"it needs {', '.join([kind.needs, *groups, *_features(moss)])}"
    if isinstance(target, GpuTarget) and target.simd:
        yield f"its kernels are made for a processor; --target {kind.name}:simd=0 makes them for GPUs"
    try:
        there = [typed(device) for device in Library.default().devices(kind.driver)]
    except MossnetError as e:
        yield f"nothing here runs it ({e}): {kind.remedy.format(file=path)}"
        return
    fitting = [d["name"] for d in there if kind.device in d["name"].lower() and _fits(moss, d)]
    if fitting:
        yield f"here {' and '.join(fitting)} can run it: mossnet-tg generate -m {path}"
    else:
        names = ", ".join(d["name"] for d in there)
        yield f"nothing here has all of that (there are: {names}): {kind.remedy.format(file=path)}"


def _most(moss: MossFile) -> tuple[int, int]:
    """The threads of the largest group, and the most that one shares."""
    return max(math.prod(k.block) for k in moss.kernels), max(k.local_bytes for k in moss.kernels)


def _features(moss: MossFile) -> list[str]:
    return [name for name in moss.meta["features"].split(",") if name]


def _fits(moss: MossFile, device: dict[str, Any]) -> bool:
    """Whether the device has what the kernels need; the rest is seen when the model is loaded."""
    threads, shared = _most(moss)
    has_room = threads <= device["max_block"] and shared <= device["local_bytes"]
    return has_room and set(_features(moss)) <= set(device["features"])
