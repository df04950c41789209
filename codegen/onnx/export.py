"""From a checkpoint to a folder of ONNX files, the whole way."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import onnx
from onnx import ModelProto, helper

import mossnet_tg
from mossnet_tg import Progress
from mossnet_tg.codegen.onnx import weights
from mossnet_tg.codegen.onnx.model import model_graph
from mossnet_tg.codegen.options import CompileOptions
from mossnet_tg.errors import MossnetError
from mossnet_tg.weights.checkpoint import Checkpoint

OPSET = 26  # the newest one that onnxruntime 1.31 takes
DECODE, PREFILL, TOKENIZER = "decode.onnx", "prefill.onnx", "tokenizer.json"


def export_checkpoint(checkpoint: Checkpoint, folder: Path, options: CompileOptions, progress: Progress) -> list[Path]:
    """Write decode.onnx, prefill.onnx, the weights.bin that both read and the tokenizer.json, if there is one, into
    `folder`; `progress` is told each step. The files' paths come back.

    Raises MossnetError when the disk does not take them. The files appear when all are complete, or not at all.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as unfinished:
            _write(checkpoint, Path(unfinished), options, progress)
            return _published(Path(unfinished), folder)
    except OSError as e:
        raise MossnetError(f"{folder}: the model cannot be written: {e.strerror or e}") from None


def _write(checkpoint: Checkpoint, folder: Path, options: CompileOptions, progress: Progress) -> None:
    c = checkpoint.config
    stored = weights.write_weights(checkpoint, folder / weights.FILE_NAME, progress)
    progress("hashing the weights")
    meta = {
        "producer": f"mossnet-tg {mossnet_tg.__version__}",
        "config": json.dumps(c.to_dict()),
        "eos": ",".join(map(str, checkpoint.eos_ids)),
        "model_hash": checkpoint.model_hash().hex(),
        "source": checkpoint.name,
    }
    for name, n_tokens in ((DECODE, 1), (PREFILL, options.chunk)):
        progress(f"writing {name}")
        opset = helper.make_opsetid("", OPSET)
        model: ModelProto = helper.make_model(
            model_graph(c, stored, n_tokens, options.context),
            opset_imports=[opset],
            ir_version=helper.find_min_ir_version_for([opset]),
            producer_name="mossnet-tg",
            producer_version=mossnet_tg.__version__,
        )
        helper.set_model_props(model, meta)
        onnx.save_model(model, folder / name)
    if checkpoint.tokenizer_json is not None:
        (folder / TOKENIZER).write_bytes(checkpoint.tokenizer_json)


def _published(unfinished: Path, folder: Path) -> list[Path]:
    """The files under their names, the graphs last: at no moment does a graph lie beside another model's weights, nor
    afterwards beside another model's tokenizer.
    """
    graphs = (DECODE, PREFILL)
    found = sorted(unfinished.iterdir(), key=lambda path: (path.name in graphs, path.name))
    for name in graphs if (unfinished / TOKENIZER).exists() else (*graphs, TOKENIZER):
        (folder / name).unlink(missing_ok=True)
    return [path.replace(folder / path.name) for path in found]
