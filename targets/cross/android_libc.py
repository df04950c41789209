"""Android's C library where no NDK is: headers that lead to android/bionic.h, and libraries of names alone.

A program that is built with them is linked to the phone's own libraries by its loader, as one that an NDK built is.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from mossnet_tg.targets.cross.toolchain import Toolchain, must_run

API_LEVEL = 24
SOURCES = Path(__file__).parent / "android"
# name, its list in bionic.h
_LIBRARIES = (("libc", "BIONIC_LIBC"), ("libdl", "BIONIC_LIBDL"))
# Of all that bionic's libraries have had since before API level 24.
_VERSION = "LIBC"


def headers() -> list[str]:
    """What bionic.h stands for: the headers that it is checked against."""
    return re.findall(r"#include <(.+)>", (SOURCES / "check.c").read_text())


def make(toolchain: Toolchain, folder: Path, is_program: bool) -> list[Path]:
    """Write the headers to `folder`/include and the libraries to `folder`/lib; the sources that belong to each output.

    Raises MossnetError.
    """
    for name in headers():
        path = folder / "include" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#include <bionic.h>\n")
    shutil.copy(SOURCES / "bionic.h", folder / "include")
    (folder / "lib").mkdir()
    (folder / "versions").write_text(f"{_VERSION} {{ global: *; }};\n")
    for name, names in _LIBRARIES:
        what = f"{toolchain.name}: making {name}.so to link to"
        compile = [*toolchain.compile, f"-DLIBRARY={names}", "-c", "-o", f"{name}.o", str(SOURCES / "stubs.c")]
        must_run(what, compile, folder)
        options = ["-shared", "-soname", f"{name}.so", "--version-script", "versions", "-o", f"lib/{name}.so"]
        must_run(what, [*toolchain.link, *options, f"{name}.o"], folder)
    return [SOURCES / name for name in ("ident.c", "clear_cache.c", *(["start.c"] if is_program else []))]
