"""Calls of kernels with their buffers, and what they must come to: for the tests, and for the table of docs/targets.md.

An op is held against its UOp body, which runs on tinygrad's PYTHON device; a graph of tinygrad's own against what its
case says in numpy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tinygrad import Tensor
from tinygrad.helpers import Context

from mossnet_tg import ops
from mossnet_tg.codegen import tensorir
from mossnet_tg.codegen.capture import Call, Spec, capture
from mossnet_tg.codegen.kernels.build import Generated
from mossnet_tg.codegen.kernels.dispatch import generate_op, op_params
from mossnet_tg.codegen.layout import Matrix
from mossnet_tg.codegen.schedules import Schedule

_BODIES: dict[type[ops.Op], ops.Body] = {
    ops.RmsNorm: ops._rms_norm,
    ops.CausalConv: ops._causal_conv,
    ops.RouterTopk: ops._router_topk,
    ops.NormRouter: ops._norm_router,
    ops.ExpertMatmul: ops._expert_matmul,
    ops.RoutedScan: ops._routed_scan,
    ops.SwaAttention: ops._swa_attention,
}
Array = np.ndarray[Any, Any]
Arrays = list[Array]

# Of the largest value expected, where that is above 1: the kernel's float32 sums against the body's, in another order.
TOLERANCE = 3e-6

rng = np.random.default_rng(0)


def floats(*shape: int) -> Array:
    return (rng.standard_normal(shape) * 0.5).astype(np.float32)


def narrowed(values: Array, dtype: str) -> Array:
    """A matrix of weights with the values that its type has; bf16 stays float32, which numpy knows.

    Without small values, for tinygrad's PYTHON device takes float16 subnormals for zero.
    """
    if dtype == "f16":
        return np.where(np.abs(values) < 1e-3, 0.5, values).astype(np.float16)
    if dtype == "bf16":
        return (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
    return values


def stored(values: Array, dtype: str) -> Array:
    """What `narrowed` gave, as it is stored."""
    return (values.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bf16" else values


def params(n_tokens: int, position: int = 0) -> Array:
    return np.array([n_tokens, position], np.int32)


def by_body(op: ops.Op, arrays: Arrays) -> Arrays:
    """What the op's UOp body leaves in its outputs."""
    with Context(DEV="PYTHON"):
        placed = ops._place(op, _BODIES[type(op)], *[Tensor(a).realize() for a in arrays])
        Tensor.realize(*placed)
        return [t.numpy() for t in placed]


def difference(found: Array, expected: Array) -> float:
    """The largest, over the largest value expected or 1; infinite for NaN."""
    worst = np.abs(found.astype(np.float64) - expected).max() / max(1.0, float(np.abs(expected).max()))
    return float(worst) if np.isfinite(worst) else float("inf")


@dataclass(frozen=True)
class Made:
    """A case on one target: its kernels, its buffers as they lie there, and the buffers' names where each kernel has
    but some of them.
    """

    kernels: Sequence[Generated]
    arrays: Arrays
    names: Sequence[str] = ()


@dataclass(frozen=True)
class OpCase:
    """An op and its buffers in the op's order. `weights`: which are matrices, `dtype`: how a checkpoint has them."""

    op: ops.Op
    arrays: Arrays
    n_valid: int
    weights: tuple[int, ...] = ()
    dtype: str = "f32"

    def made(self, s: Schedule, name: str = "kernel_") -> Made:
        dtypes = [s.storage[self.dtype]] * len(self.weights)
        kernels = generate_op(name, self.op, dtypes, s)
        names = op_params(self.op, dtypes, s) if len(kernels) > 1 else ()
        arrays = [
            s.panels.pack(stored(a, self.dtype)) if i in self.weights else a.copy() for i, a in enumerate(self.arrays)
        ]
        return Made(kernels, arrays, names)

    @functools.cached_property
    def expected(self) -> Arrays:
        return by_body(self.op, self.arrays)

    def said(self, arrays: Arrays) -> Arrays:
        """The part of the outputs that means something: the rows of the valid tokens, and all of a state."""
        found = []
        for array, like in zip(arrays, self.arrays[: ops.n_outputs(self.op)], strict=False):
            rows = self.n_valid if like.shape[0] == _op_tokens(self.op) else like.shape[0]
            if isinstance(self.op, ops.RouterTopk) and like.ndim == 1:
                rows = self.op.n_experts + 1 + self.n_valid * self.op.top_k
            found.append(array.reshape(like.shape)[:rows])
        return found

    def error(self, arrays: Arrays) -> float:
        """How far buffers after a run are from what the body says."""
        return max(map(difference, self.said(arrays), self.said(self.expected)))


