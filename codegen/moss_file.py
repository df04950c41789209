"""model.moss, written and read (docs/format.md).

`write` streams the weights, so that a model never stands in memory twice, and puts the file in place by a rename,
so that a model that is in use is never damaged. `read` accepts exactly what libmossnet's validator
(targets/runtime/file.c) accepts; the tests hold the two against each other.
"""

from __future__ import annotations

import contextlib
import math
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import numpy.typing as npt

from mossnet_tg.codegen.text import program
from mossnet_tg.errors import ArtifactError, MossnetError

MAGIC = b"MOSSTG\r\n"
VERSION = 2
MAX_SECTIONS = 64
MAX_VARIANTS = 6
MAX_RECORDS = 1 << 20
MAX_PARAMS = 24
MAX_TILES = 1 << 24
MAX_BLOCK = 1024
MAX_LOCAL_BYTES = 1 << 20
MAX_STRING_BYTES = 1 << 30
MAX_REGION_BYTES = 1 << 40
SECTION_ALIGN = 64
BUFFER_ALIGN = 256
PAGE_ALIGN = 65536
# The system keeps as one page what is written as one: a token of a Mamba takes 2 to 8 % less then.
_LARGE_PAGE_BYTES = 2 << 20

_HEADER = struct.Struct("<8sIIQQ32s")
_SECTION = struct.Struct("<IIQQII")
_META = struct.Struct("<II")
_MODEL = struct.Struct("<IIIIQQQ24s")
_BUFFER = struct.Struct("<IIIIQQ")
_KERNEL = struct.Struct("<IIIIQQ3II")
_PARAM = struct.Struct("<QII")
_STEP = struct.Struct("<IIII3II16s")
_ARG = struct.Struct("<I")
_ENTRY = struct.Struct("<9I12s")


class Region(IntEnum):
    """Where a buffer lives."""

    WEIGHTS = 0
    STATE = 1
    ARENA = 2
    IO = 3


class DType(IntEnum):
    """What a buffer holds."""

    F32 = 0
    F16 = 1
    BF16 = 2
    I32 = 3
    I8 = 4
    U8 = 5
    BOOL = 6
    Q8 = 7
    Q4 = 8


class Access(IntFlag):
    """What a kernel does with a parameter."""

    READ = 1
    WRITTEN = 2


class EntryKind(IntEnum):
    """What an entry computes."""

    DECODE = 0
    PREFILL = 1
    SCORE = 2


class _Type(IntEnum):
    STR = 1
    META = 2
    MODEL = 3
    BUFFER = 4
    KERNEL = 5
    PARAM = 6
    STEP = 7
    ARG = 8
    ENTRY = 9
    CODE = 10
    TOKENIZER = 11
    WEIGHTS = 12
    TEXT = 13


_OPTIONAL = (_Type.META, _Type.TOKENIZER, _Type.TEXT)
_SHARED = (_Type.TOKENIZER, _Type.TEXT, _Type.WEIGHTS)  # by all variants
_RECORDS = {
    _Type.META: _META,
    _Type.MODEL: _MODEL,
    _Type.BUFFER: _BUFFER,
    _Type.KERNEL: _KERNEL,
    _Type.PARAM: _PARAM,
    _Type.STEP: _STEP,
    _Type.ARG: _ARG,
    _Type.ENTRY: _ENTRY,
}


@dataclass(frozen=True)
class Buffer:
    """A range of a region; `offset` is a multiple of 256."""

    name: str
    region: Region
    dtype: DType
    offset: int
    bytes: int


@dataclass(frozen=True)
class Param:
    """A kernel's parameter: the least that a buffer bound to it must hold, and whether it is read, written or both."""

    bytes: int
    access: Access


@dataclass(frozen=True)
class Kernel:
    """A kernel and where its code stands in CODE (cpu: the entry point); on GPUs, the threads of a group and the bytes
    of memory that they share."""

    name: str
    params: tuple[Param, ...]
    code_offset: int
    code_bytes: int
    block: tuple[int, int, int] = (1, 1, 1)
    local_bytes: int = 0


