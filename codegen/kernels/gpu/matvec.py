"""Matrix times one vector: a group computes a panel of outputs, each thread a few of them over a part of k.

Neighbouring threads read neighbouring outputs of one k, and the next ones the next k: a group reads its panel as one
stream, whatever the panel's width. The parts are summed in shared memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm.script.ir_builder import tirx as T

from mossnet_tg.codegen.kernels import maths
from mossnet_tg.codegen.kernels.build import (
    Buffer,
    Expr,
    Generated,
    Param,
    div,
    group_kernel,
    local,
    mod,
    vector,
    when,
)
from mossnet_tg.codegen.kernels.gpu.sums import sum_splits
from mossnet_tg.codegen.kernels.matmul import expert_panels, expert_params
from mossnet_tg.codegen.kernels.panel import Panel
from mossnet_tg.codegen.schedules.gpu import GpuSchedule
from mossnet_tg.ops import ExpertMatmul
from mossnet_tg.weights.quantised import GROUP

Row = Callable[[Expr], Expr]

_K = 4  # neighbouring k of one thread: the vector is read in fours


class Columns:
    """The sums of one thread: `vector` outputs of each panel, over its part of k."""

    def __init__(self, s: GpuSchedule, n_matrices: int, column: Expr, split: Expr) -> None:
        self.s, self.column, self.split = s, column, split
        self.accs = [local(s.vector) for _ in range(n_matrices)]
        for acc in self.accs:
            with vector(s.vector) as v:
                T.buffer_store(acc, T.float32(0), [v])

    def add(self, n_in: int, row: Row, panels: Sequence[Panel]) -> None:
        """Add this thread's part of sum_k row(k) W[n, k]."""
        each = self.s.splits * _K
        whole, rest = divmod(n_in, each)
        if whole:
            with T.serial(whole) as i:
                self._step(i * each + self.split * _K, row, panels)
        if rest % _K == 0 and rest:
            when(self.split < rest // _K, lambda: self._step(whole * each + self.split * _K, row, panels))
        elif rest:
            with T.serial(_K) as j:
                k = whole * each + self.split * _K + j
                when(k < n_in, lambda: self._one(k, row(k), panels))

    def _step(self, k: Expr, row: Row, panels: Sequence[Panel]) -> None:
        x = local(_K)
        with vector(_K) as v:
            T.buffer_store(x, row(k + v), [v])
        for acc, panel in zip(self.accs, panels, strict=True):
            if panel.quantised:
                self._quad(k, x, acc, panel)
                continue
            for j in range(_K):
                self._add_one(k + j, x[j], acc, panel)

    def _one(self, k: Expr, x: Expr, panels: Sequence[Panel]) -> None:
        for acc, panel in zip(self.accs, panels, strict=True):
            self._add_one(k, x, acc, panel)

    def _add_one(self, k: Expr, x: Expr, acc: Buffer, panel: Panel) -> None:
        with vector(self.s.vector) as v:
            T.buffer_store(acc, acc[v] + x * panel.weight(k, self.column * self.s.vector + v), [v])

    def _quad(self, k: Expr, x: Buffer, acc: Buffer, panel: Panel) -> None:
        group, quad = T.bind(div(k, GROUP)), T.bind(div(mod(k, GROUP), _K))
        with vector(self.s.vector) as v:
            lane = self.column * self.s.vector + v
            scale = T.bind(panel.scale(group, lane))
            total = acc[v]
            for j, code in enumerate(panel.four(group, quad, lane)):
                total = total + x[j] * (code * scale)
            T.buffer_store(acc, total, [v])

    def finish(self, n_out: int, panel: Expr, store: Callable[[Expr, Expr], None]) -> None:
        """Sum over the group, then store(v, n) for each output n = n(panel, column, v) that exists."""
        sum_splits(self.accs, self.s.vector, self.column, self.s.columns, self.split, self.s.splits)
        when(self.split == 0, lambda: store_columns(self.s, n_out, panel, self.column, store))


def store_columns(s: GpuSchedule, n_out: int, panel: Expr, column: Expr, store: Callable[[Expr, Expr], None]) -> None:
    """store(v, n) for the outputs of one thread, as a vector where none is missing."""
    first = panel * s.width + column * s.vector

    def whole() -> None:
        with vector(s.vector) as v:
            store(v, first + v)

    if n_out % s.width == 0:
        whole()
    elif n_out % s.vector == 0:
        when(first < n_out, whole)
    else:
        for v in range(s.vector):
            when(first + v < n_out, lambda v=v: store(v, first + v))  # type: ignore[misc]


def n_panels(s: GpuSchedule, n_out: int) -> int:
    return -(-n_out // s.width)


def matvec(
    name: str,
    s: GpuSchedule,
    params: Sequence[Param],
    n_in: int,
    n_out: int,
    weight: int,
    row: Callable[[list[Buffer], Expr, Expr], Expr],
    store: Callable[[list[Buffer], Expr, Expr, Expr], None],
) -> Generated:
    """A dense product of one token, as `kernels.matmul.linear`."""
    with group_kernel(name, params, (n_panels(s, n_out), 1, 1), (s.columns, s.splits, 1)) as k:
        panel, (column, split, _) = k.group[0], k.thread
        columns = Columns(s, 1, column, split)
        at = Panel.of(k.buffers[weight], panel, params[weight].dtype, n_in, s.panels)
        columns.add(n_in, lambda i: row(k.buffers, T.int32(0), i), [at])
        columns.finish(n_out, panel, lambda v, n: store(k.buffers, T.int32(0), n, columns.accs[0][v]))
    return k.generated(n_in * n_out)


def expert_matvec(name: str, op: ExpertMatmul, dtypes: Sequence[str], s: GpuSchedule) -> Generated:
    """An ExpertMatmul of one token: a group for each panel of each slot, or of all slots where they are added up."""
    params, panels = expert_params(op, dtypes, s.panels), n_panels(s, op.n_out)
    combine = op.epilogue == "combine"
    grid = (panels, 1 if combine else op.top_k, 1)
    with group_kernel(name, params, grid, (s.columns, s.splits, 1)) as k:
        b, (panel, group, _), (column, split, _) = k.by_name, k.group, k.thread
        columns = Columns(s, len(dtypes), column, split)

        def add(slot: Expr, gate: Expr | None) -> Expr:
            expert = T.bind(b["idx"][slot]) if op.routed else slot
            at = expert_panels(op, b, expert * panels + panel, dtypes, s.panels)
            x = (slot if op.per_slot else 0) * op.x_stride
            columns.add(op.n_in, lambda i: b["x"][x + i] if gate is None else gate * b["x"][x + i], at)
            return expert

        if combine:
            with T.serial(op.top_k) as slot:
                add(slot, T.bind(b["gates"][slot]) if op.routed else None)
            columns.finish(
                op.n_out, panel, lambda v, n: T.buffer_store(b["out"], b["residual"][n] + columns.accs[0][v], [n])
            )
        else:
            expert = add(group, None)

            def store(v: Expr, n: Expr) -> None:
                value = epilogue(op, b, expert, n, [acc[v] for acc in columns.accs])
                T.buffer_store(b["out"], value, [group * op.n_out + n])

            columns.finish(op.n_out, panel, store)
    return k.generated(op.top_k * op.n_in * op.n_out)


def epilogue(op: ExpertMatmul, b: dict[str, Buffer], expert: Expr, n: Expr, sums: Sequence[Expr]) -> Expr:
    """What becomes of the sums of one output, but for "combine"."""
    if op.epilogue == "softplus":
        return maths.softplus(sums[0] + b["bias"][expert * op.n_out + n])
    if op.epilogue == "swiglu":
        return maths.silu(sums[0]) * sums[1]
    return sums[0]
