"""`mossnet-tg targets`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mossnet_tg.engine import Library
from mossnet_tg.errors import DeviceError, MossnetError
from mossnet_tg.targets.table import KINDS, parse_target
from tests.cli.conftest import Run
from tests.devices import Row

# As the drivers of a phone describe it.
ADRENO = {
    "name": "QUALCOMM Adreno(TM) 830",
    "type": "gpu",
    "vendor": "QUALCOMM",
    "driver": "OpenCL 3.0 QUALCOMM build: 0808 Compiler E031.47.18.06",
    "api": "OpenCL 3.0 Adreno(TM) 830",
    "memory_bytes": "12000000000",
    "max_buffer_bytes": "1073741824",
    "local_bytes": "32768",
    "max_block": "1024",
    "features": "cl_khr_fp16,cl_qcom_recordable_queues",
}
OTHER = {**ADRENO, "name": "Iris Xe", "features": ""}


def rows(run: Run) -> dict[str, dict[str, Any]]:
    found = run("targets", "--json")
    assert found.exit_code == 0, found.stderr
    return {row["target"]: row for row in json.loads(found.stdout)}


def test_this_machine(run: Run) -> None:
    found = run("targets")
    assert found.exit_code == 0 and found.stderr == ""
    host = Library.default()
    assert parse_target("cpu").name in found.stdout and "tinygrad:DEVICE" in found.stdout
    for kind in KINDS.values():
        assert f"\n{kind.name} " in "\n" + found.stdout and kind.summary in found.stdout
        for option in kind.options:
            assert f"  {kind.name}:{option}=…" in found.stdout
    by_name = rows(run)
    assert [*by_name] == [*KINDS, "tinygrad:DEVICE"]
    cpu = by_name["cpu"]
    assert cpu["available"] is True and cpu["arch"] == host.cpu_arch and cpu["threads"] == host.cpu_count
    assert cpu["features"] == list(host.cpu_features) and cpu["level"] == parse_target("cpu").mcpu
    assert by_name["tinygrad:DEVICE"]["available"] is None  # known when a device is opened


def test_the_devices_of_this_machine(run: Run, gpu: Row, gpu_device: dict[str, str]) -> None:
    row = rows(run)[gpu.name]
    assert row["available"] is True and row["reason"] is None and row["driver"] == gpu.name
    shown = next(d for d in row["devices"] if d["name"] == gpu_device["name"])
    assert shown["memory_bytes"] == int(gpu_device["memory_bytes"])
    assert shown["features"] == gpu_device["features"].split(",")
    assert f"  device       {gpu_device['name']}" in run("targets").stdout


def test_a_kind_of_device_counts_by_its_name(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def devices(library: Library, driver: str) -> list[dict[str, str]]:
        if driver != "opencl":
            raise DeviceError("libnothing.so not found")
        return [OTHER, ADRENO]

    monkeypatch.setattr(Library, "devices", devices)
    by_name = rows(run)
    assert [d["name"] for d in by_name["opencl"]["devices"]] == [OTHER["name"], ADRENO["name"]]
    (adreno,) = by_name["adreno"]["devices"]
    assert adreno["name"] == ADRENO["name"] and adreno["max_block"] == 1024 and by_name["adreno"]["available"]
    assert by_name["opencl"]["devices"][0]["features"] == []
    assert (
        by_name["vulkan"] | {"devices": [], "available": False, "reason": "libnothing.so not found"}
        == by_name["vulkan"]
    )
    text = run("targets").stdout
    assert "11.2 GiB of memory, 1.0 GiB in a buffer, groups of 1024 threads that share 32.0 KiB" in text
    assert "cl_khr_fp16 cl_qcom_recordable_queues" in text and "available    no: libnothing.so not found" in text
    monkeypatch.setattr(Library, "devices", lambda library, driver: [OTHER])
    assert rows(run)["adreno"]["reason"] == "no device named adreno, there are: Iris Xe"


def test_no_drivers(run: Run, no_driver: None) -> None:
    by_name = rows(run)
    for name in ("adreno", "opencl", "vulkan", "cuda"):
        assert by_name[name]["available"] is False and "/nowhere/lib.so" in by_name[name]["reason"]
        assert by_name[name]["devices"] == []
    assert by_name["cpu"]["available"] is True


def test_why_it_cannot_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise MossnetError("libmossnet is not built")

    monkeypatch.setattr(Library, "default", missing)
    found = run("targets")
    assert found.exit_code == 0 and "no: libmossnet is not built" in found.stdout
    for name, row in rows(run).items():
        assert name.startswith("tinygrad") or (row["available"], row["reason"]) == (False, "libmossnet is not built")
