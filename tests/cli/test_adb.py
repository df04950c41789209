"""`--device adb:SERIAL`: the real adb client, and a phone that only pretends."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import mossnet_tg
from mossnet_tg.codegen.tune.records import Records
from mossnet_tg.engine import Library
from mossnet_tg.errors import DeviceError, MossnetError, UsageError
from mossnet_tg.remote import Runner
from mossnet_tg.targets import devices, transport
from mossnet_tg.targets.host import cpu_name
from tests.cli.conftest import Run, Start
from tests.cli.test_targets import ADRENO, OTHER
from tests.remote.fragile import full_disk
from tests.remote.phones import Phones, phones
from tests.remote.processes import n_runners

PROMPT = "the quick brown"


@pytest.fixture
def plug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Phones]:
    """Plugs phones in."""
    with phones(tmp_path, monkeypatch) as made:
        yield made


def test_generate(run: Run, tiny: Path, moss: Path, plug: Phones) -> None:
    serial = plug.plug_in()
    sampled = ("-n", "20", "--temp", "0.8", "--seed", "3")
    here = run("generate", "-m", tiny, PROMPT, *sampled)
    for device in ("adb:", f"adb:{serial}"):
        found = run("generate", "-m", tiny, "--device", device, PROMPT, *sampled, "--stats", "-v")
        assert found.exit_code == 0, found.stderr
        assert found.stdout == here.stdout != ""
        assert f"device       {cpu_name()} at adb:{serial}\n" in found.stderr
        assert ("sending the model" in found.stderr) == (device == "adb:")  # once
    folder = plug.storage() / f"mossnet-{Library.default().version}"
    assert len(list(folder.iterdir())) == 2 and list(plug.storage().iterdir()) == [folder]


def test_doctor_and_bench(run: Run, tiny: Path, moss: Path, plug: Phones) -> None:
    plug.plug_in()
    found = run("doctor", tiny, "--target", "cpu", "--device", "adb:", "--chunk", "8", "--entry", "decode")
    assert found.exit_code == 0 and "pass: " in found.stdout, found.stderr
    found = run("bench", moss, "--allow-native", "--device", "adb:", "-p", "0", "-n", "3", "-r", "1")
    assert found.exit_code == 0 and "tg3" in found.stdout, found.stderr


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of records of its own, for what is started too."""
    monkeypatch.setenv("MOSSNET_RECORDS_DIR", str(tmp_path / "records"))
    return tmp_path / "records"


def test_tune(records: Path, run: Run, tiny: Path, plug: Phones) -> None:
    serial = plug.plug_in()
    args = ("--target", "cpu", "--kernels", "conv,norm", "--trials", "4", "--chunk", "8", "--json")
    found = run("tune", tiny, "--device", f"adb:{serial}", *args)
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)["ended"] == {"ok": 4}


