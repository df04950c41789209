"""Ten thousand tokens of decode: no drift from the float64 reference, no NaN, no growth."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from mossnet_tg.errors import UsageError
from tests.codegen.random_models import MODES, compiled, reference, tokens, worst

N = 10_000


def resident_kib() -> int:
    """This process's resident memory."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


# All but attention without a window, whose memory has an end (below).
@pytest.mark.parametrize("mode", [m for m in MODES if m != "attention_to_all"])
def test_ten_thousand_tokens(mode, tmp_path):
    model = reference(mode)
    ids = tokens(N)
    with torch.no_grad():
        expected, state = [], None
        for piece in torch.from_numpy(ids[None]).long().split(250, dim=1):
            logits, state = model(piece, state)
            expected.append(logits[0].numpy())
        expected = np.concatenate(expected)
    with compiled(model, tmp_path) as engine, engine.session(1) as session:
        found = np.full(expected.shape, np.nan, np.float32)  # touched now: what grows later is the session
        for i in range(N):
            found[i] = session.decode(int(ids[i]), copy=False)
            if i == 1000:
                before = resident_kib()
        assert resident_kib() - before < 512
        assert np.isfinite(found).all()
        # Errors do not pile up: the last thousand tokens are as exact as any.
        assert worst(found[-1000:], expected[-1000:]) < 2e-4
        assert worst(found, expected) < 2e-4
        assert session.position == N


def test_attention_to_all_ends_with_its_context(tmp_path):
    """A ring without a window holds what it was compiled for, and says so; nothing is forgotten silently."""
    with compiled(reference("attention_to_all"), tmp_path) as engine, engine.session(1) as session:
        limit = engine.info.max_context
        session.prefill(tokens(limit))
        with pytest.raises(UsageError, match=str(limit)):
            session.decode(1)
        assert session.position == limit
