"""From a checkpoint to a model file, the whole way."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from mossnet_tg.codegen.emit.llvm import compile_object
from mossnet_tg.codegen.link import link
from mossnet_tg.codegen.package import write_package
from mossnet_tg.codegen.plan import Progress, make_plan
from mossnet_tg.codegen.schedules.cpu import CpuSchedule
from mossnet_tg.targets.table import Target
from mossnet_tg.weights.checkpoint import Checkpoint

CHUNK = 128
CONTEXT = 4096

_DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class CompileOptions:
    """What besides model and target decides the model file.

    `chunk` is how many tokens a prefill takes at once; `context` how many tokens attention without a window can hold.
    """

    chunk: int = CHUNK
    context: int = CONTEXT


def compile_checkpoint(checkpoint: Checkpoint, target: Target, path: str | os.PathLike[str], options: CompileOptions, version: str, progress: Progress) -> None:
    """Compile `checkpoint` for `target` into the model file `path`. Raises MossnetError for what the user can mend."""
    c = checkpoint.config
    schedule = CpuSchedule.default(target.lanes, target.registers)
    dtypes = {name: _DTYPES[t.dtype] for name, t in checkpoint.tensors.items()}
    n_a = next((t.shape[0] for name, t in checkpoint.tensors.items() if name.endswith("ssm.A_log")), 1)
    plan = make_plan(c, dtypes, n_a, schedule, options.chunk, options.context, progress)
    objects = []
    for i, function in enumerate(plan.functions):
        progress(f"kernel {i + 1}/{len(plan.functions)} {function.name}")
        objects.append(compile_object(function.name, function.generated.func, target.tvm))
    meta = {
        "producer": f"mossnet-tg {version}",
        "target": target.name,
        "arch": target.arch,
        "features": ",".join(target.features),
        "config": __import__("json").dumps(c.to_dict()),
        "source": checkpoint.name,
        "eos": ",".join(map(str, checkpoint.eos_ids)),
    }
    write_package(path, plan, link(objects), checkpoint, meta, progress)
