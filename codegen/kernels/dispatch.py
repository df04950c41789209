"""Which generator makes the kernel of an op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mossnet_tg import ops
from mossnet_tg.codegen.kernels import attention, conv, matmul, norm, router, scan
from mossnet_tg.codegen.kernels.build import Generated
from mossnet_tg.codegen.schedules.cpu import CpuSchedule

# op: generator(name, op, type of its matrices, schedule)
_GENERATORS: dict[type[Any], Callable[[str, Any, str, CpuSchedule], Generated]] = {
    ops.RmsNorm: lambda name, op, dtype, s: norm.rms_norm(name, op, s),
    ops.CausalConv: lambda name, op, dtype, s: conv.causal_conv(name, op, s),
    ops.RouterTopk: lambda name, op, dtype, s: router.router_topk(name, op),
    ops.ExpertMatmul: matmul.expert_matmul,
    ops.RoutedScan: lambda name, op, dtype, s: scan.routed_scan(name, op, s),
    ops.SwaAttention: lambda name, op, dtype, s: attention.swa_attention(name, op, s),
}


def generate_op(name: str, op: ops.Op, weight_dtype: str, s: CpuSchedule) -> Generated:
    """The kernel `name` for `op`, whose matrices (if any) are of `weight_dtype`."""
    return _GENERATORS[type(op)](name, op, weight_dtype, s)
