"""What steps move and compute, against what the checkpoint's tensors and SPEC.md's equations say of a token."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from mossnet_tg.codegen import moss_file
from mossnet_tg.codegen.emit import cubin
from mossnet_tg.codegen.moss_file import EntryKind, MossFile
from mossnet_tg.codegen.reads import read_by_step, read_per_token, share_per_token
from mossnet_tg.codegen.work import Work, work_by_step
from mossnet_tg.config import Config
from mossnet_tg.errors import MossnetError
from mossnet_tg.weights.names import MOSSNET, expected
from tests.codegen.random_models import CHUNK, MODES, compile_only, config, reference
from tests.devices import ROWS


def flops_of_products(c: Config, n_tokens: int, n_logits: int) -> float:
    """Two for each element of a matrix that a token uses."""
    total = 0.0
    for tensor in expected(MOSSNET, c):
        shape = tensor.shapes[0]
        if not tensor.name.endswith(".weight") or len(shape) == 1:
            continue  # vectors, biases, A_log
        head = tensor.name == ("embed.weight" if c.tie_embeddings else "lm_head.weight")
        if tensor.name == "embed.weight" and not head:
            continue  # a row of it is read
        n = math.prod(shape)
        total += 2 * n * float(share_per_token(c, tensor.name, n)) * (n_logits if head else n_tokens)
    return total


def flops_of_scans(c: Config, n_tokens: int) -> float:
    """7 for each element of a state that moves, 9 with zoh."""
    n_moving = {
        ("separate_state", "selected"): c.ssm.top_k,
        ("separate_state", "all"): c.ssm.n_experts,
        ("param_mix", "selected"): 1,
    }[c.ssm.mode, c.ssm.state_update]
    n_layers = sum(c.has_ssm(layer) for layer in range(c.n_layer))
    per_element = 9 if c.ssm.discretization == "zoh" else 7
    return float(n_tokens * n_layers * n_moving * c.d_inner * c.ssm.d_state * per_element)


def flops_of_attention(c: Config, n_tokens: int) -> float:
    """Scores and values: two operations each, for every earlier token in the window."""
    met = sum(min(t + 1, c.swa.window or n_tokens) for t in range(n_tokens))
    return 4.0 * len(c.swa.layers) * c.swa.n_heads * c.swa.head_dim * met


def works(moss: MossFile, c: Config, kind: EntryKind) -> list[Work]:
    return work_by_step(moss, c, next(e for e in moss.entries if e.kind == kind))


@pytest.mark.parametrize("mode", list(MODES))
def test_the_steps_sum_up_to_the_model(mode: str, tmp_path: Path) -> None:
    c, moss = config(mode), moss_file.read(compile_only(reference(mode), tmp_path))
    assert moss.meta["driver"] == "cpu"
    check_sums(moss, c)


@pytest.mark.parametrize("target", [*(row.target for row in ROWS), "cuda:arch=80"])
def test_on_every_target(target: str, tmp_path: Path) -> None:
    """Other kernels, the same work."""
    if target.startswith("cuda"):
        try:
            cubin.compiler((80,))
        except MossnetError as e:
            pytest.skip(str(e))
    check_sums(moss_file.read(compile_only(reference("attention"), tmp_path, target)), config("attention"))


def check_sums(moss: MossFile, c: Config) -> None:
    for kind, n_tokens, n_logits in (
        (EntryKind.DECODE, 1, 1),
        (EntryKind.PREFILL, CHUNK, 1),
        (EntryKind.SCORE, CHUNK, CHUNK),
    ):
        found = sum(work.flops for work in works(moss, c, kind))
        products = flops_of_products(c, n_tokens, n_logits)
        assert found == pytest.approx(products + flops_of_scans(c, n_tokens) + flops_of_attention(c, n_tokens)), kind
    state = sum(work.bytes for work in works(moss, c, EntryKind.DECODE)) - read_per_token(moss, c)
    assert 0 <= state <= 2 * moss.state_bytes


def test_bytes_of_states_and_experts(tmp_path: Path) -> None:
    """Two of four experts: a token reads half of what a chunk does, and moves half of the states, there and back."""
    c, moss = config("selected"), moss_file.read(compile_only(reference("selected"), tmp_path))
    sizes = {b.name: b.bytes for b in moss.buffers}
    for kind, share in ((EntryKind.DECODE, 0.5), (EntryKind.PREFILL, 1.0)):
        entry = next(e for e in moss.entries if e.kind == kind)
        steps = moss.steps[entry.first_step : entry.first_step + entry.n_steps]
        label = {
            s.label: (w, read)
            for s, w, read in zip(steps, works(moss, c, kind), read_by_step(moss, c, entry), strict=True)
        }
        work, read = label["layers.0.ExpertMatmul(mlp.w2.weight)"]
        assert work.bytes == read == share * sizes["layers.0.mlp.w2.weight"]
        work, read = label["layers.1.RoutedScan(ssm.A)"]  # of two kernels with this label the last: the scan
        assert read == share * sizes["layers.1.ssm.A"] + sizes["layers.1.ssm.D"]
        assert work.bytes - read == share * 2 * sizes["layers.1.ssm"]
        work, read = label["layers.1.CausalConv(ssm.taps)"]
        assert work.bytes - read == 2 * sizes["layers.1.conv"]
        work, read = label["embed/embed.weight"]
        assert work == Work(4 * c.d_model * entry.n_tokens, 0) and read == work.bytes
