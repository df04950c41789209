"""Quantised matrices in panels: how they lie.

A panel of `width` outputs has, for each pair of groups along k, a word for each output with the float16 scales of both,
the even group's in the low half; then for each group `bits` rows of a word for each output. Word j of q8 holds elements
4 j to 4 j + 3 of the group, a byte each, the first in the lowest; that of q4 holds 4 j to 4 j + 3 in the low halves of
its bytes and 16 more in the high ones. So neighbouring outputs are neighbouring words, whatever the device; four bytes
are what a dot product takes; and nothing but words is read, which every GPU can.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mossnet_tg.weights.quantised import BITS, GROUP, Groups


def words(dtype: str, n_k: int, width: int) -> int:
    """The words of a panel."""
    return (scale_rows(n_k) + n_k // GROUP * BITS[dtype]) * width


def scale_rows(n_k: int) -> int:
    """The rows of words that hold a panel's scales."""
    return -(-n_k // (2 * GROUP))


def pack(groups: Groups, dtype: str, width: int) -> npt.NDArray[np.uint32]:
    """A matrix [..., n, k] as uint32 [..., panels, words]; outputs that fill up the last panel are zero."""
    codes, scales = groups
    *outer, n, k = codes.shape
    n_groups, bits = k // GROUP, BITS[dtype]
    n_panels = -(-n // width)
    full = np.full((*outer, n_panels * width, k), 1 << (bits - 1), np.uint8)
    full[..., :n, :] = codes
    halves = np.zeros((*outer, n_panels * width, 2 * scale_rows(k)), np.float16)
    halves[..., :n, :n_groups] = scales
    if bits == 4:
        quads = full.reshape(*full.shape[:-1], n_groups, 2, 4, 4)
        full = (quads[..., 0, :, :] | (quads[..., 1, :, :] << 4)).reshape(*full.shape[:-1], n_groups * 16)
    rows = np.concatenate([halves.view("<u4"), np.ascontiguousarray(full).view("<u4")], axis=-1)
    by_panel = rows.reshape(*outer, n_panels, width, -1).swapaxes(-1, -2)
    return np.ascontiguousarray(by_panel).reshape(*outer, n_panels, -1)
