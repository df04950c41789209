"""The tensors of a model, however they are stored: as they are in a file, quantised in it, or to be converted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mossnet_tg.strict_json import show
from mossnet_tg.weights.quantised import BITS, GROUP, Groups, Stored, dequantise, may_be_quantised, quantise, read_back
from mossnet_tg.weights.safetensors_file import CheckpointError, TensorView

Values = NDArray[Any] | Groups


class Tensor(Protocol):
    """One tensor of a model. `dtype` is "f32", "f16", "bf16", "q8" or "q4"; `parts` is what of files it comes from."""

    @property
    def name(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def parts(self) -> tuple[TensorView, ...]: ...

    @property
    def n_bytes(self) -> int:
        """Bytes in a file of its own type."""

    @property
    def identity(self) -> str:
        """What its elements are, given its parts."""

    @property
    def raw(self) -> Values:
        """The elements as they are stored: [shape], bf16 as uint16, or in groups."""

    def f32(self) -> NDArray[np.float32]:
        """The elements as float32 [shape]."""


@dataclass(frozen=True, eq=False)
class QuantisedView:
    """A matrix that a file holds in groups."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    codes: TensorView
    scales: TensorView

    @property
    def parts(self) -> tuple[TensorView, ...]:
        return (self.codes, self.scales)

    @property
    def n_bytes(self) -> int:
        return self.codes.n_bytes + self.scales.n_bytes

    @property
    def identity(self) -> str:
        return self.dtype

    @property
    def raw(self) -> Groups:
        codes = self.codes.content.view(np.int8 if self.dtype == "q8" else np.uint8).reshape(self.codes.shape)
        return read_back(Stored(codes, self.scales.raw), self.dtype)

    def f32(self) -> NDArray[np.float32]:
        return dequantise(self.raw, self.dtype)


@dataclass(frozen=True, eq=False)
class Converted:
    """A tensor that becomes another type when it is looked at."""

    source: Tensor
    dtype: str

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def parts(self) -> tuple[TensorView, ...]:
        return self.source.parts

    @property
    def n_bytes(self) -> int:
        n = math.prod(self.shape)
        if self.dtype in BITS:
            return n * BITS[self.dtype] // 8 + n // GROUP * 2
        return n * (4 if self.dtype == "f32" else 2)

    @property
    def identity(self) -> str:
        return f"{self.dtype} of {self.source.identity}"

    @property
    def raw(self) -> Values:
        return _as_type[self.dtype](self.source.f32())

    def f32(self) -> NDArray[np.float32]:
        raw = self.raw
        if isinstance(raw, Groups):
            return dequantise(raw, self.dtype)
        if self.dtype == "bf16":
            raw = (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return np.asarray(raw, np.float32)


def _bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The nearest bfloat16, of two as near the even one; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.asarray(np.where(np.isnan(values), np.uint32(0x7FC0), rounded), np.uint16)


def _f16(values: NDArray[np.float32]) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        return values.astype(np.float16)


_as_type: Mapping[str, Callable[[NDArray[np.float32]], Values]] = {
    "f32": lambda values: values,
    "f16": _f16,
    "bf16": _bf16,
    "q8": lambda values: quantise(values, "q8"),
    "q4": lambda values: quantise(values, "q4"),
}


def joined(found: Mapping[str, TensorView]) -> dict[str, Tensor]:
    """The tensors of files with quantised ones put together. Raises CheckpointError for halves that do not fit."""
    tensors: dict[str, Tensor] = {}
    scales = {f"{name}_scale" for name in found if _kind(name)}
    for name, view in found.items():
        if name in scales:
            continue
        kind = _kind(name)
        if kind is None:
            tensors[name] = view
            continue
        base = name.removesuffix(f".{kind}")
        if base in found or base in tensors:
            raise CheckpointError(f"{view.origin} stands beside another form of {show(base)}, expected one")
        tensors[base] = _quantised(base, kind, view, found.get(f"{name}_scale"))
    return tensors


def _kind(name: str) -> str | None:
    kind = name.rpartition(".")[2]
    return kind if kind in BITS else None


def _quantised(name: str, kind: str, codes: TensorView, scales: TensorView | None) -> QuantisedView:
    wanted = "i8" if kind == "q8" else "u8"
    if codes.dtype != wanted or not codes.shape:
        raise CheckpointError(f"{codes.origin} is {codes.dtype} {show(codes.shape)}, expected {wanted} of a matrix")
    shape = (*codes.shape[:-1], codes.shape[-1] * 8 // BITS[kind])
    if not may_be_quantised(name, shape):
        raise CheckpointError(f"{codes.origin} is {kind}, which this tensor cannot be: its kernels read no groups")
    if scales is None:
        raise CheckpointError(f"{codes.origin} has no scales", f"expected a tensor '{name}.{kind}_scale'")
    expected = (*shape[:-1], shape[-1] // GROUP)
    if scales.dtype != "f16" or scales.shape != expected:
        text = f"{scales.origin} is {scales.dtype} {show(scales.shape)}, expected f16 {show(expected)}"
        raise CheckpointError(text)
    return QuantisedView(name, kind, shape, codes, scales)


def shape_of(values: Values) -> tuple[int, ...]:
    """The shape of the tensor whose values they are."""
    return (values.codes if isinstance(values, Groups) else values).shape


def renamed(tensor: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    """The same bytes under another name and shape of as many elements; in groups they keep their shape."""
    if isinstance(tensor, TensorView):
        return tensor.renamed(name, shape)
    assert isinstance(tensor, QuantisedView)
    return dataclasses.replace(tensor, name=name)
