"""The tables and the chart of a record, and the record as a file."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from mossnet_tg.errors import MossnetError
from tests.bench import chart, figures, record
from tests.bench.record import Counted, Measured, Record, Run

AGREES = {"max_abs": 2.5e-6, "rel_l2": 1e-6, "same_argmax": True}


def runs() -> list[Run]:
    def run(label: str, n_threads: int, prefill: list[float], decode: list[float], **more: Any) -> Run:
        seconds = {"start": [0.5, 0.3, 0.4], "prefill 10": prefill, "decode 4": decode}
        return Run(label, "f32", n_threads, 10**8, seconds, {"peak": 300.4, "private": 20.0}, AGREES, ["kept"], **more)

    ours = run("mossnet f32", 1, [0.01, 0.02, 0.05], [0.04, 0.05, 0.1])
    two = run("mossnet f32", 2, [0.01], [0.02])
    two.seconds["decode 4, a core busy"] = [0.04]
    two.seconds |= {"decode 4 at 0": [0.02], "decode 4 at 64": [0.03]}
    peer = run("llama.cpp F32", 1, [0.04], [0.1])
    died = Run("llama.cpp F32", "f32", 2, problem="starting: killed by SIGKILL")
    return [ours, two, peer, died]


@pytest.fixture
def found() -> Record:
    tests = [
        Counted("prefill 10", 10, "main"),
        Counted("decode 4", 4, "main"),
        Counted("decode 4, a core busy", 4, "busy"),
    ]
    tests += [Counted(f"decode 4 at {n}", 4, "context") for n in (0, 64)]
    bandwidth = {"1": [1e10, 1.6e10, 2e10], "2": [4e10]}
    model = Measured("small", "A model", "transformers f32", tests, runs(), bandwidth, {"mamba.py f32": "not here"})
    return Record("--rounds 3", {"cpu": "A processor", "commit": "abc", "load before": "0.2"}, {"torch": "1"}, [model])


def rows(lines: list[str], head: str) -> list[list[str]]:
    """The cells of the table whose first line begins with `head`."""
    start = next(i for i, line in enumerate(lines) if line.startswith(head))
    table = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_the_main_table(found: Record) -> None:
    lines = figures.markdown(found)
    assert lines[:2] == ["cpu A processor; commit abc; load before 0.2; torch 1.", "Options: `--rounds 3`."]
    table = rows(lines, "| engine | threads | prefill 10 | decode 4 | of read bandwidth")
    assert [row[:2] for row in table] == [
        ["mossnet f32", "1"],
        ["llama.cpp F32", "1"],
        ["mossnet f32", "2"],
        ["llama.cpp F32", "2"],
    ]
    assert table[0][2:] == ["500.0 ± 404.1", "80.0 ± 30.6", "50 %", "100", "0.40", "300", "20"]  # 80 x 1e8 over 1.6e10
    assert table[2][2:5] == ["1000.0 ± 0.0", "200.0 ± 0.0", "50 %"]
    assert table[3][2:] == ["–"] * 7


def test_a_machine_that_was_not_idle(found: Record) -> None:
    assert "not idle" not in "\n".join(figures.markdown(found))
    found.machine["load before"] = "1.4"
    assert "**The machine was not idle**" in "\n".join(figures.markdown(found))


def test_the_spread_is_the_standard_deviation() -> None:
    assert figures.spread([1.0, 3.0, 5.0]) == 2.0
    assert figures.spread([7.0]) == 0.0


def test_what_was_left_out_and_what_failed_is_said(found: Record) -> None:
    text = "\n".join(figures.markdown(found))
    assert "- mamba.py f32: left out, not here." in text
    assert "- **llama.cpp F32, 2 threads, failed**: starting: killed by SIGKILL." in text
    assert "- mossnet f32, llama.cpp F32: kept." in text


def test_notes_of_one_number_of_threads_say_so(found: Record) -> None:
    found.models[0].runs[1].notes = ["compiled in 3 s"]
    text = "\n".join(figures.markdown(found))
    assert "- mossnet f32 (2 threads): compiled in 3 s." in text
    assert "- mossnet f32 (1 thread), llama.cpp F32 (1 thread): kept." in text


def test_the_other_tables(found: Record) -> None:
    lines = figures.markdown(found)
    assert rows(lines, "| engine | max abs") == [
        ["mossnet f32", "2.5e-06", "1.0e-06", "yes"],
        ["llama.cpp F32", "2.5e-06", "1.0e-06", "yes"],
    ]
    assert rows(lines, "| ours beside") == [
        ["llama.cpp F32", "f32", "1", "2.00", "2.00"],
        ["llama.cpp F32", "f32", "2", "–", "–"],
    ]
    assert rows(lines, "| engine | threads | core busy | idle, 1 thread") == [
        ["mossnet f32", "2", "100.0 ± 0.0", rows(lines, "| engine | threads | prefill")[0][3], "125 %"]
    ]
    assert rows(lines, "| engine | threads | 0 | 64 | last over first") == [
        ["mossnet f32", "2", "5.00", "7.50", "1.50"]
    ]


def test_a_peer_is_held_against_ours_of_its_type(found: Record) -> None:
    seconds = {"prefill 10": [0.02], "decode 4": [0.01]}
    found.models[0].runs.append(Run("mossnet f16", "f16", 1, 1, seconds))
    found.models[0].runs[2].type = "f16"
    assert rows(figures.markdown(found), "| ours beside")[0] == ["llama.cpp F32", "f16", "1", "2.00", "10.00"]
    found.models[0].runs[2].type = "q8"  # which we have not
    assert [row[2] for row in rows(figures.markdown(found), "| ours beside")] == ["2"]


def test_the_chart_has_the_medians(found: Record) -> None:
    decode, prefill = chart.drawing(found).axes
    assert [bar.get_width() for bar in decode.patches] == pytest.approx([80, 200, 40, 0])
    assert [bar.get_width() for bar in prefill.patches] == pytest.approx([500, 1000, 250, 0])
    assert [text.get_text() for text in decode.get_yticklabels()] == ["mossnet f32", "llama.cpp F32"]
    assert chart.png(found).startswith(b"\x89PNG")
    found.models.clear()
    assert chart.png(found).startswith(b"\x89PNG")


def test_a_record_survives_its_file(found: Record, tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    path.write_text(found.json())
    assert record.read(path) == found


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "no JSON"),
        ("[]", "version None of a record, expected 1"),
        ('{"version": 9}', "version 9 of a record, expected 1"),
        ('{"version": 1}', "no record of this version: 'models'"),
        ('{"version": 1, "models": [{"name": "x"}]}', "no record of this version: .*tests"),
        (
            '{"version": 1, "models": [{"name": "x", "tests": [], "runs": []}]}',
            "no record of this version: .*a prompt and a decode",
        ),
        (
            '{"version": 1, "models": [], "options": "", "versions": {}, "machine": {"cpu": "", "commit": ""}}',
            "no record of this version: 'load before'",
        ),
        ('{"version": 1, "models": []}', "no record of this version: .*machine"),
    ],
)
def test_what_is_no_record_is_refused(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    path.write_text(content)
    with pytest.raises(MossnetError, match=said) as caught:
        record.read(path)
    assert caught.value.hint
    with pytest.raises(MossnetError, match="cannot be read: No such file"):
        record.read(tmp_path / "other.json")


def test_json_holds_every_sample(found: Record) -> None:
    kept = json.loads(found.json())
    assert kept["models"][0]["runs"][0]["seconds"]["decode 4"] == [0.04, 0.05, 0.1]
