"""How a weight lies in the model file: part of the schedule, since the kernels decide what they read fastest.

Vectors lie as they are. Matrices [..., n, k] lie in panels [..., ceil(n / width), k, width]: for each k, `width`
neighbouring outputs side by side. One pass over a panel reads memory in order, whether it serves one token (a stream)
or many (it stays in the cache), and needs no horizontal sums. The last panel is filled up with zeros.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mossnet_tg.codegen.kernels.build import div, mod


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
        """Where element (n, k) lies, as TensorIR. With leading axes, n must be whole panels."""
        return (div(n, self.width) * n_k + k) * self.width + mod(n, self.width)


@dataclass(frozen=True)
class Matrix:
    """A weight matrix as kernels meet it: `shape` [..., n, k] of `dtype`, laid out in panels.

    `dtype` is numpy's name, bfloat16, or float16_bits: float16 that the target's processor cannot widen by itself.
    """

    shape: tuple[int, ...]
    dtype: str
    panels: Panels

    @property
    def n_elements(self) -> int:
        return math.prod(self.panels.shape(self.shape))

    def position(self, flat: Any) -> Any:
        """Where the element lies that is number `flat` in the row-major matrix."""
        n_k = self.shape[-1]
        return self.panels.index(div(flat, n_k), mod(flat, n_k), n_k)
