"""A Mamba as llama.cpp reads it, without a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import llama_cpp as lc
import numpy as np

from mossnet_tg.errors import MossnetError

_NAMES = {
    "norm.weight": "attn_norm.weight",
    "mixer.in_proj.weight": "ssm_in.weight",
    "mixer.conv1d.weight": "ssm_conv1d.weight",
    "mixer.conv1d.bias": "ssm_conv1d.bias",
    "mixer.x_proj.weight": "ssm_x.weight",
    "mixer.dt_proj.weight": "ssm_dt.weight",
    "mixer.dt_proj.bias": "ssm_dt.bias",
    "mixer.A_log": "ssm_a",
    "mixer.D": "ssm_d",
    "mixer.out_proj.weight": "ssm_out.weight",
}
_TYPES = {
    "F16": lc.LLAMA_FTYPE_MOSTLY_F16,
    "Q8_0": lc.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q4_0": lc.LLAMA_FTYPE_MOSTLY_Q4_0,
}


def write(path: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """In float32, from transformers' names."""
    writer = gguf.GGUFWriter(path, "mamba")
    for add, value in (
        ("name", "random"),
        ("vocab_size", config["vocab_size"]),
        ("tokenizer_model", "none"),
        ("context_length", 1 << 20),
        ("embedding_length", config["hidden_size"]),
        ("feed_forward_length", 0),
        ("head_count", 0),
        ("block_count", config["num_hidden_layers"]),
        ("ssm_conv_kernel", config["conv_kernel"]),
        ("ssm_inner_size", config["intermediate_size"]),
        ("ssm_state_size", config["state_size"]),
        ("ssm_time_step_rank", config["time_step_rank"]),
        ("layer_norm_rms_eps", config["layer_norm_epsilon"]),
        ("file_type", lc.LLAMA_FTYPE_ALL_F32),
    ):
        getattr(writer, f"add_{add}")(value)
    for name, value in tensors.items():
        writer.add_tensor(_name(name), _stored(name, value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _name(theirs: str) -> str:
    outside = {"backbone.embeddings.weight": "token_embd.weight", "backbone.norm_f.weight": "output_norm.weight"}
    if theirs in outside:
        return outside[theirs]
    _, _, layer, name = theirs.split(".", 3)
    return f"blk.{layer}.{_NAMES[name]}"


def _stored(name: str, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if name.endswith("A_log"):
        value = -np.exp(value)
    return np.ascontiguousarray(value.squeeze(1) if name.endswith("conv1d.weight") else value)


def quantize(whole: Path, path: Path, kind: str) -> None:
    """By llama.cpp itself, which decides what becomes of tensors that the type does not fit."""
    quiet = lc.llama_log_callback(lambda *_: None)
    lc.llama_log_set(quiet, None)
    params = lc.llama_model_quantize_default_params()
    params.ftype = _TYPES[kind]
    if lc.llama_model_quantize(str(whole).encode(), str(path).encode(), params):
        raise MossnetError(f"llama.cpp could not make {kind} of {whole.name}")
