"""`mossnet-tg quantize`, and --weights, which does the same in passing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mossnet_tg.codegen import moss_file
from mossnet_tg.weights.checkpoint import Checkpoint
from tests.cli.conftest import Run
from tests.codegen.random_models import quantisable


@pytest.fixture(scope="module")
def wide(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose matrices have groups, with no tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "wide"
    quantisable().save(folder)
    return folder


@pytest.mark.parametrize("type_", ["q4", "q8", "f16", "bf16", "f32"])
def test_what_is_written_is_a_checkpoint(run: Run, wide: Path, tmp_path: Path, type_: str) -> None:
    done = run("quantize", wide, "--type", type_, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'out'}\n"
    assert "bits a weight" in done.stderr and type_ in done.stderr
    assert {t.dtype for t in Checkpoint.open(tmp_path / "out").tensors.values()} >= {type_, "f32"}


def test_in_passing_it_is_the_same_model(run: Run, wide: Path, tmp_path: Path) -> None:
    assert run("quantize", wide, "--type", "q4", "-o", tmp_path / "q4").exit_code == 0
    assert run("compile", tmp_path / "q4", "--chunk", "8", "-o", tmp_path / "a").exit_code == 0
    assert run("compile", wide, "--weights", "q4", "--chunk", "8", "-o", tmp_path / "b").exit_code == 0
    a, b = (moss_file.read_weights(tmp_path / name / "model.moss") for name in "ab")
    assert a.tobytes() == b.tobytes()
    metas = [moss_file.read(tmp_path / name / "model.moss").meta for name in "ab"]
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["model_hash"] == moss_file.read(tmp_path / "b" / "model.moss").model_hash.hex()
    assert metas[0]["weights"] == metas[1]["weights"] == "f16 f32 q4 q8"


def test_a_compiled_model_is_not_converted(run: Run, moss: Path) -> None:
    for command in (("bench", moss), ("generate", "x", "-m", moss)):
        refused = run(*command, "--allow-native", "--weights", "q4")
        assert refused.exit_code == 2 and "--weights cannot be changed in a compiled model" in refused.stderr


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        ("--out OUT", 2, "Missing option '--type'"),
        ("--type q5 --out OUT", 2, "'q5' is not one of 'f32', 'f16', 'bf16', 'q8', 'q4'"),
        ("--type q4 --out FILE/x", 1, "the folder cannot be used: Not a directory"),
        ("--type q4 --out MODEL", 2, "the model itself lies there"),
    ],
)
def test_what_is_refused(run: Run, wide: Path, tmp_path: Path, args: str, code: int, text: str) -> None:
    (tmp_path / "FILE").write_text("")
    before = {p.name: p.read_bytes() for p in wide.iterdir()}
    for name, path in (("FILE", tmp_path / "FILE"), ("OUT", tmp_path / "out"), ("MODEL", wide)):
        args = args.replace(name, str(path))
    found = run("quantize", wide, *args.split())
    assert (found.exit_code, found.stdout) == (code, "") and text in found.stderr
    assert before == {p.name: p.read_bytes() for p in wide.iterdir()}


def test_what_weights_may_be(run: Run, wide: Path, tmp_path: Path) -> None:
    found = run("compile", wide, "--weights", "int4", "-o", tmp_path)
    assert found.exit_code == 2 and "weights are 'int4', expected f32, f16, bf16, q8, q4" in found.stderr
