"""What besides model and target decides a model file; free of imports, since every start needs it."""

from __future__ import annotations

from dataclasses import dataclass

from mossnet_tg.errors import UsageError


@dataclass(frozen=True)
class CompileOptions:
    """`chunk`: the tokens a prefill takes at once; `context`: the tokens that attention without a window can hold."""

    chunk: int = 128
    context: int = 4096

    def __post_init__(self) -> None:
        if not 2 <= self.chunk <= 4096:
            raise UsageError(f"chunk is {self.chunk}, expected 2 to 4096")
        if not 1 <= self.context <= 1 << 24:
            raise UsageError(f"context is {self.context}, expected 1 to {1 << 24}")