@dataclass(frozen=True)
class Step:
    """One launch: a kernel (its index) on buffers (theirs). `small`: not worth a second thread."""

    kernel: int
    args: tuple[int, ...]
    grid: tuple[int, int, int]
    label: str = ""
    small: bool = False


@dataclass(frozen=True)
class Entry:
    """A run of steps and the buffers through which it is fed and read."""

    name: str
    kind: EntryKind
    first_step: int
    n_steps: int
    n_tokens: int
    n_logits: int
    ids: int
    params: int
    logits: int


@dataclass(frozen=True, kw_only=True)
class MossFile:
    """Everything in a model.moss but the weights themselves."""

    model_hash: bytes
    vocab_size: int
    chunk: int
    max_context: int
    n_params: int
    state_bytes: int
    arena_bytes: int
    io_bytes: int
    weights_bytes: int
    buffers: Sequence[Buffer]
    kernels: Sequence[Kernel]
    steps: Sequence[Step]
    entries: Sequence[Entry]
    code: bytes
    meta: Mapping[str, str] = field(default_factory=dict)
    tokenizer: bytes = b""
    text: bytes = b""


Chunk = bytes | memoryview | npt.NDArray[Any]


def write(
    path: str | os.PathLike[str],
    moss: MossFile,
    weights: Iterable[tuple[int, Chunk]],
    others: Sequence[MossFile] = (),
) -> None:
    """Writes a model: `weights` gives (offset in WEIGHTS, bytes) in ascending order; what lies between is zero.
    `others` are further variants of it on the same weights, tried in order where those before them do not run.

    The file appears under its name only when it is complete. Raises `MossnetError` when the disk does not take it,
    and `ArtifactError` when `moss` is no valid plan.
    """
    target = Path(path)
    head, file_bytes = _encode([moss, *others])
    _read_variants(head, file_bytes)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        with _created(temporary, target) as file:
            with _writing(target):
                _append(file, memoryview(head))
            end = 0
            for offset, chunk in weights:
                view = _as_bytes(chunk)
                if offset < end or offset + view.nbytes > moss.weights_bytes:
                    raise ValueError(
                        f"{view.nbytes} bytes of weights at {offset}, expected {end} to {moss.weights_bytes}"
                    )
                with _writing(target):
                    _append(file, memoryview(bytes(offset - end)))
                    _append(file, view)
                end = offset + view.nbytes
            with _writing(target):
                file.truncate(file_bytes)
                file.flush()
                os.fsync(file.fileno())
        with _writing(target):
            temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _created(temporary: Path, target: Path) -> Iterator[BinaryIO]:
    with _writing(target):
        file = temporary.open("xb", buffering=_LARGE_PAGE_BYTES)
    try:
        yield file
    finally:
        with _writing(target):  # what its buffer still holds
            file.close()


def _append(file: BinaryIO, view: memoryview) -> None:
    """In parts that end where a large page does, so that the file's buffer, as large as one, holds one."""
    while view.nbytes:
        n = _LARGE_PAGE_BYTES - file.tell() % _LARGE_PAGE_BYTES
        file.write(view[:n])
        view = view[n:]


