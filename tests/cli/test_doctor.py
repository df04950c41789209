"""`mossnet-tg doctor`: what passes, what is found, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mossnet_tg import Model
from mossnet_tg.codegen import doctor as examination
from mossnet_tg.codegen import moss_file
from mossnet_tg.codegen.remedy import remembered
from mossnet_tg.engine import Session
from mossnet_tg.errors import DeviceError, UsageError
from tests.cli.conftest import GPUS, Run
from tests.devices import Row

OPENCL = GPUS[0]
VECTORS = Row("opencl", "opencl:simd=8", "pthread")

# In the code of RmsNorm, what becomes another number of the same length: 1 / sqrt(...) is 1.125 / sqrt(...).
_ONE = {"opencl": (b"1.0f / sqrt", b"1.1f / sqrt"), "vulkan": (struct.pack("<f", 1), struct.pack("<f", 1.125))}


def with_code(source: Path, path: Path, kernel: str, change: Callable[[bytes], bytes]) -> Path:
    """A compiled model with other code for the kernels whose names hold `kernel`, sealed anew."""
    found = moss_file.read(source)
    code = bytearray(found.code)
    for k in found.kernels:
        if kernel in k.name:
            span = slice(k.code_offset, k.code_offset + k.code_bytes)
            changed = change(bytes(code[span]))
            assert len(changed) == k.code_bytes and changed != code[span]
            code[span] = changed
    moss_file.write(path, dataclasses.replace(found, code=bytes(code)), [(0, moss_file.read_weights(source))])
    return path


def test_every_kernel_of_a_gpu_is_right(run: Run, tiny: Path, gpu: Row, gpu_device: dict[str, str]) -> None:
    device = gpu_device
    found = run("doctor", tiny, "--target", gpu.target, "--device", gpu.device, "--chunk", "8")
    assert found.exit_code == 0 and found.stderr == "", found.stderr
    text = found.stdout
    assert f"device   {device['name']}\n" in text and f"driver   {device['driver']}, {device['api']}\n" in text
    assert "limits   " in text and ", chunk 8, needs " in text and "against  cpu:arch=" in text
    assert re.search(r"code +\d+ kernels, .*; \d+ built in \d+\.\d\d s, \d+ built before\n", text)
    assert re.search(
        r"^  k\d+_RoutedScan +RoutedScan\(ssm\.A\) +decode +2  \d\.\de-\d\d +2e-04  pass$", text, re.MULTILINE
    )
    assert "layers." not in text and "FAIL" not in text
    assert re.search(r"\npass: \d+ kernels in \d+ steps, worst error \d\.\de-\d\d\n$", text)


def test_json_has_what_the_table_has(
    run: Run, tiny: Path, gpu: Row, gpu_moss: Path, gpu_device: dict[str, str]
) -> None:
    found = run("doctor", gpu_moss, "--allow-native", "--against", tiny, "--device", gpu.device, "--json")
    assert found.exit_code == 0, found.stderr
    facts = json.loads(found.stdout)
    assert facts["passed"] is True and facts["device"]["name"] == gpu_device["name"]
    assert facts["compared_with"].startswith("cpu:")
    moss = moss_file.read(gpu_moss)
    assert {name for row in facts["kernels"] for name in row["kernels"]} == {k.name for k in moss.kernels}
    cpu_steps = sum(row["steps"] for row in facts["kernels"])
    assert 0 < cpu_steps <= len(moss.steps)  # several kernels of a GPU may be one of the processor
    assert {entry for row in facts["kernels"] for entry in row["entries"]} == {"prefill", "decode", "score"}
    assert all(
        row["error"] <= row["allowed"] == examination.TOLERANCE and row["what"] and row["buffer"]
        for row in facts["kernels"]
    )


@pytest.mark.parametrize("entry", ["prefill", "decode", "score"])
def test_one_entry(run: Run, tiny: Path, gpu_moss: Path, entry: str) -> None:
    found = run("doctor", gpu_moss, "--allow-native", "--against", tiny, "--entry", entry, "--json")
    rows = json.loads(found.stdout)["kernels"]
    assert found.exit_code == 0 and {tuple(row["entries"]) for row in rows} == {(entry,)}


@pytest.mark.parametrize("against", ["checkpoint", "file"])
def test_a_wrong_kernel_is_found(
    run: Run, tiny: Path, gpu: Row, gpu_moss: Path, gpu_device: dict[str, str], tmp_path: Path, against: str
) -> None:
    path = with_code(gpu_moss, tmp_path / "wrong.moss", "RmsNorm", lambda code: code.replace(*_ONE[gpu.name]))
    other = tiny
    if against == "file":  # nothing is compiled then
        run("compile", tiny, "--chunk", "8", "--out", tmp_path)
        other = tmp_path / "model.moss"
    args = ("doctor", path, "--allow-native", "--device", gpu.device, "--against", other)
    found = run(*args)
    assert found.exit_code == 1, found.stdout
    rows = [line for line in found.stdout.splitlines() if re.match(r"  k\d", line)]
    assert rows and all(line.endswith("FAIL" if "RmsNorm(" in line else "pass") for line in rows)
    assert re.search(r"\nFAIL: 2 of \d+ kernels in \d+ steps, worst error 1\.\de-01\n$", found.stdout)
    said = rf"error: {re.escape(gpu_device['name'])} computes k\d+_RmsNorm, k\d+_RmsNorm wrong\n"
    assert re.match(rf"{said}hint: try --target {gpu.name}:plain=RmsNorm; update .*--json says\n", found.stderr)
    facts = json.loads(run(*args, "--json").stdout)
    assert facts["passed"] is False and sum(not row["passed"] for row in facts["kernels"]) == 2


def test_what_helps_is_kept(run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class of kernels that passed when it was plain is plain on that device from then on, and on no other."""
    OPENCL.require()
    monkeypatch.setenv("MOSSNET_CACHE_DIR", str(tmp_path / "cache"))
    where = ("--device", OPENCL.device, "--chunk", "8")
    found = run("doctor", tiny, "--target", "adreno:plain=RoutedScan", *where)
    assert found.exit_code == 0 and "kept: this device's RoutedScan are made plainly" in found.stderr, found.stderr
    assert Model.load(tiny, "adreno", device=OPENCL.device, chunk=8).meta("target") == "adreno:plain=RoutedScan"
    (kept,) = (tmp_path / "cache" / "remedies").iterdir()
    assert json.loads(kept.read_text())["plain"] == ["RoutedScan"]
    content = json.loads(kept.read_text())
    device = {"name": content["device"], "driver": content["driver"]}
    assert remembered("opencl", device) == ("RoutedScan",)
    assert remembered("opencl", {**device, "driver": "another"}) == ()
    kept.write_text("no JSON")
    assert remembered("opencl", device) == ()


