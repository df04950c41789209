"""A plan and its machine code become a model file."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from mossnet_tg.codegen import moss_file
from mossnet_tg.codegen.backends import Code
from mossnet_tg.codegen.kernels.build import Generated, itemsize
from mossnet_tg.codegen.plan import Plan, Progress
from mossnet_tg.codegen.text.tokenizer import compile_tokenizer
from mossnet_tg.errors import MossnetError
from mossnet_tg.targets.table import CpuTarget, Target
from mossnet_tg.weights.checkpoint import Checkpoint
from mossnet_tg.weights.parameters import value
from mossnet_tg.weights.tensors import shape_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Variant:
    """A model compiled for one target."""

    plan: Plan
    code: Code
    meta: Mapping[str, str]


def write_package(
    path: str | os.PathLike[str], variants: Sequence[Variant], checkpoint: Checkpoint, progress: Progress
) -> None:
    """Write the model file, the variant that is tried first at the front; the weights are laid out and written one by
    one. Raises MossnetError when the disk does not take it, and where variants want the weights to lie differently.
    """
    plan = variants[0].plan
    for other in variants[1:]:
        if _lies(other.plan) != _lies(plan):
            said = f"{variants[0].meta['target']} and {other.meta['target']} want the weights to lie differently"
            raise MossnetError(said, "compile a file for each")
    progress("compiling the tokenizer")
    text = compiled_text(checkpoint.tokenizer_json)
    moss, *others = [_record(variant, checkpoint, text) for variant in variants]
    moss_file.write(path, moss, _laid_out(plan, checkpoint, progress), others)


def _lies(plan: Plan) -> list[Any]:
    """Where each weight lies, and how."""
    return [(w.name, w.parts, w.matrix and w.matrix.panels.width) for w in plan.weights]


def _record(variant: Variant, checkpoint: Checkpoint, text: bytes) -> moss_file.MossFile:
    plan, code = variant.plan, variant.code
    kernels = [kernel_record(function.generated, code) for function in plan.functions]
    steps = []
    for step in plan.steps:
        g = plan.functions[step.function].generated
        steps.append(moss_file.Step(step.function, step.args, g.grid, step.label, g.small))
    return moss_file.MossFile(
        model_hash=checkpoint.model_hash(),
        vocab_size=plan.config.vocab_size,
        chunk=plan.chunk,
        max_context=plan.context,
        n_params=2,
        state_bytes=plan.state_bytes,
        arena_bytes=plan.arena_bytes,
        io_bytes=plan.io_bytes,
        weights_bytes=plan.weights_bytes,
        buffers=plan.buffers,
        kernels=kernels,
        steps=steps,
        entries=plan.entries,
        code=code.code,
        meta={**variant.meta, "text": "byte-level BPE"} if text else variant.meta,
        tokenizer=checkpoint.tokenizer_json or b"",
        text=text,
    )


def compiled_text(tokenizer_json: bytes | None) -> bytes:
    """The tokenizer as libmossnet reads it; nothing, with the reason in the log, where it cannot be compiled."""
    if tokenizer_json is None:
        return b""
    try:
        return compile_tokenizer(tokenizer_json)
    except MossnetError as e:
        _log.info("no TEXT, libmossnet takes ids alone: %s", e)
        return b""


def kernel_record(kernel: Generated, code: Code) -> moss_file.Kernel:
    """A kernel as the file's table has it."""
    access = moss_file.Access
    params = tuple(
        moss_file.Param(p.n * itemsize(p.dtype), access(access.READ * p.read | access.WRITTEN * p.written))
        for p in kernel.buffers
    )
    name = kernel.name
    return moss_file.Kernel(name, params, *code.symbols[name], kernel.block, code.local_bytes.get(name, 0))


def machine_meta(target: Target, code: Code) -> dict[str, str]:
    """What META says of the machine that runs the code."""
    own = {"arch": target.arch, "dot": target.dot} if isinstance(target, CpuTarget) else {}
    return {"driver": target.driver, **own, "features": ",".join(code.features)}


def _laid_out(plan: Plan, checkpoint: Checkpoint, progress: Progress) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    for i, w in enumerate(plan.weights):
        progress(f"weights {i + 1}/{len(plan.weights)}")
        values = value(checkpoint, w.prefix, w.parameter)
        assert shape_of(values) == w.parameter.shape, w.name
        yield from w.pack(values)
