"""What the drivers declare by hand of OpenCL, Vulkan and CUDA agrees with the real headers, where these are there."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.runtime.toy import HERE, RUNTIME

# CUDA's header comes with a toolkit or in a wheel.
PLACES = [Path("/usr/local/cuda/include"), *Path(sysconfig.get_path("purelib"), "nvidia").glob("*/include")]
COMPILE = ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{RUNTIME}"]


@pytest.mark.parametrize(
    ("source", "header"),
    [
        pytest.param("opencl_abi.c", "CL/cl_icd.h", id="opencl"),
        pytest.param("vulkan_abi.c", "vulkan/vulkan_core.h", id="vulkan"),
        pytest.param("cuda_abi.c", "cuda.h", id="cuda"),
    ],
)
def test_declarations_agree_with_the_real_header(tmp_path, source, header):
    if not shutil.which("gcc"):
        pytest.skip("no gcc to compile with")
    compiler = [*COMPILE, *(f"-isystem{place}" for place in PLACES if place.is_dir())]
    probe = tmp_path / "probe.c"
    probe.write_text(f"#include <{header}>\n")
    if subprocess.run([*compiler, probe], capture_output=True).returncode:
        pytest.skip(f"{header} is not installed")
    run = subprocess.run([*compiler, HERE / source], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
