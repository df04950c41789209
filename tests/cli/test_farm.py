"""`mossnet-tg farm`: a tracker and servers on loopback, and `tune` on what they lend."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run, Start, starting
from tests.cli.test_tune import FAST, records, tries, wait_for

pytest.importorskip("tornado")
__all__ = ["records"]  # a fixture, for every test here too

Serve = Callable[..., "subprocess.Popen[bytes]"]


def line(process: subprocess.Popen[bytes]) -> str:
    """The one line that a server prints when others can reach it."""
    assert process.stdout is not None
    found = process.stdout.readline().decode()
    if not found:
        pytest.fail(process.communicate()[1].decode())
    return found


@pytest.fixture(scope="module")
def tracker(cache: Path) -> Iterator[str]:
    """A tracker for all tests: each takes keys of its own."""
    with starting() as start:
        yield line(start("farm", "tracker", "--port", "0")).split()[-1]


@pytest.fixture
def serve(start: Start, tracker: str) -> Serve:
    """Starts servers at once, and waits for all of them."""

    def call(*keys: str, env: Mapping[str, str] | None = None) -> list[subprocess.Popen[bytes]]:
        processes = [start("farm", "serve", "--tracker", tracker, "--key", key, env=env) for key in keys]
        for key, process in zip(keys, processes, strict=True):
            assert f" is {key} at {tracker}, served on 127.0.0.1:" in line(process)
        return processes

    return call


def sessions(process: subprocess.Popen[bytes]) -> set[int]:
    """The processes that a server has begun, and theirs."""
    found, waiting = set(), [process.pid]
    while waiting:
        for task in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            new = {int(pid) for pid in task.read_text().split()}
            found |= new
            waiting += new
    return found


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def queues(run: Run, tracker: str) -> dict[str, tuple[int, int]]:
    """(total, free) by key."""
    done = run("farm", "list", "--tracker", tracker, "--json")
    assert done.exit_code == 0, done.stderr
    return {row["key"]: (row["total"], row["free"]) for row in json.loads(done.stdout)}


def test_one_of_two_dies(start: Start, run: Run, tiny: Path, records: Path, tracker: str, serve: Serve) -> None:
    """Every trial is recorded once, and the other device is given back. A third is of another kind, and left out."""
    first, second = serve("two", "two")
    serve("two", env={"MOSSNET_CPU": "another processor"})
    wait_for(lambda: queues(run, tracker)["two"] == (3, 3), "three that are free")
    args = ("--tracker", tracker, "--key", "two", "--time", "2m", "--trials", "16", "--kernels", "scan")
    tune = start("tune", tiny, *args, *FAST)
    wait_for(lambda: sum("status" in row for row in tries(records)) >= 1, "trials")
    wait_for(lambda: queues(run, tracker)["two"] == (3, 0), "all three to be taken")
    children = sessions(second)
    second.send_signal(signal.SIGKILL)
    stdout, stderr = tune.communicate(timeout=120)
    assert tune.returncode == 0, stderr.decode()
    found = json.loads(stdout)
    assert found["n_devices"] == 2 and found["n_trials"] - found["n_remembered"] == 16
    # A device that dies costs no candidate that is measured elsewhere.
    assert children and set(found["ended"]) <= {"ok", "refused"}
    assert b"warning: goes on without a device: two@127.0.0.1:" in stderr
    assert b"is left out, its device is another than the first one's: name another processor instead of " in stderr
    rows = [(row["task"], row["choice"]) for row in tries(records) if "status" in row]
    assert len(rows) == len(set(rows)) == 16
    wait_for(lambda: not any(map(is_there, children)), "the end of what the killed server had begun")
    wait_for(lambda: queues(run, tracker)["two"] == (2, 2), "the device that is left to be free again")
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=20)
    assert first.returncode == 130 and not said, said.decode()


def test_the_only_one_dies(start: Start, tiny: Path, records: Path, tracker: str, serve: Serve) -> None:
    (server,) = serve("one")
    tune = start("tune", tiny, "--tracker", tracker, "--key", "one", "--time", "2m", *FAST)
    wait_for(lambda: sum("status" in row for row in tries(records)) >= 1, "trials")
    server.send_signal(signal.SIGKILL)
    stdout, stderr = tune.communicate(timeout=60)
    assert tune.returncode == 3 and not stdout, stderr.decode()
    assert b"error: one@127.0.0.1:" in stderr and b"the server has gone" in stderr and b"Traceback" not in stderr


def test_keys_and_who_has_them(run: Run, tiny: Path, tracker: str, serve: Serve, monkeypatch: Any) -> None:
    from mossnet_tg.codegen.farm import farm
    from mossnet_tg.codegen.farm.tracker import Address

    serve("box")
    wait_for(lambda: queues(run, tracker)["box"] == (1, 1), "one that is free")
    listed = run("farm", "list", "--tracker", tracker).stdout.splitlines()
    assert listed[0].split() == ["key", "total", "free", "waiting"]
    assert ["box", "1", "1", "0"] in [row.split() for row in listed]
    done = run("tune", tiny, "--tracker", tracker, "--key", "phone", *FAST)
    assert done.exit_code == 3 and not done.stdout
    assert f"the tracker at {tracker} has no device of the key 'phone', there are: box" in done.stderr
    with farm.Farm(Address.of(tracker), "box", lambda step: None) as other:
        assert other.first().cpu_count > 0
        monkeypatch.setattr(farm, "_FREE_S", 0.4)
        done = run("tune", tiny, "--tracker", tracker, "--key", "box", *FAST)
    assert done.exit_code == 3 and "all 1 devices of 'box' are in use, none became free within 0 s" in done.stderr


def test_an_empty_tracker_and_one_that_starts_anew(start: Start, run: Run) -> None:
    """Its servers come back by themselves."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    tracker = start("farm", "tracker", "--port", str(port))
    line(tracker)
    done = run("farm", "list", "--tracker", address)
    assert done.exit_code == 0 and not done.stdout and "no devices: mossnet-tg farm serve offers one" in done.stderr
    line(start("farm", "serve", "--tracker", address, "--key", "box"))
    tracker.send_signal(signal.SIGINT)
    _, said = tracker.communicate(timeout=20)
    assert tracker.returncode == 130 and not said, said.decode()
    line(start("farm", "tracker", "--port", str(port)))
    wait_for(lambda: queues(run, address).get("box") == (1, 1), "the server")


