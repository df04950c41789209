"""CPU schedules: what the vector unit of a target suggests for each kernel class.

A schedule is data: the generators in `codegen/kernels/` read it. The defaults follow from two numbers of the target,
the float32 lanes of a vector register and how many registers there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mossnet_tg.codegen.layout import Panels
from mossnet_tg.targets.table import CpuTarget


@dataclass(frozen=True)
class MatmulSchedule:
    """The register tile of a matrix product: `rows` tokens times `vectors` registers of `lanes` outputs.

    `unroll_k` is how many independent sums one token's row is split into, so that additions need not wait for each
    other.
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
    """The schedule of every kernel class for one CPU target; `storage`: how kernels read the matrices of a
    checkpoint's type; `scan_unroll`: the largest d_state that is unrolled."""

    lanes: int
    matmul: MatmulSchedule
    storage: Mapping[str, str]
    scan_unroll: int = 32
    most_bytes: int = 1 << 62  # in a buffer
    group_size: int | None = None  # not None: the tiles are work-items of a GPU interface, in groups of so many

    @classmethod
    def of(cls, target: CpuTarget) -> CpuSchedule:
        """The default for a target.

        Measured: with 32 registers 8 x 2 vectors reach the multiply-add limit; with 16 it takes 4 x 3, which is 12
        sums, 3 weights and 1 factor.
        """
        rows, vectors = (8, 2) if target.registers >= 32 else (4, 3)
        storage = {"f32": "float32", "f16": "float16" if target.f16_loads else "float16_bits", "bf16": "bfloat16"}
        return cls(target.lanes, MatmulSchedule(rows, vectors, target.lanes, 2), storage)

    @classmethod
    def of_items(cls, lanes: int, most_bytes: int) -> CpuSchedule:
        """For a processor behind a GPU interface: each tile is a work-item, of vectors of `lanes`."""
        rows, vectors = (8, 2) if lanes >= 16 else (4, 3)
        storage = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
        return cls(lanes, MatmulSchedule(rows, vectors, lanes, 2), storage, most_bytes=most_bytes, group_size=1)

    flat = False  # a row of a loop nest is one thread's
    token_block: int | None = None  # a convolution goes through all tokens at once

    def of_kernel(self, kernel_class: str) -> CpuSchedule:
        """The schedule of one class of kernels: this one."""
        return self

    @property
    def width(self) -> int:
        """Outputs in a panel."""
        return self.matmul.width

    @property
    def panels(self) -> Panels:
        """How matrices lie."""
        return Panels(self.width, self.most_bytes)

    def rows(self, n_tokens: int) -> int:
        """Token rows of a register tile: the largest number up to `matmul.rows` that divides n_tokens."""
        return max(r for r in range(1, self.matmul.rows + 1) if n_tokens % r == 0)

    def scan_grouped(self, n_tokens: int) -> bool:
        """Whether the recurrence goes expert by expert: registers instead of memory for the state, worth it from two
        tokens on.
        """
        return n_tokens > 1
