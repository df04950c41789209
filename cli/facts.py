"""What is shown of a model: its parameters, and numbers as people write them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mossnet_tg.codegen.reads import share_per_token

if TYPE_CHECKING:
    from mossnet_tg.codegen.moss_file import MossFile
    from mossnet_tg.config import Config

_LAYER = re.compile(r"layers\.(\d+)\.(.*)")
_EMBEDDING = ("embed.weight", "lm_head.weight")


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
