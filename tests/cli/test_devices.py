"""`--device` and the targets of GPUs: which device is taken, and what is said where there is none."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mossnet_tg import Model
from mossnet_tg.codegen import moss_file
from mossnet_tg.engine import Library
from mossnet_tg.errors import DeviceError, MossnetError, UsageError
from mossnet_tg.targets import devices
from tests.cli.conftest import GPUS, Run
from tests.cli.test_targets import ADRENO
from tests.devices import Row

OPENCL = GPUS[0]
PROMPT = "the quick"


@pytest.fixture
def text(run: Run, moss: Path) -> str:
    """What the tiny model says on the processor."""
    return run("generate", "-m", moss, "--allow-native", PROMPT, "-n", "8").stdout


def test_what_a_device_is_called() -> None:
    assert devices.split("opencl:pthread") == ("opencl", "pthread")
    assert devices.split("vulkan") == devices.split("vulkan:") == ("vulkan", "")
    assert devices.split("NVIDIA: a GPU") == ("", "NVIDIA: a GPU") and devices.split("") == ("", "")
    assert [devices.default_target(d) for d in ("", "cuda", "vulkan:arc")] == ["cpu", "cuda", "vulkan"]
    assert devices.wanted("x", "opencl", "adreno", "") == devices.wanted("x", "opencl", "adreno", "opencl:") == "adreno"
    assert devices.wanted("x", "opencl", "adreno", "opencl:arc") == devices.wanted("x", "opencl", "", "arc") == "arc"


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("--device", "arc"), "the device 'arc' names no driver, expected opencl:arc, vulkan:arc, cuda:arc"),
        (("--target", "vulkan", "--device", "opencl:arc"), "target vulkan runs through vulkan, --device 'opencl:arc'"),
        (("--target", "adreno", "--device", "vulkan"), "target adreno runs through opencl, --device 'vulkan' names"),
        (("--target", "cpu", "--device", "arc"), "target cpu runs on this machine's processor, --device 'arc' is for"),
        (("--target", "adreno:simd=4"), "target adreno: option 'simd=4' is not known, expected half"),
    ],
)
@pytest.mark.parametrize("verb", ["generate", "bench", "doctor"])
def test_devices_that_do_not_fit(
    run: Run, tiny: Path, cache: Path, verb: str, args: tuple[str, ...], text: str
) -> None:
    before = sorted(cache.iterdir())
    found = run(verb, *(("-m", tiny, PROMPT) if verb == "generate" else (tiny,)), *args)
    assert (found.exit_code, found.stdout) == (2, "") and text in found.stderr
    assert sorted(cache.iterdir()) == before


def test_uncompiled_models_take_no_device(run: Run, tiny: Path) -> None:
    found = run("generate", "-m", tiny, "--target", "tinygrad:PYTHON", "--device", "arc", PROMPT)
    assert found.exit_code == 2 and "tinygrad:PYTHON names its device itself" in found.stderr


def test_a_gpu_says_the_same(run: Run, tiny: Path, gpu: Row, text: str) -> None:
    for args in (("--target", gpu.name), ("--device", f"{gpu.name}:{gpu.device.upper()}"), ("--device", gpu.name)):
        found = run("generate", "-m", tiny, "--chunk", "8", *args, PROMPT, "-n", "8")
        assert (found.exit_code, found.stdout, found.stderr) == (0, text, ""), args


def test_a_model_file_for_a_gpu(run: Run, gpu: Row, gpu_moss: Path, text: str) -> None:
    """It holds no native code, so nothing is to be allowed."""
    for args in ((), ("--device", gpu.device), ("--device", f"{gpu.name}:{gpu.device}")):
        assert run("generate", "-m", gpu_moss, "--allow-native", PROMPT, "-n", "8", *args).stdout == text
    other = {"opencl": "vulkan", "vulkan": "opencl"}[gpu.name]
    found = run("generate", "-m", gpu_moss, "--allow-native", PROMPT, "--device", f"{other}:arc")
    assert (found.exit_code, found.stdout) == (2, "")
    assert f"model.moss: runs through {gpu.name}, --device '{other}:arc' names a device of {other}" in found.stderr
    nobody = run("generate", "-m", gpu_moss, "--allow-native", PROMPT, "--device", "GeForce 256")
    assert (nobody.exit_code, nobody.stdout) == (3, "")
    assert nobody.stderr.startswith(f"error: {gpu_moss}: no ") and "GeForce 256" in nobody.stderr
    assert f"hint: name one of these, or copy {gpu_moss} to a machine that has the device" in nobody.stderr


def test_a_model_file_for_the_processor_takes_no_device(run: Run, moss: Path) -> None:
    found = run("generate", "-m", moss, PROMPT, "--allow-native", "--device", "arc")
    assert found.exit_code == 2 and "model.moss: runs on this machine's processor" in found.stderr


def test_an_adreno_is_looked_for_and_others_are_taken_when_named(run: Run, tiny: Path, tmp_path: Path) -> None:
    OPENCL.require()
    names = [d["name"] for d in Library.default().devices("opencl")]
    if any("adreno" in name.lower() for name in names):
        pytest.skip("this machine has an Adreno")
    found = run("generate", "-m", tiny, "--target", "adreno", PROMPT)
    assert (found.exit_code, found.stdout) == (3, "")
    assert found.stderr.startswith("error: compiled, not run: no OpenCL device named adreno; there are: ")
    (file,) = re.findall(r"^hint: copy (\S+\.moss) to a Snapdragon phone", found.stderr, re.MULTILINE)
    assert moss_file.read(file).meta["target"] == "adreno"
    other = run("generate", "-m", tiny, "--target", "adreno", "--device", f"opencl:{names[0]}", PROMPT, "-n", "4")
    assert other.exit_code == 0 and other.stdout
    assert other.stderr == f"note: {names[0]} is no Adreno, for which the model was compiled\n"
    for args, code in (((), 3), (("--device", names[0]), 0)):
        again = run("generate", "-m", file, "--allow-native", PROMPT, "-n", "4", *args)
        assert (again.exit_code, again.stdout) == (code, other.stdout if not code else ""), again.stderr


def needs_cuda_compiler() -> None:
    from mossnet_tg.codegen.emit import cubin

    try:
        cubin.compiler((90,))
    except MossnetError as e:
        pytest.skip(str(e))


@pytest.mark.parametrize(
    ("target", "remedy"),
    [
        ("adreno", "copy FILE to a Snapdragon phone"),
        ("opencl", "pocl-opencl-icd), or copy FILE to"),
        ("vulkan", "mesa-vulkan-drivers), or copy FILE to"),
        ("cuda:arch=90", "install NVIDIA's driver, or copy FILE to"),
    ],
)
def test_compiled_where_nothing_runs_it(
    run: Run, tiny: Path, tmp_path: Path, no_driver: None, target: str, remedy: str
) -> None:
    if target.startswith("cuda"):
        needs_cuda_compiler()
    kind = target.partition(":")[0]
    found = run("generate", "-m", tiny, "--target", target, "--chunk", "8", PROMPT)
    assert (found.exit_code, found.stdout) == (3, "")
    assert re.match("error: compiled, not run: .*/nowhere/lib.so", found.stderr)
    (file,) = re.findall(r"copy (\S+\.moss) to", found.stderr)
    assert f"hint: {'' if remedy.startswith('copy') else 'install '}" in found.stderr
    assert remedy.replace("FILE", file) in found.stderr
    assert moss_file.read(file).meta["target"].startswith(kind)
    again = run("generate", "-m", file, PROMPT)
    assert (again.exit_code, again.stdout) == (3, "")
    assert re.match(f"error: {re.escape(file)}: .*/nowhere/lib.so", again.stderr)
    assert remedy.replace("FILE", file) in again.stderr
    compiled = run("compile", tiny, "--target", target, "--chunk", "8", "--out", tmp_path)
    assert compiled.exit_code == 0 and compiled.stdout == f"{tmp_path / 'model.moss'}\n"
    assert re.search(r"nothing here runs it \(.*/nowhere/lib.so", compiled.stderr) and "it needs a" in compiled.stderr
    assert remedy.replace("FILE", str(tmp_path / "model.moss")) in compiled.stderr
    for verb in ("bench", "doctor"):
        assert run(verb, tiny, "--target", target, "--chunk", "8").exit_code == 3


def test_what_a_compiled_file_needs_and_where_it_runs(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Library, "devices", lambda library, driver: [ADRENO])
    file = tmp_path / "model.moss"
    found = run("compile", tiny, "--target", "adreno", "--chunk", "8", "--out", tmp_path)
    assert "it needs an Adreno GPU with OpenCL 1.2, groups of 128 threads that share" in found.stderr
    assert f"here {ADRENO['name']} can run it: mossnet-tg generate -m {file}\n" in found.stderr
    monkeypatch.setattr(Library, "devices", lambda library, driver: [{**ADRENO, "name": "a CPU", "type": "cpu"}])
    other = run("compile", tiny, "--target", "adreno", "--chunk", "8", "--out", tmp_path)
    assert "nothing here has all of that (there are: a CPU): copy" in other.stderr
    monkeypatch.setattr(Library, "devices", lambda library, driver: [{**ADRENO, "max_block": "64"}])
    small = run("compile", tiny, "--target", "adreno", "--chunk", "8", "--out", tmp_path)
    assert f"nothing here has all of that (there are: {ADRENO['name']}): copy" in small.stderr
    monkeypatch.setattr(Library, "devices", lambda library, driver: [{**ADRENO, "type": "cpu"}])
    vectors = run("compile", tiny, "--target", "opencl", "--chunk", "8", "--out", tmp_path)
    assert "for opencl:simd=" in vectors.stderr and "--target opencl:simd=0 makes them for GPUs" in vectors.stderr
    assert "it needs a device with OpenCL 1.2\n" in vectors.stderr


def test_cuda_without_a_compiler(run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mossnet_tg.codegen.emit import cubin

    monkeypatch.setattr(cubin, "compilers", lambda: iter(()))
    found = run("compile", tiny, "--target", "cuda:arch=89", "--chunk", "8", "--out", tmp_path)
    assert (found.exit_code, found.stdout) == (1, "") and not list(tmp_path.iterdir())
    assert "error: neither NVRTC nor nvcc is on this machine" in found.stderr and "hint: pip install" in found.stderr
    assert run("compile", tiny, "--target", "cuda:arch=ada", "--out", tmp_path).exit_code == 2


def test_stats_of_a_gpu(run: Run, gpu: Row, gpu_device: dict[str, str], gpu_moss: Path) -> None:
    name, args = gpu_device["name"], ("generate", "-m", gpu_moss, "--allow-native", "--device", gpu.device, PROMPT)
    found = run(*args, "-n", "4", "--stats", "-t", "2")
    warning, *lines = found.stderr.splitlines()
    assert warning == "warning: --threads is for the processor; a GPU takes what it needs"
    assert [line.split()[0] for line in lines] == ["device", "load", "build", "upload", "prompt", "first", "decode"]
    assert lines[0].startswith(f"device       {name} (") and re.search(r"\d+ kernels, \d+ built before", lines[2])
    load, build, upload = (float(line.split()[1]) for line in lines[1:4])
    assert build + upload <= load + 0.002
    assert f"device: {name} (" in run(*args, "-n", "1", "-v").stderr


def test_a_device_from_python(tiny: Path, moss: Path, gpu: Row, gpu_device: dict[str, str]) -> None:
    name = gpu_device["name"]
    expected = Model.load(moss, allow_native=True).logits([1, 2, 3])
    model = Model.load(tiny, device=f"{gpu.name}:{name}", chunk=8)
    assert model.meta("driver") == gpu.name and model.engine.device["name"] == name
    assert abs(model.logits([1, 2, 3]) - expected).max() < 1e-3 * abs(expected).max()
    with pytest.raises(UsageError, match="names no driver"):
        Model.load(tiny, device=name)
    with pytest.raises(DeviceError, match=r"compiled, not run: no .*GeForce 256"):
        Model.load(tiny, device=f"{gpu.name}:GeForce 256", chunk=8)


def test_a_device_that_fails_is_not_one_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Library, "devices", lambda library, driver: [ADRENO])

    def hint(name: str, device: str) -> str | None:
        error = DeviceError("/x.moss: it gives no context")
        found = devices.explained(error, "compiled, not run", "/x.moss", "opencl", name, device, "buy {file}")
        assert str(found) == "compiled, not run: it gives no context"
        return found.hint

    assert "update the device's driver" in str(hint("adreno", "")) and "update" in str(hint("", ""))
    assert hint("arc", "opencl:arc") == "name one of these, or copy /x.moss to a machine that has the device"
    assert hint("mali", "") == "buy /x.moss"


def test_a_damaged_file_for_a_gpu(run: Run, gpu_moss: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.moss"
    cut.write_bytes(gpu_moss.read_bytes()[:-1])
    found = run("generate", "-m", cut, PROMPT)
    assert found.exit_code == 4 and "cut short or damaged" in found.stderr


def test_a_start_from_the_cache_loads_no_compiler(
    tiny: Path, gpu: Row, gpu_moss: Path, loads: Callable[..., set[str]]
) -> None:
    args = ("generate", PROMPT, "-n", "2", "-m", str(tiny), "--target", gpu.target, "--device", gpu.device)
    assert loads(*args, "--chunk", "8") <= {"numpy", "tokenizers"}
