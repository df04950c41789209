"""What tuning decided for a device, as schedules read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# The fields that a choice may have, with all values that any space gives them.
VALUES: Mapping[str, range] = {
    "lanes": range(1, 65),
    "rows": range(1, 17),
    "unroll_k": range(1, 9),
    "scan_vectors": range(1, 5),
    "scan_states": range(1, 17),
    "scan_grouped": range(2),
    "scan_apart": range(2),
    "decay": range(3),
    "group_size": range(1, 1025),
    "threads": range(1, 1025),
    "vector": range(1, 17),
    "token_rows": range(1, 33),
    "token_block": range(1, 1025),
}
WIDTHS = range(1, 257)

# Raised when the kernels that a choice makes are others than before, so that what was measured says nothing of them.
SCHEDULES = 2


@dataclass(frozen=True)
class Task:
    """What kernels are made for, as far as a schedule cares: a class of `table.KERNEL_CLASSES`, the tokens at once, the
    matrices that are read ((shape, dtype) each, dtype as `layout.Matrix` has it), and `text`, which says all of it:
    equal texts are equal kernels.
    """

    kernel_class: str
    n_tokens: int
    matrices: tuple[tuple[tuple[int, ...], str], ...]
    text: str


@dataclass(frozen=True)
class Tuning:
    """`widths`: the panels' width of matrices, by `matrix_key`; `choices`: values of a schedule's fields, by a task's
    text.
    """

    widths: Mapping[str, int] = field(default_factory=dict)
    choices: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def width(self, matrices: Sequence[tuple[tuple[int, ...], str]], default: int) -> int:
        """The width of the panels of `matrices`, which lie alike."""
        return self.widths.get(matrix_key(*matrices[0]), default) if matrices else default

    def chosen(self, task: Task) -> dict[str, Any]:
        """The fields of the task's schedule that are not the default's."""
        return dict(self.choices.get(task.text, {}))


def matrix_key(shape: Sequence[int], dtype: str) -> str:
    """Matrices of one key lie alike."""
    return f"{'x'.join(map(str, shape))} {dtype}"
