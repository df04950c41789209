"""What is built for other platforms runs a model as this machine does: arm64 under qemu, Android's programs on musl."""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mossnet_tg import Model
from mossnet_tg.codegen import moss_file
from mossnet_tg.codegen.compile import compile_checkpoint
from mossnet_tg.codegen.options import CompileOptions
from mossnet_tg.targets.cross.toolchain import Wanted
from mossnet_tg.targets.java.code_library import code_library, code_library_name
from mossnet_tg.targets.table import parse_target
from mossnet_tg.weights.checkpoint import DEMO, Checkpoint
from tests.cross.programs import SCORE, built, emulator, rows

PROMPT = "def fibonacci(n):"
N = 24
ARCH = {"android-arm64": "aarch64", "linux-arm64": "aarch64", "linux-x86_64": "x86_64"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo's file for an architecture."""

    @functools.cache
    def make(arch: str) -> Path:
        path = tmp_path_factory.mktemp("demo") / "model.moss"
        target = parse_target(f"cpu:arch={arch}")
        compile_checkpoint(Checkpoint.open(DEMO), target, path, CompileOptions(), lambda _: None)
        return path

    return make


@pytest.fixture(scope="module")
def here():
    """The prompt with what this machine says next, greedily, and the logits after each id."""
    model = Model.load()
    ids = model.tokenizer.encode(PROMPT)
    session, logits = model.session(), [np.array(row) for row in model.logits(ids)]
    session.prefill(ids)
    for _ in range(N):
        ids.append(int(logits[-1].argmax()))
        logits.append(np.array(session.decode(ids[-1])))
    return ids, np.array(logits)


@pytest.mark.parametrize(("abi", "name"), rows(*ARCH))
def test_the_demo_says_the_same_as_here(abi, name, demo, here):
    run = subprocess.run(scoring(abi, name, demo, here), capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    says_the_same(run.stdout, here)


@pytest.mark.parametrize(("abi", "name"), [("android-arm64", "clang"), ("linux-arm64", "gcc")])
def test_its_code_may_be_a_library(abi, name, demo, here, tmp_path):
    """As in an Android app; the calls of the system tell whether it is found."""
    command = scoring(abi, name, demo, here)
    code = moss_file.read(demo(ARCH[abi])).code
    library = tmp_path / code_library_name(code)
    library.write_bytes(code_library(abi, code, lambda _: None, Wanted()))
    command[1:1] = ["-strace", "-E", f"LD_LIBRARY_PATH={tmp_path}"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    says_the_same(run.stdout, here)
    _, number, calls = re.split(rf'openat\(.*"{demo(ARCH[abi])}",.* = (\d+)', run.stderr)
    assert re.search(rf'openat\(.*"{library}",.* = \d', calls)
    assert f",{number}," in calls and not re.search(rf"mmap\(.*PROT_EXEC.*,{number},", calls)


def scoring(abi, name, demo, here) -> list:
    """The command whose output is the demo's logits after each id."""
    return [*emulator(abi), built(abi, name, SCORE), demo(ARCH[abi]), *map(str, here[0])]


def says_the_same(stdout, here):
    """Each token of the greedy text is the likeliest there too. The last three rows are from the decode entry."""
    ids, expected = here
    found = np.array([line.split() for line in stdout.splitlines()], np.float64)
    assert len(found) == len(ids) + 3
    assert found[: len(ids)][-N - 1 : -1].argmax(axis=1).tolist() == ids[-N:]
    assert np.abs(found[: len(ids)] - expected).max() < 1e-4 * np.abs(expected).max()
