"""Building: sources compiled and linked by a platform's toolchain, the result checked, and kept in the cache folder.

A file's folder is named after all that decides what is in it, so that it is found or made anew, and never stale.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mossnet_tg.engine import Library
from mossnet_tg.errors import MossnetError
from mossnet_tg.folders import cross_folder, make_writable
from mossnet_tg.targets import elf
from mossnet_tg.targets.cross import android_libc
from mossnet_tg.targets.cross.platforms import Platform, platform
from mossnet_tg.targets.cross.toolchain import WHATEVER, Toolchain, Wanted, must_run

RUNTIME = Path(__file__).parents[1] / "runtime"
# What the runner has beside the library's sources; CMakeLists.txt says the same.
_RUNNER = ("cpu_name.c", "frames.c", "requests.c", "run.c", "serve.c", "sha256.c", "store.c", "watchdog.c")
# As CMakeLists.txt has it.
_COMPILE = (
    "-std=gnu11",
    "-O3",
    "-Werror=implicit-function-declaration",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-D_GNU_SOURCE",
)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Output:
    """A file to be made of C: a program, an archive, or else a shared library that calls itself `name`."""

    name: str
    sources: tuple[Path, ...]
    is_program: bool
    is_archive: bool = False


def library_sources() -> tuple[Path, ...]:
    """libmossnet's C files: all of the runtime but the runner's."""
    return tuple(sorted(set(RUNTIME.glob("*.c")) - set(runner_sources())))


def runner_sources() -> tuple[Path, ...]:
    """The C files that only the runner has."""
    return tuple(RUNTIME / name for name in _RUNNER)


def library(abi: str, progress: Progress = lambda _: None, wanted: Wanted = WHATEVER) -> Path:
    """libmossnet.so for a platform, as `build` makes it."""
    return build(abi, Output("libmossnet.so", library_sources(), is_program=False), progress, wanted)


def archive(abi: str, progress: Progress = lambda _: None, wanted: Wanted = WHATEVER) -> Path:
    """libmossnet.a for a platform, as `build` makes it."""
    output = Output("libmossnet.a", library_sources(), is_program=False, is_archive=True)
    return build(abi, output, progress, wanted)


def runner(abi: str, progress: Progress = lambda _: None, wanted: Wanted = WHATEVER) -> Path:
    """mossnet-run for a platform, with libmossnet in it, as `build` makes it."""
    output = Output("mossnet-run", runner_sources() + library_sources(), is_program=True)
    return build(abi, output, progress, wanted)


def build(abi: str, output: Output, progress: Progress, wanted: Wanted) -> Path:
    """The output for platform `abi`, from the cache or made now; `progress` is told with what.

    Raises MossnetError: for an unknown platform, where no compiler is, when one fails, and for a file that the platform
    would not take.
    """
    to = platform(abi)
    toolchain = to.toolchain(abi, wanted)
    progress(f"{output.name} for {abi}: {toolchain.name}")
    path = cross_folder() / f"{abi}-{_key(output, toolchain)}" / output.name
    if path.is_file():
        return path
    make_writable(cross_folder())
    with tempfile.TemporaryDirectory(dir=cross_folder(), prefix=".") as folder:
        made = make(to, output, toolchain, Path(folder))
        if not output.is_archive and (wrong := elf.findings(made.read_bytes(), to.rules, output.is_program)):
            hint = "another compiler may do better; please report it"
            raise MossnetError(f"{output.name} for {abi}, made by {toolchain.name}: {'; '.join(wrong)}", hint)
        path.parent.mkdir(exist_ok=True)
        made.replace(path)
    return path


def make(to: Platform, output: Output, toolchain: Toolchain, folder: Path, options: Sequence[str] = ()) -> Path:
    """The output built in `folder`, unchecked; `options` are added to the compiler's. Raises MossnetError."""
    sources = list(output.sources)
    if toolchain.own_libc:
        sources += android_libc.make(toolchain, folder, output.is_program)
    compile = [*toolchain.compile, *_COMPILE, *to.compile, *options, f"-I{RUNTIME}"]
    compile.append(f'-DMOSSNET_VERSION="{Library.default().version}"')
    objects = [f"{source.stem}.o" for source in sources]

    def compile_one(source: Path, path: str) -> None:
        must_run(f"{toolchain.name}: compiling {source.name}", [*compile, "-c", "-o", path, str(source)], folder)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, sources, objects))
    if output.is_archive:
        what = f"{toolchain.name}: putting {output.name} together"
        must_run(what, [*toolchain.ar, "rcsD", output.name, *objects], folder)
        return folder / output.name
    own = ["-dynamic-linker", to.rules.interpreter] if output.is_program else ["-soname", output.name]
    kind = "-pie" if output.is_program else "-shared"
    link = [*toolchain.link, kind, *toolchain.linker_options([*to.link, *own]), "-o", output.name]
    must_run(f"{toolchain.name}: linking {output.name}", [*link, *objects, *to.libraries], folder)
    return folder / output.name


def _key(output: Output, toolchain: Toolchain) -> str:
    here = Path(__file__).parent
    beside = {header for source in output.sources for header in source.parent.glob("*.h")}
    files = [
        *output.sources,
        *sorted(beside | set(RUNTIME.glob("*.h"))),
        *sorted(here.glob("*.py")),
        *sorted(here.glob("*/*.[ch]")),
    ]
    parts = [Library.default().version, repr(toolchain), output.name, *(path.name for path in files)]
    h = hashlib.sha256("\n".join(parts).encode())
    for path in files:
        h.update(hashlib.sha256(path.read_bytes()).digest())
    return h.hexdigest()[:24]
