"""MossNet in plain PyTorch, to be read beside SPEC.md: slow, obvious, and the judge of every other implementation.

Source: MossNet (Tuli et al., arXiv 2510.26182). Only its abstract is public, so the equations are SPEC.md's; where a
choice is this project's own, `# assumed:` says so.

Glossary (SPEC.md symbol, name here)
    D d_model       X d_inner     N d_state    R dt_rank    W d_conv
    E n_experts     K top_k (SPEC.md: k)       F d_ff       V vocab_size
    B batch         T tokens      S states kept: E (separate_state) or 1 (param_mix)
    u normed input  c, z the halves of W_in u    x conv output    p router softmax
    g gate          T_t expert    Delta delta    a = exp(Delta A) decay

Two code paths that must agree: `forward` takes whole sequences (experts' rows grouped, scan.py), `step` one token
(parameters gathered per token, SPEC.md line by line). Weights of any float type are raised to the compute type at use:
float32, or float64 in a float64 model. So norms, softmax, exp, states and accumulators never have less than float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from mossnet_tg.config import Config
from mossnet_tg.weights.checkpoint import Checkpoint
from mossnet_tg.weights.reference import checkpoint
from mossnet_tg.weights.reference.attention import SlidingWindowAttention
from mossnet_tg.weights.reference.experts import combine, dispatch, group, grouped_linear, linear, route
from mossnet_tg.weights.reference.scan import Scan, Slots, input_weight, mixed_scan, routed_scan


@dataclass
class State:
    """What a sequence leaves behind; L layers. Layers without a part keep zeros there."""

    conv: Tensor  # (L, B, X, W-1), oldest first
    ssm: Tensor  # (L, B, S, X, N)
    kv: list[Tensor]  # per layer of swa.layers, ascending: (2, B, Hkv, window, d); window null: as long as the sequence
    position: int  # tokens seen


@dataclass
class Routing:
    """What one router decided, for the load-balancing loss of training."""

    p: Tensor  # (B, T, E)
    expert: Tensor  # (B, T, K)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x (..., C) scaled to a root mean square of 1, times weight (C,)."""
    return functional.rms_norm(x, x.shape[-1:], weight.to(x.dtype), eps)


def first_argmax(x: Tensor) -> Tensor:
    """The index of the largest of x (..., C), the lowest of equals: torch.argmax promises nothing about them."""
    index = torch.arange(x.shape[-1]).expand_as(x)
    return index.masked_fill(x != x.amax(-1, keepdim=True), x.shape[-1] - 1).amin(-1)


class StackedLinear(nn.Module):
    """One matrix per expert, weight (E, out, in), and a bias (E, out) where there is one."""

    def __init__(self, n_experts: int, n_in: int, n_out: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_experts, n_out, n_in).uniform_(-1, 1) * n_in**-0.5)
        if bias:
            self.bias = nn.Parameter(torch.zeros(n_experts, n_out))


