"""What driver.h promises, for every driver: a row each, skipped with the reason where there is no such device."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mossnet_tg.codegen.moss_file import EntryKind, Region
from mossnet_tg.engine import DECODE, PREFILL, CompiledModel, Library, Session
from mossnet_tg.errors import ArtifactError, DeviceError, UsageError
from tests.conformance.suite import BIG, I32, KERNELS, Driver, N, Toy, Values, compute

MODULES = [importlib.import_module(f"tests.conformance.{name}") for name in ("cpu", "cuda", "opencl", "vulkan")]
ROWS: list[Driver] = [row for module in MODULES for row in getattr(module, "DRIVERS", (module.DRIVER,))]


def rows(wanted: Callable[[Driver], object]) -> dict[str, Any]:
    return {"params": [row for row in ROWS if wanted(row)], "ids": lambda row: row.title or row.name}


def enter(request: pytest.FixtureRequest, *settings: Callable[[], Mapping[str, str]]) -> Driver:
    """The row that a test runs for, with its environment and what else is set."""
    row: Driver = request.param
    if reason := row.unavailable():
        pytest.skip(reason)
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)
    for name, value in (*row.env.items(), *(item for setting in settings for item in setting().items())):
        patch.setenv(name, value)
    return row


@pytest.fixture(**rows(lambda row: True))
def driver(request) -> Driver:
    return enter(request)


@pytest.fixture(**rows(lambda row: row.gpu))
def gpu(request) -> Driver:
    return enter(request)


@pytest.fixture(**rows(lambda row: row.small))
def small(request) -> Driver:
    """With a device that has less of everything."""
    return enter(request, request.param.small)


@pytest.fixture(**rows(lambda row: row.caching))
def caching(request) -> Driver:
    """With a device whose programs the library keeps."""
    return enter(request, request.param.caching)


def numbers(seed: int, n: int = N) -> Values:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


def chain(driver: Driver, length: int = 50) -> Toy:
    """A state that `length` dependent steps move on; the logits are it plus a weight."""
    toy = Toy(driver)
    toy.buffer("x", Region.STATE)
    toy.weight("w", numbers(1))
    for entry in (EntryKind.DECODE, EntryKind.PREFILL):
        for _ in range(length):
            toy.step("scale", "x", entry=entry)
        toy.step("add", "x", "w", "logits", entry=entry)
    return toy


# ---- Devices ----


def test_devices_are_described(driver, tmp_path):
    keys = ["name"]
    if driver.gpu:
        keys += ["platform"] * (driver.name == "opencl")
        keys += ["type", "vendor", "driver", "api", "memory_bytes", "max_buffer_bytes", "local_bytes", "max_block"]
        keys.append("features")
    there = Library.default().devices(driver.name)
    assert there
    for device in there:
        assert list(device) == keys
        assert device["name"]
        assert device.get("type", "cpu") in ("gpu", "cpu", "accelerator")
        for key in keys:
            assert not key.endswith(("_bytes", "_block")) or int(device[key]) > 0
    used = chain(driver).load(tmp_path / "a.moss").device
    opening = ["build_s", "n_built", "n_cached", "upload_s"] if driver.gpu else []
    assert list(used) == keys + opening
    assert {key: used[key] for key in keys} in there
    if driver.gpu:
        # Machine code, as cuda's, is neither built nor cached.
        assert int(used["n_built"]) + int(used["n_cached"]) > 0 or driver.caching is None
        assert float(used["build_s"]) >= 0 <= float(used["upload_s"])


def test_a_device_is_chosen_by_a_part_of_its_name(gpu, tmp_path):
    name = Library.default().devices(gpu.name)[0]["name"]
    model = chain(gpu).load(tmp_path / "a.moss", device=name[1:-1].upper())
    assert model.device["name"] == name
    with pytest.raises(DeviceError, match="abacus") as error:
        chain(gpu).load(tmp_path / "b.moss", device="abacus")
    assert name[:40] in str(error.value), "what is there is listed"


def test_code_on_the_processor_needs_consent(driver, tmp_path):
    path = chain(driver).save(tmp_path / "a.moss")
    with CompiledModel(path, allow_native=True) as model:
        on_processor = model.device.get("type", "cpu") == "cpu"
    if not on_processor:
        CompiledModel(path).close()
        return
    with pytest.raises(UsageError, match="with your rights") as error:
        CompiledModel(path)
    assert error.value.hint


def test_features_that_are_missing_are_named(driver, tmp_path):
    path = chain(driver).save(tmp_path / "a.moss", features="none_such,nor_this")
    with pytest.raises(ArtifactError, match=r"none_such, *nor_this"):
        CompiledModel(path, allow_native=True)


# ---- Memory ----


def test_memory_starts_as_zeros(driver, tmp_path):
    toy = chain(driver)
    for name, region in (("a", Region.ARENA), ("b", Region.STATE), ("c", Region.IO), ("d", Region.ARENA)):
        toy.buffer(name, region, 999)
    model = toy.load(tmp_path / "a.moss")
    for _ in range(2):
        session = model.session()
        for buffer in toy.buffers:
            if buffer.region != Region.WEIGHTS:
                assert not toy.get(session, buffer.name).any(), buffer.name
                toy.put(session, buffer.name, np.full(buffer.bytes // 4, 7, np.int32))
        session.close()


@pytest.mark.parametrize("region", [Region.STATE, Region.ARENA, Region.IO])
def test_copies_of_odd_ranges(driver, tmp_path, region):
    toy = chain(driver, 1)
    names = [toy.buffer(f"b{i}", region, n) for i, n in enumerate((1, 3, 64, 1000, 65, 1 << 16))]
    session = toy.load(tmp_path / "a.moss").session()
    expected = {name: toy.memory()[name].view(np.uint8) for name in names}
    rng = np.random.default_rng(2)
    for _ in range(60):
        name = names[rng.integers(len(names))]
        length = int(rng.integers(1, expected[name].size + 1))
        values = rng.integers(0, 256, length).astype(np.uint8)
        expected[name][:length] = values
        toy.put(session, name, values)
        some = names[rng.integers(len(names))]
        out = np.empty(int(rng.integers(1, expected[some].size + 1)), np.uint8)
        session.read(toy.index(some), out)
        assert np.array_equal(out, expected[some][: out.size])
    for name in names:
        assert np.array_equal(toy.get(session, name).view(np.uint8), expected[name])


def test_weights_are_read_and_never_written(driver, tmp_path):
    toy = chain(driver)
    session = toy.load(tmp_path / "a.moss").session()
    assert np.array_equal(toy.get(session, "w"), toy.weights["w"])
    with pytest.raises(UsageError, match="weights"):
        toy.put(session, "w", toy.weights["w"])


def test_the_last_of_many_writes_counts(driver, tmp_path):
    """A write may go on after its call, and the caller's memory is the caller's again."""
    toy = Toy(driver)
    for name in ("a", "b"):
        toy.buffer(name, Region.IO)
    toy.buffer("sum", Region.ARENA)
    toy.step("add", "a", "b", "sum")
    session = toy.load(tmp_path / "a.moss").session()
    values = np.empty(N, np.float32)
    for i in range(200):
        for name in ("a", "b", "a"):
            values[:] = i if name == "a" else 1000 * i
            toy.put(session, name, values)
            values[:] = -1
        session.run(DECODE, 0, 1)
        assert np.array_equal(toy.get(session, "sum"), np.full(N, 1001 * i, np.float32))


# ---- Order ----


def test_a_chain_of_dependent_steps(driver, tmp_path):
    toy = chain(driver)
    session = toy.load(tmp_path / "a.moss").session()
    memory = toy.memory()
    for entry in (DECODE, PREFILL):
        logits = session.decode(1) if entry == DECODE else session.prefill([1, 2, 3])
        for _ in range(50):
            compute("scale", memory, "x")
        assert np.array_equal(toy.get(session, "x"), memory["x"])
        assert np.array_equal(logits, memory["x"] + memory["w"])


def random_steps(toy: Toy, rng: np.random.Generator, n: int) -> list[tuple[str, ...]]:
    """Each step reads what others wrote, and writes what others read, at short distances."""
    names = [
        toy.buffer(f"b{i}", region) for i, region in enumerate((Region.STATE, Region.ARENA, Region.ARENA, Region.IO))
    ]
    steps: list[tuple[str, ...]] = []
    for _ in range(n):
        picked = [str(name) for name in rng.permutation(names)]
        kernel = str(rng.choice(["add", "scale", "reverse", "reverse", "add"]))
        steps.append((kernel, *picked[: len(KERNELS[kernel].params)]))
    return steps


@pytest.mark.parametrize("seed", range(4))
def test_every_step_sees_what_the_ones_before_it_wrote(driver, tmp_path, seed):
    """Random programs against numpy: as a whole entry, step by step, and cut anywhere."""
    rng = np.random.default_rng(seed)
    toy = Toy(driver)
    steps = random_steps(toy, rng, 60)
    for step in steps:
        toy.step(*step)
    model = toy.load(tmp_path / "a.moss")
    start = {name: numbers(10 * seed + i) for i, name in enumerate(("b0", "b1", "b2", "b3"))}
    memory = {**toy.memory(), **{name: values.copy() for name, values in start.items()}}
    for kernel, *buffers in steps:
        compute(kernel, memory, *buffers)
    for cuts in ([0, 60], list(range(61)), [0, *sorted(rng.choice(np.arange(1, 60), 7, False)), 60]):
        session = model.session()
        for name, values in start.items():
            toy.put(session, name, values)
        for first, end in itertools.pairwise(cuts):
            session.run(DECODE, int(first), int(end - first))
        for name in start:
            assert np.array_equal(toy.get(session, name), memory[name]), (cuts, name)


def test_an_entry_without_steps(driver, tmp_path):
    toy = Toy(driver)
    toy.step("scale", "logits")
    session = toy.load(tmp_path / "a.moss").session()
    session.run(PREFILL, 0, 0)
    session.run(DECODE, 1, 0)
    assert np.array_equal(session.prefill([1, 2]), np.zeros(N))
    assert session.profile(PREFILL, 2).size == 0


# ---- Size ----


def large(driver: Driver, n: int) -> Toy:
    """Every second of `n` weights of 4 MiB is used, and `n` buffers of a state as large."""
    toy = Toy(driver)
    for i in range(n):
        toy.weight(f"w{i}", numbers(100 + i, BIG))
        toy.buffer(f"s{i}", Region.STATE, BIG)
        toy.buffer(f"small{i}", Region.STATE, 3)
        for kind in "ws":
            toy.buffer(f"{kind}{i}.out", Region.ARENA)
            if i % 2 or kind == "s":
                toy.step("touch", f"{kind}{i}", f"{kind}{i}.out")
    return toy


def check_large(toy: Toy, model: CompiledModel, n: int) -> None:
    session, other = model.session(), model.session()
    memory = toy.memory()
    for i in range(n):
        memory[f"s{i}"] = numbers(200 + i, BIG)
        memory[f"small{i}"] = numbers(300 + i, 3)
        toy.put(session, f"s{i}", memory[f"s{i}"])
        toy.put(session, f"small{i}", memory[f"small{i}"])
    other.restore(session.save())
    for each in (session, other, session.fork()):
        each.decode(1)
        for i in range(n):
            assert np.array_equal(toy.get(each, f"s{i}.out"), memory[f"s{i}"][:: BIG // N])
            if i % 2:
                assert np.array_equal(toy.get(each, f"w{i}.out"), memory[f"w{i}"][:: BIG // N])
            assert np.array_equal(toy.get(each, f"small{i}"), memory[f"small{i}"])
    assert np.array_equal(toy.get(session, "w0"), memory["w0"])
    assert np.array_equal(toy.get(other, f"s{n - 1}"), memory[f"s{n - 1}"])
    assert saved_state(toy, session) == saved_state(toy, other)
    session.reset()
    assert not saved_state(toy, session).strip(b"\0")


def saved_state(toy: Toy, session: Session) -> bytes:
    return session.save()[-toy.ends[Region.STATE] :]


def test_many_large_weights_and_a_large_state(driver, tmp_path):
    toy = large(driver, 6)
    check_large(toy, toy.load(tmp_path / "a.moss"), 6)


def test_regions_larger_than_any_buffer(small, tmp_path):
    """Weights and state lie in pieces."""
    toy = large(small, 6)
    model = toy.load(tmp_path / "a.moss")
    if small.gpu:
        assert int(model.device["max_buffer_bytes"]) <= 8 << 20
    check_large(toy, model, 6)
    session = model.session()
    session.restore(session.save()[: -toy.ends[Region.STATE]] + b"\xff" * toy.ends[Region.STATE])
    state = np.frombuffer(saved_state(toy, session), np.uint8)
    for buffer in toy.buffers:
        if buffer.region == Region.STATE:
            assert (state[buffer.offset : buffer.offset + buffer.bytes] == 255).all()


def test_a_buffer_larger_than_allowed(small, tmp_path):
    toy = chain(small)
    toy.buffer("huge", Region.STATE, 3 * BIG)
    with pytest.raises(ArtifactError, match=r"huge has 12582912 bytes.*8388608"):
        toy.load(tmp_path / "a.moss")


def test_groups_larger_than_allowed(small, tmp_path):
    toy = Toy(small)
    toy.step("add", "logits", "logits", "logits")
    with pytest.raises(ArtifactError, match=r"add .*256|add .*\b1\b"):
        toy.load(tmp_path / "a.moss", changes={"add": {"block": (256, 1, 1)}})


def test_more_shared_memory_than_there_is(small, tmp_path):
    toy = Toy(small)
    toy.step("add", "logits", "logits", "logits")
    with pytest.raises(ArtifactError, match=r"add .*1048576"):
        toy.load(tmp_path / "a.moss", changes={"add": {"local_bytes": 1 << 20}})


def test_damaged_code_is_refused(gpu, tmp_path):
    code, places = gpu.code(["scale"])
    offset, size = places["scale"]
    broken = code[:offset] + (b"damaged! " * size)[:size] + code[offset + size :]
    toy = Toy(dataclasses.replace(gpu, code=lambda kernels: (broken, places)))
    toy.step("scale", "logits")
    with pytest.raises((ArtifactError, DeviceError)) as error:
        toy.load(tmp_path / "a.moss")
    assert len(str(error.value)) > 60


# ---- Sessions ----


def test_two_sessions_on_two_threads(driver, tmp_path):
    toy = chain(driver, 3)
    model = toy.load(tmp_path / "a.moss")
    wrong: list[object] = []

    def work(seed: int) -> None:
        try:
            session = model.session(1)
            for i in range(60):
                memory = {**toy.memory(), "x": numbers(1000 * seed + i)}
                toy.put(session, "x", memory["x"])
                logits = session.decode(1)
                for _ in range(3):
                    compute("scale", memory, "x")
                if not np.array_equal(logits, memory["x"] + memory["w"]):
                    wrong.append((seed, i))
                if i % 20 == 10:
                    session = session.fork()
        except BaseException as error:
            wrong.append(error)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_fork_save_restore_reset(driver, tmp_path):
    toy = chain(driver, 1)
    model = toy.load(tmp_path / "a.moss")
    session = model.session()
    for _ in range(5):
        session.decode(1)
    state = session.save()
    fork = session.fork()
    session.decode(1)
    assert toy.get(session, "x")[0] == 63
    assert toy.get(fork, "x")[0] == 31
    fork.decode(1)
    fork.decode(1)
    assert toy.get(fork, "x")[0] == 127
    other = model.session()
    other.restore(state)
    assert (toy.get(other, "x")[0], other.position) == (31, 5)
    session.reset()
    assert (toy.get(session, "x")[0], session.position) == (0, 0)
    session.restore(state)
    assert np.array_equal(session.decode(1), other.decode(1))


def test_logits_are_valid_until_the_next_call(driver, tmp_path):
    toy = chain(driver, 1)
    session = toy.load(tmp_path / "a.moss").session()
    view = session.decode(1, copy=False)
    assert np.array_equal(view, toy.weights["w"] + 1)
    copy = view.copy()
    session.decode(1)
    assert np.array_equal(copy, toy.weights["w"] + 1)


def test_sessions_outlive_their_model(driver, tmp_path):
    toy = chain(driver, 1)
    model = toy.load(tmp_path / "a.moss")
    session = model.session()
    model.close()
    assert np.array_equal(session.decode(1), toy.weights["w"] + 1)


def test_sessions_come_and_go(driver, tmp_path):
    toy = chain(driver, 1)
    model = toy.load(tmp_path / "a.moss")
    for i in range(30):
        session = model.session(1)
        toy.put(session, "x", numbers(i))
        if i % 2:
            session.decode(1)
        session.close()


# ---- Time ----


def test_time_and_bandwidth_are_measured(driver, tmp_path):
    toy = chain(driver, 5)
    toy.weight("big", numbers(3, BIG))
    toy.step("touch", "big", "logits")
    model = toy.load(tmp_path / "a.moss")
    session = model.session()
    seconds = session.profile(DECODE, 5)
    assert seconds.shape == (7,)
    assert (seconds > 0).all() and (seconds < 1).all()
    session.decode(1)
    assert toy.get(session, "x")[0] == 31, "measuring resets the session"
    assert 1e6 < model.bandwidth(4 << 20, 3) < 1e15


# ---- Programs on disk ----


def test_programs_are_cached(caching, tmp_path):
    toy = chain(caching, 2)
    cache = tmp_path / "cache"

    def load(folder: Path) -> tuple[int, int]:
        model = toy.load(tmp_path / "a.moss", cache_dir=folder)
        assert np.array_equal(model.session().decode(1), toy.weights["w"] + 3)
        return int(model.device["n_built"]), int(model.device["n_cached"])

    first = load(cache)
    assert first[0] > 0 == first[1]
    kept = sorted(path for path in cache.rglob("*") if path.is_file())
    assert kept
    assert load(cache) == (0, first[0])
    for damage in (lambda data: data[: len(data) // 2], lambda data: data[:-9] + b"damaged!!", lambda data: b""):
        for path in kept:
            path.write_bytes(damage(path.read_bytes()))
        assert load(cache) == first, "what is damaged is built again"
        assert load(cache) == (0, first[0])
    a_file = tmp_path / "file"
    a_file.touch()
    assert load(a_file) == first
    assert load(a_file / "below") == first


# ---- A device that is lost ----


def iterations(toy: Toy, session: Session, seconds: float) -> int:
    """How often `slow` loops in this time."""
    n, took = 1 << 16, 0.0
    session.run(DECODE, 0, 1)
    while took < 0.05 and n < 1 << 29:
        n *= 2
        toy.put(session, "count", np.array([n], np.int32))
        start = time.perf_counter()
        session.run(DECODE, 0, 1)
        took = time.perf_counter() - start
    return min(int(n * seconds / took), (1 << 31) - 1)


def test_a_run_without_end_loses_the_device(gpu, tmp_path):
    toy = Toy(gpu)
    toy.buffer("count", Region.IO, 1, I32)
    toy.buffer("out", Region.STATE, 1, I32)
    toy.weight("w", numbers(4))
    toy.step("slow", "count", "out")
    toy.step("add", "w", "w", "logits")
    n = iterations(toy, toy.load(tmp_path / "a.moss").session(), 3)
    model = toy.load(tmp_path / "a.moss", timeout_s=0.2)
    session, other = model.session(), model.session()
    assert np.array_equal(session.decode(1), 2 * toy.weights["w"])
    state = session.save()
    toy.put(session, "count", np.array([n], np.int32))
    start = time.perf_counter()
    with pytest.raises(DeviceError) as error:
        session.decode(1)
    assert 0.15 < time.perf_counter() - start < 2.5, str(error.value)
    calls: list[Callable[[], object]] = [
        lambda: session.decode(1),
        lambda: session.run(DECODE, 0, 1),
        lambda: session.save(),
        lambda: session.restore(state),
        lambda: session.fork(),
        lambda: session.profile(DECODE, 1),
        lambda: toy.get(session, "out"),
        lambda: other.decode(1),
    ]
    start = time.perf_counter()
    for call in calls:
        with pytest.raises(DeviceError):
            call()
    assert time.perf_counter() - start < 1, "a lost device is not asked again"
    session.close()
    assert time.perf_counter() - start < 6, "nor waited for without end"
    assert np.array_equal(new_session(model).decode(1), 2 * toy.weights["w"])
    other.close()


def new_session(model: CompiledModel) -> Session:
    """The device may need a while until it is itself again."""
    end = time.perf_counter() + 20
    while True:
        try:
            session = model.session()
            session.decode(1)
            return session
        except DeviceError:
            if time.perf_counter() > end:
                raise
            time.sleep(0.1)


def test_slow_counts(driver, tmp_path):
    """The loop is really run: its result is that of the recurrence."""
    toy = Toy(driver)
    toy.buffer("count", Region.IO, 1, I32)
    toy.buffer("out", Region.STATE, 1, I32)
    toy.step("slow", "count", "out")
    session = toy.load(tmp_path / "a.moss").session()
    for n in (0, 1, 2, 1000):
        memory = {**toy.memory(), "count": np.array([n], np.int32)}
        toy.put(session, "count", memory["count"])
        session.run(DECODE, 0, 1)
        compute("slow", memory, "count", "out")
        assert np.array_equal(toy.get(session, "out"), memory["out"])
