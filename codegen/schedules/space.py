"""What may be chosen for a task: the values of its schedule's fields, around the default of each kernel class.

A space is data. Widths of panels stand apart from the rest: every kernel that reads a matrix must agree on them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from mossnet_tg.codegen.schedules import CpuSchedule, GpuSchedule, Schedule
from mossnet_tg.codegen.tuning import Task

Space: TypeAlias = Mapping[str, tuple[int, ...]]
_Fields: TypeAlias = Mapping[str, Sequence[int]]

_PRODUCTS = ("product", "ExpertMatmul", "NormRouter")


def widths(s: Schedule, task: Task) -> tuple[int, ...]:
    """The widths that the panels of the task's matrices may have; () where it has none."""
    if not task.matrices:
        return ()
    found = [s.lanes * n for n in (1, 2, 3, 4)] if isinstance(s, CpuSchedule) else (8, 16, 32, 64, 128)
    return tuple(sorted({*found, s.width}))


def space(s: Schedule, task: Task) -> Space:
    """The fields that matter for the task, with the values that they may have; the default's is among them."""
    found = _cpu(s, task) if isinstance(s, CpuSchedule) else _gpu(task)
    return {name: tuple(sorted({*values, getattr(s, name)})) for name, values in found.items()}


def fits(s: Schedule, task: Task) -> bool:
    """Whether kernels can be made so, as far as it shows before they are made. `s` is the task's own schedule."""
    return _cpu_fits(s) if isinstance(s, CpuSchedule) else all(rule(s, task) for rule in _GPU_RULES)


# ---- processors

_STACK_FLOATS = 2048  # of a register tile: what is above is no tile in registers by far
_LONGEST_ITEM = 16  # OpenCL's longest vector


def _cpu(s: CpuSchedule, task: Task) -> _Fields:
    decode = task.n_tokens == 1
    items: _Fields = {"group_size": (1, 2, 4, 8, 16)} if s.group_size is not None else {}
    halves = (s.lanes // 2, s.lanes)
    if task.kernel_class == "RoutedScan":
        own: _Fields = {"scan_vectors": (1, 2, 4), "decay": (0, 1), **items}
        more: _Fields = (
            {"scan_apart": (0, 1), "scan_states": (1, 2, 4, 8, 16), "unroll_k": (1, 2, 4)}
            if decode
            else {"scan_grouped": (0, 1)}
        )
        return {**own, **more}
    if task.kernel_class in _PRODUCTS:
        sums: _Fields = {"unroll_k": (1, 2, 3, 4, 6, 8)} if decode else {"rows": (1, 2, 4, 6, 8, 12, 16)}
        return {**sums, "lanes": halves, **items}
    if task.kernel_class == "RouterTopk":
        return {}
    return {"lanes": (*halves, 2 * s.lanes), **items}


def _cpu_fits(s: CpuSchedule) -> bool:
    vector = s.lanes * s.scan_vectors
    if (s.group_size is not None and vector > _LONGEST_ITEM) or (not s.scan_apart and s.width % vector):
        return False
    return s.width % s.lanes == 0 and s.rows * s.width <= _STACK_FLOATS


# ---- GPUs

_VALUES: Space = {
    "threads": (32, 64, 128, 256, 512),
    "vector": (1, 2, 4, 8),
    "token_rows": (1, 2, 4, 8, 16),
    "group_size": (16, 32, 64, 128, 256),
    "token_block": (4, 8, 16, 32, 128),
    "decay": (0, 1, 2),
    "scan_apart": (0, 1),
    "scan_states": (1, 4, 16),
}
# By class: the fields that matter with one token, and with several.
_FIELDS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "product": (("threads", "vector"), ("vector", "token_rows", "group_size")),
    "ExpertMatmul": (("threads", "vector"), ("vector", "token_rows", "group_size")),
    "NormRouter": (("threads", "vector"), ()),
    "RoutedScan": (("threads", "decay", "scan_apart", "scan_states", "group_size"), ("group_size", "decay")),
    "RmsNorm": (("threads",), ("threads",)),
    "RouterTopk": ((), ("threads",)),
    "CausalConv": (("group_size",), ("group_size", "token_block")),
    "SwaAttention": (("group_size",), ("group_size",)),
    "loops": (("group_size",), ("group_size",)),
}
_MOST_SUMS = 128  # of a thread


def _gpu(task: Task) -> _Fields:
    return {name: _VALUES[name] for name in _FIELDS[task.kernel_class][task.n_tokens > 1]}


def _columns_divide(s: GpuSchedule, task: Task) -> bool:
    """A panel's columns are threads; with one token, what is left of a group splits the sum in halves."""
    if task.kernel_class not in _PRODUCTS:
        return True
    return s.width % s.vector == 0 and (task.n_tokens > 1 or _power_of_two(s.threads, s.columns))


def _channels_divide(s: GpuSchedule, task: Task) -> bool:
    """A panel's channels are threads, and what is left of a group splits slots and states; or apart, a product's."""
    if task.kernel_class != "RoutedScan" or task.n_tokens > 1:
        return True
    return _power_of_two(s.threads, s.columns if s.scan_apart else s.width)


def _once(s: GpuSchedule, task: Task) -> bool:
    """Fields that say nothing have their defaults: no kernel is tried twice."""
    whole = task.kernel_class == "RoutedScan" and task.n_tokens == 1 and not s.scan_apart
    return not whole or (s.scan_states, s.group_size) == (GpuSchedule.scan_states, GpuSchedule.group_size)


def _power_of_two(n: int, by: int) -> bool:
    splits, rest = divmod(n, by)
    return splits >= 1 and not rest and splits & (splits - 1) == 0


def _in_registers(s: GpuSchedule, task: Task) -> bool:
    return task.kernel_class not in _PRODUCTS or task.n_tokens == 1 or s.vector * s.token_rows <= _MOST_SUMS


def _in_a_row(s: GpuSchedule, task: Task) -> bool:
    """A row's sum is halved too."""
    return task.kernel_class != "RmsNorm" or _power_of_two(s.threads, 1)


_GPU_RULES: Sequence[Callable[[GpuSchedule, Task], bool]] = (
    _columns_divide,
    _channels_divide,
    _once,
    _in_registers,
    _in_a_row,
)
