"""`--device ssh:HOST`, through a real OpenSSH server on loopback."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import mossnet_tg
from mossnet_tg.codegen.tune.records import Choices, Kept, Records
from mossnet_tg.engine import Library
from mossnet_tg.errors import DeviceError, MossnetError, UsageError
from mossnet_tg.remote import Runner
from mossnet_tg.targets.host import cpu_name
from mossnet_tg.targets.transport import split_place
from tests.cli.conftest import Run, Start
from tests.remote.fragile import CRASH, full_disk, write_fragile
from tests.remote.processes import n_runners
from tests.remote.sshd import HOST, Server, serving

PLACE = f"ssh:{HOST}"
PROMPT = "the quick brown"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(autouse=True)
def box(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, under its name."""
    monkeypatch.setenv("PATH", str(server.bin), prepend=":")
    return server


def files(server: Server) -> list[str]:
    """What was put there."""
    return sorted(p.name for p in (server.folder / Library.default().version).iterdir())


def test_generate(run: Run, tiny: Path, moss: Path, box: Server) -> None:
    here = run("generate", "-m", tiny, PROMPT, "-n", "20", "--temp", "0.8", "--seed", "3")
    first = run(
        "generate", "-m", tiny, "--device", PLACE, PROMPT, "-n", "20", "--temp", "0.8", "--seed", "3", "--stats"
    )
    assert first.exit_code == 0, first.stderr
    assert first.stdout == here.stdout != ""
    assert first.stderr.splitlines()[0] == f"device       {cpu_name()} at {PLACE}"
    assert "(from the cache)" in first.stderr and "20 tokens" not in first.stdout
    there = files(box)
    assert [name.partition("-")[0][:7] for name in there if name.startswith("mossnet")] == ["mossnet"] and len(
        there
    ) == 2
    again = run("generate", "-m", tiny, "--device", PLACE, PROMPT, "-n", "20", "--temp", "0.8", "--seed", "3", "-v")
    assert again.stdout == here.stdout and files(box) == there
    assert f"connecting to {PLACE}" in again.stderr and "sending" not in again.stderr


