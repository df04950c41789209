"""The driver cuda beyond the suite, on the mock of its library: which image it takes, what it refuses, what it leaves
behind when something fails. The last tests need a compiler or a GPU."""

from __future__ import annotations

import ctypes
import dataclasses
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mossnet_tg.codegen.emit import cubin
from mossnet_tg.codegen.emit.cubin import Kind
from mossnet_tg.codegen.moss_file import EntryKind, Region
from mossnet_tg.engine import DECODE, CompiledModel, Library
from mossnet_tg.errors import ArtifactError, DeviceError, MossnetError
from tests.conformance import cuda
from tests.conformance.cuda import DRIVER, MOCK, SOURCES, mock_image, mock_library, places
from tests.conformance.suite import BIG, I32, KERNELS, Toy
from tests.conformance.test_conformance import chain, iterations, numbers

ROOT = Path(__file__).parents[2]
CUBIN, PTX = Kind.CUBIN, Kind.PTX


class Mock:
    """The mock in the library's place, with what it can say of itself; another one than the suite's, where a device may
    still be busy."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        path = mock_library("libown_cuda.so")
        self.library = ctypes.CDLL(path)
        self.patch = monkeypatch
        monkeypatch.setenv("MOSSNET_CUDA_LIB", path)

    def __call__(self, **settings: object) -> None:
        for name, value in settings.items():
            self.patch.setenv(f"FAKE_CUDA_{name.upper()}", str(value))

    def live(self) -> int:
        """How many objects are left."""
        return int(self.library.fake_cuda_live())

    def depth(self) -> int:
        """How many contexts this thread has entered and not left."""
        return int(self.library.fake_cuda_depth())


@pytest.fixture
def mock(monkeypatch):
    """What a test leaves behind is its failure."""
    if reason := cuda.mock_unavailable():
        pytest.skip(reason)
    mock = Mock(monkeypatch)
    assert mock.live() == 0
    yield mock
    assert (mock.live(), mock.depth()) == (0, 0)


def coded(*images: cubin.Image) -> Any:
    """The mock's row with other code."""
    code = cubin.encode(images)
    return dataclasses.replace(MOCK, code=lambda kernels: places(code, kernels))


def scale(driver: Any = MOCK) -> Toy:
    """A state that each token moves on."""
    toy = Toy(driver)
    toy.buffer("x", Region.STATE)
    toy.weight("w", numbers(1))
    toy.step("scale", "x")
    return toy


# ---- Finding a device ----


@pytest.mark.parametrize(
    ("library", "match"),
    [("/none/libcuda.so", r"/none/libcuda\.so: .*NVIDIA's driver"), ("libm.so.6", r"has no cuInit: it is no libcuda")],
)
def test_no_library(mock, tmp_path, library, match):
    mock.patch.setenv("MOSSNET_CUDA_LIB", library)
    with pytest.raises(DeviceError, match=match):
        Library.default().devices("cuda")
    with pytest.raises(DeviceError, match=match):
        scale().load(tmp_path / "a.moss")


def test_no_device(mock, tmp_path):
    mock(devices=0)
    with pytest.raises(DeviceError, match="finds no GPU"):
        Library.default().devices("cuda")
    with pytest.raises(DeviceError, match="finds no GPU"):
        scale().load(tmp_path / "a.moss")


def test_two_devices(mock, tmp_path):
    mock(devices=2)
    assert [device["name"] for device in Library.default().devices("cuda")] == ["Mock GPU A", "Mock GPU B"]
    for wanted, found in (("", "Mock GPU A"), ("gpu b", "Mock GPU B")):
        with scale().load(tmp_path / "a.moss", device=wanted) as model, model.session() as session:
            assert model.device["name"] == found
            session.decode(0)
    with pytest.raises(DeviceError, match=r"gpu c in its name, there are: Mock GPU A, Mock GPU B"):
        scale().load(tmp_path / "a.moss", device="gpu c")


def test_what_a_device_is(mock):
    mock(sm=121, memory=5 << 30)
    assert Library.default().devices("cuda") == [
        {
            "name": "Mock GPU A",
            "type": "gpu",
            "vendor": "NVIDIA",
            "driver": Library.default().devices("cuda")[0]["driver"],
            "api": "CUDA 13.0",
            "memory_bytes": str(5 << 30),
            "max_buffer_bytes": str(5 << 30),
            "local_bytes": "101376",
            "max_block": "1024",
            "features": "sm_121",
        }
    ]


# ---- Which image it takes ----


