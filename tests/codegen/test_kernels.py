"""Every op's TensorIR generator against its UOp body, which runs on tinygrad's PYTHON device: two definitions, one
result.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest

from mossnet_tg import ops
from mossnet_tg.codegen.schedules import CpuSchedule, GpuSchedule, Schedule
from mossnet_tg.targets.table import Target
from tests.codegen import cases
from tests.codegen.one_kernel import OneKernel, cpu_schedule, host_targets, schedule
from tests.devices import ROWS


def check(case: cases.OpCase) -> None:
    """Outputs of the compiled kernel and of the body agree, for the rows of the valid tokens and for all of a state."""
    for target, device, s in places():
        made = case.made(s)
        OneKernel(made.kernels, target, made.names, device).run(*made.arrays)
        assert case.error(made.arrays) < cases.TOLERANCE, (target.name, s)


# Nothing in a generator may count on the sizes of a default: few threads, narrow panels, blocks that do not divide.
ODD = GpuSchedule(threads=64, width=8, vector=2, token_rows=3, group_size=16, token_block=3, decay=2, scan_apart=1)


def odd(s: CpuSchedule) -> CpuSchedule:
    """Half as long vectors, and everything else otherwise."""
    lanes = s.lanes // 2
    return replace(
        s, lanes=lanes, width=3 * lanes, rows=3, unroll_k=3, scan_vectors=2, scan_states=4, scan_apart=0, decay=0
    )


@functools.cache
def places() -> list[tuple[Target, str, Schedule]]:
    """(target, device, schedule) of everything that a kernel is run on here."""
    host = host_targets()
    found = [(target, "", schedule(target)) for target in host]
    found += [
        (host[0], "", odd(cpu_schedule(host[0]))),
        (host[0], "", replace(cpu_schedule(host[0]), scan_grouped=0, scan_apart=0)),
    ]
    for row in ROWS:
        if row.available:
            found.append((row.resolved, row.device, schedule(row.resolved)))
            if row.name == "vulkan":  # whose driver compiles fastest
                found.append((row.resolved, row.device, ODD))
    return found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_device_is_among_them(row):
    row.require()
    assert any(target == row.resolved for target, _, _ in places())


TOKENS = [pytest.param(1, 1, id="decode"), pytest.param(7, 5, id="prefill")]
tokens = pytest.mark.parametrize(("n_tokens", "n_valid"), TOKENS)


def test_rms_norm():
    check(cases.rms_norm(ops.RmsNorm(3, (37, 5, 64), 1e-5)))


@tokens
@pytest.mark.parametrize(("d_inner", "d_conv", "bias"), [(40, 4, True), (35, 3, False), (5, 1, True)])
def test_causal_conv(n_tokens, n_valid, d_inner, d_conv, bias):
    check(cases.causal_conv(ops.CausalConv(n_tokens, d_inner, d_conv, bias), n_valid))


@tokens
@pytest.mark.parametrize(("n_experts", "top_k", "norm_topk"), [(8, 2, True), (5, 3, False)])
def test_router_topk(n_tokens, n_valid, n_experts, top_k, norm_topk):
    case = cases.router_topk(ops.RouterTopk(n_tokens, n_experts, top_k, norm_topk), n_valid)
    assert list(case.expected[1][0][:2]) == [1, 2]  # the tie goes to the lower expert
    check(case)


@pytest.mark.parametrize(("n_experts", "top_k", "norm_topk"), [(8, 2, True), (5, 3, False)])
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_norm_router(n_experts, top_k, norm_topk, dtype):
    check(cases.norm_router(ops.NormRouter(37, n_experts, top_k, norm_topk, 1e-5), dtype))


@tokens
@pytest.mark.parametrize("epilogue", ["none", "softplus", "swiglu", "combine"])
@pytest.mark.parametrize("routed", [True, False])
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_expert_matmul(n_tokens, n_valid, epilogue, routed, dtype):
    E, n_in, n_out, stride = 4, 13, 37, 15
    top_k, per_slot = (2, True) if routed else (E, False)
    op = ops.ExpertMatmul(n_tokens, E, top_k, n_in, n_out, stride, per_slot, routed, epilogue)
    check(cases.expert_matmul(op, n_valid, dtype))


@tokens
@pytest.mark.parametrize("discretization", ["mamba", "zoh"])
@pytest.mark.parametrize(
    ("n_experts", "top_k", "mode", "update", "shared_a"),
    [
        (1, 1, "separate_state", "selected", False),
        (4, 2, "separate_state", "selected", False),
        (4, 2, "separate_state", "all", True),
        (4, 2, "param_mix", "selected", False),
        (3, 2, "param_mix", "selected", True),
    ],
)
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_routed_scan(n_tokens, n_valid, discretization, n_experts, top_k, mode, update, shared_a, dtype):
    op = ops.RoutedScan(n_tokens, 21, 3, 5, n_experts, top_k, shared_a, mode, update, discretization)
    check(cases.routed_scan(op, n_valid, dtype))


@tokens
@pytest.mark.parametrize("position", [0, 2, 11])
@pytest.mark.parametrize(("n_heads", "n_kv_heads", "head_dim", "window"), [(4, 2, 6, 5), (2, 2, 16, 3), (2, 1, 4, 32)])
def test_swa_attention(n_tokens, n_valid, position, n_heads, n_kv_heads, head_dim, window):
    op = ops.SwaAttention(n_tokens, n_heads, n_kv_heads, head_dim, window)
    check(cases.swa_attention(op, n_valid, position))
