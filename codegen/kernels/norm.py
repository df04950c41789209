"""RmsNorm: one row a tile, each segment read twice, the second time from the cache."""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T

from mossnet_tg.codegen.kernels.build import (
    Buffer,
    Expr,
    Generated,
    Param,
    local,
    sum_lanes,
    tile_kernel,
    vector,
    vectors,
)
from mossnet_tg.codegen.schedules.cpu import CpuSchedule
from mossnet_tg.ops import RmsNorm


def rms_norm(name: str, op: RmsNorm, s: CpuSchedule) -> Generated:
    width = sum(op.segments)
    with tile_kernel(name, norm_params(op), op.n_rows, s.group_size) as k:
        out, x, *weights = k.buffers
        begin = k.tile * width
        for n, weight in zip(op.segments, weights, strict=True):
            normed(out, x, weight, begin, n, op.eps, s.lanes)
            begin = begin + n
    return k.generated(4 * op.n_rows * width)


def norm_params(op: RmsNorm) -> list[Param]:
    """The buffers of an RmsNorm, in the op's order."""
    n = op.n_rows * sum(op.segments)
    weights = [Param(f"weight{i}", n) for i, n in enumerate(op.segments)]
    return [Param("out", n, written=True, read=False), Param("x", n), *weights]


def normed(out: Buffer, x: Buffer, weight: Buffer, begin: Expr, n: int, eps: float, lanes: int) -> None:
    """One segment: out[begin : begin + n] = x / rms(x) * weight."""
    squares = local(lanes)
    with vector(lanes) as v:
        T.buffer_store(squares, T.float32(0), [v])
    whole = n // lanes
    if whole:
        with T.serial(whole) as i, vector(lanes) as v:
            value = x[begin + i * lanes + v]
            T.buffer_store(squares, squares[v] + value * value, [v])
    for first, piece in vectors(n - whole * lanes, lanes):
        with vector(piece) as v:
            value = x[begin + whole * lanes + first + v]
            T.buffer_store(squares, squares[v] + value * value, [v])
    sum_lanes(squares, lanes)
    scale = local(1)
    T.buffer_store(scale, T.float32(1) / T.sqrt(squares[0] * T.float32(1 / n) + T.float32(eps)), [0])
    if whole:
        with T.serial(whole) as i, vector(lanes) as v:
            at = i * lanes + v
            T.buffer_store(out, x[begin + at] * scale[0] * weight[at], [begin + at])
    for first, piece in vectors(n - whole * lanes, lanes):
        with vector(piece) as v:
            at = whole * lanes + first + v
            T.buffer_store(out, x[begin + at] * scale[0] * weight[at], [begin + at])