def test_tune(run: Run, tiny: Path, box: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials run there and leave nothing there; the records are kept here, and used there."""
    monkeypatch.setenv("MOSSNET_RECORDS_DIR", str(tmp_path / "records"))
    args = ("tune", tiny, "--device", PLACE, "--kernels", "scan", "--trials", "12", "--chunk", "8", "--json")
    before = files(box) if (box.folder / Library.default().version).exists() else []
    found = run(*args)
    assert found.exit_code == 0, found.stderr
    told = json.loads(found.stdout)
    assert told["ended"] == {"ok": 12} and told["device"]["name"] == cpu_name()
    left = {name for name in files(box) if name.endswith(".moss")} - set(before)
    assert len(left) <= 2  # the model with the defaults, and with the choices
    records = Records(Path(told["records"]))
    task = next(k["task"] for k in told["kernels"] if k["kernel_class"] == "product" and k["n_tokens"] == 1)
    records.keep(Choices({task: Kept({"unroll_k": 3}, {}, 2e-6, 1e-6)}))
    used = run("generate", "-m", tiny, "--chunk", "8", "--device", PLACE, PROMPT, "-n", "3", "-v")
    assert used.exit_code == 0 and "with the records of tuning: yours for " in used.stderr


def test_a_model_file(run: Run, moss: Path) -> None:
    refused = run("generate", "-m", moss, "--device", PLACE, PROMPT)
    assert refused.exit_code == 2 and f"would run on {PLACE}'s processor, with your rights" in refused.stderr
    allowed = run("generate", "-m", moss, "--allow-native", "--device", PLACE, PROMPT, "-n", "9", "-t", "1")
    assert allowed.exit_code == 0
    assert allowed.stdout == run("generate", "-m", moss, "--allow-native", PROMPT, "-n", "9").stdout


def test_bench(run: Run, moss: Path) -> None:
    args = ("bench", moss, "--allow-native", "--device", PLACE, "-p", "9", "-n", "3", "-r", "2")
    found = run(*args, "--json")
    assert found.exit_code == 0, found.stderr
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    assert [row["test"] for row in rows] == ["pp9", "tg3"]
    for row in rows:
        assert row["device"] == {"name": cpu_name(), "place": PLACE} and row["n_threads"] == Library.default().cpu_count
        assert min(row["samples_ns"]) > 10_000  # that of a round trip: nothing is measured that has not been done
    assert rows[1]["read_bandwidth_share"] > 0
    profiled = run(*args, "--profile")
    assert profiled.exit_code == 0 and "tg3" in profiled.stdout and re.search(r"\| +\d+\.\d % \|", profiled.stdout)


def test_doctor(run: Run, tiny: Path) -> None:
    found = run("doctor", tiny, "--target", "cpu", "--device", PLACE, "--chunk", "8")
    assert found.exit_code == 0, found.stderr
    assert "pass: " in found.stdout and cpu_name() in found.stdout


def test_devices(run: Run) -> None:
    (row,) = json.loads(run("devices", PLACE, "--json").stdout)
    assert row["place"] == PLACE and row["available"] and row["libmossnet"] == Library.default().version
    cpu = row["devices"][0]
    assert cpu["through"] == "cpu" and cpu["device"] == PLACE and cpu["threads"] == Library.default().cpu_count
    assert all(d["device"].startswith(f"{PLACE}/{d['through']}:") for d in row["devices"][1:])
    shown = run("devices", PLACE)
    assert shown.exit_code == 0 and shown.stdout.startswith(f"{PLACE}      Linux, libmossnet ")


def test_a_gpu_of_another_machine(run: Run, tiny: Path) -> None:
    refused = run("generate", "-m", tiny, "--device", f"{PLACE}/radeon", PROMPT)
    assert refused.exit_code == 2 and "the device 'radeon' names no driver" in refused.stderr
    refused = run("generate", "-m", tiny, "--target", "cpu", "--device", f"{PLACE}/arc", PROMPT)
    assert refused.exit_code == 2 and f"runs on {PLACE}'s processor" in refused.stderr
    missing = run("generate", "-m", tiny, "--target", "cuda:arch=90", "--device", f"{PLACE}/cuda:", PROMPT)
    assert missing.exit_code == 3 and "error: compiled, not run: libcuda.so.1" in missing.stderr


def test_sessions_there(moss: Path) -> None:
    ids = [5, 6, 7, 8, 9]
    here, there = (mossnet_tg.Model.load(moss, allow_native=True, device=device) for device in ("", PLACE))
    assert np.array_equal(here.logits(ids), there.logits(ids)) and there.meta("driver") == "cpu"
    session = there.session()
    session.prefill(ids)
    other = session.fork()
    other.restore(session.save())
    assert np.array_equal(session.decode(3), other.decode(3)) and session.position == other.position == 6
    with pytest.raises(UsageError, match="names its device itself"):
        mossnet_tg.Model.load(None, "tinygrad:PYTHON", device=PLACE)


def test_the_connection_breaks_in_the_middle(start: Start, moss: Path, server: Server) -> None:
    """What was made until then is there, an error says what happened, and nothing runs on over there."""
    gc.collect()
    assert not n_runners(server.home)
    process = start("generate", "-m", moss, "--allow-native", "--device", PLACE, PROMPT, "-n", "-1")
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read(20)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1 and n_runners(server.home) == 1
    os.kill(int(children[0]), signal.SIGKILL)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 3
    assert f"error: {PLACE}: the runner ended before it answered".encode() in said
    deadline = time.monotonic() + 5
    while n_runners(server.home) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not n_runners(server.home)


def test_places() -> None:
    assert split_place("ssh:me@box") == ("ssh:me@box", "") and split_place("") == ("", "")
    assert split_place("ssh:box/opencl:arc") == ("ssh:box", "opencl:arc") and split_place("adb:/x") == ("adb:", "x")
    assert split_place("adb:10.0.0.2:5555/adreno") == ("adb:10.0.0.2:5555", "adreno")
    assert split_place("opencl:a/b") == ("", "opencl:a/b") and split_place("ssh") == ("", "ssh")
    for wrong in ("ssh:", "ssh:-oProxyCommand=x"):
        with pytest.raises(UsageError, match="names no host"):
            Runner.at(wrong)


def test_what_cannot_be_reached(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run("generate", "--device", "ssh:nowhere.invalid", PROMPT)
    assert found.exit_code == 3 and "error: ssh:nowhere.invalid: not reached: ssh: Could not resolve" in found.stderr
    assert "hint: `ssh nowhere.invalid true` must work" in found.stderr
    (row,) = json.loads(run("devices", "ssh:nowhere.invalid", "--json").stdout)
    assert not row["available"] and "Could not resolve" in row["reason"]
    assert "no: not reached" in run("devices", "ssh:nowhere.invalid").stdout
    monkeypatch.setenv("PATH", "/nowhere")
    found = run("generate", "--device", PLACE, PROMPT)
    assert (
        found.exit_code == 3 and f"{PLACE}: ssh is not installed" in found.stderr and "openssh-client" in found.stderr
    )
    assert run("devices", "box").exit_code == 2 and run("devices", "ssh:box/opencl:").exit_code == 2


def test_a_login_that_talks(box: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moss: Path) -> None:
    """What a start-up file prints stands before our own."""
    wrapper = tmp_path / "ssh"
    wrapper.write_text(f'#!/bin/sh\necho "Welcome! mossnet-run-starts MNRP"; exec {box.bin}/ssh "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert mossnet_tg.Model.load(moss, allow_native=True, device=PLACE).logits([1]).shape == (1, 300)


@pytest.fixture
def machine(box: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose programs come before those of the machine that is reached."""
    wrapper, programs = tmp_path / "bin" / "ssh", tmp_path / "there"
    wrapper.parent.mkdir()
    programs.mkdir()
    script = f'for last; do :; done\nexec env PATH={programs}:"$PATH" sh -c "$last"\n'
    wrapper.write_text(f"#!/bin/sh\nexport XDG_CACHE_HOME={tmp_path}/cache\n{script}")
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", str(wrapper.parent), prepend=":")
    return programs


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("system", "message"),
    [
        ("Darwin arm64", "the machine is Darwin arm64, there are runners for android-arm64, linux-arm64, linux-x86_64"),
        ("Linux armv7l", "the machine is Linux armv7l"),
    ],
)
def test_machines_without_a_runner(machine: Path, system: str, message: str) -> None:
    program(machine, "uname", f"echo {system}")
    with pytest.raises(DeviceError, match=f"{PLACE}: {message}"):
        Runner.at(PLACE)


