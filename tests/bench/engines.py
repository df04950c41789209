"""What is measured: the models, and for each the engines that run it. A further engine is a row and an adapter."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mossnet_tg.errors import UsageError
from tests.bench.models import Mamba, MambaSizes, MossNet


@dataclass(frozen=True)
class Package:
    """A distribution of PyPI, the version of it that is installed where there is none, and what pip is told then."""

    name: str
    version: str
    options: tuple[str, ...] = ()
    cmake_args: str = ""

    @property
    def installed(self) -> str:
        """The version that is there, or ""."""
        try:
            return version(self.name)
        except PackageNotFoundError:
            return ""


_TORCH = Package("torch", "2.13.0")
_TRANSFORMERS = Package("transformers", "5.23.0")
_MAMBAPY = Package("mambapy", "1.2.0")
_ONNX = (Package("onnx", ""), Package("onnxruntime", ""))  # the newest of this Python
# Built here, whatever pip has kept of a build with other flags.
_FROM_SOURCE = ("--no-cache-dir", "--no-binary=llama-cpp-python")
_LLAMA_CPP = (Package("llama-cpp-python", "0.3.36", _FROM_SOURCE, "-DGGML_NATIVE=ON"), Package("gguf", "0.19.0"))
CHART = Package("matplotlib", "")


def _always() -> str:
    return ""


def _quantised() -> str:
    from mossnet_tg import Model

    known = "weights" in inspect.signature(Model.load).parameters
    return "" if known else "this mossnet-tg loads no quantised weights"


@dataclass(frozen=True)
class Engine:
    """An engine with a type of weights. `type` is what it is compared as, `weights` what the engine calls it.

    `file` makes its file of a model's; `lacks` says why it cannot run here, or "". `tests`: the kinds that it is asked,
    all when empty. `busy`: also measured beside a busy core; `context`: also behind long prompts.
    """

    name: str
    weights: str
    type: str
    adapter: str
    file: Callable[[Any], Path]
    packages: tuple[Package, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    lacks: Callable[[], str] = _always
    tests: tuple[str, ...] = ()
    busy: bool = False
    context: bool = False

    @property
    def label(self) -> str:
        return f"{self.name} {self.weights}"

    @property
    def left_out(self) -> str:
        """Why it cannot run here, or ""."""
        missing = ", ".join(p.name for p in self.packages if not p.installed)
        return f"{missing} not installed, see --install" if missing else self.lacks()


@dataclass(frozen=True)
class Family:
    """A model, and the engines that run it. `oracle`: the label of that which all others' logits are held against."""

    name: str
    about: str
    model: Callable[[Path], Any]
    engines: tuple[Engine, ...]
    oracle: str


def _checkpoint(dtype: str) -> Callable[[Any], Path]:
    return lambda model: Path(model.checkpoint(dtype))


def _gguf(kind: str) -> Callable[[Any], Path]:
    return lambda model: Path(model.gguf(kind))


def _onnx(model: Any) -> Path:
    return Path(model.onnx())


_OURS = partial(Engine, "mossnet", adapter="adapters.mossnet", busy=True, context=True)
OURS = (
    _OURS("f32", "f32", file=_checkpoint("float32")),
    _OURS("f16", "f16", file=_checkpoint("float16")),
    _OURS("q8", "q8", file=_checkpoint("float32"), options={"weights": "q8"}, lacks=_quantised),
    _OURS("q4", "q4", file=_checkpoint("float32"), options={"weights": "q4"}, lacks=_quantised),
)
_LLAMA = partial(Engine, "llama.cpp", adapter="adapters.llama_cpp", packages=_LLAMA_CPP, busy=True)
_MAMBA_PEERS = (
    *(_LLAMA(w, t, file=_gguf(w)) for w, t in (("F32", "f32"), ("F16", "f16"), ("Q8_0", "q8"), ("Q4_0", "q4"))),
    Engine("transformers", "f32", "f32", "adapters.transformers", _checkpoint("float32"), (_TORCH, _TRANSFORMERS)),
    Engine("mamba.py", "f32", "f32", "adapters.mambapy", _checkpoint("float32"), (_TORCH, _MAMBAPY)),
    Engine("onnxruntime", "f32", "f32", "adapters.onnxruntime", _onnx, _ONNX),
)
_REFERENCE = partial(Engine, "PyTorch", type="f32", adapter="adapters.reference", packages=(_TORCH,))
_REFERENCES = (
    _REFERENCE("f32", file=_checkpoint("float32")),
    _REFERENCE("f32 compiled", file=_checkpoint("float32"), options={"compile": True}, tests=("decode",)),
)


def mamba(name: str, about: str, sizes: MambaSizes) -> Family:
    """A Mamba beside everything that runs one."""
    return Family(
        name, about, lambda kept: Mamba(kept / name, sizes), (*OURS, *_MAMBA_PEERS), oracle="transformers f32"
    )


def mossnet(name: str, about: str, d_model: int, n_layer: int, d_ff: int, vocab_size: int = 50280) -> Family:
    """A MossNet beside the PyTorch reference."""

    def model(kept: Path) -> MossNet:
        return MossNet(kept / name, d_model, n_layer, d_ff, vocab_size)

    return Family(name, about, model, (*OURS, *_REFERENCES), oracle="PyTorch f32")


FAMILIES = (
    mamba("mamba130m", "Mamba, 24 layers of 768, d_state 16, vocabulary 50280, tied", MambaSizes(768, 24, 50280)),
    mossnet("mossnet-s", "MossNet class S, 8 layers of 256, 2 of 8 experts, d_ff 704", 256, 8, 704),
    mossnet("mossnet-m", "MossNet class M, 8 layers of 768, 2 of 8 experts, d_ff 2048", 768, 8, 2048),
)


def families(names: Sequence[str], engines: Sequence[str], known: Sequence[Family] = FAMILIES) -> list[Family]:
    """Those of the names, with the engines whose name or label is among `engines`; nothing given means all.

    Raises UsageError for what there is not.
    """
    labels = {e.label: e for family in known for e in family.engines}
    terms = [*labels, *dict.fromkeys(e.name for e in labels.values())]
    _require("model", names, [f.name for f in known])
    _require("engine", engines, terms)
    chosen = []
    for family in known:
        rows = tuple(e for e in family.engines if not engines or e.label in engines or e.name in engines)
        if rows and (not names or family.name in names):
            chosen.append(Family(family.name, family.about, family.model, rows, family.oracle))
    if not chosen:
        raise UsageError(f"no engine of {', '.join(engines)} runs {', '.join(names)}", "leave one of the two out")
    return chosen


def _require(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    for term in given:
        if term not in known:
            close = difflib.get_close_matches(term, known, 1)
            hint = f"did you mean '{close[0]}'?" if close else None
            raise UsageError(f"unknown {what} '{term}', expected {', '.join(known)}", hint)
