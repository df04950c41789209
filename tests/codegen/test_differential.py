"""The compiled model against the float64 reference: every mode of SPEC.md, every way through a prompt."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.codegen.random_models import CHUNK, MODES, compiled, reference, tokens, worst

N = 3 * CHUNK + 5
LENGTHS = (1, 7, CHUNK - 1, CHUNK, CHUNK + 1, N)
F32 = 2e-4  # of the largest logit (DESIGN.md, numbers policy)


@pytest.fixture(scope="module", params=list(MODES))
def pair(request, tmp_path_factory):
    """(compiled model, reference logits [N, V] in float64) of one mode."""
    model = reference(request.param)
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens(N)[None]).long())[0][0].numpy()
    return compiled(model, tmp_path_factory.mktemp(request.param)), expected


@pytest.mark.parametrize("target_threads", [1, 2])
def test_prompt_of_any_length_then_decode(pair, target_threads):
    """A prompt of n tokens, then the rest token by token: chunk boundaries are nowhere to be seen."""
    model, expected = pair
    ids = tokens(N)
    for n in LENGTHS:
        with model.session(target_threads) as session:
            assert worst(session.prefill(ids[:n]), expected[n - 1]) < F32
            for i in range(n, min(n + 3, N)):
                assert worst(session.decode(int(ids[i])), expected[i]) < F32


def test_token_by_token(pair):
    model, expected = pair
    with model.session(1) as session:
        found = np.stack([session.decode(int(i)) for i in tokens(N)])
    assert worst(found, expected) < F32


def test_score_gives_every_row(pair):
    model, expected = pair
    with model.session(2) as session:
        assert worst(session.score(tokens(N)), expected) < F32


def test_prompt_in_pieces(pair):
    """Prefill after prefill continues the same state."""
    model, expected = pair
    ids = tokens(N)
    with model.session(2) as session:
        for begin, end in ((0, 3), (3, 3 + CHUNK), (3 + CHUNK, N)):
            logits = session.prefill(ids[begin:end])
        assert worst(logits, expected[-1]) < F32
