"""Which generator makes the kernel of an op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mossnet_tg import ops
from mossnet_tg.codegen.kernels import attention, conv, matmul, norm, router, scan
from mossnet_tg.codegen.kernels.build import Generated
from mossnet_tg.codegen.schedules.cpu import CpuSchedule

# op: generator(name, op, types of its matrices, schedule)
_GENERATORS: dict[type[Any], Callable[[str, Any, Sequence[str], CpuSchedule], Generated]] = {
    ops.RmsNorm: lambda name, op, dtypes, s: norm.rms_norm(name, op, s),
    ops.CausalConv: lambda name, op, dtypes, s: conv.causal_conv(name, op, s),
    ops.RouterTopk: lambda name, op, dtypes, s: router.router_topk(name, op, s),
    ops.NormRouter: router.norm_router,
    ops.ExpertMatmul: matmul.expert_matmul,
    ops.RoutedScan: scan.routed_scan,
    ops.SwaAttention: lambda name, op, dtypes, s: attention.swa_attention(name, op, s),
}


def generate_op(name: str, op: ops.Op, dtypes: Sequence[str], s: CpuSchedule) -> Generated:
    """The kernel `name` for `op`, whose matrices, in order, are of `dtypes`."""
    return _GENERATORS[type(op)](name, op, dtypes, s)
