"""Quantised matrices in panels: how they lie, and an element of one.

A panel of `width` outputs has, for each pair of groups along k, a word for each output with the float16 scales of both,
the even group's in the low half; then for each group `bits` rows of a word for each output. Word j of q8 holds elements
4 j to 4 j + 3 of the group, a byte each, the first in the lowest; that of q4 holds 4 j to 4 j + 3 in the low halves of
its bytes and 16 more in the high ones. So neighbouring outputs are neighbouring words, whatever the device; four bytes
are what a dot product takes; and nothing but words is read, which every GPU can.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mossnet_tg.codegen.kernels.build import Buffer, Expr, Parts, div, load, mod
from mossnet_tg.weights.quantised import BITS, GROUP, Groups


def words(dtype: str, n_k: int, width: int) -> int:
    """The words of a panel."""
    return (_scale_rows(n_k) + n_k // GROUP * BITS[dtype]) * width


def _scale_rows(n_k: int) -> int:
    return -(-n_k // (2 * GROUP))


def pack(groups: Groups, dtype: str, width: int) -> npt.NDArray[np.uint32]:
    """A matrix [..., n, k] as uint32 [..., panels, words]; outputs that fill up the last panel are zero."""
    codes, scales = groups
    *outer, n, k = codes.shape
    n_groups, bits = k // GROUP, BITS[dtype]
    n_panels = -(-n // width)
    full = np.full((*outer, n_panels * width, k), 1 << (bits - 1), np.uint8)
    full[..., :n, :] = codes
    halves = np.zeros((*outer, n_panels * width, 2 * _scale_rows(k)), np.float16)
    halves[..., :n, :n_groups] = scales
    if bits == 4:
        quads = full.reshape(*full.shape[:-1], n_groups, 2, 4, 4)
        full = (quads[..., 0, :, :] | (quads[..., 1, :, :] << 4)).reshape(*full.shape[:-1], n_groups * 16)
    rows = np.concatenate([halves.view("<u4"), np.ascontiguousarray(full).view("<u4")], axis=-1)
    by_panel = rows.reshape(*outer, n_panels, width, -1).swapaxes(-1, -2)
    return np.ascontiguousarray(by_panel).reshape(*outer, n_panels, -1)


def element(buffer: Buffer | Parts, base: Expr, k: Expr, lane: Expr, dtype: str, n_k: int, width: int) -> Expr:
    """Element (k, lane) of the panel at `base`, float32."""
    group, at = div(k, GROUP), mod(k, GROUP)
    word, shift = _place(dtype, div(at, 4))
    code = _code(row(buffer, base, group, word, lane, dtype, n_k, width), shift + mod(at, 4) * 8, dtype)
    return code * scale(buffer, base, group, lane, width)


def quad_word(
    buffer: Buffer | Parts, base: Expr, group: Expr, quad: Expr, lane: Expr, dtype: str, n_k: int, width: int
) -> Expr:
    """The word that holds elements 4 quad to 4 quad + 3 of a group."""
    return row(buffer, base, group, _place(dtype, quad)[0], lane, dtype, n_k, width)


def quad_code(word: Expr, quad: Expr, b: int, dtype: str) -> Expr:
    """Of such a word, the code of element 4 quad + b less the offset, float32: without the scale."""
    return _code(word, _place(dtype, quad)[1] + 8 * b, dtype)


def scale(buffer: Buffer | Parts, base: Expr, group: Expr, lane: Expr, width: int, native: bool = False) -> Expr:
    """The scale of a group, float32; `native`: by a processor that widens float16 itself."""
    word = load(buffer, _beyond(base + div(group, 2) * width, lane), "uint32", base)
    shift = _u32(mod(group, 2) * 16)
    bits = T.bind(T.shift_right(word, tirx.Broadcast(shift, lane.lanes) if isinstance(lane, tirx.Ramp) else shift))
    if native:
        lanes = f"x{lane.lanes}" if isinstance(lane, tirx.Ramp) else ""
        return T.cast(T.reinterpret(f"float16{lanes}", T.cast(bits, f"uint16{lanes}")), f"float32{lanes}")
    sign = T.shift_left(T.bitwise_and(bits, T.uint32(0x8000)), T.uint32(16))
    rest = T.shift_left(T.bitwise_and(bits, T.uint32(0x7FFF)), T.uint32(13))
    # The exponents' different zeros are made one; what float16 cannot hold is in no file.
    return T.reinterpret("float32", T.bitwise_or(sign, rest)) * T.float32(2.0**112)


def _place(dtype: str, quad: Expr) -> tuple[Expr, Expr]:
    """The word of a quad in its group's rows, and how far its first element lies from the lowest bit."""
    return (quad, 0) if dtype == "q8" else (mod(quad, 4), div(quad, 4) * 4)


def row(
    buffer: Buffer | Parts, base: Expr, group: Expr, word: Expr, lane: Expr, dtype: str, n_k: int, width: int
) -> Expr:
    """Word `word` of a group's codes."""
    return load(buffer, _beyond(begin(base, group, word, dtype, n_k, width), lane), "uint32", base)


def begin(base: Expr, group: Expr, word: Expr, dtype: str, n_k: int, width: int) -> Expr:
    """Where a row of words begins."""
    return base + (_scale_rows(n_k) + group * BITS[dtype] + word) * width


def _beyond(base: Expr, lane: Expr) -> Expr:
    """base + lane, where neighbours stay neighbours if `lane` is several."""
    return tirx.Ramp(base + lane.base, lane.stride, lane.lanes) if isinstance(lane, tirx.Ramp) else base + lane


def _u32(value: Any) -> Expr:
    return T.uint32(value) if isinstance(value, int) else T.cast(value, "uint32")


def _code(word: Expr, shift: Any, dtype: str) -> Expr:
    bits = BITS[dtype]
    code = T.bitwise_and(T.shift_right(word, _u32(shift)), T.uint32((1 << bits) - 1))
    return T.cast(T.cast(code, "int32"), "float32") - T.float32(1 << (bits - 1))
