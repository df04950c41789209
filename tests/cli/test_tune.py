"""`mossnet-tg tune`: runs that end, runs that are killed, and what is used afterwards."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mossnet_tg.codegen.tune import shelf
from mossnet_tg.codegen.tune.records import Choices, Kept, Records
from mossnet_tg.targets.host import this_machine
from mossnet_tg.targets.table import parse_target
from tests.cli.conftest import GPUS, Run, Start

FAST = ("--chunk", "8", "-t", "1", "--json")


@pytest.fixture(autouse=True)
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of records of its own for each test."""
    folder = tmp_path / "records"
    monkeypatch.setenv("MOSSNET_RECORDS_DIR", str(folder))
    monkeypatch.setattr(shelf, "_BROUGHT", tmp_path / "none")
    return folder


def tuned(run: Run, *args: object) -> dict[str, Any]:
    done = run("tune", *args, *FAST)
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_run(run: Run, tiny: Path, records: Path) -> None:
    found = tuned(run, tiny, "--trials", "24", "--time", "2m", "--kernels", "scan")
    assert found["n_trials"] == 24 and found["ended"].get("ok", 0) > 12
    assert found["ratio"] > 0 and found["seconds"] < 120
    (scan,) = [k for k in found["kernels"] if k["kernel_class"] == "RoutedScan" and k["n_tokens"] == 1]
    assert scan["n_trials"] > 8 and scan["ratio"] == pytest.approx(scan["default_s"] / scan["tuned_s"])
    assert all(k["n_trials"] == 0 for k in found["kernels"] if k["kernel_class"] != "RoutedScan")
    assert sum(k["share"] for k in found["kernels"]) == pytest.approx(1)
    assert Path(found["records"]).parent == records and (Path(found["records"]) / "database_workload.json").exists()


def test_a_second_run_goes_on(run: Run, tiny: Path) -> None:
    args = (tiny, "--time", "2m", "--kernels", "scan,conv")
    first = tuned(run, *args, "--trials", "16")
    second = tuned(run, *args, "--trials", "8")
    assert second["n_remembered"] >= 16 == first["n_trials"] - first["n_remembered"]
    assert second["n_trials"] - second["n_remembered"] == 8


@pytest.mark.parametrize("row", GPUS, ids=lambda row: row.name)
def test_on_a_device(run: Run, tiny: Path, row: Any) -> None:
    row.require()
    args = ("--target", row.target, "--device", row.device, "--trials", "8", "--kernels", "norm")
    found = tuned(run, tiny, *args)
    assert found["device"]["driver"] == row.name and row.device in found["device"]["name"]
    assert found["ended"] and set(found["ended"]) <= {"ok", "refused"}


def tries(folder: Path) -> Iterator[dict[str, Any]]:
    for path in folder.glob("*/trials.jsonl"):
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def test_killed_and_started_again(start: Start, run: Run, tiny: Path, records: Path) -> None:
    """Also with SIGKILL nothing but what was in flight is lost."""
    args = ("tune", tiny, "--time", "5m", *FAST)
    process = start(*args)
    wait_for(lambda: sum("status" in row for row in tries(records)) >= 16, "trials")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = [row for row in tries(records) if "status" in row]
    found = tuned(run, tiny, "--trials", "8")
    assert found["n_remembered"] > 0 and len(done) >= 16
    again = [row for row in tries(records) if "status" in row]
    assert again[: len(done)] == done and len(again) == len(done) + 8
    assert len({(row["task"], row["choice"]) for row in again}) == len(again), "nothing was measured twice"


def test_two_at_once(start: Start, tiny: Path, records: Path) -> None:
    args = [("tune", tiny, "--time", "90s", "--trials", "16", "--seed", str(seed), *FAST) for seed in (1, 2)]
    processes = [start(*one) for one in args]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    (folder,) = records.iterdir()
    rows = [(row["task"], row["choice"]) for row in tries(records) if "status" in row]
    assert len(rows) == 32 and Records(folder).n_trials() == len(set(rows))
    Records(folder).choices()


