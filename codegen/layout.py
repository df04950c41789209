"""How a weight lies in the model file: part of the schedule, since the kernels decide what they read fastest.

Vectors lie as they are. Matrices [..., n, k] lie in panels [..., ceil(n / width), k, width]: for each k, `width`
neighbouring outputs side by side. One pass over a panel reads memory in order, whether it serves one token (a stream)
or many (it stays in the cache), and needs no horizontal sums. The last panel is filled up with zeros. A quantised
matrix lies in panels of words (`kernels.groups`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mossnet_tg.codegen.kernels import groups
from mossnet_tg.codegen.kernels.build import Param, div, itemsize, load, mod
from mossnet_tg.codegen.kernels.panel import Panel
from mossnet_tg.errors import MossnetError
from mossnet_tg.weights.quantised import BITS, Groups
from mossnet_tg.weights.tensors import Values

# How kernels read a checkpoint's types.
STORAGE = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "q8": "q8", "q4": "q4"}


@dataclass(frozen=True)
class Panels:
    """[..., n, k] as [..., ceil(n / width), k, width], in one buffer or in several of whole panels, each of at most
    `most_bytes`.
    """

    width: int
    most_bytes: int = 1 << 62

    def n_panels(self, shape: tuple[int, ...]) -> int:
        *outer, n, _ = shape
        return math.prod(outer) * -(-n // self.width)

    def elements(self, n_k: int, dtype: str) -> int:
        """The elements of a panel, or its words."""
        return groups.words(dtype, n_k, self.width) if dtype in BITS else n_k * self.width

    def pack(self, array: Values, dtype: str = "") -> npt.NDArray[Any]:
        """As it lies; `dtype` is that of groups."""
        if isinstance(array, Groups):
            return groups.pack(array, dtype, self.width)
        *outer, n, k = array.shape
        panels = -(-n // self.width)
        if n % self.width:
            full = np.zeros((*outer, panels * self.width, k), array.dtype)
            full[..., :n, :] = array
            array = full
        return np.ascontiguousarray(array.reshape(*outer, panels, self.width, k).swapaxes(-1, -2))

    def parts(self, shape: tuple[int, ...], dtype: str) -> tuple[int, ...]:
        """The elements of each buffer. Raises MossnetError where a single panel is too large."""
        panel, n_panels = self.elements(shape[-1], dtype), self.n_panels(shape)
        at_once = self.most_bytes // (panel * itemsize(dtype))
        if not at_once:
            text = f"{self.width} rows of a matrix {list(shape)} have {panel * itemsize(dtype)} bytes"
            raise MossnetError(f"{text}, a buffer of the target at most {self.most_bytes}")
        return tuple(min(at_once, n_panels - first) * panel for first in range(0, n_panels, at_once))

    def index(self, n: Any, k: Any, n_k: int) -> Any:
        """Where element (n, k) lies, as TensorIR. With leading axes, n must be whole panels."""
        return (div(n, self.width) * n_k + k) * self.width + mod(n, self.width)


@dataclass(frozen=True)
class Matrix:
    """A weight matrix as kernels meet it: `shape` [..., n, k] of `dtype`, laid out in panels.

    `dtype` is numpy's name, bfloat16, q8, q4, or float16_bits: float16 that the target's processor cannot widen itself.
    """

    shape: tuple[int, ...]
    dtype: str
    panels: Panels

    @property
    def parts(self) -> tuple[int, ...]:
        """The elements of each buffer that it lies in."""
        return self.panels.parts(self.shape, self.dtype)

    @property
    def n_elements(self) -> int:
        return self.panels.n_panels(self.shape) * self.panels.elements(self.shape[-1], self.dtype)

    def param(self, name: str) -> Param:
        """The matrix as a kernel's buffer."""
        return Param(name, self.n_elements, self.dtype, parts=self.parts)

    def load(self, buffer: Any, flat: Any) -> Any:
        """The element that is number `flat` in the row-major matrix, float32, as TensorIR."""
        n_k, width = self.shape[-1], self.panels.width
        n, k = div(flat, n_k), mod(flat, n_k)
        if self.dtype in BITS:
            base = div(n, width) * self.panels.elements(n_k, self.dtype)
            return Panel(buffer, base, self.dtype, n_k, width).element(k, mod(n, width))
        return load(buffer, self.panels.index(n, k, n_k), self.dtype)
