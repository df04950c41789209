"""The checker of ELF files: what our toolchains make passes, and each thing that it looks for is found."""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from mossnet_tg.targets.cross.build import Output, make
from mossnet_tg.targets.cross.platforms import PLATFORMS
from mossnet_tg.targets.elf import findings
from tests.cross.programs import LIBRARY, SCORE, built, rows, toolchain

ANDROID = PLATFORMS["android-arm64"].rules


@pytest.mark.parametrize(
    ("abi", "name", "output"),
    [*((abi, name, SCORE) for abi, name in rows(*PLATFORMS)), *((*row, LIBRARY) for row in rows("android-arm64"))],
    ids=lambda value: getattr(value, "name", value),
)
def test_ours_pass(abi, name, output):
    made = built(abi, name, output)
    assert findings(made.read_bytes(), PLATFORMS[abi].rules, output.is_program) == []
    assert made.stat().st_mode & 0o111


@pytest.mark.parametrize("abi", ["linux-arm64", "linux-x86_64"])
def test_linux_files_are_not_androids(abi):
    found = "\n".join(findings(built(abi, "gcc", SCORE).read_bytes(), ANDROID, True))
    assert "it needs libc.so.6" in found and "version GLIBC_" in found and ".note.android.ident is missing" in found
    assert ("it is for machine 62" in found) == (abi == "linux-x86_64")


# ---- small libraries that are built wrong


SUM = "int sum(int a, int b);\nint sum(int a, int b) { return a + b; }\n"


def small(folder: Path, text: str, compile: tuple[str, ...] = (), link: tuple[str, ...] = ()) -> Path:
    """A library for Android of this text, made with these options too."""
    folder.mkdir()
    platform, tools = PLATFORMS["android-arm64"], toolchain("android-arm64", "clang")
    source = folder / "source.c"
    source.write_text(text)
    to = replace(platform, link=(*platform.link, *link))
    return make(to, Output("libsmall.so", (source,), False), tools, folder, ("-fvisibility=default", *compile))


def found_in(library: Path) -> list[str]:
    return findings(library.read_bytes(), ANDROID, False)


def test_a_small_library_passes(tmp_path):
    assert found_in(small(tmp_path / "a", SUM)) == []


def test_pages_of_4_kib_are_found(tmp_path):
    found = found_in(small(tmp_path / "a", SUM, link=("-z", "max-page-size=4096")))
    assert any("is aligned to 4096 bytes, expected 16384" in text for text in found)


def test_thread_local_variables_are_found(tmp_path):
    made = small(tmp_path / "a", "_Thread_local int count;\n", compile=("-fno-emulated-tls",))
    assert any("PT_TLS" in text for text in found_in(made))


def test_a_foreign_library_is_found(tmp_path):
    foreign = small(tmp_path / "a", SUM)
    text = "int sum(int a, int b);\nint twice(int a);\nint twice(int a) { return sum(a, a); }\n"
    found = found_in(small(tmp_path / "b", text, link=(str(foreign),)))
    assert found == ["it needs libsmall.so, expected nothing but libc.so, libm.so, libdl.so, liblog.so"]


def test_another_level_of_the_interface_is_found(tmp_path):
    found = found_in(small(tmp_path / "a", SUM, compile=("--target=aarch64-linux-android29",)))
    assert found == [".note.android.ident is for API level 29, expected one for API level 24"]


def test_a_path_to_libraries_is_found(tmp_path):
    found = found_in(small(tmp_path / "a", SUM, link=("-rpath", "/home/me/lib")))
    assert found == ["it looks for libraries in '/home/me/lib'"]


def test_what_becomes_read_only_ends_where_the_file_does(tmp_path):
    """lld 14 with a common page size above 4 KiB: on a phone, what lies behind is another library's."""
    text = "int sum(int a, int b);\nint (*const sums[])(int, int) = {sum};\nint sum(int a, int b) { return a + b; }\n"
    assert found_in(small(tmp_path / "a", text)) == []
    name = toolchain("android-arm64", "clang").name
    if "LLD 14." not in name:
        pytest.skip(f"later linkers fill the page: {name}")
    made = small(tmp_path / "b", text, link=("-z", "common-page-size=16384"))
    assert any("others' pages lie between" in text for text in found_in(made))


# ---- one thing changed in a program that passes


