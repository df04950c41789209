"""Prompts multiplied in float16, on devices that compute in it: within 5e-3 of the largest logit.

But for few tokens: where two experts are almost equally likely, a rounding sends a token to the other one.
PoCL does not; Intel's OpenCL runtime for processors does (PyPI: intel-opencl-rt and intel-cmplr-lib-rt, where they are
installed), and lavapipe does.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mossnet_tg import Model
from mossnet_tg.errors import UsageError
from mossnet_tg.targets.table import parse_target
from tests.devices import Row

TEXT = Path(__file__).parents[1] / "golden" / "text.txt"
HALF = 5e-3
VULKAN = Row("vulkan", "vulkan:half=1", "llvmpipe")


def prompt(model: Model) -> list[int]:
    """Always the same text: the errors are larger where a router is nearly undecided."""
    return model.tokenizer.encode(TEXT.read_text())[:300]


@functools.cache
def expected() -> np.ndarray:
    model = Model.load()
    return model.logits(prompt(model))


def check(found: np.ndarray, half: bool) -> None:
    errors = np.abs(found - expected()).max(axis=1) / np.abs(expected()).max()
    if not half:
        assert errors.max() < 2e-4
        return
    assert np.median(errors) > 1e-5 and np.quantile(errors, 0.98) < HALF  # the lower bound: float16 was at work
    assert (found.argmax(axis=1) == expected().argmax(axis=1)).mean() > 0.98


def test_on_vulkan():
    VULKAN.require()
    model = Model.load(target=VULKAN.target, device=VULKAN.device)
    assert "shaderFloat16" in (model.meta("features") or "")
    check(model.logits(prompt(model)), half=True)


def intel() -> str:
    """Intel's driver for OpenCL on processors, "" where it is not installed."""
    try:
        files = importlib.metadata.files("intel-opencl-rt") or []
    except importlib.metadata.PackageNotFoundError:
        return ""
    return next((str(f.locate().resolve()) for f in files if f.name == "libintelocl.so"), "")


@pytest.mark.skipif(not intel(), reason="Intel's OpenCL runtime is not installed (intel-opencl-rt, intel-cmplr-lib-rt)")
@pytest.mark.parametrize("target", ["adreno:half=1", "adreno", "opencl:simd=8"])
def test_on_intels_runtime(target, tmp_path):
    """In a process of its own: one that has opened PoCL keeps it."""
    program = (
        "import json, sys; from mossnet_tg import Model\n"
        "model = Model.load(target=sys.argv[1], device='intel')\n"
        "json.dump(model.logits(json.load(sys.stdin)).tolist(), sys.stdout)"
    )
    environment = {**os.environ, "MOSSNET_OPENCL_LIB": intel()}
    ids = prompt(Model.load())
    done = subprocess.run(
        [sys.executable, "-c", program, target],
        input=json.dumps(ids),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    check(np.array(json.loads(done.stdout), np.float32), "half" in target)


def test_half_and_simd_exclude_each_other():
    with pytest.raises(UsageError, match="half and simd"):
        parse_target("opencl:simd=8,half=1")
    with pytest.raises(UsageError, match="half is '2', expected 0 or 1"):
        parse_target("vulkan:half=2")
