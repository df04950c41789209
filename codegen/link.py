"""A linker for kernels: object files become one block of position-independent code.

Our kernels keep no data but constants and call nothing but `memcpy` and `memset`, which LLVM makes of loops and which
the block brings along; so linking is laying sections out and filling in distances.
The result needs no dynamic loader, no relocation and no temporary file: the runtime maps it executable straight from
the model file. Neither a compiler nor a linker is needed on the machine that compiles a model.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

_ALLOC, _WRITE = 0x2, 0x1
_PROGBITS, _SYMTAB, _RELA, _NOBITS = 1, 2, 4, 8


# What LLVM may call for a loop, by machine: byte by byte, for such loops are short.
_HELPERS = {
    62: {
        "memcpy": "4889f8 4889d1 f3a4 c3",  # mov rax,rdi; mov rcx,rdx; rep movsb; ret
        # mov r8,rdi; mov eax,esi; mov rcx,rdx; rep stosb; mov rax,r8; ret
        "memset": "4989f8 89f0 4889d1 f3aa 4c89c0 c3",
    },
    183: {
        # mov x4,x0; cbz x2,end; loop: ldrb w3,[x1],#1; strb w3,[x4],#1; subs x2,x2,#1; b.ne loop; end: ret
        "memcpy": "e40300aa a20000b4 23144038 83140038 420400f1 a1ffff54 c0035fd6",
        # mov x4,x0; cbz x2,end; loop: strb w1,[x4],#1; subs x2,x2,#1; b.ne loop; end: ret
        "memset": "e40300aa 820000b4 81140038 420400f1 c1ffff54 c0035fd6",
    },
}


class LinkError(Exception):
    """An object that is not a self-contained kernel: a defect of the code generator, not of its user."""


@dataclass(frozen=True)
class Linked:
    """`code`, to be mapped at a multiple of 4096; `symbols`: each function's (offset, bytes)."""

    code: bytes
    symbols: dict[str, tuple[int, int]]


@dataclass
class _Section:
    name: str
    type: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    address: int = -1  # in the linked block; -1 for what is left out


def link(objects: Sequence[bytes]) -> Linked:
    """One block of code from ELF64 relocatable objects (x86-64 or AArch64); raises LinkError."""
    code = bytearray()
    symbols: dict[str, tuple[int, int]] = {}
    helpers: dict[str, int] = {}
    for data in objects:
        _link_one(data, code, symbols, helpers)
    return Linked(bytes(code), symbols)


def _link_one(data: bytes, code: bytearray, symbols: dict[str, tuple[int, int]], helpers: dict[str, int]) -> None:
    if data[:6] != b"\x7fELF\x02\x01":
        raise LinkError("not a little-endian ELF64 object")
    (machine,) = struct.unpack_from("<H", data, 18)
    if machine not in _RELOCATIONS:
        raise LinkError(f"machine {machine} is neither x86-64 nor AArch64")
    sections = _sections(data)
    for s in sections:
        # Unwind tables are for exceptions, which kernels do not throw.
        if not s.flags & _ALLOC or s.size == 0 or s.name in (".eh_frame",) or s.name.startswith(".note"):
            continue
        if s.type != _PROGBITS or (s.flags & _WRITE and not s.name.startswith(".data.rel.ro")):
            raise LinkError(f"section {s.name} holds variables, a kernel has none")
        code.extend(bytes(-len(code) % max(s.align, 64)))
        s.address = len(code)
        code.extend(data[s.offset : s.offset + s.size])
    symtab = next(s for s in sections if s.type == _SYMTAB)
    strtab = sections[symtab.link]
    table = []
    for at in range(symtab.offset, symtab.offset + symtab.size, 24):
        name_at, info, _, index, value, size = struct.unpack_from("<IBBHQQ", data, at)
        name = _string(data, strtab.offset + name_at)
        table.append((name, index, value))
        if info & 15 == 2 and info >> 4 == 1 and 0 < index < len(sections) and sections[index].address >= 0:
            if name in symbols:
                raise LinkError(f"two kernels are called {name}")
            symbols[name] = (sections[index].address + value, size)
    # A function's address may be asked for by name: a helper's is known once it is in the block.
    for name, index, _ in table:
        if index == 0 and name in _HELPERS[machine] and name not in helpers:
            code.extend(bytes(-len(code) % 64))
            helpers[name] = len(code)
            code.extend(bytes.fromhex(_HELPERS[machine][name]))
    targets = []
    for name, index, value in table:
        defined = 0 < index < len(sections) and sections[index].address >= 0
        targets.append((name, sections[index].address + value if defined else helpers.get(name)))
    for s in sections:
        if s.type == _RELA and sections[s.info].address >= 0:
            _relocate(data, code, machine, sections[s.info].address, s, targets)


