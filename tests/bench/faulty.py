"""An engine for the tests: it knows nothing, writes down what is asked of it, and fails when it is told to."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.bench.adapters import Logits

VOCAB = 50


class Engine:
    """`log`: the file that gets `name` and what was asked. `fails`: how at the call `at` (`load`, `prefill`, `step`).

    `skew` is added to one logit after steps.
    """

    vocab, read_per_token = VOCAB, 1000

    def __init__(
        self, model: str, n_threads: int, name: str = "", log: str = "", at: str = "", fails: str = "", skew: float = 0
    ) -> None:
        self.name, self.log, self.at, self.fails, self.skew = f"{name}{n_threads}", log, at, fails, skew
        self.notes = (f"runs {model.rpartition('/')[2]}",)
        os.write(1, b"a library prints\n")
        self.n_prompts = 0
        self._asked("load")

    def _asked(self, what: str) -> None:
        if self.log:
            with Path(self.log).open("a") as f:
                f.write(f"{self.name} {what}\n")
        if what == self.at:
            _FAULTS[self.fails]()

    def begin(self, ids: Sequence[int]) -> Logits:
        logits = np.zeros(VOCAB, np.float32)
        logits[ids[-1]] = 1.0
        return logits

    def prefill(self, ids: Sequence[int]) -> Logits:
        self._asked("prefill")
        return self.begin(ids)

    def step(self, token: int) -> Logits:
        self._asked("step")
        logits = self.begin([token])
        logits[0] += self.skew
        return logits


def _raise() -> None:
    raise ValueError("this engine cannot")


_FAULTS = {
    "raise": _raise,
    "exit": lambda: os._exit(7),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": lambda: time.sleep(600),
}