def _as_bytes(chunk: Chunk) -> memoryview:
    return (
        np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data
        if isinstance(chunk, np.ndarray)
        else memoryview(chunk).cast("B")
    )


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Around what writes, but not around what makes the weights: that fails with a text of its own."""
    try:
        yield
    except OSError as error:
        raise MossnetError(f"{target}: the model cannot be written: {error.strerror or error}") from error


class _Strings:
    """STR while it grows: the first byte is the NUL of ""."""

    def __init__(self) -> None:
        self.references = {"": 0}
        self.data = bytearray(b"\0")

    def add(self, text: str) -> int:
        if "\0" in text:
            raise ValueError(f"a string of a model holds NUL: {text!r}")
        if text not in self.references:
            self.references[text] = len(self.data)
            self.data += text.encode() + b"\0"
        return self.references[text]


def _encode(variants: Sequence[MossFile]) -> tuple[bytes, int]:
    """The file up to the weights, and the size of the whole."""
    sections = [
        (kind, variant, content) for variant, moss in enumerate(variants) for kind, content in _own(moss).items()
    ]
    for kind, content in ((_Type.TOKENIZER, variants[0].tokenizer), (_Type.TEXT, variants[0].text)):
        if content:
            sections.insert(-1, (kind, 0, content))
    return _lay_out(variants[0], sections)


def _own(moss: MossFile) -> dict[_Type, bytes]:
    """A variant's own sections."""
    strings = _Strings()
    sections: dict[_Type, bytes] = {_Type.META: b"".join(
        _META.pack(strings.add(key), strings.add(value)) for key, value in moss.meta.items()
    )}  # fmt: skip
    sections[_Type.MODEL] = _MODEL.pack(
        moss.vocab_size, moss.chunk, moss.max_context, moss.n_params,
        moss.state_bytes, moss.arena_bytes, moss.io_bytes, bytes(24),
    )  # fmt: skip
    sections[_Type.BUFFER] = b"".join(
        _BUFFER.pack(b.region, strings.add(b.name), b.dtype, 0, b.offset, b.bytes) for b in moss.buffers
    )
    kernels, params, steps, args = bytearray(), bytearray(), bytearray(), bytearray()
    for kernel in moss.kernels:
        first = len(params) // _PARAM.size
        code = (kernel.code_offset, kernel.code_bytes)
        kernels += _KERNEL.pack(
            strings.add(kernel.name), first, len(kernel.params), 0, *code, *kernel.block, kernel.local_bytes
        )
        params += b"".join(_PARAM.pack(p.bytes, p.access, 0) for p in kernel.params)
    for step in moss.steps:
        first = len(args) // _ARG.size
        label = strings.add(step.label)
        steps += _STEP.pack(step.kernel, first, len(step.args), label, *step.grid, int(step.small), bytes(16))
        args += b"".join(_ARG.pack(a) for a in step.args)
    sections |= {_Type.KERNEL: bytes(kernels), _Type.PARAM: bytes(params)}
    sections |= {_Type.STEP: bytes(steps), _Type.ARG: bytes(args)}
    sections[_Type.ENTRY] = b"".join(
        _ENTRY.pack(
            strings.add(e.name), e.kind, e.first_step, e.n_steps, e.n_tokens, e.n_logits,
            e.ids, e.params, e.logits, bytes(12),
        )
        for e in moss.entries
    )  # fmt: skip
    return {_Type.STR: bytes(strings.data), **sections, _Type.CODE: moss.code}


