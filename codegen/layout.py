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

from mossnet_tg.codegen.kernels.build import Param, div, itemsize, mod
from mossnet_tg.errors import MossnetError


@dataclass(frozen=True)
class Panels:
    """[..., n, k] as [..., ceil(n / width), k, width], in one buffer or in several of whole panels, each of at most
    `most_bytes`.
    """

    width: int
    most_bytes: int = 1 << 62

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

    def parts(self, shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
        """The elements of each buffer. Raises MossnetError where a single panel is too large."""
        panel = math.prod(self.shape(shape)[-2:])
        n_panels, at_once = math.prod(self.shape(shape)[:-2]), self.most_bytes // (panel * itemsize)
        if not at_once:
            text = f"{self.width} rows of a matrix {list(shape)} have {panel * itemsize} bytes"
            raise MossnetError(f"{text}, a buffer of the target at most {self.most_bytes}")
        return tuple(min(at_once, n_panels - first) * panel for first in range(0, n_panels, at_once))

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
    def parts(self) -> tuple[int, ...]:
        """The elements of each buffer that it lies in."""
        return self.panels.parts(self.shape, itemsize(self.dtype))

    @property
    def n_elements(self) -> int:
        return math.prod(self.panels.shape(self.shape))

    def param(self, name: str) -> Param:
        """The matrix as a kernel's buffer."""
        return Param(name, self.n_elements, self.dtype, parts=self.parts)

    def position(self, flat: Any) -> Any:
        """Where the element lies that is number `flat` in the row-major matrix."""
        n_k = self.shape[-1]
        return self.panels.index(div(flat, n_k), mod(flat, n_k), n_k)
