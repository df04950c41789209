"""The name tables: against the reference model's own parameters, and against what transformers writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import MambaConfig

from mossnet_tg.config import Config, ConfigError, MlpConfig, SsmConfig, SwaConfig
from mossnet_tg.weights.names import MAMBA, MOSSNET, TENSORS, config_of, evaluate, expected, format_of
from mossnet_tg.weights.reference.model import MossNet

SMALL = Config(d_model=24, n_layer=3, vocab_size=50, ssm=SsmConfig(d_state=5, d_conv=3, n_experts=4, top_k=2))
SWA = SwaConfig(layers=(0, 2), n_heads=6, n_kv_heads=2, head_dim=4)
CONFIGS = {
    "small": SMALL,
    "untied": replace(SMALL, tie_embeddings=False),
    "one expert": replace(SMALL, ssm=SsmConfig()),
    "no conv bias, norms, dt_rank": replace(SMALL, ssm=SsmConfig(conv_bias=False, dt_bc_norm=True, dt_rank=7)),
    "mlp": replace(SMALL, mlp=MlpConfig(d_ff=9)),
    "mlp experts": replace(SMALL, mlp=MlpConfig(d_ff=9, n_experts=3, top_k=2)),
    "swa": replace(SMALL, swa=SWA),
    "swa in place": replace(SMALL, swa=replace(SWA, replaces_time_mix=True), mlp=MlpConfig(d_ff=9)),
}


@pytest.mark.parametrize("shared_a", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_table_is_the_reference_model(name: str, shared_a: bool) -> None:
    """Two readings of SPEC.md's table, written apart, agree."""
    reference = {k: tuple(t.shape) for k, t in MossNet(CONFIGS[name], shared_a).state_dict().items()}
    table = {t.name: t for t in expected(MOSSNET, CONFIGS[name])}
    assert set(table) == set(reference)
    for key, shape in reference.items():
        assert shape in table[key].shapes and table[key].spellings == (key,) and table[key].reshaped is None
        assert len(table[key].shapes) == (2 if key.endswith("A_log") and CONFIGS[name].ssm.n_experts > 1 else 1)


def test_dims_and_reasons() -> None:
    assert evaluate("E|1 R+2*N X", SMALL) == ((4, 12, 48), (1, 12, 48))
    by_name = {t.name: t for t in expected(MOSSNET, SMALL)}
    assert by_name["layers.2.ssm.x_proj.weight"].reason == (
        "[E, R+2*N, X] with E = 4 (ssm.n_experts), R = 2 (ssm.dt_rank, d_model), N = 5 (ssm.d_state), "
        "X = 48 (ssm.expand, d_model) in config.json"
    )


def test_formats_name_only_tensors_of_ours() -> None:
    ours = {t.name for t in TENSORS}
    assert {s.name for s in MAMBA.sources} < ours and set(MAMBA.copies.values()) <= ours
    meanings = [*(k.theirs for k in MAMBA.keys), *MAMBA.fixed, *MAMBA.derived, *MAMBA.ignored]
    assert len(meanings) == len(set(meanings))


def saved_by_transformers(tmp_path: Path, **keys: Any) -> dict[str, Any]:
    MambaConfig(**{"vocab_size": 96, "hidden_size": 40, "num_hidden_layers": 2, **keys}).save_pretrained(tmp_path)
    found: dict[str, Any] = json.loads((tmp_path / "config.json").read_text())
    return found


def mamba(found: dict[str, Any]) -> Config:
    assert format_of(found, "config.json") is MAMBA
    return config_of(MAMBA, found, "config.json")


def test_mamba_config_as_transformers_writes_it(tmp_path: Path) -> None:
    keys = {"state_size": 8, "conv_kernel": 3, "expand": 3, "layer_norm_epsilon": 1e-6, "use_conv_bias": False,
            "tie_word_embeddings": False, "time_step_rank": 5, "residual_in_fp32": False, "time_step_scale": 2.0,
            "rescale_prenorm_residual": True, "use_mambapy": True, "eos_token_id": [1, 2]}  # fmt: skip
    assert mamba(saved_by_transformers(tmp_path, **keys)) == Config(
        d_model=40, n_layer=2, vocab_size=96, tie_embeddings=False, norm_eps=1e-6,
        ssm=SsmConfig(expand=3, d_state=8, d_conv=3, dt_rank=5, conv_bias=False),
    )  # fmt: skip
    assert mamba(saved_by_transformers(tmp_path)).dt_rank == 3  # "auto" is ceil(40 / 16), and is written as a number


