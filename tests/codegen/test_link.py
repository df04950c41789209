"""The linker: what it refuses. What it makes runs in every other test of this folder, on arm64 in test_arm64.py."""

from __future__ import annotations

import ctypes
import mmap
import subprocess

import pytest

from mossnet_tg.codegen.link import LinkError, link


def compiled(source: str, folder, *flags: str) -> bytes:
    path = folder / "k.o"
    command = ["cc", "-c", "-O2", "-fno-stack-protector", "-x", "c", "-", "-o", path, *flags]
    subprocess.run(command, input=source, text=True, check=True)
    return path.read_bytes()


def test_functions_and_their_constants_are_laid_out(tmp_path):
    a = compiled("const int t[3] = {1, 2, 3}; int f(int i) { return t[i]; }", tmp_path, "-fPIC", "-fvisibility=hidden")
    b = compiled("int g(int i) { return i + 1; }", tmp_path, "-fPIC")
    linked = link([a, b])
    assert set(linked.symbols) == {"f", "g"}
    for offset, size in linked.symbols.values():
        assert offset % 16 == 0 and size > 0 and offset + size <= len(linked.code)


def test_copies_and_fills_bring_their_helpers(tmp_path):
    """LLVM makes calls of loops that copy or fill; a kernel with both runs."""
    source = """
        void *memcpy(void *, const void *, unsigned long);
        void *memset(void *, int, unsigned long);
        void f(char *to, const char *from, unsigned long n) { memcpy(to, from, n); memset(to + n, 7, n); }"""
    linked = link([compiled(source, tmp_path, "-fPIC", "-fno-builtin")])
    memory = mmap.mmap(-1, len(linked.code), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(linked.code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + linked.symbols["f"][0]
    call = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong)(address)
    for n in (0, 1, 5, 300):
        to, source_bytes = ctypes.create_string_buffer(2 * n + 1), bytes(range(256)) * 2
        call(ctypes.cast(to, ctypes.c_char_p), source_bytes, n)
        assert to.raw == source_bytes[:n] + b"\7" * n + b"\0"


@pytest.mark.parametrize(
    ("source", "flags", "message"),
    [
        ("void g(void); void f(void) { g(); }", ["-fPIC"], "refers to g"),
        ("int counter = 3; int f(void) { return counter++; }", ["-fPIC"], "holds variables"),
        ("int counter; int f(void) { return counter++; }", ["-fPIC"], "holds variables"),
        ("int f(void) { return 1; }", ["-m32"], "ELF64"),
        (
            "extern const int t[2]; const int t[2] = {1, 2}; const int *f(void) { return t; }",
            ["-fno-pic", "-mcmodel=large"],
            "position independent",
        ),
    ],
)
def test_what_is_no_kernel_is_refused(source, flags, message, tmp_path):
    with pytest.raises(LinkError, match=message):
        link([compiled(source, tmp_path, *flags)])


def test_a_name_that_stands_twice_is_refused(tmp_path):
    one = compiled("int f(void) { return 1; }", tmp_path)
    with pytest.raises(LinkError, match="two kernels"):
        link([one, one])


def test_no_object_is_refused():
    with pytest.raises(LinkError, match="ELF64"):
        link([b"something else entirely, long enough to be a header of sixty-four bytes......."])
