"""The source itself: formatting, lint and types, as strict as pyproject.toml and .clang-format say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
C_FILES = sorted(str(p) for folder in ("targets", "tests") for p in (ROOT / folder).rglob("*.[ch]"))


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["ruff", "check", "."], id="ruff"),
        pytest.param(["ruff", "format", "--check", "."], id="ruff-format"),
        pytest.param(["mypy"], id="mypy"),
        pytest.param(["clang-format", "--dry-run", "--Werror", *C_FILES], id="clang-format"),
    ],
)
def test_style(command):
    tool, *arguments = command
    beside_python = Path(sys.executable).parent / tool
    run = subprocess.run([beside_python, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
