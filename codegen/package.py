"""A plan and its machine code become a model file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy.typing as npt

from mossnet_tg.codegen import moss_file
from mossnet_tg.codegen.backends import Code
from mossnet_tg.codegen.kernels.build import itemsize
from mossnet_tg.codegen.plan import Plan, Progress
from mossnet_tg.weights.checkpoint import Checkpoint
from mossnet_tg.weights.parameters import value


def write_package(
    path: str | os.PathLike[str],
    plan: Plan,
    code: Code,
    checkpoint: Checkpoint,
    meta: Mapping[str, str],
    progress: Progress,
) -> None:
    """Write the model file; the weights are laid out and written one by one. Raises MossnetError when the disk does
    not take it.
    """
    kernels = []
    for function in plan.functions:
        params = tuple(
            moss_file.Param(p.n * itemsize(p.dtype), _access(p.read, p.written)) for p in function.generated.buffers
        )
        name, block = function.name, function.generated.block
        kernels.append(moss_file.Kernel(name, params, *code.symbols[name], block, code.local_bytes.get(name, 0)))
    steps = []
    for step in plan.steps:
        g = plan.functions[step.function].generated
        steps.append(moss_file.Step(step.function, step.args, g.grid, step.label, g.small))
    moss = moss_file.MossFile(
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
        meta=meta,
        tokenizer=checkpoint.tokenizer_json or b"",
    )
    moss_file.write(path, moss, _laid_out(plan, checkpoint, progress))


def _access(read: bool, written: bool) -> moss_file.Access:
    return moss_file.Access(moss_file.Access.READ * read | moss_file.Access.WRITTEN * written)


def _laid_out(plan: Plan, checkpoint: Checkpoint, progress: Progress) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    for i, w in enumerate(plan.weights):
        progress(f"weights {i + 1}/{len(plan.weights)}")
        values = value(checkpoint, w.prefix, w.parameter)
        assert values.shape == w.parameter.shape, w.name
        yield from w.pack(values)
