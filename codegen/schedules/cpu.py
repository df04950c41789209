"""CPU schedules: what the vector unit of a target suggests for each kernel class.

A schedule is data: the generators in `codegen/kernels/` read it. The defaults follow from two numbers of the target,
the float32 lanes of a vector register and how many registers there are; a device's records say better ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mossnet_tg.codegen.layout import STORAGE, Panels
from mossnet_tg.codegen.tuning import Task, Tuning
from mossnet_tg.targets.table import CpuTarget


@dataclass(frozen=True)
class CpuSchedule:
    """The schedule of every kernel class for one CPU target.

    lanes: of a vector. width: outputs in a panel of a matrix. rows: tokens in a product's register tile, which is
    as wide as a panel. unroll_k: independent sums of a tile of one token, so that additions need not wait for each
    other. scan_vectors: vectors of channels in a tile of the recurrence. scan_states: states of a token in a row
    without a loop. scan_apart: of one token, Delta is a kernel of its own. scan_grouped: of several tokens, those
    of an expert together, its state in registers. decay: which power of two the recurrence takes (`maths.DECAYS`).
    storage: how kernels read the matrices of a checkpoint's type.
    scan_unroll: the largest d_state that is kept in registers.
    """

    lanes: int
    width: int
    rows: int
    unroll_k: int
    storage: Mapping[str, str]
    scan_vectors: int = 1
    scan_states: int = 1
    scan_apart: int = 1
    scan_grouped: int = 1
    decay: int = 1
    scan_unroll: int = 32
    dot: str = ""  # how products with quantised matrices are computed (`table.DOTS`); "": floats
    most_bytes: int = 1 << 62  # in a buffer
    group_size: int | None = None  # not None: the tiles are work-items of a GPU interface, in groups of so many
    tuning: Tuning = field(default_factory=Tuning)

    @classmethod
    def of(cls, target: CpuTarget) -> CpuSchedule:
        """The default for a target.

        Measured: with 32 registers 8 x 2 vectors reach the multiply-add limit; with 16 it takes 4 x 3, which is 12
        sums, 3 weights and 1 factor.
        """
        rows, vectors = (8, 2) if target.registers >= 32 else (4, 3)
        storage = {**STORAGE, "f16": "float16" if target.f16_loads else "float16_bits"}
        return cls(target.lanes, vectors * target.lanes, rows, 2, storage, dot=target.dot)

    @classmethod
    def of_items(cls, lanes: int, most_bytes: int) -> CpuSchedule:
        """For a processor behind a GPU interface: each tile is a work-item, of vectors of `lanes`."""
        rows, vectors = (8, 2) if lanes >= 16 else (4, 3)
        return cls(lanes, vectors * lanes, rows, 2, STORAGE, most_bytes=most_bytes, group_size=1)

    flat = False  # a row of a loop nest is one thread's
    token_block: int | None = None  # a convolution goes through all tokens at once

    def of_task(self, task: Task) -> CpuSchedule:
        """The schedule of the kernels of one task."""
        width = self.tuning.width(task.matrices, self.width)
        return replace(self, width=width, **self.tuning.chosen(task))

    def sharing(self, width: int, most_bytes: int) -> CpuSchedule:
        """With panels that kernels of other targets read too; a tile keeps its registers."""
        return replace(self, width=width, most_bytes=most_bytes, rows=max(1, self.rows * self.width // width))

    @property
    def native_half(self) -> bool:
        """Whether the processor widens float16 by itself."""
        return self.group_size is None and self.storage["f16"] == "float16"

    @property
    def vectors(self) -> int:
        """Vectors of a panel's width."""
        return self.width // self.lanes

    @property
    def panels(self) -> Panels:
        """How the task's matrices lie."""
        return Panels(self.width, self.most_bytes)

    def panels_of(self, shape: tuple[int, ...], dtype: str) -> Panels:
        """How a matrix lies."""
        return Panels(self.tuning.width([(shape, dtype)], self.width), self.most_bytes)

    def rows_of(self, n_tokens: int) -> int:
        """Token rows of a register tile: the largest number up to `rows` that divides n_tokens."""
        return max(r for r in range(1, self.rows + 1) if n_tokens % r == 0)
