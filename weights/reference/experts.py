"""Routing and matrix products by expert, shared by the time mix and the MLP.

Products take float32 (float64 in a float64 model) whatever the weights are, so every accumulator is at least float32.
`train.py` may lower the *operands* of products to bfloat16 with `products_in`; nothing else does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from mossnet_tg.weights.reference.scan import Slots

_operands: ContextVar[torch.dtype | None] = ContextVar("operands", default=None)
_BLOCK = 128  # rows; oneDNN compiles a bfloat16 product anew for each new shape, which takes longer than the product


@contextlib.contextmanager
def products_in(dtype: torch.dtype) -> Iterator[None]:
    """Round the operands of all matrix products inside to `dtype`; the results stay what they were."""
    token = _operands.set(dtype)
    try:
        yield
    finally:
        _operands.reset(token)


def route(logits: Tensor, top_k: int, norm_topk: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Router logits (..., E) -> p (..., E), gates g (..., K) and experts T (..., K), best first.

    Ties go to the lowest index: a stable sort promises that, torch.topk promises nothing.
    """
    p = logits.softmax(-1)
    expert = p.sort(dim=-1, descending=True, stable=True).indices[..., :top_k]
    gate = p.gather(-1, expert)
    return p, gate / gate.sum(-1, keepdim=True) if norm_topk else gate, expert


def group(expert: Tensor, n_experts: int) -> Slots:
    """The slots of `expert` (B, T, K), each expert's rows filled up where that makes the products faster."""
    return Slots.of(expert, n_experts, _BLOCK if _operands.get() is not None else 1)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., in) times weight (out, in) transposed -> (..., out), in x's dtype."""
    rows = x.flatten(0, -2)
    out: Tensor = _Grouped.apply(rows, weight[None], [len(rows)])  # type: ignore[no-untyped-call]
    return out.view(*x.shape[:-1], len(weight))


def grouped_linear(rows: Tensor, weight: Tensor, slots: Slots) -> Tensor:
    """Each expert's rows times its own matrix: rows (M, in), weight (E, out, in) -> (M, out)."""
    out: Tensor = _Grouped.apply(rows, weight, slots.n_rows)  # type: ignore[no-untyped-call]
    return out


class _Grouped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, n_rows: list[int]) -> Tensor:
        ctx.dtypes = rows.dtype, weight.dtype
        operand = _operands.get() or rows.dtype
        rows, weight = rows.to(operand), weight.to(operand)
        ctx.save_for_backward(rows, weight)
        ctx.n_rows = n_rows
        out = torch.empty(len(rows), weight.shape[1], dtype=operand)
        for o, r, w in zip(torch.split(out, n_rows), torch.split(rows, n_rows), weight, strict=True):
            torch.mm(r, w.T, out=o)
        return out.to(ctx.dtypes[0])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        g = g.to(rows.dtype)
        g_rows, g_weight = torch.empty_like(rows), torch.empty_like(weight)
        g_parts, r_parts, g_r_parts = (torch.split(v, ctx.n_rows) for v in (g, rows, g_rows))
        for g_part, r, w, g_r, g_w in zip(g_parts, r_parts, weight, g_r_parts, g_weight, strict=True):
            torch.mm(g_part, w, out=g_r)
            torch.mm(g_part.T, r, out=g_w)
        return g_rows.to(ctx.dtypes[0]), g_weight.to(ctx.dtypes[1]), None


def dispatch(x: Tensor, slots: Slots) -> Tensor:
    """Copy each token to the rows of its experts: x (B, T, C) -> (M, C)."""
    out: Tensor = _Dispatch.apply(x.flatten(0, 1), slots)  # type: ignore[no-untyped-call]
    return out


class _Dispatch(torch.autograd.Function):
    """Only for its gradient: a gather and a sum over slots, several times faster than index_select's scatter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slots: Slots) -> Tensor:
        ctx.slots = slots
        return x.index_select(0, slots.token)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        row = ctx.slots.row.flatten(0, 1)  # (B*T, K)
        return sum_slots(g, row), None


def sum_slots(rows: Tensor, row: Tensor) -> Tensor:
    """Add up the rows of each token: rows (M, C), row (B*T, K) -> (B*T, C)."""
    out = rows.index_select(0, row[:, 0])
    for slot in row.T[1:]:
        out += rows.index_select(0, slot)
    return out


def combine(rows: Tensor, gate: Tensor, slots: Slots) -> Tensor:
    """Sum over each token's experts of gate times row: rows (M, C), gate (B, T, K) -> (B, T, C)."""
    out: Tensor = _Combine.apply(rows, gate, slots)  # type: ignore[no-untyped-call]
    return out


class _Combine(torch.autograd.Function):
    """Gather in both directions, since each (token, slot) pair has one row."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, gate: Tensor, slots: Slots) -> Tensor:
        row_gate = torch.zeros(len(rows), 1, dtype=gate.dtype)  # filler keeps 0, and so gets no gradient
        row_gate[slots.row.flatten(), 0] = gate.flatten()
        ctx.save_for_backward(rows, row_gate)
        ctx.slots = slots
        return sum_slots(rows * row_gate, slots.row.flatten(0, 1)).view(*gate.shape[:2], -1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        rows, row_gate = ctx.saved_tensors
        g_row = g.flatten(0, 1).index_select(0, ctx.slots.token)  # (M, C)
        return g_row * row_gate, (g_row * rows).sum(-1)[ctx.slots.row], None
