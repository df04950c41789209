"""From a checkpoint to a model file, the whole way."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import mossnet_tg
from mossnet_tg.codegen.backends import backend
from mossnet_tg.codegen.options import CompileOptions
from mossnet_tg.codegen.package import Variant, machine_meta, write_package
from mossnet_tg.codegen.plan import Progress, make_plan
from mossnet_tg.codegen.schedules import Schedule
from mossnet_tg.codegen.tune.shelf import NOTHING, Found
from mossnet_tg.targets.table import KINDS, Target
from mossnet_tg.weights.checkpoint import Checkpoint

# The logging level of kernel sources, shown by -vvv: below DEBUG, since it is pages of text.
KERNEL_SOURCE = 5
# Of panels in a file for several targets: GPUs' own, and whole vectors of every processor.
_SHARED_WIDTH = 32
_log = logging.getLogger(__name__)


def compile_checkpoint(
    checkpoint: Checkpoint,
    target: Target,
    path: str | os.PathLike[str],
    options: CompileOptions,
    progress: Progress,
    found: Found = NOTHING,
) -> None:
    """Compile `checkpoint` for `target` into the model file `path`, with the choices of `found`; `progress` is told
    each step.

    Raises MossnetError for what the user can mend. The file appears when it is complete, or not at all.
    """
    schedule = replace(backend(target).schedule(target), tuning=found.choices.tuning)
    write_package(path, [_variant(checkpoint, target, schedule, options, progress, found)], checkpoint, progress)


def compile_for_several(
    checkpoint: Checkpoint,
    targets: Sequence[Target],
    path: str | os.PathLike[str],
    options: CompileOptions,
    progress: Progress,
) -> None:
    """Compile `checkpoint` into one model file for all targets, the one that is to be tried first at the front. They
    share the weights, which lie as suits all; so records of tuning are not used.

    Raises MossnetError, and makes the file, as `compile_checkpoint`.
    """
    schedules = [backend(target).schedule(target) for target in targets]
    most_bytes = min(s.most_bytes for s in schedules)
    variants = []
    for target, s in zip(targets, schedules, strict=True):
        alike = s.sharing(_SHARED_WIDTH, most_bytes)
        found = _variant(checkpoint, target, alike, options, partial(_said, progress, target.kind), NOTHING)
        device = KINDS[target.kind].device
        variants.append(replace(found, meta={**found.meta, **({"device": device} if device else {})}))
    write_package(path, variants, checkpoint, progress)


def _said(progress: Progress, name: str, step: str) -> None:
    progress(f"{name}: {step}")


def _variant(
    checkpoint: Checkpoint,
    target: Target,
    schedule: Schedule,
    options: CompileOptions,
    progress: Progress,
    found: Found,
) -> Variant:
    compiler = backend(target)
    plan = make_plan(checkpoint, schedule, options, progress)
    _log.debug("plan: %d kernels, %d steps, arena %d bytes", len(plan.functions), len(plan.steps), plan.arena_bytes)
    kernels = [function.generated for function in plan.functions]
    if _log.isEnabledFor(KERNEL_SOURCE):
        for kernel in kernels:
            _log.log(KERNEL_SOURCE, "%s\n%s", kernel.func.script(), compiler.source(kernel, target))
    code = compiler.compile(kernels, target, progress)
    progress("checking the weights")
    meta = {
        "producer": f"mossnet-tg {mossnet_tg.__version__}",
        **machine_meta(target, code),
        "target": target.name,
        "config": json.dumps(checkpoint.config.to_dict()),
        "weights": " ".join(sorted({t.dtype for t in checkpoint.tensors.values()})),
        "source": checkpoint.name,
        "eos": ",".join(map(str, checkpoint.eos_ids)),
        "nan_tensors": ",".join(checkpoint.nan_tensors()),
        **({"records": said} if (said := found.said({use.workload.task.text for use in plan.uses})) else {}),
    }
    return Variant(plan, code, meta)
