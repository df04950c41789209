"""What the tests build for other platforms, with which toolchains, and how it is run here."""

from __future__ import annotations

import atexit
import functools
import platform as host
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mossnet_tg.targets.cross.build import Output, library_sources, make
from mossnet_tg.targets.cross.platforms import PLATFORMS
from mossnet_tg.targets.cross.toolchain import Toolchain, Wanted

HERE = Path(__file__).parent
LIBRARY = Output("libmossnet.so", library_sources(), is_program=False)
# Loads a model and prints its logits.
SCORE = Output("score", (HERE.parent / "codegen" / "score.c", *library_sources()), is_program=True)
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror")
GCC = "aarch64-linux-gnu-gcc"
NO_GCC = f"no {GCC}: apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
# The toolchains of each platform, as they are tried.
_NAMES = {
    "android-arm64": ("ndk", "clang", "zig"),
    "linux-arm64": ("gcc", "clang", "zig"),
    "linux-x86_64": ("gcc", "clang", "zig"),
}
_QEMU = "qemu-aarch64-static"
_MUSL = (
    Path(sys.prefix, "arm64", "lib", "aarch64-linux-musl", "libc.so"),  # where setup.sh puts it
    Path("/lib/ld-musl-aarch64.so.1"),
)


def rows(*abis: str) -> list[tuple[str, str]]:
    """(platform, name of a toolchain) of every toolchain that is tried for them."""
    return [(abi, name) for abi in abis for name in _NAMES[abi]]


def toolchain(abi: str, name: str) -> Toolchain:
    """The toolchain; the test is skipped where it is missing."""
    found = PLATFORMS[abi].toolchains[_NAMES[abi].index(name)](Wanted())
    if isinstance(found, str):
        pytest.skip(found)
    return found


@functools.cache
def built(abi: str, name: str, output: Output) -> Path:
    """An output as that toolchain makes it, without a warning."""
    return make(PLATFORMS[abi], output, toolchain(abi, name), _folder(), WARNINGS)


def emulator(abi: str) -> list[str]:
    """What stands before a program of that platform to run it here; the test is skipped where that is not possible."""
    if abi == f"linux-{host.machine()}":
        return []
    if not abi.endswith("arm64"):
        pytest.skip(f"this machine is {host.machine()}")
    if not shutil.which(_QEMU):
        pytest.skip(f"no {_QEMU}: apt install qemu-user-static")
    if not shutil.which(GCC):
        pytest.skip(NO_GCC)
    return [_QEMU, *(_on_musl() if abi.startswith("android") else ("-L", "/usr/aarch64-linux-gnu"))]


def _on_musl() -> tuple[str, ...]:
    """Android's programs run where musl does, whose types are as large as bionic's."""
    loader = next((path for path in _MUSL if path.exists()), None)
    if not loader:
        pytest.skip("no musl for arm64: sh setup.sh --test fetches it")
    return (str(loader), "--preload", str(_shim()))


@functools.cache
def _shim() -> Path:
    path = _folder() / "bionic_on_musl.so"
    subprocess.run([GCC, "-shared", "-nostdlib", "-fPIC", "-o", path, HERE / "bionic_on_musl.c"], check=True)
    return path


def _folder() -> Path:
    """A new folder that goes when the tests end."""
    folder = tempfile.mkdtemp(prefix="mossnet-cross-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
