"""What a runner costs: the demo here, in a process of this machine, through ssh and through adb, both on loopback.

python tests/remote/measure.py prints a table; each number is the median of five.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))  # the tests are no installed package

from mossnet_tg import Model
from mossnet_tg.engine import CompiledModel
from mossnet_tg.generate import Stats, generate_ids
from mossnet_tg.remote import Runner
from tests.remote.phones import phones
from tests.remote.sshd import HOST, serving

REPS, TOKENS, UPLOAD_BYTES = 5, 256, 64 << 20


def median(measure: Callable[[], float]) -> float:
    return statistics.median(measure() for _ in range(REPS))


def tokens_per_s(model: Any) -> float:
    def once() -> float:
        stats = Stats()
        for _ in generate_ids(model.session(), model.sampler(), [1, 2, 3], max_tokens=TOKENS, stats=stats):
            pass
        return stats.decode_per_s

    once()
    return median(once)


def up_s(start: Callable[[], Runner]) -> float:
    started = time.perf_counter()
    runner = start()
    seconds = time.perf_counter() - started
    runner.close()
    return seconds


def round_trip_s(session: Any) -> float:
    started = time.perf_counter()
    for _ in range(200):
        assert session.position == 0
    return (time.perf_counter() - started) / 200


def upload_per_s(runner: Runner, folder: Path) -> float:
    path = folder / "upload"
    content = bytearray(UPLOAD_BYTES)
    content[:8] = time.time_ns().to_bytes(8, "little")  # sent already it would not be sent again
    path.write_bytes(content)
    started = time.perf_counter()
    runner._sent(path, lambda step: None)
    return UPLOAD_BYTES / (time.perf_counter() - started)


def rows(folder: Path, model: Path, stack: ExitStack) -> Iterator[str]:
    yield "| where | session up | round trip | upload | tokens/s |\n|---|--:|--:|--:|--:|"
    yield f"| in the process | | | | {tokens_per_s(CompiledModel(model, allow_native=True)):.0f} |"
    patch = stack.enter_context(pytest.MonkeyPatch.context())
    (folder / "ssh").mkdir()
    (folder / "adb").mkdir()
    server = stack.enter_context(serving(folder / "ssh"))
    patch.setenv("PATH", str(server.bin), prepend=":")
    stack.enter_context(phones(folder / "adb", patch)).plug_in()
    for name, start in (
        ("local", Runner.local),
        (f"ssh:{HOST}", lambda: Runner.at(f"ssh:{HOST}")),
        ("adb:", lambda: Runner.at("adb:")),
    ):
        up_s(start)  # puts the runner there
        with start() as runner:
            there = runner.load(model, allow_native=True)
            trip = median(lambda there=there: round_trip_s(there.session()))  # type: ignore[misc]
            sent = "" if name == "local" else f"{median(lambda r=runner: upload_per_s(r, folder)) / 1e6:.0f} MB/s"  # type: ignore[misc]
            speed = tokens_per_s(there)
        yield f"| `{name}` | {median(lambda s=start: up_s(s)):.3f} s | {trip * 1e6:.0f} us | {sent} | {speed:.0f} |"  # type: ignore[misc]


def main() -> None:
    model = Model.load()
    assert model.path is not None
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for row in rows(Path(folder), model.path, stack):
            print(row, flush=True)


if __name__ == "__main__":
    main()
