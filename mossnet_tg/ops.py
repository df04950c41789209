"""The custom scheduled ops: what MossNet does that a tensor graph says badly, each as one kernel with its state in
place.

An op is a dataclass of its sizes and variants (`RoutedScan`, …) and a function that places it into a lazy graph. It
has two lives:

- its **UOp body** below runs on any plain tinygrad device: short, sequential, the definition of what the op computes;
- `codegen.capture` recognises it by its kernel name, which carries the dataclass as JSON, and `codegen/kernels/` puts a
scheduled TensorIR generator in its place.

Shapes, with T tokens, X d_inner, N d_state, R dt_rank, W d_conv, E experts, S states (E or 1), k slots a token
(top_k, or E when every expert runs). All activations and states are float32, indices int32. `params` is int32 [2]:
how many of the T tokens are valid, and the position of the first; tokens behind the valid ones must leave every state
as it is.

States lie with channels innermost: conv [W-1, X], ssm [S, N, X], ring [2, n_kv_heads, window, head_dim].
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from tinygrad import Tensor, dtypes
from tinygrad.dtype import AddrSpace
from tinygrad.uop.ops import AxisType, KernelInfo, UOp

LOG2E = 1.4426950408889634

Body: TypeAlias = Callable[..., UOp]


@dataclass(frozen=True)
class RmsNorm:
    """RMS norm over each segment of a row, in one pass.

    out, x [n_rows, sum of segments]; then one weight [n] for each segment of n columns.
    """

    n_rows: int
    segments: tuple[int, ...]
    eps: float


@dataclass(frozen=True)
class CausalConv:
    """Depthwise causal convolution with bias and SiLU (SPEC.md, TimeMix, x_t).

    out [T, X]; state [W-1, X] (in place, oldest first; absent when W = 1); xz [T, 2X], of which columns 0..X-1 are
    convolved; weight [W, X]; bias [X] when `bias`; params.
    """

    n_tokens: int
    d_inner: int
    d_conv: int
    bias: bool


@dataclass(frozen=True)
class RouterTopk:
    """Softmax, top-k and gates (SPEC.md, T_t and g_ti); ties go to the lowest expert.

    gates [T, k]; idx [T, k]; groups int32 [E + 1 + T k]: where each expert's slots begin, then the slots t k + j of
    all valid tokens, sorted by expert and by token within one; logits [T, E]; params.
    """

    n_tokens: int
    n_experts: int
    top_k: int
    norm_topk: bool


@dataclass(frozen=True)
class NormRouter:
    """RmsNorm, the router's product and RouterTopk for one token, in one launch: decode does this twice a layer.

    out [1, D]: x, normed; gates [1, k]; idx [1, k]; logits [1, E]; x [1, D]; norm [D]; weight [E, D]. One token has no
    groups.
    """

    d_model: int
    n_experts: int
    top_k: int
    norm_topk: bool
    eps: float


@dataclass(frozen=True)
class ExpertMatmul:
    """Each slot's row times its expert's matrix.

    out [T, k, n_out] ("combine": [T, n_out]); x [T, x_stride] or, when `per_slot`, [T, k, x_stride], of which the
    first n_in columns are read; weight [E, n_out, n_in]; then, by `epilogue`:

    - "none": out = W x
    - "softplus": bias [E, n_out]: out = softplus(W x + bias)
    - "swiglu": weight3 [E, n_out, n_in]: out = SiLU(W x) * (W3 x)
    - "combine": residual [T, n_out], and gates [T, k] when routed: out = residual + sum over the slots of gate * (W x)

    then, when `routed`, idx [T, k] and for several tokens groups of RouterTopk; params. When not routed, slot j is
    expert j and k = E.
    """

    n_tokens: int
    n_experts: int
    top_k: int
    n_in: int
    n_out: int
    x_stride: int
    per_slot: bool
    routed: bool
    epilogue: Literal["none", "softplus", "swiglu", "combine"]


@dataclass(frozen=True)
class RoutedScan:
    """The routed-expert recurrence with skip and gate: y_t * SiLU(z_t) of SPEC.md, TimeMix.

    y [T, X]; h [S, N, X] (in place); x [T, X]; xz [T, 2X], whose columns X..2X-1 are z; p [T, K, R + 2N], whose
    columns 0.. are d, R.. are B and R+N.. are C; A [E, N, X] (or [1, N, X] when `shared_a`), as A log2(e); D [X];
    Delta: of several tokens dt [T, K, X] (after softplus), of one token what it is made of, dt_proj's weight [E, X, R]
    and bias [E, X]; when E > 1 gates and idx [T, k], and of several tokens groups of RouterTopk; params. K is k, or E
    when every state advances (`update` "all").
    """

    n_tokens: int
    d_inner: int
    d_state: int
    dt_rank: int
    n_experts: int
    top_k: int
    shared_a: bool
    mode: Literal["separate_state", "param_mix"]
    update: Literal["selected", "all"]
    discretization: Literal["mamba", "zoh"]


@dataclass(frozen=True)
class SwaAttention:
    """Causal grouped-query attention over the last `window` tokens, the ring cache updated in place.

    out [T, n_heads head_dim]; ring [2, n_kv_heads, window, head_dim] (keys, then values; position p lies at p %
    window); q [T, n_heads head_dim]; k, v [T, n_kv_heads head_dim] (after RoPE); params.
    """

    n_tokens: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    window: int


Op: TypeAlias = RmsNorm | CausalConv | RouterTopk | NormRouter | ExpertMatmul | RoutedScan | SwaAttention

_KINDS: dict[str, type[Any]] = {k.__name__: k for k in get_args(Op)}
_PREFIX = "moss."


def kernel_name(op: Op) -> str:
    """The kernel name that carries `op`; `parse_kernel_name` reads it back."""
    return f"{_PREFIX}{type(op).__name__} {json.dumps(dataclasses.asdict(op))}"


def parse_kernel_name(name: str) -> Op | None:
    """The op that a scheduled kernel's name carries, None for a kernel of tinygrad's own."""
    if not name.startswith(_PREFIX):
        return None
    kind, sizes = name[len(_PREFIX) :].split(" ", 1)
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(sizes).items()}
    op: Op = _KINDS[kind](**fields)
    return op


def n_outputs(op: Op) -> int:
    """How many of the op's leading buffers it writes (a state among them is read too)."""
    if isinstance(op, ExpertMatmul | RmsNorm) or (isinstance(op, CausalConv) and op.d_conv == 1):
        return 1
    return {RouterTopk: 3, NormRouter: 4}.get(type(op), 2)


