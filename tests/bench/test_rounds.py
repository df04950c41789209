"""Measuring with engines that take turns, die, hang, or are not there."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import numpy as np
import pytest

from tests.bench import engines, rounds
from tests.bench.engines import Engine, Family, Package
from tests.bench.models import MambaSizes
from tests.bench.process import EngineFailed, Process
from tests.bench.record import Measured

PLAN = rounds.Plan((1,), (4,), 3, (), rounds=2, starts=1, limit_s=60, first_limit_s=60)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_REST_S", 0.0)
    monkeypatch.setattr(rounds, "_BANDWIDTH_BYTES", 1 << 20)


def faulty(name: str, **options: object) -> Engine:
    parts = {part: bool(options.pop(part, False)) for part in ("busy", "context")}
    return Engine(name, "f32", "f32", "faulty", lambda model: Path(model), options={"name": name, **options}, **parts)


def measured(tmp_path: Path, *rows: Engine, plan: rounds.Plan = PLAN, told: list[str] | None = None) -> Measured:
    family = Family("none", "No model", lambda kept: kept / "nothing", rows, oracle="a f32")
    return rounds.measure(family, tmp_path, plan, [].append if told is None else told.append)


def test_engines_take_turns(tmp_path: Path) -> None:
    log = tmp_path / "log"
    found = measured(
        tmp_path, *(faulty(name, log=str(log)) for name in "ab"), plan=rounds.Plan((1, 2), (4,), 3, rounds=2)
    )
    asked = [line.split() for line in log.read_text().splitlines()]
    turns = [name for name, _ in itertools.groupby(name for name, what in asked if what != "load")]
    assert turns[-16:] == ["a1", "a2", "b1", "b2"] * 4  # two tests in each of two rounds
    assert found.runs[0].notes == ["runs nothing"] and found.runs[0].read_per_token == 1000
    for run in found.runs:
        assert {name: len(s) for name, s in run.seconds.items()} == {"start": 3, "prefill 4": 2, "decode 3": 2}
        assert run.memory["peak"] >= run.memory["private"] > 1 and not run.problem
    assert {threads: len(speeds) for threads, speeds in found.bandwidth.items()} == {"1": 2, "2": 2}


@pytest.mark.parametrize(
    ("at", "fails", "said"),
    [
        ("load", "raise", "starting: ended with exit code 1: ValueError: this engine cannot"),
        ("prefill", "exit", "the logits: ended with exit code 7: a library prints"),
        ("step", "kill", "the logits: killed by SIGKILL: a library prints"),
    ],
)
def test_one_that_dies_is_named_and_the_rest_goes_on(tmp_path: Path, at: str, fails: str, said: str) -> None:
    told: list[str] = []
    found = measured(tmp_path, faulty("bad", at=at, fails=fails), faulty("a"), told=told)
    bad, good = found.runs
    assert bad.problem == said and "decode 3" not in bad.seconds
    assert f"bad f32 with --threads 1 fails, {said}" in told
    assert not good.problem and len(good.seconds["decode 3"]) == 2 and good.agreement["same_argmax"]


def test_one_that_hangs_is_ended(tmp_path: Path) -> None:
    process = Process("faulty", tmp_path, 1, {"at": "prefill", "fails": "hang"}, 60)
    start = time.perf_counter()
    with pytest.raises(EngineFailed, match=r"no answer within 0\.2 s"):
        process.ask(0.2, kind="prefill", n=4)
    assert time.perf_counter() - start < 15
    with pytest.raises(ProcessLookupError):
        os.killpg(process._process.pid, 0)


def test_a_model_that_cannot_be_made_leaves_its_engine_out(tmp_path: Path) -> None:
    absent = Engine("x", "f32", "f32", "faulty", lambda model: Path(model), (Package("mossnet-absent", "1"),))
    unmade = Engine("y", "f32", "f32", "faulty", lambda model: (tmp_path / "no" / "file").open())  # type: ignore[arg-type,return-value]
    found = measured(tmp_path, absent, unmade, faulty("a"))
    assert found.left_out["x f32"] == "mossnet-absent not installed, see --install"
    assert "No such file" in found.left_out["y f32"]
    assert [run.label for run in found.runs] == ["a f32"] and found.runs[0].seconds["prefill 4"]


def test_agreement(tmp_path: Path) -> None:
    expected = np.array([3.0, 4.0, 0.0], np.float32)
    same = rounds.agreement(np.stack([expected, expected]), expected)
    assert same == {"max_abs": 0.0, "rel_l2": 0.0, "same_argmax": True}
    worse = rounds.agreement(np.array([[3, 4, 0], [6, 4, 0]], np.float32), expected)
    assert worse == {"max_abs": 3.0, "rel_l2": pytest.approx(3 / 5), "same_argmax": False}
    skewed = measured(tmp_path, faulty("a"), faulty("b", skew=0.5)).runs
    assert [run.agreement["max_abs"] for run in skewed] == [0.0, 0.5]  # the step's, the prompt's are the same
    assert measured(tmp_path, faulty("b")).runs[0].agreement == {}  # without the oracle


def test_a_busy_core_and_long_prompts_are_for_those_that_ask(tmp_path: Path) -> None:
    plan = rounds.Plan((1, 2), (4,), 3, context=(0, 40), rounds=1, starts=1, busy=True)
    found = measured(tmp_path, faulty("a"), faulty("b", busy=True, context=True), plan=plan)
    busy = {f"{r.label} {r.n_threads}" for r in found.runs if "decode 3, a core busy" in r.seconds}
    assert busy == {"b f32 2"}
    assert [(t.name, t.n_tokens, t.part) for t in found.tests] == [
        ("prefill 4", 4, "main"),
        ("decode 3", 3, "main"),
        ("decode 3, a core busy", 3, "busy"),
        ("decode 3 at 0", 3, "context"),
        ("decode 3 at 40", 3, "context"),
    ]
    assert [f"{r.label} {r.n_threads}" for r in found.runs if "decode 3 at 40" in r.seconds] == ["b f32 1"]


def test_ours_on_a_tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOSSNET_CACHE_DIR", str(tmp_path / "cache"))
    tiny = engines.mamba("tiny", "Tiny", MambaSizes(32, 1, 100))
    (family,) = engines.families([], ["mossnet f32", "mossnet f16"], [tiny])
    plan = rounds.Plan((1,), (4, 9), 3, context=(0, 5), rounds=1, starts=1)
    found = rounds.measure(Family("tiny", "Tiny", family.model, family.engines, "mossnet f32"), tmp_path, plan, print)
    f32, f16 = found.runs
    assert not f32.problem and not f16.problem
    assert set(f32.seconds) == {"start", "prefill 4", "prefill 9", "decode 3", "decode 3 at 0", "decode 3 at 5"}
    assert 0 < f16.read_per_token < f32.read_per_token
    assert f32.agreement["rel_l2"] < 1e-5 < f16.agreement["rel_l2"] < 1e-2