def test_a_runner_that_does_not_start_there(machine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"#!/bin/sh\necho GLIBC_2.99 not found >&2; exit 1\n")
    monkeypatch.setattr("mossnet_tg.targets.transport.own_runner", lambda: broken)
    with pytest.raises(DeviceError, match=r"GLIBC_2.99 not found; mossnet-run ended with 1; tried 3 times"):
        Runner.at(PLACE)


def test_a_runner_that_crashes_there(machine: Path, tmp_path: Path) -> None:
    session = Runner.at(PLACE).load(write_fragile(tmp_path / "fragile.moss"), allow_native=True).session(1)
    with pytest.raises(DeviceError, match=rf"{PLACE}: the runner ended before it answered DECODE.*ended with 139"):
        session.decode(CRASH, copy=False)


def test_no_space_for_the_runner(machine: Path, tmp_path: Path) -> None:
    program(machine, "cat", "echo 'cat: write error: No space left on device' >&2; exit 1")
    with pytest.raises(DeviceError, match=r"the runner cannot be put into .*No space left") as error:
        Runner.at(PLACE)
    assert "rm -r" in str(error.value.hint)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_a_half_stored_runner_is_none(machine: Path, tmp_path: Path) -> None:
    program(machine, "cat", "head -c 1000")
    with pytest.raises(DeviceError, match="cannot be put into"):
        Runner.at(PLACE)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_no_space_for_the_model(machine: Path, moss: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", str(full_disk(tmp_path)))
    monkeypatch.setenv("FULL_DISK_AFTER", "100000")
    runner = Runner.at(PLACE)
    with pytest.raises(MossnetError, match=rf"{PLACE}: a file of \d+ bytes cannot be stored, after 0: No sp") as error:
        runner.load(moss, allow_native=True)
    assert "make room there" in str(error.value.hint) and "rm -r" in str(error.value.hint)
    assert not [p for p in (tmp_path / "cache").rglob("*.*") if p.is_file()]
    assert runner.devices("cpu")  # it goes on
