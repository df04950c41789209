"""CausalConv: a tile is a vector of channels over a block of tokens, whose past tokens stay in registers.

Only the first block reads the state, so it may write the new one: the blocks need not wait for each other.
"""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T

from mossnet_tg.codegen.kernels import maths
from mossnet_tg.codegen.kernels.build import (
    Buffer,
    Expr,
    Generated,
    Param,
    channel_tiles,
    for_channels,
    local,
    tile_kernel,
    vector,
    when,
)
from mossnet_tg.codegen.schedules import Schedule
from mossnet_tg.ops import CausalConv


def causal_conv(name: str, op: CausalConv, s: Schedule) -> Generated:
    X, W = op.d_inner, op.d_conv
    params = [Param("out", op.n_tokens * X, written=True, read=False)]
    if W > 1:
        params.append(Param("state", (W - 1) * X, written=True))
    params += [Param("xz", op.n_tokens * 2 * X), Param("taps", W * X)]
    if op.bias:
        params.append(Param("bias", X))
    params.append(Param("params", 2, "int32"))
    size = min(max(s.token_block or op.n_tokens, W - 1), op.n_tokens)
    n_blocks, n_vectors = -(-op.n_tokens // size), channel_tiles(X, s.lanes)
    with tile_kernel(name, params, n_blocks * n_vectors, s.group_size) as k:
        block = T.bind(k.tile // n_vectors) if n_blocks > 1 else T.int32(0)
        body = _Body(op, k.by_name, block, size)
        for_channels(X, s.lanes, k.tile % n_vectors if n_blocks > 1 else k.tile, body.channels)
    return k.generated(op.n_tokens * X * (W + 16))


class _Body:
    """The convolution of one block of `size` tokens."""

    def __init__(self, op: CausalConv, b: dict[str, Buffer], block: Expr, size: int) -> None:
        self.op, self.b, self.first = op, b, block * size
        self.last = T.min(b["params"][0], self.first + size) if size < op.n_tokens else b["params"][0]
        self.alone = size == op.n_tokens

    def channels(self, c: Expr, lanes: int) -> None:
        op, b, X, W = self.op, self.b, self.op.d_inner, self.op.d_conv
        past = local(max(W - 1, 1) * lanes)
        for j in range(W - 1):
            with vector(lanes) as v:
                T.buffer_store(past, self._before(j, c + v), [j * lanes + v])
        with T.serial(self.first, self.last) as t:
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
        if self.alone:
            for j in range(W - 1):
                with vector(lanes) as v:
                    T.buffer_store(b["state"], past[j * lanes + v], [j * X + c + v])
        elif W > 1:
            when(self.first == 0, lambda: self._advance(c, lanes))

    def _before(self, j: int, c: Expr) -> Expr:
        """xz of the token W - 1 - j before the block."""
        op, b, X = self.op, self.b, self.op.d_inner
        if self.alone:
            return b["state"][j * X + c]
        t = self.first - (op.d_conv - 1) + j
        # In the first block none of them is in xz, in the others all are.
        return T.if_then_else(self.first == 0, b["state"][j * X + c], b["xz"][T.max(t, 0) * (2 * X) + c])

    def _advance(self, c: Expr, lanes: int) -> None:
        """The state after the valid tokens; in ascending order, so that what is still read is not yet written."""
        b, X, W, n = self.b, self.op.d_inner, self.op.d_conv, self.b["params"][0]
        for j in range(W - 1):
            with vector(lanes) as v:
                t = n - (W - 1) + j
                kept = b["state"][T.min(n + j, W - 2) * X + c + v]
                fresh = b["xz"][T.max(t, 0) * (2 * X) + c + v]
                T.buffer_store(b["state"], T.if_then_else(t < 0, kept, fresh), [j * X + c + v])
