"""Which tensor of which checkpoint format is which of ours, as tables.

SPEC.md's tensors are one table (`TENSORS`): name, shape, when it exists. Each source format is a table of the names it
uses for them and a table of what its config.json keys mean. A new format is new rows, not new code.

Shapes are written in SPEC.md's letters (`SYMBOLS`) and evaluated from the configuration: "2*X D" is
[2 * d_inner, d_model], "E|1" is either. In names, `{l}` is the layer.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mossnet_tg.config import Config, ConfigError
from mossnet_tg.strict_json import show

# Letter -> the config keys it comes from, and its value. Em, Hkv and the rest exist where their block does.
SYMBOLS: dict[str, tuple[tuple[str, ...], Callable[[Config], int]]] = {
    "V": (("vocab_size",), lambda c: c.vocab_size),
    "D": (("d_model",), lambda c: c.d_model),
    "X": (("ssm.expand", "d_model"), lambda c: c.d_inner),
    "N": (("ssm.d_state",), lambda c: c.ssm.d_state),
    "R": (("ssm.dt_rank", "d_model"), lambda c: c.dt_rank),
    "W": (("ssm.d_conv",), lambda c: c.ssm.d_conv),
    "E": (("ssm.n_experts",), lambda c: c.ssm.n_experts),
    "Em": (("mlp.n_experts",), lambda c: c.mlp.n_experts if c.mlp else 1),
    "F": (("mlp.d_ff",), lambda c: c.mlp.d_ff if c.mlp else 1),
    "H": (("swa.n_heads",), lambda c: c.swa.n_heads),
    "Hkv": (("swa.n_kv_heads",), lambda c: c.swa.n_kv_heads),
    "d": (("swa.head_dim",), lambda c: c.swa.head_dim),
}

# When a tensor exists, by configuration and layer.
CONDITIONS: dict[str, Callable[[Config, int], bool]] = {
    "always": lambda c, layer: True,
    "untied": lambda c, layer: not c.tie_embeddings,
    "ssm": lambda c, layer: c.has_ssm(layer),
    "ssm, conv_bias": lambda c, layer: c.has_ssm(layer) and c.ssm.conv_bias,
    "ssm, n_experts > 1": lambda c, layer: c.has_ssm(layer) and c.ssm.n_experts > 1,
    "ssm, dt_bc_norm": lambda c, layer: c.has_ssm(layer) and c.ssm.dt_bc_norm,
    "mlp": lambda c, layer: c.mlp is not None,
    "mlp, n_experts > 1": lambda c, layer: c.mlp is not None and c.mlp.n_experts > 1,
    "swa": lambda c, layer: c.has_swa(layer),
}


@dataclass(frozen=True)
class Tensor:
    """A row of SPEC.md's tensor table."""

    name: str
    dims: str
    when: str


TENSORS = (
    Tensor("embed.weight", "V D", "always"),
    Tensor("norm_f.weight", "D", "always"),
    Tensor("lm_head.weight", "V D", "untied"),
    Tensor("layers.{l}.ssm.norm.weight", "D", "ssm"),
    Tensor("layers.{l}.ssm.in_proj.weight", "2*X D", "ssm"),
    Tensor("layers.{l}.ssm.conv.weight", "X W", "ssm"),
    Tensor("layers.{l}.ssm.conv.bias", "X", "ssm, conv_bias"),
    Tensor("layers.{l}.ssm.router.weight", "E D", "ssm, n_experts > 1"),
    Tensor("layers.{l}.ssm.x_proj.weight", "E R+2*N X", "ssm"),
    Tensor("layers.{l}.ssm.dt_proj.weight", "E X R", "ssm"),
    Tensor("layers.{l}.ssm.dt_proj.bias", "E X", "ssm"),
    Tensor("layers.{l}.ssm.A_log", "E|1 X N", "ssm"),
    Tensor("layers.{l}.ssm.D", "X", "ssm"),
    Tensor("layers.{l}.ssm.dt_norm.weight", "R", "ssm, dt_bc_norm"),
    Tensor("layers.{l}.ssm.b_norm.weight", "N", "ssm, dt_bc_norm"),
    Tensor("layers.{l}.ssm.c_norm.weight", "N", "ssm, dt_bc_norm"),
    Tensor("layers.{l}.ssm.out_proj.weight", "D X", "ssm"),
    Tensor("layers.{l}.mlp.norm.weight", "D", "mlp"),
    Tensor("layers.{l}.mlp.router.weight", "Em D", "mlp, n_experts > 1"),
    Tensor("layers.{l}.mlp.w1.weight", "Em F D", "mlp"),
    Tensor("layers.{l}.mlp.w3.weight", "Em F D", "mlp"),
    Tensor("layers.{l}.mlp.w2.weight", "Em D F", "mlp"),
    Tensor("layers.{l}.swa.norm.weight", "D", "swa"),
    Tensor("layers.{l}.swa.q_proj.weight", "H*d D", "swa"),
    Tensor("layers.{l}.swa.k_proj.weight", "Hkv*d D", "swa"),
    Tensor("layers.{l}.swa.v_proj.weight", "Hkv*d D", "swa"),
    Tensor("layers.{l}.swa.o_proj.weight", "D H*d", "swa"),
)


