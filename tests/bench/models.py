"""The random models that are measured, as the files of each engine; made once and kept in a folder.

Every engine of a family has the same weights: those of the float32 checkpoint, rounded to its own types.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

_SEED = 1337


def made(path: Path, make: Callable[[Path], None]) -> Path:
    """`path`, a file or folder, made by `make` unless it is there; never there unfinished."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.unlink(missing_ok=True)
    make(unfinished)
    unfinished.rename(path)
    return path


@dataclass(frozen=True)
class MambaSizes:
    """Under the names of transformers' MambaConfig."""

    hidden_size: int
    num_hidden_layers: int
    vocab_size: int
    state_size: int = 16
    conv_kernel: int = 4
    expand: int = 2

    @property
    def intermediate_size(self) -> int:
        return self.expand * self.hidden_size

    @property
    def time_step_rank(self) -> int:
        return -(-self.hidden_size // 16)


@dataclass(frozen=True)
class Mamba:
    """A Mamba-1 with tied embeddings."""

    folder: Path
    sizes: MambaSizes

    def config(self) -> dict[str, Any]:
        """config.json, as far as transformers has no default of the same value."""
        s = self.sizes
        derived = {"intermediate_size": s.intermediate_size, "time_step_rank": s.time_step_rank}
        kind = {"model_type": "mamba", "architectures": ["MambaForCausalLM"]}
        return {**kind, **asdict(s), **derived, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True}

    def tensors(self) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
        """Weights of the size that a fresh model's have: steps of 1e-3 to 1e-1, A from -1 to -d_state."""
        s, rng = self.sizes, np.random.default_rng(_SEED)
        D, X, N, R = s.hidden_size, s.intermediate_size, s.state_size, s.time_step_rank

        def normal(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
            return rng.standard_normal(shape, np.float32) * np.float32(0.02)

        def uniform(limit: float, *shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
            return rng.uniform(-limit, limit, shape).astype(np.float32)

        out = {"backbone.embeddings.weight": normal(s.vocab_size, D), "backbone.norm_f.weight": np.ones(D, np.float32)}
        for layer in range(s.num_hidden_layers):
            delta = np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), X))
            mixer = {
                "in_proj.weight": normal(2 * X, D),
                "conv1d.weight": uniform(s.conv_kernel**-0.5, X, 1, s.conv_kernel),
                "conv1d.bias": uniform(s.conv_kernel**-0.5, X),
                "x_proj.weight": normal(R + 2 * N, X),
                "dt_proj.weight": uniform(R**-0.5, X, R),
                "dt_proj.bias": (delta + np.log(-np.expm1(-delta))).astype(np.float32),  # softplus of it is delta
                "A_log": np.tile(np.log(np.arange(1, N + 1, dtype=np.float32)), (X, 1)),
                "D": np.ones(X, np.float32),
                "out_proj.weight": normal(D, X),
            }
            prefix = f"backbone.layers.{layer}."
            out[f"{prefix}norm.weight"] = np.ones(D, np.float32)
            out |= {f"{prefix}mixer.{name}": value for name, value in mixer.items()}
        return out

    def checkpoint(self, dtype: str) -> Path:
        """A folder as transformers saves a model of torch's `dtype`: every tensor in it."""

        def make(folder: Path) -> None:
            from safetensors.numpy import save_file

            folder.mkdir()
            stored = {name: np.ascontiguousarray(t, dtype) for name, t in self.tensors().items()}
            save_file(stored, folder / "model.safetensors", {"format": "pt"})
            (folder / "config.json").write_text(json.dumps({**self.config(), "dtype": dtype}, indent=1) + "\n")

        return made(self.folder / dtype, make)

    def gguf(self, kind: str) -> Path:
        """The file of llama.cpp, `kind` by its own name; but for F32 by its own quantisation."""
        from tests.bench import gguf_mamba

        if kind == "F32":
            return made(self.folder / "F32.gguf", lambda path: gguf_mamba.write(path, self.config(), self.tensors()))
        whole = self.gguf("F32")
        return made(self.folder / f"{kind}.gguf", lambda path: gguf_mamba.quantize(whole, path, kind))

    def onnx(self) -> Path:
        """A folder with step.onnx and prefill.onnx."""

        def make(folder: Path) -> None:
            from tests.bench import onnx_mamba

            folder.mkdir()
            tensors = self.tensors()
            for name, one in (("step.onnx", True), ("prefill.onnx", False)):
                onnx_mamba.write(folder / name, self.config(), tensors, one)

        return made(self.folder / "onnx", make)


@dataclass(frozen=True)
class MossNet:
    """A MossNet of eight experts, of which two work, in both mixtures."""

    folder: Path
    d_model: int
    n_layer: int
    d_ff: int
    vocab_size: int

    def checkpoint(self, dtype: str) -> Path:
        """A folder of the reference format; of float16 its matrices alone are."""

        def make(folder: Path) -> None:
            import torch

            from mossnet_tg.config import Config
            from mossnet_tg.weights.reference.model import MossNet as Reference

            mixture = {"n_experts": 8, "top_k": 2}
            sizes = {"d_model": self.d_model, "n_layer": self.n_layer, "vocab_size": self.vocab_size}
            parts = {"ssm": mixture, "mlp": {"d_ff": self.d_ff, **mixture}}
            torch.manual_seed(_SEED)
            Reference(Config.from_dict({"model_type": "mossnet", **sizes, **parts})).save(folder, getattr(torch, dtype))

        return made(self.folder / dtype, make)
