"""A model compiled here for arm64, run there: libmossnet cross-built, under qemu."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from mossnet_tg.codegen import moss_file
from mossnet_tg.codegen.compile import compile_checkpoint, compile_for_several
from mossnet_tg.codegen.link import link
from mossnet_tg.codegen.options import CompileOptions
from mossnet_tg.engine import CompiledModel
from mossnet_tg.targets.table import parse_target, split_targets
from mossnet_tg.weights.checkpoint import Checkpoint
from tests.codegen.random_models import CHUNK, N_SCORED, compile_only, quantisable, reference, tokens, worst
from tests.cross.programs import GCC, SCORE, built, emulator

_CC, _QEMU = GCC, "qemu-aarch64-static"
pytestmark = pytest.mark.skipif(
    not (shutil.which(_CC) and shutil.which(_QEMU)),
    reason=f"{_CC} and {_QEMU} are not here: apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static",
)


@pytest.mark.parametrize("mode", ["selected", "param_mix_zoh", "attention"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_logits_on_arm64(mode, dtype, tmp_path):
    model = reference(mode, dtype=dtype)
    ids = tokens(N_SCORED)
    with torch.no_grad():
        expected = model(torch.from_numpy(np.append(ids, ids[:3])[None]).long())[0][0].numpy()
    path = compile_only(model, tmp_path, "cpu:arch=aarch64", dtype=dtype)
    command = [*emulator("linux-arm64"), built("linux-arm64", "gcc", SCORE), path, *map(str, ids)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    found = np.array([line.split() for line in run.stdout.splitlines()], np.float64)
    assert worst(found, expected) < 2e-4


@pytest.mark.parametrize("weights", ["q8", "q4"])
@pytest.mark.parametrize("dot", ["dotprod", "i8mm"])
def test_integers_on_arm64(weights, dot, tmp_path):
    """A prompt, and then three tokens, in integers: the same on every processor."""
    quantisable().save(tmp_path)
    ids, checkpoint = tokens(N_SCORED), Checkpoint.open(tmp_path).with_weights(weights)
    paths = {}
    for target in (f"cpu:arch=aarch64,dot={dot}", "cpu:dot=avx2"):
        paths[target] = tmp_path / f"{len(paths)}.moss"
        compile_checkpoint(checkpoint, parse_target(target), paths[target], CompileOptions(CHUNK), lambda _: None)
    there, here = paths.values()
    assert {"dotprod", dot} <= set(moss_file.read(there).meta["features"].split(","))
    command = [*emulator("linux-arm64"), built("linux-arm64", "gcc", SCORE), there, *map(str, ids)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    found = np.array([line.split() for line in run.stdout.splitlines()], np.float64)
    with CompiledModel(here, allow_native=True) as model, model.session() as session:
        scored = session.score(ids)
        decoded = [session.decode(int(token)) for token in ids[:3]]
    assert worst(found, np.concatenate([scored, decoded])) < 2e-4


def test_one_file_for_every_arm64(tmp_path):
    """Of `mcpu=all`, each processor takes the best that it has, and one without dot products the floats."""
    quantisable().save(tmp_path)
    checkpoint, ids = Checkpoint.open(tmp_path).with_weights("q8"), tokens(8)
    path, options = tmp_path / "all.moss", CompileOptions(CHUNK)
    targets = [parse_target(name) for name in split_targets("cpu:arch=aarch64,mcpu=all", quantised=True)]
    compile_for_several(checkpoint, targets, path, options, lambda _: None)
    taken, logits = {}, {}
    for processor in ("max", "cortex-a76", "cortex-a53"):
        qemu, *rest = emulator("linux-arm64")
        command = [qemu, "-cpu", processor, *rest, built("linux-arm64", "gcc", SCORE), path, *map(str, ids)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert run.returncode == 0, run.stderr
        taken[processor] = run.stderr.strip()
        logits[processor] = np.array([line.split() for line in run.stdout.splitlines()], np.float64)
    assert taken == dict(zip(logits, [target.name for target in targets], strict=True))
    assert worst(logits["cortex-a76"], logits["max"]) < 2e-4 < 1e-3 < worst(logits["cortex-a53"], logits["max"])


def test_constants_of_every_width_are_found(tmp_path):
    """The linker's relocations: kernels behind one another, each at another place in its page."""
    here, flags = Path(__file__).parent, ["-O2", "-fPIC", "-fno-stack-protector", "-fvisibility=hidden"]
    objects = []
    names = [f"constants{i}" for i in range(8)]
    for name in names:
        path = tmp_path / f"{name}.o"
        subprocess.run([_CC, "-c", *flags, f"-Dconstants={name}", "-o", path, here / "constants.c"], check=True)
        objects.append(path.read_bytes())
    call = tmp_path / "call"
    subprocess.run([_CC, "-static", "-O2", "-o", call, here / "call.c"], check=True)
    linked = link(objects)
    code = tmp_path / "code"
    code.write_bytes(linked.code)
    v = np.array([1.5, 2.25, 3.125, 4.0625], np.float32) * np.array([0.1, 0.2, 0.7, 0.9], np.float32) * np.float32(6)
    expected = [0.6, 1.8, *v, 2, 70305]
    for name in names:
        arguments = [code, str(linked.symbols[name][0]), "6"]
        run = subprocess.run([_QEMU, call, *arguments], capture_output=True, text=True, timeout=60)
        assert run.returncode == 0, run.stderr
        assert np.allclose(np.array(run.stdout.split(), np.float64), expected, rtol=1e-6)


def test_a_model_for_another_machine_is_refused(tmp_path):
    from mossnet_tg.engine import CompiledModel, Library
    from mossnet_tg.errors import ArtifactError

    other = "x86_64" if Library.default().cpu_arch == "aarch64" else "aarch64"
    path = compile_only(reference("mamba"), tmp_path, f"cpu:arch={other}")
    with pytest.raises(ArtifactError, match=other):
        CompiledModel(path, allow_native=True)