@pytest.mark.parametrize(
    ("sm", "images", "taken"),
    [
        (90, [(CUBIN, 90)], 0),
        (90, [(CUBIN, 80), (CUBIN, 90), (PTX, 80)], 1),
        (89, [(CUBIN, 80), (CUBIN, 86), (CUBIN, 90), (PTX, 80)], 1),
        (86, [(CUBIN, 89), (CUBIN, 80), (PTX, 80)], 1),
        (121, [(CUBIN, 120), (CUBIN, 100), (PTX, 80)], 0),
        (103, [(CUBIN, 90), (CUBIN, 100), (CUBIN, 120), (PTX, 80)], 1),
        (100, [(CUBIN, 90), (CUBIN, 120), (PTX, 80)], 2),
        (90, [(PTX, 75), (PTX, 100), (PTX, 90), (PTX, 80)], 2),
        (75, [(CUBIN, 80), (PTX, 75)], 1),
    ],
)
def test_image_is_chosen(mock, tmp_path, sm, images, taken):
    """Only the right one has the kernel."""
    mock(sm=sm)
    made = [mock_image(kind, of, ["scale"] if i == taken else []) for i, (kind, of) in enumerate(images)]
    toy = scale(coded(*made))
    with toy.load(tmp_path / "a.moss") as model, model.session() as session:
        session.decode(0)
        assert toy.get(session, "x")[0] == 1
        assert model.device["n_built"] == ("1" if images[taken][0] == PTX else "0")
        assert model.device["n_cached"] == "0"


@pytest.mark.parametrize("images", [[(CUBIN, 75), (CUBIN, 90)], [(CUBIN, 100), (PTX, 90)]])
def test_no_image_fits(mock, tmp_path, images):
    mock(sm=89)
    with pytest.raises(ArtifactError, match=r"none of the 2 images of CODE is for sm_89"):
        scale(coded(*(mock_image(kind, of, ["scale"]) for kind, of in images))).load(tmp_path / "a.moss")


def test_ptx_that_the_driver_is_too_old_for(mock, tmp_path):
    newer, older = mock_image(PTX, 90, ["scale"], "newer"), mock_image(PTX, 80, ["scale"])
    with scale(coded(newer, older)).load(tmp_path / "a.moss") as model:
        assert model.device["n_built"] == "1"
    text = r"driver, of CUDA 13\.0, takes none of the model's 1 images for sm_90: PTX: CUDA_ERROR_UNSUPPORTED_PTX_VER"
    with pytest.raises(ArtifactError, match=text):
        scale(coded(newer)).load(tmp_path / "a.moss")


def test_the_compiler_says_what_is_wrong(mock, tmp_path):
    broken = mock_image(PTX, 80, ["scale"], "error: unknown instruction 'mov.q'", "and more")
    with pytest.raises(ArtifactError, match=r"INVALID_PTX .*; error: unknown instruction 'mov\.q'$"):
        scale(coded(broken)).load(tmp_path / "a.moss")


@pytest.mark.parametrize(
    ("code", "match"),
    [
        pytest.param(code, match, id=name)
        for name, code, match in (
            ("short", b"\1\0\0\0", "CODE of 4 bytes begins with no table"),
            ("none", struct.pack("<II", 0, 0) + bytes(64), "begins with no table"),
            ("many", struct.pack("<II", 65, 0) + bytes(65 * 24), "begins with no table"),
            ("reserved", struct.pack("<II", 1, 1) + bytes(64), "begins with no table"),
            ("cut", struct.pack("<II", 1, 0) + bytes(23), "begins with no table"),
            ("kind", struct.pack("<IIIIQQ", 1, 0, 2, 90, 32, 8) + bytes(8), "of kind 2, expected 0 or 1"),
            ("empty", struct.pack("<IIIIQQ", 1, 0, 0, 90, 32, 0) + bytes(8), "0 bytes at 32 do not fit into 40"),
            ("beyond", struct.pack("<IIIIQQ", 1, 0, 0, 90, 32, 9) + bytes(8), "9 bytes at 32 do not fit into 40"),
            ("overflow", struct.pack("<IIIIQQ", 1, 0, 0, 90, 1 << 63, 1 << 63) + bytes(8), "do not fit into 40"),
            ("kernel", cubin.encode([mock_image(CUBIN, 90, ["add"])]), "KERNEL 0: the code has no kernel scale"),
        )
    ],
)
def test_damaged_images(mock, tmp_path, code, match):
    with pytest.raises(ArtifactError, match=match):
        scale(dataclasses.replace(MOCK, code=lambda kernels: places(code, kernels))).load(tmp_path / "a.moss")


