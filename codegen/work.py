"""What the steps of a compiled model have to move and to compute: beside their times, how near they are to a limit.

The model file says which buffers a step takes, the configuration what is computed with each: a matrix is multiplied
with a vector for each token, states move on. What is done once for each number of a vector (norms, gates, softmax) is
small beside it and not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from mossnet_tg.codegen.moss_file import Buffer, Entry, MossFile, Region
from mossnet_tg.codegen.reads import read_by_step, share_per_token
from mossnet_tg.config import Config
from mossnet_tg.model import layer_parameters, outer_parameters

# Operations for an element of the state and a token: Delta A, its exponential, the input times B, a h + b (2), and
# + C h (2). With "zoh" the input is also multiplied by (a - 1) / A.
_SCAN_FLOPS = {"mamba": 7, "zoh": 9}


@dataclass(frozen=True)
class Work:
    """The bytes of weights and state that a step moves, and the floating-point operations that it takes."""

    bytes: float
    flops: float


def work_by_step(moss: MossFile, c: Config, entry: Entry) -> list[Work]:
    """The work of each step of an entry, run at position 0 on as many tokens as it takes."""
    matrices = _matrices(c)
    found, seen = [], set[str]()
    steps = moss.steps[entry.first_step : entry.first_step + entry.n_steps]
    for step, read in zip(steps, read_by_step(moss, c, entry), strict=True):
        # By name: a matrix may lie in several buffers.
        buffers = {moss.buffers[i].name: moss.buffers[i] for i in step.args}
        moved, flops = read, Fraction(0)
        # A prompt's logits are those of its last token.
        n_tokens = entry.n_logits if step.label.startswith("head/") else entry.n_tokens
        for name, buffer in buffers.items():
            of_state = _STATES.get(name.rpartition(".")[2])
            if buffer.region == Region.STATE and of_state is not None and name not in seen:
                seen.add(name)  # on GPUs a kernel of its own appends to the ring, after the one that computes with it
                more_bytes, more_flops = of_state(c, buffer, entry.n_tokens)
                moved, flops = moved + more_bytes, flops + more_flops
            elif entry.ids not in step.args and name in matrices:
                flops += 2 * n_tokens * matrices[name] * share_per_token(c, name, matrices[name])
        found.append(Work(float(moved), float(flops)))
    return found


def _matrices(c: Config) -> dict[str, int]:
    """The elements of each matrix, without what its layout adds, under the names of compiled models."""

    def named() -> Iterator[tuple[str, int]]:
        for name, p in outer_parameters(c).items():
            if p.matrix:
                yield name, math.prod(p.shape)
        for layer in range(c.n_layer):
            for name, p in layer_parameters(c, layer, 1).items():
                if p.matrix or name == "ssm.taps":
                    yield f"layers.{layer}.{name}", math.prod(p.shape)

    return dict(named())


def _ssm(c: Config, state: Buffer, n_tokens: int) -> tuple[Fraction, Fraction]:
    """(bytes, operations) of the states of the experts: those of the selected ones move, or all."""
    selected = c.n_states > 1 and c.ssm.state_update == "selected"
    share = Fraction(c.ssm.top_k, c.ssm.n_experts) if selected else Fraction(1)
    flops = state.bytes // 4 * share * n_tokens * _SCAN_FLOPS[c.ssm.discretization]
    return 2 * state.bytes * min(n_tokens * share, Fraction(1)), flops


def _conv(c: Config, state: Buffer, n_tokens: int) -> tuple[Fraction, Fraction]:
    """... of the inputs before: read and replaced."""
    return Fraction(2 * state.bytes), Fraction(0)


def _ring(c: Config, state: Buffer, n_tokens: int) -> tuple[Fraction, Fraction]:
    """... of attention: keys and values are written, each query meets the tokens of its window."""
    window = c.swa.window or n_tokens
    row_bytes = 4 * 2 * c.swa.n_kv_heads * c.swa.head_dim
    met = sum(min(t + 1, window) for t in range(n_tokens))
    return Fraction(row_bytes * min(n_tokens, window)), Fraction(4 * c.swa.n_heads * c.swa.head_dim * met)


_STATES: dict[str, Callable[[Config, Buffer, int], tuple[Fraction, Fraction]]] = {
    "ssm": _ssm,
    "conv": _conv,
    "ring": _ring,
}
