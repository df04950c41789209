"""What is declared by hand of Android's C library agrees with real headers, and is what the runtime uses."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mossnet_tg.targets.cross.android_libc import SOURCES
from mossnet_tg.targets.cross.build import RUNTIME
from mossnet_tg.targets.cross.ndk import disagreement
from tests.cross.programs import GCC, NO_GCC, toolchain

HEADER = (SOURCES / "bionic.h").read_text()


def test_what_all_arm64_linuxes_have_agrees_with_debians():
    if not shutil.which(GCC):
        pytest.skip(NO_GCC)
    assert disagreement((GCC,)) == ""


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("CONSTANT(O_CLOEXEC, 02000000)", "CONSTANT(O_CLOEXEC, 04000000)", "O_CLOEXEC"),
        ("TYPE(off_t, long)", "TYPE(off_t, int)", "off_t"),
        ("SIZE(struct stat, 128)", "SIZE(struct stat, 144)", "struct stat"),
        ("FIELD(stat, st_size, off_t, 48)", "FIELD(stat, st_size, off_t, 40)", "st_size"),
        ("FIELD(pollfd, revents, short, 6)", "FIELD(pollfd, revents, int, 6)", "revents"),
        ("FUNCTION(int, mkdir, (const char *, mode_t))", "FUNCTION(int, mkdir, (const char *, long))", "mkdir"),
        ("FUNCTION(int, mkdir, (const char *, mode_t))", "FUNCTION(int, mkdirs, (const char *, mode_t))", "mkdirs"),
        ("FUNCTION(char *, dlerror, (void))", "FUNCTION(int *, dlerror, (void))", "dlerror"),
        ("FUNCTION(int, puts, (const char *))", "FUNCTION(int, puts, (char *))", "puts"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, old, new, name):
    if not shutil.which(GCC):
        pytest.skip(NO_GCC)
    assert HEADER.count(old) == 1
    (tmp_path / "bionic.h").write_text(HEADER.replace(old, new))
    (tmp_path / "check.c").write_text((SOURCES / "check.c").read_text())
    run = [GCC, "-std=gnu11", "-D_GNU_SOURCE", "-fsyntax-only", tmp_path / "check.c"]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode and re.search(rf"error.*\b{re.escape(name)}\b", done.stderr), done.stderr


def test_all_of_it_agrees_with_an_ndk():
    assert disagreement(toolchain("android-arm64", "ndk").compile) == ""


def test_what_is_listed_is_used():
    """The list is short because each name in it has to be right."""
    if not (RUNTIME / "run.c").exists():
        pytest.skip("the runner's sources are not here, and it uses some")
    files = [*RUNTIME.glob("*.[ch]"), *SOURCES.glob("*.c"), Path(__file__).parents[1] / "codegen" / "score.c"]
    used = {word for path in files for word in re.findall(r"\w+", path.read_text())}
    macros = {"__errno": "errno", "__sched_cpucount": "CPU_COUNT", "S_IFMT": "S_ISREG", "S_IFREG": "S_ISREG"}
    compilers = HEADER[HEADER.index("#define BIONIC_COMPILED") : HEADER.index("#define BIONIC_FUNCTIONS")]
    listed = re.findall(
        r"CONSTANT\((\w+), \w+\)|FUNCTION\([^,]+, (\w+),|STREAM\((\w+)\)", HEADER.replace(compilers, "")
    )
    names = {next(filter(None, found)) for found in listed} - {"__stack_chk_fail"}
    assert len(names) > 100
    assert [name for name in sorted(names) if macros.get(name, name) not in used] == []