# ---- What a device allows ----


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"block": (1, 1, 65)}, r"scale needs groups of 65 threads in dimension 2, the device allows 64"),
        ({"local_bytes": 101377}, r"scale needs 101377 bytes of local memory, the device allows 101376"),
    ],
)
def test_kernels_beyond_the_device(mock, tmp_path, changes, match):
    with pytest.raises(ArtifactError, match=match):
        scale().load(tmp_path / "a.moss", changes={"scale": changes})


def test_grid_beyond_the_device(mock, tmp_path):
    toy = scale()
    plan = toy.plan({}, {})
    steps = [dataclasses.replace(step, grid=(1, 65536, 1)) for step in plan.steps]
    mock.patch.setattr(toy, "plan", lambda changes, meta: dataclasses.replace(plan, steps=steps))
    with pytest.raises(ArtifactError, match=r"STEP 0 needs 65536 groups in dimension 1, the device allows 65535"):
        toy.load(tmp_path / "a.moss")


def test_kernel_that_needs_many_registers(mock, tmp_path):
    mock.patch.setitem(KERNELS, "greedy", KERNELS["scale"])
    toy = Toy(MOCK)
    toy.step("greedy", "logits")
    with pytest.raises(ArtifactError, match=r"greedy needs groups of 64 threads, the device runs it with 32"):
        toy.load(tmp_path / "a.moss")


@pytest.mark.parametrize("kernel", ["reverse", "fixed_reverse", "mixed_reverse"])
def test_local_memory_of_the_launch_and_of_the_kernel(mock, tmp_path, kernel):
    """The mock refuses a launch that gives a kernel more or less than it lacks."""
    mock.patch.setitem(KERNELS, kernel, KERNELS["reverse"])
    toy = Toy(MOCK)
    toy.weight("w", numbers(1))
    toy.step(kernel, "w", "logits")
    with toy.load(tmp_path / "a.moss") as model, model.session() as session:
        assert np.array_equal(session.decode(0), toy.weights["w"][::-1])


def test_architecture_as_a_feature(mock, tmp_path):
    for features in ("", "sm_80", "sm_75,sm_90"):
        CompiledModel(scale().save(tmp_path / "a.moss", features=features)).close()
    for features in ("sm_80,sm_91,fp16", "sm_91,sm_,fp16,sm_9x,sm_0"):
        missing = features.removeprefix("sm_80,").replace(",", ", ")
        with pytest.raises(
            ArtifactError, match=f"Mock GPU A, an sm_90, does not have what the model needs: {missing}$"
        ):
            CompiledModel(scale().save(tmp_path / "a.moss", features=features))


def test_model_larger_than_the_device(mock, tmp_path):
    mock(memory=4096)
    with pytest.raises(ArtifactError, match=r"the model and one session need \d+ bytes, Mock GPU A has 4096"):
        scale().load(tmp_path / "a.moss")


# ---- Running ----


def test_without_graphs(mock, tmp_path):
    """A driver older than CUDA 11.4: entries are launched step by step."""
    mock.patch.setenv("MOSSNET_CUDA_LIB", mock_library("libold_cuda.so", "-DFAKE_WITHOUT_GRAPHS"))
    toy = chain(MOCK, 3)
    with toy.load(tmp_path / "a.moss") as model, model.session() as session:
        assert np.array_equal(session.decode(0), toy.weights["w"] + 7)
        session.run(DECODE, 1, 1)
        assert toy.get(session, "x")[0] == 15


def test_more_than_the_staging_memory_holds(mock, tmp_path):
    """The buffers of IO are small, so 64 KiB are staged at once; a state of 12 MiB is no view of them either."""
    toy = scale()
    toy.buffer("big", Region.STATE, 3 * BIG)
    values = numbers(2, 3 * BIG)
    with toy.load(tmp_path / "a.moss") as model, model.session() as session:
        toy.put(session, "big", values)
        toy.put(session, "x", values[:256])
        session.decode(0)
        with session.fork() as fork:
            assert np.array_equal(toy.get(fork, "big"), values)
            assert np.array_equal(toy.get(fork, "x"), 2 * values[:256] + 1)
            toy.put(fork, "big", values[::-1])
            session.restore(fork.save())
        assert np.array_equal(toy.get(session, "big"), values[::-1])


