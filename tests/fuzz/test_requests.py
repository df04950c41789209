"""Whatever comes over the wire: the runner refuses it with a text, and never crashes."""

from __future__ import annotations

import hashlib
import random
import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mossnet_tg.targets import frames
from mossnet_tg.targets.transport import own_runner
from tests.fuzz.harness import N_RANDOM, Harness, seeds
from tests.runtime.toy import RUNTIME

LINKED = (
    "file", "crc", "session", "state", "inspect", "text", "text_program", "utf8", "error", "model", "sampler",
    "cpu_features", "whole",
)  # fmt: skip
RUNNER = ("frames", "requests", "store", "sha256", "cpu_name")
OK, ERROR = 0x80, 0x81


@pytest.mark.parametrize("seed", seeds("requests"))
def test_random_requests(tmp_path: Path, seed: Path) -> None:
    fuzz = Harness(tmp_path, "requests", (*LINKED, *RUNNER), "mock_driver")
    (tmp_path / "folder").mkdir()
    said = fuzz(seed, "random", N_RANDOM, 7, folder=tmp_path / "folder")
    counts = {name: (int(ok), int(no)) for name, ok, no in (line.split() for line in said.splitlines())}
    assert set(counts) == {r.name for r in frames.Request}
    for name, (ok, refused) in counts.items():
        assert ok > N_RANDOM // 5000 and refused > N_RANDOM // 5000, (name, ok, refused)
    assert not list((tmp_path / "folder").glob("*.tmp"))


def test_both_ends_know_the_same_requests() -> None:
    rows = re.findall(r"X\(([A-Z_]+), [a-z_]+, (\d+),", (RUNTIME / "requests.h").read_text())
    assert {name: int(number) for name, number in rows} == {r.name: r.value for r in frames.Request}