def test_no_tracker(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        free = f"127.0.0.1:{nobody.getsockname()[1]}"
    for args in (("tune", "--key", "box"), ("farm", "serve", "--key", "box"), ("farm", "list")):
        done = run(*args, "--tracker", free)
        assert done.exit_code == 3 and not done.stdout
        assert f"error: no tracker at {free}: Connection refused\nhint: start one" in done.stderr


def test_what_is_no_tracker(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        done = run("farm", "list", "--tracker", f"127.0.0.1:{server.getsockname()[1]}")
    assert done.exit_code == 3 and "is no tracker of TVM's RPC" in done.stderr


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("tune", "--tracker", "127.0.0.1:9190"), "--tracker stands alone, expected --tracker HOST:PORT --key KEY"),
        (("tune", "--key", "box"), "--key stands alone"),
        (("tune", "--tracker", "box", "--key", "box"), "the tracker is 'box', expected HOST:PORT"),
        (("tune", "--tracker", "box:1", "--key", "a b"), "the key is 'a b', expected a word without blanks"),
        (("tune", "--tracker", "box:1", "--key", "k", "--device", "ssh:x/arc"), "--device names the place 'ssh:x'"),
        (("farm", "list", "--tracker", "box:x"), "the tracker is 'box:x', expected HOST:PORT"),
        (("farm", "serve", "--tracker", "box:1"), "Missing option '--key'"),
    ],
)
def test_what_is_refused(run: Run, args: tuple[str, ...], text: str) -> None:
    done = run(*args)
    assert done.exit_code == 2 and text in done.stderr and not done.stdout
