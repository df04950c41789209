"""An engine in a process of its own, so that its threads, its memory and its death are its own."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class EngineFailed(Exception):  # noqa: N818  # what it says is the result, not a fault of ours
    """An engine ended, or did not answer in time; the text says which and what it said last."""


class Process:
    """A running worker.py. `start_s`: from the start of the process to its first token."""

    def __init__(self, adapter: str, model: Path, n_threads: int, options: Mapping[str, Any], limit_s: float) -> None:
        command = [sys.executable, "-m", "tests.bench.worker", adapter, str(model.resolve()), str(n_threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(n_threads), "HF_HUB_OFFLINE": "1"}
        self._folder = str(model.resolve().parent)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the process is
        self._lines: queue.Queue[str] = queue.Queue()
        start = time.perf_counter()
        self._process = subprocess.Popen(
            [*command, json.dumps(dict(options))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
            cwd=ROOT,
            start_new_session=True,  # with what it starts itself: torch compiles in processes
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.read_per_token: int = self._answer(limit_s)["read_per_token"]
        self.start_s = time.perf_counter() - start

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _answer(self, limit_s: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=limit_s)
        except queue.Empty:
            self.close()
            raise EngineFailed(f"no answer within {limit_s:g} s") from None
        if not line:
            code = self._process.wait()
            said = self._last_words()
            self.close()
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise EngineFailed(f"{how}{': ' * bool(said)}{said}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        for folder in (self._folder, str(ROOT)):  # they are nobody's business
            last = last.replace(f"{folder}/", "")
        return last[:300]

    def ask(self, limit_s: float, **work: Any) -> dict[str, Any]:
        """Have work done. Raises EngineFailed, after which the process is gone."""
        assert self._process.stdin
        # Where it has ended, the answer, of which there is none, says so.
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(work) + "\n")
            self._process.stdin.flush()
        return self._answer(limit_s)

    def close(self) -> None:
        """End it, and what it started; once or more."""
        if self._errors.closed:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._reader.join()
        with contextlib.suppress(BrokenPipeError), self._process:
            pass
        self._errors.close()
