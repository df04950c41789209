"""Sliding-window attention (SPEC.md): causal, grouped-query, RoPE on all head dims, a ring of the last `window` keys.

Shapes: B batch, T tokens, H query heads, G key/value heads (n_kv_heads), d head_dim, C capacity of the cache.
A cache is (2, B, G, C, d), keys (rotated already) and values; the token at position p lies at slot p % window. With
`window` null nothing is overwritten and the cache grows by one slot per token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mossnet_tg.config import Config
from mossnet_tg.weights.reference.experts import linear


def rotate(x: Tensor, position: Tensor, theta: float | None) -> Tensor:
    """RoPE, rotate-half convention: pairs (i, i + d/2). x (..., T, d), position (T,)."""
    if theta is None:
        return x
    half = x.shape[-1] // 2
    frequency = theta ** -(torch.arange(half, dtype=torch.float64) / half)  # (d/2,)
    angle = position[:, None].double() * frequency  # (T, d/2), float64: a long position times 1 is an angle too
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """q (B, H, T, d), k and v (B, G, C, d), visible (T, C) bool -> (B, T, H*d).

    Query head h reads key/value head h // (H/G).
    """
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)  # (B, H, C, d)
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5  # (B, H, T, C)
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)  # (B, H, T, C)
    out: Tensor = weights @ v  # (B, H, T, d)
    return out.transpose(1, 2).flatten(2)


class SlidingWindowAttention(nn.Module):
    """`swa.{q,k,v,o}_proj`, without biases. # assumed: the paper names SWA but gives no details of it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        swa = config.swa
        self.swa = swa
        self.norm = nn.RMSNorm(config.d_model, config.norm_eps)
        self.q_proj = nn.Linear(config.d_model, swa.n_heads * swa.head_dim, bias=False)
        self.k_proj = nn.Linear(config.d_model, swa.n_kv_heads * swa.head_dim, bias=False)
        self.v_proj = nn.Linear(config.d_model, swa.n_kv_heads * swa.head_dim, bias=False)
        self.o_proj = nn.Linear(swa.n_heads * swa.head_dim, config.d_model, bias=False)

    def _qkv(self, v: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """v (B, T, D) -> q (B, H, T, d), k and v (B, G, T, d), q and k rotated."""
        d, theta = self.swa.head_dim, self.swa.rope_theta
        q, k, v = (
            torch.unflatten(linear(v, proj.weight), -1, (-1, d)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        return rotate(q, position, theta), rotate(k, position, theta), v

    def forward(self, u: Tensor, cache: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """The tokens at positions start.. : normed input u (B, T, D) -> (B, T, D) and the cache after them."""
        n = u.shape[1]
        position = torch.arange(start, start + n)
        q, k, v = self._qkv(u, position)
        window, capacity = self.swa.window, cache.shape[3]
        first = max(0, start - capacity)
        old = cache[..., torch.arange(first, start) % max(capacity, 1), :]  # oldest first
        keys = torch.cat([old, torch.stack([k, v])], 3)  # (2, B, G, start - first + T, d)
        key_position = torch.arange(first, start + n)
        age = position[:, None] - key_position  # (T, C)
        visible = (age >= 0) & (age < window) if window is not None else age >= 0
        out = linear(attend(q, keys[0], keys[1], visible), self.o_proj.weight)
        if window is None:
            return out, keys
        kept = key_position[-window:]
        cache = cache.clone()
        cache[..., kept % window, :] = keys[..., -window:, :]
        return out, cache

    def step(self, u: Tensor, cache: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """One token: normed input u (B, D) -> (B, D) and the cache after it."""
        q, k, v = self._qkv(u[:, None], torch.tensor([position]))
        entry = torch.stack([k, v])  # (2, B, G, 1, d)
        if self.swa.window is None:
            cache = torch.cat([cache, entry], 3)
        else:
            cache = cache.clone()
            cache[..., position % self.swa.window, :] = entry[..., 0, :]
        visible = torch.arange(cache.shape[3])[None] <= position  # slots not written yet are ahead of the position
        return linear(attend(q, cache[0], cache[1], visible)[:, 0], self.o_proj.weight), cache
