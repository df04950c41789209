"""The weights of both graphs: one file, written tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from mossnet_tg import Progress
from mossnet_tg.model import Floats, Parameter
from mossnet_tg.weights.checkpoint import Checkpoint
from mossnet_tg.weights.parameters import parameters, value, value_f32

FILE_NAME = "weights.bin"
_ALIGN = 4096  # a page, as the format advises for files that are mapped


@dataclass(frozen=True)
class Stored:
    """A tensor and where it lies in the file."""

    name: str
    shape: tuple[int, ...]
    kind: int  # of TensorProto
    offset: int
    n_bytes: int

    @property
    def is_narrow(self) -> bool:
        """Whether it takes a cast to compute with it."""
        return self.kind != int(TensorProto.FLOAT)

    def tensor(self) -> TensorProto:
        """The initializer that refers to the file."""
        tensor = TensorProto(name=self.name, dims=self.shape, data_type=self.kind, data_location=TensorProto.EXTERNAL)
        for key, text in (("location", FILE_NAME), ("offset", self.offset), ("length", self.n_bytes)):
            tensor.external_data.add(key=key, value=str(text))
        return tensor


def _rates(a_log: Floats) -> Floats:
    """A [E, N, X] from A_log [E, X, N]."""
    return np.transpose(-np.exp(a_log), (0, 2, 1))


# The kernels' own form, A log2(e), saves them a product; ONNX has no power of two.
_PREPARED: dict[str, Callable[[Floats], Floats]] = {"ssm.A": _rates}


def write_weights(checkpoint: Checkpoint, path: Path, progress: Progress) -> dict[str, Stored]:
    """Write the file; where each parameter of `mossnet_tg.model` lies in it, by full name. Raises OSError.

    Matrices in float16 stay so, everything else is float32: bfloat16 too, which few runtimes compute with and float16
    has not the range for.
    """
    found: dict[str, Stored] = {}
    every = list(parameters(checkpoint))
    with path.open("wb") as file:
        for i, (prefix, name, p) in enumerate(every):
            progress(f"weights {i + 1}/{len(every)}")
            array = _array(checkpoint, prefix, replace(p, prepare=_PREPARED.get(name, p.prepare)))
            assert array.shape == p.shape, (prefix, name)
            file.write(bytes(-file.tell() % _ALIGN))
            kind = TensorProto.FLOAT16 if array.dtype == np.float16 else TensorProto.FLOAT
            found[prefix + name] = Stored(prefix + name, p.shape, kind, file.tell(), array.nbytes)
            file.write(array.data)
    return found


def _array(checkpoint: Checkpoint, prefix: str, p: Parameter) -> npt.NDArray[Any]:
    """A parameter's values as they are stored, contiguous."""
    narrow = p.matrix and p.source and checkpoint.tensors[prefix + p.source].dtype == "f16"
    return np.ascontiguousarray((value if narrow else value_f32)(checkpoint, prefix, p))