# ---- placing an op into a graph


def _place(op: Op, body: Body, *buffers: Tensor) -> list[Tensor]:
    """One kernel call; the tensors of the buffers it writes. A state tensor is replaced, so that later uses come
    after.
    """
    name = kernel_name(op)

    def kernel(*args: UOp) -> UOp:
        return body(op, *args).sink(arg=KernelInfo(name=name, opts_to_apply=()))

    return list(Tensor.custom_kernel(*buffers, fxn=kernel)[: n_outputs(op)])


def rms_norm(op: RmsNorm, x: Tensor, *weights: Tensor) -> Tensor:
    """x, normed; the shape of x."""
    return _place(op, _rms_norm, Tensor.empty(*x.shape), x, *weights)[0]


def causal_conv(
    op: CausalConv, state: Tensor | None, xz: Tensor, weight: Tensor, bias: Tensor | None, params: Tensor
) -> Tensor:
    """x [T, X]; advances `state`."""
    out = Tensor.empty(op.n_tokens, op.d_inner)
    states, biases = [] if state is None else [state], [] if bias is None else [bias]
    x, *new_states = _place(op, _causal_conv, out, *states, xz, weight, *biases, params)
    for old, new in zip(states, new_states, strict=True):
        old.replace(new)
    return x


def router_topk(op: RouterTopk, logits: Tensor, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(gates [T, k], idx [T, k], groups [E + 1 + T k])."""
    slots = (op.n_tokens, op.top_k)
    groups = Tensor.empty(op.n_experts + 1 + op.n_tokens * op.top_k, dtype=dtypes.int)
    gates, idx, groups = _place(
        op, _router_topk, Tensor.empty(*slots), Tensor.empty(*slots, dtype=dtypes.int), groups, logits, params
    )
    return gates, idx, groups


def norm_router(op: NormRouter, x: Tensor, norm: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(x normed [1, D], gates [1, k], idx [1, k])."""
    slots = (1, op.top_k)
    outputs = [Tensor.empty(*x.shape), Tensor.empty(*slots), Tensor.empty(*slots, dtype=dtypes.int)]
    u, gates, idx, _ = _place(op, _norm_router, *outputs, Tensor.empty(1, op.n_experts), x, norm, weight)
    return u, gates, idx


def expert_matmul(op: ExpertMatmul, x: Tensor, *operands: Tensor) -> Tensor:
    """out; `operands` in the order that ExpertMatmul names them, from the weight on."""
    shape = (op.n_tokens, op.n_out) if op.epilogue == "combine" else (op.n_tokens, op.top_k, op.n_out)
    return _place(op, _expert_matmul, Tensor.empty(*shape), x, *operands)[0]


def routed_scan(op: RoutedScan, h: Tensor, *operands: Tensor) -> Tensor:
    """y [T, X]; advances `h`; `operands` in the order that RoutedScan names them, from x on."""
    y, new_h = _place(op, _routed_scan, Tensor.empty(op.n_tokens, op.d_inner), h, *operands)
    h.replace(new_h)
    return y


def swa_attention(op: SwaAttention, ring: Tensor, q: Tensor, k: Tensor, v: Tensor, params: Tensor) -> Tensor:
    """out [T, n_heads head_dim]; appends the valid tokens to `ring`."""
    out, new_ring = _place(
        op, _swa_attention, Tensor.empty(op.n_tokens, op.n_heads * op.head_dim), ring, q, k, v, params
    )
    ring.replace(new_ring)
    return out


# ---- UOp bodies: one sequential loop nest each


def _loop(n: int, axis: int) -> UOp:
    return UOp.range(n, axis, AxisType.LOOP)


def _registers(n: int, slot: int, dtype: Any = dtypes.float) -> UOp:
    return UOp.placeholder((n,), dtype, slot, addrspace=AddrSpace.REG)


def _exp(x: UOp) -> UOp:
    return (x * LOG2E).exp2()


def _sigmoid(x: UOp) -> UOp:
    return 1.0 / (1.0 + _exp(-x))


def _silu(x: UOp) -> UOp:
    return x * _sigmoid(x)


def _softplus(x: UOp) -> UOp:
    big = (x < 0).where(-x, x)
    return (x < 0).where(0.0, x) + (1.0 + _exp(-big)).log2() * (1 / LOG2E)


def _rms_norm(op: RmsNorm, out: UOp, x: UOp, *weights: UOp) -> UOp:
    width = sum(op.segments)
    out, x = out.reshape(op.n_rows, width), x.reshape(op.n_rows, width)
    r, begin, done = _loop(op.n_rows, 0), 0, []
    for s, (n, weight) in enumerate(zip(op.segments, weights, strict=True)):
        i, j = _loop(n, 1 + 2 * s), _loop(n, 2 + 2 * s)
        acc = _registers(1, s)
        acc = acc.after(acc.after(r)[0].store(0.0)).after(i)
        mean = acc.after(acc[0].store(acc[0] + x[r, begin + i] * x[r, begin + i]).end(i))[0] * (1 / n)
        done.append(out[r, begin + j].store(x[r, begin + j] * (mean + op.eps).sqrt().reciprocal() * weight[j]).end(j))
        begin += n
    return UOp.group(*done).end(r)


def _causal_conv(op: CausalConv, out: UOp, *rest: UOp) -> UOp:
    *operands, params = rest
    last = op.d_conv - 1
    state = operands.pop(0) if last else out
    xz, weight, *biases = operands
    c, t = _loop(op.d_inner, 0), _loop(op.n_tokens, 1)
    past = _registers(max(last, 1), 0).after(c)
    if last:
        past = past.after(UOp.group(*[past[j].store(state[j, c]) for j in range(last)]))
    now = past.after(t)
    taps = [now[j] for j in range(last)] + [xz[t, c]]
    total = biases[0][c] if biases else UOp.const(0.0, dtypes.float)
    for j, tap in enumerate(taps):
        total = total + weight[j, c] * tap
    valid = t < params[0]
    shifted = [now[j].store(valid.where(taps[j + 1], taps[j])) for j in range(last)]
    done = UOp.group(out[t, c].store(_silu(total)), *shifted).end(t)
    final = past.after(done)
    return UOp.group(done, *[state[j, c].store(final[j]) for j in range(last)]).end(c)


def _choose(op: RouterTopk | NormRouter, n_tokens: int, gates: UOp, idx: UOp, logits: UOp) -> UOp:
    """Softmax and top-k of each row of logits."""
    E, k = op.n_experts, op.top_k
    t, e, j, i, r = _loop(n_tokens, 0), _loop(E, 1), _loop(E, 2), _loop(E, 4), _loop(k, 5)
    top, total, rank = _registers(1, 0), _registers(1, 1), _registers(1, 2, dtypes.int)
    top = top.after(top.after(t)[0].store(-3e38))
    inner = top.after(e)
    top = top.after(inner[0].store((inner[0] < logits[t, e]).where(logits[t, e], inner[0])).end(e))

    def power(expert: UOp) -> UOp:
        return _exp(logits[t, expert] - top[0])

    total = total.after(total.after(t)[0].store(0.0))
    # How many experts go before i: those with a larger score, and equal ones with a lower index.
    rank = rank.after(rank.after(t, i)[0].store(0))
    mine, other, count = logits[t, i], logits[t, j], rank.after(j)
    before = (mine < other) | ((other < mine).logical_not() & (mine < other).logical_not() & (j < i))
    position = rank.after(count[0].store(count[0] + before.where(1, 0)).end(j))[0]
    chosen = position < k
    counted = chosen if op.norm_topk else UOp.const(True, dtypes.bool)
    running = total.after(i)
    add = running[0].store(running[0] + counted.where(power(i), 0.0))
    # Experts beyond k write back what stands in the last slot.
    slot = chosen.where(position, k - 1)
    at_gate, at_idx = gates.after(t, i)[t, slot], idx.after(t, i)[t, slot]
    stores = [at_gate.store(chosen.where(power(i), at_gate)), at_idx.store(chosen.where(i.cast(dtypes.int), at_idx))]
    done = UOp.group(add, *stores).end(i)
    unscaled = gates.after(done)[t, r]
    return unscaled.store(unscaled / total.after(done)[0]).end(r).end(t)


def _router_topk(op: RouterTopk, gates: UOp, idx: UOp, groups: UOp, logits: UOp, params: UOp) -> UOp:
    k, n_slots = op.top_k, op.n_tokens * op.top_k
    # Counting sort by expert; slots of tokens that are not valid count as expert E and end up last.
    flat = idx.after(_choose(op, op.n_tokens, gates, idx, logits))

    def key(s: UOp) -> UOp:
        return (s // k < params[0]).where(flat[s // k, s % k], op.n_experts)

    e, s = _loop(op.n_experts + 1, 6), _loop(n_slots, 7)
    count = _registers(1, 3, dtypes.int)
    count = count.after(count.after(e)[0].store(0)).after(s)
    begins = groups[e].store(count.after(count[0].store(count[0] + (key(s) < e).where(1, 0)).end(s))[0]).end(e)
    a, b = _loop(n_slots, 8), _loop(n_slots, 9)
    place = _registers(1, 4, dtypes.int)
    place = place.after(place.after(a)[0].store(0)).after(b)
    earlier = (key(b) < key(a)) | (key(b).ne(key(a)).logical_not() & (b < a))
    position = place.after(place[0].store(place[0] + earlier.where(1, 0)).end(b))[0]
    return UOp.group(begins, groups[op.n_experts + 1 + position].store(a.cast(dtypes.int)).end(a))


def _norm_router(op: NormRouter, out: UOp, gates: UOp, idx: UOp, logits: UOp, x: UOp, norm: UOp, weight: UOp) -> UOp:
    u = out.after(_rms_norm(RmsNorm(1, (op.d_model,), op.eps), out, x, norm))
    e, i = _loop(op.n_experts, 10), _loop(op.d_model, 11)
    acc = _registers(1, 5)
    acc = acc.after(acc.after(e)[0].store(0.0)).after(i)
    term = weight[e, i].cast(dtypes.float) * u[0, i]
    product = logits[0, e].store(acc.after(acc[0].store(acc[0] + term).end(i))[0]).end(e)
    return _choose(op, 1, gates, idx, logits.after(product))


def _expert_matmul(op: ExpertMatmul, out: UOp, x: UOp, weight: UOp, *rest: UOp) -> UOp:
    operands = list(rest)
    extra = operands.pop(0) if op.epilogue != "none" else weight
    gates = operands.pop(0) if op.epilogue == "combine" and op.routed else None
    idx = operands[0] if op.routed else None
    t, o, j, i = _loop(op.n_tokens, 0), _loop(op.n_out, 1), _loop(op.top_k, 2), _loop(op.n_in, 3)
    e = j if idx is None else idx[t, j]
    row = x[t, j, i] if op.per_slot else x[t, i]
    acc = _registers(2, 0)
    per_slot = (t, o) if op.epilogue == "combine" else (t, o, j)
    acc = acc.after(UOp.group(acc.after(*per_slot)[0].store(0.0), acc.after(*per_slot)[1].store(0.0)))
    inner = acc.after(j, i)
    term = weight[e, o, i].cast(dtypes.float) * row
    if op.epilogue == "combine":
        total = acc.after(inner[0].store(inner[0] + (term if gates is None else term * gates[t, j])).end(i).end(j))[0]
        return out[t, o].store(extra[t, o] + total).end(o).end(t)
    steps = [inner[0].store(inner[0] + term)]
    if op.epilogue == "swiglu":
        steps.append(inner[1].store(inner[1] + extra[e, o, i].cast(dtypes.float) * row))
    done = acc.after(UOp.group(*steps).end(i))
    result = done[0]
    if op.epilogue == "softplus":
        result = _softplus(result + extra[e, o])
    elif op.epilogue == "swiglu":
        result = _silu(result) * done[1]
    return out[t, j, o].store(result).end(j).end(o).end(t)


def _routed_scan(op: RoutedScan, y: UOp, h: UOp, x: UOp, xz: UOp, p: UOp, A: UOp, D: UOp, *rest: UOp) -> UOp:
    routed = op.n_experts > 1
    made, rest = (rest[:2], rest[2:]) if op.n_tokens == 1 else (rest[:1], rest[1:])
    gates, idx = (rest[0], rest[1]) if routed else (None, None)
    params = rest[-1]
    b0, c0 = op.dt_rank, op.dt_rank + op.d_state
    c, t = _loop(op.d_inner, 0), _loop(op.n_tokens, 1)
    valid = t < params[0]
    acc = _registers(1, 0)
    acc = acc.after(acc.after(c, t)[0].store(D[c] * x[t, c]))

    def delta(j: UOp | int, expert: UOp | int, number: int = 0) -> UOp:
        """Delta of slot j; `number` tells apart those that are computed side by side."""
        if len(made) == 1:
            return made[0][t, j, c]
        weight, bias = made
        r, total = _loop(op.dt_rank, 4 + number), _registers(1, 1 + number)
        total = total.after(total.after(c, t, *([j] if isinstance(j, UOp) else []))[0].store(0.0)).after(r)
        term = weight[expert, c, r].cast(dtypes.float) * p[t, j, r]
        return _softplus(total.after(total[0].store(total[0] + term).end(r))[0] + bias[expert, c])

    def advance(old: UOp, a2: UOp, step: UOp, b: UOp) -> UOp:
        """One step of the recurrence for one state; `a2` is A log2(e)."""
        decay = (step * a2).exp2()
        factor = step
        if op.discretization == "zoh":  # (a - 1) / A, by its series where a is so close to 1 that digits would be lost
            z = step * a2 * (1 / LOG2E)
            series = step * (((z * (1 / 24) + 1 / 6) * z + 0.5) * z + 1.0)
            factor = (z > -0.03).where(series, (decay - 1.0) * LOG2E / a2)
        return decay * old + factor * b * x[t, c]

    if op.mode == "param_mix":
        n = _loop(op.d_state, 2)
        slots = range(op.top_k)
        g = [UOp.const(1.0, dtypes.float) if gates is None else gates[t, j] for j in slots]
        e = [0 if idx is None else idx[t, j] for j in slots]

        def mix(values: list[UOp]) -> UOp:
            return sum((g[j] * values[j] for j in slots[1:]), g[0] * values[0])

        step, b = mix([delta(j, e[j], j) for j in slots]), mix([p[t, j, b0 + n] for j in slots])
        state = h.after(t)
        new = advance(state[0, n, c], mix([A[0 if op.shared_a else e[j], n, c] for j in slots]), step, b)
        inner = acc.after(n)
        total = inner[0].store(inner[0] + mix([p[t, j, c0 + n] for j in slots]) * new)
        done = UOp.group(state[0, n, c].store(valid.where(new, state[0, n, c])), total).end(n)
    else:
        j, n = _loop(p.shape[1], 2), _loop(op.d_state, 3)
        s = j if op.update == "all" or idx is None else idx[t, j]
        state = h.after(t, j)
        new = advance(state[s, n, c], A[0 if op.shared_a else s, n, c], delta(j, s), p[t, j, b0 + n])
        gate = UOp.const(1.0, dtypes.float)
        if gates is not None and idx is not None and op.update == "all":
            gate = sum((idx[t, i].ne(j).where(0.0, gates[t, i]) for i in range(op.top_k)), UOp.const(0.0, dtypes.float))
        elif gates is not None:
            gate = gates[t, j]
        inner = acc.after(j, n)
        total = inner[0].store(inner[0] + gate * p[t, j, c0 + n] * new)
        done = UOp.group(state[s, n, c].store(valid.where(new, state[s, n, c])), total).end(n).end(j)
    return y[t, c].store(acc.after(done)[0] * _silu(xz[t, op.d_inner + c])).end(t).end(c)


def _swa_attention(op: SwaAttention, out: UOp, ring: UOp, q: UOp, k: UOp, v: UOp, params: UOp) -> UOp:
    d, window, group = op.head_dim, op.window, op.n_heads // op.n_kv_heads
    head, t, back = _loop(op.n_heads, 0), _loop(op.n_tokens, 1), _loop(window, 2)
    kv_head, position = head // group, params[1] + t
    source = position - back  # the absolute position that this step attends to
    attends, in_chunk = source >= 0, back <= t
    row = in_chunk.where(t - back, 0)
    slot = attends.where(source, 0) % window

    def cached(which: int, fresh: UOp, i: UOp) -> UOp:
        return in_chunk.where(fresh[row, kv_head * d + i], ring[which, kv_head, slot, i])

    # Online softmax: m the largest score so far, total and acc rescaled whenever it grows.
    m, total, dot, acc = _registers(1, 0), _registers(1, 1), _registers(1, 2), _registers(d, 3)
    start = UOp.group(
        m.after(head, t)[0].store(-1e30),
        total.after(head, t)[0].store(0.0),
        *[acc.after(head, t)[i].store(0.0) for i in range(d)],
    )
    i = _loop(d, 3)
    dot = dot.after(dot.after(start, back)[0].store(0.0)).after(i)
    score = dot.after(dot[0].store(dot[0] + q[t, head * d + i] * cached(0, k, i)).end(i))[0] * (d**-0.5)
    m, total, acc = m.after(start, back), total.after(start, back), acc.after(start, back)
    old = m[0]
    new = (attends & (old < score)).where(score, old)
    keep, weight = _exp(old - new), attends.where(_exp(score - new), 0.0)
    values = [acc[i].store(acc[i] * keep + weight * cached(1, v, UOp.const(i, dtypes.weakint))) for i in range(d)]
    done = UOp.group(m[0].store(new), total[0].store(total[0] * keep + weight), *values).end(back)
    result = (
        UOp.group(*[out[t, head * d + i].store(acc.after(done)[i] / total.after(done)[0]) for i in range(d)])
        .end(t)
        .end(head)
    )

    # Then the ring: of the valid tokens, the last `window`, in order.
    w, token, j = _loop(op.n_kv_heads, 4), _loop(op.n_tokens, 5), _loop(d, 6)
    place = (params[1] + token) % window
    kept = (token < params[0]) & (params[0] - token <= window)
    rings = ring.after(result, token)

    def append(which: int, fresh: UOp) -> UOp:
        at = rings[which, w, place, j]
        return at.store(kept.where(fresh[token, w * d + j], at))

    return UOp.group(append(0, k), append(1, v)).end(j).end(token).end(w)