def _align(offset: int, to: int) -> int:
    return -(-offset // to) * to


def _lay_out(moss: MossFile, sections: Sequence[tuple[_Type, int, bytes]]) -> tuple[bytes, int]:
    table, body = bytearray(), bytearray()
    start = _HEADER.size + (len(sections) + 1) * _SECTION.size
    for kind, variant, content in sections:
        offset = _align(start + len(body), PAGE_ALIGN if kind == _Type.CODE else SECTION_ALIGN)
        body += bytes(offset - start - len(body)) + content
        table += _SECTION.pack(kind, int(kind not in _OPTIONAL), offset, len(content), zlib.crc32(content), variant)
    offset = _align(start + len(body), PAGE_ALIGN)
    body += bytes(offset - start - len(body))
    table += _SECTION.pack(_Type.WEIGHTS, 1, offset, moss.weights_bytes, 0, 0)
    file_bytes = offset + moss.weights_bytes
    header = _HEADER.pack(MAGIC, VERSION, len(sections) + 1, file_bytes, _HEADER.size, moss.model_hash)
    return bytes(header + table + body), file_bytes


def read(path: str | os.PathLike[str]) -> MossFile:
    """Reads and checks everything but the weights, and returns the first variant. Raises `ArtifactError` for a file
    that libmossnet would refuse.
    """
    return read_all(path)[0]


def read_all(path: str | os.PathLike[str]) -> list[MossFile]:
    """All variants of a file, as `read`."""
    target = Path(path)
    try:
        with _map(target) as data:
            found = _read_variants(data, len(data))
            _check_sums(data)
            return found
    except ArtifactError as error:
        raise ArtifactError(f"{target}: {error}") from None


def _read_variants(data: bytes | memoryview, file_bytes: int) -> list[MossFile]:
    first = _Reader(data, file_bytes)
    found = [first.read()]
    return found + [_Reader(data, file_bytes, variant).read() for variant in range(1, first.n_variants)]


def read_weights(path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    """The WEIGHTS of a model as mapped, read-only bytes."""
    target = Path(path)
    try:
        with _map(target) as data:
            reader = _Reader(data, len(data))
            reader.read()
    except ArtifactError as error:
        raise ArtifactError(f"{target}: {error}") from None
    offset, n = reader.spans[_Type.WEIGHTS]
    if not n:
        return np.empty(0, np.uint8)
    return np.memmap(target, np.uint8, "r", offset, (n,))


def _check_sums(data: memoryview) -> None:
    """Whether the sections of a file that a reader accepted are what was written, all but the weights."""
    for i in range(_HEADER.unpack_from(data)[2]):
        kind, _, offset, size, crc, _ = _SECTION.unpack_from(data, _HEADER.size + i * _SECTION.size)
        if kind != _Type.WEIGHTS and zlib.crc32(data[offset : offset + size]) != crc:
            _refuse(f"section {i} is damaged: its checksum does not match")


@contextlib.contextmanager
def _map(path: Path) -> Iterator[memoryview]:
    """The file as a memoryview; its pages are read as they are looked at."""
    try:
        if not path.stat().st_size:
            raise ArtifactError("the file is empty")
        data = np.memmap(path, np.uint8, "r")
    except OSError as error:
        raise MossnetError(f"{path}: {error.strerror or error}") from error
    yield data.data


def _refuse(message: str) -> NoReturn:
    raise ArtifactError(message)


class _Reader:
    """One reading of a variant. `data` may end before the weights; `file_bytes` is the size of the whole."""

    def __init__(self, data: bytes | memoryview, file_bytes: int, variant: int = 0) -> None:
        self.data = memoryview(data)
        self.file_bytes = file_bytes
        self.variant, self.n_variants = variant, 1
        self.spans: dict[_Type, tuple[int, int]] = {}

    def read(self) -> MossFile:
        model_hash, n_sections = self._header()
        self._sections(n_sections)
        self._read_strings()
        meta: dict[str, str] = {}
        for key, value in self._records(_Type.META):
            meta.setdefault(self._string(key, "META"), self._string(value, "META"))
        model = self._model()
        buffers = self._buffers(model)
        params = [self._param(i, *record) for i, record in enumerate(self._records(_Type.PARAM))]
        kernels = self._kernels(params)
        args = [record[0] for record in self._records(_Type.ARG)]
        for i, arg in enumerate(args):
            if arg >= len(buffers):
                _refuse(f"ARG {i}: buffer {arg} of {len(buffers)}")
        steps = self._steps(buffers, kernels, args)
        entries = self._entries(model, buffers, len(steps))
        vocab_size, chunk, max_context, n_params, state_bytes, arena_bytes, io_bytes = model
        return MossFile(
            model_hash=model_hash,
            vocab_size=vocab_size,
            chunk=chunk,
            max_context=max_context,
            n_params=n_params,
            state_bytes=state_bytes,
            arena_bytes=arena_bytes,
            io_bytes=io_bytes,
            weights_bytes=self.spans[_Type.WEIGHTS][1],
            buffers=buffers,
            kernels=kernels,
            steps=steps,
            entries=entries,
            code=bytes(self._section(_Type.CODE)),
            meta=meta,
            tokenizer=bytes(self._section(_Type.TOKENIZER)),
            text=self._text(),
        )

    def _text(self) -> bytes:
        text = bytes(self._section(_Type.TEXT))
        if text and not self.variant:  # they have it in common
            program.check(text)
        return text

    def _header(self) -> tuple[bytes, int]:
        if self.file_bytes < _HEADER.size:
            _refuse(f"{self.file_bytes} bytes are too few for a model (a header has {_HEADER.size})")
        magic, version, n_sections, file_bytes, table, model_hash = _HEADER.unpack_from(self.data)
        if magic != MAGIC:
            _refuse('no model.moss: it does not start with "MOSSTG\\r\\n"')
        if version != VERSION:
            _refuse(f"format version {version}, this reads version {VERSION}")
        if not 1 <= n_sections <= MAX_SECTIONS:
            _refuse(f"{n_sections} sections, expected 1 to {MAX_SECTIONS}")
        if file_bytes != self.file_bytes:
            _refuse(f"the file has {self.file_bytes} bytes, its header says {file_bytes}: it is cut short or damaged")
        if table != _HEADER.size:
            _refuse(f"section table at offset {table}, expected {_HEADER.size}")
        if table + n_sections * _SECTION.size > self.file_bytes:
            _refuse(f"the section table of {n_sections} entries lies beyond the end of the file")
        return model_hash, n_sections

    def _sections(self, n: int) -> None:
        end = _HEADER.size + n * _SECTION.size
        for i in range(n):
            kind, flags, offset, size, _, variant = _SECTION.unpack_from(self.data, _HEADER.size + i * _SECTION.size)
            if flags > 1:
                _refuse(f"section {i}: reserved bits are set")
            if variant >= MAX_VARIANTS or (variant and kind in _SHARED):
                expected = "0" if kind in _SHARED else f"0 to {MAX_VARIANTS - 1}"
                _refuse(f"section {i} is of variant {variant}, expected {expected}")
            if offset % SECTION_ALIGN:
                _refuse(f"section {i} at offset {offset}, expected a multiple of {SECTION_ALIGN}")
            if offset + size > self.file_bytes:
                _refuse(f"section {i} lies beyond the end of the file")
            if offset < end:
                _refuse(f"section {i} overlaps what stands before it")
            if _Type.WEIGHTS in self.spans:
                _refuse(f"section {i} stands after WEIGHTS, which must be the last")
            end = offset + size
            self.n_variants = max(self.n_variants, variant + 1)
            if kind not in _Type.__members__.values():
                if flags & 1:
                    _refuse(f"section {i} is of type {kind}, which this does not know but must")
            elif kind in _SHARED or variant == self.variant:
                self._known_section(_Type(kind), offset, size)
        for known in _Type:
            if known not in self.spans:
                if known not in _OPTIONAL:
                    _refuse(f"section {known.name} is missing in variant {self.variant}")
                self.spans[known] = (0, 0)

    def _known_section(self, kind: _Type, offset: int, size: int) -> None:
        if kind in self.spans:
            _refuse(f"section {kind.name} is there twice")
        if kind in (_Type.CODE, _Type.WEIGHTS) and offset % PAGE_ALIGN:
            _refuse(f"section {kind.name} at offset {offset}, expected a multiple of {PAGE_ALIGN}")
        if kind in _RECORDS:
            each = _RECORDS[kind].size
            if size % each:
                _refuse(f"section {kind.name} has {size} bytes, expected a multiple of {each}")
            if size // each > MAX_RECORDS:
                _refuse(f"section {kind.name} has {size // each} records, at most {MAX_RECORDS} are allowed")
        self.spans[kind] = (offset, size)

    def _section(self, kind: _Type) -> memoryview:
        offset, size = self.spans[kind]
        return self.data[offset : offset + size]

    def _records(self, kind: _Type) -> Iterable[tuple[Any, ...]]:
        return _RECORDS[kind].iter_unpack(self._section(kind))

    def _read_strings(self) -> None:
        self.strings = bytes(self._section(_Type.STR)) if self.spans[_Type.STR][1] <= MAX_STRING_BYTES else b""
        if not self.strings:
            _refuse(f"section STR has {self.spans[_Type.STR][1]} bytes, expected 1 to {MAX_STRING_BYTES}")
        if self.strings[0] or self.strings[-1]:
            _refuse("section STR does not start and end with NUL")

    def _string(self, reference: int, owner: str) -> str:
        if reference >= len(self.strings):
            _refuse(f"{owner}: a reference beyond the strings")
        return self.strings[reference : self.strings.index(0, reference)].decode(errors="replace")

    def _model(self) -> tuple[int, int, int, int, int, int, int]:
        if self.spans[_Type.MODEL][1] != _MODEL.size:
            _refuse(f"section MODEL has {self.spans[_Type.MODEL][1]} bytes, expected {_MODEL.size}")
        *model, reserved = _MODEL.unpack(self._section(_Type.MODEL))
        vocab_size, chunk, max_context, n_params, state_bytes, arena_bytes, io_bytes = model
        if any(reserved):
            _refuse("MODEL: reserved bytes are set")
        if not 1 <= vocab_size < 1 << 31:
            _refuse(f"MODEL: vocab_size {vocab_size}")
        if not 1 <= chunk <= MAX_RECORDS:
            _refuse(f"MODEL: chunk {chunk}, expected 1 to {MAX_RECORDS}")
        if not 2 <= n_params <= MAX_RECORDS:
            _refuse(f"MODEL: n_params {n_params}, expected 2 to {MAX_RECORDS}")
        for size in (self.spans[_Type.WEIGHTS][1], state_bytes, arena_bytes, io_bytes):
            if size > MAX_REGION_BYTES:
                _refuse(f"MODEL: a region of {size} bytes, at most {MAX_REGION_BYTES} are allowed")
        return vocab_size, chunk, max_context, n_params, state_bytes, arena_bytes, io_bytes

    def _buffers(self, model: tuple[int, int, int, int, int, int, int]) -> list[Buffer]:
        sizes = (self.spans[_Type.WEIGHTS][1], *model[4:])
        buffers = []
        for i, (region, name, dtype, reserved, offset, size) in enumerate(self._records(_Type.BUFFER)):
            if reserved:
                _refuse(f"BUFFER {i}: reserved bytes are set")
            if region >= len(Region):
                _refuse(f"BUFFER {i}: region {region}, expected 0 to {len(Region) - 1}")
            if dtype >= len(DType):
                _refuse(f"BUFFER {i}: dtype {dtype}, expected 0 to {len(DType) - 1}")
            if offset % BUFFER_ALIGN:
                _refuse(f"BUFFER {i}: offset {offset}, expected a multiple of {BUFFER_ALIGN}")
            if offset + size > sizes[region]:
                _refuse(f"BUFFER {i}: {size} bytes at {offset} do not fit into region {region} of {sizes[region]}")
            buffers.append(Buffer(self._string(name, f"BUFFER {i}"), Region(region), DType(dtype), offset, size))
        return buffers

    def _param(self, i: int, size: int, access: int, reserved: int) -> Param:
        if access > Access.READ | Access.WRITTEN:
            _refuse(f"PARAM {i}: access {access}, expected 0 to 3")
        if reserved:
            _refuse(f"PARAM {i}: reserved bytes are set")
        return Param(size, Access(access))

    def _kernels(self, params: list[Param]) -> list[Kernel]:
        kernels = []
        code_bytes = self.spans[_Type.CODE][1]
        for i, (name, first, n, flags, offset, size, *block, local) in enumerate(self._records(_Type.KERNEL)):
            if flags:
                _refuse(f"KERNEL {i}: reserved bits are set")
            if not 1 <= n <= MAX_PARAMS:
                _refuse(f"KERNEL {i}: {n} parameters, expected 1 to {MAX_PARAMS}")
            if first + n > len(params):
                _refuse(f"KERNEL {i}: its parameters lie beyond the table")
            if not size or offset + size > code_bytes:
                _refuse(f"KERNEL {i}: {size} bytes of code at {offset} do not fit into CODE of {code_bytes}")
            if not all(1 <= threads <= MAX_BLOCK for threads in block) or math.prod(block) > MAX_BLOCK:
                _refuse(f"KERNEL {i}: a block of {block} threads, expected 1 to {MAX_BLOCK}")
            if local > MAX_LOCAL_BYTES:
                _refuse(f"KERNEL {i}: {local} bytes of local memory, at most {MAX_LOCAL_BYTES} are allowed")
            x, y, z = block
            bound = tuple(params[first : first + n])
            kernels.append(Kernel(self._string(name, f"KERNEL {i}"), bound, offset, size, (x, y, z), local))
        return kernels

    def _steps(self, buffers: list[Buffer], kernels: list[Kernel], args: list[int]) -> list[Step]:
        steps = []
        for i, (kernel, first, n, label, x, y, z, flags, reserved) in enumerate(self._records(_Type.STEP)):
            if kernel >= len(kernels):
                _refuse(f"STEP {i}: kernel {kernel} of {len(kernels)}")
            params = kernels[kernel].params
            if n != len(params):
                _refuse(f"STEP {i}: {n} arguments, its kernel has {len(params)} parameters")
            if first + n > len(args):
                _refuse(f"STEP {i}: its arguments lie beyond the table")
            if not all(1 <= size <= MAX_TILES for size in (x, y, z)):
                _refuse(f"STEP {i}: grid {x}, {y}, {z}, expected 1 to {MAX_TILES}")
            if flags > 1 or any(reserved):
                _refuse(f"STEP {i}: reserved bits are set")
            step = Step(
                kernel, tuple(args[first : first + n]), (x, y, z), self._string(label, f"STEP {i}"), bool(flags)
            )
            for a, (arg, param) in enumerate(zip(step.args, params, strict=True)):
                if buffers[arg].bytes < param.bytes:
                    _refuse(f"STEP {i}: argument {a} has {buffers[arg].bytes} bytes, its kernel needs {param.bytes}")
                if param.access & Access.WRITTEN and buffers[arg].region == Region.WEIGHTS:
                    _refuse(f"STEP {i}: argument {a} would write into the weights")
            steps.append(step)
        return steps

    def _entries(
        self, model: tuple[int, int, int, int, int, int, int], buffers: list[Buffer], n_steps: int
    ) -> list[Entry]:
        vocab_size, chunk, _, n_params, *_ = model
        entries: list[Entry] = []
        for i, (name, kind, *rest, reserved) in enumerate(self._records(_Type.ENTRY)):
            if any(reserved):
                _refuse(f"ENTRY {i}: reserved bytes are set")
            if kind >= len(EntryKind):
                _refuse(f"ENTRY {i}: kind {kind}, expected 0 to {len(EntryKind) - 1}")
            if any(entry.kind == kind for entry in entries):
                _refuse(f"ENTRY {i}: kind {kind} is there twice")
            entry = Entry(self._string(name, f"ENTRY {i}"), EntryKind(kind), *rest)
            if entry.first_step + entry.n_steps > n_steps:
                _refuse(f"ENTRY {i}: its steps lie beyond the table")
            expected = {EntryKind.DECODE: (1, 1), EntryKind.PREFILL: (chunk, 1), EntryKind.SCORE: (chunk, chunk)}
            if (entry.n_tokens, entry.n_logits) != expected[entry.kind]:
                _refuse(
                    f"ENTRY {i}: {entry.n_tokens} tokens and {entry.n_logits} logits, expected {expected[entry.kind]}"
                )
            uses = (
                ("ids", entry.ids, DType.I32, entry.n_tokens),
                ("params", entry.params, DType.I32, n_params),
                ("logits", entry.logits, DType.F32, entry.n_logits * vocab_size),
            )
            for what, index, dtype, count in uses:
                if index >= len(buffers):
                    _refuse(f"ENTRY {i}: {what} is buffer {index} of {len(buffers)}")
                buffer = buffers[index]
                if buffer.region != Region.IO or buffer.dtype != dtype:
                    _refuse(
                        f"ENTRY {i}: {what} is {buffer.dtype.name} in {buffer.region.name}, expected {dtype.name} in IO"
                    )
                if buffer.bytes < 4 * count:
                    _refuse(f"ENTRY {i}: {what} has {buffer.bytes} bytes, expected at least {4 * count}")
            entries.append(entry)
        for needed in (EntryKind.DECODE, EntryKind.PREFILL):
            if not any(entry.kind == needed for entry in entries):
                _refuse(f"the entry {needed.name.lower()} is missing")
        return entries
