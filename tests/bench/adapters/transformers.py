"""Hugging Face transformers on torch, eager."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, logging

from tests.bench.adapters import Logits


class Engine:
    """A checkpoint folder in float32."""

    notes = ()

    def __init__(self, model: str, n_threads: int) -> None:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        torch.set_num_threads(n_threads)
        torch.set_grad_enabled(False)
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.vocab = self.model.config.vocab_size
        self.read_per_token = sum(p.nbytes for p in self.model.parameters())
        self.cache: Any = None

    def _run(self, ids: Sequence[int], **cache: Any) -> Logits:
        out = self.model(input_ids=torch.tensor([ids]), use_cache=True, logits_to_keep=1, **cache)
        self.cache = out.cache_params
        logits: Logits = out.logits[0, -1].numpy()
        return logits

    def prefill(self, ids: Sequence[int]) -> Logits:
        return self._run(ids)

    begin = prefill

    def step(self, token: int) -> Logits:
        return self._run([token], cache_params=self.cache)
