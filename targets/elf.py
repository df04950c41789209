"""Whether an ELF file is one that a platform's loader takes and that its users should get; what is wrong, as text.

Read here, byte by byte: the machine that makes a program for another one need not have tools that know it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_DYN = 3
_LOAD, _DYNAMIC, _INTERP, _NOTE, _TLS, _STACK, _RELRO = 1, 2, 3, 4, 7, 0x6474E551, 0x6474E552
_EXECUTE, _WRITE = 1, 2
_NEEDED, _STRTAB, _SONAME, _RPATH, _TEXTREL, _RUNPATH, _FLAGS = 1, 5, 14, 15, 22, 29, 30
_GNU_HASH, _VERNEED, _VERNEEDNUM = 0x6FFFFEF5, 0x6FFFFFFE, 0x6FFFFFFF
_RELR = {36: "DT_RELR", 0x6FFFE000: "DT_ANDROID_RELR"}
_FLAG_TEXTREL = 4
_SMALLEST_PAGE = 4096
_MAX_VERSIONS = 64  # of a library; a damaged file may say anything


@dataclass(frozen=True)
class Rules:
    """What a platform asks of its libraries and programs."""

    machine: int  # e_machine
    page_bytes: int  # the largest page of its systems
    interpreter: str  # of a program
    needed: tuple[str, ...]  # the libraries that every system has, or comes with
    versions: str  # regular expression: versions of symbols that may be asked for
    android_api: int | None = None  # the level that the file says it was made for


@dataclass(frozen=True)
class _Segment:
    type: int
    flags: int
    offset: int
    address: int
    file_bytes: int
    bytes: int
    align: int


class _File:
    """What is needed of an ELF file of this kind; ValueError where it is damaged."""

    def __init__(self, data: bytes, is_program: bool) -> None:
        self.data, self.is_program = data, is_program
        if data[:6] != b"\x7fELF\x02\x01":
            raise ValueError("it is no little-endian ELF64 file")
        self.type, self.machine = self.read("<HH", 16)
        at, self.sections_at = self.read("<QQ", 32)
        entry_bytes, n, self.section_bytes, self.n_sections, self.names_index = self.read("<5H", 54)
        self.segments = [self._segment(at + i * entry_bytes) for i in range(n)]
        self.loads = [s for s in self.segments if s.type == _LOAD]
        self.dynamic = list(self._dynamic())

    def read(self, form: str, at: int) -> tuple[int, ...]:
        """Numbers at an offset; ValueError where the file has none."""
        if not 0 <= at <= len(self.data) - struct.calcsize(form):
            raise ValueError(f"it has no byte {at:#x}")
        return struct.unpack_from(form, self.data, at)

    def _segment(self, at: int) -> _Segment:
        kind, flags, offset, address, _, file_bytes, size, align = self.read("<IIQQQQQQ", at)
        return _Segment(kind, flags, offset, address, file_bytes, size, align)

    def _dynamic(self) -> Iterator[tuple[int, int]]:
        for s in self.of(_DYNAMIC):
            for at in range(s.offset, s.offset + s.file_bytes, 16):
                tag, value = self.read("<QQ", at)
                if tag == 0:
                    return
                yield tag, value

    def of(self, kind: int) -> list[_Segment]:
        return [s for s in self.segments if s.type == kind]

    def values(self, tag: int) -> list[int]:
        return [value for found, value in self.dynamic if found == tag]

    def strings(self, tag: int) -> list[str]:
        """The dynamic section's entries of this kind that are names."""
        return [self.string(value) for value in self.values(tag)]

    def string(self, offset: int) -> str:
        if not (tables := self.values(_STRTAB)):
            raise ValueError("it has names and no table of them")
        at = self.place(tables[0]) + offset
        return self.data[at : self.data.index(b"\0", at)].decode()

    def place(self, address: int) -> int:
        """Where in the file an address is."""
        for s in self.loads:
            if s.address <= address < s.address + s.file_bytes:
                return address - s.address + s.offset
        raise ValueError(f"address {address:#x} lies outside of what is loaded")


def findings(data: bytes, rules: Rules, is_program: bool) -> list[str]:
    """What keeps a library, or a program, from what `rules` ask; nothing: it is as it should be."""
    try:
        file = _File(data, is_program)
        return [text for check in _CHECKS for text in check(file, rules)]
    except ValueError as e:
        return [f"it is cut short or damaged: {e}"]


def _kind(file: _File, rules: Rules) -> Iterator[str]:
    if file.machine != rules.machine:
        yield f"it is for machine {file.machine}, expected {rules.machine}"
    if file.type != _DYN:
        yield f"its type is {file.type}, expected {_DYN}: a library, or a program that can lie anywhere"
    if file.section_bytes != 64 or file.names_index >= file.n_sections:
        yield "it has no section headers, without which Android loads nothing"
    elif file.sections_at + file.section_bytes * file.n_sections > len(file.data):
        yield "its section headers lie beyond its end"


