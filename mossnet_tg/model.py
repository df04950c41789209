"""MossNet in tinygrad's lazy tensor API: SPEC.md, equation by equation, for one sequence and T tokens at once.

The same functions serve three uses: T = 1 is decode, T = a fixed chunk is prefill, and a plain tinygrad device runs
either for debugging. They build graphs only; nothing here touches data. A matrix keeps the type it has in the
checkpoint and is widened where it is read; activations, norms, accumulators and states are float32.

Glossary, SPEC.md to names: D d_model, X d_inner, N d_state, R dt_rank, W d_conv, E n_experts, k top_k, F d_ff, V
vocab_size, S n_states, T n_tokens; u_t `u`, [c, z] `xz`, [d, B, C] `p`, Delta `dt`, g `gates`, T_t `idx`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tinygrad import Tensor, dtypes

from mossnet_tg import ops
from mossnet_tg.config import Config

# tinygrad's settings are global to the process: whoever changes one, and counts on it, holds this.
TINYGRAD_LOCK = threading.RLock()

Floats = npt.NDArray[np.float32]
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Parameter:
    """One tensor that the model reads, under the name that `embed`, `layer` and `head` use.

    It comes from the checkpoint tensor `source`, through `prepare` when that is given; or is `value`, when it follows
    from the configuration. A `matrix` keeps the checkpoint's type, everything else is float32.
    """

    shape: tuple[int, ...]
    source: str | None = None
    matrix: bool = False
    prepare: Callable[[Floats], Floats] | None = None
    value: Floats | None = None


def outer_parameters(c: Config) -> dict[str, Parameter]:
    """The parameters outside the layers."""
    found = {
        "embed.weight": Parameter((c.vocab_size, c.d_model), "embed.weight", matrix=True),
        "norm_f.weight": Parameter((c.d_model,), "norm_f.weight"),
    }
    if not c.tie_embeddings:
        found["lm_head.weight"] = Parameter((c.vocab_size, c.d_model), "lm_head.weight", matrix=True)
    return found


def layer_parameters(c: Config, layer: int, n_a: int) -> dict[str, Parameter]:
    """The parameters of one layer, without the prefix `layers.{layer}.`; `n_a` is the leading axis of A_log (1:
    shared).
    """
    D, X, N, R, W, E = c.d_model, c.d_inner, c.ssm.d_state, c.dt_rank, c.ssm.d_conv, c.ssm.n_experts
    found: dict[str, Parameter] = {}

    def vector(name: str, *shape: int) -> None:
        found[name] = Parameter(shape, name)

    def matrix(name: str, *shape: int) -> None:
        found[name] = Parameter(shape, name, matrix=True)

    if c.has_ssm(layer):
        vector("ssm.norm.weight", D)
        matrix("ssm.in_proj.weight", 2 * X, D)
        # Channels innermost, as the states lie: neighbouring channels are neighbouring lanes.
        found["ssm.taps"] = Parameter((W, X), "ssm.conv.weight", prepare=np.transpose)
        if c.ssm.conv_bias:
            vector("ssm.conv.bias", X)
        if E > 1:
            matrix("ssm.router.weight", E, D)
        matrix("ssm.x_proj.weight", E, R + 2 * N, X)
        matrix("ssm.dt_proj.weight", E, X, R)
        vector("ssm.dt_proj.bias", E, X)
        found["ssm.A"] = Parameter((n_a, N, X), "ssm.A_log", prepare=_a_log2e)
        vector("ssm.D", X)
        if c.ssm.dt_bc_norm:
            vector("ssm.dt_norm.weight", R)
            vector("ssm.b_norm.weight", N)
            vector("ssm.c_norm.weight", N)
        matrix("ssm.out_proj.weight", D, X)
    if c.has_swa(layer):
        q, kv = c.swa.n_heads * c.swa.head_dim, c.swa.n_kv_heads * c.swa.head_dim
        vector("swa.norm.weight", D)
        matrix("swa.q_proj.weight", q, D)
        matrix("swa.k_proj.weight", kv, D)
        matrix("swa.v_proj.weight", kv, D)
        matrix("swa.o_proj.weight", D, q)
        if c.swa.rope_theta is not None:
            exponents = np.arange(0, c.swa.head_dim, 2) / c.swa.head_dim
            frequencies = (c.swa.rope_theta**-exponents).astype(np.float32)
            found["swa.frequencies"] = Parameter(frequencies.shape, value=frequencies)
    if c.mlp is not None:
        Em, F = c.mlp.n_experts, c.mlp.d_ff
        vector("mlp.norm.weight", D)
        if Em > 1:
            matrix("mlp.router.weight", Em, D)
        matrix("mlp.w1.weight", Em, F, D)
        matrix("mlp.w3.weight", Em, F, D)
        matrix("mlp.w2.weight", Em, D, F)
    return found


def _a_log2e(a_log: Floats) -> Floats:
    """A log2(e) [E, N, X] from A_log [E, X, N]: done once here instead of -exp and a product in every step of the
    scan.
    """
    rates: Floats = -np.exp(a_log) * np.float32(ops.LOG2E)
    return np.transpose(rates, (0, 2, 1))


def state_shapes(c: Config, layer: int, context: int) -> dict[str, tuple[int, ...]]:
    """The float32 states of one layer; `context` is the ring's length where the configuration gives no window."""
    found: dict[str, tuple[int, ...]] = {}
    if c.has_ssm(layer):
        if c.ssm.d_conv > 1:
            found["conv"] = (c.ssm.d_conv - 1, c.d_inner)
        found["ssm"] = (c.n_states, c.ssm.d_state, c.d_inner)
    if c.has_swa(layer):
        found["ring"] = (2, c.swa.n_kv_heads, c.swa.window or context, c.swa.head_dim)
    return found