def _op_tokens(op: ops.Op) -> int:
    return op.n_rows if isinstance(op, ops.RmsNorm) else 1 if isinstance(op, ops.NormRouter) else op.n_tokens


def rms_norm(op: ops.RmsNorm) -> OpCase:
    width = sum(op.segments)
    arrays = [floats(op.n_rows, width), floats(op.n_rows, width), *map(floats, op.segments)]
    return OpCase(op, arrays, op.n_rows)


def causal_conv(op: ops.CausalConv, n_valid: int) -> OpCase:
    X, W = op.d_inner, op.d_conv
    states = [floats(W - 1, X)] if W > 1 else []
    biases = [floats(X)] if op.bias else []
    arrays = [floats(op.n_tokens, X), *states, floats(op.n_tokens, 2 * X), floats(W, X), *biases, params(n_valid)]
    return OpCase(op, arrays, n_valid)


def router_topk(op: ops.RouterTopk, n_valid: int) -> OpCase:
    """Experts 1 and 2 tie at token 0."""
    logits = floats(op.n_tokens, op.n_experts)
    logits[0, 1:3] = 3.0
    slots = (op.n_tokens, op.top_k)
    groups = np.zeros(op.n_experts + 1 + op.n_tokens * op.top_k, np.int32)
    arrays = [np.zeros(slots, np.float32), np.zeros(slots, np.int32), groups, logits, params(n_valid)]
    return OpCase(op, arrays, n_valid)


def routing(n_tokens: int, n_valid: int, n_experts: int, top_k: int) -> Arrays:
    """gates and idx, and of several tokens groups."""
    routed = router_topk(ops.RouterTopk(n_tokens, n_experts, top_k, True), n_valid).expected
    return routed if n_tokens > 1 else routed[:2]


def norm_router(op: ops.NormRouter, dtype: str) -> OpCase:
    D, E, k = op.d_model, op.n_experts, op.top_k
    empty = [np.zeros((1, n), np.float32) for n in (D, k, k, E)]
    empty[2] = empty[2].astype(np.int32)
    arrays = [*empty, floats(1, D), floats(D), narrowed(floats(E, D), dtype)]
    return OpCase(op, arrays, 1, (6,), dtype)


def expert_matmul(op: ops.ExpertMatmul, n_valid: int, dtype: str) -> OpCase:
    T, E, k, n_in, n_out = op.n_tokens, op.n_experts, op.top_k, op.n_in, op.n_out
    combine = op.epilogue == "combine"
    x = floats(T, k, op.x_stride) if op.per_slot else floats(T, op.x_stride)
    out = np.zeros((T, n_out) if combine else (T, k, n_out), np.float32)
    matrices = [narrowed(floats(E, n_out, n_in), dtype) for _ in range(2 if op.epilogue == "swiglu" else 1)]
    extra = {"none": [], "softplus": [floats(E, n_out)], "swiglu": matrices[1:], "combine": [floats(T, n_out)]}
    where = routing(T, n_valid, E, k) if op.routed else []
    arrays = [out, x, matrices[0], *extra[op.epilogue], *where[0 if combine else 1 :], params(n_valid)]
    return OpCase(op, arrays, n_valid, tuple(range(2, 2 + len(matrices))), dtype)


def routed_scan(op: ops.RoutedScan, n_valid: int, dtype: str) -> OpCase:
    """`dtype` is that of dt_proj, which one token brings."""
    T, X, N, R, E = op.n_tokens, op.d_inner, op.d_state, op.dt_rank, op.n_experts
    slots = E if op.update == "all" else op.top_k
    state = floats(E if op.mode == "separate_state" else 1, N, X)
    rates = -np.abs(floats(1 if op.shared_a else E, N, X)) - 0.1
    routed = routing(T, n_valid, E, op.top_k) if E > 1 else []
    delta = [np.abs(floats(T, slots, X))]
    if T == 1:
        delta = [narrowed(floats(E, X, R), dtype), floats(E, X)]
    arrays = [floats(T, X), state, floats(T, X), floats(T, 2 * X), floats(T, slots, R + 2 * N), rates, floats(X)]
    return OpCase(op, [*arrays, *delta, *routed, params(n_valid)], n_valid, (7,) if T == 1 else (), dtype)


