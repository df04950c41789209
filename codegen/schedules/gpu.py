"""GPU schedules: groups of threads that share memory, for each kernel class.

A schedule is data, as for CPUs. A weight's panel is `width` neighbouring outputs; `vector` of them are one thread's, so
that neighbouring threads read neighbouring memory in wide loads. What threads are left of a group split the sum over k.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mossnet_tg.codegen.layout import STORAGE, Panels
from mossnet_tg.codegen.tuning import Task, Tuning


@dataclass(frozen=True)
class GpuSchedule:
    """The schedule of every kernel class for one kind of GPU; `storage`: how kernels read the matrices of a
    checkpoint's type.

    threads: of a group that sums together. shared_bytes: what a group may share. most_bytes: in a buffer. token_rows:
    tokens of one thread in a product of many. group_size: threads of a group that works on single tiles. token_block:
    tokens that one thread of a convolution goes through. decay: which power of two the recurrence takes
    (`maths.DECAYS`). scan_apart: of one token, Delta is a kernel of its own, and the recurrence works with a thread for
    each channel, scan_states of its states in a row without a loop. half: products of many tokens multiply in float16
    where the weights are float16, and add up four of them before they become float32. plain: the kernel classes that
    are made without vectors, register tiles and large groups, for a device whose compiler gets the default wrong.
    """

    threads: int
    shared_bytes: int = 32768
    most_bytes: int = 1 << 62
    width: int = 32
    vector: int = 4
    token_rows: int = 8
    group_size: int = 64
    token_block: int = 8
    decay: int = 1
    scan_apart: int = 0
    scan_states: int = 1
    half: bool = False
    plain: tuple[str, ...] = ()
    storage: Mapping[str, str] = field(default_factory=lambda: dict(STORAGE))
    tuning: Tuning = field(default_factory=Tuning)

    lanes = 1  # a thread's channels where it needs no others': neighbours' loads are joined by the device
    scan_unroll = 32
    flat = True  # every element of a loop nest is a thread's

    def of_task(self, task: Task) -> GpuSchedule:
        """The schedule of the kernels of one task."""
        width = self.tuning.width(task.matrices, self.width)
        if task.kernel_class in self.plain:
            return replace(self, width=width, vector=1, token_rows=1, threads=2 * width, half=False)
        return replace(self, width=width, **self.tuning.chosen(task))

    def sharing(self, width: int, most_bytes: int) -> GpuSchedule:
        """With panels that kernels of other targets read too."""
        return replace(self, width=width, most_bytes=most_bytes)

    @property
    def panels(self) -> Panels:
        """How the task's matrices lie."""
        return Panels(self.width, self.most_bytes)

    def panels_of(self, shape: tuple[int, ...], dtype: str) -> Panels:
        """How a matrix lies."""
        return Panels(self.tuning.width([(shape, dtype)], self.width), self.most_bytes)

    @property
    def columns(self) -> int:
        """Threads side by side over a panel."""
        return self.width // self.vector

    @property
    def splits(self) -> int:
        """The parts that a sum over k is split into."""
        return self.threads // self.columns