def test_unplugged_while_it_is_tuned(records: Path, plug: Phones, start: Start, tiny: Path) -> None:
    """What was measured until then is kept."""
    serial = plug.plug_in()
    process = start("tune", tiny, "--device", "adb:", "--target", "cpu", "--chunk", "8", "--time", "5m")
    deadline = time.monotonic() + 120
    while not any('"status"' in path.read_text() for path in records.glob("*/trials.jsonl")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    plug.unplug(serial)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3 and b"Traceback" not in said and b"error: " in said
    (folder,) = records.iterdir()
    assert Records(folder).n_trials() > 0


def test_unplugged_in_the_middle(plug: Phones, start: Start, moss: Path) -> None:
    serial = plug.plug_in()
    process = start("generate", "-m", moss, "--allow-native", "--device", "adb:", PROMPT, "-n", "-1")
    assert process.stdout is not None and process.stdout.read(20)
    assert n_runners(plug.storage()) == 1
    plug.unplug(serial)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 3
    assert f"error: adb:{serial}: the runner ended before it answered".encode() in said and b"Traceback" not in said
    deadline = time.monotonic() + 5
    while n_runners(plug.storage()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert n_runners(plug.storage()) == 0


def test_unplugged_between_two_calls(moss: Path, plug: Phones) -> None:
    serial = plug.plug_in()
    model = mossnet_tg.Model.load(moss, allow_native=True, device="adb:")
    plug.unplug(serial)
    for _ in range(2):
        with pytest.raises(DeviceError, match=f"adb:{serial}: the runner ended before it answered SESSION"):
            model.session()
    with pytest.raises(DeviceError, match=r"adb:.*(no such device|offline)"):
        Runner.at(f"adb:{serial}")


def test_which_of_two(run: Run, plug: Phones) -> None:
    first, second = plug.plug_in("first"), plug.plug_in("second")
    found = run("generate", "--device", "adb:", PROMPT)
    assert found.exit_code == 2 and "adb: 2 devices are plugged in, expected adb:" in found.stderr
    assert f"adb:{first}" in found.stderr and f"adb:{second}" in found.stderr
    with Runner.at(f"adb:{second}") as runner:
        assert runner.place == f"adb:{second}" and runner.cpu_arch == Library.default().cpu_arch
    assert list(plug.storage("second").iterdir()) and not list(plug.storage("first").iterdir())
    with pytest.raises(DeviceError, match=f"adb:pixel: no such device is plugged in, there is .*{first}"):
        Runner.at("adb:pixel")


def test_none_is_there(run: Run, plug: Phones, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run("generate", "--device", "adb:", PROMPT)
    assert (
        found.exit_code == 3 and "adb: no device is plugged in" in found.stderr and "hint: plug it in" in found.stderr
    )
    monkeypatch.setenv("PATH", "/nowhere")
    found = run("generate", "--device", "adb:", PROMPT)
    assert found.exit_code == 3 and "adb is not installed" in found.stderr and "apt install adb" in found.stderr
    here, phone = json.loads(run("devices", "--json").stdout)
    assert here["place"] == "" and here["available"] and phone["reason"] == "adb is not installed"


@pytest.mark.parametrize(
    ("said", "state", "hint"),
    [
        ("unauthorized", "unauthorized", "allow USB debugging in the dialog"),
        (
            "no permissions (user is not in the plugdev group); see [http://x]",
            "no permissions",
            "join the group plugdev",
        ),
        ("offline", "offline", "adb kill-server"),
    ],
)
def test_a_phone_that_does_not_allow_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, said: str, state: str, hint: str
) -> None:
    adb = tmp_path / "adb"
    adb.write_text(f"#!/bin/sh\nprintf 'List of devices attached\\nR58M  {said} usb:1-1\\n\\n'\n")
    adb.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = run("generate", "--device", "adb:", PROMPT)
    assert found.exit_code == 3 and f"adb:R58M: the device is {state}\n" in found.stderr
    assert "hint: " in found.stderr and hint in found.stderr
    assert f"no: the device is {state}" in run("devices").stdout


def test_devices(run: Run, plug: Phones) -> None:
    good = plug.plug_in("good")
    bad = plug.plug_in("bad", uname="echo Linux armv8l", getprop="echo armeabi-v7a")
    rows = {row["place"]: row for row in json.loads(run("devices", "--json").stdout)}
    assert set(rows) == {"", f"adb:{good}", f"adb:{bad}"}
    found = rows[f"adb:{good}"]
    assert found["available"] and found["model"] == "Fake Phone" and found["devices"][0]["name"] == cpu_name()
    assert {d["through"] for d in found["devices"]} | set(found["missing"]) == {"cpu", *devices.DRIVERS}
    assert not rows[f"adb:{bad}"]["available"]
    assert rows[f"adb:{bad}"]["reason"].startswith(
        "the machine is Linux armv8l, Android armeabi-v7a, there are runners"
    )
    shown = run("devices").stdout
    assert "\nadb:" in shown and "no: the machine is Linux armv8l" in shown and "Fake Phone" in shown


def test_the_runner_for_a_phone(plug: Phones, monkeypatch: pytest.MonkeyPatch) -> None:
    plug.plug_in(uname="echo Linux aarch64", getprop="echo arm64-v8a")
    asked = []

    def runner_for(abi: str, progress: object) -> Path:
        asked.append(abi)
        return transport.own_runner()

    monkeypatch.setattr(transport, "runner_for", runner_for)
    with Runner.at("adb:") as runner:
        assert asked == ["android-arm64"] and runner.cpu_name == "arm64-v8a arm64-v8a"  # all that this getprop says


def test_no_space_left(run: Run, tiny: Path, moss: Path, plug: Phones, tmp_path: Path) -> None:
    plug.plug_in(LD_PRELOAD=str(full_disk(tmp_path)), FULL_DISK_AFTER="1000")
    found = run("generate", "-m", tiny, "--device", "adb:", PROMPT)
    assert found.exit_code == 1 and "No space left on device" in found.stderr
    assert "hint: make room there" in found.stderr and "rm -r /data/local/tmp/mossnet-" in found.stderr
    assert [p.name[:12] for p in (plug.storage() / f"mossnet-{Library.default().version}").iterdir()] == [
        "mossnet-run-"
    ]


class Phone:
    """As far as a target is chosen for one."""

    place = "adb:R58M"

    def __init__(self, *devices: dict[str, str]) -> None:
        self._devices = devices

    def devices(self, driver: str) -> list[dict[str, str]]:
        if driver != "opencl" or not self._devices:
            raise MossnetError("no driver")
        return list(self._devices)


def test_the_target_of_a_phone() -> None:
    adreno, other, none = Phone(ADRENO), Phone(OTHER), Phone()
    chosen = devices.default_target
    assert [chosen("", phone) for phone in (adreno, other, none)] == ["adreno", "cpu", "cpu"]  # type: ignore[arg-type]
    assert chosen("opencl:adreno", adreno) == chosen("adreno", adreno) == "adreno"  # type: ignore[arg-type]
    assert chosen("opencl:", other) == "opencl" and chosen("vulkan:", adreno) == "vulkan"  # type: ignore[arg-type]
    elsewhere = Phone(ADRENO)
    elsewhere.place = "ssh:box"
    assert chosen("", elsewhere) == "cpu"  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="names no driver"):
        chosen("mali", other)  # type: ignore[arg-type]
