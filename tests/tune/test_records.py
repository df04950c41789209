"""Records: what is kept through kills, damage and two writers at once, and for whom it is good."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
from pathlib import Path

import pytest

from mossnet_tg.codegen.backends import backend
from mossnet_tg.codegen.tune import shelf
from mossnet_tg.codegen.tune.measure import Choice, Outcome
from mossnet_tg.codegen.tune.records import Choices, Device, Kept, Records
from mossnet_tg.codegen.tune.search import Search
from mossnet_tg.errors import ArtifactError, UsageError
from mossnet_tg.targets.host import this_machine
from mossnet_tg.targets.table import parse_target

DEVICE = Device("cpu:x", "cpu", "A processor", "avx2", 4, "mossnet-tg 1, tvm 2")
CHOICES = [Choice({"rows": n}, 32) for n in range(3)]
OUTCOMES = [Outcome("ok", 0.5), Outcome("wrong", error=0.25, text="error 2.5e-01"), Outcome("lost", text="gone")]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(shelf, "_BROUGHT", tmp_path / "none")
    monkeypatch.setenv("MOSSNET_RECORDS_DIR", str(tmp_path / "records"))
    return tmp_path / "records" / DEVICE.id


def some(folder):
    records = Records.open(folder, DEVICE)
    records.begin("task", CHOICES)
    records.end("task", CHOICES, OUTCOMES)
    return records


def test_what_was_tried_is_known(folder):
    some(folder)
    again = Records.open(folder, DEVICE)
    assert [again.known("task", c.key) for c in CHOICES] == OUTCOMES
    assert again.known("other", CHOICES[0].key) is None and again.n_trials() == 3
    assert again.device == DEVICE


@pytest.mark.parametrize("n_begun", [1, 2])
def test_what_ended_the_run_twice_is_not_tried_again(folder, n_begun):
    for _ in range(n_begun):
        Records.open(folder, DEVICE).begin("task", CHOICES[:1])
    known = Records.open(folder, DEVICE).known("task", CHOICES[0].key)
    assert (known is not None and known.status == "lost") == (n_begun == 2)


def test_a_line_that_was_cut_off_is_dropped(folder):
    """As a killed writer leaves it."""
    records = some(folder)
    search = Search("text", {"rows": (1, 2, 3)}, lambda _: True, 0)
    found = search.propose()
    records.commit(search.module, [c.record for c in found], [1e-6] * len(found))
    for name in ("trials.jsonl", "database_tuning_record.json"):
        with (folder / name).open("a") as file:
            file.write('{"task": "ta')
    again = Records.open(folder, DEVICE)
    assert again.n_trials() == 3
    again.end("task", [Choice({"rows": 9})], [Outcome("ok", 1.0)])
    assert Records.open(folder, DEVICE).n_trials() == 4


@pytest.mark.parametrize("name", ["trials.jsonl", "database_workload.json", "database_tuning_record.json"])
def test_a_damaged_line_is_said_and_left(folder, name):
    some(folder)
    path = folder / name
    before = (path.read_text() if path.exists() else "") + "{nonsense\n"
    path.write_text(before)
    with pytest.raises(ArtifactError, match=rf"{name}.* line \d+ is no JSON") as error:
        Records.open(folder, DEVICE)
    assert path.read_text() == before and "left as it is" in str(error.value.hint)


KEPT = '{"tasks": {"a": {"fields": {"%s": %s}, "widths": {"b": %s}, "default_s": 1, "tuned_s": 1}}, "widths": {}}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"tasks": {}}',
        '{"tasks": {"a": {"fields": 3}}, "widths": {}}',
        KEPT % ("storage", 1, 32),
        KEPT % ("lanes", 0, 32),
        KEPT % ("rows", 1 << 40, 32),
        KEPT % ("rows", '"4"', 32),
        KEPT % ("rows", 4, 1 << 20),
    ],
)
def test_damaged_choices(folder, text):
    some(folder)
    (folder / "choices.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"choices\.json"):
        Records(folder).choices()
    assert (folder / "choices.json").read_text() == text


def write(folder: Path, n: int, count: int) -> None:
    records = Records.open(folder, DEVICE)
    for i in range(count):
        choices = [Choice({"rows": i, "of": n})]
        records.begin(f"task {n}", choices)
        records.end(f"task {n}", choices, [Outcome("ok", 1.0)])
        search = Search(f"task {n} {i}", {"rows": (1, 2)}, lambda _: True, 0)
        found = search.propose()
        records.commit(search.module, [c.record for c in found], [1e-6] * len(found))
        records.keep(Choices({f"task {n} {i}": Kept({"rows": i + 1}, {}, 2.0, 1.0)}))


def test_two_writers_at_once_lose_nothing(folder):
    from tvm.s_tir import meta_schedule as ms

    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write, args=(folder, n, 12)) for n in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    records = Records.open(folder, DEVICE)
    assert records.n_trials() == 24 and len(records.choices().tasks) == 24
    database = ms.database.JSONDatabase(work_dir=str(folder))
    assert len(database) == 48
    for n in range(2):
        for i in range(12):
            module = Search(f"task {n} {i}", {"rows": (1, 2)}, lambda _: True, 0).module
            assert len(database.get_top_k(database.commit_workload(module), 9)) == 2


def test_choices_for_another_width_are_dropped():
    old = Choices({"a": Kept({}, {"m": 16}, 2.0, 1.0), "b": Kept({}, {}, 2.0, 1.0)}, {"m": 16})
    new = Choices({"c": Kept({}, {"m": 32}, 2.0, 1.0)}, {"m": 32})
    merged = old.merged(new)
    assert set(merged.tasks) == {"b", "c"} and merged.widths == {"m": 32}


# ---- for whom


def here() -> Device:
    device = shelf.device_for(parse_target("cpu"), "", this_machine())
    assert device is not None
    return device


def kept(device: Device, text: str = "task") -> None:
    Records.open(shelf.own(device), device).keep(Choices({text: Kept({"rows": 1}, {}, 2.0, 1.0)}))


def test_found_for_this_device(folder):
    assert shelf.lookup(parse_target("cpu"), "").choices.tasks == {}
    kept(here())
    found = shelf.lookup(parse_target("cpu"), "")
    assert set(found.choices.tasks) == {"task"} and here().name in found.whose
    assert found.said(["task", "other"]) == f"yours for {here().name}: 1 of 2 kernels" and found.said(["other"]) == ""


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Device)])
def test_not_for_another(folder, field):
    value = 99 if field == "n_cpus" else "cpu:mcpu=x86-64-v2" if field == "target" else "another"
    other = dataclasses.replace(here(), **{field: value})
    kept(other)
    assert shelf.lookup(parse_target("cpu"), "").choices.tasks == {}
    assert shelf.why_not(other).startswith("no: ") and not shelf.why_not(here())


def test_brought_ones_are_for_any_device(folder, tmp_path, monkeypatch):
    brought = tmp_path / "brought"
    monkeypatch.setattr(shelf, "_BROUGHT", brought)
    anybody = dataclasses.replace(here(), name="*", version="*", n_cpus=0)
    Records.open(brought / "any", anybody).keep(Choices({"any": Kept({}, {}, 2.0, 1.0)}))
    assert set(shelf.lookup(parse_target("cpu"), "").choices.tasks) == {"any"}
    kept(here(), "mine")
    assert set(shelf.lookup(parse_target("cpu"), "").choices.tasks) == {"mine"}


BROUGHT = sorted((Path(shelf.__file__).parents[2] / "targets" / "records").iterdir())


@pytest.mark.parametrize("path", BROUGHT, ids=lambda path: path.name)
def test_what_is_brought_is_whole(path):
    from tvm.s_tir import meta_schedule as ms

    records = Records(path)
    device = records.device
    assert (device.name, device.version, device.n_cpus, device.compiler) == ("*", "*", 0, shelf.compiler())
    assert parse_target(device.target).name == device.target and len(ms.database.JSONDatabase(work_dir=str(path)))
    choices = records.choices()
    assert choices.tasks and choices.merged(choices) == choices
    schedule = backend(parse_target(device.target)).schedule(parse_target(device.target))
    for kept in choices.tasks.values():
        assert all(isinstance(getattr(schedule, name), int) for name in kept.fields)


def test_avx2_is_among_them():
    assert {"x86-64-v3"} <= {path.name for path in BROUGHT}


def test_a_phone_that_is_not_plugged_in(folder):
    phone = Device("adreno", "opencl", "QUALCOMM Adreno(TM) 750", "driver 1", 0, shelf.compiler())
    kept(phone)
    assert set(shelf.lookup(parse_target("adreno"), "adreno").choices.tasks) == {"task"}
    assert shelf.lookup(parse_target("adreno"), "mali").choices.tasks == {}


def test_export_and_import(folder, tmp_path, monkeypatch):
    some(folder)
    Records(folder).keep(Choices({"task": Kept({"rows": 1}, {"m": 16}, 2.0, 1.0)}, {"m": 16}))
    shelf.export(Records(folder), tmp_path / "file.json")
    monkeypatch.setenv("MOSSNET_RECORDS_DIR", str(tmp_path / "elsewhere"))
    taken = shelf.take(tmp_path / "file.json")
    assert taken.device == DEVICE and taken.choices() == Records(folder).choices() and taken.n_trials() == 3
    again = shelf.take(tmp_path / "file.json")
    assert again.folder == taken.folder and again.choices() == taken.choices()
    shelf.clear(taken)
    assert not taken.folder.exists()


@pytest.mark.parametrize("text", ["", "{}", '{"files": 3}', '{"files": {"../evil": "x"}}', json.dumps({"files": {}})])
def test_what_is_no_export(folder, tmp_path, text):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises((ArtifactError, UsageError), match="expected a file that mossnet-tg tune export wrote"):
        shelf.take(path)
    assert not list(shelf.records_folder().glob("*")) if shelf.records_folder().exists() else True