def test_times_are_the_device_s(mock, tmp_path):
    """The mock counts a microsecond for a group and copies 100 GB in a second."""
    toy = Toy(MOCK)
    toy.buffer("a", Region.ARENA)
    toy.step("scale", "a")
    toy.step("reverse", "a", "logits")
    with toy.load(tmp_path / "a.moss") as model, model.session() as session:
        assert session.profile(DECODE, 3) == pytest.approx([4e-6, 1e-6], rel=1e-4)
        assert model.bandwidth(1 << 20, 3) == pytest.approx(200e9, rel=1e-3)


# ---- Failures ----


def test_an_illegal_access_loses_the_device(mock, tmp_path):
    toy = scale()
    with toy.load(tmp_path / "a.moss") as model:
        with model.session() as session, model.session() as other:
            session.decode(0)
            mock(fault="fault:2")
            session.decode(0)
            with pytest.raises(DeviceError, match=r"the device failed and is lost: CUDA_ERROR_ILLEGAL_ADDRESS \(700\)"):
                session.decode(0)
            calls: list[Callable[[], object]] = [
                lambda: session.decode(0),
                lambda: other.decode(0),
                lambda: other.save(),
                lambda: toy.get(other, "w"),
                lambda: other.profile(DECODE, 1),
            ]
            for call in calls:
                with pytest.raises(DeviceError, match="the device was lost: a new session opens it anew"):
                    call()
            other.reset()
            with model.session() as new:
                new.decode(0)
                assert toy.get(new, "x")[0] == 1
                assert np.array_equal(toy.get(new, "w"), toy.weights["w"]), "the weights are there again"
                assert model.bandwidth(1 << 20, 1) > 0
        left = mock.live()
        with model.session() as again:
            again.decode(0)
        assert mock.live() == left, "the new device serves the next session too"


def test_bandwidth_opens_a_lost_device(mock, tmp_path):
    with scale().load(tmp_path / "a.moss") as model:
        with model.session() as session:
            mock(fault="fault:1")
            with pytest.raises(DeviceError):
                session.decode(0)
        assert model.bandwidth(1 << 20, 1) > 0


def test_a_context_that_others_lost(mock, tmp_path):
    """Everyone in a process shares the primary context; there is another way."""
    mock(broken=1)
    toy = scale()
    with toy.load(tmp_path / "a.moss") as model, model.session() as session:
        session.decode(0)
        assert toy.get(session, "x")[0] == 1


def test_no_memory(mock, tmp_path):
    """Whichever allocation fails, what was made before it is gone."""
    toy = scale()
    failed = 0
    for n in range(1, 9):
        mock(fault=f"memory:{n}")
        try:
            with toy.load(tmp_path / "a.moss") as model, model.session():
                assert mock.live()
                with pytest.raises(MossnetError, match="no memory for 1048576 bytes on the device"):
                    for _ in range(9):
                        model.bandwidth(1 << 20, 1)
        except MossnetError as error:
            assert "no memory for" in str(error) and "are free" in str(error)
            failed += 1
        assert mock.live() == 0
    assert failed == 4, "weights and three regions"


def test_no_memory_of_the_host(mock, tmp_path):
    """Missing memory is no broken device: what runs goes on."""
    toy = scale()
    with toy.load(tmp_path / "a.moss") as model, model.session() as session:
        mock(fault="pinned:1")
        with pytest.raises(MossnetError, match=r"allocating memory of the host: CUDA_ERROR_OUT_OF_MEMORY") as error:
            model.session()
        assert not isinstance(error.value, DeviceError)
        session.decode(0)
        assert toy.get(session, "x")[0] == 1


def test_a_launch_that_is_refused(mock, tmp_path):
    """While an entry is recorded, and later."""
    toy = chain(MOCK, 3)
    with toy.load(tmp_path / "a.moss") as model:
        mock(fault="launch:2")
        with pytest.raises(DeviceError, match=r"launching a kernel: CUDA_ERROR_INVALID_VALUE \(1\)"):
            model.session()
        with model.session() as session:
            assert np.array_equal(session.decode(0), toy.weights["w"] + 7)
            mock(fault="launch:1")
            with pytest.raises(DeviceError, match="launching a kernel"):
                session.run(DECODE, 0, 1)


