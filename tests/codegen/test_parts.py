"""Weights that are larger than a device's buffers: compiled in parts, they say the same."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch

from mossnet_tg.codegen import moss_file
from mossnet_tg.codegen.compile import compile_checkpoint
from mossnet_tg.codegen.layout import Panels
from mossnet_tg.codegen.options import CompileOptions
from mossnet_tg.engine import CompiledModel
from mossnet_tg.errors import MossnetError
from mossnet_tg.weights.checkpoint import Checkpoint
from tests.codegen.random_models import CHUNK, N_SCORED, reference, tokens, worst
from tests.devices import ROWS

MOST = 16384


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize(("mode", "dtype"), [("selected", torch.float32), ("untied", torch.float16)])
def test_same_logits(row, mode, dtype, tmp_path):
    row.require()
    model = reference(mode, dtype=dtype)
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens(N_SCORED)[None]).long())[0][0].numpy()
    model.save(tmp_path, dtype=dtype)
    target, path = dataclasses.replace(row.resolved, max_buffer_bytes=MOST), tmp_path / "model.moss"
    compile_checkpoint(Checkpoint.open(tmp_path), target, path, CompileOptions(chunk=CHUNK), lambda _: None)
    buffers = moss_file.read(path).buffers
    weights = [
        b for b in buffers if b.region == moss_file.Region.WEIGHTS and re.search("proj|embed|head|mlp.w", b.name)
    ]
    assert all(b.bytes <= MOST for b in weights) and len({b.name for b in weights}) < len(weights)
    with CompiledModel(path, allow_native=True, device=row.device) as engine, engine.session() as session:
        assert worst(session.score(tokens(N_SCORED)), expected) < 2e-4
        session.reset()
        for i, token in enumerate(tokens(8)):
            assert worst(session.decode(int(token)), expected[i]) < 2e-4


def test_parts_are_whole_panels():
    panels = Panels(4, most_bytes=500)
    assert panels.parts((3, 10, 5), "float32") == (120, 60)  # 9 panels of 20 elements, of which 6 fit
    assert Panels(4).parts((3, 10, 5), "float32") == (180,)
    with pytest.raises(MossnetError, match="4 rows of a matrix"):
        panels.parts((10, 100), "float32")