# ---- the graph


def embed(w: Weights, ids: Tensor) -> Tensor:
    """h [T, D] = Embed[ids]; ids int32 [T]."""
    return w["embed.weight"][ids].cast(dtypes.float).contiguous()


def layer(c: Config, index: int, w: Weights, states: dict[str, Tensor], h: Tensor, params: Tensor) -> Tensor:
    """h [T, D] after layer `index` (SPEC.md, Stack); advances `states`; params as in `mossnet_tg.ops`."""
    if c.has_ssm(index):
        y = _time_mix(c, w, states, h, params)
        h = (h + _linear(y, w["ssm.out_proj.weight"])).contiguous()
    if c.has_swa(index):
        y = _sliding_window_attention(c, w, states, _rms_norm(c, h, w["swa.norm.weight"]), params)
        h = (h + _linear(y, w["swa.o_proj.weight"])).contiguous()
    if c.mlp is not None:
        h = _mlp_moe(c, w, h, params)
    return h


def head(c: Config, w: Weights, h: Tensor) -> Tensor:
    """logits [T, V]."""
    return _linear(_rms_norm(c, h, w["norm_f.weight"]), w["embed.weight" if c.tie_embeddings else "lm_head.weight"])


def last_valid(h: Tensor, params: Tensor) -> Tensor:
    """[1, D]: the row of the last valid token."""
    return h[params[0:1] - 1].contiguous()


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [T, n_in] W^T for W [n_out, n_in]."""
    return x @ weight.cast(dtypes.float).T


def _rms_norm(c: Config, x: Tensor, *weights: Tensor) -> Tensor:
    """RMS norm of x [..., n], or of each of its segments when several weights are given."""
    n_rows = math.prod(x.shape[:-1])
    return ops.rms_norm(ops.RmsNorm(n_rows, tuple(weight.shape[0] for weight in weights), c.norm_eps), x, *weights)


def _time_mix(c: Config, w: Weights, states: dict[str, Tensor], h: Tensor, params: Tensor) -> Tensor:
    """y_t * SiLU(z_t) [T, X] (SPEC.md, TimeMix); the caller applies W_out and adds the residual."""
    T, X, N, R, E, k = h.shape[0], c.d_inner, c.ssm.d_state, c.dt_rank, c.ssm.n_experts, c.ssm.top_k
    u, routing = _norm_and_route(c, w, "ssm", h, E, k, params)
    xz = _linear(u, w["ssm.in_proj.weight"]).contiguous()  # [T, 2X]
    conv = ops.CausalConv(T, X, c.ssm.d_conv, c.ssm.conv_bias)
    x = ops.causal_conv(conv, states.get("conv"), xz, w["ssm.taps"], w.get("ssm.conv.bias"), params)  # [T, X]
    every = c.ssm.state_update == "all"
    n_slots = E if every else k
    where = routing[1:] if routing and not every else ()
    routed = bool(where)
    to_p = ops.ExpertMatmul(T, E, n_slots, X, R + 2 * N, X, per_slot=False, routed=routed, epilogue="none")
    p = ops.expert_matmul(to_p, x, w["ssm.x_proj.weight"], *where, params)  # [T, n_slots, R + 2N]
    if c.ssm.dt_bc_norm:
        p = _rms_norm(c, p, w["ssm.dt_norm.weight"], w["ssm.b_norm.weight"], w["ssm.c_norm.weight"])
    delta: tuple[Tensor, ...] = (w["ssm.dt_proj.weight"], w["ssm.dt_proj.bias"])
    if T > 1:  # one token's are made where they are used
        to_dt = ops.ExpertMatmul(T, E, n_slots, R, X, R + 2 * N, per_slot=True, routed=routed, epilogue="softplus")
        delta = (ops.expert_matmul(to_dt, p, *delta, *where, params),)  # [T, n_slots, X]
    n_a = w["ssm.A"].shape[0]
    scan = ops.RoutedScan(T, X, N, R, E, k, n_a == 1, c.ssm.mode, c.ssm.state_update, c.ssm.discretization)
    return ops.routed_scan(scan, states["ssm"], x, xz, p, w["ssm.A"], w["ssm.D"], *delta, *routing, params)


def _norm_and_route(
    c: Config, w: Weights, part: str, h: Tensor, n_experts: int, top_k: int, params: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The normed input [T, D] of a mixture, and where its tokens go: gates, idx and of several tokens groups of
    RouterTopk; nothing for a single expert.
    """
    norm = w[f"{part}.norm.weight"]
    if n_experts == 1:
        return _rms_norm(c, h, norm), ()
    T, D = h.shape
    weight, norm_topk = w[f"{part}.router.weight"], c.router.norm_topk
    if T == 1:
        u, *routing = ops.norm_router(ops.NormRouter(D, n_experts, top_k, norm_topk, c.norm_eps), h, norm, weight)
        return u, tuple(routing)
    u = _rms_norm(c, h, norm)
    op = ops.RouterTopk(T, n_experts, top_k, norm_topk)
    return u, ops.router_topk(op, _linear(u, weight).contiguous(), params)


