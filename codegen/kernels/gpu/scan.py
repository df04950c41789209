"""The routed-expert recurrence by groups of threads.

One token: a group takes a panel of channels; its threads split first the making of Delta, then slots times states, and
sum what the states say. Or apart: one kernel makes Delta, and in another a thread takes a channel, without barriers.
Several tokens: a thread takes one channel of one expert and keeps the state in registers over that expert's tokens;
since the experts work at once, a second kernel adds up each token's slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm.script.ir_builder import tirx as T

from mossnet_tg.codegen.kernels import maths
from mossnet_tg.codegen.kernels.build import (
    Buffer,
    Expr,
    Frame,
    Generated,
    Param,
    barrier,
    group_kernel,
    load,
    local,
    shared,
    tile_kernel,
    when,
)
from mossnet_tg.codegen.kernels.gpu.matvec import expert_matvec
from mossnet_tg.codegen.kernels.gpu.sums import sum_splits
from mossnet_tg.codegen.kernels.scan import Channels, apart, n_slots, scan_params
from mossnet_tg.codegen.schedules.gpu import GpuSchedule
from mossnet_tg.ops import RoutedScan


def routed_scan(name: str, op: RoutedScan, dtypes: Sequence[str], s: GpuSchedule) -> list[Generated]:
    if op.n_tokens == 1:
        if s.scan_apart:
            return apart(name, op, dtypes, s, 1, s.scan_states, expert_matvec)
        return [_one_token(name, op, dtypes, s)]
    params = scan_params(op, dtypes, s.panels)
    if op.mode == "param_mix":
        return [_mixed(name, op, s, params)]
    return [_experts(name, op, s, params), _sum_slots(f"{name}_sum", op, s, params)]


def _work(op: RoutedScan) -> int:
    return 20 * op.n_tokens * n_slots(op) * op.d_state * op.d_inner


# ---- several tokens


def _mixed(name: str, op: RoutedScan, s: GpuSchedule, params: Sequence[Param]) -> Generated:
    with tile_kernel(name, params, op.d_inner, s.group_size) as k:
        Channels(op, s, k.by_name, k.tile, 1).mixed()
    return k.generated(_work(op))


def _partial(op: RoutedScan) -> Param:
    """Each slot's share of y."""
    return Param("scratch", op.n_tokens * n_slots(op) * op.d_inner, written=True)


