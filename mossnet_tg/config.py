"""The model's configuration: `config.json` of SPEC.md, read strictly.

The reader never guesses: an unknown key, an unknown value or sizes that contradict each other are refused with the
place, what was found and what was expected. Keys that SPEC.md gives a default for may be left out.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from mossnet_tg import strict_json
from mossnet_tg.errors import MossnetError

_T = TypeVar("_T")


class ConfigError(MossnetError):
    """`config.json` is not a configuration that SPEC.md defines."""


@dataclass(frozen=True, kw_only=True)
class SsmConfig:
    """The mixture of state-space experts (SPEC.md, TimeMix). `dt_rank` "auto" is ceil(d_model / 16)."""

    expand: int = 2
    d_state: int = 16
    d_conv: int = 4
    dt_rank: int | Literal["auto"] = "auto"
    conv_bias: bool = True
    n_experts: int = 1
    top_k: int = 1
    mode: Literal["separate_state", "param_mix"] = "separate_state"
    state_update: Literal["selected", "all"] = "selected"
    discretization: Literal["mamba", "zoh"] = "mamba"
    dt_bc_norm: bool = False


@dataclass(frozen=True, kw_only=True)
class MlpConfig:
    """The mixture-of-experts MLP (SPEC.md, MLP mixture); `n_experts` 1 is a plain SwiGLU MLP without a router."""

    d_ff: int
    n_experts: int = 1
    top_k: int = 1


@dataclass(frozen=True, kw_only=True)
class RouterConfig:
    """Both routers' rule: `norm_topk` divides the selected probabilities by their sum."""

    norm_topk: bool = True


@dataclass(frozen=True, kw_only=True)
class SwaConfig:
    """Sliding-window attention in `layers`; `window` null attends to all, `rope_theta` null encodes no position."""

    layers: tuple[int, ...] = ()
    window: int | None = 2048
    n_heads: int = 12
    n_kv_heads: int = 4
    head_dim: int = 64
    rope_theta: float | None = 10000.0
    replaces_time_mix: bool = False


@dataclass(frozen=True, kw_only=True)
class Config:
    """A MossNet, as SPEC.md defines it. Build one with `Config.from_dict` or `Config.from_json`."""

    d_model: int
    n_layer: int
    vocab_size: int
    tie_embeddings: bool = True
    norm_eps: float = 1e-5
    ssm: SsmConfig = field(default_factory=SsmConfig)
    mlp: MlpConfig | None = None
    router: RouterConfig = field(default_factory=RouterConfig)
    swa: SwaConfig = field(default_factory=SwaConfig)

    def __post_init__(self) -> None:
        _check_values(self)

    # Sizes that follow from the keys, under the names of SPEC.md.

    @property
    def d_inner(self) -> int:
        """X, the channels of the time mix."""
        return self.ssm.expand * self.d_model

    @property
    def dt_rank(self) -> int:
        """R, the rank of the step-size projection."""
        return math.ceil(self.d_model / 16) if self.ssm.dt_rank == "auto" else self.ssm.dt_rank

    @property
    def n_states(self) -> int:
        """S, the recurrent states a layer keeps: one per expert, or one for all (param_mix)."""
        return self.ssm.n_experts if self.ssm.mode == "separate_state" else 1

    def has_swa(self, layer: int) -> bool:
        """Whether `layer` holds sliding-window attention."""
        return layer in self.swa.layers

    def has_ssm(self, layer: int) -> bool:
        """Whether `layer` holds a time mix."""
        return not (self.swa.replaces_time_mix and self.has_swa(layer))

    @classmethod
    def from_json(cls, text: str, where: str = "config.json") -> Config:
        """Read the text of a `config.json`; raises ConfigError, which names `where`."""
        found = strict_json.loads(text.encode("utf-8", "surrogatepass"), where, ConfigError)
        return cls.from_dict(found, where)

    @classmethod
    def from_dict(cls, found: Any, where: str = "config.json") -> Config:
        """Read a decoded `config.json`; raises ConfigError, which names `where`."""
        if not isinstance(found, dict):
            raise ConfigError(f"{where}: found {_kind(found)}, expected an object")
        if (model_type := found.get("model_type")) != "mossnet":
            raise ConfigError(f'{where}: model_type is {model_type!r}, expected "mossnet"')
        try:
            return _read(cls, {k: v for k, v in found.items() if k != "model_type"}, "")
        except ConfigError as e:
            raise ConfigError(f"{where}: {e}", e.hint) from None

    def to_dict(self) -> dict[str, Any]:
        """The `config.json` of this configuration, every key written out; `from_dict` reads it back equal."""
        out: dict[str, Any] = {"model_type": "mossnet", **dataclasses.asdict(self)}
        out["swa"]["layers"] = list(self.swa.layers)
        return out


