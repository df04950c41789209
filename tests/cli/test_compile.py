"""`mossnet-tg compile`."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import pytest

from mossnet_tg.codegen import moss_file
from mossnet_tg.engine import CompiledModel, Library
from mossnet_tg.tokenizer import Tokenizer
from tests.cli.conftest import Run


def test_a_checkpoint_becomes_a_file(run: Run, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "not" / "yet"
    found = run("compile", tiny, "--out", out, "--chunk", "16", "-vv")
    assert found.exit_code == 0, found.stderr
    assert found.stdout == f"{out / 'model.moss'}\n"
    lines = found.stderr.splitlines()
    assert lines[0].startswith("compiling tiny (") and "chunk 16" in lines[0] and "cpu:arch=" in lines[0]
    assert any("kernel 1/" in line for line in lines) and any("compiled in" in line for line in lines)
    assert any(line.startswith("decode: ") for line in lines)
    assert moss_file.read(out / "model.moss").chunk == 16
    assert run("generate", "-m", out / "model.moss", "--allow-native", "the", "-n", "3").exit_code == 0


def test_text_is_compiled_where_it_can_be(run: Run, tiny: Path, tmp_path: Path) -> None:
    assert "no TEXT" not in run("compile", tiny, "--out", tmp_path, "--chunk", "8", "-v").stderr
    moss = moss_file.read(tmp_path / "model.moss")
    assert moss.text and moss.meta["text"] == "byte-level BPE"
    tokenizer = Tokenizer.from_json(moss.tokenizer)
    with CompiledModel(tmp_path / "model.moss", allow_native=True) as model:
        assert model.encode("the lazy dög").tolist() == tokenizer.encode("the lazy dög")


def test_text_that_cannot_be_compiled_stays_away(run: Run, tiny: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny, tmp_path / "other")
    found = json.loads((other / "tokenizer.json").read_text())
    (other / "tokenizer.json").write_text(json.dumps({**found, "normalizer": {"type": "Lowercase"}}))
    reason = "no TEXT, libmossnet takes ids alone: normalizer Lowercase, expected NFC or none"
    compiled = run("compile", other, "--out", tmp_path, "--chunk", "8", "-v")
    assert compiled.exit_code == 0 and reason in compiled.stderr.splitlines()
    moss = moss_file.read(tmp_path / "model.moss")
    assert moss.tokenizer and not moss.text and "text" not in moss.meta
    assert run("generate", "-m", tmp_path / "model.moss", "--allow-native", "the", "-n", "3").exit_code == 0
    assert reason not in run("compile", other, "--out", tmp_path, "--chunk", "8").stderr


def test_for_another_machine(run: Run, tiny: Path, tmp_path: Path) -> None:
    other = "aarch64" if Library.default().cpu_arch == "x86_64" else "x86_64"
    found = run("compile", tiny, "--out", tmp_path, "--chunk", "8", "--target", f"cpu:arch={other}")
    assert found.exit_code == 0, found.stderr
    assert f"cannot run it: copy it to a machine of {other}" in found.stderr
    assert moss_file.read(tmp_path / "model.moss").meta["arch"] == other
    refused = run("generate", "-m", tmp_path / "model.moss", "--allow-native", "the")
    assert refused.exit_code == 4 and other in refused.stderr


@pytest.mark.parametrize(("target", "is_for_it"), [("vulkan,cpu:arch=aarch64", True), ("cpu:arch=x86_64", False)])
def test_android_gets_the_code_for_its_processors(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, is_for_it: bool
) -> None:
    given = list[bytes]()

    def for_android(abi: str, code: bytes, *_: object) -> dict[str, bytes]:
        given.append(code)
        return {}

    monkeypatch.setattr("mossnet_tg.targets.distribution.for_android", for_android)
    done = run("compile", tiny, "--target", target, "--chunk", "8", "--abi", "arm64-v8a", "-o", tmp_path)
    assert done.exit_code == 0, done.stderr
    assert given == [moss_file.read_all(tmp_path / "model.moss")[-1].code if is_for_it else b""]


def test_a_disk_that_is_full(run: Run, tiny: Path, tmp_path: Path) -> None:
    """A limit of file sizes stands for it: the same calls fail at the same places."""
    (tmp_path / "model.moss").write_bytes(b"the one before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, hard))
    try:
        found = run("compile", tiny, "--out", tmp_path, "--chunk", "8")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (found.exit_code, found.stdout) == (1, "")
    assert "model.moss: the model cannot be written: File too large" in found.stderr
    assert "Traceback" not in found.stderr and "internal" not in found.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["model.moss"]
    assert (tmp_path / "model.moss").read_bytes() == b"the one before"


BOTH = ("compile", "export")
REFUSED = [
    (BOTH, "--out FILE/x", 1, "the folder cannot be used: Not a directory"),
    (BOTH, "--out OUT --chunk 1", 2, "chunk is 1, expected 2 to"),
    (BOTH, "--out OUT --context 0", 2, "context is 0, expected 1 to"),
    (BOTH, "", 2, "Missing option '-o' / '--out'"),
    (("compile",), "--out OUT --target tinygrad:CPU", 2, "only mossnet-tg generate takes it"),
    (("compile",), "--out OUT --target cpu:mcpu=z80", 2, "'z80' is no"),
    (("compile",), "--out OUT --target cpu:speed=9", 2, "option 'speed=9' is not known"),
    (("export",), "--out OUT --format gguf", 2, "'gguf' is not 'onnx'"),
]


@pytest.mark.parametrize(
    ("command", "args", "code", "text"), [(command, *row) for commands, *row in REFUSED for command in commands]
)
def test_what_is_refused(run: Run, tiny: Path, tmp_path: Path, command: str, args: str, code: int, text: str) -> None:
    (tmp_path / "FILE").write_text("")
    found = run(command, tiny, *args.replace("FILE", f"{tmp_path}/FILE").replace("OUT", f"{tmp_path}/out").split())
    assert (found.exit_code, found.stdout) == (code, "") and text in found.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_found_first(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    found = run("compile", tiny, "--out", tmp_path, "--chunk", "8")
    assert (found.exit_code, found.stdout) == (1, "") and "cannot be used: not writable" in found.stderr
    assert "compiling" not in found.stderr and not list(tmp_path.iterdir())


def test_models_that_cannot_be_compiled(run: Run, moss: Path, tmp_path: Path) -> None:
    again = run("compile", moss, "--out", tmp_path / "out")
    assert again.exit_code == 2 and "a compiled model, expected a checkpoint" in again.stderr
    missing = run("compile", tmp_path / "gone", "--out", tmp_path / "out")
    assert missing.exit_code == 2 and "gone: not found" in missing.stderr
    assert not (tmp_path / "out").exists()