class Edited:
    """An ELF file that can be changed by what its fields are called."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.table, self.n = self._at("<Q", 32), self._at("<H", 56)

    def set(self, form: str, at: int, value: int) -> None:
        struct.pack_into(form, self.data, at, value)

    def segment(self, kind: int, form: str, field: int, value: int) -> None:
        """Set the field at that offset of the last segment of a kind."""
        self.set(form, self._segments(kind)[-1] + field, value)

    def rename(self, kind: int, other: int) -> None:
        """Make every segment of a kind one of another."""
        for at in self._segments(kind):
            self.set("<I", at, other)

    def tag(self, old: int, new: int) -> None:
        """Make the entries of the dynamic section that are of a kind ones of another."""
        at = self._segments(DYNAMIC)[0]
        offset, size = self._at("<Q", at + OFFSET), self._at("<Q", at + FILE_BYTES)
        for entry in range(offset, offset + size, 16):
            if self._at("<Q", entry) == old:
                self.set("<Q", entry, new)

    def text(self, old: bytes, new: bytes) -> None:
        assert len(old) == len(new) and old in self.data
        self.data[:] = self.data.replace(old, new)

    def _at(self, form: str, at: int) -> int:
        return int(struct.unpack_from(form, self.data, at)[0])

    def _segments(self, kind: int) -> list[int]:
        return [at for at in range(self.table, self.table + 56 * self.n, 56) if self._at("<I", at) == kind]


LOAD, DYNAMIC, INTERP, NOTE, STACK, RELRO = 1, 2, 3, 4, 0x6474E551, 0x6474E552
FLAGS, OFFSET, FILE_BYTES, MEMORY_BYTES, ALIGN = 4, 8, 32, 40, 48  # of a segment
OTHER = 0x60000000  # a kind that nothing knows


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda e: e.set("<H", 18, 40), "it is for machine 40, expected 183"),
        (lambda e: e.set("<H", 16, 2), "its type is 2, expected 3"),
        (lambda e: e.set("<H", 58, 0), "no section headers"),
        (lambda e: e.set("<H", 62, 99), "no section headers"),
        (lambda e: e.set("<Q", 40, 1 << 40), "section headers lie beyond its end"),
        (lambda e: e.segment(LOAD, "<Q", ALIGN, 4096), "is aligned to 4096 bytes, expected 16384"),
        (lambda e: e.segment(LOAD, "<Q", ALIGN, 0), "is aligned to 0 bytes"),
        (lambda e: e.segment(LOAD, "<Q", OFFSET, 4096), "which a page of 16384 bytes cannot map there"),
        (lambda e: e.segment(LOAD, "<I", FLAGS, 7), "is writable and executable"),
        (lambda e: e.rename(RELRO, OTHER), "GNU_RELRO"),
        (lambda e: e.segment(RELRO, "<Q", MEMORY_BYTES, 1 << 20), "others' pages lie between"),
        (lambda e: e.segment(RELRO, "<Q", MEMORY_BYTES, 256), "lie in a page that becomes read-only"),
        (lambda e: e.rename(STACK, OTHER), "an executable stack"),
        (lambda e: e.segment(STACK, "<I", FLAGS, 7), "an executable stack"),
        (lambda e: e.tag(21, 22), "DT_TEXTREL"),
        (lambda e: e.tag(0x6FFFFEF5, 21), "no DT_GNU_HASH"),
        (lambda e: e.tag(21, 36), "DT_RELR"),
        (lambda e: e.tag(21, 0x6FFFE000), "DT_ANDROID_RELR"),
        (lambda e: e.rename(NOTE, 7), "PT_TLS"),
        (lambda e: e.rename(NOTE, OTHER), ".note.android.ident is missing"),
        (lambda e: e.text(b"/system/bin/linker64", b"/system/bin/linker32"), "interpreter is /system/bin/linker32"),
        (lambda e: e.rename(INTERP, OTHER), "interpreter is missing"),
        (lambda e: e.text(b"\0libdl.so\0", b"\0libXX.so\0"), "it needs libXX.so"),
        (lambda e: e.text(b"\0LIBC\0", b"\0LIBZ\0"), "it needs version LIBZ of libc.so"),
    ],
)
def test_what_is_changed_is_found(edit, expected):
    edited = Edited(built("android-arm64", "clang", SCORE).read_bytes())
    edit(edited)
    found = findings(bytes(edited.data), ANDROID, True)
    assert any(expected in text for text in found), found


def test_a_library_without_a_name_is_found():
    """A program has none."""
    found = findings(built("android-arm64", "clang", SCORE).read_bytes(), ANDROID, False)
    assert found == ["it has no name of its own (DT_SONAME)"]


def test_damaged_files_are_findings_and_no_surprise():
    good = built("android-arm64", "clang", LIBRARY).read_bytes()
    for n in (0, 3, 20, 63, 64, 200, 1000, len(good) // 2, len(good) - 1):
        assert findings(good[:n], ANDROID, False)
    rng = random.Random(1)
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(1 << rng.randint(6, 13))] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
        findings(bytes(data), ANDROID, False)
    assert findings(b"#!/bin/sh\nexit 0\n" * 10, ANDROID, False) == [
        "it is cut short or damaged: it is no little-endian ELF64 file"
    ]