class TimeMix(nn.Module):
    """The mixture of state-space experts (SPEC.md, TimeMix)."""

    def __init__(self, config: Config, shared_a: bool) -> None:
        super().__init__()
        ssm, d, x = config.ssm, config.d_model, config.d_inner
        self.config, self.ssm = config, ssm
        self.norm = nn.RMSNorm(d, config.norm_eps)
        self.in_proj = nn.Linear(d, 2 * x, bias=False)
        self.conv = nn.Conv1d(x, x, ssm.d_conv, groups=x, bias=ssm.conv_bias)
        self.conv.weight = nn.Parameter(self.conv.weight.detach()[:, 0])  # (X, W): the checkpoint has no axis of 1
        if ssm.n_experts > 1:
            self.router = nn.Linear(d, ssm.n_experts, bias=False)
        self.x_proj = StackedLinear(ssm.n_experts, x, config.dt_rank + 2 * ssm.d_state)
        self.dt_proj = StackedLinear(ssm.n_experts, config.dt_rank, x, bias=True)
        # assumed: Mamba's initial values for every expert: A = -(1..N), steps spread over 1e-3..1e-1
        delta = torch.exp(torch.empty(ssm.n_experts, x).uniform_(math.log(1e-3), math.log(1e-1)))
        self.dt_proj.bias = nn.Parameter(delta + torch.log(-torch.expm1(-delta)))  # softplus of it is delta
        a_log = torch.arange(1, ssm.d_state + 1.0).log()
        self.A_log = nn.Parameter(a_log.repeat(1 if shared_a else ssm.n_experts, x, 1))  # (E or 1, X, N)
        self.D = nn.Parameter(torch.ones(x))
        if ssm.dt_bc_norm:
            self.dt_norm = nn.RMSNorm(config.dt_rank, config.norm_eps)
            self.b_norm = nn.RMSNorm(ssm.d_state, config.norm_eps)
            self.c_norm = nn.RMSNorm(ssm.d_state, config.norm_eps)
        self.out_proj = nn.Linear(x, d, bias=False)

    def _route(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """u (..., D) -> p (..., E), gates and experts (..., K). One expert: no router, gate 1."""
        if self.ssm.n_experts == 1:
            one = u.new_ones(*u.shape[:-1], 1)
            return one, one, torch.zeros_like(one, dtype=torch.int64)
        logits = functional.linear(u, self.router.weight.to(u.dtype))
        return route(logits, self.ssm.top_k, self.config.router.norm_topk)

    def _split(self, dbc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., R+2N) -> d (..., R), B and C (..., N), normed where dt_bc_norm asks for it."""
        n, eps = self.ssm.d_state, self.config.norm_eps
        d, b, c = torch.split(dbc, [self.config.dt_rank, n, n], -1)
        if not self.ssm.dt_bc_norm:
            return d, b, c
        norms = ((d, self.dt_norm), (b, self.b_norm), (c, self.c_norm))
        d, b, c = (rms_norm(v, norm.weight, eps) for v, norm in norms)
        return d, b, c

    def _a(self, dtype: torch.dtype) -> Tensor:
        """A (E, X, N), negative."""
        return -torch.exp(self.A_log.to(dtype)).expand(self.ssm.n_experts, -1, -1)

    def forward(self, u: Tensor, conv: Tensor, state: Tensor, scan: Scan) -> tuple[Tensor, Tensor, Tensor, Routing]:
        """Whole sequences: u (B, T, D), conv (B, X, W-1), state (B, S, X, N) -> output (B, T, D), conv, state."""
        ssm = self.ssm
        c, z = linear(u, self.in_proj.weight).chunk(2, -1)  # (B, T, X) each
        x, conv = self._conv(c, conv)  # (B, T, X)
        p, gate, expert = self._route(u)
        routing = Routing(p, expert)
        if ssm.mode == "separate_state" and ssm.state_update == "all":
            # Every expert advances, the unselected are read with gate 0.
            gate = torch.zeros_like(p).scatter(-1, expert, gate)  # (B, T, E)
            expert = torch.arange(ssm.n_experts).expand_as(gate)
        slots = group(expert, ssm.n_experts)
        d, b, cc = self._split(grouped_linear(dispatch(x, slots), self.x_proj.weight, slots))
        bias = self.dt_proj.bias.to(u.dtype).repeat_interleave(torch.tensor(slots.n_rows), 0)
        delta = functional.softplus(grouped_linear(d, self.dt_proj.weight, slots) + bias)  # (M, X)
        a = self._a(u.dtype)
        if ssm.mode == "separate_state":
            y, state = scan(delta, b, cc, x, a, gate, slots, state)
        else:
            delta, b, cc = (combine(rows, gate, slots) for rows in (delta, b, cc))  # (B, T, X), (B, T, N) twice
            a = torch.einsum("btk,btkxn->btxn", gate, a[expert])
            y, last = mixed_scan(delta, b, cc, x, a, state[:, 0], zoh=ssm.discretization == "zoh")
            state = last[:, None]
        y = y + self.D.to(u.dtype) * x
        return linear(y * functional.silu(z), self.out_proj.weight), conv, state, routing

    def _conv(self, c: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """SiLU(depthwise causal convolution): c (B, T, X), before (B, X, W-1) -> x (B, T, X) and the new `before`."""
        n, width = c.shape[1], self.ssm.d_conv
        padded = torch.cat([before.transpose(1, 2), c], 1)  # (B, W-1+T, X)
        weight = self.conv.weight.to(c.dtype)  # (X, W), the last column for the token itself
        x = padded[:, :n] * weight[:, 0]
        for w in range(1, width):
            x = torch.addcmul(x, padded[:, w : w + n], weight[:, w])
        if self.conv.bias is not None:
            x = x + self.conv.bias.to(c.dtype)
        return functional.silu(x), padded[:, n:].transpose(1, 2)

    def step(self, u: Tensor, conv: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One token: u (B, D), conv (B, X, W-1), state (B, S, X, N) -> output (B, D), new conv and state."""
        ssm, dtype = self.ssm, u.dtype
        c, z = functional.linear(u, self.in_proj.weight.to(dtype)).chunk(2, -1)  # (B, X)
        taps = torch.cat([conv, c[..., None]], -1)  # (B, X, W)
        x = (taps * self.conv.weight.to(dtype)).sum(-1)  # (B, X)
        if self.conv.bias is not None:
            x = x + self.conv.bias.to(dtype)
        x = functional.silu(x)
        _, gate, selected = self._route(u)  # (B, K)
        batch = torch.arange(len(u))[:, None]
        # All experts' parameters are computed; those of the unselected are only used when state_update is "all".
        d, b, cc = self._split(torch.einsum("erx,bx->ber", self.x_proj.weight.to(dtype), x))
        delta = torch.einsum("exr,ber->bex", self.dt_proj.weight.to(dtype), d) + self.dt_proj.bias.to(dtype)
        delta = functional.softplus(delta)  # (B, E, X)
        a = self._a(dtype)  # (E, X, N)
        zoh = ssm.discretization == "zoh"
        if ssm.mode == "param_mix":
            # assumed: "zoh" with the mixed A, which SPEC.md writes for "mamba" only
            delta, b, cc = (torch.einsum("bk,bk...->b...", gate, v[batch, selected]) for v in (delta, b, cc))
            a = torch.einsum("bk,bkxn->bxn", gate, a[selected])  # (B, X, N)
            w = input_weight(delta, a, zoh) * b[:, None, :] * x[..., None]
            h = torch.exp(delta[..., None] * a) * state[:, 0] + w  # (B, X, N)
            y = torch.einsum("bxn,bn->bx", h, cc)
            state = h[:, None]
        else:
            w = input_weight(delta, a, zoh) * b[:, :, None, :] * x[:, None, :, None]  # (B, E, X, N)
            advanced = torch.exp(delta[..., None] * a) * state + w
            if ssm.state_update == "selected":
                moves = torch.zeros(len(u), ssm.n_experts, dtype=torch.bool)
                moves[batch, selected] = True
                advanced = torch.where(moves[..., None, None], advanced, state)
            state = advanced
            y = torch.einsum("bk,bkxn,bkn->bx", gate, state[batch, selected], cc[batch, selected])
        y = y + self.D.to(dtype) * x
        return functional.linear(y * functional.silu(z), self.out_proj.weight.to(dtype)), taps[..., 1:], state


class MlpMoE(nn.Module):
    """The mixture of SwiGLU experts (SPEC.md, MLP mixture); one expert: a plain SwiGLU MLP."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        assert config.mlp is not None
        mlp, d = config.mlp, config.d_model
        self.mlp, self.norm_topk = mlp, config.router.norm_topk
        self.norm = nn.RMSNorm(d, config.norm_eps)
        if mlp.n_experts > 1:
            self.router = nn.Linear(d, mlp.n_experts, bias=False)
        self.w1 = StackedLinear(mlp.n_experts, d, mlp.d_ff)
        self.w3 = StackedLinear(mlp.n_experts, d, mlp.d_ff)
        self.w2 = StackedLinear(mlp.n_experts, mlp.d_ff, d)

    def forward(self, v: Tensor) -> tuple[Tensor, Routing | None]:
        """Whole sequences: v (B, T, D) -> (B, T, D)."""
        if self.mlp.n_experts == 1:
            w1, w3, w2 = (w.weight[0] for w in (self.w1, self.w3, self.w2))
            return linear(functional.silu(linear(v, w1)) * linear(v, w3), w2), None
        logits = functional.linear(v, self.router.weight.to(v.dtype))
        p, gate, expert = route(logits, self.mlp.top_k, self.norm_topk)
        slots = group(expert, self.mlp.n_experts)
        rows = dispatch(v, slots)  # (M, D)
        w1, w3, w2 = (w.weight for w in (self.w1, self.w3, self.w2))
        hidden = functional.silu(grouped_linear(rows, w1, slots)) * grouped_linear(rows, w3, slots)  # (M, F)
        return combine(grouped_linear(hidden, w2, slots), gate, slots), Routing(p, expert)

    def step(self, v: Tensor) -> Tensor:
        """One token: v (B, D) -> (B, D)."""
        dtype = v.dtype
        if self.mlp.n_experts == 1:
            gate, expert = v.new_ones(len(v), 1), torch.zeros(len(v), 1, dtype=torch.int64)
        else:
            _, gate, expert = route(functional.linear(v, self.router.weight.to(dtype)), self.mlp.top_k, self.norm_topk)
        w1, w3, w2 = (w.weight.to(dtype)[expert] for w in (self.w1, self.w3, self.w2))  # (B, K, F, D), .., (B, K, D, F)
        hidden = functional.silu(torch.einsum("bkfd,bd->bkf", w1, v)) * torch.einsum("bkfd,bd->bkf", w3, v)
        return torch.einsum("bk,bkdf,bkf->bd", gate, w2, hidden)


class Layer(nn.Module):
    """The parts a layer has, under the names of the checkpoint."""

    def __init__(self, config: Config, index: int, shared_a: bool) -> None:
        super().__init__()
        self.ssm = TimeMix(config, shared_a) if config.has_ssm(index) else None
        self.swa = SlidingWindowAttention(config) if config.has_swa(index) else None
        self.mlp = MlpMoE(config) if config.mlp is not None else None


class MossNet(nn.Module):
    """A MossNet with fresh (Mamba-style) weights. `state_dict()` is SPEC.md's table of tensors."""

    def __init__(self, config: Config, shared_a: bool = False) -> None:
        """`shared_a`: one A_log for all experts of a layer."""
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.layers = nn.ModuleList(Layer(config, i, shared_a) for i in range(config.n_layer))
        self.norm_f = nn.RMSNorm(config.d_model, config.norm_eps)
        if not config.tie_embeddings:
            self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        # A residual stream that 2-3 parts per layer add to starts at the same scale for any depth (as in Mamba).
        n_parts = sum((x.ssm is not None) + (x.swa is not None) + (x.mlp is not None) for x in self._layers())
        with torch.no_grad():
            for layer in self._layers():
                for part, name in ((layer.ssm, "out_proj"), (layer.swa, "o_proj"), (layer.mlp, "w2")):
                    if part is not None:
                        getattr(part, name).weight *= n_parts**-0.5

    def _layers(self) -> list[Layer]:
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    @property
    def compute_dtype(self) -> torch.dtype:
        """float32 whatever the weights are, but float64 for float64 weights."""
        return torch.float64 if self.embed.weight.dtype == torch.float64 else torch.float32

    def init_state(self, batch: int) -> State:
        """The state before the first token."""
        c, dtype = self.config, self.compute_dtype
        kv_shape = (2, batch, c.swa.n_kv_heads, c.swa.window or 0, c.swa.head_dim)
        return State(
            torch.zeros(c.n_layer, batch, c.d_inner, c.ssm.d_conv - 1, dtype=dtype),
            torch.zeros(c.n_layer, batch, c.n_states, c.d_inner, c.ssm.d_state, dtype=dtype),
            [torch.zeros(kv_shape, dtype=dtype) for _ in c.swa.layers],
            0,
        )

    def forward(self, ids: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Whole sequences: ids (B, T) -> logits (B, T, V) and the state after them; `state` itself stays as it is."""
        hidden, state, _ = self.run(ids, state)
        return self.logits(hidden), state

    def logits(self, hidden: Tensor) -> Tensor:
        """The normed last hidden (..., D) -> logits (..., V)."""
        return linear(hidden, self.embed.weight if self.config.tie_embeddings else self.lm_head.weight)

    def run(
        self, ids: Tensor, state: State | None = None, scan: Scan | None = None
    ) -> tuple[Tensor, State, list[Routing]]:
        """`forward` without the head: the normed last hidden (B, T, D), the state, and all routers' decisions.

        `scan` replaces scan.routed_scan by something equal and faster.
        """
        eps, zoh = self.config.norm_eps, self.config.ssm.discretization == "zoh"

        def plain(*args: Tensor | Slots) -> tuple[Tensor, Tensor]:
            return routed_scan(*args, zoh=zoh)  # type: ignore[arg-type]

        old = state or self.init_state(len(ids))
        conv, ssm, kv = list(old.conv), list(old.ssm), list(old.kv)
        routings = []
        h = functional.embedding(ids, self.embed.weight).to(self.compute_dtype)  # (B, T, D)
        for i, layer in enumerate(self._layers()):
            if layer.ssm is not None:
                u = rms_norm(h, layer.ssm.norm.weight, eps)
                out, conv[i], ssm[i], routing = layer.ssm(u, conv[i], ssm[i], scan or plain)
                h = h + out
                routings.append(routing)
            if layer.swa is not None:
                j = sorted(self.config.swa.layers).index(i)
                out, kv[j] = layer.swa(rms_norm(h, layer.swa.norm.weight, eps), kv[j], old.position)
                h = h + out
            if layer.mlp is not None:
                out, routing = layer.mlp(rms_norm(h, layer.mlp.norm.weight, eps))
                h = h + out
                if routing is not None:
                    routings.append(routing)
        new = State(torch.stack(conv), torch.stack(ssm), kv, old.position + ids.shape[1])
        return rms_norm(h, self.norm_f.weight, eps), new, routings

    def step(self, ids: Tensor, state: State) -> Tensor:
        """One token per sequence: ids (B,) -> logits (B, V); `state` moves on by one token."""
        eps = self.config.norm_eps
        conv, ssm = list(state.conv), list(state.ssm)
        h = functional.embedding(ids, self.embed.weight).to(self.compute_dtype)  # (B, D)
        for i, layer in enumerate(self._layers()):
            if layer.ssm is not None:
                out, conv[i], ssm[i] = layer.ssm.step(rms_norm(h, layer.ssm.norm.weight, eps), conv[i], ssm[i])
                h = h + out
            if layer.swa is not None:
                j = sorted(self.config.swa.layers).index(i)
                out, state.kv[j] = layer.swa.step(rms_norm(h, layer.swa.norm.weight, eps), state.kv[j], state.position)
                h = h + out
            if layer.mlp is not None:
                h = h + layer.mlp.step(rms_norm(h, layer.mlp.norm.weight, eps))
        state.conv, state.ssm, state.position = torch.stack(conv), torch.stack(ssm), state.position + 1
        head = self.embed.weight if self.config.tie_embeddings else self.lm_head.weight
        return functional.linear(rms_norm(h, self.norm_f.weight, eps), head.to(h.dtype))

    @torch.no_grad()
    def generate_greedy(self, ids: Tensor, n: int) -> Tensor:
        """The n most likely next tokens, one after the other: ids (B, T), T at least 1 -> (B, n). Ties: lowest id."""
        logits, state = self(ids)
        last, out = logits[:, -1], []
        for i in range(n):
            out.append(first_argmax(last))
            if i + 1 < n:
                last = self.step(out[-1], state)
        return torch.stack(out, 1) if out else ids[:, :0]

    @classmethod
    def load(cls, folder: str | Path, dtype: torch.dtype = torch.float32) -> MossNet:
        """Read a checkpoint of any format that `weights.names` knows, weights raised (or lowered) to `dtype`."""
        found = Checkpoint.open(folder)
        a_log = next((t for name, t in found.tensors.items() if name.endswith("ssm.A_log")), None)
        with torch.device("meta"):
            model = cls(found.config, shared_a=a_log is not None and a_log.shape[0] == 1)
        tensors = {name: torch.from_numpy(t.f32().copy()).to(dtype) for name, t in found.tensors.items()}
        model.load_state_dict(tensors, assign=True)
        return model

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write config.json and model.safetensors, each replaced as a whole. `dtype` null writes float32.

        A 16-bit `dtype` is for matrices only: what is small or sensitive stays float32 (checkpoint.is_sensitive).
        """
        checkpoint.write(Path(folder), self.config, self.state_dict(), dtype)