def _pages(file: _File, rules: Rules) -> Iterator[str]:
    page = rules.page_bytes
    for s in file.loads:
        where = f"the segment at {s.address:#x}"
        if s.align % page or not s.align:
            yield f"{where} is aligned to {s.align} bytes, expected {page}"
        if (s.offset - s.address) % page:
            yield f"{where} lies at {s.offset:#x} in the file, which a page of {page} bytes cannot map there"
        if s.flags & _EXECUTE and s.flags & _WRITE:
            yield f"{where} is writable and executable"


def _hardening(file: _File, rules: Rules) -> Iterator[str]:
    if not file.of(_RELRO):
        yield "it has no segment that becomes read-only (GNU_RELRO)"
    if not any(not s.flags & _EXECUTE for s in file.of(_STACK)):
        yield "it asks for an executable stack"
    if file.values(_TEXTREL) or any(value & _FLAG_TEXTREL for value in file.values(_FLAGS)):
        yield "its code is changed when it is loaded (DT_TEXTREL)"
    for path in file.strings(_RPATH) + file.strings(_RUNPATH):
        yield f"it looks for libraries in {path!r}"


def _age(file: _File, rules: Rules) -> Iterator[str]:
    """What older systems do not know."""
    if not file.values(_GNU_HASH):
        yield "it has no DT_GNU_HASH"
    for tag in sorted({tag for tag, _ in file.dynamic} & set(_RELR)):
        yield f"it has {_RELR[tag]}, which older loaders do not know"


def _names(file: _File, rules: Rules) -> Iterator[str]:
    for name in file.strings(_NEEDED):
        if name not in rules.needed:
            yield f"it needs {name}, expected nothing but {', '.join(rules.needed)}"
    interpreters = [file.data[s.offset : s.offset + s.file_bytes].rstrip(b"\0").decode() for s in file.of(_INTERP)]
    if file.is_program and interpreters != [rules.interpreter]:
        yield f"its interpreter is {', '.join(interpreters) or 'missing'}, expected {rules.interpreter}"
    if not file.is_program and not file.values(_SONAME):
        yield "it has no name of its own (DT_SONAME)"
    for library, version in _versions(file):
        if not re.fullmatch(rules.versions, version):
            yield f"it needs version {version} of {library}, expected {rules.versions}"


def _versions(file: _File) -> Iterator[tuple[str, str]]:
    """(library, version) of every version that it asks for."""
    for address, n in zip(file.values(_VERNEED), file.values(_VERNEEDNUM), strict=True):
        at = file.place(address)
        for _ in range(min(n, _MAX_VERSIONS)):
            _, count, library, first, following = file.read("<HHIII", at)
            inner = at + first
            for _ in range(min(count, _MAX_VERSIONS)):
                _, _, _, name, next_inner = file.read("<IHHII", inner)
                yield file.string(library), file.string(name)
                inner += next_inner
            at += following


def _android(file: _File, rules: Rules) -> Iterator[str]:
    if rules.android_api is None:
        return
    levels = [int.from_bytes(content[:4], "little") for name, content in _notes(file) if name == b"Android\0"]
    if levels != [rules.android_api]:
        found = f"for API level {', '.join(map(str, levels))}" if levels else "missing"
        yield f".note.android.ident is {found}, expected one for API level {rules.android_api}"
    if file.of(_TLS):
        yield "it has thread-local variables (PT_TLS), which Android knows from API level 29 on"
    for r in file.of(_RELRO):
        # Android's loader makes every page read-only that this touches, whatever lies there.
        end = r.address + r.bytes
        for s in file.loads:
            variables = max(s.address, end)
            if s.flags & _WRITE and variables < min(s.address + s.bytes, _up(end, rules.page_bytes)):
                yield f"variables at {variables:#x} lie in a page that becomes read-only"
        if end > (loaded := _up(max((s.address + s.bytes for s in file.loads), default=0), _SMALLEST_PAGE)):
            yield f"what becomes read-only ends at {end:#x}, what is loaded at {loaded:#x}: others' pages lie between"


def _up(address: int, page_bytes: int) -> int:
    """The end of the page that ends after `address`."""
    return -(-address // page_bytes) * page_bytes


def _notes(file: _File) -> Iterator[tuple[bytes, bytes]]:
    for s in file.of(_NOTE):
        at, end = s.offset, s.offset + s.file_bytes
        while at < end:
            name_bytes, n_bytes, _ = file.read("<III", at)
            content = at + 12 + (name_bytes + 3) // 4 * 4
            yield file.data[at + 12 : at + 12 + name_bytes], file.data[content : content + n_bytes]
            at = content + (n_bytes + 3) // 4 * 4


_CHECKS = (_kind, _pages, _hardening, _age, _names, _android)
