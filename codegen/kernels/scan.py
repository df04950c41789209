"""RoutedScan, the routed-expert recurrence: a tile is a vector of channels, for all tokens and experts.

Three loop structures, all without communication between tiles:

- **token-sequential**: token by token, slot by slot, the state in memory. Decode.
- **grouped by expert**: expert by expert, that expert's tokens in order (through RouterTopk's slot lists, or all
  tokens), its state in registers for as long as the expert lasts. Prefill.
- **mixed** (param_mix): token by token, one state in registers, the selected experts' parameters mixed on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tvm.script.ir_builder import tirx as T

from mossnet_tg.codegen.kernels import maths, matmul
from mossnet_tg.codegen.kernels.build import (
    Buffer,
    Expr,
    Generated,
    Param,
    channel_tiles,
    div,
    for_channels,
    local,
    prefetch,
    tile_kernel,
    vector,
    when,
)
from mossnet_tg.codegen.layout import Matrix, Panels
from mossnet_tg.codegen.schedules import CpuSchedule, Schedule
from mossnet_tg.ops import LOG2E, ExpertMatmul, RoutedScan

# The states and rates of one tile are in 2 d_state streams, more than a processor follows by itself. Asked for so many
# tiles ahead, a token's recurrence takes half the time.
_AHEAD_TILES = 4


def scan_params(op: RoutedScan, dtypes: Sequence[str], panels: Panels) -> list[Param]:
    """The buffers of a RoutedScan, in the op's order."""
    T_, X, N, E = op.n_tokens, op.d_inner, op.d_state, op.n_experts
    slots = T_ * n_slots(op)
    params = [
        Param("y", T_ * X, written=True),
        Param("h", (E if op.mode == "separate_state" else 1) * N * X, written=True),
        Param("x", T_ * X),
        Param("xz", T_ * 2 * X),
        Param("p", slots * (op.dt_rank + 2 * N)),
        Param("A", (1 if op.shared_a else E) * N * X),
        Param("D", X),
    ]
    if T_ > 1:
        params.append(Param("dt", slots * X))
    else:
        params += [Matrix((E, X, op.dt_rank), dtypes[0], panels).param("weight"), Param("bias", E * X)]
    if E > 1:
        routed = T_ * op.top_k
        params += [Param("gates", routed), Param("idx", routed, "int32")]
        if T_ > 1:
            params.append(Param("groups", E + 1 + routed, "int32"))
    return [*params, Param("params", 2, "int32")]


def n_slots(op: RoutedScan) -> int:
    """The experts whose dt and p each token brings."""
    return op.n_experts if op.update == "all" else op.top_k


def routed_scan(name: str, op: RoutedScan, dtypes: Sequence[str], s: CpuSchedule) -> Generated | list[Generated]:
    """Of one token two kernels as a rule: dt_proj's matrix streams better alone than between states."""
    lanes, grouped = s.lanes * s.scan_vectors, bool(s.scan_grouped)
    if op.n_tokens > 1:
        return _recurrence(name, op, s, scan_params(op, dtypes, s.panels), lanes, s.scan_states, grouped)
    if not s.scan_apart:
        return _one_token(name, op, dtypes, s)
    return apart(name, op, dtypes, s, lanes, s.scan_states, lambda *of: matmul.expert_matmul(*of)[0])


