"""A model compiled here for arm64, run there: libmossnet cross-built, under qemu."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.codegen.random_models import N_SCORED, compile_only, reference, tokens, worst

_CC, _QEMU = "aarch64-linux-gnu-gcc", "qemu-aarch64-static"
pytestmark = pytest.mark.skipif(
    not (shutil.which(_CC) and shutil.which(_QEMU)),
    reason=f"{_CC} and {_QEMU} are not here: apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static",
)


@pytest.fixture(scope="module")
def score(tmp_path_factory):
    """The program score.c for arm64, static."""
    here = Path(__file__).parent
    runtime = here.parents[1] / "targets" / "runtime"
    program = tmp_path_factory.mktemp("arm64") / "score"
    sources = [here / "score.c", *sorted(runtime.glob("*.c"))]
    flags = [
        "-std=gnu11",
        "-O2",
        "-static",
        "-pthread",
        "-ffp-contract=off",
        "-D_GNU_SOURCE",
        '-DMOSSNET_VERSION="test"',
    ]
    subprocess.run([_CC, *flags, f"-I{runtime}", "-o", program, *sources], check=True)
    return program


@pytest.mark.parametrize("mode", ["selected", "param_mix_zoh", "attention"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_logits_on_arm64(score, mode, dtype, tmp_path):
    model = reference(mode, dtype=dtype)
    ids = tokens(N_SCORED)
    with torch.no_grad():
        expected = model(torch.from_numpy(np.append(ids, ids[:3])[None]).long())[0][0].numpy()
    path = compile_only(model, tmp_path, "cpu:arch=aarch64", dtype=dtype)
    run = subprocess.run([_QEMU, score, path, *map(str, ids)], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    found = np.array([line.split() for line in run.stdout.splitlines()], np.float64)
    assert worst(found, expected) < 2e-4


def test_a_model_for_another_machine_is_refused(tmp_path):
    from mossnet_tg.engine import CompiledModel, Library
    from mossnet_tg.errors import ArtifactError

    other = "x86_64" if Library.default().cpu_arch == "aarch64" else "aarch64"
    path = compile_only(reference("mamba"), tmp_path, f"cpu:arch={other}")
    with pytest.raises(ArtifactError, match=other):
        CompiledModel(path, allow_native=True)
