"""What `mossnet-tg compile` puts beside a model, taken elsewhere and built by somebody who has a C compiler alone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mossnet_tg import Model
from mossnet_tg.engine import Library
from mossnet_tg.targets import elf
from mossnet_tg.targets.cross.platforms import PLATFORMS
from tests.cli.conftest import Run
from tests.cross.programs import GCC, NO_GCC, emulator

PROMPT, N = "def fibonacci(n):", 24
FILES = {
    "model.moss",
    "app.c",
    "CMakeLists.txt",
    "include/mossnet.h",
    "lib/libmossnet.so",
    "lib/libmossnet.a",
    "lib/cmake/mossnet/mossnet-config.cmake",
    "lib/cmake/mossnet/mossnet-config-version.cmake",
    "lib/pkgconfig/mossnet.pc",
}
SHARED = ("-Iinclude", "-Llib", "-lmossnet", "-Wl,-rpath,$ORIGIN/lib")
STATIC = ("-Iinclude", "lib/libmossnet.a", "-pthread", "-ldl", "-lm")


@pytest.fixture(scope="module")
def dist(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "dist"
    done = run("compile", "--out", folder)
    assert done.exit_code == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def expected() -> str:
    return "".join(Model.load().generate(PROMPT, max_tokens=N))


@pytest.fixture
def elsewhere(dist: Path, tmp_path: Path) -> Path:
    """A copy in an empty folder."""
    folder = tmp_path / "app"
    shutil.copytree(dist, folder)
    return folder


def says(folder: Path, *command: str | Path) -> str:
    done = subprocess.run(
        [*command, "model.moss", PROMPT, str(N)], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


def must(folder: Path, *command: str, **env: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, env={**os.environ, **env})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def needs(name: str, package: str) -> Callable[[object], object]:
    return pytest.mark.skipif(not shutil.which(name), reason=f"no {name}: apt install {package}")


def test_the_manifest_says_what_is_there(dist: Path) -> None:
    manifest = json.loads((dist / "manifest.json").read_text())
    there = {path.relative_to(dist).as_posix() for path in dist.rglob("*") if path.is_file()}
    assert set(manifest["files"]) == FILES and there == FILES | {"manifest.json"}
    for name, facts in manifest["files"].items():
        content = (dist / name).read_bytes()
        assert facts == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert manifest["mossnet-tg"] == Library.default().version and manifest["targets"][0].startswith("cpu:")
    assert manifest["abi"] == f"linux-{Library.default().cpu_arch.replace('aarch64', 'arm64')}"


@pytest.mark.parametrize("options", [SHARED, STATIC], ids=["shared", "static"])
def test_a_compiler_alone(elsewhere: Path, expected: str, options: tuple[str, ...]) -> None:
    must(elsewhere, "cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "app.c", *options, "-o", "app")
    assert says(elsewhere, "./app") == expected
    wrong = subprocess.run(["./app", "nothing.moss", "x"], cwd=elsewhere, capture_output=True, text=True)
    assert wrong.returncode == 1 and wrong.stderr == "IO: nothing.moss: No such file or directory\n"


@needs("cmake", "cmake")
@pytest.mark.parametrize("static", ["ON", "OFF"])
def test_cmake(elsewhere: Path, expected: str, static: str) -> None:
    must(elsewhere, "cmake", "-S", ".", "-B", "build", f"-DAPP_STATIC={static}")
    must(elsewhere, "cmake", "--build", "build")
    assert says(elsewhere, "build/app") == expected


@needs("cmake", "cmake")
@pytest.mark.parametrize(("wanted", "fits"), [("0.1", True), ("0.2", False), ("1.0", False)])
def test_versions_for_cmake(elsewhere: Path, wanted: str, fits: bool) -> None:
    text = (elsewhere / "CMakeLists.txt").read_text()
    (elsewhere / "CMakeLists.txt").write_text(
        text.replace("find_package(mossnet REQUIRED", f"find_package(mossnet {wanted} REQUIRED")
    )
    done = subprocess.run(["cmake", "-S", ".", "-B", "build"], cwd=elsewhere, capture_output=True, text=True)
    assert (done.returncode == 0) == fits, done.stderr


@needs("pkg-config", "pkg-config")
@pytest.mark.parametrize("static", [False, True], ids=["shared", "static"])
def test_pkg_config(elsewhere: Path, expected: str, static: bool) -> None:
    if static:
        (elsewhere / "lib/libmossnet.so").unlink()
    options = must(
        elsewhere, "pkg-config", "--cflags", "--libs", *(["--static"] * static), "mossnet",
        PKG_CONFIG_PATH=str(elsewhere / "lib/pkgconfig"),
    ).split()  # fmt: skip
    must(elsewhere, "cc", "app.c", *options, "-Wl,-rpath,$ORIGIN/lib", "-o", "app")
    assert says(elsewhere, "./app") == expected


@needs(GCC, NO_GCC.partition("apt install ")[2])
@pytest.mark.parametrize("options", [SHARED, STATIC], ids=["shared", "static"])
def test_another_architecture(
    run: Run, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, expected: str, options: tuple[str, ...]
) -> None:
    folder = tmp_path / "dist"
    done = run("compile", "--target", "cpu:arch=aarch64", "--abi", "linux-arm64", "--out", folder)
    assert done.exit_code == 0, done.stderr
    assert json.loads((folder / "manifest.json").read_text())["abi"] == "linux-arm64"
    must(folder, GCC, "app.c", *options, "-o", "app")
    assert says(folder, *emulator("linux-arm64"), "./app") == expected


def test_a_phone(run: Run, tiny: Path, tmp_path: Path) -> None:
    """Android's names and files; no compiler here checks more than that they are for it."""
    if not shutil.which("clang") or not shutil.which("ld.lld"):
        pytest.skip("no clang and ld.lld: apt install clang lld")
    done = run("compile", tiny, "--target", "cpu:arch=aarch64", "--abi", "arm64-v8a", "--out", tmp_path, "-v")
    assert done.exit_code == 0 and "libmossnet.so for android-arm64: " in done.stderr
    assert json.loads((tmp_path / "manifest.json").read_text())["abi"] == "android-arm64"
    content = (tmp_path / "lib/libmossnet.so").read_bytes()
    assert elf.findings(content, PLATFORMS["android-arm64"].rules, is_program=False) == []
    members = must(tmp_path, "ar", "t", "lib/libmossnet.a").split()
    assert "session.o" in members and "generate.o" in members
    symbols = must(tmp_path, "nm", "--defined-only", "--print-armap", "lib/libmossnet.a")
    assert "mossnet_session_generate in generate.o" in symbols


def test_what_cannot_be(run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run("compile", tiny, "--abi", "windows", "--out", tmp_path / "out")
    assert found.exit_code == 2 and "unknown platform 'windows', expected " in found.stderr
    assert not (tmp_path / "out").exists()
    for name in ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT", "ANDROID_HOME"):
        monkeypatch.delenv(name, raising=False)
    wanted = ("compile", tiny, "--target", "cpu:arch=aarch64", "--abi", "arm64-v8a", "--out", tmp_path / "out")
    found = run(*wanted, "--require-ndk")
    assert found.exit_code == 1 and "and one is required" in found.stderr and "without --require-ndk" in found.stderr
    found = run(*wanted, "--ndk", tmp_path / "none")
    assert found.exit_code == 1 and "is no NDK" in found.stderr and "(--ndk)" in found.stderr
    assert not list((tmp_path / "out").iterdir())  # before the model is compiled, not after
