"""`mossnet-tg export`."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import pytest

from mossnet_tg.codegen.moss_file import MAGIC
from tests.cli.conftest import Run

onnx = pytest.importorskip("onnx")

FILES = ("tokenizer.json", "weights.bin", "decode.onnx", "prefill.onnx")


def test_a_checkpoint_becomes_files(run: Run, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "not" / "yet"
    found = run("export", tiny, "--format", "onnx", "--out", out, "--chunk", "16", "-v")
    assert found.exit_code == 0, found.stderr
    assert found.stdout == "".join(f"{out / name}\n" for name in FILES)
    assert sorted(p.name for p in out.iterdir()) == sorted(FILES)
    lines = found.stderr.splitlines()
    assert any(line.startswith("exporting tiny (") and "chunk 16" in line for line in lines)
    assert any("weights 3/" in line for line in lines) and any("exported in" in line for line in lines)
    ids = {i.name: i for i in onnx.load(out / "prefill.onnx", load_external_data=False).graph.input}["ids"]
    assert [d.dim_value for d in ids.type.tensor_type.shape.dim] == [16]


def test_a_disk_that_is_full(run: Run, tiny: Path, tmp_path: Path) -> None:
    """What was there stays, and nothing else does."""
    assert run("export", tiny, "--out", tmp_path, "--chunk", "8").exit_code == 0
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        found = run("export", tiny, "--out", tmp_path, "--chunk", "16")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (found.exit_code, found.stdout) == (1, "")
    assert "the model cannot be written: File too large" in found.stderr
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_no_graph_is_left_beside_weights_that_are_not_its_own(run: Run, tiny: Path, tmp_path: Path) -> None:
    assert run("export", tiny, "--out", tmp_path, "--chunk", "8").exit_code == 0
    (tmp_path / "weights.bin").unlink()
    (tmp_path / "weights.bin").mkdir()
    found = run("export", tiny, "--out", tmp_path, "--chunk", "8")
    assert (found.exit_code, found.stdout) == (1, "")
    assert f"{tmp_path}: the model cannot be written: Is a directory" in found.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tokenizer.json", "weights.bin"]


def test_damaged_weights_are_named(run: Run, tiny: Path, tmp_path: Path) -> None:
    """This checkpoint has no tokenizer, so that of the model that was there before goes."""
    from safetensors.torch import load_file, save_file

    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["layers.1.ssm.D"][0] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors")
    assert run("export", tiny, "--out", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / "tokenizer.json").exists()
    found = run("export", tmp_path, "--out", tmp_path / "out")
    assert found.exit_code == 0
    assert "warning: the weights hold NaN or infinity: layers.1.ssm.D\n" in found.stderr
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_models_that_cannot_be_exported(run: Run, tmp_path: Path) -> None:
    (tmp_path / "model.moss").write_bytes(MAGIC)
    compiled = run("export", tmp_path / "model.moss", "--out", tmp_path / "out")
    assert compiled.exit_code == 2 and "a compiled model, expected a checkpoint" in compiled.stderr
    missing = run("export", tmp_path / "gone", "--out", tmp_path / "out")
    assert missing.exit_code == 2 and "gone: not found" in missing.stderr
    assert not (tmp_path / "out").exists()


def test_without_the_package(run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    found = run("export", tiny, "--out", tmp_path / "out")
    assert (found.exit_code, found.stdout) == (1, "")
    assert found.stderr == "error: export needs the package onnx\nhint: pip install 'mossnet-tg[onnx]'\n"
    assert not (tmp_path / "out").exists()
