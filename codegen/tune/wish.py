"""What a tuning run shall do; free of imports, since it is read before the compiler is loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

# What --kernels names, and the classes that it means.
KERNELS: Mapping[str, Collection[str]] = {
    "gemv": ("product", "ExpertMatmul", "NormRouter"),
    "gemm": ("product", "ExpertMatmul"),
    "scan": ("RoutedScan",),
    "attention": ("SwaAttention",),
    "conv": ("CausalConv",),
    "norm": ("RmsNorm",),
    "router": ("RouterTopk", "NormRouter"),
    "loops": ("loops",),
}

_ONE, _SEVERAL = range(1, 2), range(2, 1 << 31)
_TOKENS = {"gemv": _ONE, "gemm": _SEVERAL}


@dataclass(frozen=True)
class Wish:
    """What a run shall do: for `time_s`, at most `n_trials` (None: no limit), only these `kernels` (of KERNELS)."""

    time_s: float = 600.0
    n_trials: int | None = None
    kernels: Collection[str] = ()
    seed: int = 0


def wanted(kernels: Collection[str], kernel_class: str, n_tokens: int) -> bool:
    """Whether a task is among `kernels`; all are where none is named."""
    return not kernels or any(
        kernel_class in KERNELS[name] and n_tokens in _TOKENS.get(name, (n_tokens,)) for name in kernels
    )
