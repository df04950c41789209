"""Random models for the differential tests: small, of odd sizes, one for every mode of SPEC.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from mossnet_tg.codegen.compile import compile_checkpoint
from mossnet_tg.codegen.options import CompileOptions
from mossnet_tg.config import Config
from mossnet_tg.engine import CompiledModel
from mossnet_tg.targets.table import parse_target
from mossnet_tg.weights.checkpoint import Checkpoint
from mossnet_tg.weights.reference.model import MossNet
from tests.devices import Row

CHUNK = 16
N_SCORED = 3 * CHUNK + 5
VOCAB = 97

_MOE = {"n_experts": 4, "top_k": 2}
_SWA = {"layers": [1], "window": 5, "n_heads": 4, "n_kv_heads": 2, "head_dim": 12}

# name: (configuration but for the sizes, sizes, A_log shared by the experts)
MODES: dict[str, tuple[dict[str, Any], dict[str, int], bool]] = {
    "mamba": ({}, {}, False),
    "odd": (
        {"ssm": {"d_state": 5, "d_conv": 3, "conv_bias": False, "expand": 3, "dt_rank": 3}},
        {"d_model": 21},
        False,
    ),
    "untied": ({"tie_embeddings": False, "ssm": {**_MOE}}, {}, False),
    "selected": ({"ssm": {**_MOE}, "mlp": {"d_ff": 40, **_MOE}}, {}, False),
    "selected_zoh": ({"ssm": {**_MOE, "discretization": "zoh"}}, {}, False),
    "selected_norms": ({"ssm": {**_MOE, "dt_bc_norm": True}}, {"d_model": 36}, False),
    "selected_shared_a": (
        {"ssm": {**_MOE, "n_experts": 5, "top_k": 3}, "mlp": {"d_ff": 24, "n_experts": 1, "top_k": 1}},
        {},
        True,
    ),
    "tiny": ({"ssm": {**_MOE, "d_state": 2}, "mlp": {"d_ff": 5, **_MOE}}, {"d_model": 5}, False),
    "all": ({"ssm": {**_MOE, "state_update": "all"}, "mlp": {"d_ff": 24, "n_experts": 5, "top_k": 1}}, {}, False),
    "all_zoh_norms": ({"ssm": {**_MOE, "state_update": "all", "discretization": "zoh", "dt_bc_norm": True}}, {}, False),
    "every_expert": ({"ssm": {"n_experts": 3, "top_k": 3}}, {}, False),
    "param_mix": ({"ssm": {**_MOE, "mode": "param_mix"}, "mlp": {"d_ff": 24, "n_experts": 1, "top_k": 1}}, {}, False),
    "param_mix_zoh": ({"ssm": {**_MOE, "mode": "param_mix", "discretization": "zoh"}}, {}, True),
    "plain_gates": ({"ssm": {**_MOE}, "mlp": {"d_ff": 24, **_MOE}, "router": {"norm_topk": False}}, {}, False),
    "attention": ({"ssm": {**_MOE}, "mlp": {"d_ff": 24, **_MOE}, "swa": _SWA}, {}, False),
    "attention_instead": ({"swa": {**_SWA, "window": 40, "replaces_time_mix": True, "rope_theta": None}}, {}, False),
    "attention_to_all": ({"swa": {**_SWA, "window": None, "rope_theta": 100.0}}, {}, False),
}


def config(mode: str) -> Config:
    """The configuration of a mode: two layers of d_model 40 (no multiple of 16) unless it says otherwise."""
    extra, sizes, _ = MODES[mode]
    return Config.from_dict(
        {"model_type": "mossnet", "d_model": 40, "n_layer": 2, "vocab_size": VOCAB, **sizes, **extra}
    )


def reference(mode: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> MossNet:
    """A float64 reference with random weights whose routers, gates and states all matter, rounded to `dtype`."""
    torch.manual_seed(seed)
    model = MossNet(config(mode), shared_a=MODES[mode][2]).double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("norm.weight", "norm_f.weight", "ssm.D")):
                p.copy_(1 + 0.3 * torch.randn_like(p))
            elif name.endswith("A_log"):
                p.copy_(torch.randn_like(p))
            elif name.endswith("bias"):
                p.copy_(torch.randn_like(p) - 1)
            else:
                p.copy_(torch.randn_like(p) * (1.5 / p.shape[-1] ** 0.5))
            p.copy_(p.to(dtype).double())
    return model.eval()


def compile_only(
    model: MossNet, folder: Path, target: str = "cpu", chunk: int = CHUNK, dtype: torch.dtype = torch.float32
) -> Path:
    """The reference saved as a checkpoint of `dtype` and compiled; the model file."""
    model.save(folder, dtype=dtype)
    path = folder / "model.moss"
    options = CompileOptions(chunk=chunk, context=4 * CHUNK)
    compile_checkpoint(Checkpoint.open(folder), parse_target(target), path, options, lambda _: None)
    return path


def compiled(
    model: MossNet,
    folder: Path,
    target: str = "cpu",
    chunk: int = CHUNK,
    dtype: torch.dtype = torch.float32,
    device: str = "",
) -> CompiledModel:
    """The reference compiled and loaded."""
    return CompiledModel(compile_only(model, folder, target, chunk, dtype), allow_native=True, device=device)


def load(path: Path, row: Row) -> CompiledModel:
    """A compiled model on the row's device."""
    return CompiledModel(path, allow_native=True, device=row.device)


def tokens(n: int, vocab: int = VOCAB, seed: int = 1) -> np.ndarray[Any, np.dtype[np.int32]]:
    """n random ids, int32."""
    return np.random.default_rng(seed).integers(0, vocab, n).astype(np.int32)


def worst(found: Any, expected: Any) -> float:
    """The largest difference, relative to the largest expected value."""
    return float(np.abs(np.asarray(found, np.float64) - expected).max() / np.abs(expected).max())


def slow_states() -> MossNet:
    """A model whose Delta A is small: (a - 1) / A must not be computed from a, which is close to 1."""
    model = reference("selected_zoh")
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("dt_proj.bias"):
                p.fill_(-10.0)
            elif name.endswith("A_log"):
                p.fill_(-6.0)
    return model


def save_with_shared_rates(folder: Path) -> MossNet:
    """A checkpoint whose A_log is one for all experts in one layer and one for each in the other; the same model."""
    model = reference("selected")
    with torch.no_grad():
        shared = model.layers[1].ssm.A_log
        shared.copy_(shared[:1].expand_as(shared).clone())
    model.save(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["layers.1.ssm.A_log"] = tensors["layers.1.ssm.A_log"][:1].contiguous()
    save_file(tensors, folder / "model.safetensors")
    return model


def quantisable() -> MossNet:
    """A model with every kind of matrix in whole groups of 32; none is a whole number of panels wide."""
    torch.manual_seed(0)
    experts = {"n_experts": 4, "top_k": 2}
    sizes = {"d_model": 96, "n_layer": 2, "vocab_size": VOCAB, "tie_embeddings": False}
    swa = {"layers": [1], "window": 5, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8}
    mixtures = {"ssm": {**experts, "d_state": 4}, "mlp": {"d_ff": 64, **experts}, "swa": swa}
    model = MossNet(Config.from_dict({"model_type": "mossnet", **sizes, **mixtures}))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() > 1 and "A_log" not in name and "conv" not in name:
                p.copy_(torch.randn_like(p) * (1.5 / p.shape[-1] ** 0.5))
    return model