def test_memory_of_the_device_runs_out(mock, tmp_path):
    mock(memory=3 << 20)
    toy = scale()
    toy.buffer("big", Region.ARENA, BIG // 4)
    with toy.load(tmp_path / "a.moss") as model, model.session() as first, model.session() as second:
        with pytest.raises(MossnetError, match=r"no memory for \d+ bytes on the device, \d+ of its 3145728 are free"):
            model.session()
        second.close()
        first.decode(0)
        with model.session() as third:
            third.decode(0)


def test_a_run_that_ends_late(mock, tmp_path):
    """The device counts as lost, but what it held is freed."""
    toy = Toy(MOCK)
    toy.buffer("count", Region.IO, 1, I32)
    toy.buffer("out", Region.STATE, 1, I32)
    toy.step("slow", "count", "out")
    with toy.load(tmp_path / "a.moss") as model, model.session() as session:
        n = iterations(toy, session, 0.6)
    with toy.load(tmp_path / "a.moss", timeout_s=0.1) as model:
        with model.session() as session, model.session() as other:
            toy.put(session, "count", np.array([n], np.int32))
            with pytest.raises(DeviceError, match="did not finish within 100 ms and is lost"):
                session.decode(0)
            other.close()
            with model.session() as new:
                new.decode(0)
            while mock.library.fake_cuda_busy():
                time.sleep(0.01)
        assert mock.live() > 0, "the model's new context"


def test_a_run_that_never_ends(mock, tmp_path):
    """Nothing waits for it: neither a session that is freed nor the model. In a process of its own, which it spoils."""
    path = scale().save(tmp_path / "a.moss")
    program = """
import os, sys, time
from mossnet_tg.engine import CompiledModel
from mossnet_tg.errors import DeviceError
model = CompiledModel(sys.argv[1], timeout_s=2)
session, other = model.session(), model.session()
os.environ["FAKE_CUDA_FAULT"] = "hang:1"
start = time.monotonic()
for n, used in enumerate((session, session, other)):
    try:
        used.decode(0)
        sys.exit("no error")
    except DeviceError as error:
        print(error)
other.close()
new = model.session()
new.decode(0)
session.close()
model.session().decode(0)
new.close()
model.close()
print(1.9 < time.monotonic() - start < 3.8)
"""
    run = subprocess.run(
        [sys.executable, "-c", program, path], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    lost = "the device was lost: a new session opens it anew"
    expected = ["the device did not finish within 2000 ms and is lost", lost, lost, "True"]
    assert (run.returncode, run.stdout.splitlines()) == (0, expected), run.stderr


def test_two_models_in_one_process(mock, tmp_path):
    """They share the device's primary context; what one frees is gone though the other stays."""
    toy = scale()
    with toy.load(tmp_path / "a.moss") as first, first.session() as session:
        left = mock.live()
        with toy.load(tmp_path / "a.moss") as second, second.session() as other:
            other.decode(0)
            session.decode(0)
            session.decode(0)
            assert (toy.get(other, "x")[0], toy.get(session, "x")[0]) == (1, 3)
        assert mock.live() == left
        session.decode(0)


def test_every_thread_leaves_what_it_entered(mock, tmp_path):
    toy = scale()
    depths = []
    with toy.load(tmp_path / "a.moss") as model, model.session() as session:

        def work() -> None:
            session.decode(0)
            with pytest.raises(MossnetError, match="no memory"):
                model.bandwidth(1 << 40, 1)
            depths.append(mock.depth())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert depths == [0]


# ---- CUDA C ----


def test_toy_kernels_compile():
    if not any(cubin.compilers()):
        pytest.skip("no CUDA compiler: pip install 'mossnet-tg[cuda]', or a toolkit's nvcc")
    assert all(name.encode() in cubin.images(cuda.source(list(SOURCES)), [80, 90]) for name in SOURCES)


@pytest.mark.device
@pytest.mark.parametrize("kind", list(Kind))
def test_each_kind_of_image_on_a_gpu(tmp_path, kind):
    if reason := cuda.unavailable():
        pytest.skip(reason)
    sm = cuda.architecture()

    def code(kernels: list[str]) -> Any:
        image = cubin.compiler([sm]).compile(cuda.source(kernels), sm, kind)
        return places(cubin.encode([cubin.Image(kind, sm, image)]), kernels)

    toy = chain(dataclasses.replace(DRIVER, code=code), 3)
    for entry in EntryKind.DECODE, EntryKind.PREFILL:
        toy.step("reverse", "w", "logits", entry=entry)
    with toy.load(tmp_path / "a.moss") as model, model.session() as session:
        assert np.array_equal(session.decode(0), toy.weights["w"][::-1])
        assert toy.get(session, "x")[0] == 7
        assert model.device["n_built"] == ("3" if kind == PTX else "0")