def _mlp_moe(c: Config, w: Weights, h: Tensor, params: Tensor) -> Tensor:
    """h + m_t [T, D] (SPEC.md, MLP mixture)."""
    assert c.mlp is not None
    T, D, F, E, k = h.shape[0], c.d_model, c.mlp.d_ff, c.mlp.n_experts, c.mlp.top_k
    v, routing = _norm_and_route(c, w, "mlp", h, E, k, params)
    routed = E > 1
    up = ops.ExpertMatmul(T, E, k, D, F, D, per_slot=False, routed=routed, epilogue="swiglu")
    a = ops.expert_matmul(up, v, w["mlp.w1.weight"], w["mlp.w3.weight"], *routing[1:], params)  # [T, k, F]
    down = ops.ExpertMatmul(T, E, k, F, D, F, per_slot=True, routed=routed, epilogue="combine")
    return ops.expert_matmul(down, a, w["mlp.w2.weight"], h, *routing, params)


def _sliding_window_attention(c: Config, w: Weights, states: dict[str, Tensor], u: Tensor, params: Tensor) -> Tensor:
    """[T, H d] (SPEC.md, Sliding-window attention); the caller applies W_o and adds the residual."""
    T, s = u.shape[0], c.swa
    q, k, v = (_linear(u, w[f"swa.{name}_proj.weight"]) for name in "qkv")
    if s.rope_theta is not None:
        q, k = (
            _rotate(x.contiguous().reshape(T, -1, s.head_dim), w["swa.frequencies"], params).reshape(T, -1)
            for x in (q, k)
        )
    op = ops.SwaAttention(T, s.n_heads, s.n_kv_heads, s.head_dim, states["ring"].shape[2])
    return ops.swa_attention(op, states["ring"], q.contiguous(), k.contiguous(), v.contiguous(), params)


def _rotate(x: Tensor, frequencies: Tensor, params: Tensor) -> Tensor:
    """RoPE on all head dims, dimension i paired with i + d/2; x [T, heads, d], its first row at position params[1]."""
    T, _, d = x.shape
    position = (params[1:2] + Tensor.arange(T)).cast(dtypes.float).reshape(T, 1, 1)
    angle = position * frequencies.reshape(1, 1, d // 2)
    cos, sin = angle.cos(), angle.sin()
    a, b = x[..., : d // 2], x[..., d // 2 :]
    return Tensor.cat(a * cos - b * sin, b * cos + a * sin, dim=-1)
