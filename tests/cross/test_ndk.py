"""Which NDK is taken, and that it is used: a stand-in for one, made of what serves without."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mossnet_tg.errors import MossnetError
from mossnet_tg.targets import cross
from mossnet_tg.targets.cross import android_libc, ndk
from mossnet_tg.targets.cross.build import make
from mossnet_tg.targets.cross.platforms import PLATFORMS, platform
from mossnet_tg.targets.cross.toolchain import Toolchain, Wanted
from mossnet_tg.targets.elf import findings
from tests.cross.programs import SCORE, toolchain

VARIABLES = ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT", "ANDROID_HOME")
# What a compiler of an NDK brings and clang alone does not.
CLANG = """#!/bin/sh
case " $* " in
  *" --version "*) echo "Android clang version 99"; exit ;;
  *" -c "* | *" -fsyntax-only "*)
    exec {clang} -nostdinc -isystem {compiler} -isystem {libc}/include -D__BIONIC__ "$@" ;;
  *) exec {clang} -fuse-ld=lld -nostdlib -L{libc}/lib "$@" {libc}/*.o ;;
esac
"""


@pytest.fixture(autouse=True)
def no_other_ndk(monkeypatch):
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def write(folder: Path, revision: str = "27.2.12479018", clang: str = "#!/bin/sh\necho clang 1\n") -> Path:
    """A folder that looks like an NDK."""
    bin_folder = folder / "toolchains" / "llvm" / "prebuilt" / "linux-x86_64" / "bin"
    bin_folder.mkdir(parents=True)
    (folder / "source.properties").write_text(f"Pkg.Desc = Android NDK\nPkg.Revision = {revision}\n")
    (bin_folder / "clang").write_text(clang)
    (bin_folder / "clang").chmod(0o755)
    return folder


def revision(folder: Path, text: str) -> None:
    (folder / "source.properties").write_text(text)


def test_the_one_that_is_named_counts_before_those_that_are_installed(tmp_path, monkeypatch):
    def found(given: Path | None = None) -> str:
        return getattr(ndk.find(Wanted(given)), "name", "")

    assert found() == ""
    for number in ("25.1.8937393", "9.9.9", "26.3.11579264", "26.10.1"):
        write(tmp_path / "sdk" / "ndk" / number, number)
    monkeypatch.setenv("ANDROID_HOME", str(tmp_path / "sdk"))
    assert found().startswith("NDK 26.10.1 (ANDROID_HOME), clang 1")
    monkeypatch.setenv("ANDROID_NDK_ROOT", str(write(tmp_path / "root", "27.0.1")))
    assert found().startswith("NDK 27.0.1 (ANDROID_NDK_ROOT)")
    monkeypatch.setenv("ANDROID_NDK_HOME", str(write(tmp_path / "home", "28.0.1-beta1")))
    assert found().startswith("NDK 28.0.1-beta1 (ANDROID_NDK_HOME)")
    assert found(write(tmp_path / "given", "29.0.1")).startswith("NDK 29.0.1 (--ndk)")


def test_it_is_taken_before_all_else(tmp_path):
    found = platform("android-arm64").toolchain("android-arm64", Wanted(write(tmp_path / "ndk")))
    assert found.name.startswith("NDK 27.2.12479018 (--ndk), clang 1")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (shutil.rmtree, "is no NDK: source.properties: No such file"),
        (lambda f: revision(f, "Pkg.Desc = NDK"), "is no NDK: source.properties has no Pkg.Revision"),
        (
            lambda f: (f / "source.properties").write_text("Pkg.Revision = 23.1.7779620"),
            "is NDK 23.1.7779620, expected 25",
        ),
        (lambda f: shutil.rmtree(f / "toolchains"), "has no toolchains/llvm/prebuilt/*/bin/clang"),
        (lambda f: next(f.rglob("clang")).chmod(0o644), "clang cannot be run: Permission denied"),
        (lambda f: next(f.rglob("clang")).write_text("#!/bin/sh\nexit 1\n"), "clang --version failed"),
    ],
)
def test_one_that_is_named_and_is_none_is_an_error(tmp_path, damage, expected):
    folder = write(tmp_path / "ndk")
    damage(folder)
    with pytest.raises(MossnetError) as e:
        cross.library("android-arm64", wanted=Wanted(folder))
    assert expected in str(e.value) and str(folder) in str(e.value)


def test_nothing_else_is_taken_when_one_is_required():
    with pytest.raises(MossnetError, match=r"no NDK.*one is required") as e:
        cross.library("android-arm64", wanted=Wanted(require_ndk=True))
    assert "ANDROID_NDK_HOME" in (e.value.hint or "")


@pytest.fixture
def complete(tmp_path) -> Path:
    """An NDK whose headers and libraries are ours, under other names."""
    tools, libc = toolchain("android-arm64", "clang"), tmp_path / "libc"
    libc.mkdir()
    for source in android_libc.make(tools, libc, is_program=False):
        subprocess.run([*tools.compile, "-c", "-o", libc / f"{source.stem}.o", source], cwd=libc, check=True)
    for left in ("libc.o", "libdl.o"):
        (libc / left).unlink()
    header = libc / "include" / "bionic.h"
    header.write_text(header.read_text().replace("BIONIC", "NDK"))
    compiler = tools.compile[tools.compile.index("-isystem") + 1]
    return write(tmp_path / "ndk", clang=CLANG.format(clang=tools.compile[0], compiler=compiler, libc=libc))


def test_what_it_builds_is_as_android_asks(complete, tmp_path):
    """The linker's options pass through the compiler; it has its own beginning of a program."""
    found = ndk.find(Wanted(complete))
    assert isinstance(found, Toolchain) and "wrong" not in found.name
    made = make(PLATFORMS["android-arm64"], SCORE, found, tmp_path)
    assert findings(made.read_bytes(), PLATFORMS["android-arm64"].rules, True) == []


def test_headers_that_differ_are_told(complete, tmp_path):
    """They are no reason not to build with them."""
    header = tmp_path / "libc" / "include" / "bionic.h"
    header.write_text(header.read_text().replace("POLLHUP, 0x10", "POLLHUP, 0x11"))
    found = ndk.find(Wanted(complete))
    assert isinstance(found, Toolchain) and "is wrong, please report: " in found.name and "POLLHUP" in found.name
