"""q8 and q4: what they lose, how files hold them, which tensors may be so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mossnet_tg.config import Config
from mossnet_tg.weights.checkpoint import DEMO, Checkpoint
from mossnet_tg.weights.quantised import Groups, dequantise, dtype_for, quantise, read_back, stored
from mossnet_tg.weights.safetensors_file import CheckpointError
from mossnet_tg.weights.tensors import Converted
from mossnet_tg.weights.write import write_checkpoint


def normal(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("dtype", "most"), [("q8", 0.006), ("q4", 0.084)])
def test_what_is_lost(dtype: str, most: float) -> None:
    """Of normal values, as a share of their size; taking the largest for -8, as is done elsewhere, q4 loses 0.088."""
    x = normal(3, 50, 96)
    found = dequantise(quantise(x, dtype), dtype)
    assert found.shape == x.shape and found.dtype == np.float32
    assert most / 2 < np.sqrt(((found - x) ** 2).mean() / (x**2).mean()) < most


@pytest.mark.parametrize("dtype", ["q8", "q4"])
def test_codes_that_fit_are_exact(dtype: str) -> None:
    half = 127 if dtype == "q8" else 7
    codes = np.random.default_rng(1).integers(-half, half + 1, (4, 64))
    codes[:, ::32] = -8 if dtype == "q4" else half  # q4 reaches further on the one side
    x = (codes * np.float32(0.25)).astype(np.float32)
    for values in (x, -x, np.zeros((2, 32), np.float32)):
        assert np.array_equal(dequantise(quantise(values, dtype), dtype), values)


@pytest.mark.parametrize("dtype", ["q8", "q4"])
def test_what_a_file_holds_is_read_back(dtype: str) -> None:
    groups = quantise(normal(2, 5, 96), dtype)
    held = stored(groups, dtype)
    assert held.codes.nbytes == 2 * 5 * 96 * (1 if dtype == "q8" else 0.5) and held.scales.shape == (2, 5, 3)
    back = read_back(held, dtype)
    assert np.array_equal(back.codes, groups.codes) and np.array_equal(back.scales, groups.scales)


def test_a_byte_of_q4_holds_two_halves_of_a_group() -> None:
    codes = np.arange(32, dtype=np.uint8)[None] % 16
    codes[0, 16:] = 15 - codes[0, :16]
    held = stored(Groups(codes, np.ones((1, 1), np.float16)), "q4")
    assert held.codes.tolist() == [[i | (15 - i) << 4 for i in range(16)]]


def test_which_type_each_tensor_gets() -> None:
    names = {
        "embed.weight": ("q8", "q8"),
        "layers.0.ssm.in_proj.weight": ("q4", "q8"),
        "layers.0.mlp.w1.weight": ("q4", "q8"),
        "layers.0.swa.q_proj.weight": ("q4", "q8"),
        "layers.0.ssm.dt_proj.weight": ("f16", "f16"),
        "layers.0.ssm.router.weight": ("f32", "f32"),
        "layers.0.ssm.A_log": ("f32", "f32"),
        "layers.0.ssm.norm.weight": ("f32", "f32"),
        "layers.0.ssm.conv.weight": ("f32", "f32"),
        "layers.0.ssm.dt_proj.bias": ("f32", "f32"),
    }
    for name, (of_q4, of_q8) in names.items():
        assert dtype_for(name, (4, 64), "f32", "q4") == of_q4, name
        assert dtype_for(name, (4, 64), "f32", "q8") == of_q8, name
    assert dtype_for("layers.0.mlp.w2.weight", (4, 48), "f32", "q4") == "f16"
    assert dtype_for("layers.0.mlp.w2.weight", (4, 48), "bf16", "q4") == "bf16"
    assert dtype_for("layers.0.mlp.w2.weight", (4, 48), "f32", "bf16") == "bf16"
    assert dtype_for("layers.0.mlp.router.weight", (4, 64), "f32", "bf16") == "f32"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The demo as q4."""
    write_checkpoint(Checkpoint.open(DEMO).with_weights("q4"), tmp_path, lambda _: None)
    return tmp_path


def test_a_written_checkpoint_is_the_converted_one(folder: Path) -> None:
    converted, found = Checkpoint.open(DEMO).with_weights("q4"), Checkpoint.open(folder)
    assert {name: t.dtype for name, t in found.tensors.items()} == {n: t.dtype for n, t in converted.tensors.items()}
    assert {t.dtype for t in found.tensors.values()} == {"f32", "f16", "q8", "q4"}
    for name, t in found.tensors.items():
        assert np.array_equal(t.f32(), converted.tensors[name].f32()), name
    assert (found.weights_bytes, found.n_params) == (converted.weights_bytes, converted.n_params)
    assert (found.eos_ids, found.tokenizer_json) == (converted.eos_ids, converted.tokenizer_json)
    assert found.weights_bytes < 0.55 * Checkpoint.open(DEMO).weights_bytes
    assert not list(folder.glob(".*"))


