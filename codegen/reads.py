"""What a decoded token, and each step of a compiled model, reads of the weights."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mossnet_tg.codegen.moss_file import Entry, MossFile
    from mossnet_tg.config import Config

# Tensors of a layer with one slice per expert, in the names of checkpoints and of compiled models.
_SSM_EXPERTS = ("ssm.x_proj.weight", "ssm.dt_proj.weight", "ssm.dt_proj.bias", "ssm.A_log", "ssm.A")
_MLP_EXPERTS = ("mlp.w1.weight", "mlp.w2.weight", "mlp.w3.weight")


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


def read_per_token(moss: MossFile, c: Config) -> int:
    """The bytes of weights that one decoded token reads: what its steps read together.

    What batch-1 decode must fetch, and so, over a memory bandwidth, a limit of its speed. State and activations, which
    stay in the cache, are not in it.
    """
    from mossnet_tg.codegen.moss_file import EntryKind

    decode = next(e for e in moss.entries if e.kind == EntryKind.DECODE)
    return int(sum(read_by_step(moss, c, decode)))


def read_by_step(moss: MossFile, c: Config, entry: Entry) -> list[Fraction]:
    """The bytes of weights that each step of an entry reads when it is run.

    That is each of the step's weight buffers, once: of the routed ones as many experts as the entry's tokens can
    select, of the embedding, where token ids choose it, a row a token.
    """
    from mossnet_tg.codegen.moss_file import DType, Region

    # Of an element, its part of a scale included.
    bits = {DType.F32: Fraction(32), DType.F16: Fraction(16), DType.BF16: Fraction(16)}
    bits |= {DType.Q8: Fraction(17, 2), DType.Q4: Fraction(9, 2)}
    found = []
    for step in moss.steps[entry.first_step : entry.first_step + entry.n_steps]:
        read = Fraction(0)
        for index in set(step.args):
            buffer = moss.buffers[index]
            if buffer.region != Region.WEIGHTS:
                continue
            if entry.ids in step.args:
                read += entry.n_tokens * c.d_model * bits[buffer.dtype] / 8
            else:
                share = share_per_token(c, buffer.name, buffer.bytes // 4)
                read += buffer.bytes * min(entry.n_tokens * share, Fraction(1))
        found.append(read)
    return found
