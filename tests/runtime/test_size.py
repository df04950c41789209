"""How large libmossnet is: small enough for any app."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("drivers", "most_bytes"),
    [pytest.param("cpu", 150_000, id="cpu"), pytest.param("cpu;cuda;opencl;vulkan", 300_000, id="all")],
)
def test_size(tmp_path: Path, drivers: str, most_bytes: int, capsys: pytest.CaptureFixture[str]) -> None:
    if not shutil.which("cmake"):
        pytest.skip("no cmake: apt install cmake")
    for command in (
        ["cmake", "-S", ROOT, "-B", tmp_path, f"-DMOSSNET_DRIVERS={drivers}"],
        ["cmake", "--build", tmp_path, "--target", "mossnet", "--parallel", "2"],
        ["strip", tmp_path / "libmossnet.so"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    n_bytes = (tmp_path / "libmossnet.so").stat().st_size
    with capsys.disabled():
        print(f"\nlibmossnet with {drivers}: {n_bytes} bytes stripped")
    assert 10_000 < n_bytes < most_bytes
    exported = subprocess.run(
        ["nm", "-D", "--defined-only", tmp_path / "libmossnet.so"], capture_output=True, text=True
    )
    names = {line.split()[2] for line in exported.stdout.splitlines()}
    assert names and all(name.startswith("mossnet_") for name in names), names
