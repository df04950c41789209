"""MossNet as an ONNX graph: SPEC.md, equation by equation, for one sequence and T tokens at once.

T = 1 is decode, T = a fixed chunk is prefill, as in `mossnet_tg.model`, whose names are used here. Shapes do not depend
on what the router says. One token fetches its experts: their weights and states are gathered. A chunk runs every expert
and weighs those that a token did not choose with 0, which costs E / k times the arithmetic of the experts; no padded
token reaches a state, for its Delta is 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, TensorProto

from mossnet_tg.codegen.onnx.attention import Window, attend, rotated
from mossnet_tg.codegen.onnx.graph import Graph, Value
from mossnet_tg.codegen.onnx.weights import Stored
from mossnet_tg.config import Config
from mossnet_tg.model import state_shapes

_NEXT = "next."  # begins the name of a state that is given out


@dataclass(frozen=True)
class _Routing:
    """The experts of each token: `experts` [T, k] and their gates. The K slots that work for all tokens are those
    experts where there is one token (`gathered`), else all experts; `gates` [T, K].
    """

    gates: Value
    experts: Value | None
    gathered: bool


def model_graph(c: Config, weights: Mapping[str, Stored], n_tokens: int, context: int) -> GraphProto:
    """The graph of one token, or of a chunk with an input `n_valid`.

    Inputs: ids int64 [n_tokens], position int64 [1], n_valid int64 [1], the states; outputs: logits [V] after the last
    valid token, the next position and states. `context` is as in `state_shapes`.
    """
    g = Graph()
    ids = g.input("ids", TensorProto.INT64, [n_tokens])
    n_valid = g.input("n_valid", TensorProto.INT64, [1]) if n_tokens > 1 else None
    position = g.input("position", TensorProto.INT64, [1])
    states = {
        f"layers.{i}.{name}": (g.input(f"layers.{i}.{name}", TensorProto.FLOAT, shape), shape)
        for i in range(c.n_layer)
        for name, shape in state_shapes(c, i, context).items()
    }
    writer = _Writer(c, g, weights, n_tokens, n_valid, position, context)
    advanced: dict[str, Value] = {}
    h = writer.cast("embed.weight", g.op("Gather", writer.weight("embed.weight"), ids, axis=0))  # [T, D]
    for i in range(c.n_layer):
        g.scope = f"layers.{i}."
        own = {name: value for name, (value, _) in states.items() if name.startswith(g.scope)}
        h, new = writer.layer(i, h, {name.removeprefix(g.scope): value for name, value in own.items()})
        advanced |= {g.scope + name: value for name, value in new.items()}
    g.scope = ""
    g.output("logits", writer.logits(h), TensorProto.FLOAT, [c.vocab_size])
    g.output(f"{_NEXT}position", position + (1 if n_valid is None else n_valid), TensorProto.INT64, [1])
    for name, (_, shape) in states.items():
        g.output(_NEXT + name, advanced[name], TensorProto.FLOAT, shape)
    return g.proto("prefill" if n_tokens > 1 else "decode")


class _Writer:
    """The parts of a model, written into a graph."""

    def __init__(
        self,
        c: Config,
        g: Graph,
        weights: Mapping[str, Stored],
        n_tokens: int,
        n_valid: Value | None,
        position: Value,
        context: int,
    ) -> None:
        self.c, self.g, self.stored, self.T, self.n_valid = c, g, weights, n_tokens, n_valid
        if c.swa.layers:
            n = g.constant([1]) if n_valid is None else n_valid
            self.window = Window(g, position, n, n_tokens, c.swa.window or context)
        # 1 for each token that counts, else 0 [T, 1, 1]; None: the one token does.
        self.valid: Value | None = None
        if n_valid is not None:
            counts = g.op("Less", np.arange(n_tokens), n_valid)
            self.valid = g.op("Reshape", g.op("Cast", counts, to=TensorProto.FLOAT), [n_tokens, 1, 1])

    def layer(self, i: int, h: Value, states: Mapping[str, Value]) -> tuple[Value, dict[str, Value]]:
        """h [T, D] after layer i and its next states (SPEC.md, Stack)."""
        new: dict[str, Value] = {}
        if self.c.has_ssm(i):
            y = self._time_mix(self._rms_norm(h, "ssm.norm.weight"), states, new)
            h = h + self._linear(y, "ssm.out_proj.weight")
        if self.c.has_swa(i):
            y = self._attention(self._rms_norm(h, "swa.norm.weight"), states["ring"], new)
            h = h + self._linear(y, "swa.o_proj.weight")
        if self.c.mlp is not None:
            h = h + self._mlp(self._rms_norm(h, "mlp.norm.weight"))
        return h, new

    def logits(self, h: Value) -> Value:
        """[V], after the last valid token."""
        if self.n_valid is not None:
            h = self.g.op("Gather", h, self.n_valid - 1, axis=0)  # [1, D]
        head = "embed.weight" if self.c.tie_embeddings else "lm_head.weight"
        return self.g.op("Reshape", self._linear(self._rms_norm(h, "norm_f.weight"), head), [self.c.vocab_size])

    # ---- weights and what is done with them

    def weight(self, name: str) -> Value:
        """A parameter as it is stored; `name` is without the layer."""
        return self.g.initializer(self.stored[self.g.scope + name].tensor())

    def cast(self, name: str, value: Value) -> Value:
        """`value`, which is of the type of a parameter, as float32."""
        narrow = self.stored[self.g.scope + name].is_narrow
        return self.g.op("Cast", value, to=TensorProto.FLOAT) if narrow else value

    def _of_slots(self, name: str, routing: _Routing) -> Value:
        """A parameter [E, ...] of the slots [K, ...], float32."""
        weight = self.weight(name)
        if routing.gathered and self.stored[self.g.scope + name].shape[0] > 1:
            weight = self._gathered(weight, routing)
        return self.cast(name, weight)

    def _gathered(self, x: Value, routing: _Routing) -> Value:
        """x [E, ...] of the one token's experts [k, ...]."""
        assert routing.experts is not None
        return self.g.op("Gather", x, self.g.op("Squeeze", routing.experts, [0]), axis=0)

    def _linear(self, x: Value, name: str) -> Value:
        """x [T, n_in] W^T [T, n_out]."""
        return self.g.op("Gemm", x, self.cast(name, self.weight(name)), transB=1)

    def _expert_product(self, x: Value, name: str, routing: _Routing, per_slot: bool) -> Value:
        """x [T, n_in], or [T, K, n_in] when `per_slot`, times each slot's matrix [T, K, n_out].

        The tokens are columns here, so that no matrix is transposed.
        """
        columns = self.g.op("Transpose", x, perm=[1, 2, 0] if per_slot else [1, 0])
        return self.g.op("Transpose", self.g.op("MatMul", self._of_slots(name, routing), columns), perm=[2, 0, 1])

    def _rms_norm(self, x: Value, name: str) -> Value:
        """x [..., n], normed over the last axis."""
        mean = self.g.op("ReduceMean", x * x, [-1], keepdims=1)
        return x / self.g.op("Sqrt", mean + self.c.norm_eps) * self.weight(name)

    def _silu(self, x: Value) -> Value:
        return x * self.g.op("Sigmoid", x)

    # ---- mixtures

    def _route(self, part: str, u: Value, n_experts: int, top_k: int, may_gather: bool) -> _Routing:
        """Where the tokens u [T, D] of a mixture go (SPEC.md, T_t and g_ti)."""
        g = self.g
        if n_experts == 1:
            return _Routing(self._constant(1.0, self.T, 1), None, False)
        logits = self._linear(u, f"{part}.router.weight")  # [T, E]
        # By logits, as in the kernels: their softmax may be 0 for several. Of equals the lowest expert comes first.
        top, experts = g.ops("TopK", 2, logits, [top_k], axis=-1)  # [T, k]
        if self.c.router.norm_topk:
            gates = g.op("Softmax", top, axis=-1)
        else:
            gates = g.op("GatherElements", g.op("Softmax", logits, axis=-1), experts, axis=1)
        if self.T == 1 and top_k < n_experts and may_gather:
            return _Routing(gates, experts, True)
        return _Routing(self._spread(gates, experts, n_experts), experts, False)

    def _spread(self, values: Value, experts: Value, n_experts: int) -> Value:
        """values [T, k] of the tokens' experts among all [T, E], 0 for the others."""
        return self.g.op("ScatterElements", self._constant(0.0, self.T, n_experts), experts, values, axis=1)

    def _constant(self, value: float, *shape: int) -> Value:
        return self.g.constant(np.full(shape, value, np.float32))

    def _mlp(self, v: Value) -> Value:
        """m_t [T, D] (SPEC.md, MLP mixture)."""
        assert self.c.mlp is not None
        routing = self._route("mlp", v, self.c.mlp.n_experts, self.c.mlp.top_k, may_gather=True)
        up = self._expert_product(v, "mlp.w1.weight", routing, per_slot=False)  # [T, K, F]
        gated = self._silu(up) * self._expert_product(v, "mlp.w3.weight", routing, per_slot=False)
        down = self._expert_product(gated, "mlp.w2.weight", routing, per_slot=True)  # [T, K, D]
        return self.g.op("ReduceSum", down * self.g.op("Unsqueeze", routing.gates, [2]), [1], keepdims=0)

    # ---- attention

    def _attention(self, u: Value, ring: Value, new: dict[str, Value]) -> Value:
        """[T, H d] (SPEC.md, Sliding-window attention); the caller applies W_o."""
        g, s, T = self.g, self.c.swa, self.T
        heads = (("q", s.n_heads), ("k", s.n_kv_heads), ("v", s.n_kv_heads))
        q, k, v = (g.op("Reshape", self._linear(u, f"swa.{name}_proj.weight"), [T, n, s.head_dim]) for name, n in heads)
        if s.rope_theta is not None:
            frequencies = self.weight("swa.frequencies")
            q, k = (rotated(g, x, self.window.positions, frequencies, s.head_dim) for x in (q, k))
        out, new["ring"] = attend(g, q, k, v, ring, self.window, (T, s.n_heads, s.n_kv_heads, s.head_dim))
        return out

    # ---- the time mix

    def _time_mix(self, u: Value, states: Mapping[str, Value], new: dict[str, Value]) -> Value:
        """y_t * SiLU(z_t) [T, X] (SPEC.md, TimeMix); the caller applies W_out."""
        g, X, N, R, s = self.g, self.c.d_inner, self.c.ssm.d_state, self.c.dt_rank, self.c.ssm
        mixed, every = s.mode == "param_mix", s.state_update == "all"
        routing = self._route("ssm", u, s.n_experts, s.top_k, may_gather=not every)
        into, z = g.split(self._linear(u, "ssm.in_proj.weight"), (X, X), axis=1)
        x = self._convolved(into, states.get("conv"), new)  # [T, X]
        p = self._expert_product(x, "ssm.x_proj.weight", routing, per_slot=False)
        d, b, cc = g.split(p, (R, N, N), axis=2)  # [T, K, R], [T, K, N] twice
        if s.dt_bc_norm:
            d, b, cc = (self._rms_norm(v, f"ssm.{n}_norm.weight") for v, n in ((d, "dt"), (b, "b"), (cc, "c")))
        dt = self._expert_product(d, "ssm.dt_proj.weight", routing, per_slot=True)
        dt = g.op("Softplus", dt + self._of_slots("ssm.dt_proj.bias", routing))  # [T, K, X]
        gates = g.op("Unsqueeze", routing.gates, [2])  # [T, K, 1]
        if mixed:
            dt, b, cc = (g.op("ReduceSum", v * gates, [1], keepdims=1) for v in (dt, b, cc))  # [T, 1, .]
        else:
            cc = cc * gates
            if routing.experts is not None and not every and not routing.gathered:
                chosen = self._spread(self._constant(1.0, self.T, s.top_k), routing.experts, s.n_experts)
                dt = dt * g.op("Unsqueeze", chosen, [2])  # Delta 0 keeps a state as it is
        if self.valid is not None:
            dt = dt * self.valid
        gathers_state = routing.gathered and not mixed
        h = self._gathered(states["ssm"], routing) if gathers_state else states["ssm"]  # [K, N, X]
        h, y = self._recurrence(h, (dt, b, cc, x), routing)
        if gathers_state:
            assert routing.experts is not None
            h = g.op("ScatterND", states["ssm"], g.op("Transpose", routing.experts, perm=[1, 0]), h)
        new["ssm"] = h
        return (y + x * self.weight("ssm.D")) * self._silu(z)

    def _convolved(self, into: Value, before: Value | None, new: dict[str, Value]) -> Value:
        """x_t [T, X] from c_t [T, X] and the last W - 1 of before; those of after go to `new`."""
        g, W = self.g, self.c.ssm.d_conv
        rows = into
        if before is not None:
            rows = g.op("Concat", before, into, axis=0)  # [W - 1 + T, X]
            first = 1 if self.n_valid is None else self.n_valid
            new["conv"] = g.op("Gather", rows, g.constant(np.arange(W - 1)) + first, axis=0)
        taps = g.split(self.weight("ssm.taps"), [1] * W, axis=0)  # [1, X] each
        total = g.op("Slice", rows, [0], [self.T], [0]) * taps[0]
        for j in range(1, W):
            total = total + g.op("Slice", rows, [j], [j + self.T], [0]) * taps[j]
        return self._silu(total + self.weight("ssm.conv.bias") if self.c.ssm.conv_bias else total)

    def _recurrence(self, h: Value, rows: tuple[Value, ...], routing: _Routing) -> tuple[Value, Value]:
        """The state after all tokens and y [T, X] without skip, from h [K, N, X] and dt [T, K, X], B and C (times the
        gates) [T, K, N], x [T, X]; K is 1 for mixed parameters.
        """
        c, g, T, X, N = self.c, self.g, self.T, self.c.d_inner, self.c.ssm.d_state
        rates = self._of_slots("ssm.A", routing)  # [K, N, X]
        mixed = c.ssm.mode == "param_mix"
        n_rates = self.stored[g.scope + "ssm.A"].shape[0]
        dt, b, cc, x = rows
        each = [g.op("Unsqueeze", dt, [2]), g.op("Unsqueeze", b, [3]), g.op("Reshape", cc, [T, 1, -1]), x]
        if mixed:
            gates = routing.gates  # [T, K]
            if n_rates == 1:  # shared: all slots' gates count for the one
                gates = g.op("ReduceSum", gates, [1], keepdims=1)
            each.append(g.op("Unsqueeze", gates, [1]))
            rates = g.op("Reshape", rates, [-1, N * X])

        def step(g: Graph, h: Value, row: Sequence[Value]) -> tuple[Value, Value]:
            """One token: dt [K, 1, X], B [K, N, 1], C [1, K N], x [X] and, for mixed parameters, gates [1, K]."""
            dt, b, cc, x, *gates = row
            rate = g.seen(rates)
            if gates:
                rate = g.op("Reshape", g.op("MatMul", gates[0], rate), [1, N, X])
            z = dt * rate
            decay = g.op("Exp", z)
            factor = dt
            if c.ssm.discretization == "zoh":  # by its series where (decay - 1) / A would lose digits
                series = dt * (((z * (1 / 24) + 1 / 6) * z + 0.5) * z + 1.0)
                factor = g.op("Where", g.op("Greater", z, -0.03), series, (decay - 1.0) / rate)
            h = decay * h + factor * (b * x)
            return h, g.op("MatMul", cc, g.op("Reshape", h, [-1, X]))  # [1, X]

        if T == 1:
            return step(g, h, [g.op("Squeeze", value, [0]) for value in each])
        h, y = g.scan(step, h, each)
        return h, g.op("Reshape", y, [T, X])
