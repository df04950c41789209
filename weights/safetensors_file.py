"""One `.safetensors` file, memory-mapped and read strictly.

The layout: a little-endian u64 header length, a JSON object of that length, then the tensors' bytes. Well-known readers
let duplicate keys pass, and each leaves some other check to its caller. A model compiler must not work from a file that
two readers would understand differently, so this one refuses it: every byte of the file belongs to exactly one thing.
"""

from __future__ import annotations

import dataclasses
import math
import mmap
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mossnet_tg import strict_json
from mossnet_tg.errors import MossnetError
from mossnet_tg.strict_json import show

MAX_HEADER_BYTES = 100_000_000  # the limit of the format's own library: a header is read whole before anything is known
_MAX_DIMS = 64  # numpy's limit; it also bounds the next product
_MAX_ELEMENTS = 1 << 60  # beyond it the dimensions of an empty tensor overflow, in numpy too

# The format's dtype names and their sizes in bits (F4 and F6 are packed).
DTYPE_BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip

# What weights can be: our dtype name -> the numpy dtype of the raw view. numpy has no bfloat16, so its bits are shown.
WEIGHT_DTYPES: dict[str, np.dtype[Any]] = {"f32": np.dtype("<f4"), "f16": np.dtype("<f2"), "bf16": np.dtype("<u2")}


class CheckpointError(MossnetError):
    """A checkpoint's file or folder is not what the format, its configuration or SPEC.md says."""


@dataclass(frozen=True, eq=False)
class TensorView:
    """One tensor of a mapped file, read when it is looked at.

    `name` is the tensor's name, `dtype` "f32", "f16" or "bf16" (or another of the format's, in lower case, which only
    `content` can show), `shape` its dimensions, `content` its bytes uint8 [n_bytes] (read-only, at any alignment), and
    `origin` says in errors where it came from.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    content: NDArray[np.uint8]
    origin: str

    @property
    def n_elements(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """The bytes of the elements."""
        return self.content.size

    @property
    def parts(self) -> tuple[TensorView, ...]:
        """As `tensors.Tensor` has it."""
        return (self,)

    @property
    def identity(self) -> str:
        """As `tensors.Tensor` has it."""
        return self.dtype

    @property
    def raw(self) -> NDArray[Any]:
        """The stored elements [shape], read-only and perhaps unaligned; bf16 as uint16. CheckpointError: dtype."""
        if self.dtype not in WEIGHT_DTYPES:
            raise CheckpointError(f"{self.origin} is {self.dtype}, expected {', '.join(WEIGHT_DTYPES)}")
        return self.content.view(WEIGHT_DTYPES[self.dtype]).reshape(self.shape)

    def f32(self) -> NDArray[np.float32]:
        """The elements as float32 [shape]; for aligned f32 this is the mapped file itself, read-only."""
        raw = self.raw
        out: NDArray[np.float32]
        if self.dtype == "bf16":  # the upper half of a float32
            out = (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
        else:
            out = np.require(raw, np.float32, ["C", "ALIGNED"])
        return out

    def renamed(self, name: str, shape: tuple[int, ...]) -> TensorView:
        """The same bytes under another name and shape of as many elements."""
        return dataclasses.replace(self, name=name, shape=shape)


@dataclass(frozen=True, eq=False)
class SafetensorsFile:
    """A validated file. The mapping lives as long as a tensor view of it does; do not shorten the file meanwhile."""

    path: Path
    header: bytes
    metadata: dict[str, str]
    tensors: dict[str, TensorView]
    size: int
    mtime_ns: int

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> SafetensorsFile:
        """Map and validate the file at `path`; raises CheckpointError, which names the file and the tensor."""
        path = Path(path)
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # before opening: a named pipe would block
                raise CheckpointError(f"{path}: not a regular file, expected a .safetensors file")
            with path.open("rb") as f:
                info = os.fstat(f.fileno())
                if info.st_size < 8:
                    raise CheckpointError(f"{path}: {info.st_size} bytes, expected at least the 8 of the header length")
                mapped = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as e:
            raise CheckpointError(f"{path}: cannot be read: {_reason(e)}") from None
        size = len(mapped)
        n_header = int.from_bytes(mapped[:8], "little")
        if n_header > MAX_HEADER_BYTES:
            hint = "a .safetensors file begins with its header's length: this one is of another kind or damaged"
            raise CheckpointError(f"{path}: header length is {n_header}, expected at most {MAX_HEADER_BYTES}", hint)
        if n_header > size - 8:
            raise CheckpointError(f"{path}: header length is {n_header}, but only {size - 8} bytes follow", _CUT_SHORT)
        header = mapped[8 : 8 + n_header]
        if not header.startswith(b"{"):
            raise CheckpointError(f"{path}: header begins with {header[:8]!r}, expected '{{'")
        entries = read_json(header, f"{path}: header")
        metadata = _metadata(path, entries.pop("__metadata__", {}))
        content = np.frombuffer(mapped, np.uint8)[8 + n_header :]
        return cls(path, header, metadata, _tensors(path, entries, content), size, info.st_mtime_ns)


_CUT_SHORT = "the file is cut short or damaged: copy it again"


def read_json(content: bytes, where: str) -> Any:
    """The value of a JSON text, read strictly; raises CheckpointError, which begins with `where`."""
    return strict_json.loads(content, where, CheckpointError)


def _metadata(path: Path, found: Any) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise CheckpointError(f"{path}: __metadata__ is {show(found)}, expected an object of strings")
    return found


def _tensors(path: Path, entries: dict[str, Any], content: NDArray[np.uint8]) -> dict[str, TensorView]:
    """The views of a header's `entries` on `content` uint8 [bytes after the header], in the order of their offsets."""
    spans: list[tuple[int, int, str, str, tuple[int, ...]]] = []
    for name, entry in entries.items():
        spans.append(_span(f"{path}: tensor {show(name)}", name, entry))
    spans.sort()
    tensors: dict[str, TensorView] = {}
    end_before, before = 0, "the header"
    for begin, end, name, dtype, shape in spans:
        who = f"{path}: tensor {show(name)}"
        if end > len(content):
            raise CheckpointError(f"{who} ends at {end}, but only {len(content)} bytes follow the header", _CUT_SHORT)
        if begin != end_before:
            what = "overlaps" if begin < end_before else "leaves a hole after"
            raise CheckpointError(f"{who} begins at offset {begin} and {what} {before}, expected offset {end_before}")
        tensors[name] = TensorView(name, dtype.lower(), shape, content[begin:end], who)
        end_before, before = end, f"tensor {show(name)}"
    if end_before != len(content):
        found = f"{len(content) - end_before} bytes after {before}"
        raise CheckpointError(f"{path}: {found}, which no tensor claims, expected none", _CUT_SHORT)
    return tensors


