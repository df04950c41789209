"""Eight threads with a session each on one model: the same texts as one thread, nothing raced, nothing leaked."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mossnet_tg import Model
from mossnet_tg.targets.cross.build import RUNTIME, library_sources

SOURCE = Path(__file__).with_name("many.c")
SANITIZE = ("-g", "-O1", "-fno-omit-frame-pointer")


@pytest.fixture(scope="module")
def demo() -> Path:
    path = Model.load().path
    assert path is not None
    return path


def built(folder: Path, *flags: str) -> Path:
    """The program with the library in it, all of it with those flags."""
    out = folder / "many"
    common = (
        "-std=gnu11",
        "-D_GNU_SOURCE",
        '-DMOSSNET_VERSION="test"',
        f"-I{RUNTIME}",
        "-ffp-contract=off",
        "-pthread",
    )
    command = ["gcc", *common, *flags, SOURCE, *library_sources(), "-ldl", "-lm", "-o", out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def says(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0 and not done.stderr, done.stderr[-3000:]
    return done.stdout


def test_a_thousand_texts(demo: Path, tmp_path: Path) -> None:
    found = re.fullmatch(r"0 wrong, (-?\d+) bytes more\n", says(built(tmp_path, "-O2"), demo, "1000"))
    # The allocator keeps a little for each thread; 32 bytes for each of the 2,000 texts would be more.
    assert found and abs(int(found[1])) < 16384


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_sanitizers(demo: Path, tmp_path: Path, sanitizer: str) -> None:
    """1,000 texts; a race, a leak or a read beyond is a message on stderr and another exit code."""
    program = built(tmp_path, *SANITIZE, f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all")
    assert says(program, demo, "1000").startswith("0 wrong, ")


def test_valgrind(tmp_path: Path) -> None:
    """A second opinion on leaks, of fewer texts: it takes AVX2 and not more."""
    if not shutil.which("valgrind"):
        pytest.skip("no valgrind: apt install valgrind")
    if platform.machine() != "x86_64":
        pytest.skip("valgrind does not know what this machine's kernels do")
    model = Model.load(target="cpu:mcpu=x86-64-v2", chunk=8).path
    assert model is not None
    options = ("--leak-check=full", "--show-leak-kinds=all", "--errors-for-leak-kinds=all", "--error-exitcode=9", "-q")
    assert says("valgrind", *options, built(tmp_path, "-g", "-O1"), model, "12").startswith("0 wrong, ")