def _sections(data: bytes) -> list[_Section]:
    (table_offset,) = struct.unpack_from("<Q", data, 40)
    entry, count, names = struct.unpack_from("<HHH", data, 58)
    found, name_offsets = [], []
    for i in range(count):
        name, kind, flags, _, offset, size, link_, info, align, _ = struct.unpack_from(
            "<IIQQQQIIQQ", data, table_offset + i * entry
        )
        name_offsets.append(name)
        found.append(_Section("", kind, flags, offset, size, link_, info, align))
    for s, at in zip(found, name_offsets, strict=True):
        s.name = _string(data, found[names].offset + at)
    return found


def _string(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()


def _relocate(
    data: bytes, code: bytearray, machine: int, base: int, rela: _Section, targets: list[tuple[str, int | None]]
) -> None:
    """Fill in the distances of one section, which lies at `base`; `targets` are the symbols' (name, place)."""
    for at in range(rela.offset, rela.offset + rela.size, 24):
        offset, info, addend = struct.unpack_from("<QQq", data, at)
        name, target = targets[info >> 32]
        kind = info & 0xFFFFFFFF
        if target is None:
            raise LinkError(f"a kernel refers to {name or 'a section'}, which it does not define")
        apply = _RELOCATIONS[machine].get(kind)
        if apply is None:
            raise LinkError(f"relocation {kind} against {name or 'a section'} is not position independent")
        apply(code, base + offset, target + addend)


# ---- relocations: (code, place, target), both offsets in the block


def _relative_32(code: bytearray, place: int, target: int) -> None:
    struct.pack_into("<i", code, place, target - place)


def _relative_64(code: bytearray, place: int, target: int) -> None:
    struct.pack_into("<q", code, place, target - place)


def _patch(code: bytearray, place: int, mask: int, bits: int) -> None:
    (word,) = struct.unpack_from("<I", code, place)
    struct.pack_into("<I", code, place, word & ~mask & 0xFFFFFFFF | bits & mask)


def _branch_26(code: bytearray, place: int, target: int) -> None:
    _patch(code, place, 0x03FFFFFF, (target - place) >> 2)


def _page_21(code: bytearray, place: int, target: int) -> None:
    pages = (target >> 12) - (place >> 12)
    _patch(code, place, 0x60FFFFE0, (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5)


def _near_21(code: bytearray, place: int, target: int) -> None:
    distance = target - place
    _patch(code, place, 0x60FFFFE0, (distance & 3) << 29 | (distance >> 2 & 0x7FFFF) << 5)


def _literal_19(code: bytearray, place: int, target: int) -> None:
    _patch(code, place, 0x00FFFFE0, ((target - place) >> 2 & 0x7FFFF) << 5)


def _low_12(shift: int):  # type: ignore[no-untyped-def]
    def apply(code: bytearray, place: int, target: int) -> None:
        _patch(code, place, 0x003FFC00, ((target & 0xFFF) >> shift) << 10)

    return apply


_RELOCATIONS = {
    62: {2: _relative_32, 4: _relative_32, 24: _relative_64},
    183: {
        260: _relative_64,
        261: _relative_32,
        273: _literal_19,
        274: _near_21,
        275: _page_21,
        277: _low_12(0),
        278: _low_12(0),
        282: _branch_26,
        283: _branch_26,
        284: _low_12(1),
        285: _low_12(2),
        286: _low_12(3),
        299: _low_12(4),
    },
}
