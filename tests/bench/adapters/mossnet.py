"""Ours: a checkpoint folder, compiled in an earlier start and found in the cache since."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mossnet_tg import Model
from mossnet_tg.codegen.reads import read_per_token
from tests.bench.adapters import Logits


class Engine:
    """`options` are those of `Model.load`."""

    notes = ()

    def __init__(self, model: str, n_threads: int, **options: Any) -> None:
        loaded = Model.load(model, n_threads=n_threads, **options)
        self.session: Any = loaded.session()
        self.vocab = loaded.config.vocab_size
        self.read_per_token = read_per_token(loaded.compiled, loaded.config)

    def prefill(self, ids: Sequence[int]) -> Logits:
        self.session.reset()
        logits: Logits = self.session.prefill(ids, copy=False)
        return logits

    begin = prefill

    def step(self, token: int) -> Logits:
        logits: Logits = self.session.decode(token, copy=False)
        return logits
