"""mamba.py: the package's blocks, with the embedding, the last norm and the tied head around them.

Its own language model (mambapy.lm) cannot be imported without CUDA. Its parallel scan leaves no state behind, and its
generate() walks the prompt, so `begin` does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mambapy.mamba import Mamba, MambaConfig, RMSNorm
from safetensors.torch import load_file

from tests.bench.adapters import Logits


class LanguageModel(torch.nn.Module):
    """The checkpoint's parts, under the names that `load` gives them."""

    def __init__(self, config: MambaConfig, vocab: int) -> None:
        super().__init__()
        self.embeddings = torch.nn.Embedding(vocab, config.d_model)
        self.mamba = Mamba(config)
        self.norm_f = RMSNorm(config.d_model, config.rms_norm_eps)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """(.., d_model) -> (.., vocab)."""
        out: torch.Tensor = self.norm_f(hidden) @ self.embeddings.weight.T
        return out


def load(folder: Path) -> tuple[LanguageModel, MambaConfig]:
    """A checkpoint that transformers could have saved."""
    c = json.loads((folder / "config.json").read_text())
    config = MambaConfig(
        d_model=c["hidden_size"],
        n_layers=c["num_hidden_layers"],
        dt_rank=c["time_step_rank"],
        d_state=c["state_size"],
        expand_factor=c["expand"],
        d_conv=c["conv_kernel"],
        rms_norm_eps=c["layer_norm_epsilon"],
    )
    with torch.device("meta"):
        model = LanguageModel(config, c["vocab_size"])
    tensors = {
        name.removeprefix("backbone.").replace("layers.", "mamba.layers."): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    model.load_state_dict(tensors, assign=True)
    return model.eval(), config


class Engine:
    """Prompts by the parallel scan, tokens by the blocks' step."""

    notes = ("decodes after a prompt that was read token by token: its parallel scan leaves no state",)

    def __init__(self, model: str, n_threads: int) -> None:
        torch.set_num_threads(n_threads)
        torch.set_grad_enabled(False)
        self.model, self.config = load(Path(model))
        self.vocab = self.model.embeddings.num_embeddings
        self.read_per_token = sum(p.nbytes for p in self.model.parameters())
        self.caches: Any = None

    def prefill(self, ids: Sequence[int]) -> Logits:
        hidden = self.model.mamba(self.model.embeddings(torch.tensor([ids])))
        logits: Logits = self.model.head(hidden[0, -1]).numpy()
        return logits

    def begin(self, ids: Sequence[int]) -> Logits:
        c = self.config
        self.caches = [(None, torch.zeros(1, c.d_inner, c.d_conv - 1)) for _ in range(c.n_layers)]
        return [self.step(token) for token in ids][-1]

    def step(self, token: int) -> Logits:
        hidden, self.caches = self.model.mamba.step(self.model.embeddings(torch.tensor([token])), self.caches)
        logits: Logits = self.model.head(hidden)[0].numpy()
        return logits
