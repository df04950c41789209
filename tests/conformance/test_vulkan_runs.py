"""How the vulkan driver runs a plan: memory of every kind, barriers where they are needed, a device that is lost."""

from __future__ import annotations

import ctypes
import random
import threading
import time
from ctypes import byref, c_char, c_size_t

import numpy as np
import pytest

from mossnet_tg.codegen.moss_file import Access, Region
from mossnet_tg.engine import DECODE, CompiledModel, Session
from mossnet_tg.errors import DeviceError
from tests.conformance import vulkan
from tests.conformance.vulkan_plans import (
    ROW,
    SUM,
    A,
    Plan,
    check_sum,
    sum_plan,
    toy,
)

pytestmark = pytest.mark.skipif(vulkan.unavailable() is not None, reason=str(vulkan.unavailable()))


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name, value in vulkan.DRIVER.env.items():
        monkeypatch.setenv(name, value)


# ---- memory

MIB = 1 << 20
NO_IMPORT = "hide=VK_EXT_external_memory_host"
KINDS = {
    "unified": [NO_IMPORT],
    "imported": [],
    "card": ["memory=card"],
    "window": ["memory=window"],
    "phone": ["memory=phone"],
    "small card": ["memory=card", f"limit:max_allocation={8 * MIB}"],
    "small phone": ["memory=phone", f"limit:max_allocation={8 * MIB}"],
    "small imported": [f"limit:max_allocation={8 * MIB}"],
}


def large_plan() -> tuple[Plan, list[np.ndarray]]:
    """Five matrices of 4 MiB, with a gap, more than goes through the staging buffer at once; a state that has gaps."""
    rng = np.random.default_rng(5)
    at = [4 * MIB * i + (256 if i > 2 else 0) for i in range(5)]
    weights = [rng.standard_normal(MIB).astype(np.float32) for _ in at]
    buffers = {f"w{i}": (Region.WEIGHTS, offset, 4 * MIB) for i, offset in enumerate(at)}
    buffers |= {f"found{i}": (Region.ARENA, ROW * i, ROW) for i in range(5)}
    buffers |= {"x": (Region.STATE, 512, ROW), "y": (Region.STATE, 4 * MIB + 512, ROW), "z": (Region.STATE, 2560, 3)}
    steps = [("touch", f"w{i}", f"found{i}") for i in range(5)] + [("scale", "x"), ("scale", "y")]
    return Plan({"touch": toy("touch"), "scale": toy("scale")}, buffers, steps), weights


def saved_over_garbage(session: Session) -> np.ndarray:
    """What session.save() gives, without its header, where the memory was not zero before."""
    memory, used, error = bytearray(b"\xee" * len(session.save())), c_size_t(), (c_char * 1000)()
    library = ctypes.CDLL(str(session.library.path))
    target = (c_char * len(memory)).from_buffer(memory)
    assert not library.mossnet_session_save(session.pointer, target, c_size_t(len(memory)), byref(used), error)
    return np.frombuffer(memory, np.uint8)[80:]