def _read(cls: type[_T], found: dict[str, Any], prefix: str) -> _T:
    """One dataclass from one JSON object, keys and types checked."""
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in found:
        if key not in fields:
            close = difflib.get_close_matches(key, fields, 1)
            hint = f"did you mean '{prefix}{close[0]}'?" if close else f"known here: {', '.join(fields)}"
            raise ConfigError(f"unknown key '{prefix}{key}'", hint)
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in found:
            raise ConfigError(f"key '{prefix}{name}' is missing")
    return cls(**{k: _value(hints[k], v, f"{prefix}{k}") for k, v in found.items()})


def _value(hint: Any, found: Any, name: str) -> Any:
    """`found` as the annotated type `hint`, or a ConfigError that names it."""
    options = get_args(hint) if get_origin(hint) not in (None, tuple, Literal) else (hint,)
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(found, dict):
            return _read(option, found, f"{name}.")  # type: ignore[arg-type]
        if get_origin(option) is tuple and isinstance(found, list):
            return tuple(_value(get_args(option)[0], v, f"{name}[{i}]") for i, v in enumerate(found))
        if get_origin(option) is Literal and any(found == v and type(found) is type(v) for v in get_args(option)):
            return found
        if option is float and type(found) in (int, float) and math.isfinite(found):
            return float(found)
        if option in (int, bool, type(None)) and type(found) is option:
            return found
    raise ConfigError(f"{name} is {_kind(found)}, expected {' or '.join(_describe(o) for o in options)}")


def _describe(option: Any) -> str:
    if get_origin(option) is Literal:
        return " or ".join(json.dumps(v) for v in get_args(option))
    if get_origin(option) is tuple:
        return "a list"
    if dataclasses.is_dataclass(option):
        return "an object"
    return {int: "an integer", float: "a number", bool: "true or false", type(None): "null"}[option]


def _kind(found: Any) -> str:
    text = json.dumps(found)
    return text if len(text) <= 60 else f"{type(found).__name__} {text[:57]}..."


def _check_values(c: Config) -> None:
    """Ranges, and the sizes that must fit each other."""

    def require(ok: bool, message: str) -> None:
        if not ok:
            raise ConfigError(message)

    limit = 1 << 24  # far above any real size; what does not fit into a kernel or a file is refused there
    for prefix, part in (("", c), ("ssm.", c.ssm), ("mlp.", c.mlp), ("swa.", c.swa)):
        for f in dataclasses.fields(part) if part is not None else ():
            v = getattr(part, f.name)
            if type(v) is int:
                require(1 <= v <= limit, f"{prefix}{f.name} is {v}, expected 1 to {limit}")
    require(c.norm_eps > 0, f"norm_eps is {c.norm_eps}, expected more than 0")
    require(
        c.ssm.top_k <= c.ssm.n_experts, f"ssm.top_k is {c.ssm.top_k}, expected at most n_experts = {c.ssm.n_experts}"
    )
    if c.mlp is not None:
        require(
            c.mlp.top_k <= c.mlp.n_experts,
            f"mlp.top_k is {c.mlp.top_k}, expected at most n_experts = {c.mlp.n_experts}",
        )
    if c.ssm.mode == "param_mix":
        require(
            c.ssm.state_update == "selected", 'ssm.state_update is "all", but param_mix keeps one state: leave it out'
        )
    for layer in c.swa.layers:
        require(0 <= layer < c.n_layer, f"swa.layers names layer {layer}, expected 0 to {c.n_layer - 1}")
    require(len(set(c.swa.layers)) == len(c.swa.layers), f"swa.layers names a layer twice: {list(c.swa.layers)}")
    if c.swa.layers:
        require(
            c.swa.n_heads % c.swa.n_kv_heads == 0,
            f"swa.n_heads is {c.swa.n_heads}, expected a multiple of n_kv_heads = {c.swa.n_kv_heads}",
        )
        require(
            c.swa.rope_theta is None or c.swa.rope_theta > 0,
            f"swa.rope_theta is {c.swa.rope_theta}, expected more than 0 or null",
        )
        require(
            c.swa.rope_theta is None or c.swa.head_dim % 2 == 0,
            f"swa.head_dim is {c.swa.head_dim}, expected an even number for RoPE",
        )