def test_types_have_identities_of_their_own() -> None:
    """A cache must not mistake one for another."""
    demo = Checkpoint.open(DEMO)
    several = [demo, *(demo.with_weights(dtype) for dtype in ("f32", "bf16", "q8", "q4"))]
    assert len({c.fingerprint() for c in several}) == len({c.model_hash() for c in several}) == len(several)
    assert demo.with_weights("").fingerprint() == demo.fingerprint() == demo.with_weights("f16").fingerprint()


def test_bf16_is_rounded_to_the_nearest() -> None:
    torch = pytest.importorskip("torch")
    values = np.concatenate([normal(1000), np.array([np.nan, np.inf, -np.inf, 0, 1e-40, 3.4e38], np.float32)])

    class Source:
        shape, identity, parts, name, dtype = values.shape, "f32", (), "x", "f32"

        def f32(self) -> Any:
            return values

    found = Converted(Source(), "bf16").f32()  # type: ignore[arg-type]
    expected = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    assert np.array_equal(found, expected, equal_nan=True)


W1, ROUTER = "layers.0.mlp.w1.weight", "layers.0.ssm.router.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(f"{W1}.q4_scale"), "has no scales"),
        (lambda t: t.pop(f"{W1}.q4"), "is missing"),
        (lambda t: t.update({f"{W1}.q4": t[f"{W1}.q4"].view(np.int8)}), "is i8 .*, expected u8"),
        (lambda t: t.update({f"{W1}.q4": t[f"{W1}.q4"][..., :-16].copy()}), r"expected f16 \[8, 112, 5\]"),
        (lambda t: t.update({f"{W1}.q4_scale": t[f"{W1}.q4_scale"].astype(np.float32)}), "is f32 .*, expected f16"),
        (lambda t: t.update({W1: np.zeros((8, 112, 192), np.float32)}), "beside another form"),
        (lambda t: t.update({"norm_f.weight.q8": t.pop("norm_f.weight").astype(np.int8)}), "cannot be"),
        (lambda t: t.update({"x.q8": np.zeros(32, np.int8), ".q4": np.zeros(16, np.uint8)}), "cannot be"),
        (lambda t: t.update({f"{W1}.q4": np.zeros((), np.uint8)}), r"is u8 \[\], expected u8 of a matrix"),
        (lambda t: t.update({ROUTER + ".q8": t.pop(ROUTER).astype(np.int8)}), "cannot be"),
    ],
)  # fmt: skip
def test_halves_that_do_not_fit(folder: Path, change: Any, said: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=said):
        Checkpoint.open(folder)


def test_a_quantised_one_is_quantised_again(folder: Path) -> None:
    """From q4 to q8: what was lost stays so, and little is added."""
    q4 = Checkpoint.open(folder)
    q8 = q4.with_weights("q8")
    a, b = (c.tensors[W1].f32() for c in (q4, q8))
    assert 0 < np.abs(a - b).max() < 0.01 * np.abs(a).max()


def test_a_full_disk_leaves_what_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    from mossnet_tg.errors import MossnetError

    before = (folder / "model.safetensors").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(MossnetError, match="cannot be written: File too large"):
            write_checkpoint(Checkpoint.open(DEMO).with_weights("q8"), folder, lambda _: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (folder / "model.safetensors").read_bytes() == before and not list(folder.glob(".*"))


def test_a_config_that_transformers_wrote_becomes_ours(tmp_path: Path) -> None:
    """A Mamba's names and settings are SPEC.md's in what is written."""
    torch = pytest.importorskip("torch")
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    mamba = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4))
    mamba.save_pretrained(tmp_path / "mamba")
    (tmp_path / "ours").mkdir()
    source = Checkpoint.open(tmp_path / "mamba").with_weights("q8")
    write_checkpoint(source, tmp_path / "ours", lambda _: None)
    found = Checkpoint.open(tmp_path / "ours")
    assert found.config == source.config == Config.from_dict(json.loads((tmp_path / "ours/config.json").read_text()))
    for name, t in source.tensors.items():
        assert np.array_equal(t.f32(), found.tensors[name].f32()), name