def test_generate_uses_records(run: Run, tiny: Path, records: Path) -> None:
    text = run("generate", "-m", tiny, "the quick", "-n", "8").stdout
    done = run("tune", tiny, "--trials", "1", "--kernels", "conv", "--json")
    found = json.loads(done.stdout)
    products = [k["task"] for k in found["kernels"] if k["kernel_class"] == "product" and k["n_tokens"] == 1]
    device = shelf.device_for(parse_target("cpu"), "", this_machine())
    assert device is not None
    kept = Records.open(shelf.own(device), device)
    kept.keep(Choices({task: Kept({"unroll_k": 3}, {}, 2e-6, 1e-6) for task in products}))
    used = run("generate", "-m", tiny, "the quick", "-n", "8", "-v")
    said = f"with the records of tuning: yours for {device.name}: {len(products)} of "
    assert said in used.stderr and used.stdout == text
    compiled = run("compile", tiny, "--out", records.parent)
    assert said in compiled.stderr
    facts = json.loads(run("inspect", records.parent / "model.moss", "--json").stdout)
    assert facts["meta"]["records"].startswith("yours for ")
    # Another driver, processor or version: shown, and not used.
    path = kept.folder / "device.json"
    path.write_text(path.read_text().replace(device.compiler, "schedules 0, tvm 0"))
    assert "records of tuning" not in run("generate", "-m", tiny, "the quick", "-n", "8", "-v").stderr
    listed = json.loads(run("tune", "list", "--json").stdout)
    assert [one["used"].partition(",")[0] for one in listed if one["whose"] == "yours"] == ["no: made by schedules 0"]


def test_damaged_records(run: Run, tiny: Path) -> None:
    tuned(run, tiny, "--trials", "1", "--kernels", "conv")
    device = shelf.device_for(parse_target("cpu"), "", this_machine())
    assert device is not None
    folder = next(Path(os.environ["MOSSNET_RECORDS_DIR"]).iterdir())
    (folder / "trials.jsonl").write_text("nonsense\n")
    done = run("tune", tiny, "--trials", "1", "--kernels", "conv", *FAST)
    assert done.exit_code == 4 and "trials.jsonl: the records are damaged: line 1 is no JSON" in done.stderr
    assert (folder / "trials.jsonl").read_text() == "nonsense\n"
    listed = run("tune", "list")
    assert listed.exit_code == 0 and "line 1 is no JSON" in listed.stdout


def test_export_import_clear(run: Run, tiny: Path, records: Path, tmp_path: Path) -> None:
    found = tuned(run, tiny, "--trials", "2", "--kernels", "conv")
    name = Path(found["records"]).name
    Records(Path(found["records"])).keep(Choices({"task": Kept({}, {}, 2.0, 1.0)}))
    file = tmp_path / "file.json"
    assert run("tune", "export", name[:6], file).exit_code == 2
    assert run("tune", "export", name, file).stdout == f"{file}\n"
    assert run("tune", "clear", name).exit_code == 0 and not Path(found["records"]).exists()
    taken = run("tune", "import", file)
    assert taken.exit_code == 0 and taken.stdout == f"{name}\n" and Path(found["records"]).exists()


@pytest.mark.parametrize("kind", ["html", "png"])
def test_report(run: Run, tiny: Path, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"report.{kind}"
    tuned(run, tiny, "--trials", "4", "--kernels", "scan", "--report", path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG" if kind == "png" else b"<!doctype html>")
    assert kind == "png" or (b"<svg" in content and b"RoutedScan" in content)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("--time", "soon"), "--time is 'soon', expected a duration such as 90s, 10m or 1h"),
        (("--kernels", "scan,magic"), "--kernels names 'magic', expected some of gemv,"),
        (("--report", "x.pdf"), "expected a name that ends in .html or .png"),
        (("--target", "tinygrad:CPU"), "runs a model uncompiled"),
        (("list", "more"), "1 arguments, expected: mossnet-tg tune list"),
        (("export", "nothing", "x"), "'nothing' means 0 of your records"),
        (("import", "nowhere.json"), "nowhere.json: cannot be read"),
        (("one", "two"), "'two' behind the model 'one' is one argument too many"),
        (("--target", "cpu:arch=aarch64"), "is for aarch64"),
    ],
)
def test_what_is_refused(run: Run, args: tuple[str, ...], text: str) -> None:
    done = run("tune", *args)
    assert done.exit_code in (2, 4) and text in done.stderr and not done.stdout
