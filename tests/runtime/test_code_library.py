"""Code for processors out of a shared library: it is taken where it is the model's own, and only there."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mossnet_tg.targets.cross.toolchain import Wanted
from mossnet_tg.targets.java.code_library import code_library, code_library_name
from tests.runtime.toy import Reference, toy, write_toy

# The logits after two tokens, then what is mapped executable.
SCRIPT = """
import sys
from mossnet_tg.engine import CompiledModel
with CompiledModel(sys.argv[1], allow_native=True) as model, model.session(1) as session:
    print(*session.prefill([1, 2]).ravel().tolist())
    print(*[line.split()[-1] for line in open("/proc/self/maps") if " r-xp " in line and "/" in line])
"""


@pytest.fixture
def abi() -> str:
    if not shutil.which("gcc"):
        pytest.skip("no gcc")
    return "linux-arm64" if platform.machine() in ("aarch64", "arm64") else "linux-x86_64"


def executable(model: Path, folder: Path) -> list[str]:
    """The names of the files with code that the process has, after the model said the right thing."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    command = [sys.executable, "-c", SCRIPT, str(model)]
    logits, files = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert [float(x) for x in logits.split()] == Reference().read(1, 2).tolist()
    return [Path(name).name for name in files.split()]


def test_the_library_is_taken_in_place_of_the_file(tmp_path: Path, abi: str) -> None:
    moss = toy()
    model, name = write_toy(tmp_path / "model.moss", moss), code_library_name(moss.code)
    assert model.name in executable(model, tmp_path)
    (tmp_path / name).write_bytes(code_library(abi, moss.code, lambda _: None, Wanted()))
    files = executable(model, tmp_path)
    assert name in files and model.name not in files


@pytest.mark.parametrize(
    "change", [lambda code: code + b"\0", lambda code: bytes(1) + code[1:], lambda code: code[:-1]]
)
def test_other_code_under_its_name_is_not(tmp_path: Path, abi: str, change) -> None:
    moss = toy()
    model, name = write_toy(tmp_path / "model.moss", moss), code_library_name(moss.code)
    (tmp_path / name).write_bytes(code_library(abi, change(moss.code), lambda _: None, Wanted()))
    files = executable(model, tmp_path)
    assert name not in files and model.name in files


def test_a_library_without_code_is_not(tmp_path: Path, abi: str) -> None:
    moss = toy()
    model, name = write_toy(tmp_path / "model.moss", moss), code_library_name(moss.code)
    (tmp_path / name).write_bytes(b"no library")
    assert model.name in executable(model, tmp_path)
    subprocess.run(["gcc", "-shared", "-o", tmp_path / name, "-x", "c", "/dev/null"], check=True)
    assert model.name in executable(model, tmp_path)
