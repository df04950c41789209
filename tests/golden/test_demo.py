"""The bundled demo model: the compiled one says what the reference says, token by token."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mossnet_tg import Model
from mossnet_tg.weights.checkpoint import DEMO
from mossnet_tg.weights.reference.model import MossNet
from tests.devices import CPU, ROWS

PROMPTS = ["def fibonacci(n):", "import os\n", "class Stack:", "for i in range("]
N = 256


@pytest.fixture(scope="module", params=[CPU, *ROWS], ids=lambda row: row.name)
def model(request):
    request.param.require()
    return Model.load(target=request.param.target, device=request.param.device)


@pytest.fixture(scope="module")
def greedy():
    """prompt: the reference's N ids."""
    reference = MossNet.load(DEMO).eval()
    found = {}
    with torch.no_grad():
        for prompt in PROMPTS:
            ids = torch.tensor([Model.load().tokenizer.encode(prompt)])
            found[prompt] = reference.generate_greedy(ids, N)[0].tolist()[-N:]
    return found


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_text_equals_the_reference(model, greedy, prompt):
    """256 tokens, both in float32: the one checks the other's arithmetic to the last close decision."""
    ids, expected = model.tokenizer.encode(prompt), greedy[prompt]
    session = model.session()
    logits, found = session.prefill(ids), []
    for _ in range(N):
        found.append(int(logits.argmax()))
        logits = session.decode(found[-1])
    assert found == expected
    if model.eos_ids[0] not in expected:
        assert "".join(model.generate(prompt, max_tokens=N)) == model.tokenizer.decode(expected)


def test_logits_equal_the_float64_reference(model):
    ids = model.tokenizer.encode((DEMO / "README.md").read_text())[:600]
    with torch.no_grad():
        expected = MossNet.load(DEMO, torch.float64).eval()(torch.tensor([ids]))[0][0].numpy()
    assert np.abs(model.logits(ids) - expected).max() < 2e-4 * np.abs(expected).max()


def test_threads_do_not_change_the_text(model):
    """Each tile is computed whole by one thread, so that results are the same bits for any number of them."""
    ids = model.tokenizer.encode(PROMPTS[0])
    logits = [Model.load(n_threads=n).logits(ids * 20) for n in (1, 2, 3)]
    assert np.array_equal(logits[0], logits[1]) and np.array_equal(logits[0], logits[2])
