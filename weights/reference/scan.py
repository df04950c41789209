"""The routed-expert recurrence of SPEC.md ("TimeMix"), straight from the equations: a loop over time.

Shapes: B batch, T tokens, K slots (selected experts of a token), E experts, X channels, N state, M rows (B*T*K and
filler). A row is one (token, slot) pair; rows are sorted by expert so that each expert's products are one product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Slots:
    """Which experts each token goes to, and where the (token, slot) pairs lie among the rows sorted by expert."""

    expert: Tensor  # (B, T, K) int64
    row: Tensor  # (B, T, K) int64: the row of this token and slot
    token: Tensor  # (M,) int64: the token of a row, as an index into B*T
    n_rows: list[int]  # (E,): the rows of each expert

    @classmethod
    def of(cls, expert: Tensor, n_experts: int, block: int = 1) -> Slots:
        """Sort the pairs of `expert` (B, T, K) by expert; pairs of one expert stay in the order of the tokens.

        Each expert's rows are filled up to a multiple of `block` with rows of token 0 that nothing points at.
        """
        flat = expert.flatten()
        order = flat.argsort(stable=True)
        counts = flat.bincount(minlength=n_experts)
        padded = -(-counts // block) * block
        shift = (padded - counts).cumsum(0) - (padded - counts)  # filler before each expert's first row
        place = torch.arange(len(flat)) + shift[flat[order]]
        row = torch.empty_like(order)
        row[order] = place
        token = order.new_zeros(int(padded.sum()))
        token[place] = order // expert.shape[-1]
        return cls(expert, row.view_as(expert), token, padded.tolist())


class Scan(Protocol):
    """What `routed_scan` and `scan_native.NativeScan` both are."""

    def __call__(
        self, delta: Tensor, b: Tensor, c: Tensor, x: Tensor, a: Tensor, gate: Tensor, slots: Slots, state: Tensor
    ) -> tuple[Tensor, Tensor]: ...


def input_weight(delta: Tensor, a: Tensor, zoh: bool) -> Tensor:
    """What multiplies B_t x_t: Delta (discretization "mamba") or (exp(Delta A) - 1) / A ("zoh").

    delta (..., X), a (..., X, N) -> broadcastable to (..., X, N).
    """
    return torch.expm1(delta[..., None] * a) / a if zoh else delta[..., None]


def routed_scan(
    delta: Tensor,
    b: Tensor,
    c: Tensor,
    x: Tensor,
    a: Tensor,
    gate: Tensor,
    slots: Slots,
    state: Tensor,
    *,
    zoh: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence of "separate_state" over T tokens; returns y (B, T, X) and the last state (B, E, X, N).

    delta (M, X), b and c (M, N) in rows; x (B, T, X); a (E, X, N), negative; gate (B, T, K); state (B, E, X, N).
    An expert that a token has no slot for keeps its state. y is without the Dskip term.
    """
    batch = torch.arange(len(x))[:, None]  # (B, 1)
    ys = []
    for t in range(x.shape[1]):
        expert, row = slots.expert[:, t], slots.row[:, t]  # (B, K)
        d, a_t = delta[row], a[expert]  # (B, K, X), (B, K, X, N)
        w = input_weight(d, a_t, zoh) * b[row][:, :, None, :] * x[:, t, None, :, None]  # (B, K, X, N)
        h = torch.exp(d[..., None] * a_t) * state[batch, expert] + w  # (B, K, X, N)
        state = state.index_put((batch, expert), h)  # (B, E, X, N)
        ys.append(torch.einsum("bk,bkxn,bkn->bx", gate[:, t], h, c[row]))  # sum of g (C . h)
    return torch.stack(ys, 1), state


def mixed_scan(
    delta: Tensor, b: Tensor, c: Tensor, x: Tensor, a: Tensor, state: Tensor, *, zoh: bool = False
) -> tuple[Tensor, Tensor]:
    """Run the recurrence of "param_mix" over T tokens; returns y (B, T, X) and the last state (B, X, N).

    delta and x (B, T, X), b and c (B, T, N), a (B, T, X, N) are mixed already; state (B, X, N).
    """
    ys = []
    for t in range(x.shape[1]):
        d, a_t = delta[:, t], a[:, t]  # (B, X), (B, X, N)
        w = input_weight(d, a_t, zoh) * b[:, t, None, :] * x[:, t, :, None]  # (B, X, N)
        state = torch.exp(d[..., None] * a_t) * state + w
        ys.append(torch.einsum("bxn,bn->bx", state, c[:, t]))
    return torch.stack(ys, 1), state
