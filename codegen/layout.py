"""How a weight lies in the model file: part of the schedule, since the kernels decide what they read fastest.

Vectors lie as they are. Matrices [..., n, k] lie in panels [..., ceil(n / width), k, width]: for each k, `width` neighbouring
outputs side by side. One pass over a panel reads memory in order, whether it serves one token (a stream) or many (it stays
in the cache), and needs no horizontal sums. The last panel is filled up with zeros.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Plain:
    """As it is, row-major."""

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def pack(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.ascontiguousarray(array)


@dataclass(frozen=True)
class Panels:
    """[..., n, k] as [..., ceil(n / width), k, width]."""

    width: int

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        *outer, n, k = shape
        return (*outer, -(-n // self.width), k, self.width)

    def pack(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        *outer, n, k = array.shape
        panels = self.shape(array.shape)[-3]
        if n % self.width:
            full = np.zeros((*outer, panels * self.width, k), array.dtype)
            full[..., :n, :] = array
            array = full
        return np.ascontiguousarray(array.reshape(*outer, panels, self.width, k).swapaxes(-1, -2))

    def index(self, n: Any, k: Any, n_k: int) -> Any:
        """Where element (n, k) of one matrix lies; the arguments may be TensorIR expressions."""
        return ((n // self.width) * n_k + k) * self.width + n % self.width


Layout = Plain | Panels


def n_elements(layout: Layout, shape: tuple[int, ...]) -> int:
    """Elements that a tensor of `shape` takes in `layout`."""
    return math.prod(layout.shape(shape))
