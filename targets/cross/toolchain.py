"""A C compiler and a linker that make programs for another platform, and how they are found."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mossnet_tg.errors import MossnetError

_SHOWN = 10  # lines of what a compiler says
_NO_NDK = "without an NDK: for development, not for what you ship"


@dataclass(frozen=True)
class Wanted:
    """What the user asked for. `ndk`: where Android's NDK lies; `require_ndk`: nothing else is taken for Android."""

    ndk: Path | None = None
    require_ndk: bool = False


WHATEVER = Wanted()


@dataclass(frozen=True)
class Toolchain:
    """`compile` is followed by options and a source, `link` by options and objects, in the folder that is built in;
    `ar` makes archives.

    `own_libc`: there `android_libc` makes what they include and link to, and `link` is a linker, no compiler.
    """

    name: str  # what it is, of which version, and what is to be known of it
    compile: tuple[str, ...]
    link: tuple[str, ...]
    ar: tuple[str, ...]
    own_libc: bool = False

    def linker_options(self, options: Sequence[str]) -> list[str]:
        """A linker's options as `link` takes them."""
        return list(options) if self.own_libc else [f"-Wl,{','.join(options)}"]


# A toolchain, or why there is none.
Finder = Callable[[Wanted], Toolchain | str]


def run(command: Sequence[str], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command run to its end, whatever that is; raises MossnetError when it cannot be started."""
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    except OSError as e:
        raise MossnetError(f"{command[0]} cannot be run: {e.strerror}") from None


def must_run(what: str, command: Sequence[str], folder: Path | None = None) -> str:
    """What the command says; raises MossnetError with `what` was done and its complaints when it fails."""
    done = run(command, folder)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"{command[0]} said nothing"]
        errors = [line for line in said if "error" in line] or said
        raise MossnetError("\n".join([f"{what} failed:", *errors[:_SHOWN]]))
    return done.stdout


def version(*command: str) -> str:
    """The first line of what a program says of itself."""
    return must_run(" ".join(command), command).partition("\n")[0].strip()


def compiler(*names: str) -> Finder:
    """The first of these compilers that is there; it knows what to link to."""

    def find(_: Wanted) -> Toolchain | str:
        for path in filter(None, map(shutil.which, names)):
            return Toolchain(version(path, "--version"), (path,), (path,), _ar(f"{path.removesuffix('gcc')}ar"))
        return f"no {' or '.join(names)}"

    return find


def clang(triple: str, *, own_libc: bool = False, libc: str = "") -> Finder:
    """clang and ld.lld, which know every machine: with a libc of our own, or the one whose file is `libc`."""

    def find(_: Wanted) -> Toolchain | str:
        cc, ld = shutil.which("clang"), shutil.which("ld.lld")
        if not cc or not ld:
            return "no clang and ld.lld"
        if libc and not Path(libc).exists():
            return f"no {libc} for clang"
        name = f"{version(cc, '--version')}, {version(ld, '--version')}"
        if own_libc:
            return _with_own_libc(name, triple, (cc,), (ld,), _ar("llvm-ar"), version(cc, "-print-resource-dir"))
        target = (cc, f"--target={triple}")
        return Toolchain(name, target, (*target, "-fuse-ld=lld"), _ar("llvm-ar"))

    return find


def zig(triple: str, *, own_libc: bool = False) -> Finder:
    """zig, as a program or from PyPI: a clang and an lld, with the libraries of many systems, if not Android's."""

    def find(_: Wanted) -> Toolchain | str:
        path = shutil.which("zig")
        if not path and not find_spec("ziglang"):
            return "no zig"
        program = (path,) if path else (sys.executable, "-m", "ziglang")
        name = f"zig {version(*program, 'version')}"
        if own_libc:
            # Not `zig cc`, which decides itself about atomic instructions, and then wants a library of its own.
            folder = re.search(r'\blib_dir"?\s*[=:]\s*"(.+?)"', must_run("zig env", [*program, "env"]))
            if not folder:
                raise MossnetError(f"`{' '.join(program)} env` names no lib_dir: this zig is not known")
            tools = ((*program, "clang"), (*program, "ld.lld"), (*program, "ar"))
            return _with_own_libc(name, triple, *tools, folder[1])
        # Its checks of undefined behaviour end the program where they find any.
        cc = (*program, "cc", "-target", triple, "-fno-sanitize=all", "-g0")
        return Toolchain(name, cc, cc, (*program, "ar"))

    return find


def _ar(*names: str) -> tuple[str, ...]:
    """The first of these that is there, else the machine's own, which knows the files of any."""
    return (next(filter(None, map(shutil.which, names)), "ar"),)


def _with_own_libc(
    name: str, triple: str, cc: tuple[str, ...], ld: tuple[str, ...], ar: tuple[str, ...], folder: str
) -> Toolchain:
    """A clang and an lld; the compiler's own headers lie in `folder`/include."""
    headers = [option for path in (f"{folder}/include", "include") for option in ("-isystem", path)]
    compile = (*cc, f"--target={triple}", "-nostdinc", *headers)
    return Toolchain(f"{name}, {_NO_NDK}", compile, (*ld, "-Llib"), ar, own_libc=True)
