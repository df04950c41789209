"""The thread pool under ThreadSanitizer, and its benchmark."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.runtime.toy import HERE, RUNTIME, build

POOL = [RUNTIME / "pool.c", RUNTIME / "error.c"]
WARN = ("-Wall", "-Wextra", "-Werror", "-g")


@pytest.mark.parametrize(
    ("flags", "runs"),
    [(("-O1", "-fsanitize=thread"), 1000), (("-O1", "-fsanitize=address,undefined"), 2000), (("-O3",), 4000)],
)
def test_stress(tmp_path, flags, runs):
    if not shutil.which("gcc"):
        pytest.skip("no gcc to build the harness with")
    program = build(tmp_path / "pool_stress", [HERE / "pool_stress.c", *POOL], *WARN, *flags)
    result = subprocess.run([program, str(runs)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout == "fine\n"
    assert "WARNING" not in result.stderr


def test_benchmark_runs(tmp_path):
    if not shutil.which("gcc"):
        pytest.skip("no gcc to build the benchmark with")
    program = build(tmp_path / "pool_bench", [HERE / "pool_bench.c", *POOL], *WARN, "-O3")
    result = subprocess.run([program, "2", "4", "64", "2", "3"], capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["empty", "matvec"]
