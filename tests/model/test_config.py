"""config.json, read strictly: what SPEC.md does not define is refused, with the place, what was found and expected."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mossnet_tg.config import Config, ConfigError

SMALL: dict[str, Any] = {"model_type": "mossnet", "d_model": 64, "n_layer": 2, "vocab_size": 100}


def read(**changes: Any) -> Config:
    return Config.from_json(json.dumps({**SMALL, **changes}))


def test_defaults_are_mamba():
    c = read()
    assert (c.ssm.n_experts, c.mlp, c.swa.layers, c.tie_embeddings) == (1, None, (), True)
    assert (c.d_inner, c.dt_rank, c.n_states) == (128, 4, 1)


def test_every_key_comes_back():
    ssm = {"n_experts": 8, "top_k": 2, "mode": "separate_state", "state_update": "all", "discretization": "zoh"}
    c = read(ssm=ssm, mlp={"d_ff": 96, "n_experts": 4}, swa={"layers": [1], "window": None, "rope_theta": None})
    assert Config.from_dict(c.to_dict()) == c
    assert c.n_states == 8 and c.has_swa(1) and not c.has_swa(0) and c.has_ssm(1)


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"model_type": "llama"}, "model_type is 'llama', expected \"mossnet\"", None),
        ({"d_modl": 1}, "unknown key 'd_modl'", "did you mean 'd_model'?"),
        ({"ssm": {"n_expert": 2}}, "unknown key 'ssm.n_expert'", "did you mean 'ssm.n_experts'?"),
        ({"zzz": 1}, "unknown key 'zzz'", "known here: d_model"),
        ({"d_model": "64"}, 'd_model is "64", expected an integer', None),
        ({"d_model": True}, "d_model is true, expected an integer", None),
        ({"d_model": 64.0}, "d_model is 64.0, expected an integer", None),
        ({"d_model": 0}, "d_model is 0, expected 1 to", None),
        ({"n_layer": -1}, "n_layer is -1, expected 1 to", None),
        ({"ssm": {"mode": "both"}}, 'ssm.mode is "both", expected "separate_state" or "param_mix"', None),
        ({"ssm": {"dt_rank": "big"}}, 'ssm.dt_rank is "big", expected an integer or "auto"', None),
        ({"ssm": {"n_experts": 2, "top_k": 3}}, "ssm.top_k is 3, expected at most n_experts = 2", None),
        ({"ssm": {"mode": "param_mix", "state_update": "all"}}, "param_mix keeps one state", None),
        ({"mlp": {}}, "key 'mlp.d_ff' is missing", None),
        ({"mlp": 3}, "mlp is 3, expected an object or null", None),
        ({"norm_eps": 0}, "norm_eps is 0.0, expected more than 0", None),
        ({"swa": {"layers": [2]}}, "swa.layers names layer 2, expected 0 to 1", None),
        ({"swa": {"layers": [0, 0]}}, "swa.layers names a layer twice", None),
        ({"swa": {"layers": [0], "n_heads": 5, "n_kv_heads": 2}}, "swa.n_heads is 5, expected a multiple", None),
        ({"swa": {"layers": [0], "head_dim": 7}}, "swa.head_dim is 7, expected an even number", None),
    ],
)
def test_what_is_refused(changes, message, hint):
    with pytest.raises(ConfigError) as e:
        read(**changes)
    assert message in str(e.value) and str(e.value).startswith("config.json: ")
    assert (hint or "") in (e.value.hint or "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        "null",
        '{"model_type": "mossnet", "model_type": "mossnet"}',
        '{"d_model": NaN}',
        "[" * 100000,
        '{"model_type": "mossnet", "d_model": 1' + "0" * 5000 + "}",
        '{"norm_eps": 1e999}',
        '{"a": "\\ud800"}',
    ],
)
def test_what_is_no_configuration(text):
    with pytest.raises(ConfigError):
        Config.from_json(text)


def test_a_missing_size_is_named():
    with pytest.raises(ConfigError, match="key 'vocab_size' is missing"):
        Config.from_dict({"model_type": "mossnet", "d_model": 1, "n_layer": 1})
