"""Every op's TensorIR generator against its UOp body, which runs on tinygrad's PYTHON device: two definitions, one
result.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from tinygrad import Tensor
from tinygrad.helpers import Context

from mossnet_tg import ops
from mossnet_tg.codegen.kernels.dispatch import generate_op, op_params
from mossnet_tg.codegen.schedules import GpuSchedule, Schedule
from mossnet_tg.targets.table import Target
from tests.codegen.one_kernel import OneKernel, host_targets, schedule
from tests.devices import ROWS

_BODIES = {
    ops.RmsNorm: ops._rms_norm,
    ops.CausalConv: ops._causal_conv,
    ops.RouterTopk: ops._router_topk,
    ops.NormRouter: ops._norm_router,
    ops.ExpertMatmul: ops._expert_matmul,
    ops.RoutedScan: ops._routed_scan,
    ops.SwaAttention: ops._swa_attention,
}
Arrays = list[np.ndarray[Any, Any]]

rng = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return (rng.standard_normal(shape) * 0.5).astype(np.float32)


def narrowed(values: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    """A matrix of weights in its type: without small values, for tinygrad's PYTHON device takes float16 subnormals for
    zero.
    """
    return np.where(np.abs(values) < 1e-3, 0.5, values).astype(np.float16) if dtype == "f16" else values


def params(n_tokens: int, position: int = 0) -> np.ndarray[Any, Any]:
    return np.array([n_tokens, position], np.int32)


def by_body(op: ops.Op, arrays: Arrays) -> Arrays:
    """What the op's UOp body leaves in its outputs."""
    with Context(DEV="PYTHON"):
        placed = ops._place(op, _BODIES[type(op)], *[Tensor(a).realize() for a in arrays])
        Tensor.realize(*placed)
        return [t.numpy() for t in placed]


def check(op: ops.Op, arrays: Arrays, n_valid: int, weights: tuple[int, ...] = (), dtype: str = "f32") -> None:
    """Outputs of the compiled kernel and of the body agree, for the rows of the valid tokens and for all of a state."""
    expected = by_body(op, arrays)
    for target, device, s in places():
        dtypes = [s.storage[dtype]] * len(weights)
        kernels = generate_op("kernel_", op, dtypes, s)
        names = op_params(op, dtypes, s) if len(kernels) > 1 else ()
        given = [s.panels.pack(a) if i in weights else a.copy() for i, a in enumerate(arrays)]
        OneKernel(kernels, target, names, device).run(*given)
        for found, wanted in zip(given, expected, strict=False):
            rows = n_valid if wanted.shape[0] == op_tokens(op) else wanted.shape[0]
            if isinstance(op, ops.RouterTopk) and wanted.ndim == 1:
                rows = op.n_experts + 1 + n_valid * op.top_k
            scale = max(1.0, float(np.abs(wanted[:rows]).max()))
            difference = found.reshape(wanted.shape)[:rows].astype(np.float64) - wanted[:rows]
            assert np.abs(difference).max() < 3e-6 * scale, (target.name, s)


# Nothing in a generator may count on the sizes of a default: few threads, narrow panels, blocks that do not divide.
ODD = GpuSchedule(threads=64, width=8, vector=2, token_rows=3, group_size=16, token_block=3)


@functools.cache
def places() -> list[tuple[Target, str, Schedule]]:
    """(target, device, schedule) of everything that a kernel is run on here."""
    found = [(target, "", schedule(target)) for target in host_targets()]
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


def op_tokens(op: ops.Op) -> int:
    return op.n_rows if isinstance(op, ops.RmsNorm) else 1 if isinstance(op, ops.NormRouter) else op.n_tokens


TOKENS = [pytest.param(1, 1, id="decode"), pytest.param(7, 5, id="prefill")]
tokens = pytest.mark.parametrize(("n_tokens", "n_valid"), TOKENS)


def test_rms_norm():
    op = ops.RmsNorm(3, (37, 5, 64), 1e-5)
    check(op, [floats(3, 106), floats(3, 106), floats(37), floats(5), floats(64)], 3)


@tokens
@pytest.mark.parametrize(("d_inner", "d_conv", "bias"), [(40, 4, True), (35, 3, False), (5, 1, True)])
def test_causal_conv(n_tokens, n_valid, d_inner, d_conv, bias):
    op = ops.CausalConv(n_tokens, d_inner, d_conv, bias)
    states = [floats(d_conv - 1, d_inner)] if d_conv > 1 else []
    biases = [floats(d_inner)] if bias else []
    arrays = [
        floats(n_tokens, d_inner),
        *states,
        floats(n_tokens, 2 * d_inner),
        floats(d_conv, d_inner),
        *biases,
        params(n_valid),
    ]
    check(op, arrays, n_valid)


