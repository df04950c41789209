"""What is shown and measured against: a model's parameters, its state, and the bytes that a decoded token reads."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mossnet_tg.codegen.moss_file import MossFile
    from mossnet_tg.config import Config

# Tensors of a layer with one slice per expert, in the names of checkpoints and of compiled models.
_SSM_EXPERTS = ("ssm.x_proj.weight", "ssm.dt_proj.weight", "ssm.dt_proj.bias", "ssm.A_log", "ssm.A")
_MLP_EXPERTS = ("mlp.w1.weight", "mlp.w2.weight", "mlp.w3.weight")
_LAYER = re.compile(r"layers\.(\d+)\.(.*)")
_EMBEDDING = ("embed.weight", "lm_head.weight")


def share_per_token(c: Config, name: str, n_elements: int) -> Fraction:
    """The share of tensor `name` that one token works with: that of its selected experts, or all of it.

    An A of one slice is shared by the experts. With state_update "all" every expert's state moves at every token, which
    needs what drives it whole. The embedding's one row is the caller's to know, for a tied one is the head too.
    """
    short = name.split(".", 2)[-1] if name.startswith("layers.") else name
    if short in _MLP_EXPERTS and c.mlp is not None:
        return Fraction(c.mlp.top_k, c.mlp.n_experts)
    if short not in _SSM_EXPERTS or c.ssm.state_update == "all":
        return Fraction(1)
    shared = "A" in short and n_elements == c.d_inner * c.ssm.d_state
    return Fraction(1) if shared else Fraction(c.ssm.top_k, c.ssm.n_experts)


def n_parameters(tensors: Iterable[tuple[str, int]]) -> int:
    """All parameters, from (name, elements) of each tensor; a tied head is there once."""
    return sum(n for _, n in tensors)


def n_active(c: Config, tensors: Iterable[tuple[str, int]]) -> int:
    """The parameters that one token works with, without embedding and head."""
    return int(sum(n * share_per_token(c, name, n) for name, n in tensors if name not in _EMBEDDING))


def tensors_of(moss: MossFile, c: Config) -> list[tuple[str, int]]:
    """(name, elements) of the checkpoint that a compiled model was made from."""
    from mossnet_tg.weights.names import MOSSNET, expected

    # The layout pads matrices; A, which the configuration leaves open, is never padded.
    held = {b.name: b.bytes // 4 for b in moss.buffers}
    found = []
    for want in expected(MOSSNET, c):
        sizes = [math.prod(shape) for shape in want.shapes]
        a = held.get(want.name.removesuffix("_log"))
        found.append((want.name, a if a in sizes else sizes[0]))
    return found


def read_per_token(moss: MossFile, c: Config) -> int:
    """The bytes of weights that one decoded token reads.

    That is, over the steps of the decode entry: each of a step's weight buffers, times the share of its experts that a
    token selects; of the embedding, where token ids choose it, one row. What batch-1 decode must fetch, and so, over a
    memory bandwidth, a limit of its speed. State and activations, which stay in the cache, are not in it.
    """
    from mossnet_tg.codegen.moss_file import DType, EntryKind, Region

    item_bytes = {DType.F32: 4, DType.F16: 2, DType.BF16: 2, DType.I32: 4}
    decode = next(e for e in moss.entries if e.kind == EntryKind.DECODE)
    total = Fraction(0)
    for step in moss.steps[decode.first_step : decode.first_step + decode.n_steps]:
        for index in set(step.args):
            buffer = moss.buffers[index]
            if buffer.region != Region.WEIGHTS:
                continue
            item = item_bytes.get(buffer.dtype, 1)
            if decode.ids in step.args:
                total += c.d_model * item
            else:
                total += buffer.bytes * share_per_token(c, buffer.name, buffer.bytes // item)
    return int(total)


def layer_of(label: str) -> tuple[int, str]:
    """The layer that a step's label names, -1 outside of them, and the rest of the label."""
    found = _LAYER.match(label)
    return (int(found[1]), found[2]) if found else (-1, label)


def human(n_bytes: float) -> str:
    """Bytes as people write them: 12.3 MiB."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if n_bytes < 1024 or unit == "GiB":
            return f"{n_bytes:.0f} {unit}" if unit == "bytes" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    raise AssertionError


def count(n: int) -> str:
    """A number of parameters as people write it: 5.23M."""
    for limit, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if n >= limit:
            return f"{n / limit:.2f}{unit}"
    return str(n)
