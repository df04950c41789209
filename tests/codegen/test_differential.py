"""The compiled model against the float64 reference: every mode of SPEC.md, every way through a prompt, every target."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mossnet_tg.codegen.compile import compile_checkpoint
from mossnet_tg.codegen.options import CompileOptions
from mossnet_tg.engine import Library
from mossnet_tg.targets.table import parse_target
from mossnet_tg.weights.checkpoint import Checkpoint
from tests.codegen.random_models import (
    CHUNK,
    MODES,
    N_SCORED,
    compile_only,
    load,
    reference,
    save_with_shared_rates,
    slow_states,
    tokens,
    worst,
)
from tests.devices import CPU, ROWS

N = N_SCORED
LENGTHS = (1, 7, CHUNK - 1, CHUNK, CHUNK + 1, N)
F32 = 2e-4  # of the largest logit (DESIGN.md, numbers policy)


# What OpenCL has for processors is the cpu's own generators, so a part of the modes says enough of it.
SOME = ("odd", "selected", "all_zoh_norms", "param_mix", "attention", "tiny")
PAIRS = [(row, mode) for row in (CPU, *ROWS) for mode in (SOME if row.name == "opencl" else MODES)]

on_every_target = pytest.mark.parametrize("row", [CPU, *ROWS], ids=lambda row: row.name)


def expected_of(model):
    """The reference's logits [N, V]."""
    with torch.no_grad():
        return model(torch.from_numpy(tokens(N)[None]).long())[0][0].numpy()


@pytest.fixture(scope="module", params=PAIRS, ids=lambda pair: f"{pair[0].name}-{pair[1]}")
def pair(request, tmp_path_factory):
    """(compiled model, reference logits [N, V] in float64, row) of one mode on one target."""
    row, mode = request.param
    row.require()
    model = reference(mode)
    with load(compile_only(model, tmp_path_factory.mktemp(mode), row.target), row) as engine:
        yield engine, expected_of(model), row


def test_prompt_of_any_length_then_decode(pair):
    """A prompt of n tokens, then the rest token by token: chunk boundaries are nowhere to be seen."""
    model, expected, row = pair
    ids = tokens(N)
    for n_threads in row.n_threads:
        for n in LENGTHS:
            with model.session(n_threads) as session:
                assert worst(session.prefill(ids[:n]), expected[n - 1]) < F32
                for i in range(n, min(n + 3, N)):
                    assert worst(session.decode(int(ids[i])), expected[i]) < F32


def test_token_by_token(pair):
    model, expected, row = pair
    with model.session(row.n_threads[0]) as session:
        found = np.stack([session.decode(int(i)) for i in tokens(N)])
    assert worst(found, expected) < F32


def test_score_gives_every_row(pair):
    model, expected, row = pair
    with model.session(row.n_threads[-1]) as session:
        assert worst(session.score(tokens(N)), expected) < F32


def test_prompt_in_pieces(pair):
    """Prefill after prefill continues the same state."""
    model, expected, row = pair
    ids = tokens(N)
    with model.session(row.n_threads[-1]) as session:
        for begin, end in ((0, 3), (3, 3 + CHUNK), (3 + CHUNK, N)):
            logits = session.prefill(ids[begin:end])
        assert worst(logits, expected[-1]) < F32


def check(model, path, row):
    """score and decode say what the reference says."""
    expected = expected_of(model)
    with load(path, row) as engine, engine.session() as session:
        assert worst(session.score(tokens(N)), expected) < F32
        session.reset()
        for i, token in enumerate(tokens(4)):
            assert worst(session.decode(int(token)), expected[i]) < F32


@on_every_target
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", ["odd", "selected", "attention"])
def test_narrow_weights(row, mode, dtype, tmp_path):
    """Both sides hold the same narrow weights, so what is left is float32 arithmetic."""
    row.require()
    model = reference(mode, dtype=dtype)
    check(model, compile_only(model, tmp_path, row.target, dtype=dtype), row)


@on_every_target
def test_zoh_of_slow_states_keeps_its_digits(row, tmp_path):
    """Where Delta A is small, (a - 1) / A must not be computed from a: it is close to 1."""
    row.require()
    model = slow_states()
    check(model, compile_only(model, tmp_path, row.target), row)


@on_every_target
def test_each_layer_shares_its_rates_or_not(row, tmp_path):
    """A_log may be one for all experts in one layer and one for each in the next."""
    row.require()
    model = save_with_shared_rates(tmp_path)
    path = tmp_path / "model.moss"
    compile_checkpoint(Checkpoint.open(tmp_path), row.resolved, path, CompileOptions(chunk=CHUNK), lambda _: None)
    check(model, path, row)


@pytest.mark.parametrize(("name", "value"), [("DEFAULT_FLOAT", "float16"), ("DISALLOW_BROADCAST", 1)])
def test_tinygrads_settings_do_not_reach_the_compiler(name, value, tmp_path):
    from tinygrad.helpers import Context

    with Context(**{name: value}):
        path = compile_only(reference("mamba"), tmp_path / "changed" / "model")
    assert path.read_bytes() == compile_only(reference("mamba"), tmp_path / "plain" / "model").read_bytes()


def test_a_state_too_large_for_a_stack_is_refused(tmp_path):
    from mossnet_tg.config import Config
    from mossnet_tg.errors import MossnetError
    from mossnet_tg.weights.reference.model import MossNet

    sizes = {"model_type": "mossnet", "d_model": 4, "n_layer": 1, "vocab_size": 3}
    model = MossNet(Config.from_dict({**sizes, "ssm": {"d_state": 20000}}))
    with pytest.raises(MossnetError, match="stack"):
        compile_only(model, tmp_path)


@on_every_target
def test_every_tensor_may_have_its_own_type(row, tmp_path):
    """Alternating float32, float16 and bfloat16 matrices, also within one kernel (w1 and w3)."""
    row.require()
    model = reference("selected")
    types = (torch.float32, torch.float16, torch.bfloat16)
    stored = {}
    with torch.no_grad():
        for i, (name, p) in enumerate(model.named_parameters()):
            stored[name] = p.to(types[i % 3] if p.dim() > 1 and "A_log" not in name else torch.float32)
            p.copy_(stored[name].double())
    assert stored["layers.0.mlp.w1.weight"].dtype != stored["layers.0.mlp.w3.weight"].dtype
    model.save(tmp_path)
    save_file({name: t.contiguous() for name, t in stored.items()}, tmp_path / "model.safetensors")
    path = tmp_path / "model.moss"
    compile_checkpoint(Checkpoint.open(tmp_path), row.resolved, path, CompileOptions(chunk=CHUNK), lambda _: None)
    check(model, path, row)


@on_every_target
@pytest.mark.parametrize("chunk", [2, 13, 128])
def test_any_chunk(row, chunk, tmp_path):
    row.require()
    model = reference("selected")
    check(model, compile_only(model, tmp_path, row.target, chunk), row)


@pytest.mark.parametrize("level", ["x86-64-v2", "x86-64-v3"])
def test_lower_levels(level, tmp_path):
    missing = set(parse_target(f"cpu:mcpu={level}").features) - set(Library.default().cpu_features)
    if missing:
        pytest.skip(f"this CPU lacks {', '.join(sorted(missing))}")
    model = reference("selected", dtype=torch.float16)
    check(model, compile_only(model, tmp_path, f"cpu:mcpu={level}", dtype=torch.float16), CPU)
