"""q8 and q4: a matrix in groups of 32 neighbours along its input, each with a float16 scale.

An element is scale x (code - offset), with code in 1..255 and offset 128 for q8, in 0..15 and 8 for q4. In a file the
tensor `name` stands as two: `name.q8`, I8 [..., n, k], its codes less the offset, or `name.q4`, U8 [..., n, k / 2],
whose byte 16 g + i holds elements 32 g + i (low half) and 32 g + 16 + i; and `name.q8_scale` or `name.q4_scale`, F16
[..., n, k / 32].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

GROUP = 32
BITS = {"q8": 8, "q4": 4}
# What may be quantised, by the end of its name: matrices that are products by themselves. A router's choice is all or
# nothing, and dt_proj is small and made where it is used.
_MATRICES = ("in_proj", "x_proj", "out_proj", "q_proj", "k_proj", "v_proj", "o_proj", "w1", "w2", "w3")
_OUTER = ("embed.weight", "lm_head.weight")
_ROWS_AT_ONCE = 1 << 20  # elements: the temporaries of a search stay small


class Groups(NamedTuple):
    """A quantised matrix: codes uint8 [..., n, k], scales float16 [..., n, k / 32]."""

    codes: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float16]


def may_be_quantised(name: str, shape: tuple[int, ...]) -> bool:
    """Whether tensor `name` is one that kernels read in groups."""
    return (name in _OUTER or _module(name) in _MATRICES) and shape[-1] % GROUP == 0


def _module(name: str) -> str:
    """The last part but one of a tensor's name."""
    return name.rpartition(".")[0].rpartition(".")[2]


def dtype_for(name: str, shape: tuple[int, ...], dtype: str, wanted: str) -> str:
    """The type that tensor `name` of `dtype` gets in a model of `wanted` weights.

    Vectors, rates and routers stay as they are. A matrix that has no groups becomes f16; in a q4 model the embedding,
    whose rows are the input and, tied, the output, is q8.
    """
    is_matrix = name.endswith(".weight") and (name in _OUTER or _module(name) in (*_MATRICES, "dt_proj"))
    if not is_matrix:
        return dtype
    if wanted not in BITS:
        return wanted
    if not may_be_quantised(name, shape):
        return "f16" if dtype == "f32" else dtype
    return "q8" if name in _OUTER else wanted


def quantise(matrix: npt.NDArray[np.float32], dtype: str) -> Groups:
    """A float32 matrix [..., n, k] in groups; k is a multiple of 32. NaN and infinity become what numpy makes of them.

    q8 takes the scale that the largest element asks for. q4 tries a few and takes the one of the least squared error.
    """
    *outer, k = matrix.shape
    groups = matrix.reshape(-1, GROUP)
    codes = np.empty(groups.shape, np.uint8)
    scales = np.empty(len(groups), np.float16)
    for begin in range(0, len(groups), _ROWS_AT_ONCE // GROUP):
        part = slice(begin, begin + _ROWS_AT_ONCE // GROUP)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            codes[part], scales[part] = (_q8 if dtype == "q8" else _q4)(groups[part])
    return Groups(codes.reshape(matrix.shape), scales.reshape(*outer, k // GROUP))


def dequantise(groups: Groups, dtype: str) -> npt.NDArray[np.float32]:
    """The elements, float32."""
    codes, scales = groups
    offset = 1 << (BITS[dtype] - 1)
    values: npt.NDArray[np.float32] = codes.reshape(-1, GROUP).astype(np.float32) - np.float32(offset)
    return np.asarray(values * scales.reshape(-1, 1).astype(np.float32), np.float32).reshape(codes.shape)


def _codes(x: npt.NDArray[np.float32], scales: npt.NDArray[np.float32], offset: int) -> npt.NDArray[np.float32]:
    """The nearest codes less the offset; zero where the scale is."""
    inverse = np.where(scales == 0, np.float32(0), 1 / scales)
    lowest = 1 - offset if offset > 8 else -offset
    codes: npt.NDArray[np.float32] = np.clip(np.rint(x * inverse[:, None]), lowest, offset - 1)
    return codes


def _rounded(scales: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """As float16 holds them."""
    return scales.astype(np.float16).astype(np.float32)


def _q8(x: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
    scales = _rounded(np.abs(x).max(axis=1) / np.float32(127))
    return (_codes(x, scales, 128) + 128).astype(np.uint8), scales


def _q4(x: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
    """The codes reach from -8 to 7: a negative scale makes it -7 to 8. From a few scales, each is moved to where its
    codes fit best, and the best of all is kept.
    """
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=1)[:, None], 1)[:, 0]
    best_codes = np.zeros_like(x)
    best_scales, least = np.zeros_like(largest), np.full_like(largest, np.inf)
    for levels in (-8.0, -7.3, 7.0, 6.4, -6.6):
        scales = _rounded(largest / np.float32(levels))
        for _ in range(2):
            codes = _codes(x, scales, 8)
            error = ((codes * scales[:, None] - x) ** 2).sum(axis=1)
            better = ~(error >= least)
            best_codes[better], best_scales[better], least[better] = codes[better], scales[better], error[better]
            norm = (codes * codes).sum(axis=1)
            scales = _rounded(np.where(norm == 0, scales, (codes * x).sum(axis=1) / norm))
    return (best_codes + 8).astype(np.uint8), best_scales


# ---- in files


@dataclass(frozen=True)
class Stored:
    """A quantised matrix as the two tensors of a file."""

    codes: npt.NDArray[Any]
    scales: npt.NDArray[np.float16]


def stored(groups: Groups, dtype: str) -> Stored:
    """As a file holds it."""
    codes, scales = groups
    if dtype == "q8":
        return Stored((codes.astype(np.int16) - 128).astype(np.int8), scales)
    halves = codes.reshape(*codes.shape[:-1], -1, 2, GROUP // 2)
    packed = halves[..., 0, :] | (halves[..., 1, :] << 4)
    return Stored(packed.reshape(*codes.shape[:-1], codes.shape[-1] // 2), scales)


def read_back(stored: Stored, dtype: str) -> Groups:
    """What `stored` made a file hold."""
    if dtype == "q8":
        return Groups((stored.codes.astype(np.int16) + 128).astype(np.uint8), stored.scales)
    packed = stored.codes.reshape(*stored.codes.shape[:-1], -1, GROUP // 2)
    halves = np.stack([packed & 15, packed >> 4], axis=-2)
    return Groups(halves.reshape(*stored.codes.shape[:-1], stored.codes.shape[-1] * 2), stored.scales)
