"""A model's code for processors as a shared library, which an Android app brings in its package.

Android's rules want an app's code there and not among its data. libmossnet looks for the library by its name, which is
that of the code, and takes it where it holds the same bytes as the model file (`targets/runtime/cpu_code.c`).
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

from mossnet_tg.errors import MossnetError
from mossnet_tg.targets import elf
from mossnet_tg.targets.cross.build import Output, make
from mossnet_tg.targets.cross.platforms import platform
from mossnet_tg.targets.cross.toolchain import Wanted

# The block is code that asks for no more than a page of 4096 bytes; what it needs is in it.
_SOURCE = r"""
__asm__(".section .text.mossnet_code, \"ax\"\n.balign 4096\n.globl mossnet_code\n.type mossnet_code, %object\n"
        "mossnet_code: .incbin \"code\"\n.size mossnet_code, . - mossnet_code\n"
        ".section .rodata.mossnet_code_bytes, \"a\"\n.balign 8\n.globl mossnet_code_bytes\n"
        ".type mossnet_code_bytes, %object\nmossnet_code_bytes: .quad BYTES\n.size mossnet_code_bytes, 8\n.text");
"""


def code_library_name(code: bytes) -> str:
    """What libmossnet calls the library of this code."""
    return f"libmossnet_{zlib.crc32(code):08x}_k.so"


def code_library(abi: str, code: bytes, progress: Callable[[str], None], wanted: Wanted) -> bytes:
    """The library, for a platform that the code was compiled for. Raises MossnetError as `build` does."""
    to, name = platform(abi), code_library_name(code)
    toolchain = to.toolchain(abi, wanted)
    progress(f"{name} for {abi}: {toolchain.name}")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "code.c")
        source.write_text(_SOURCE.replace("BYTES", str(len(code))))
        Path(folder, "code").write_bytes(code)
        made = make(to, Output(name, (source,), is_program=False), toolchain, Path(folder)).read_bytes()
    if wrong := elf.findings(made, to.rules, is_program=False):
        raise MossnetError(f"{name} for {abi}, made by {toolchain.name}: {'; '.join(wrong)}")
    return made
