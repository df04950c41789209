"""MossNet in plain PyTorch (weights/reference), eager, or with its step through torch.compile."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from mossnet_tg.codegen.reads import share_per_token
from mossnet_tg.weights.reference.model import MossNet, State
from tests.bench.adapters import Logits


class Engine:
    """A reference checkpoint in float32. With `compile` the first step compiles."""

    def __init__(self, model: str, n_threads: int, compile: bool = False) -> None:
        torch.set_num_threads(n_threads)
        torch.set_grad_enabled(False)
        self.model = MossNet.load(model).eval()
        c = self.model.config
        self.vocab = c.vocab_size
        self.notes: list[str] = []
        self.read_per_token = int(
            sum(p.nbytes * share_per_token(c, name, p.numel()) for name, p in self.model.named_parameters())
        )
        self.state = self.model.init_state(1)
        self.advance = self._advance
        if compile:
            torch.compiler.config.force_disable_caches = True  # how long it takes is a figure
            self.advance = torch.compile(self._advance, dynamic=False)
        self.compiling = compile

    def _advance(
        self, ids: torch.Tensor, conv: torch.Tensor, ssm: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A step as a function of tensors alone: the position, which only attention needs, would compile it anew."""
        state = State(conv, ssm, [], 0)
        return self.model.step(ids, state), state.conv, state.ssm

    def prefill(self, ids: Sequence[int]) -> Logits:
        hidden, self.state, _ = self.model.run(torch.tensor([ids]))
        logits: Logits = self.model.logits(hidden[:, -1:])[0, 0].numpy()
        return logits

    begin = prefill

    def step(self, token: int) -> Logits:
        start = time.perf_counter()
        logits, conv, ssm = self.advance(torch.tensor([token]), self.state.conv, self.state.ssm)
        self.state = State(conv, ssm, [], 0)
        if self.compiling:
            self.compiling = False
            self.notes.append(f"compiling the step took {time.perf_counter() - start:.0f} s")
        out: Logits = logits[0].numpy()
        return out