def _one_token(name: str, op: RoutedScan, dtypes: Sequence[str], s: CpuSchedule) -> Generated:
    """One token in one kernel: a tile makes Delta for the channels of a panel of dt_proj and goes on with them."""
    params, X, lanes = scan_params(op, dtypes, s.panels), op.d_inner, math.gcd(s.width, s.lanes * s.scan_vectors)
    with tile_kernel(name, params, matmul.n_panels(s, X), s.group_size) as k:
        b, panel = k.by_name, k.tile
        delta = local(n_slots(op) * s.width)

        def place(slot: Expr, channel: Expr) -> Expr:
            return slot * s.width + channel - panel * s.width

        product = matmul.ExpertBody(_product(op), s, {**b, "out": delta, "x": b["p"]}, dtypes, panel, place)
        with T.serial(n_slots(op)) as slot:
            product.one_token(slot)

        def channels(c: Expr, lanes: int) -> None:
            Channels(op, s, b, c, lanes, lambda slot, v: delta[place(slot, c + v)]).emit(s.scan_states)

        with T.serial(s.width // lanes) as i:
            at = panel * (s.width // lanes) + i
            if X % s.width:
                when(at < channel_tiles(X, lanes), lambda: for_channels(X, lanes, at, channels))
            else:
                for_channels(X, lanes, at, channels)
    return k.generated(20 * n_slots(op) * op.d_state * X)


def apart(
    name: str,
    op: RoutedScan,
    dtypes: Sequence[str],
    s: Schedule,
    lanes: int,
    scan_states: int,
    product: Callable[[str, ExpertMatmul, Sequence[str], Any], Generated],
) -> list[Generated]:
    """One token in two kernels, Delta by `product` and then the recurrence, `lanes` channels a tile."""
    params = scan_params(op, dtypes, s.panels)
    made = Param("scratch", n_slots(op) * op.d_inner)
    others = [made, *(p for p in params if p.name not in ("weight", "bias"))]
    return [
        _delta(f"{name}_delta", op, dtypes, s, product),
        _recurrence(name, op, s, others, lanes, scan_states, grouped=False),
    ]


def _delta(
    name: str,
    op: RoutedScan,
    dtypes: Sequence[str],
    s: Schedule,
    make: Callable[[str, ExpertMatmul, Sequence[str], Any], Generated],
) -> Generated:
    """Delta of each slot of one token into `scratch`."""
    made = make(name, _product(op), dtypes, s)
    names = {"out": "scratch", "x": "p"}
    return replace(made, params=[replace(p, name=names.get(p.name, p.name)) for p in made.params])


def _product(op: RoutedScan) -> ExpertMatmul:
    """What makes Delta of each slot of one token."""
    n_in, stride = op.dt_rank, op.dt_rank + 2 * op.d_state
    routed = op.n_experts > 1 and op.update == "selected"
    return ExpertMatmul(1, op.n_experts, n_slots(op), n_in, op.d_inner, stride, True, routed, "softplus")


def _recurrence(
    name: str, op: RoutedScan, s: Schedule, params: Sequence[Param], lanes: int, scan_states: int, grouped: bool
) -> Generated:
    with tile_kernel(name, params, channel_tiles(op.d_inner, lanes), s.group_size) as k:
        b = k.by_name
        b.setdefault("dt", b.get("scratch"))

        def channels(c: Expr, lanes: int) -> None:
            Channels(op, s, b, c, lanes).emit(scan_states, grouped and op.n_tokens > 1)

        for_channels(op.d_inner, lanes, k.tile, channels)
    return k.generated(20 * op.n_tokens * n_slots(op) * op.d_state * op.d_inner)


class Channels:
    """The recurrence for `lanes` channels from channel `c` on. `dt(slot, v)`: Delta of lane v, else what `b` has."""

    def __init__(
        self,
        op: RoutedScan,
        s: Schedule,
        b: dict[str, Buffer],
        c: Expr,
        lanes: int,
        dt: Callable[[Expr, Expr], Expr] | None = None,
    ) -> None:
        self.op, self.schedule, self.b, self.c, self.lanes = op, s, b, c, lanes
        self.dt = dt or (lambda slot, v: b["dt"][slot * op.d_inner + c + v])
        self.every = op.update == "all" or op.n_experts == 1  # each token moves every state

    def emit(self, scan_states: int, grouped: bool = False) -> None:
        """The loops that the mode wants, `grouped` by expert or token by token."""
        if self.op.mode == "param_mix":
            self.mixed()
        elif grouped:
            self.grouped_by_expert()
        else:
            self.token_sequential(scan_states)

    def token_sequential(self, scan_states: int) -> None:
        """`scan_states` of a slot's states in a row, if that divides them."""
        op, b = self.op, self.b
        acc, step, drive = local(self.lanes), local(self.lanes), local(self.lanes)
        with T.serial(b["params"][0]) as t:
            with vector(self.lanes) as v:
                T.buffer_store(acc, b["D"][self.c + v] * self.x(t, v), [v])
            with T.serial(n_slots(op)) as j:
                slot = t * n_slots(op) + j
                expert = j if self.every else b["idx"][t * op.top_k + j]
                self._load_step(step, drive, t, slot)

                def one(n: Expr, t: Expr = t, slot: Expr = slot, expert: Expr = expert) -> None:
                    self._prefetch(expert, n)
                    with vector(self.lanes) as v:
                        at = self.state(expert, n, v)
                        rate = b["A"][self.rate(expert, n, v)]
                        new = self.advance(b["h"][at], rate, step[v], drive[v], self.b_of(slot, n))
                        T.buffer_store(b["h"], new, [at])
                        T.buffer_store(acc, acc[v] + self.gate(t, slot, expert) * self.c_of(slot, n) * new, [v])

                at_once = math.gcd(scan_states, op.d_state)
                with T.serial(op.d_state // at_once) as i:
                    for j in range(at_once):
                        one(i * at_once + j)
            with vector(self.lanes) as v:
                T.buffer_store(b["y"], acc[v] * self.silu_z(t, v), [t * op.d_inner + self.c + v])

    def _prefetch(self, expert: Expr, n: Expr) -> None:
        """On a CPU, of one token: ask for a state that is worked on some tiles later, and for its rate."""
        if self.op.n_tokens > 1 or self.schedule.group_size is not None:
            return
        ahead = _AHEAD_TILES * self.lanes
        prefetch(self.b["h"], self.state(expert, n, ahead), level=1)
        prefetch(self.b["A"], self.rate(expert, n, ahead), level=1)

    def grouped_by_expert(self) -> None:
        op, b, X = self.op, self.b, self.op.d_inner

        def add(t: Expr, slot: Expr, v: Expr, value: Expr) -> None:
            at = t * X + self.c + v
            T.buffer_store(b["y"], b["y"][at] + value, [at])

        with T.serial(b["params"][0]) as t, vector(self.lanes) as v:
            T.buffer_store(b["y"], b["D"][self.c + v] * self.x(t, v), [t * X + self.c + v])
        with T.serial(op.n_experts) as expert:
            self.one_expert(expert, add)
        with T.serial(b["params"][0]) as t, vector(self.lanes) as v:
            at = t * X + self.c + v
            T.buffer_store(b["y"], b["y"][at] * self.silu_z(t, v), [at])

    def one_expert(self, expert: Expr, store: Callable[[Expr, Expr, Expr, Expr], None]) -> None:
        """The slots of one expert; store(t, slot, v, gate * C . h) for each."""
        op, b = self.op, self.b
        h, acc, step, drive = local(op.d_state * self.lanes), local(self.lanes), local(self.lanes), local(self.lanes)
        with self._states() as n, vector(self.lanes) as v:
            T.buffer_store(h, b["h"][self.state(expert, n, v)], [n * self.lanes + v])
        first = T.int32(0) if self.every else b["groups"][expert]
        last = b["params"][0] if self.every else b["groups"][expert + 1]
        with T.serial(first, last) as i:
            slot = i * n_slots(op) + expert if self.every else b["groups"][op.n_experts + 1 + i]
            t = i if self.every else div(slot, op.top_k)
            self._load_step(step, drive, t, slot)
            with vector(self.lanes) as v:
                T.buffer_store(acc, T.float32(0), [v])
            with self._states() as n, vector(self.lanes) as v:
                at = n * self.lanes + v
                new = self.advance(h[at], b["A"][self.rate(expert, n, v)], step[v], drive[v], self.b_of(slot, n))
                T.buffer_store(h, new, [at])
                T.buffer_store(acc, acc[v] + self.c_of(slot, n) * new, [v])
            with vector(self.lanes) as v:
                store(t, slot, v, self.gate(t, slot, expert) * acc[v])
        with self._states() as n, vector(self.lanes) as v:
            T.buffer_store(b["h"], h[n * self.lanes + v], [self.state(expert, n, v)])

    def mixed(self) -> None:
        op, b, routed = self.op, self.b, self.op.n_experts > 1
        h, acc, step, drive = local(op.d_state * self.lanes), local(self.lanes), local(self.lanes), local(self.lanes)
        with self._states() as n, vector(self.lanes) as v:
            T.buffer_store(h, b["h"][self.state(0, n, v)], [n * self.lanes + v])
        with T.serial(b["params"][0]) as t:
            slots = [t * op.top_k + j for j in range(op.top_k)]
            gates = [b["gates"][slot] if routed else T.float32(1) for slot in slots]
            experts = [b["idx"][slot] if routed else 0 for slot in slots]

            def mix(values: list[Expr]) -> Expr:
                total = gates[0] * values[0]
                for gate, value in zip(gates[1:], values[1:], strict=True):
                    total = total + gate * value
                return total

            with vector(self.lanes) as v:
                T.buffer_store(acc, b["D"][self.c + v] * self.x(t, v), [v])
                T.buffer_store(step, mix([self.dt(slot, v) for slot in slots]), [v])
                T.buffer_store(drive, self.drive(step[v], self.x(t, v)), [v])
            with self._states() as n:
                B, C = (
                    T.bind(mix([self.b_of(slot, n) for slot in slots])),
                    T.bind(mix([self.c_of(slot, n) for slot in slots])),
                )
                with vector(self.lanes) as v:
                    at = n * self.lanes + v
                    rate = T.bind(mix([b["A"][self.rate(expert, n, v)] for expert in experts]))
                    new = self.advance(h[at], rate, step[v], drive[v], B)
                    T.buffer_store(h, new, [at])
                    T.buffer_store(acc, acc[v] + C * new, [v])
            with vector(self.lanes) as v:
                T.buffer_store(b["y"], acc[v] * self.silu_z(t, v), [t * op.d_inner + self.c + v])
        with self._states() as n, vector(self.lanes) as v:
            T.buffer_store(b["h"], h[n * self.lanes + v], [self.state(0, n, v)])

    # ---- the pieces

    def _states(self) -> Any:
        """The loop over N: unrolled, the state becomes registers; a long one stays a loop over the cache."""
        return T.unroll(self.op.d_state) if self.op.d_state <= self.schedule.scan_unroll else T.serial(self.op.d_state)

    def _load_step(self, step: Buffer, drive: Buffer, t: Expr, slot: Expr) -> None:
        with vector(self.lanes) as v:
            T.buffer_store(step, self.dt(slot, v), [v])
            T.buffer_store(drive, self.drive(step[v], self.x(t, v)), [v])

    def drive(self, step: Expr, x: Expr) -> Expr:
        """What multiplies B, but for zoh's factor: Delta x, or x."""
        return step * x if self.op.discretization == "mamba" else x

    def advance(self, old: Expr, rate: Expr, step: Expr, drive: Expr, B: Expr) -> Expr:
        """h_t of SPEC.md; `rate` is A log2(e)."""
        decay = T.bind(maths.DECAYS[self.schedule.decay](step * rate))
        if self.op.discretization == "zoh":
            # (a - 1) / A loses its digits where a is close to 1: there its series in Delta A takes over.
            z = T.bind(step * rate * T.float32(maths.LN2))
            series = step * (((z * T.float32(1 / 24) + T.float32(1 / 6)) * z + T.float32(0.5)) * z + T.float32(1))
            whole = (decay - T.float32(1)) * T.float32(LOG2E) / rate
            drive = drive * T.Select(z > T.float32(-0.03), series, whole)
        return T.bind(decay * old + drive * B)

    def gate(self, t: Expr, slot: Expr, expert: Expr) -> Expr:
        op, b = self.op, self.b
        if op.n_experts == 1:
            return T.float32(1)
        if op.update == "selected":
            return b["gates"][slot]
        gate = T.float32(0)
        for j in range(op.top_k):
            gate = gate + T.Select(b["idx"][t * op.top_k + j] == expert, b["gates"][t * op.top_k + j], T.float32(0))
        return gate

    def x(self, t: Expr, v: Expr) -> Expr:
        return self.b["x"][t * self.op.d_inner + self.c + v]

    def silu_z(self, t: Expr, v: Expr) -> Expr:
        return maths.silu(self.b["xz"][t * (2 * self.op.d_inner) + self.op.d_inner + self.c + v])

    def state(self, state: Expr, n: Expr, v: Expr) -> Expr:
        return (state * self.op.d_state + n) * self.op.d_inner + self.c + v

    def rate(self, expert: Expr, n: Expr, v: Expr) -> Expr:
        return self.state(0 if self.op.shared_a else expert, n, v)

    def b_of(self, slot: Expr, n: Expr) -> Expr:
        return self.b["p"][slot * (self.op.dt_rank + 2 * self.op.d_state) + self.op.dt_rank + n]

    def c_of(self, slot: Expr, n: Expr) -> Expr:
        return self.b_of(slot, n + self.op.d_state)