def routing(n_tokens: int, n_valid: int, n_experts: int, top_k: int, norm_topk: bool = True) -> Arrays:
    """gates, idx, groups and the logits they come from; expert 1 and 2 tie at token 0."""
    logits = floats(n_tokens, n_experts)
    logits[0, 1:3] = 3.0
    op = ops.RouterTopk(n_tokens, n_experts, top_k, norm_topk)
    slots = (n_tokens, top_k)
    empty = [
        np.zeros(slots, np.float32),
        np.zeros(slots, np.int32),
        np.zeros(n_experts + 1 + n_tokens * top_k, np.int32),
    ]
    return [*by_body(op, [*empty, logits, params(n_valid)]), logits]


@tokens
@pytest.mark.parametrize(("n_experts", "top_k", "norm_topk"), [(8, 2, True), (5, 3, False)])
def test_router_topk(n_tokens, n_valid, n_experts, top_k, norm_topk):
    op = ops.RouterTopk(n_tokens, n_experts, top_k, norm_topk)
    *outputs, logits = routing(n_tokens, n_valid, n_experts, top_k, norm_topk)
    assert list(outputs[1][0][:2]) == [1, 2]  # the tie goes to the lower expert
    check(op, [*[np.zeros_like(o) for o in outputs], logits, params(n_valid)], n_valid)


@pytest.mark.parametrize(("n_experts", "top_k", "norm_topk"), [(8, 2, True), (5, 3, False)])
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_norm_router(n_experts, top_k, norm_topk, dtype):
    D = 37
    op = ops.NormRouter(D, n_experts, top_k, norm_topk, 1e-5)
    empty = [np.zeros((1, n), np.float32) for n in (D, top_k, top_k, n_experts)]
    empty[2] = empty[2].astype(np.int32)
    check(op, [*empty, floats(1, D), floats(D), narrowed(floats(n_experts, D), dtype)], 1, (6,), dtype)


@tokens
@pytest.mark.parametrize("epilogue", ["none", "softplus", "swiglu", "combine"])
@pytest.mark.parametrize("routed", [True, False])
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_expert_matmul(n_tokens, n_valid, epilogue, routed, dtype):
    E, n_in, n_out, stride = 4, 13, 37, 15
    top_k, per_slot = (2, True) if routed else (E, False)
    op = ops.ExpertMatmul(n_tokens, E, top_k, n_in, n_out, stride, per_slot, routed, epilogue)
    x = floats(n_tokens, top_k, stride) if per_slot else floats(n_tokens, stride)
    combine = epilogue == "combine"
    out = np.zeros((n_tokens, n_out) if combine else (n_tokens, top_k, n_out), np.float32)
    weights = [narrowed(floats(E, n_out, n_in), dtype) for _ in range(2)]
    extra = {"none": [], "softplus": [floats(E, n_out)], "swiglu": [weights[1]], "combine": [floats(n_tokens, n_out)]}[
        epilogue
    ]
    gates, idx, groups, _ = routing(n_tokens, n_valid, E, 2)
    where = [*([gates] if combine else []), idx, *([groups] if n_tokens > 1 else [])] if routed else []
    arrays = [out, x, weights[0], *extra, *where, params(n_valid)]
    check(op, arrays, n_valid, (2, 3) if epilogue == "swiglu" else (2,), dtype)


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
    X, N, R = 21, 3, 5
    op = ops.RoutedScan(n_tokens, X, N, R, n_experts, top_k, shared_a, mode, update, discretization)
    slots = n_experts if update == "all" else top_k
    state = floats(n_experts if mode == "separate_state" else 1, N, X)
    rates = -np.abs(floats(1 if shared_a else n_experts, N, X)) - 0.1
    routed = routing(n_tokens, n_valid, n_experts, top_k)[: 3 if n_tokens > 1 else 2] if n_experts > 1 else []
    delta = [np.abs(floats(n_tokens, slots, X))]
    if n_tokens == 1:
        delta = [narrowed(floats(n_experts, X, R), dtype), floats(n_experts, X)]
    arrays = [floats(n_tokens, X), state, floats(n_tokens, X), floats(n_tokens, 2 * X)]
    arrays += [floats(n_tokens, slots, R + 2 * N), rates, floats(X), *delta, *routed, params(n_valid)]
    check(op, arrays, n_valid, (7,) if n_tokens == 1 else (), dtype)


@tokens
@pytest.mark.parametrize("position", [0, 2, 11])
@pytest.mark.parametrize(("n_heads", "n_kv_heads", "head_dim", "window"), [(4, 2, 6, 5), (2, 2, 16, 3), (2, 1, 4, 32)])
def test_swa_attention(n_tokens, n_valid, position, n_heads, n_kv_heads, head_dim, window):
    op = ops.SwaAttention(n_tokens, n_heads, n_kv_heads, head_dim, window)
    wide, narrow = n_heads * head_dim, n_kv_heads * head_dim
    ring = floats(2, n_kv_heads, window, head_dim)
    arrays = [floats(n_tokens, wide), ring, floats(n_tokens, wide), floats(n_tokens, narrow), floats(n_tokens, narrow)]
    check(op, [*arrays, params(n_valid, position)], n_valid)
