"""The demo from the start of a process: seconds to its first text, and the memory at its peak.

    sh setup.sh python tests/bench/start.py

Two programs in turns, the files in the cache: the C program that `mossnet-tg compile` writes beside a model, and the
command line, `mossnet-tg generate`. Each continues a prompt by 64 tokens; medians.

- first text: from the start of the process until a byte of the continuation can be read.
- peak: the most that was resident (VmHWM), with mapped files; beyond: that less the model's file and a session's
  memory.
- private: the most that was in no file (RssAnon), a session's memory with it; the rest is the model and libraries,
  which the system shares and drops at will.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click

sys.path.insert(0, str(Path(__file__).parents[2]))  # the tests are no installed package

from mossnet_tg.engine import CompiledModel
from tests.bench.worker import memory

_MIB = 2**20
_PROMPT = "def fibonacci(n):"


class Run(NamedTuple):
    first_s: float
    all_s: float
    peak_mib: float
    private_mib: float


def run_once(command: Sequence[str]) -> Run:
    """Neither program repeats the prompt: the first byte is the continuation's."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    highest = {"peak": 0.0, "private": 0.0}

    def watch() -> None:
        while process.poll() is None:
            with contextlib.suppress(OSError, KeyError):  # it ended between the two
                now = memory(process.pid)
                for name in highest:
                    highest[name] = max(highest[name], now[name])
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert process.stdout
    process.stdout.read(1)
    first_s = time.perf_counter() - start
    process.stdout.read()
    watcher.join()
    if process.returncode:
        raise click.ClickException(f"{command[0]} ended with {process.returncode}")
    return Run(first_s, time.perf_counter() - start, *highest.values())


def built(folder: Path) -> Path:
    """The demo compiled into `folder`, and its program built."""
    subprocess.run([sys.executable, "-m", "mossnet_tg.cli", "compile", "--out", str(folder)], check=True)
    flags = ["-Iinclude", "-Llib", "-lmossnet", "-Wl,-rpath,$ORIGIN/lib", "-o", "app"]
    subprocess.run([os.environ.get("CC", "cc"), "-O2", "app.c", *flags], cwd=folder, check=True)
    return folder / "app"


@click.command(help=__doc__)
@click.option("--runs", type=click.IntRange(1), default=15, show_default=True, help="Runs of each.")
def main(runs: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        app = built(Path(name))
        model = app.parent / "model.moss"
        with CompiledModel(model, allow_native=True) as compiled:
            needed_mib = (model.stat().st_size + compiled.info.session_bytes) / _MIB
        generate = [sys.executable, "-m", "mossnet_tg.cli", "generate", _PROMPT, "-n", "64"]
        commands = {"C program": [str(app), str(model), _PROMPT, "64"], "command line": generate}
        for command in commands.values():
            run_once(command)
        results: dict[str, list[Run]] = {row: [] for row in commands}
        for _ in range(runs):
            for row, command in commands.items():
                results[row].append(run_once(command))
    print("| run | first text s | all s | peak MiB | beyond MiB | private MiB |\n|---|--:|--:|--:|--:|--:|")
    for row, found in results.items():
        first_s, all_s, peak, private = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"| {row} | {first_s:.3f} | {all_s:.3f} | {peak:.1f} | {peak - needed_mib:.1f} | {private:.1f} |")


if __name__ == "__main__":
    main()
