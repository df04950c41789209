"""Sliding-window attention (SPEC.md) in ONNX: grouped queries, RoPE, the ring of the last keys and values.

T tokens, H query and G key/value heads of d dims, W entries of the ring; position p lies at p % W.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from mossnet_tg.codegen.onnx.graph import Graph, Value

_UNSEEN = -1e30  # a score that leaves nothing


class Window:
    """Which entries of ring and chunk are seen and kept, from the positions alone: the same in all layers."""

    def __init__(self, g: Graph, position: Value, n_valid: Value, n_tokens: int, window: int) -> None:
        slots, now = g.constant(np.arange(window)), g.constant(np.arange(n_tokens)) + position  # [W], [T]
        held = _held(g, position - 1, slots, window)
        there = g.op("Concat", held, now, axis=0)  # [W + T], the position of each key, below 0: none yet
        age = g.op("Unsqueeze", now, [1]) - there  # [T, W + T]
        in_window = g.op("And", g.op("GreaterOrEqual", age, 0), g.op("Less", age, window))
        self.seen = g.op("And", in_window, g.op("GreaterOrEqual", there, 0))
        # What a slot holds afterwards is a token of the chunk or what it held before: gathered from both in a row.
        held = _held(g, position + n_valid - 1, slots, window)
        is_new = g.op("GreaterOrEqual", held, position)
        self.kept = g.op("Where", is_new, held - position + window, slots)  # [W]
        self.positions = g.op("Cast", now, to=TensorProto.FLOAT)  # [T]


def _held(g: Graph, last: Value, slots: Value, window: int) -> Value:
    """The position that each slot of the ring holds when the token at `last` was the last one."""
    return last - g.op("Mod", last - slots, window)


def rotated(g: Graph, x: Value, positions: Value, frequencies: Value, head_dim: int) -> Value:
    """RoPE on x [T, heads, d], dimension i paired with i + d/2; frequencies [d/2]."""
    angle = g.op("Unsqueeze", positions, [1, 2]) * frequencies  # [T, 1, d/2]
    cos, sin = g.op("Cos", angle), g.op("Sin", angle)
    a, b = g.split(x, [head_dim // 2] * 2, axis=2)
    return g.op("Concat", a * cos - b * sin, b * cos + a * sin, axis=2)


def attend(
    g: Graph, q: Value, k: Value, v: Value, ring: Value, window: Window, sizes: tuple[int, ...]
) -> tuple[Value, Value]:
    """The heads' results [T, H d] and the next ring, from q [T, H, d], k and v [T, G, d] and ring [2, G, W, d]; sizes
    (T, H, G, d).
    """
    T, H, G, d = sizes
    fresh = g.op("Concat", *(g.op("Unsqueeze", g.op("Transpose", x, perm=[1, 0, 2]), [0]) for x in (k, v)), axis=0)
    both = g.op("Concat", ring, fresh, axis=2)  # [2, G, W + T, d]
    keys, values = g.split(both, [1, 1], axis=0)
    q = g.op("Transpose", g.op("Reshape", q, [T, G, H // G, d]), perm=[1, 2, 0, 3])  # [G, H / G, T, d]
    scores = g.op("MatMul", q, g.op("Transpose", keys, perm=[1, 0, 3, 2])) * d**-0.5  # [G, H / G, T, W + T]
    weights = g.op("Softmax", g.op("Where", window.seen, scores, _UNSEEN), axis=-1)
    out = g.op("MatMul", weights, g.op("Transpose", values, perm=[1, 0, 2, 3]))  # [G, H / G, T, d]
    out = g.op("Reshape", g.op("Transpose", out, perm=[2, 0, 1, 3]), [T, H * d])
    return out, g.op("Gather", both, window.kept, axis=2)