def test_mamba_defaults_are_those_of_transformers(tmp_path: Path) -> None:
    sizes = {"vocab_size": 96, "hidden_size": 40, "num_hidden_layers": 2}
    assert mamba({"model_type": "mamba", **sizes}).d_inner == 80
    full = mamba(saved_by_transformers(tmp_path))
    short = mamba({"model_type": "mamba", **sizes})
    assert replace(short, ssm=replace(short.ssm, dt_rank=short.dt_rank)) == full


def test_left_over_keys_of_converted_checkpoints(tmp_path: Path) -> None:
    found = saved_by_transformers(tmp_path)
    old = {"d_inner": 80, "d_model": 40, "n_layer": 2, "rms_norm": True, "ssm_cfg": {}, "fused_add_norm": True,
           "pad_vocab_size_multiple": 8, "torch_dtype": "float32"}  # fmt: skip
    assert mamba({**found, **old}) == mamba(found)


# name -> (keys put into a Mamba config.json, parts of the refusal)
REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "activation": ({"hidden_act": "gelu"}, ["hidden_act", "'gelu'", "'silu'"]),
    "bias": ({"use_bias": True}, ["use_bias", "true", "false"]),
    "bias as a number": ({"use_bias": 0}, ["use_bias", "0", "false"]),
    "ssm_cfg": ({"ssm_cfg": {"layer": "Mamba2"}}, ["ssm_cfg", "Mamba2"]),
    "layer norm": ({"rms_norm": False}, ["rms_norm", "true"]),
    "inner size": ({"intermediate_size": 100}, ["intermediate_size", "100", "80"]),
    "inner size as text": ({"intermediate_size": "80"}, ["is '80'", "make it 80"]),
    "d_model": ({"d_model": 41}, ["d_model", "41", "40"]),
    "unknown": ({"mamba_rms": True}, ["'mamba_rms'"]),
    "misspelt": ({"hidden_sise": 40}, ["'hidden_sise'", "did you mean 'hidden_size'?"]),
    "size as text": ({"hidden_size": "40"}, ["d_model", '"40"', "d_model is the key hidden_size"]),
    "size of zero": ({"state_size": 0}, ["ssm.d_state is 0", "ssm.d_state is the key state_size"]),
    "fraction": ({"expand": 1.5}, ["ssm.expand", "1.5"]),
    "rank": ({"time_step_rank": "all"}, ["ssm.dt_rank", '"all"', "time_step_rank"]),
    "epsilon": ({"layer_norm_epsilon": None}, ["norm_eps", "null", "layer_norm_epsilon"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_mamba_configs_that_are_refused(tmp_path: Path, name: str) -> None:
    changes, parts = REFUSED[name]
    with pytest.raises(ConfigError) as e:
        mamba({**saved_by_transformers(tmp_path), **changes})
    message = f"{e.value} {e.value.hint}"
    assert [p for p in ["config.json", *parts] if p not in message] == [], message


def test_missing_keys() -> None:
    with pytest.raises(ConfigError, match=r"config\.json: key 'hidden_size' is missing"):
        mamba({"model_type": "mamba", "vocab_size": 9})


@pytest.mark.parametrize(
    ("found", "part"),
    [
        ({"model_type": "llama"}, "model_type is 'llama', expected 'mossnet' or 'mamba'"),
        ({"model_type": ["mamba"]}, "model_type is"),
        ({}, "'model_type' is missing"),
        ([], "expected an object"),
    ],
)
def test_other_models(found: Any, part: str) -> None:
    with pytest.raises(ConfigError, match=r"^some/config\.json: ") as e:
        format_of(found, "some/config.json")
    assert part in str(e.value)


def test_the_authors_own_config_is_told_apart() -> None:
    with pytest.raises(ConfigError) as e:
        format_of({"d_model": 768, "n_layer": 24, "vocab_size": 50277, "ssm_cfg": {}}, "config.json")
    assert "transformers" in str(e.value.hint)
