"""Matrix products over panel weights: one register tile serves GEMV, GEMM and both forms of the expert product.

A tile of the kernel is one panel of outputs (`codegen.layout.Panels`), so a weight is read once per call, in order,
by one thread. Where several tokens come at once, the panel stays in the cache while blocks of `rows` tokens pass over
it; blocks behind the valid tokens are left out. With routing, the tokens of one expert are taken together through the
slot lists that RouterTopk sorts, so each expert's panel is read once per chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias

from tvm.script.ir_builder import tirx as T

from mossnet_tg.codegen.kernels import maths
from mossnet_tg.codegen.kernels.build import Buffer, Expr, Generated, Param, div, local, tile_kernel, vector, when
from mossnet_tg.codegen.kernels.integer import Dot, IntegerTile, dot_of
from mossnet_tg.codegen.kernels.panel import Panel
from mossnet_tg.codegen.kernels.rounding import Codes, Rounding
from mossnet_tg.codegen.layout import Matrix, Panels
from mossnet_tg.codegen.schedules.cpu import CpuSchedule
from mossnet_tg.ops import ExpertMatmul
from mossnet_tg.weights.quantised import GROUP


class Tile:
    """The sums of `len(rows)` rows over one panel of each matrix; `sum(m, r, j, v)` is lane v of row r's j-th vector.

    The sums are registers while they grow. Then they are laid down once, so that the epilogue can be a loop over the
    rows: unrolled like the sums it would be most of the kernel's code.
    """

    def __init__(
        self, s: CpuSchedule, n_k: int, rows: Sequence[Callable[[Expr], Expr]], panels: Sequence[Panel]
    ) -> None:
        self.schedule, self.n_rows = s, len(rows)
        grouped = any(panel.quantised for panel in panels)
        # One row alone would wait for its own additions; several rows hide that by themselves.
        self.n_parts = min(s.unroll_k, n_k) if self.n_rows == 1 and not grouped else 1
        accs = [local(self.n_parts * self.n_rows * s.width) for _ in panels]
        for acc in accs:
            with T.unroll(self.n_parts * self.n_rows * s.vectors) as i, vector(s.lanes) as v:
                T.buffer_store(acc, T.float32(0), [i * s.lanes + v])
        if grouped:
            self._by_groups(n_k, accs, rows, panels)
        else:
            self._by_elements(n_k, accs, rows, panels)
        self.sums = [self._laid_down(acc) for acc in accs]

    def _by_elements(
        self, n_k: int, accs: list[Buffer], rows: Sequence[Callable[[Expr], Expr]], panels: Sequence[Panel]
    ) -> None:
        whole = n_k // self.n_parts * self.n_parts
        with T.serial(whole // self.n_parts) as k:
            for part in range(self.n_parts):
                self._step(accs, rows, panels, k * self.n_parts + part, part)
        for k in range(whole, n_k):
            self._step(accs, rows, panels, k, 0)

    def _by_groups(
        self, n_k: int, accs: list[Buffer], rows: Sequence[Callable[[Expr], Expr]], panels: Sequence[Panel]
    ) -> None:
        """Where a matrix is quantised; another beside it may not be."""
        s = self.schedule
        scales, weights = [local(s.width) for _ in panels], local(4 * s.lanes)
        with T.serial(n_k // GROUP) as group:
            for panel, scale in zip(panels, scales, strict=True):
                for j in range(s.vectors if panel.quantised else 0):
                    with vector(s.lanes) as v:
                        T.buffer_store(scale, panel.scale(group, j * s.lanes + v, s.native_half), [j * s.lanes + v])
            with T.serial(GROUP // 4) as quad:
                k = group * GROUP + quad * 4
                for acc, panel, scale in zip(accs, panels, scales, strict=True):
                    for j in range(s.vectors):
                        with vector(s.lanes) as v:
                            lane = j * s.lanes + v
                            four = (
                                [code * scale[lane] for code in panel.four(group, quad, lane)]
                                if panel.quantised
                                else [panel.weight(k + b, lane) for b in range(4)]
                            )
                            for b, weight in enumerate(four):
                                T.buffer_store(weights, weight, [b * s.lanes + v])
                        for b in range(4):
                            for r, row in enumerate(rows):
                                with vector(s.lanes) as v:
                                    at = r * s.width + j * s.lanes + v
                                    product = row(k + b) * weights[b * s.lanes + v]
                                    T.buffer_store(acc, acc[at] + product, [at])

    def _step(
        self, accs: list[Buffer], rows: Sequence[Callable[[Expr], Expr]], panels: Sequence[Panel], k: Expr, part: int
    ) -> None:
        s = self.schedule
        for acc, panel in zip(accs, panels, strict=True):
            # A single float32 stream has loads enough by itself.
            alone = self.n_rows == 1 and s.group_size is None and panel.dtype != "float32"
            if alone or panel.following is not None:
                panel.prefetch(k)
            for r, row in enumerate(rows):
                for j in range(s.vectors):
                    with vector(s.lanes) as v:
                        at = (part * self.n_rows + r) * s.width + j * s.lanes + v
                        weight = panel.weight(k, j * s.lanes + v)
                        T.buffer_store(acc, acc[at] + row(k) * weight, [at])

    def _laid_down(self, acc: Buffer) -> Buffer:
        s, n = self.schedule, self.n_rows * self.schedule.width
        sums = local(n)
        with T.unroll(self.n_rows * s.vectors) as i, vector(s.lanes) as v:
            total = acc[i * s.lanes + v]
            for part in range(1, self.n_parts):
                total = total + acc[part * n + i * s.lanes + v]
            T.buffer_store(sums, total, [i * s.lanes + v])
        return sums

    def sum(self, matrix: int, r: Expr, j: int, v: Expr) -> Expr:
        return self.sums[matrix][r * self.schedule.width + j * self.schedule.lanes + v]


# sum(m, r, j, v): of matrix m and row r, lane v of vector j.
Sum: TypeAlias = Callable[[int, Expr, int, Expr], Expr]


def sums_of(
    s: CpuSchedule,
    n_k: int,
    integer: tuple[Dot, Codes] | None,
    rows: Sequence[Expr],
    row: Callable[[Expr, Expr], Expr],
    panels: Sequence[Panel],
) -> Sum:
    """The sums of some rows, row(r, k) of each, over a panel of each matrix; `integer`: how, unless in floats."""

    def tile(panels: Sequence[Panel]) -> Sum:
        if integer:
            return IntegerTile(s, *integer, rows, panels).sum
        return Tile(s, n_k, [partial(row, r) for r in rows], panels).sum

    if len(rows) == 1:
        return tile(panels)
    # Of several rows, the sums of one matrix are as many as there are registers.
    each = [tile([panel]) for panel in panels]
    return lambda m, r, j, v: each[m](0, r, j, v)


def store_row(s: CpuSchedule, n_out: int, panel: Expr, store: Callable[[int, Expr, Expr], None]) -> None:
    """Call store(j, v, n) for every lane v of every vector j of the panel whose output n = n(panel, j, v) exists."""
    for j in range(s.vectors):
        first = panel * s.width + j * s.lanes

        def whole(j: int = j, first: Expr = first) -> None:
            with vector(s.lanes) as v:
                store(j, v, first + v)

        if n_out % s.width == 0:
            whole()
            continue
        when(first + s.lanes <= n_out, whole)
        if n_out % s.lanes:
            tail = n_out % s.lanes
            with T.If(T.And(first < n_out, first + s.lanes > n_out)), T.Then(), T.serial(tail) as v:
                store(j, v, first + v)


def n_panels(s: CpuSchedule, n_out: int) -> int:
    return -(-n_out // s.width)


def linear(
    name: str,
    s: CpuSchedule,
    params: Sequence[Param],
    n_tokens: int,
    n_in: int,
    n_out: int,
    weight: int,
    tokens: int | None,
    row: Callable[[list[Buffer], Expr, Expr], Expr],
    store: Callable[[list[Buffer], Expr, Expr, Expr], None],
) -> list[Generated]:
    """A dense product y[t, n] = epilogue(sum_k x(t, k) W[n, k]): one kernel, or two that run in order.

    `row(buffers, t, k)` is x as an expression, `store(buffers, t, n, sum)` emits the epilogue; `weight` and `tokens`
    are the positions of W and of the params buffer (None for one token, which is always valid) among `params`.
    """
    n_rows, valid = s.rows_of(n_tokens), params[tokens or 0].name
    rounding = Rounding(
        dot_of(s, [params[weight].dtype], n_tokens, n_in),
        name,
        params,
        [p for i, p in enumerate(params) if p.read and i != weight],
        n_tokens > 1,
        n_tokens,
        n_in,
        lambda b: b[valid][0],
        lambda b, t, k: row([b.get(p.name) for p in params], t, k),
    )
    with tile_kernel(name, rounding.params, n_panels(s, n_out), s.group_size, rounding.before) as k:
        panel, integer = k.tile, rounding.integer(k)
        w = Panel.of(k.buffers[weight], panel, params[weight].dtype, n_in, s.panels)

        def block(first: Expr) -> None:
            total = sums_of(s, n_in, integer, [first + r for r in range(n_rows)], partial(row, k.buffers), [w])
            with T.serial(n_rows) as r:
                store_row(s, n_out, panel, lambda j, v, n: store(k.buffers, first + r, n, total(0, r, j, v)))

        if tokens is None:
            block(T.int32(0))
        else:
            with T.serial(blocks(k.buffers[tokens][0], n_rows)) as b:
                block(b * n_rows)
    return [*rounding.kernels, k.generated(n_tokens * n_in * n_out, rounding.feature)]


def blocks(n: Expr, size: int) -> Expr:
    """How many blocks of `size` cover n."""
    return (n + (size - 1)) // size


def expert_params(op: ExpertMatmul, dtypes: Sequence[str], panels: Panels) -> list[Param]:
    """The buffers of an ExpertMatmul, in the op's order; `dtypes` are those of its one or two weights."""
    slots = op.n_tokens * op.top_k
    matrices = [Matrix((op.n_experts, op.n_out, op.n_in), dtype, panels) for dtype in dtypes]
    combine = op.epilogue == "combine"
    params = [
        Param("out", op.n_tokens * op.n_out if combine else slots * op.n_out, written=True, read=combine),
        Param("x", (slots if op.per_slot else op.n_tokens) * op.x_stride),
        matrices[0].param("weight"),
    ]
    if op.epilogue == "softplus":
        params.append(Param("bias", op.n_experts * op.n_out))
    elif op.epilogue == "swiglu":
        params.append(matrices[1].param("weight3"))
    elif combine:
        params.append(Param("residual", op.n_tokens * op.n_out))
    if combine and op.routed:
        params.append(Param("gates", slots))
    if op.routed:
        params.append(Param("idx", slots, "int32"))
        if op.n_tokens > 1:
            params.append(Param("groups", op.n_experts + 1 + slots, "int32"))
    return [*params, Param("params", 2, "int32")]