@pytest.mark.parametrize("kind", KINDS)
def test_memory(fake_vulkan, tmp_path, kind):
    plan, weights = large_plan()
    path = plan.write(
        tmp_path / "large.moss", [(b.offset, w) for b, w in zip(plan.file.buffers, weights, strict=False)]
    )
    fake_vulkan(*KINDS[kind])
    with CompiledModel(path, allow_native=True) as model, model.session() as session:
        assert ("EI" in fake_vulkan.calls()) == ("imported" in kind)
        for name in ("x", "y", "found0", "logits"):
            assert not plan.get(session, name).any()
        for i, w in enumerate(weights):
            assert np.array_equal(plan.get(session, f"w{i}"), w)
        plan.put(session, "x", A)
        plan.put(session, "y", -A[:100])
        plan.put(session, "z", np.array([1, 2, 3], np.uint8))
        session.run(DECODE, 0, len(plan.file.steps))
        for i, w in enumerate(weights):
            assert np.array_equal(plan.get(session, f"found{i}"), w[:: MIB // 256])
        assert np.array_equal(plan.get(session, "x"), 2 * A + 1)
        state = saved_over_garbage(session)
        expected = np.zeros(plan.file.state_bytes, np.uint8)
        expected[512 : 512 + ROW] = (2 * A + 1).view(np.uint8)
        expected[2560:2563] = 1, 2, 3
        y = np.ones(256, np.float32)
        y[:100] -= 2 * A[:100]
        expected[4 * MIB + 512 : -100] = y.view(np.uint8)
        assert np.array_equal(state, expected)
        with session.fork() as other:
            session.reset()
            assert not plan.get(session, "x").any()
            assert not plan.get(session, "z", np.uint8).any()
            assert np.array_equal(plan.get(other, "y"), y)
            session.restore(other.save())
            assert np.array_equal(plan.get(session, "y"), y)
            assert plan.get(session, "z", np.uint8).tolist() == [1, 2, 3]


@pytest.mark.parametrize("kind", ["imported", "card", "phone"])
def test_many_writes_before_a_run(fake_vulkan, tmp_path, kind):
    """More than the staging buffer holds, over each other, and read between."""
    fake_vulkan(*KINDS[kind])
    buffers = {"x": (Region.STATE, 0, 9 * MIB), "y": (Region.STATE, 9 * MIB, 3000)}
    plan = Plan({"scale": toy("scale")}, buffers, [("scale", "x")])
    with CompiledModel(plan.write(tmp_path / "x.moss"), allow_native=True) as model, model.session() as session:
        for n in range(8):
            whole = np.arange(9 * MIB // 4, dtype=np.float32) % 1000 + n
            plan.put(session, "x", whole)
            plan.put(session, "x", whole[:7] + 1)
            plan.put(session, "y", np.arange(n + 1, dtype=np.uint8) + 1)
            if n % 3 == 0:
                assert plan.get(session, "y", np.uint8)[n] == n + 1
        session.decode(0)
        expected = whole.copy()
        expected[:7] += 1
        expected[:256] = 2 * expected[:256] + 1
        with session.fork() as other:
            for each in (session, other):
                assert np.array_equal(plan.get(each, "x"), expected)
                assert plan.get(each, "y", np.uint8)[:9].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 0]


@pytest.mark.parametrize(("alignment", "imported"), [(4096, True), (1 << 20, False)])
def test_weights_become_the_devices_in_whole_pages(fake_vulkan, tmp_path, alignment, imported):
    weights = np.arange(300, dtype=np.float32)
    buffers = {**SUM, "w": (Region.WEIGHTS, 0, 1200)}
    plan = Plan({"add": toy("add")}, buffers, [("add", "w", "b", "sum")])
    path = plan.write(tmp_path / "w.moss", [(0, weights)])
    fake_vulkan(f"limit:import_alignment={alignment}")
    with CompiledModel(path, allow_native=True) as model, model.session() as session:
        assert ("EI" in fake_vulkan.calls()) == imported
        session.decode(0)
        assert np.array_equal(plan.get(session, "sum"), weights[:256])
        assert np.array_equal(plan.get(session, "w"), weights)


# ---- barriers


def expected_calls(plan: Plan) -> str:
    """By definition: a step waits when it touches what a step since the last wait wrote, or writes what one touched."""
    calls, since = "B", []
    for step in plan.file.steps:
        own = []
        for arg, param in zip(step.args, plan.file.kernels[step.kernel].params, strict=True):
            b = plan.file.buffers[arg]
            own += [(b.region, at, bool(param.access & Access.WRITTEN)) for at in range(b.offset, b.offset + b.bytes)]
        taken = {(region, at) for region, at, _ in since}
        written = {(region, at) for region, at, w in since if w}
        if any((region, at) in (taken if w else written) for region, at, w in own):
            calls, since = calls + "B", []
        calls, since = calls + "D", since + own
    return calls + "B"


@pytest.mark.parametrize("seed", range(12))
def test_barriers(fake_vulkan, tmp_path, seed):
    rng = random.Random(seed)
    buffers = {"w": (Region.WEIGHTS, 0, 8)}
    for i in range(9):  # small, so that bytes can be counted; those of one region may overlap
        region = rng.choice([Region.STATE, Region.ARENA])
        buffers[f"b{i}"] = (region, 256 * rng.randrange(6), rng.choice([4, 300, 700]))
    codes = {name: toy(name) for name in ("add", "scale", "reverse")}
    names = [name for name in buffers if name != "w"]

    def step(kernel: str) -> tuple[str, ...]:
        accesses = codes[kernel].params
        return kernel, *(rng.choice(names if a & Access.WRITTEN else [*names, "w"]) for a in accesses)

    plan = Plan(codes, buffers, [step(rng.choice(list(codes))) for _ in range(30)])
    fake_vulkan()
    with CompiledModel(plan.write(tmp_path / "b.moss"), allow_native=True) as model:
        fake_vulkan.calls()
        with model.session():
            assert fake_vulkan.calls() == expected_calls(plan)


def test_steps_that_only_read_the_same_run_at_once(fake_vulkan, tmp_path):
    buffers = {**SUM, "sum2": (Region.ARENA, 4096, ROW)}
    steps = [("add", "a", "b", "sum"), ("add", "b", "a", "sum2"), ("scale", "sum"), ("scale", "sum2"), ("scale", "a")]
    plan = Plan({name: toy(name) for name in ("add", "scale")}, buffers, steps)
    fake_vulkan()
    with CompiledModel(plan.write(tmp_path / "b.moss"), allow_native=True) as model:
        fake_vulkan.calls()
        with model.session() as session:
            assert fake_vulkan.calls() == "BDDBDDDB"
            session.run(DECODE, 1, 3)
            assert fake_vulkan.calls() == "BDDBDBS"
            session.run(DECODE, 2, 2)
            assert fake_vulkan.calls() == "BDDBS"  # what the run before did is done
            session.run(DECODE, 0, 5)
            session.decode(0)
            assert fake_vulkan.calls() == "SS"  # whole entries are replayed
            session.run(DECODE, 2, 0)
            assert fake_vulkan.calls() == ""


def test_on_a_card_a_token_is_one_submission(fake_vulkan, tmp_path):
    plan = sum_plan()
    fake_vulkan("memory=card")
    with CompiledModel(plan.write(tmp_path / "sum.moss"), allow_native=True) as model, model.session() as session:
        check_sum(plan, session)
        fake_vulkan.calls()
        session.decode(0)
        assert fake_vulkan.calls() == "BCBCBSBCBS"  # ids and params with the steps; then the logits


# ---- time


def test_times(fake_vulkan, tmp_path):
    plan = sum_plan()
    for options, calls in (([], "BWDWBDWBDWBS"), (["timestamps=0"], "BDBS" * 3)):
        fake_vulkan(*options)
        with CompiledModel(plan.write(tmp_path / "sum.moss"), allow_native=True) as model, model.session() as session:
            fake_vulkan.calls()
            seconds = session.profile(DECODE, 2)
            assert (seconds > 0).all() and seconds.sum() < 5
            assert fake_vulkan.calls() == calls * 3
            assert model.bandwidth(MIB, 2) > 1e6


# ---- a device that is lost


def expect_lost(session, plan) -> None:
    calls = [
        lambda: session.decode(0),
        lambda: session.run(DECODE, 0, 1),
        lambda: session.save(),
        lambda: plan.get(session, "a"),
        lambda: plan.put(session, "a", A),
        lambda: session.profile(DECODE, 1),
    ]
    for call in calls:
        with pytest.raises(DeviceError, match=r"was lost in an earlier call: start a new session"):
            call()
    session.reset()


@pytest.mark.parametrize("memory", ["card", "phone"])
def test_a_lost_device(fake_vulkan, tmp_path, memory):
    plan = sum_plan()
    fake_vulkan(f"memory={memory}")
    model = CompiledModel(plan.write(tmp_path / "sum.moss"), allow_native=True)
    first, second = model.session(), model.session()
    check_sum(plan, first)
    fake_vulkan(f"memory={memory}", "lose=1")
    with pytest.raises(DeviceError, match=r"was lost \(vkQueueSubmit: VkResult -4\): start a new session"):
        first.decode(0)
    expect_lost(first, plan)
    expect_lost(second, plan)
    with model.session() as third:
        check_sum(plan, third)
        first.close()
        with model.session() as fourth:
            model.close()
            second.close()
            check_sum(plan, fourth)
            check_sum(plan, third)
    calls = fake_vulkan.calls()
    assert (calls.count("O"), calls.count("X")) == (2, 2)


def test_a_device_lost_while_it_is_opened_again(fake_vulkan, tmp_path):
    plan = sum_plan()
    fake_vulkan("memory=card")
    with CompiledModel(plan.write(tmp_path / "sum.moss"), allow_native=True) as model:
        fake_vulkan("memory=card", "lose=1")
        with pytest.raises(DeviceError, match="was lost"):
            model.session()
        described = model.device
        fake_vulkan("fail=vkCreateDevice")
        for _ in range(2):
            with pytest.raises(DeviceError, match="vkCreateDevice"):
                model.session()
        assert model.device == described
        fake_vulkan("memory=card")
        with model.session() as session:
            check_sum(plan, session)


def test_a_run_that_never_ends(fake_vulkan, tmp_path):
    """What it uses is left alone for ever; nothing waits for it twice."""
    plan = sum_plan()
    fake_vulkan()
    model = CompiledModel(plan.write(tmp_path / "sum.moss"), allow_native=True, timeout_s=0.2)
    first, second, third = (model.session() for _ in range(3))
    fake_vulkan("hang=1")
    start = time.monotonic()
    with pytest.raises(DeviceError, match=r"did not finish a run within 200 ms and counts as lost: start a new"):
        first.decode(0)
    assert 0.15 < time.monotonic() - start < 1
    expect_lost(first, plan)
    expect_lost(second, plan)
    start = time.monotonic()
    for session in (first, second):
        session.close()
    with model.session() as fourth:
        check_sum(plan, fourth)
        third.close()
        model.close()
        check_sum(plan, fourth)
        assert time.monotonic() - start < 1
    assert 1.5 < time.monotonic() - start < 4  # the last chance for what still runs
    calls = fake_vulkan.calls()
    assert (calls.count("O"), calls.count("X")) == (2, 1)


def slow_plan() -> Plan:
    buffers = {"count": (Region.STATE, 0, 4), "result": (Region.STATE, 256, 4)}
    return Plan({"slow": toy("slow")}, buffers, [("slow", "count", "result")])


def test_a_run_that_ends_after_all(fake_vulkan, tmp_path):
    """Then everything is freed, and before the weights need room again."""
    plan = slow_plan()
    fake_vulkan()
    model = CompiledModel(plan.write(tmp_path / "slow.moss"), allow_native=True, timeout_s=0.1)
    session = model.session()
    plan.put(session, "count", np.array([6 << 20], np.int32))
    with pytest.raises(DeviceError, match="did not finish"):
        session.decode(0)
    start = time.monotonic()
    session.close()
    assert time.monotonic() - start < 0.1
    assert fake_vulkan.calls().endswith("S")
    time.sleep(1.5)
    session = model.session()
    assert fake_vulkan.calls().startswith("XO")
    plan.put(session, "count", np.array([6 << 20], np.int32))
    with pytest.raises(DeviceError, match="did not finish"):
        session.decode(0)
    session.close()
    start = time.monotonic()
    model.close()
    assert time.monotonic() - start < 1.9
    assert fake_vulkan.calls().endswith("X")


def test_a_device_that_hangs_when_it_is_opened(fake_vulkan, tmp_path):
    weights = [(0, np.arange(256, dtype=np.float32))]
    plan = Plan({"add": toy("add")}, {**SUM, "w": (Region.WEIGHTS, 0, ROW)}, [("add", "w", "b", "sum")])
    path = plan.write(tmp_path / "w.moss", weights)
    fake_vulkan("memory=card", "hang=1")
    with pytest.raises(DeviceError, match="did not finish a run within 100 ms"):
        CompiledModel(path, allow_native=True, timeout_s=0.1)
    assert "X" not in fake_vulkan.calls()


def test_a_device_that_hangs_when_it_is_measured(fake_vulkan, tmp_path):
    plan = sum_plan()
    fake_vulkan()
    with (
        CompiledModel(plan.write(tmp_path / "sum.moss"), allow_native=True, timeout_s=0.1) as model,
        model.session() as session,
    ):
        fake_vulkan("hang=2")
        with pytest.raises(DeviceError, match="did not finish a run within 100 ms"):
            model.bandwidth(1 << 20, 3)
        expect_lost(session, plan)
        with model.session() as other:
            check_sum(plan, other)
    calls = fake_vulkan.calls()
    assert (calls.count("O"), calls.count("X")) == (2, 1)


def test_waiting_for_others_is_no_time_out(tmp_path):
    """The time of a run counts from when the device is free for it."""
    plan = slow_plan()
    path = plan.write(tmp_path / "slow.moss")
    count = np.array([4 << 20], np.int32)

    def seconds(session) -> float:
        plan.put(session, "count", count)
        start = time.monotonic()
        session.decode(0)
        return time.monotonic() - start

    with CompiledModel(path, allow_native=True) as model, model.session() as session:
        seconds(session)
        once = seconds(session)
    errors = []
    with CompiledModel(path, allow_native=True, timeout_s=5 * once) as model:
        sessions = [model.session() for _ in range(9)]

        def run(session) -> None:
            try:
                seconds(session)
            except DeviceError as error:
                errors.append(error)

        threads = [threading.Thread(target=run, args=(session,)) for session in sessions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
