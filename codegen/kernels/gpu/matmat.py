"""Products of many tokens: a thread holds some tokens times a few outputs in registers and goes over all of k.

Threads of one token block read the same rows of x, those of one column the same weights, so both come from the cache.
With routing, the tokens of one expert are taken together through the slot lists that RouterTopk sorts; blocks without
tokens end at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from tvm.script.ir_builder import tirx as T

from mossnet_tg.codegen.kernels.build import (
    Buffer,
    Expr,
    Generated,
    Param,
    div,
    group_kernel,
    load_half,
    local,
    mod,
    tile_kernel,
    vector,
    when,
)
from mossnet_tg.codegen.kernels.gpu.matvec import Row, epilogue, n_panels, store_columns
from mossnet_tg.codegen.kernels.matmul import expert_panels, expert_params
from mossnet_tg.codegen.kernels.panel import Panel
from mossnet_tg.codegen.schedules.gpu import GpuSchedule
from mossnet_tg.ops import ExpertMatmul
from mossnet_tg.weights.quantised import GROUP


class Block:
    """The sums of one thread: `len(rows)` tokens times `vector` outputs of each panel."""

    def __init__(self, s: GpuSchedule, n_in: int, rows: Sequence[Row], panels: Sequence[Panel], column: Expr) -> None:
        self.s, self.rows, self.panels, self.column = s, rows, panels, column
        self.accs = [[local(s.vector) for _ in rows] for _ in panels]
        for acc in (acc for of_panel in self.accs for acc in of_panel):
            with vector(s.vector) as v:
                T.buffer_store(acc, T.float32(0), [v])

    def add(self, n_in: int, n_out: int) -> None:
        each = 4 if n_in % 4 == 0 else 1
        # Not a router: rounding would send tokens to other experts.
        if (
            self.s.half
            and n_out > self.s.width
            and all(panel.dtype == "float16" for panel in self.panels)
            and each == 4
        ):
            self._add_half(n_in)
            return
        with T.serial(n_in // each) as i:
            xs = []
            for row in self.rows:
                xs.append(local(each))
                with vector(each) as v:
                    T.buffer_store(xs[-1], row(i * each + v), [v])
            for panel, accs in zip(self.panels, self.accs, strict=True):
                weight = self._weights(panel, i * each)
                for j in range(each):
                    of_k = local(self.s.vector)
                    with vector(self.s.vector) as v:
                        T.buffer_store(of_k, weight(j, v), [v])
                    for acc, x in zip(accs, xs, strict=True):
                        with vector(self.s.vector) as v:
                            T.buffer_store(acc, acc[v] + x[j] * of_k[v], [v])

    def _add_half(self, n_in: int) -> None:
        s = self.s
        with T.serial(n_in // 4) as i:
            xs = []
            for row in self.rows:
                xs.append(local(4, "float16"))
                with vector(4) as v:
                    T.buffer_store(xs[-1], T.cast(row(i * 4 + v), "float16"), [v])
            for panel, accs in zip(self.panels, self.accs, strict=True):
                weights = [local(s.vector, "float16") for _ in range(4)]
                for j, of_k in enumerate(weights):
                    with vector(s.vector) as v:
                        at = panel.base + (i * 4 + j) * s.width + self.column * s.vector + v
                        T.buffer_store(of_k, load_half(panel.buffer, at, panel.base), [v])
                for acc, x in zip(accs, xs, strict=True):
                    with vector(s.vector) as v:
                        four = x[0] * weights[0][v]
                        for j in range(1, 4):
                            four = four + x[j] * weights[j][v]
                        T.buffer_store(acc, acc[v] + T.cast(four, "float32"), [v])

    def _weights(self, panel: Panel, k: Expr) -> Callable[[int, Expr], Expr]:
        """weight(j, v): element k + j of this thread's output v."""
        first, n = self.column * self.s.vector, self.s.vector
        if not panel.quantised:
            return lambda j, v: panel.weight(k + j, first + v)
        group, quad = T.bind(div(k, GROUP)), T.bind(div(mod(k, GROUP), 4))
        words, scales = local(n, "uint32"), local(n)
        with vector(n) as v:
            T.buffer_store(words, panel.quad_word(group, quad, first + v), [v])
            T.buffer_store(scales, panel.scale(group, first + v), [v])
        return lambda j, v: panel.code(words[v], quad, j) * scales[v]


