"""The engines, each behind the same few calls, so that the same work is asked of all; `Adapter` says which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]  # [vocab]


class Adapter(Protocol):
    """A model that an engine has loaded. Made with the path of its file, the number of threads and the engine's own
    options.
    """

    vocab: int
    read_per_token: int
    """Bytes of weights that one decoded token needs, as this engine stores them: of experts, the selected ones."""
    notes: Sequence[str]
    """What one should know who reads the figures."""

    def __init__(self, model: str, n_threads: int, **options: Any) -> None: ...

    def prefill(self, ids: Sequence[int]) -> Logits:
        """Read a prompt from nothing, at the engine's best; the logits after it. This is timed."""

    def begin(self, ids: Sequence[int]) -> Logits:
        """The same, and what `step` goes on from. Not timed."""

    def step(self, token: int) -> Logits:
        """One token more."""
