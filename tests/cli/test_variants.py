"""One file for several targets: what runs it, what is said of the others, and what they share."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mossnet_tg import Model
from mossnet_tg.codegen import moss_file
from mossnet_tg.engine import CompiledModel
from mossnet_tg.errors import MossnetError, UsageError
from mossnet_tg.targets.table import split_targets
from tests.cli.conftest import Run
from tests.devices import ROWS

PROMPT = ("the quick", "-n", "12")
DEVICES = {row.name: f"{row.resolved.driver}:{row.device}" for row in ROWS if row.available}


@pytest.fixture(scope="module")
def several(run: Run, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    done = run("compile", tiny, "--target", "adreno,vulkan,cpu", "--chunk", "8", "-o", folder)
    assert done.exit_code == 0, done.stderr
    return folder / "model.moss"


def test_every_processor() -> None:
    assert split_targets("vulkan,cpu:arch=aarch64,mcpu=all") == ["vulkan", "cpu:arch=aarch64,mcpu=generic"]
    found = split_targets("cpu:mcpu=all,arch=x86_64", quantised=True)
    assert [name.partition("mcpu=")[2] for name in found] == [
        "x86-64-v4,dot=avx512vnni", "x86-64-v4", "x86-64-v3,dot=avxvnni", "x86-64-v3", "x86-64-v2",
    ]  # fmt: skip
    assert [name.partition("mcpu=")[2] for name in split_targets("cpu:arch=x86_64,mcpu=all")] == [
        "x86-64-v4", "x86-64-v3", "x86-64-v2",
    ]  # fmt: skip
    for wrong in ("cpu:mcpu=all,dot=avx2", "cpu:arch=mips,mcpu=all"):
        with pytest.raises(UsageError, match="expected nothing but arch="):
            split_targets(wrong)


def test_a_processors_variant_is_named(run: Run, tiny: Path, tmp_path: Path) -> None:
    """The text of the best level here is that of the one that is compiled for this machine."""
    assert run("compile", tiny, "--target", "cpu:mcpu=all", "--chunk", "8", "-o", tmp_path).exit_code == 0
    found = run("generate", "-m", tmp_path / "model.moss", "--allow-native", *PROMPT, "-v")
    assert found.exit_code == 0 and found.stdout == run("generate", "-m", tiny, *PROMPT).stdout
    assert re.search(r"variant 1 of \d: cpu:arch=", found.stderr)


@pytest.fixture
def expected(run: Run, tiny: Path) -> str:
    text = run("generate", "-m", tiny, *PROMPT).stdout
    assert text
    return text


def test_the_weights_are_there_once(several: Path, run: Run) -> None:
    adreno, vulkan, cpu = moss_file.read_all(several)
    assert [one.meta["driver"] for one in (adreno, vulkan, cpu)] == ["opencl", "vulkan", "cpu"]
    assert adreno.weights_bytes == vulkan.weights_bytes == cpu.weights_bytes
    heads = sum(len(one.code) for one in (adreno, vulkan, cpu)) + (1 << 20)
    assert several.stat().st_size < adreno.weights_bytes + heads
    found = json.loads(run("inspect", several, "--json").stdout)
    assert [one["target"] for one in found["variants"]] == [one.meta["target"] for one in (adreno, vulkan, cpu)]
    assert "variants, the first that runs is taken" in run("inspect", several).stdout


def test_the_first_that_runs(several: Path, run: Run, expected: str) -> None:
    """No device here is named Adreno: the next one is taken, lavapipe where it is, else the processor."""
    found = run("generate", "-m", several, "--allow-native", *PROMPT, "-v")
    assert found.exit_code == 0 and found.stdout == expected, found.stderr
    number = 2 if "vulkan" in DEVICES else 3
    assert f"variant {number} of 3: {'vulkan' if number == 2 else 'cpu'}" in found.stderr
    assert "passed over: adreno: " in found.stderr


def test_a_device_is_named(several: Path, run: Run, expected: str) -> None:
    for name, number in (("adreno", 1), ("vulkan", 2)):
        if name in DEVICES:
            found = run("generate", "-m", several, "--allow-native", "--device", DEVICES[name], *PROMPT, "-v")
            assert found.exit_code == 0 and found.stdout == expected, found.stderr
            assert f"variant {number} of 3" in found.stderr
    found = run("generate", "-m", several, "--allow-native", "--device", "cuda", *PROMPT)
    assert found.exit_code == 3 and "none of its 3 variants runs here" in found.stderr
    assert "runs through cpu, cuda is asked for" in found.stderr


def test_consent_is_needed_for_code_on_the_processor(several: Path, run: Run) -> None:
    """lavapipe and the processor are both refused, and the text says so."""
    found = run("generate", "-m", several, *PROMPT)
    assert found.exit_code == 2 and "add --allow-native" in found.stderr


def test_states_move_between_variants(several: Path) -> None:
    engine = Model.load(several, allow_native=True).engine
    with CompiledModel(several, allow_native=True, driver="cpu") as cpu, engine as other:
        if other.device["variant"] == cpu.device["variant"]:
            pytest.skip("no second device")
        with cpu.session() as a, other.session() as b:
            a.prefill([1, 2, 3])
            b.restore(a.save())
            assert abs(a.decode(4)[0] - b.decode(4)[0]).max() < 1e-3


@pytest.mark.parametrize(
    ("targets", "text"),
    [
        ("cpu,vulkan,cpu", "target cpu is there twice"),
        ("cpu,nonsense", "unknown target 'nonsense'"),
        ("cpu,", "unknown target ''"),
    ],
)
def test_lists_that_are_none(run: Run, tiny: Path, tmp_path: Path, targets: str, text: str) -> None:
    found = run("compile", tiny, "--target", targets, "-o", tmp_path / "out")
    assert found.exit_code == 2 and text in found.stderr and not (tmp_path / "out").exists()
    found = run("compile", tiny, "--target", "cpu,vulkan", "--device", "arc", "-o", tmp_path / "out")
    assert found.exit_code == 2 and "--device 'arc' is for one target" in found.stderr


def test_options_with_commas() -> None:
    assert split_targets("adreno,cpu:arch=aarch64,mcpu=x,vulkan") == ["adreno", "cpu:arch=aarch64,mcpu=x", "vulkan"]


def test_weights_that_cannot_be_shared(tmp_path: Path, several: Path) -> None:
    """A variant whose number is missing, or that lacks a section, is refused by both readers."""
    data = bytearray(several.read_bytes())
    for i in range(int.from_bytes(data[12:16], "little")):
        at = 64 + 32 * i
        if data[at] == 9 and data[at + 28] == 1:  # ENTRY of the second
            data[at + 28] = 4
    path = tmp_path / "damaged.moss"
    path.write_bytes(data)
    with pytest.raises(MossnetError, match="section ENTRY is missing in variant 1"):
        moss_file.read(path)
    with pytest.raises(MossnetError, match="section ENTRY is missing in variant 1"):
        CompiledModel(path, allow_native=True)
