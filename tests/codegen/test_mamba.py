"""Hugging Face Mamba checkpoints, saved by transformers and compiled, against transformers itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mossnet_tg import Model
from tests.codegen.random_models import tokens, worst

transformers = pytest.importorskip("transformers")

SIZES = {
    "even": {"hidden_size": 64, "state_size": 16, "num_hidden_layers": 3, "vocab_size": 256},
    "odd": {
        "hidden_size": 37,
        "state_size": 7,
        "num_hidden_layers": 2,
        "vocab_size": 101,
        "time_step_rank": 5,
        "conv_kernel": 3,
    },
    "untied": {
        "hidden_size": 48,
        "state_size": 16,
        "num_hidden_layers": 1,
        "vocab_size": 77,
        "tie_word_embeddings": False,
    },
    "no_conv_bias": {"hidden_size": 32, "expand": 3, "num_hidden_layers": 2, "vocab_size": 64, "use_conv_bias": False},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", list(SIZES))
def test_logits_equal_transformers(name, dtype, tmp_path, monkeypatch):
    monkeypatch.setenv("MOSSNET_CACHE_DIR", str(tmp_path / "cache"))
    torch.manual_seed(0)
    theirs = transformers.MambaForCausalLM(transformers.MambaConfig(**SIZES[name])).eval().to(dtype)
    theirs.save_pretrained(tmp_path)
    ids = tokens(37, SIZES[name]["vocab_size"])
    with torch.no_grad():
        expected = theirs.float()(torch.from_numpy(ids[None]).long()).logits[0].numpy()
    ours = Model.load(tmp_path, chunk=16, n_threads=2)
    assert worst(ours.logits(ids), expected) < 2e-4
    session = ours.session()
    assert worst(np.stack([session.decode(int(i)) for i in ids]), expected) < 2e-4
