"""From a checkpoint to a model file, the whole way."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace

import mossnet_tg
from mossnet_tg.codegen.backends import backend
from mossnet_tg.codegen.options import CompileOptions
from mossnet_tg.codegen.package import machine_meta, write_package
from mossnet_tg.codegen.plan import Progress, make_plan
from mossnet_tg.codegen.tune.shelf import NOTHING, Found
from mossnet_tg.targets.table import Target
from mossnet_tg.weights.checkpoint import Checkpoint

# The logging level of kernel sources, shown by -vvv: below DEBUG, since it is pages of text.
KERNEL_SOURCE = 5
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
    compiler = backend(target)
    schedule = replace(compiler.schedule(target), tuning=found.choices.tuning)
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
    write_package(path, plan, code, checkpoint, meta, progress)