def _tokens(s: GpuSchedule, n_tokens: int) -> tuple[int, int, int]:
    """(tokens of a thread, threads of a group over tokens, groups) for n_tokens."""
    rows = min(s.token_rows, n_tokens)
    threads = max(1, min(s.group_size // s.columns, -(-n_tokens // rows)))
    return rows, threads, -(-n_tokens // (rows * threads))


def matmat(
    name: str,
    s: GpuSchedule,
    params: Sequence[Param],
    n_tokens: int,
    n_in: int,
    n_out: int,
    weight: int,
    tokens: int,
    row: Callable[[list[Buffer], Expr, Expr], Expr],
    store: Callable[[list[Buffer], Expr, Expr, Expr], None],
) -> Generated:
    """A dense product of several tokens, as `kernels.matmul.linear`."""
    n_rows, threads, groups = _tokens(s, n_tokens)
    with group_kernel(name, params, (n_panels(s, n_out), groups, 1), (s.columns, threads, 1)) as k:
        panel, column = k.group[0], k.thread[0]
        first, valid = T.bind((k.group[1] * threads + k.thread[1]) * n_rows), k.buffers[tokens][0]

        def block() -> None:
            at = Panel.of(k.buffers[weight], panel, params[weight].dtype, n_in, s.panels)
            rows: list[Row] = [partial(row, k.buffers, T.bind(T.min(first + r, n_tokens - 1))) for r in range(n_rows)]
            tile = Block(s, n_in, rows, [at], column)
            tile.add(n_in, n_out)
            for r in range(n_rows):

                def put(r: int = r) -> None:
                    t, acc = first + r, tile.accs[0][r]
                    store_columns(s, n_out, panel, column, lambda v, n: store(k.buffers, t, n, acc[v]))

                when(first + r < valid, put)

        when(first < valid, block)
    return k.generated(n_tokens * n_in * n_out)


def expert_matmat(name: str, op: ExpertMatmul, dtypes: Sequence[str], s: GpuSchedule) -> list[Generated]:
    """An ExpertMatmul of several tokens. The experts work at once, so a second kernel adds up the slots of a token."""
    params = expert_params(op, dtypes, s.panels)
    if op.epilogue != "combine":
        return [_experts(name, op, dtypes, s, params)]
    slots = Param("scratch", op.n_tokens * op.top_k * op.n_out, written=True)
    inputs = [p for p in params if p.name not in ("out", "residual")]
    products = _experts(name, op, dtypes, s, [slots, *inputs])
    return [products, _sum_slots(f"{name}_sum", op, s, params)]


def _experts(name: str, op: ExpertMatmul, dtypes: Sequence[str], s: GpuSchedule, params: Sequence[Param]) -> Generated:
    """Each slot's product through its epilogue, or into `scratch` times its gate."""
    most = op.n_tokens  # of one expert: each token selects it once at most
    n_rows, threads, groups = _tokens(s, most)
    panels = n_panels(s, op.n_out)
    grid = (panels, groups, op.n_experts)
    with group_kernel(name, params, grid, (s.columns, threads, 1)) as k:
        b, (panel, _, expert), column = k.by_name, k.group, k.thread[0]
        first = T.bind((k.group[1] * threads + k.thread[1]) * n_rows)
        begin = T.bind(b["groups"][expert]) if op.routed else T.int32(0)
        count = T.bind(b["groups"][expert + 1] - begin) if op.routed else b["params"][0]

        def slot_of(i: Expr) -> Expr:
            """Slot i of the expert."""
            return b["groups"][op.n_experts + 1 + begin + i] if op.routed else i * op.top_k + expert

        def block() -> None:
            at = expert_panels(op, b, expert * panels + panel, dtypes, s.panels)
            # Rows behind the expert's last slot repeat it; only the real ones are stored.
            slots = [T.bind(slot_of(T.min(first + r, count - 1))) for r in range(n_rows)]
            bases = [T.bind((slot if op.per_slot else div(slot, op.top_k)) * op.x_stride) for slot in slots]
            rows: list[Row] = [lambda i, base=base: b["x"][base + i] for base in bases]  # type: ignore[misc]
            tile = Block(s, op.n_in, rows, at, column)
            tile.add(op.n_in, op.n_out)
            for r, slot in enumerate(slots):
                sums = [of_panel[r] for of_panel in tile.accs]
                when(first + r < count, partial(put, slot, sums))

        def put(slot: Expr, sums: Sequence[Buffer]) -> None:
            def store(v: Expr, n: Expr) -> None:
                if op.epilogue == "combine":
                    value = sums[0][v] * b["gates"][slot] if op.routed else sums[0][v]
                else:
                    value = epilogue(op, b, expert, n, [acc[v] for acc in sums])
                out = b["scratch" if op.epilogue == "combine" else "out"]
                T.buffer_store(out, value, [slot * op.n_out + n])

            store_columns(s, op.n_out, panel, column, store)

        when(first < count, block)
    return k.generated(op.n_tokens * op.top_k * op.n_in * op.n_out)


def _sum_slots(name: str, op: ExpertMatmul, s: GpuSchedule, of_op: Sequence[Param]) -> Generated:
    """out = residual + the sum of a token's slots."""
    by_name = {p.name: p for p in of_op}
    n = op.n_tokens * op.n_out
    scratch = Param("scratch", op.n_tokens * op.top_k * op.n_out)
    out = Param("out", n, written=True, read=False)
    params = [out, by_name["residual"], scratch, by_name["params"]]
    with tile_kernel(name, params, n, s.group_size) as k:
        b, t, at = k.by_name, T.bind(k.tile // op.n_out), k.tile

        def sum_up() -> None:
            total = b["residual"][at]
            for j in range(op.top_k):
                total = total + b["scratch"][(t * op.top_k + j) * op.n_out + at % op.n_out]
            T.buffer_store(b["out"], total, [at])

        when(t < b["params"][0], sum_up)
    return k.generated(n * op.top_k)