def swa_attention(op: ops.SwaAttention, n_valid: int, position: int) -> OpCase:
    wide, narrow = op.n_heads * op.head_dim, op.n_kv_heads * op.head_dim
    ring = floats(2, op.n_kv_heads, op.window, op.head_dim)
    arrays = [floats(op.n_tokens, n) for n in (wide, wide, narrow, narrow)]
    return OpCase(op, [arrays[0], ring, *arrays[1:], params(n_valid, position)], n_valid)


# ---- graphs of tinygrad's own


def read_call(
    call: Call, weights: Mapping[str, tuple[tuple[int, ...], str]], s: Schedule
) -> tuple[tensorir.Kernel, dict[int, Matrix]]:
    """A kernel of tinygrad's own, and its matrices by slot; `weights`: shape and a checkpoint's type."""
    assert not isinstance(call.kernel, ops.Op)
    matrices = {}
    for slot, ref in enumerate(call.buffers):
        if ref.kind == "weight":
            shape, dtype = weights[ref.name]
            matrices[slot] = Matrix(shape, s.storage[dtype], s.panels)
    return tensorir.Kernel.read(call.kernel), matrices


@dataclass(frozen=True)
class GraphCase:
    """A graph that is one kernel, of inputs and a weight `w`, of which it reads `n_rows`; `answer`: what it says."""

    graph: Callable[..., Tensor]
    inputs: Mapping[str, Array]
    weight: Array
    n_rows: int
    dtype: str
    n_tokens: int
    n_valid: int
    answer: Array

    def _read(self, s: Schedule) -> tuple[Call, tensorir.Kernel, dict[int, Matrix]]:
        inputs = {name: Spec(a.shape, a.dtype.name) for name, a in self.inputs.items()}
        (call,) = capture(self.graph, {"w": Spec(self.weight.shape, s.storage[self.dtype])}, {}, inputs)
        return (call, *read_call(call, {"w": (self.weight.shape, self.dtype)}, s))

    def is_product(self, s: Schedule) -> bool:
        """Whether it is made as a dense product."""
        _, kernel, matrices = self._read(s)
        return tensorir.is_product(kernel, matrices, self.n_tokens)

    def made(self, s: Schedule, name: str = "kernel_") -> Made:
        call, kernel, matrices = self._read(s)
        (generated,) = tensorir.generate(name, kernel, matrices, self.n_tokens, s)
        arrays = {**self.inputs, "w": s.panels.pack(stored(self.weight, self.dtype))}
        output = np.zeros(self.answer.shape, np.float32)
        found = [arrays.get(call.buffers[slot].name, output) for slot in kernel.buffers]
        assert found[0] is output
        return Made([generated], [*found, params(self.n_valid)][: len(generated.params)])

    def said(self, arrays: Arrays) -> Arrays:
        return [arrays[0].reshape(self.answer.shape)[: self.n_valid]]

    def error(self, arrays: Arrays) -> float:
        return difference(self.said(arrays)[0], self.answer[: self.n_valid])


Case = OpCase | GraphCase


def product(n_tokens: int, n_valid: int, n_in: int, n_out: int, dtype: str) -> GraphCase:
    """A dense product."""
    x, w = floats(n_tokens, n_in), narrowed(floats(n_out, n_in), dtype)

    def graph(weights: Any, states: Any, inputs: Any) -> Tensor:
        wide: Tensor = inputs["x"] @ weights["w"].cast("float").T
        return wide.contiguous()

    answer = x.astype(np.float64) @ w.T.astype(np.float64)
    return GraphCase(graph, {"x": x}, w, n_out, dtype, n_tokens, n_valid, answer)


def gather(n_tokens: int, n_rows: int, n: int, dtype: str) -> GraphCase:
    """Rows of a table."""
    table, ids = narrowed(floats(n_rows, n), dtype), rng.integers(0, n_rows, n_tokens).astype(np.int32)

    def graph(weights: Any, states: Any, inputs: Any) -> Tensor:
        rows: Tensor = weights["w"][inputs["ids"]].cast("float")
        return rows.contiguous()

    return GraphCase(graph, {"ids": ids}, table, n_tokens, dtype, n_tokens, n_tokens, table[ids].astype(np.float64))
