"""The options of peers.py, what it writes, and the installation of the peers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mossnet_tg.errors import UsageError
from tests.bench import install, peers, record
from tests.bench.engines import FAMILIES, Package, families
from tests.bench.record import Counted, Measured, Record, Run


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    run = Run("mossnet f32", "f32", 1, 10, {"prefill 8": [0.1], "decode 4": [0.1]})
    tests = [Counted("prefill 8", 8, "main"), Counted("decode 4", 4, "main")]
    path = tmp_path / "before.json"
    path.write_text(
        Record(
            "", {"cpu": "c", "commit": "d", "load before": "0"}, {}, [Measured("m", "about", "o", tests, [run])]
        ).json()
    )
    return path


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--engines", "llama"], "unknown engine 'llama', expected mossnet f32, .*\nhint: did you mean 'llama.cpp'"),
        (["--models", "mamba"], "unknown model 'mamba', expected mamba130m, mossnet-s, mossnet-m\nhint: did you mean"),
        (["--models", "mossnet-s", "--engines", "llama.cpp"], "no engine of llama.cpp runs mossnet-s"),
        (["--write-docs", "--engines", "mossnet"], "a part of the engines is no table"),
        (["--threads", "1,x"], "'1,x' is no list of integers"),
        (["--prefill", "0"], "0 is too small"),
        (["--rounds", "0"], "0 is not in the range"),
        (["--unknown"], "No such option"),
    ],
)
def test_wrong_usage(options: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert peers.run(options) == 2
    out, err = capfd.readouterr()
    assert not out
    assert re.search(said, err), err


def test_files_that_cannot_be(tmp_path: Path, recorded: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert peers.run(["--from", str(tmp_path / "none.json"), "--out", str(tmp_path / "out")]) == 1
    assert "none.json: cannot be read: No such file" in capfd.readouterr().err
    assert peers.run(["--from", str(recorded), "--out", str(recorded)]) == 1
    assert "before.json: cannot be made: File exists" in capfd.readouterr().err


def test_a_recorded_session_is_shown_again(tmp_path: Path, recorded: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert peers.run(["--from", str(recorded), "--out", str(out)]) == 0
    shown = capfd.readouterr().out
    assert "| mossnet f32 | 1 | 80.0 ± 0.0 | 40.0 ± 0.0 |" in shown
    assert (out / "peers.md").read_text() == shown and (out / "peers.json").read_text() == recorded.read_text()
    assert (out / "peers.png").read_bytes().startswith(b"\x89PNG")


def test_documents(
    tmp_path: Path, recorded: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    doc = tmp_path / "benchmarks.md"
    monkeypatch.setattr(peers, "DOC", doc)
    monkeypatch.setattr(peers, "PICTURE", tmp_path / "benchmarks.png")
    options = ["--from", str(recorded), "--out", str(tmp_path), "--write-docs"]
    doc.write_text("no markers\n")
    assert peers.run(options) == 1 and "are missing" in capfd.readouterr().err
    assert doc.read_text() == "no markers\n" and not (tmp_path / "benchmarks.png").exists()
    doc.write_text(f"before\n{peers.BEGIN}\nold\n{peers.END}\n\nafter\n")
    for _ in range(2):  # the second time changes nothing
        assert peers.run(options) == 0
        text = doc.read_text()
        assert text.startswith(f"before\n{peers.BEGIN}\ncpu c; commit d; load before 0.") and text.endswith(
            f"|\n\n{peers.END}\n\nafter\n"
        )
        assert "old" not in text and text.count("mossnet f32") == 1
    assert (tmp_path / "benchmarks.png").exists()


def test_the_document_has_its_place_and_the_picture_is_small() -> None:
    text = peers.DOC.read_text()
    assert text.index(peers.BEGIN) < text.index(peers.END)
    assert peers.PICTURE.stat().st_size < 60_000


def test_options_are_recorded_without_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tests = [Counted("prefill 8", 8, "main"), Counted("decode 4", 4, "main")]
    monkeypatch.setattr(peers, "measure", lambda family, kept, plan, tell: Measured(family.name, "", "", tests))
    folders = [f"--out={tmp_path}", "--folder", str(tmp_path)]
    assert peers.run(["--rounds", "3", *folders, "--busy", "--prefill=1,2", "--engines", "mossnet f16"]) == 0
    found = record.read(tmp_path / "peers.json")
    assert found.options == "--engines 'mossnet f16' --prefill 1,2 --rounds 3 --busy"
    assert str(tmp_path) not in found.json() and found.machine["cpu"] and found.versions["Python"]


def test_engines_are_chosen_by_name_or_label() -> None:
    (family,) = families(["mamba130m"], ["llama.cpp", "mossnet f16"])
    assert [e.label for e in family.engines] == [
        f"{x}" for x in ("mossnet f16", *(f"llama.cpp {t}" for t in ("F32", "F16", "Q8_0", "Q4_0")))
    ]
    assert [f.name for f in families([], [])] == [f.name for f in FAMILIES]
    for family in FAMILIES:
        labels = [e.label for e in family.engines]
        assert family.oracle in labels and len(set(labels)) == len(labels)


def test_installing(monkeypatch: pytest.MonkeyPatch) -> None:
    ran, told = [], list[str]()

    def run(command: list[str], env: dict[str, str], stdout: int) -> subprocess.CompletedProcess[str]:
        ran.append((command, env.get("CMAKE_ARGS"), stdout))
        return subprocess.CompletedProcess(command, 1 if len(ran) == 1 else 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "prefix", "/a/venv")
    monkeypatch.setenv("CMAKE_ARGS", "-DX=1")
    first = Package("mossnet-absent", "1.2", ("--no-cache-dir",), "-DGGML_NATIVE=ON")
    install.install([first, Package("numpy", "0"), Package("mossnet-absent-too", "")], told.append)
    assert [(command[-2:], flags, stdout) for command, flags, stdout in ran] == [
        (["--no-cache-dir", "mossnet-absent==1.2"], "-DX=1 -DGGML_NATIVE=ON", 2),
        (["--no-input", "mossnet-absent-too"], "-DX=1", 2),
    ]
    assert "mossnet-absent==1.2 could not be installed: pip ended with 1, and says why above" in told
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    with pytest.raises(UsageError, match="no virtual environment"):
        install.install([first], told.append)
    install.install([Package("numpy", "0")], told.append)  # nothing to do there
    assert len(ran) == 2