def test_what_is_suggested() -> None:
    from mossnet_tg.cli.doctor import _plainer

    assert _plainer("vulkan", ["k3_product"]) == "try --target vulkan:plain=product"
    several = ["k9_RoutedScan", "k9_RoutedScan_sum", "k3_product"]
    assert _plainer("adreno:half=1,plain=product", several) == "try --target adreno:half=1,plain=RoutedScan+product"
    assert _plainer("adreno:plain=RoutedScan+product", several) is None and _plainer("cpu:arch=x86_64", several) is None


def test_float16_may_be_further_off(run: Run, tiny: Path) -> None:
    vulkan = GPUS[1]
    vulkan.require()
    args = ("--device", vulkan.device, "--chunk", "8", "--json")
    found = run("doctor", tiny, "--target", f"{vulkan.target}:half=1", *args)
    rows = json.loads(found.stdout)["kernels"]
    assert {row["allowed"] for row in rows if "decode" in row["entries"]} == {examination.TOLERANCE}
    loose = [row for row in rows if row["allowed"] == examination.HALF_TOLERANCE]
    assert loose and all(re.search("product|ExpertMatmul", row["kernels"][0]) for row in loose)
    assert found.exit_code == 0, found.stderr


def test_a_wrong_kernel_in_the_cache_is_found(run: Run, tiny: Path, tmp_path: Path) -> None:
    """The checkpoint and --target are enough for what `generate` would run."""

    VECTORS.require()
    cached = Model.load(tiny, VECTORS.target, device=VECTORS.device, chunk=8).path
    assert cached is not None
    with_code(cached, cached, "CausalConv", lambda code: code.replace(b"0.6931472f", b"0.5931472f"))
    found = run("doctor", tiny, "--target", VECTORS.target, "--device", VECTORS.device, "--chunk", "8", "-v")
    cached.unlink()
    assert found.exit_code == 1 and found.stdout.count("FAIL\n") == found.stdout.count("_CausalConv ") > 0
    assert re.search(r"step \d+/\d+: prefill layers\.1\.CausalConv\(\S+, error \d\.\de\S+ in prefill/", found.stderr)


@pytest.fixture
def threads(tiny: Path) -> Path:
    """The tiny model in OpenCL C for threads."""

    OPENCL.require()
    path = Model.load(tiny, OPENCL.target, device=OPENCL.device, chunk=8).path
    assert path is not None
    return path


def test_a_kernel_that_makes_no_numbers(run: Run, tiny: Path, threads: Path, tmp_path: Path) -> None:
    path = with_code(threads, tmp_path / "nan.moss", "RmsNorm", lambda code: code.replace(b"1.0f / ", b"NAN  / "))
    found = run("doctor", path, "--allow-native", "--against", tiny, "--device", OPENCL.device, "--json")
    assert found.exit_code == 1
    assert {row["error"] for row in json.loads(found.stdout)["kernels"] if not row["passed"]} == {None}


