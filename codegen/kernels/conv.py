"""CausalConv: a tile is a vector of channels, whose past tokens stay in registers while all tokens pass."""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T

from mossnet_tg.codegen.kernels import maths
from mossnet_tg.codegen.kernels.build import (
    Expr,
    Generated,
    Param,
    channel_tiles,
    for_channels,
    local,
    tile_kernel,
    vector,
)
from mossnet_tg.codegen.schedules.cpu import CpuSchedule
from mossnet_tg.ops import CausalConv


def causal_conv(name: str, op: CausalConv, s: CpuSchedule) -> Generated:
    X, W = op.d_inner, op.d_conv
    params = [Param("out", op.n_tokens * X, written=True, read=False)]
    if W > 1:
        params.append(Param("state", (W - 1) * X, written=True))
    params += [Param("xz", op.n_tokens * 2 * X), Param("taps", W * X)]
    if op.bias:
        params.append(Param("bias", X))
    params.append(Param("params", 2, "int32"))
    with tile_kernel(name, params, channel_tiles(X, s.lanes), s.group_size) as k:
        b = k.by_name

        def channels(c: Expr, lanes: int) -> None:
            past = local(max(W - 1, 1) * lanes)
            for j in range(W - 1):
                with vector(lanes) as v:
                    T.buffer_store(past, b["state"][j * X + c + v], [j * lanes + v])
            with T.serial(b["params"][0]) as t:
                with vector(lanes) as v:
                    now = T.bind(b["xz"][t * (2 * X) + c + v])
                    total = b["taps"][(W - 1) * X + c + v] * now
                    for j in range(W - 1):
                        total = total + b["taps"][j * X + c + v] * past[j * lanes + v]
                    if op.bias:
                        total = total + b["bias"][c + v]
                    T.buffer_store(b["out"], maths.silu(total), [t * X + c + v])
                for j in range(W - 1):
                    with vector(lanes) as v:
                        following = past[(j + 1) * lanes + v] if j < W - 2 else b["xz"][t * (2 * X) + c + v]
                        T.buffer_store(past, following, [j * lanes + v])
            for j in range(W - 1):
                with vector(lanes) as v:
                    T.buffer_store(b["state"], past[j * lanes + v], [j * X + c + v])

        for_channels(X, s.lanes, k.tile, channels)
    return k.generated(op.n_tokens * X * (W + 16))
