"""SwaAttention: a tile is one key-value head with its query heads; softmax is computed online, in one pass over the
window.
"""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T

from mossnet_tg.codegen.kernels import maths
from mossnet_tg.codegen.kernels.build import (
    Buffer,
    Expr,
    Generated,
    Param,
    local,
    mod,
    sum_lanes,
    tile_kernel,
    vector,
    vectors,
)
from mossnet_tg.codegen.schedules.cpu import CpuSchedule
from mossnet_tg.ops import SwaAttention


def swa_attention(name: str, op: SwaAttention, s: CpuSchedule) -> Generated:
    with tile_kernel(name, attention_params(op), op.n_kv_heads, s.group_size) as k:
        b, kv_head, group = k.by_name, k.tile, op.n_heads // op.n_kv_heads
        with T.serial(b["params"][0]) as t, T.serial(group) as g:
            _attend(op, s, b, kv_head, kv_head * group + g, t)
        _append(op, s, b, kv_head)
    return k.generated(2 * op.n_tokens * op.n_heads * op.head_dim * op.window)


def attention_params(op: SwaAttention) -> list[Param]:
    """The buffers of a SwaAttention, in the op's order."""
    kv = op.n_tokens * op.n_kv_heads * op.head_dim
    return [
        Param("out", op.n_tokens * op.n_heads * op.head_dim, written=True, read=False),
        Param("ring", 2 * op.n_kv_heads * op.window * op.head_dim, written=True),
        Param("q", op.n_tokens * op.n_heads * op.head_dim),
        Param("k", kv),
        Param("v", kv),
        Param("params", 2, "int32"),
    ]


def in_ring(op: SwaAttention, which: int, kv_head: Expr, position: Expr) -> Expr:
    """Where a position's keys (which 0) or values (1) lie."""
    return ((which * op.n_kv_heads + kv_head) * op.window + mod(position, op.window)) * op.head_dim


def in_chunk(op: SwaAttention, kv_head: Expr, t: Expr) -> Expr:
    """Where a token of the chunk has its keys and values."""
    return (t * op.n_kv_heads + kv_head) * op.head_dim


def _attend(op: SwaAttention, s: CpuSchedule, b: dict[str, Buffer], kv_head: Expr, head: Expr, t: Expr) -> None:
    d = op.head_dim
    top, total, acc = local(1), local(1), local(d)
    query = (t * op.n_heads + head) * d
    T.buffer_store(top, T.float32(maths.LOWEST), [0])
    T.buffer_store(total, T.float32(0), [0])
    for first, lanes in vectors(d, s.lanes):
        with vector(lanes) as v:
            T.buffer_store(acc, T.float32(0), [first + v])

    def visit(keys: Buffer, key: Expr, values: Buffer, value: Expr) -> None:
        parts, score, rescale, weight = local(s.lanes), local(1), local(1), local(1)
        with vector(s.lanes) as v:
            T.buffer_store(parts, T.float32(0), [v])
        for first, lanes in vectors(d, s.lanes):
            with vector(lanes) as v:
                T.buffer_store(parts, parts[v] + b["q"][query + first + v] * keys[key + first + v], [v])
        sum_lanes(parts, s.lanes)
        T.buffer_store(score, parts[0] * T.float32(d**-0.5), [0])
        T.buffer_store(rescale, maths.exp(top[0] - T.max(top[0], score[0])), [0])
        T.buffer_store(top, T.max(top[0], score[0]), [0])
        T.buffer_store(weight, maths.exp(score[0] - top[0]), [0])
        T.buffer_store(total, total[0] * rescale[0] + weight[0], [0])
        for first, lanes in vectors(d, s.lanes):
            with vector(lanes) as v:
                T.buffer_store(acc, acc[first + v] * rescale[0] + weight[0] * values[value + first + v], [first + v])

    position = b["params"][1] + t
    with T.serial(T.max(t + 1 - op.window, 0), t + 1) as i:  # this chunk's tokens
        visit(b["k"], in_chunk(op, kv_head, i), b["v"], in_chunk(op, kv_head, i))
    with T.serial(T.max(position + 1 - op.window, 0), b["params"][1]) as p:  # the ring's
        visit(b["ring"], in_ring(op, 0, kv_head, p), b["ring"], in_ring(op, 1, kv_head, p))
    for first, lanes in vectors(d, s.lanes):
        with vector(lanes) as v:
            T.buffer_store(b["out"], acc[first + v] / total[0], [query + first + v])


def _append(op: SwaAttention, s: CpuSchedule, b: dict[str, Buffer], kv_head: Expr) -> None:
    """The valid tokens' keys and values, of which the last `window` survive."""
    n = b["params"][0]
    with T.serial(T.max(n - op.window, 0), n) as t:
        for which, fresh in ((0, b["k"]), (1, b["v"])):
            for first, lanes in vectors(op.head_dim, s.lanes):
                with vector(lanes) as v:
                    at = in_ring(op, which, kv_head, b["params"][1] + t) + first + v
                    T.buffer_store(b["ring"], fresh[in_chunk(op, kv_head, t) + first + v], [at])
