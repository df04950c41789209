"""CPU schedules: what the vector unit of a target suggests for each kernel class.

A schedule is data: the generators in `codegen/kernels/` read it. The defaults follow from two numbers of the target, the
float32 lanes of a vector register and how many registers there are.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MatmulSchedule:
    """The register tile of a matrix product: `rows` tokens times `vectors` registers of `lanes` outputs.

    `unroll_k` is how many independent sums one token's row is split into, so that additions need not wait for each other.
    """

    rows: int
    vectors: int
    lanes: int
    unroll_k: int

    @property
    def width(self) -> int:
        """Outputs in a panel."""
        return self.vectors * self.lanes


@dataclass(frozen=True)
class CpuSchedule:
    """The schedule of every kernel class for one CPU target; `scan_unroll` is the largest d_state that is unrolled."""

    lanes: int
    matmul: MatmulSchedule
    scan_unroll: int = 32

    @classmethod
    def default(cls, lanes: int, registers: int) -> CpuSchedule:
        """Measured: with 32 registers 8 x 2 vectors reach the multiply-add limit, with 16 it takes 4 x 3 (12 sums, 3 loads, 1 factor)."""
        matmul = MatmulSchedule(8, 2, lanes, 2) if registers >= 32 else MatmulSchedule(4, 3, lanes, 2)
        return cls(lanes, matmul)

    def rows(self, n_tokens: int) -> int:
        """Token rows of a register tile: the largest number up to `matmul.rows` that divides n_tokens."""
        return max(r for r in range(1, self.matmul.rows + 1) if n_tokens % r == 0)

    def scan_grouped(self, n_tokens: int) -> bool:
        """Whether the recurrence goes expert by expert: registers instead of memory for the state, worth it from two tokens on."""
        return n_tokens > 1