def expert_matmul(name: str, op: ExpertMatmul, dtypes: Sequence[str], s: CpuSchedule) -> list[Generated]:
    panels = n_panels(s, op.n_out)
    params = expert_params(op, dtypes, s.panels)
    # With one token each slot's panel is a tile of its own, unless the slots are added up.
    spread = op.n_tokens == 1 and op.epilogue != "combine"
    per_token = op.top_k if op.per_slot else 1
    n_rows = op.n_tokens * per_token
    rounding = Rounding(
        dot_of(s, dtypes, op.n_tokens, n_rows * op.n_in),
        name,
        params,
        [p for p in params if p.name in ("x", "params")],
        op.n_tokens > 1,
        n_rows,
        op.n_in,
        lambda b: b["params"][0] * per_token,
        lambda b, r, k: b["x"][r * op.x_stride + k],
    )
    n_tiles = panels * (op.top_k if spread else 1)
    with tile_kernel(name, rounding.params, n_tiles, s.group_size, rounding.before) as k:
        panel = k.tile % panels if spread else k.tile
        body = ExpertBody(op, s, k.by_name, dtypes, panel, integer=rounding.integer(k))
        if spread:
            body.one_token(k.tile // panels)
        elif op.n_tokens == 1:
            body.one_token_combined()
        elif op.routed:
            body.grouped()
        else:
            body.dense()
    return [*rounding.kernels, k.generated(op.n_tokens * op.top_k * op.n_in * op.n_out, rounding.feature)]


def expert_panels(
    op: ExpertMatmul, buffers: dict[str, Buffer], number: Expr, dtypes: Sequence[str], panels: Panels
) -> list[Panel]:
    """Panel `number` of each of the op's matrices."""
    names = ("weight", "weight3")[: len(dtypes)]
    return [Panel.of(buffers[name], number, dtype, op.n_in, panels) for name, dtype in zip(names, dtypes, strict=True)]


class ExpertBody:
    """The four loop structures of an ExpertMatmul around the same register tile, for one panel of outputs. Output n of
    a slot goes to `out[place(slot, n)]`; `integer`: how products are computed, unless in floats.
    """

    def __init__(
        self,
        op: ExpertMatmul,
        s: CpuSchedule,
        buffers: dict[str, Buffer],
        dtypes: Sequence[str],
        panel: Expr,
        place: Callable[[Expr, Expr], Expr] | None = None,
        integer: tuple[Dot, Codes] | None = None,
    ) -> None:
        self.op, self.s, self.buffers, self.dtypes, self.panel = op, s, buffers, dtypes, panel
        self.place = place or (lambda slot, n: slot * op.n_out + n)
        self.integer = integer

    def one_token(self, slot: Expr) -> None:
        """Decode: the panel of one slot."""
        expert = self._expert(slot)
        sums = self._sums([slot], expert)
        self._store(sums, 0, slot, expert)

    def one_token_combined(self) -> None:
        """Decode: the gated sum of all slots, in order."""
        s, out, residual = self.s, self.buffers["out"], self.buffers["residual"]
        total = local(s.width)
        with T.unroll(s.vectors) as j, vector(s.lanes) as v:
            T.buffer_store(total, T.float32(0), [j * s.lanes + v])
        with T.serial(self.op.top_k) as slot:
            sums = self._sums([slot], self._expert(slot))
            gate = self.buffers["gates"][slot] if self.op.routed else T.float32(1)
            for j in range(s.vectors):
                with vector(s.lanes) as v:
                    at = j * s.lanes + v
                    T.buffer_store(total, total[at] + gate * sums(0, 0, j, v), [at])
        store_row(
            self.s,
            self.op.n_out,
            self.panel,
            lambda j, v, n: T.buffer_store(out, residual[n] + total[j * s.lanes + v], [n]),
        )

    def dense(self) -> None:
        """Prefill, every expert on every token."""
        n_rows, tokens = self.s.rows_of(self.op.n_tokens), self.buffers["params"][0]
        if self.op.epilogue == "combine":
            self._copy_residual(tokens)
        with T.serial(self.op.top_k) as expert, T.serial(blocks(tokens, n_rows)) as b:
            slots = [(b * n_rows + r) * self.op.top_k + expert for r in range(n_rows)]
            sums = self._sums(slots, expert)
            with T.serial(n_rows) as r:
                self._store(sums, r, (b * n_rows + r) * self.op.top_k + expert, expert)

    def grouped(self) -> None:
        """Prefill, the tokens of each expert together."""
        op, n_rows, groups = self.op, self.s.rows_of(self.op.n_tokens), self.buffers["groups"]
        if op.epilogue == "combine":
            self._copy_residual(self.buffers["params"][0])
        with T.serial(op.n_experts) as expert:
            first, last = groups[expert], groups[expert + 1] - 1
            whole = T.bind(div(groups[expert + 1] - first + (n_rows - 1 - n_rows // 2), n_rows))
            with T.serial(whole) as b:
                self._some(expert, first + b * n_rows, last, n_rows, b)
            if n_rows > 1:
                rest = first + whole * n_rows
                when(rest <= last, lambda: self._some(expert, rest, last, n_rows // 2, whole))

    def _some(self, expert: Expr, first: Expr, last: Expr, n_rows: int, turn: Expr) -> None:
        """The slots at `first` and behind, of one expert's up to `last`, n_rows at most."""
        groups, n_experts = self.buffers["groups"], self.op.n_experts
        at = local(n_rows, "int32")
        for r in range(n_rows):
            # Rows behind the expert's last slot repeat it; only the real ones are stored.
            T.buffer_store(at, groups[n_experts + 1 + T.min(first + r, last)], [r])
        sums = self._sums([at[r] for r in range(n_rows)], expert, turn)
        with T.serial(T.min(n_rows, last + 1 - first)) as r:
            self._store(sums, r, groups[n_experts + 1 + first + r], expert)

    def _sums(self, slots: Sequence[Expr], expert: Expr, turn: Expr = None) -> Sum:
        """The sums of some slots, all of one expert. `turn`: which pass over its panel this is, while the next expert's
        comes.
        """
        rows = [slot if self.op.per_slot else div(slot, self.op.top_k) for slot in slots]
        x, stride, panels = self.buffers["x"], self.op.x_stride, self._panels(expert)
        if turn is not None and self.s.group_size is None:
            n = n_panels(self.s, self.op.n_out)
            panels = [
                replace(p, following=p.base + n * self.s.panels.elements(p.n_k, p.dtype), turn=turn) for p in panels
            ]
        return sums_of(self.s, self.op.n_in, self.integer, rows, lambda r, k: x[r * stride + k], panels)

    def _expert(self, slot: Expr) -> Expr:
        return self.buffers["idx"][slot] if self.op.routed else slot

    def _panels(self, expert: Expr) -> list[Panel]:
        number = expert * n_panels(self.s, self.op.n_out) + self.panel
        return expert_panels(self.op, self.buffers, number, self.dtypes, self.s.panels)

    def _store(self, sums: Sum, r: Expr, slot: Expr, expert: Expr) -> None:
        """The epilogue of row r, which belongs to `slot`."""
        op, out = self.op, self.buffers["out"]

        def store(j: int, v: Expr, n: Expr) -> None:
            value = sums(0, r, j, v)
            at = self.place(slot, n)
            if op.epilogue == "softplus":
                value = maths.softplus(value + self.buffers["bias"][expert * op.n_out + n])
            elif op.epilogue == "swiglu":
                value = maths.silu(value) * sums(1, r, j, v)
            elif op.epilogue == "combine":
                at = div(slot, op.top_k) * op.n_out + n
                gate = self.buffers["gates"][slot] if op.routed else T.float32(1)
                value = out[at] + gate * value
            T.buffer_store(out, value, [at])

        store_row(self.s, op.n_out, self.panel, store)

    def _copy_residual(self, tokens: Expr) -> None:
        out, residual, n_out = self.buffers["out"], self.buffers["residual"], self.op.n_out
        with T.serial(tokens) as t:
            store_row(
                self.s, n_out, self.panel, lambda j, v, n: T.buffer_store(out, residual[t * n_out + n], [t * n_out + n])
            )
