"""The identities of SPEC.md on compiled models.

Numbers 3 and 5 are about one layer's inside: tests/weights/test_reference.py proves them for the reference in float64,
and test_differential.py ties the compiled model to it. Number 4 is test_differential.py.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from mossnet_tg.weights.reference.model import MossNet
from tests.codegen.random_models import N_SCORED, compiled, reference, tokens, worst
from tests.devices import CPU, ROWS, Row

F32 = 2e-4


on_every_target = pytest.mark.parametrize("row", [CPU, *ROWS], ids=lambda row: row.name)


def scored(model: MossNet, folder, row: Row) -> np.ndarray:
    row.require()
    with compiled(model, folder, row.target, device=row.device) as engine, engine.session(row.n_threads[-1]) as session:
        return session.score(tokens(N_SCORED))


def with_ssm(model: MossNet, **ssm) -> MossNet:
    """A model of the same weights whose time mix is configured otherwise; each expert gets the one expert's weights."""
    c = model.config
    changed = MossNet(dataclasses.replace(c, ssm=dataclasses.replace(c.ssm, **ssm))).double()
    mine = model.state_dict()
    for name, p in changed.state_dict().items():
        source = mine.get(name)
        if source is None:  # a router: any will do
            torch.manual_seed(7)
            p.copy_(torch.randn_like(p).float().double())
        else:
            p.copy_(source.expand_as(p))
    return changed.eval()


@on_every_target
def test_1_one_expert_is_mamba_in_both_modes(row, tmp_path):
    dense = reference("mamba")
    mixed = with_ssm(dense, mode="param_mix")
    found = [scored(m, tmp_path / name, row) for name, m in (("dense", dense), ("mixed", mixed))]
    assert worst(found[1], found[0]) < F32


@on_every_target
@pytest.mark.parametrize("discretization", ["mamba", "zoh"])
def test_2_identical_experts_are_one(row, discretization, tmp_path):
    dense = with_ssm(reference("mamba"), discretization=discretization)
    expected = scored(dense, tmp_path / "dense", row)
    experts = {"n_experts": 4, "top_k": 2}
    everything = with_ssm(dense, **experts, state_update="all")
    mixed = with_ssm(dense, **experts, mode="param_mix")
    assert worst(scored(everything, tmp_path / "all", row), expected) < F32
    assert worst(scored(mixed, tmp_path / "mixed", row), expected) < F32
    # The check can fail: experts that keep their state while others are selected are not one Mamba.
    selected = with_ssm(dense, **experts)
    assert worst(scored(selected, tmp_path / "selected", row), expected) > 10 * F32
