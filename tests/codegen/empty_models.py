"""Checkpoints of any size that take neither time nor room on the disk: files of zeros with holes."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mossnet_tg.config import Config
from mossnet_tg.weights.checkpoint import Checkpoint
from mossnet_tg.weights.names import MOSSNET, expected

_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_MIXTURE = {"n_experts": 8, "top_k": 2}
# The size classes of SPEC.md: (layers and width, d_ff).
_SIZES = {
    "S": ({"d_model": 256, "n_layer": 8}, 704),
    "M": ({"d_model": 768, "n_layer": 8}, 2048),
    "L": ({"d_model": 768, "n_layer": 24}, 2048),
}


def size_class(name: str, ssm: Mapping[str, Any] | None = None, **extra: Any) -> Config:
    """The configuration of a size class; `ssm` and `extra` are added to it."""
    sizes, d_ff = _SIZES[name]
    parts = {"ssm": {**_MIXTURE, **(ssm or {})}, "mlp": {"d_ff": d_ff, **_MIXTURE}, **extra}
    return Config.from_dict({"model_type": "mossnet", "vocab_size": 50280, **sizes, **parts})


def zeros(config: Config, folder: Path, dtype: str = "F16", shared_a: bool = False) -> Checkpoint:
    """A checkpoint in `folder` with every tensor of `config` in `dtype`; `shared_a`: one A_log for all experts."""
    header, end = {}, 0
    for tensor in expected(MOSSNET, config):
        shape = tensor.shapes[-1 if shared_a and tensor.name.endswith("A_log") else 0]
        begin, end = end, end + math.prod(shape) * _BYTES[dtype]
        header[tensor.name] = {"dtype": dtype, "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(header).encode()
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return Checkpoint.open(folder)
