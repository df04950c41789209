"""A checkpoint written as a folder in SPEC.md's names, each tensor in the type that it has."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mossnet_tg.errors import MossnetError
from mossnet_tg.folders import appearing, write_whole
from mossnet_tg.weights.checkpoint import Checkpoint
from mossnet_tg.weights.quantised import BITS, GROUP, Groups, stored
from mossnet_tg.weights.tensors import Tensor

_CODES = {"q8": "I8", "q4": "U8"}


def write_checkpoint(checkpoint: Checkpoint, folder: Path, progress: Callable[[str], None]) -> None:
    """Write config.json, model.safetensors, generation_config.json with the ends of text, and tokenizer.json if there
    is one, into `folder`, which exists. Tensors are converted and written one by one.

    The weights appear when they are complete, config.json last. Raises MossnetError when the disk does not take it.
    """
    try:
        with appearing(folder / "model.safetensors") as unfinished, unfinished.open("wb") as file:
            file.write(_header(checkpoint))
            for i, tensor in enumerate(checkpoint.tensors.values()):
                progress(f"tensor {i + 1}/{len(checkpoint.tensors)}: {tensor.name}")
                for array in _arrays(tensor):
                    file.write(np.ascontiguousarray(array).data)
        if checkpoint.tokenizer_json is not None:
            write_whole(folder / "tokenizer.json", checkpoint.tokenizer_json)
        write_whole(folder / "generation_config.json", _json({"eos_token_id": list(checkpoint.eos_ids)}))
        write_whole(folder / "config.json", _json(checkpoint.config.to_dict()))
    except OSError as e:
        raise MossnetError(f"{folder}: the checkpoint cannot be written: {e.strerror}") from None


def _json(value: object) -> str:
    return json.dumps(value, indent=1) + "\n"


def _header(checkpoint: Checkpoint) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in checkpoint.tensors.values():
        for name, dtype, shape, n_bytes in _entries(tensor):
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + n_bytes]}
            at += n_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _entries(tensor: Tensor) -> Iterator[tuple[str, str, list[int], int]]:
    """Name, the format's dtype, shape and bytes of what the tensor is in the file."""
    shape = list(tensor.shape)
    if tensor.dtype not in BITS:
        yield tensor.name, tensor.dtype.upper(), shape, tensor.n_bytes
        return
    *outer, k = shape
    name, per_byte, n = f"{tensor.name}.{tensor.dtype}", 8 // BITS[tensor.dtype], math.prod(shape)
    yield name, _CODES[tensor.dtype], [*outer, k // per_byte], n // per_byte
    yield f"{name}_scale", "F16", [*outer, k // GROUP], n // GROUP * 2


def _arrays(tensor: Tensor) -> Iterator[NDArray[Any]]:
    """The contents of `_entries`."""
    raw = tensor.raw
    if not isinstance(raw, Groups):
        yield raw
        return
    both = stored(raw, tensor.dtype)
    yield both.codes
    yield both.scales