def test_a_kernel_that_does_not_build(run: Run, tiny: Path, threads: Path, tmp_path: Path) -> None:
    path = with_code(threads, tmp_path / "broken.moss", "RmsNorm", lambda code: code.replace(b"sqrt", b"sqrd"))
    found = run("doctor", path, "--allow-native", "--against", tiny, "--device", OPENCL.device)
    assert (found.exit_code, found.stdout) == (4, "") and "RmsNorm does not build on" in found.stderr


def test_a_device_that_is_lost_names_the_kernel(
    run: Run, tiny: Path, gpu_moss: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = Session.run

    def lose(session: Session, entry: int, first: int, n: int) -> None:
        if session.model.meta("driver") != "cpu" and first == 3:
            raise DeviceError("the device was lost", "start anew")
        ran(session, entry, first, n)

    monkeypatch.setattr(Session, "run", lose)
    found = run("doctor", gpu_moss, "--allow-native", "--against", tiny)
    assert (found.exit_code, found.stdout) == (3, "")
    assert re.match(
        r"error: k\d+_\w+, layers\.0\.\S+ of prefill: the device was lost\nhint: start anew\n", found.stderr
    )


def test_another_processor(run: Run, tiny: Path) -> None:
    from mossnet_tg.engine import Library

    target = "cpu:mcpu=x86-64-v2" if Library.default().cpu_arch == "x86_64" else "cpu"
    found = run("doctor", tiny, "--target", target, "--chunk", "8")
    assert found.exit_code == 0 and "\npass: " in found.stdout and "driver " not in found.stdout
    assert re.search(rf"target +\S*{target.partition('=')[2]}, chunk 8, needs ", found.stdout)


def test_attention_that_holds_less_than_the_entries_read(tmp_path: Path, run: Run) -> None:
    """Each entry is examined whole, from the start again where it would not fit behind the one before."""
    torch = pytest.importorskip("torch")
    from mossnet_tg.config import Config
    from mossnet_tg.weights.reference.model import MossNet

    experts = {"n_experts": 4, "top_k": 2}
    parts: dict[str, Any] = {"ssm": {**experts, "d_state": 4}, "mlp": {**experts, "d_ff": 8}}
    parts["swa"] = {"layers": [1], "window": None, "n_heads": 2, "n_kv_heads": 1, "head_dim": 8}
    config = {"model_type": "mossnet", "d_model": 24, "n_layer": 2, "vocab_size": 64, **parts}
    torch.manual_seed(0)
    MossNet(Config.from_dict(config)).save(tmp_path / "attention")
    target = "cpu:mcpu=x86-64-v2"
    found = run("doctor", tmp_path / "attention", "--target", target, "--chunk", "8", "--context", "9")
    assert found.exit_code == 0 and "SwaAttention" in found.stdout, found.stderr
    assert [examination._fitting(position, 8, context) for position, context in ((8, 16), (9, 16), (9, 0))] == [8, 0, 9]
    with pytest.raises(UsageError, match="a chunk of 8 tokens does not fit into a context of 5"):
        examination._fitting(0, 8, 5)


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (("TINY",), 2, "no --target and no --device, so nothing to check"),
        (("MOSS",), 2, "a compiled model, and nothing to compare it with"),
        (("TINY", "--target", "vulkan", "--against", "MOSS"), 2, "--against is for a compiled model"),
        (("MOSS", "--against", "TINY"), 2, "processor, with your rights"),
        (("TINY", "--target", "tinygrad:CPU"), 2, "runs a model uncompiled"),
        (("MOSS", "--allow-native", "--against", "OTHER"), 2, "not the checkpoint that the compiled model was made of"),
        (("MOSS", "--allow-native", "--against", "GONE"), 2, "GONE: not found"),
        (("TINY", "--target", "cpu", "--entry", "encode"), 2, "'encode' is not one of"),
    ],
)
def test_what_is_refused(
    run: Run, tiny: Path, moss: Path, tmp_path: Path, args: tuple[str, ...], code: int, text: str
) -> None:
    places = {"TINY": str(tiny), "MOSS": str(moss), "GONE": str(tmp_path / "GONE"), "OTHER": str(tmp_path / "other")}
    if "OTHER" in args:
        from safetensors.torch import load_file, save_file

        shutil.copytree(tiny, tmp_path / "other")
        tensors = load_file(tiny / "model.safetensors")
        tensors["norm_f.weight"][0] += 1
        save_file(tensors, tmp_path / "other" / "model.safetensors")
    found = run("doctor", *(places.get(a, a) for a in args))
    assert (found.exit_code, found.stdout) == (code, "") and text in found.stderr


def test_twins_must_be_alike(run: Run, gpu: Row, gpu_moss: Path, moss: Path) -> None:
    chunk = run("doctor", gpu_moss, "--against", moss, "--allow-native")
    assert chunk.exit_code == 2 and "compiled with --chunk 128, the other with 8" in chunk.stderr
    itself = run("doctor", gpu_moss, "--allow-native", "--against", gpu_moss)
    assert (
        itself.exit_code == 2
        and f"compiled for {gpu.name}, expected a checkpoint or a model.moss for the cpu" in itself.stderr
    )