@dataclass(frozen=True)
class Source:
    """A format's row: its spellings of one tensor of `TENSORS`, and its shape where that differs from ours.

    The two shapes hold the same elements in the same order: reading is a reshape.
    """

    name: str
    spellings: tuple[str, ...]
    dims: str = ""


@dataclass(frozen=True)
class Key:
    """A config.json key of another format: which of ours it is; `default` None where it must be present."""

    theirs: str
    ours: str
    default: Any = None


@dataclass(frozen=True)
class Format:
    """A source format, found by config.json's `model_type`.

    `keys`, `fixed`, `derived` and `ignored` say what the config.json keys mean; without `keys` the file is a
    configuration of ours. `fixed`: the one value that we implement. `derived`: repeats a size that follows from the
    others. `ignored`: says nothing about what the model computes. `copies`: an extra tensor that is harmless where it
    has the same bytes as the named one of ours.
    """

    model_type: str
    sources: tuple[Source, ...]
    copies: Mapping[str, str]
    keys: tuple[Key, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    derived: Mapping[str, Callable[[Config], int]] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()


MOSSNET = Format("mossnet", tuple(Source(t.name, (t.name,)) for t in TENSORS), {"lm_head.weight": "embed.weight"})

# transformers' MambaForCausalLM: one expert, no MLP, no attention. Checked against what transformers 5.23.0 writes.
MAMBA = Format(
    model_type="mamba",
    sources=(
        # `embedding` is the spelling of the authors' own checkpoints; transformers reads both.
        Source("embed.weight", ("backbone.embeddings.weight", "backbone.embedding.weight")),
        Source("norm_f.weight", ("backbone.norm_f.weight",)),
        Source("lm_head.weight", ("lm_head.weight",)),
        Source("layers.{l}.ssm.norm.weight", ("backbone.layers.{l}.norm.weight",)),
        Source("layers.{l}.ssm.in_proj.weight", ("backbone.layers.{l}.mixer.in_proj.weight",)),
        Source("layers.{l}.ssm.conv.weight", ("backbone.layers.{l}.mixer.conv1d.weight",), "X 1 W"),
        Source("layers.{l}.ssm.conv.bias", ("backbone.layers.{l}.mixer.conv1d.bias",)),
        Source("layers.{l}.ssm.x_proj.weight", ("backbone.layers.{l}.mixer.x_proj.weight",), "R+2*N X"),
        Source("layers.{l}.ssm.dt_proj.weight", ("backbone.layers.{l}.mixer.dt_proj.weight",), "X R"),
        Source("layers.{l}.ssm.dt_proj.bias", ("backbone.layers.{l}.mixer.dt_proj.bias",), "X"),
        Source("layers.{l}.ssm.A_log", ("backbone.layers.{l}.mixer.A_log",), "X N"),
        Source("layers.{l}.ssm.D", ("backbone.layers.{l}.mixer.D",)),
        Source("layers.{l}.ssm.out_proj.weight", ("backbone.layers.{l}.mixer.out_proj.weight",)),
    ),
    copies={
        "lm_head.weight": "embed.weight",
        "backbone.embeddings.weight": "embed.weight",
        "backbone.embedding.weight": "embed.weight",
    },
    keys=(
        Key("vocab_size", "vocab_size"),
        Key("hidden_size", "d_model"),
        Key("num_hidden_layers", "n_layer"),
        Key("layer_norm_epsilon", "norm_eps", 1e-5),
        Key("tie_word_embeddings", "tie_embeddings", True),
        Key("expand", "ssm.expand", 2),
        Key("state_size", "ssm.d_state", 16),
        Key("conv_kernel", "ssm.d_conv", 4),
        Key("time_step_rank", "ssm.dt_rank", "auto"),
        Key("use_conv_bias", "ssm.conv_bias", True),
    ),
    # rms_norm and ssm_cfg, like d_inner, d_model, n_layer below, are left over in converted checkpoints of the authors.
    fixed={"hidden_act": "silu", "use_bias": False, "rms_norm": True, "ssm_cfg": {}},
    derived={
        "intermediate_size": lambda c: c.d_inner,
        "d_inner": lambda c: c.d_inner,
        "d_model": lambda c: c.d_model,
        "n_layer": lambda c: c.n_layer,
    },
    ignored=frozenset({
        # how the weights were drawn
        "initializer_range", "rescale_prenorm_residual", "time_step_floor", "time_step_init_scheme", "time_step_max",
        "time_step_min", "time_step_scale",
        # how another engine runs them; our residual and accumulators are float32 always
        "fused_add_norm", "residual_in_fp32", "use_associative_scan", "use_cache", "use_mambapy",
        # what the tensors say themselves, and who wrote the file
        "_name_or_path", "architectures", "dtype", "pad_vocab_size_multiple", "torch_dtype", "transformers_version",
        # read by checkpoint.py (eos) and the tokenizer
        "bos_token_id", "eos_token_id", "pad_token_id",
    }),
)  # fmt: skip

FORMATS = {f.model_type: f for f in (MOSSNET, MAMBA)}


def format_of(found: Any, where: str) -> Format:
    """The format that a decoded config.json says it is; raises ConfigError, which names `where`."""
    if not isinstance(found, dict):
        raise ConfigError(f"{where}: found {show(found)}, expected an object")
    known = " or ".join(show(name) for name in FORMATS)
    if "model_type" not in found:
        hint = "this is a configuration of the Mamba authors' own code: use the checkpoint that transformers saved"
        raise ConfigError(
            f"{where}: key 'model_type' is missing, expected {known}", hint if "ssm_cfg" in found else None
        )
    model_type = found["model_type"]
    if not isinstance(model_type, str) or model_type not in FORMATS:
        raise ConfigError(f"{where}: model_type is {show(model_type)}, expected {known}")
    return FORMATS[model_type]


def config_of(fmt: Format, found: dict[str, Any], where: str) -> Config:
    """Our configuration from the decoded config.json of a format; raises ConfigError, which names `where`.

    Every key must have a meaning: an unknown one is refused, since what it says could change what the model computes.
    """
    if not fmt.keys:
        return Config.from_dict(found, where)
    known = {"model_type", *(k.theirs for k in fmt.keys), *fmt.fixed, *fmt.derived, *fmt.ignored}
    for key, value in found.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean '{close[0]}'?" if close else "it could change what the model computes: not skipped"
            raise ConfigError(f"{where}: unknown key {show(key)}: {show(value)} of a {fmt.model_type} model", hint)
        if key in fmt.fixed and (value != fmt.fixed[key] or type(value) is not type(fmt.fixed[key])):
            only = f"{show(fmt.fixed[key])}: nothing else is supported"
            raise ConfigError(f"{where}: {key} is {show(value)}, expected {only}")
    ours: dict[str, Any] = {"model_type": "mossnet", "ssm": {}}
    for k in fmt.keys:
        if k.theirs not in found and k.default is None:
            raise ConfigError(f"{where}: key '{k.theirs}' is missing")
        part, _, name = k.ours.rpartition(".")
        (ours[part] if part else ours)[name] = found.get(k.theirs, k.default)
    try:
        config = Config.from_dict(ours, where)
    except ConfigError as e:
        named = str(e).replace(",", " ").split()  # by our names: say theirs
        theirs = [f"{k.ours} is the key {k.theirs} of this file" for k in fmt.keys if k.ours in named]
        raise ConfigError(str(e), "; ".join(theirs) or e.hint) from None
    for key, value_of in fmt.derived.items():
        if key in found and (found[key] != (value := value_of(config)) or type(found[key]) is not int):
            raise ConfigError(f"{where}: {key} is {show(found[key])}, but the other keys make it {value}")
    return config


@dataclass(frozen=True)
class Expected:
    """A tensor that a checkpoint of a format and configuration must hold.

    `name` is ours, `spellings` the names it may have in the file, `shapes` the shapes it may have there (the first is
    the usual one), `reshaped` the shape it gets (None: as it is), and `reason` where the expectation comes from.
    """

    name: str
    spellings: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    reshaped: tuple[int, ...] | None
    reason: str


def expected(fmt: Format, config: Config) -> Iterator[Expected]:
    """The tensors of a checkpoint, those without a layer first, then layer by layer."""
    rows = {t.name: t for t in TENSORS}
    for layer in (None, *range(config.n_layer)):
        for source in fmt.sources:
            row = rows[source.name]
            if ("{l}" in row.name) == (layer is not None) and CONDITIONS[row.when](config, layer or 0):
                dims = source.dims or row.dims
                yield Expected(
                    row.name.format(l=layer),
                    tuple(s.format(l=layer) for s in source.spellings),
                    evaluate(dims, config),
                    evaluate(row.dims, config)[0] if source.dims else None,
                    _reason(fmt, dims, config),
                )


def evaluate(dims: str, config: Config) -> tuple[tuple[int, ...], ...]:
    """The shapes that `dims` ("E|1 R+2*N X") allows: one, or one per combination of alternatives, without repeats."""

    def value(term: str) -> int:
        return math.prod(int(f) if f.isdigit() else SYMBOLS[f][1](config) for f in term.split("*"))

    choices = [[sum(map(value, choice.split("+"))) for choice in dim.split("|")] for dim in dims.split()]
    return tuple(dict.fromkeys(itertools.product(*choices)))


def _reason(fmt: Format, dims: str, config: Config) -> str:
    """Where the numbers of `dims` come from: "[2*X, D] with X = 64 (expand, hidden_size), ... in config.json"."""
    theirs = {k.ours: k.theirs for k in fmt.keys}
    letters = dict.fromkeys(f for f in dims.translate(str.maketrans("|+*", "   ")).split() if not f.isdigit())
    parts = []
    for letter in letters:
        keys, value = SYMBOLS[letter]
        parts.append(f"{letter} = {value(config)} ({', '.join(theirs.get(k, k) for k in keys)})")
    return f"[{', '.join(dims.split())}] with {', '.join(parts)} in config.json"
