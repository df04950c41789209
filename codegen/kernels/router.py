"""RouterTopk and NormRouter: a handful of numbers a token, so one tile.

For several tokens the counting sort that groups them by expert follows; for one token, the norm and the router's
product come first, since three launches would take longer than the work.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm.script.ir_builder import tirx as T

from mossnet_tg.codegen.kernels import maths
from mossnet_tg.codegen.kernels.build import Buffer, Expr, Generated, Param, local, tile_kernel
from mossnet_tg.codegen.kernels.matmul import Tile, n_panels, store_row
from mossnet_tg.codegen.kernels.norm import normed
from mossnet_tg.codegen.kernels.panel import Panel
from mossnet_tg.codegen.layout import Matrix, Panels
from mossnet_tg.codegen.schedules.cpu import CpuSchedule
from mossnet_tg.ops import NormRouter, RouterTopk


def router_topk(name: str, op: RouterTopk, s: CpuSchedule) -> Generated:
    with tile_kernel(name, router_params(op), 1, s.group_size and 1) as k:
        gates, idx, groups, logits, tokens = k.buffers
        with T.serial(tokens[0]) as t:
            choose(op, gates, idx, logits, t)
        _group(op, idx, groups, tokens[0] * op.top_k)
    return k.generated(op.n_tokens * op.n_experts * (op.top_k + 16))


def router_params(op: RouterTopk) -> list[Param]:
    """The buffers of a RouterTopk, in the op's order."""
    slots = op.n_tokens * op.top_k
    return [
        Param("gates", slots, written=True),
        Param("idx", slots, "int32", written=True),
        Param("groups", op.n_experts + 1 + slots, "int32", written=True),
        Param("logits", op.n_tokens * op.n_experts),
        Param("params", 2, "int32"),
    ]


def norm_router(name: str, op: NormRouter, dtypes: Sequence[str], s: CpuSchedule) -> Generated:
    D, E = op.d_model, op.n_experts
    params = norm_router_params(op, dtypes, s.panels)
    with tile_kernel(name, params, 1, s.group_size and 1) as k:
        out, gates, idx, logits, x, norm, weight = k.buffers
        normed(out, x, norm, 0, D, op.eps, s.lanes)
        with T.serial(n_panels(s, E)) as panel:
            at = Panel.of(weight, panel, dtypes[0], D, s.panels)
            tile = Tile(s, D, [lambda i: out[i]], [at])
            store_row(s, E, panel, lambda j, v, e: T.buffer_store(logits, tile.sum(0, 0, j, v), [e]))
        choose(op, gates, idx, logits, 0)
    return k.generated(D * (E + 4))


def norm_router_params(op: NormRouter, dtypes: Sequence[str], panels: Panels) -> list[Param]:
    """The buffers of a NormRouter, in the op's order."""
    return [
        Param("out", op.d_model, written=True),
        Param("gates", op.top_k, written=True),
        Param("idx", op.top_k, "int32", written=True, read=False),
        Param("logits", op.n_experts, written=True),
        Param("x", op.d_model),
        Param("norm", op.d_model),
        Matrix((op.n_experts, op.d_model), dtypes[0], panels).param("weight"),
    ]


def choose(op: RouterTopk | NormRouter, gates: Buffer, idx: Buffer, logits: Buffer, t: Expr) -> None:
    """Softmax and top-k of token t."""
    E, k = op.n_experts, op.top_k
    scores, powers = local(E), local(E)
    top, total, best, chosen = local(1), local(1), local(1), local(1, "int32")
    T.buffer_store(top, T.float32(maths.LOWEST), [0])
    with T.serial(E) as e:
        T.buffer_store(scores, logits[t * E + e], [e])
        T.buffer_store(top, T.max(top[0], logits[t * E + e]), [0])
    T.buffer_store(total, T.float32(0), [0])
    with T.serial(E) as e:
        T.buffer_store(powers, maths.exp(scores[e] - top[0]), [e])
        T.buffer_store(total, total[0] + powers[e], [0])
    if op.norm_topk:
        T.buffer_store(total, T.float32(0), [0])
    with T.serial(k) as j:
        T.buffer_store(best, T.float32(maths.LOWEST), [0])
        T.buffer_store(chosen, T.int32(0), [0])
        with T.serial(E) as e, T.If(scores[e] > best[0]), T.Then():  # strictly larger: ties stay with the lowest
            T.buffer_store(best, scores[e], [0])
            T.buffer_store(chosen, e, [0])
        T.buffer_store(scores, T.float32(maths.LOWEST), [chosen[0]])
        T.buffer_store(idx, chosen[0], [t * k + j])
        T.buffer_store(gates, powers[chosen[0]], [t * k + j])
        if op.norm_topk:
            T.buffer_store(total, total[0] + powers[chosen[0]], [0])
    with T.serial(k) as j:
        T.buffer_store(gates, gates[t * k + j] / total[0], [t * k + j])


def _group(op: RouterTopk, idx: Buffer, groups: Buffer, n_slots: Expr) -> None:
    """groups[e] becomes where expert e's slots begin, groups[E] their number; then the slots themselves."""
    E = op.n_experts
    ends = local(E + 1, "int32")
    with T.serial(E + 1) as e:
        T.buffer_store(ends, T.int32(0), [e])
    with T.serial(n_slots) as s:
        T.buffer_store(ends, ends[idx[s] + 1] + 1, [idx[s] + 1])
    with T.serial(E) as e:
        T.buffer_store(ends, ends[e + 1] + ends[e], [e + 1])
    with T.serial(E + 1) as e:
        T.buffer_store(groups, ends[e], [e])
    with T.serial(n_slots) as s:
        T.buffer_store(groups, s, [E + 1 + ends[idx[s]]])
        T.buffer_store(ends, ends[idx[s]] + 1, [idx[s]])