def _experts(name: str, op: RoutedScan, s: GpuSchedule, of_op: Sequence[Param]) -> Generated:
    params = [_partial(op), *(p for p in of_op if p.name not in ("y", "xz", "D"))]
    X = op.d_inner
    with group_kernel(name, params, (-(-X // s.group_size), op.n_experts, 1), (s.group_size, 1, 1)) as k:
        b, c = k.by_name, T.bind(k.group[0] * s.group_size + k.thread[0])
        body = Channels(op, s, b, c, 1)

        def store(t: Expr, slot: Expr, v: Expr, value: Expr) -> None:
            T.buffer_store(b["scratch"], value, [slot * X + c])

        when(c < X, lambda: body.one_expert(k.group[1], store))
    return k.generated(_work(op))


def _sum_slots(name: str, op: RoutedScan, s: GpuSchedule, of_op: Sequence[Param]) -> Generated:
    X, K = op.d_inner, n_slots(op)
    scratch = Param("scratch", op.n_tokens * K * X)
    params = [*(p for p in of_op if p.name in ("y", "x", "xz", "D", "params")), scratch]
    with tile_kernel(name, params, op.n_tokens * X, s.group_size) as k:
        b, t, c = k.by_name, T.bind(k.tile // X), T.bind(k.tile % X)
        body = Channels(op, s, b, c, 1)

        def sum_up() -> None:
            total = b["D"][c] * body.x(t, 0)
            for j in range(K):
                total = total + b["scratch"][(t * K + j) * X + c]
            T.buffer_store(b["y"], total * body.silu_z(t, 0), [k.tile])

        when(t < b["params"][0], sum_up)
    return k.generated(op.n_tokens * X * (K + 20))


# ---- one token


def _one_token(name: str, op: RoutedScan, dtypes: Sequence[str], s: GpuSchedule) -> Generated:
    params = scan_params(op, dtypes, s.panels)
    with group_kernel(name, params, (-(-op.d_inner // s.width), 1, 1), (s.width, s.threads // s.width, 1)) as k:
        _OneToken(op, dtypes, s, k).emit()
    return k.generated(_work(op))


class _OneToken:
    """A group: thread (column, split) works on channel `column` of the group's panel, on the split's share."""

    def __init__(self, op: RoutedScan, dtypes: Sequence[str], s: GpuSchedule, k: Frame) -> None:
        self.op, self.dtypes, self.s, self.b = op, dtypes, s, k.by_name
        self.panel, (self.column, self.split, _) = k.group[0], k.thread
        self.n_splits = s.threads // s.width
        # Threads of channels that do not exist make the last one's Delta, and leave the states alone.
        self.channel = T.bind(self.panel * s.width + self.column)
        self.exists = self.channel < op.d_inner
        c = self.channel if op.d_inner % s.width == 0 else T.bind(T.min(self.channel, op.d_inner - 1))
        self.c, self.body = c, Channels(op, s, self.b, c, 1)

    def emit(self) -> None:
        op, b, body, acc = self.op, self.b, self.body, local(1)
        deltas = self._deltas()
        T.buffer_store(acc, T.float32(0), [0])
        if op.mode == "param_mix":
            self._mixed(deltas, acc)
        else:
            self._separate(deltas, acc)
        sum_splits([acc], 1, self.column, self.s.width, self.split, self.n_splits)
        y = (acc[0] + b["D"][self.c] * body.x(0, 0)) * body.silu_z(0, 0)
        self._if_exists(lambda: T.buffer_store(b["y"], y, [self.c]), self.split == 0)

    def _if_exists(self, then: Callable[[], None], condition: Expr | None = None) -> None:
        if self.op.d_inner % self.s.width:
            condition = self.exists if condition is None else T.And(condition, self.exists)
        when(condition, then) if condition is not None else then()

    def _expert(self, slot: Expr) -> Expr:
        return slot if self.body.every else self.b["idx"][slot]

    def _strided(self, n: int, body: Callable[[Expr], None]) -> None:
        """body(i) for each i < n of this thread's split."""
        whole, rest = divmod(n, self.n_splits)
        if whole:
            with T.serial(whole) as i:
                body(T.bind(i * self.n_splits + self.split))
        if rest:
            when(self.split < rest, lambda: body(T.bind(whole * self.n_splits + self.split)))

    def _deltas(self) -> Buffer:
        """Delta of every slot in shared memory, [slots, width]: the splits share slots times parts of R."""
        op, s, b, K, R = self.op, self.s, self.b, n_slots(self.op), self.op.dt_rank
        deltas = shared(K * s.width)
        parts = 1
        while parts * 2 * K <= self.n_splits:
            parts *= 2
        panels, at_once = -(-op.d_inner // s.width), self.n_splits // parts
        part, first = (T.bind(self.split % parts), T.bind(self.split // parts)) if parts > 1 else (0, self.split)
        kept = shared(self.n_splits * s.width)
        for begin in range(0, K, at_once):
            slot = T.bind(T.min(first + begin, K - 1))
            expert = T.bind(self._expert(slot))
            total = local(1)
            T.buffer_store(total, T.float32(0), [0])
            with T.serial(-(-R // parts)) as i:
                r = i * parts + part

                def add(r: Expr = r, slot: Expr = slot, expert: Expr = expert, total: Buffer = total) -> None:
                    at = ((expert * panels + self.panel) * R + r) * s.width + self.column
                    d = b["p"][slot * (R + 2 * op.d_state) + r]
                    T.buffer_store(total, total[0] + d * load(b["weight"], at, self.dtypes[0]), [0])

                when(r < R, add) if R % parts else add()
            T.buffer_store(kept, total[0], [self.split * s.width + self.column])
            barrier()

            def finish(begin: int = begin, slot: Expr = slot, expert: Expr = expert) -> None:
                value = kept[self.split * s.width + self.column]
                for other in range(1, parts):
                    value = value + kept[(self.split + other) * s.width + self.column]
                delta = maths.softplus(value + b["bias"][expert * op.d_inner + self.c])
                T.buffer_store(deltas, delta, [slot * s.width + self.column])

            mine = first + begin < K
            when(T.And(part == 0, mine) if parts > 1 else mine, finish)
            barrier()
        return deltas

    def _separate(self, deltas: Buffer, acc: Buffer) -> None:
        op, b, body, N = self.op, self.b, self.body, self.op.d_state

        def one(i: Expr) -> None:
            slot, n = (T.bind(i // N), T.bind(i % N)) if n_slots(op) > 1 else (T.int32(0), i)
            expert = T.bind(self._expert(slot)) if op.n_experts > 1 else 0
            step = T.bind(deltas[slot * self.s.width + self.column])
            at = T.bind(body.state(expert, n, 0))
            drive = T.bind(body.drive(step, body.x(0, 0)))
            new = body.advance(b["h"][at], b["A"][body.rate(expert, n, 0)], step, drive, body.b_of(slot, n))
            T.buffer_store(b["h"], new, [at])
            T.buffer_store(acc, acc[0] + body.gate(0, slot, expert) * body.c_of(slot, n) * new, [0])

        self._if_exists(lambda: self._strided(n_slots(op) * N, one))

    def _mixed(self, deltas: Buffer, acc: Buffer) -> None:
        op, b, body = self.op, self.b, self.body
        slots = range(op.top_k)
        gates = [b["gates"][slot] if op.n_experts > 1 else T.float32(1) for slot in slots]
        experts = [self._expert(slot) if op.n_experts > 1 else 0 for slot in slots]

        def mix(values: Sequence[Expr]) -> Expr:
            total = gates[0] * values[0]
            for gate, value in zip(gates[1:], values[1:], strict=True):
                total = total + gate * value
            return T.bind(total)

        step = mix([deltas[slot * self.s.width + self.column] for slot in slots])
        drive = T.bind(body.drive(step, body.x(0, 0)))

        def one(n: Expr) -> None:
            at = T.bind(body.state(0, n, 0))
            rate = mix([b["A"][body.rate(expert, n, 0)] for expert in experts])
            B, C = mix([body.b_of(slot, n) for slot in slots]), mix([body.c_of(slot, n) for slot in slots])
            new = body.advance(b["h"][at], rate, step, drive, B)
            T.buffer_store(b["h"], new, [at])
            T.buffer_store(acc, acc[0] + C * new, [0])

        self._if_exists(lambda: self._strided(op.d_state, one))