class Wire:
    """A runner that is spoken to in bytes."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [own_runner(), "--serve"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def ask(self, kind: int, payload: bytes = b"", seq: int = 1) -> tuple[int, bytes]:
        self.write(struct.pack("<4s4I", b"MNRP", kind, seq, 20000, len(payload)) + payload)
        return self.answer(seq)

    def answer(self, seq: int) -> tuple[int, bytes]:
        assert self.process.stdout is not None
        magic, kind, found, timeout, size = struct.unpack("<4s4I", self.process.stdout.read(20))
        assert (magic, found, timeout) == (b"MNRP", seq, 0)
        return kind, self.process.stdout.read(size)

    def end(self) -> int:
        out, _ = self.process.communicate(timeout=10)
        assert out == b""
        return self.process.returncode


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    wire = Wire(tmp_path)
    yield wire
    if wire.process.returncode is None:
        wire.process.kill()
        wire.process.communicate()


@pytest.mark.parametrize(
    "junk", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", struct.pack("<4s4I", b"MNRP", 1, 7, 0, 1 << 29)]
)
def test_what_is_no_frame_ends_it(wire: Wire, junk: bytes) -> None:
    wire.write(junk)
    kind, said = wire.answer(int.from_bytes(junk[8:12], "little"))
    assert kind == ERROR and said[4:] == b"what came is no frame, or too long a one" and wire.end() == 2


def test_the_stream_may_end_anywhere(tmp_path: Path) -> None:
    whole = struct.pack("<4s4I", b"MNRP", 5, 1, 0, 40) + bytes(40)
    for n in (0, 1, 19, 20, 21, 59):
        done = subprocess.run([own_runner(), "--serve"], input=whole[:n], capture_output=True, timeout=20, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_random_frames(wire: Wire) -> None:
    rng = random.Random(3)
    for i in range(2000):
        payload = rng.randbytes(rng.choice((0, 4, 8, 12, 40, 80)))
        kind = rng.choice([r for r in frames.Request if r not in (frames.Request.BYE, frames.Request.READ_BANDWIDTH)])
        found, said = wire.ask(kind, payload, i)
        assert found in (OK, ERROR) and (found == OK or len(said) > 8)
    assert wire.ask(frames.Request.BYE) == (OK, b"") and wire.end() == 0


def test_quiet_requests_are_answered_when_they_fail_only(wire: Wire) -> None:
    quiet = 0x100
    for seq in (1, 2):
        wire.write(struct.pack("<4s4I", b"MNRP", frames.Request.HELLO | quiet, seq, 0, 0))
    assert wire.ask(frames.Request.HELLO, seq=3)[0] == OK
    wire.write(struct.pack("<4s4I", b"MNRP", frames.Request.RESET | quiet, 4, 0, 4) + bytes(4))
    kind, said = wire.answer(4)
    assert kind == ERROR and said[4:] == b"RESET of a session that is not there"


def put(content: bytes, total: int, offset: int, piece: bytes) -> bytes:
    return hashlib.sha256(content).digest() + struct.pack("<QQ", total, offset) + piece


def test_files_arrive_whole_or_not_at_all(wire: Wire, tmp_path: Path) -> None:
    content = random.Random(1).randbytes(1000)
    name = tmp_path / f"{hashlib.sha256(content).hexdigest()}.moss"
    has = hashlib.sha256(content).digest() + struct.pack("<Q", 1000)
    PUT, HAS = frames.Request.PUT, frames.Request.HAS
    assert wire.ask(HAS, has) == (OK, bytes(4))
    assert wire.ask(PUT, put(content, 1000, 0, content[:600])) == (OK, struct.pack("<Q", 600))
    assert not name.exists() and len(list(tmp_path.iterdir())) == 1
    for offset, piece in ((500, content[500:]), (600, content[600:] + b"x"), (700, content[700:])):
        kind, said = wire.ask(PUT, put(content, 1000, offset, piece))
        assert kind == ERROR and b"no next piece" in said
        assert not list(tmp_path.iterdir())
        wire.ask(PUT, put(content, 1000, 0, content[:600]))
    assert wire.ask(PUT, put(content, 1000, 600, content[600:-1] + b"x"))[1][4:].startswith(b"the 1000 bytes that came")
    assert not list(tmp_path.iterdir())
    assert wire.ask(PUT, put(content, 1000, 0, content[:64]))[0] == OK
    assert wire.ask(PUT, put(content, 1000, 64, content[64:]))[0] == OK
    assert name.read_bytes() == content and list(tmp_path.iterdir()) == [name]
    assert wire.ask(HAS, has) == (OK, struct.pack("<I", 1))
    assert wire.ask(HAS, has[:-8] + struct.pack("<Q", 999)) == (OK, bytes(4))
    wire.ask(PUT, put(b"other", 5, 0, b"oth"))
    assert wire.end() == 0
    assert list(tmp_path.iterdir()) == [name]  # what was not complete is gone


@pytest.mark.parametrize("n", [0, 1, 55, 56, 63, 64, 65, 119, 120, 128, 100_001])
def test_hashes(wire: Wire, tmp_path: Path, n: int) -> None:
    content = random.Random(n).randbytes(n)
    assert wire.ask(frames.Request.PUT, put(content, n, 0, content)) == (OK, struct.pack("<Q", n))
    assert [p.name for p in tmp_path.iterdir()] == [f"{hashlib.sha256(content).hexdigest()}.moss"]


def test_a_folder_that_takes_no_file(wire: Wire, tmp_path: Path) -> None:
    (tmp_path / f"{hashlib.sha256(b'a').hexdigest()}.moss").mkdir()
    kind, said = wire.ask(frames.Request.PUT, put(b"a", 1, 0, b"a"))
    assert kind == ERROR and b"a file of 1 bytes cannot be stored, after 1: Is a directory" in said
    assert wire.ask(frames.Request.HAS, hashlib.sha256(b"a").digest() + struct.pack("<Q", 1)) == (OK, bytes(4))
