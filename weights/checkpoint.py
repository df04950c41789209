"""A checkpoint on disk: configuration, tensors under SPEC.md's names, tokenizer, and hashes of it all.

A checkpoint is a folder with `config.json` and `model.safetensors` (or shards with `model.safetensors.index.json`), or
one `.safetensors` file with `config.json` beside it. Nothing is read before it is looked at, but everything is checked:
every tensor that the configuration asks for is there with its shape, and nothing else is.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mossnet_tg.config import Config
from mossnet_tg.errors import UsageError
from mossnet_tg.strict_json import show
from mossnet_tg.weights.names import Expected, Format, config_of, expected, format_of
from mossnet_tg.weights.quantised import BITS, dtype_for
from mossnet_tg.weights.safetensors_file import (
    MAX_HEADER_BYTES,
    CheckpointError,
    SafetensorsFile,
    TensorView,
    read_json,
)
from mossnet_tg.weights.tensors import Converted, Tensor, joined, renamed
from mossnet_tg.weights.weight_types import WEIGHT_TYPES

DEMO = Path(__file__).parent / "demo"  # the bundled demo checkpoint

_CONFIG, _GENERATION, _TOKENIZER = "config.json", "generation_config.json", "tokenizer.json"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_HOLDS = f"a checkpoint folder holds {_CONFIG} and {_WEIGHTS} (or {_INDEX} and its shards), as transformers saves them"

_END_OF_TEXT = "<|endoftext|>"
_SAMPLE_BYTES = 4096
_CHUNK_BYTES = 1 << 22  # a scan's temporaries stay in the cache
_MAX_PROBLEMS = 10

# The exponent bits of each dtype, all set in NaN and Inf, and the integers that show them.
_EXPONENTS = {"f32": ("<u4", 0x7F800000), "f16": ("<u2", 0x7C00), "bf16": ("<u2", 0x7F80)}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An opened checkpoint; make one with `Checkpoint.open`.

    `tensors` has SPEC.md's names and shapes, in SPEC.md's order. `eos_ids` are the ids that end a text, the main one
    first; `tokenizer_json` the tokenizer's file. `name` is short, for display.
    """

    path: Path
    name: str
    config: Config
    tensors: Mapping[str, Tensor]
    tokenizer_json: bytes | None
    eos_ids: tuple[int, ...]
    files: tuple[SafetensorsFile, ...]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Open and check the checkpoint at `path`, a folder or a .safetensors file.

        Raises UsageError where there is none, CheckpointError and ConfigError (both MossnetError) where it is broken.
        """
        path = Path(path)
        folder, weights = _locate(path)
        found = read_json(_read(folder / _CONFIG), str(folder / _CONFIG))
        fmt = format_of(found, str(folder / _CONFIG))
        config = config_of(fmt, found, str(folder / _CONFIG))
        files = _open_files(weights)
        in_files: dict[str, TensorView] = {}
        for file in files:
            for name, view in file.tensors.items():
                if name in in_files:
                    raise CheckpointError(f"{view.origin} stands in another shard too: {in_files[name].origin}")
                in_files[name] = view
        tensors = _select(fmt, config, joined(in_files), weights)
        tokenizer = folder / _TOKENIZER
        tokenizer_json = _read(tokenizer) if tokenizer.exists() else None
        eos_ids = _eos_ids(folder, found, tokenizer_json, config)
        has_own_name = not path.is_dir() and path.name.split(".")[0] != "model"
        name = path.stem if has_own_name else folder.resolve().name
        return cls(path, name, config, MappingProxyType(tensors), tokenizer_json, eos_ids, files)

    @property
    def n_params(self) -> int:
        """The number of parameters, a tied head counted once."""
        return sum(math.prod(t.shape) for t in self.tensors.values())

    @property
    def weights_bytes(self) -> int:
        """The bytes of the tensors as they are stored."""
        return sum(t.n_bytes for t in self.tensors.values())

    @property
    def is_quantised(self) -> bool:
        """Whether a matrix is in groups."""
        return any(t.dtype in BITS for t in self.tensors.values())

    def fingerprint(self) -> str:
        """A cheap hash, 64 hex digits, for the key of a cache: it does not read the weights whole.

        It covers configuration, tokenizer, ends of text, the headers, sizes and times of the files, and the first,
        middle and last 4 KiB of each tensor. For an identity that does not depend on file times: `model_hash`.
        """
        h = hashlib.sha256(b"mossnet-tg checkpoint fingerprint 1\n")
        _put(h, _config_json(self.config), repr(self.eos_ids).encode(), self.tokenizer_json or b"")
        for f in self.files:
            _put(h, f.header, f"{f.size} {f.mtime_ns}".encode())
        for t in self.tensors.values():
            _put(h, t.identity.encode())
            for part in t.parts:
                n = part.content.size
                for start in (0, max(0, (n - _SAMPLE_BYTES) // 2), max(0, n - _SAMPLE_BYTES)):
                    _put(h, part.content[start : start + _SAMPLE_BYTES])
        return h.hexdigest()

    def model_hash(self) -> bytes:
        """The model's identity, 32 bytes: SHA-256 of configuration and all tensors' names, dtypes, shapes and contents.

        The same for the same model in other files, shards or spellings of names. Reads all weights at the first call.
        """
        return self._model_hash

    @cached_property
    def _model_hash(self) -> bytes:
        h = hashlib.sha256(b"mossnet-tg model 1\n")
        _put(h, _config_json(self.config))
        for name, t in sorted(self.tensors.items()):
            _put(h, name.encode(), t.identity.encode(), repr(t.shape).encode(), *(part.content for part in t.parts))
        return h.digest()

    def nan_tensors(self) -> list[str]:
        """The names of the tensors that hold a NaN or an infinity. Reads all weights."""
        return [name for name, t in self.tensors.items() if any(map(_has_nan, t.parts))]

    def with_weights(self, dtype: str) -> Checkpoint:
        """The same model with its matrices as `dtype`, one of WEIGHT_TYPES, converted when they are looked at, each as
        `quantised.dtype_for` says; itself for "". UsageError for another type.
        """
        if not dtype:
            return self
        if dtype not in WEIGHT_TYPES:
            raise UsageError(f"weights are '{dtype}', expected {', '.join(WEIGHT_TYPES)}")
        tensors: dict[str, Tensor] = {}
        for name, t in self.tensors.items():
            wanted = dtype_for(name, t.shape, t.dtype, dtype)
            tensors[name] = t if wanted == t.dtype else Converted(t, wanted)
        return replace(self, tensors=MappingProxyType(tensors))


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether `path` looks like a checkpoint: a folder, or a file that begins as a .safetensors file does.

    Never raises; a file that cannot be read is none. `Checkpoint.open` says what is wrong with one.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return True
        if not path.is_file():  # a named pipe would block
            return False
        with path.open("rb") as f:
            start = f.read(9)
    except (OSError, ValueError):
        return False
    return len(start) == 9 and int.from_bytes(start[:8], "little") <= MAX_HEADER_BYTES and start[8:] == b"{"


def _locate(path: Path) -> tuple[Path, Path]:
    """The folder of config.json, and the weights (file or index); UsageError where there is no checkpoint."""
    try:
        exists, is_folder = path.exists(), path.is_dir()
    except (OSError, ValueError) as e:
        raise UsageError(f"{path}: cannot be read: {e}", _HOLDS) from None
    if not exists:
        raise UsageError(f"{path}: not found, expected a checkpoint", _HOLDS)
    if not is_folder:
        if _CONFIG not in _names(path.parent):
            raise UsageError(f"{path}: no {_CONFIG} beside it", _HOLDS)
        return path.parent, path
    names = _names(path)
    weights = [name for name in (_WEIGHTS, _INDEX) if name in names]
    if _CONFIG in names and weights:
        return path, path / weights[0]
    lacking = " and ".join([_CONFIG] * (_CONFIG not in names) + [_WEIGHTS] * (not weights))
    found = f"found {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else "the folder is empty"
    raise UsageError(f"{path}: no {lacking}: {found}", _HOLDS)


def _names(folder: Path) -> list[str]:
    """The names in a folder, sorted."""
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError as e:
        raise UsageError(f"{folder}: cannot be read: {e.strerror}", _HOLDS) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise CheckpointError(f"{path}: cannot be read: {e.strerror}") from None


def _open_files(weights: Path) -> tuple[SafetensorsFile, ...]:
    """The files of `weights`: itself, or the shards that it is the index of, in the order of their names."""
    if weights.name != _INDEX:
        return (SafetensorsFile.open(weights),)
    index = read_json(_read(weights), str(weights))
    listed = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(listed, dict) or not listed or not all(isinstance(v, str) for v in listed.values()):
        raise CheckpointError(f"{weights}: no weight_map, expected an object of tensor name to shard")
    files, beside = [], _names(weights.parent)
    for shard in sorted(set(listed.values())):
        # by its name among those of the folder: a path could reach any file of this machine
        if shard not in beside:
            raise CheckpointError(f"{weights}: shard {show(shard)} is not a file beside it", "copy all shards there")
        files.append(SafetensorsFile.open(weights.parent / shard))
    held = {name: file.path.name for file in files for name in file.tensors}
    problems = [
        f"tensor {show(name)} is in {held.get(name, 'no shard')}, the index says {show(listed.get(name))}"
        for name in {**listed, **held}
        if held.get(name) != listed.get(name)
    ]
    if problems:
        raise CheckpointError(_listing(f"{weights} and its shards disagree", problems))
    return tuple(files)


def _select(fmt: Format, config: Config, found: dict[str, Tensor], where: Path) -> dict[str, Tensor]:
    """The tensors of SPEC.md from those in the files; one CheckpointError names all that do not fit."""
    if config.n_layer > len(found):  # before a loop over so many layers
        layers = f"several for each of the {config.n_layer} layers of {_CONFIG}"
        raise CheckpointError(f"{where}: {len(found)} tensors, expected {layers}")
    tensors: dict[str, Tensor] = {}
    problems: list[str] = []
    missing: list[Expected] = []
    used: set[str] = set()
    for want in expected(fmt, config):
        here = [name for name in want.spellings if name in found]
        if not here:
            missing.append(want)
            continue
        view = found[here[0]]
        used.add(here[0])
        if view.dtype not in WEIGHT_TYPES:
            problems.append(f"tensor {show(here[0])} is {view.dtype}, expected {', '.join(WEIGHT_TYPES)}")
        elif view.shape not in want.shapes:
            wanted = " or ".join(str(list(s)) for s in want.shapes)
            problems.append(f"tensor {show(here[0])} is {show(view.shape)}, expected {wanted} = {want.reason}")
        else:
            tensors[want.name] = renamed(view, want.name, want.reshaped or view.shape)
    extra = [name for name in found if name not in used]
    for want in missing:
        text = f"tensor {want.spellings[0]!r} is missing, expected {list(want.shapes[0])} = {want.reason}"
        if len(problems) < _MAX_PROBLEMS and (close := difflib.get_close_matches(want.spellings[0], extra[:1000], 1)):
            text += f"; did you mean {show(close[0])}?"
        problems.append(text)
    for name in extra:
        twin = fmt.copies.get(name)
        if twin is None:
            problems.append(f"tensor {show(name)} {show(found[name].shape)} has no place in the model of {_CONFIG}")
        elif twin in tensors and not _same_content(found[name], tensors[twin]):
            tied = " though config.json ties them" if name == "lm_head.weight" else ""
            problems.append(f"tensor {show(name)} differs from {twin}{tied}, expected the same bytes or none")
    if problems:
        raise CheckpointError(_listing(f"{where} does not fit its {_CONFIG}", problems))
    return tensors


def _same_content(a: Tensor, b: Tensor) -> bool:
    return (a.dtype, math.prod(a.shape)) == (b.dtype, math.prod(b.shape)) and all(
        np.array_equal(p.content, q.content) for p, q in zip(a.parts, b.parts, strict=True)
    )


def _has_nan(view: TensorView) -> bool:
    if view.dtype not in _EXPONENTS:  # a quantised matrix's codes
        return False
    integer, mask = _EXPONENTS[view.dtype]
    return any(np.any((c.view(integer) & mask) == mask) for c in _chunks(view.content))


def _listing(head: str, problems: list[str]) -> str:
    if len(problems) == 1:
        return f"{head}: {problems[0]}"
    more = [f"... and {len(problems) - _MAX_PROBLEMS} more"] if len(problems) > _MAX_PROBLEMS else []
    return "\n  ".join([f"{head}, {len(problems)} problems:", *problems[:_MAX_PROBLEMS], *more])


def _eos_ids(folder: Path, config_json: dict[str, Any], tokenizer: bytes | None, config: Config) -> tuple[int, ...]:
    """The ends of text: generation_config.json's word counts first, as in transformers, then config.json's."""
    places = [(folder / _CONFIG, config_json)]
    if (path := folder / _GENERATION).exists():
        generation = read_json(_read(path), str(path))
        if not isinstance(generation, dict):
            raise CheckpointError(f"{path}: not an object")
        places.insert(0, (path, generation))
    for path, found in places:
        value = found.get("eos_token_id")
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if not all(type(i) is int and 0 <= i < config.vocab_size for i in ids):
            wanted = f"ids below vocab_size = {config.vocab_size}"
            raise CheckpointError(f"{path}: eos_token_id is {show(value)}, expected {wanted}")
        return tuple(dict.fromkeys(ids))
    end = _end_of_text(folder / _TOKENIZER, tokenizer) if tokenizer is not None else None
    return (end,) if end is not None and end < config.vocab_size else ()


def _end_of_text(path: Path, tokenizer_json: bytes) -> int | None:
    """The id of `<|endoftext|>` in a tokenizer.json; None where it has none."""
    try:
        found = json.loads(tokenizer_json)  # not read_json: what `tokenizers` reads is valid here
    except (ValueError, RecursionError) as e:
        raise CheckpointError(f"{path}: not JSON: {e}") from None
    added = found.get("added_tokens") if isinstance(found, dict) else None
    for token in added if isinstance(added, list) else []:
        if isinstance(token, dict) and token.get("content") == _END_OF_TEXT:
            return i if type(i := token.get("id")) is int and i >= 0 else None
    return None


def _config_json(config: Config) -> bytes:
    """The one spelling of a configuration that is hashed."""
    plain = config.to_dict()
    plain["ssm"]["dt_rank"] = config.dt_rank  # "auto" and the number it stands for are one model
    return json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()


def _put(h: hashlib._Hash, *parts: bytes | NDArray[np.uint8]) -> None:
    """Hash each part with its length before it, so that no two lists of parts look alike."""
    for part in parts:
        h.update(len(part).to_bytes(8, "little"))
        h.update(part)  # type: ignore[arg-type]


def _chunks(content: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    return (content[i : i + _CHUNK_BYTES] for i in range(0, content.size, _CHUNK_BYTES))
