"""Android's NDK: which one is taken, and whether it agrees with what is declared by hand for where there is none."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from mossnet_tg.errors import MossnetError
from mossnet_tg.targets.cross.android_libc import API_LEVEL, SOURCES
from mossnet_tg.targets.cross.toolchain import Toolchain, Wanted, run, version

_OLDEST = 25
_HINT = f"name an NDK from {_OLDEST} on, or none: clang and lld, or zig, serve for development"


def find(wanted: Wanted) -> Toolchain | str:
    """The NDK that is named first, or why there is none; raises MossnetError where it is none, or too old."""
    said_by, folder = next(_named(wanted), ("", Path()))
    if not said_by:
        return "no NDK (--ndk, ANDROID_NDK_HOME, ANDROID_NDK_ROOT and ANDROID_HOME name none)"
    revision = _revision(folder, said_by)
    compilers = sorted(folder.glob("toolchains/llvm/prebuilt/*/bin/clang"))
    if not compilers:
        raise MossnetError(f"{folder} ({said_by}) has no toolchains/llvm/prebuilt/*/bin/clang", _HINT)
    name = f"NDK {revision} ({said_by}), {version(str(compilers[0]), '--version')}"
    command = (str(compilers[0]), f"--target=aarch64-linux-android{API_LEVEL}")
    if differs := disagreement(command):
        name += f"; what mossnet-tg takes for its headers where there is none is wrong, please report: {differs}"
    return Toolchain(name, command, command, (str(compilers[0].with_name("llvm-ar")),))


def disagreement(compile: tuple[str, ...]) -> str:
    """The first line in which bionic.h and the headers of this compiler disagree; "" when they agree."""
    done = run([*compile, "-std=gnu11", "-D_GNU_SOURCE", "-fsyntax-only", str(SOURCES / "check.c")])
    errors = [line for line in done.stderr.splitlines() if "error" in line]
    return (errors or ["check.c does not compile"])[0] if done.returncode else ""


def _named(wanted: Wanted) -> Iterator[tuple[str, Path]]:
    """(who names it, folder) of each NDK that is named, the one that counts first."""
    if wanted.ndk:
        yield "--ndk", wanted.ndk
    for variable in ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT"):
        if folder := os.environ.get(variable):
            yield variable, Path(folder)
    if home := os.environ.get("ANDROID_HOME"):
        numbers = {path: [int(n) for n in re.findall(r"\d+", path.name)] for path in Path(home, "ndk").glob("[0-9]*")}
        if numbers:
            yield "ANDROID_HOME", max(numbers, key=lambda path: numbers[path])


def _revision(folder: Path, said_by: str) -> str:
    properties = folder / "source.properties"
    try:
        text = properties.read_text(errors="replace")
    except OSError as e:
        raise MossnetError(f"{folder} ({said_by}) is no NDK: {properties.name}: {e.strerror}", _HINT) from None
    found = re.search(r"^Pkg\.Revision\s*=\s*((\d+)\S*)", text, re.MULTILINE)
    if not found:
        raise MossnetError(f"{folder} ({said_by}) is no NDK: {properties.name} has no Pkg.Revision", _HINT)
    if int(found[2]) < _OLDEST:
        raise MossnetError(f"{folder} ({said_by}) is NDK {found[1]}, expected {_OLDEST} or newer", _HINT)
    return found[1]
