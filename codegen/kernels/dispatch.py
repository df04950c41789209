"""Which generator makes the kernels of an op, on CPUs and on GPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from mossnet_tg import ops
from mossnet_tg.codegen.kernels import attention, conv, matmul, norm, router, scan
from mossnet_tg.codegen.kernels.build import Buffer, Expr, Generated, Param
from mossnet_tg.codegen.kernels.gpu import attention as gpu_attention
from mossnet_tg.codegen.kernels.gpu import matmat, matvec, routing, rows
from mossnet_tg.codegen.kernels.gpu import scan as gpu_scan
from mossnet_tg.codegen.schedules import CpuSchedule, GpuSchedule, Schedule

# generator(name, op, types of its matrices, schedule): one kernel, or several that run in order
_Generators: TypeAlias = dict[type[Any], Callable[[str, Any, Sequence[str], Any], Generated | list[Generated]]]


def _gpu_expert_matmul(
    name: str, op: ops.ExpertMatmul, dtypes: Sequence[str], s: GpuSchedule
) -> Generated | list[Generated]:
    return (matvec.expert_matvec if op.n_tokens == 1 else matmat.expert_matmat)(name, op, dtypes, s)


_GENERATORS: dict[type[Any], _Generators] = {
    CpuSchedule: {
        ops.RmsNorm: lambda name, op, dtypes, s: norm.rms_norm(name, op, s),
        ops.CausalConv: lambda name, op, dtypes, s: conv.causal_conv(name, op, s),
        ops.RouterTopk: lambda name, op, dtypes, s: router.router_topk(name, op, s),
        ops.NormRouter: router.norm_router,
        ops.ExpertMatmul: matmul.expert_matmul,
        ops.RoutedScan: scan.routed_scan,
        ops.SwaAttention: lambda name, op, dtypes, s: attention.swa_attention(name, op, s),
    },
    GpuSchedule: {
        ops.RmsNorm: lambda name, op, dtypes, s: rows.rms_norm(name, op, s),
        ops.CausalConv: lambda name, op, dtypes, s: conv.causal_conv(name, op, s),
        ops.RouterTopk: lambda name, op, dtypes, s: routing.router_topk(name, op, s),
        ops.NormRouter: rows.norm_router,
        ops.ExpertMatmul: _gpu_expert_matmul,
        ops.RoutedScan: gpu_scan.routed_scan,
        ops.SwaAttention: lambda name, op, dtypes, s: gpu_attention.swa_attention(name, op, s),
    },
}


def generate_op(name: str, op: ops.Op, dtypes: Sequence[str], s: Schedule) -> list[Generated]:
    """The kernels for `op`, whose matrices, in order, are of `dtypes`.

    One kernel has the op's buffers in the op's order. Of several, each has some of them, by the names of `op_params`;
    one that is called `scratch` is theirs alone.
    """
    made = _GENERATORS[type(s)][type(op)](name, op, dtypes, s)
    return made if isinstance(made, list) else [made]


def op_params(op: ops.Op, dtypes: Sequence[str], s: Schedule) -> list[str]:
    """The names of an op's buffers in order, where it may become several kernels."""
    if isinstance(op, ops.ExpertMatmul):
        return [p.name for p in matmul.expert_params(op, dtypes, s.panels)]
    if isinstance(op, ops.RoutedScan):
        return [p.name for p in scan.scan_params(op, dtypes, s.panels)]
    assert isinstance(op, ops.SwaAttention)
    return [p.name for p in attention.attention_params(op)]


def linear(
    name: str,
    s: Schedule,
    params: Sequence[Param],
    n_tokens: int,
    n_in: int,
    n_out: int,
    weight: int,
    tokens: int | None,
    row: Callable[[list[Buffer], Expr, Expr], Expr],
    store: Callable[[list[Buffer], Expr, Expr, Expr], None],
) -> list[Generated]:
    """A dense product, as `kernels.matmul.linear` says."""
    if isinstance(s, CpuSchedule):
        return matmul.linear(name, s, params, n_tokens, n_in, n_out, weight, tokens, row, store)
    if tokens is None:
        return [matvec.matvec(name, s, params, n_in, n_out, weight, row, store)]
    return [matmat.matmat(name, s, params, n_tokens, n_in, n_out, weight, tokens, row, store)]
