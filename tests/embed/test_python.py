"""docs/embed-python.md: its program runs as it stands, and a strict type checker finds nothing in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "embed-python.md").read_text(), re.DOTALL | re.M)
    path = tmp_path / "program.py"
    path.write_text(code)
    return path


def test_it_runs(program: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    out = done.stdout
    assert '"""Return a string representation or raise a KeyError."""' in out
    assert re.search(r"^path -> '.+'$", out, re.M) and re.search(r"^environ -> '.+'$", out, re.M)
    assert re.search(r"^\(\d+, \d+\)$", out, re.M) and "['Reader', 'Writer']" in out
    assert "no/such/model" in out.splitlines()[-1]


def test_it_is_typed(program: Path) -> None:
    """mypy reads the types of an installed package only where it has the marker."""
    assert resources.files("mossnet_tg").joinpath("py.typed").is_file()
    command = [Path(sys.executable).with_name("mypy"), "--strict", "--config-file", ROOT / "pyproject.toml", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stdout
    program.write_text(program.read_text().replace("max_tokens=24):", "max_tokens='24'):"))
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 1 and "max_tokens" in done.stdout, done.stdout