def _span(who: str, name: str, entry: Any) -> tuple[int, int, str, str, tuple[int, ...]]:
    """(begin, end, name, dtype, shape) of one header entry, checked by itself."""
    keys = {"dtype", "shape", "data_offsets"}
    if not isinstance(entry, dict) or entry.keys() != keys:
        raise CheckpointError(f"{who} is {show(entry)}, expected an object of {', '.join(sorted(keys))}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise CheckpointError(f"{who}: dtype is {show(dtype)}, expected one of {', '.join(DTYPE_BITS)}")
    for key, value in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(value, list) or not all(type(v) is int and v >= 0 for v in value):
            raise CheckpointError(f"{who}: {key} is {show(value)}, expected a list of sizes")
    if len(shape) > _MAX_DIMS:
        raise CheckpointError(f"{who}: shape has {len(shape)} dimensions, expected at most {_MAX_DIMS}")
    if math.prod(max(v, 1) for v in shape) >= _MAX_ELEMENTS:
        raise CheckpointError(f"{who}: shape is {show(shape)}, expected fewer than 2^60 elements")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{who}: data_offsets is {show(offsets)}, expected [begin, end] with begin <= end")
    n_bits, n_bytes = math.prod(shape) * DTYPE_BITS[dtype], offsets[1] - offsets[0]
    if n_bits != 8 * n_bytes:
        raise CheckpointError(f"{who} holds {n_bytes} bytes, expected {n_bits} / 8 for {dtype} {show(shape)}")
    return offsets[0], offsets[1], name, dtype, tuple(shape)


def _reason(e: Exception) -> str:
    return (e.strerror if isinstance(e, OSError) else None) or str(e)
