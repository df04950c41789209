"""What besides model and target decides a model file; free of imports, since every start needs it."""

from __future__ import annotations

from dataclasses import dataclass

from mossnet_tg.errors import UsageError

WEIGHTS = ("f32", "f16", "bf16", "q8", "q4")


@dataclass(frozen=True)
class CompileOptions:
    """`chunk`: the tokens a prefill takes at once; `context`: the tokens that attention without a window can hold;
    `weights`: the type that matrices are converted to, one of WEIGHTS, or "" for those of the checkpoint.
    """

    chunk: int = 128
    context: int = 4096
    weights: str = ""

    def __post_init__(self) -> None:
        if not 2 <= self.chunk <= 4096:
            raise UsageError(f"chunk is {self.chunk}, expected 2 to 4096")
        if not 1 <= self.context <= 1 << 24:
            raise UsageError(f"context is {self.context}, expected 1 to {1 << 24}")
        if self.weights and self.weights not in WEIGHTS:
            raise UsageError(f"weights are '{self.weights}', expected {', '.join(WEIGHTS)}")
