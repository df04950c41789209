"""One engine with one model, kept loaded: reads work from stdin, a line of JSON each, and answers with one.

    python -m tests.bench.worker ADAPTER MODEL THREADS OPTIONS      OPTIONS: a JSON object

The first answer comes with the first token after a prompt of 32. Work:

    {"kind": "prefill", "n": 128}                 a prompt, to the logits of its last token
    {"kind": "decode", "n": 64, "before": 32}     greedy tokens after a prompt, which is not timed
    {"kind": "logits", "path": FILE}              writes float32 [2, vocab]: after 32 tokens, and after 31 and a step

Answers hold `seconds`, `memory` and the engine's `notes`.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.adapters import Adapter

N_FIRST = 32


def tokens(n: int, vocab: int) -> list[int]:
    """n reproducible ids: the same for every engine."""
    x, out = 12345, []
    for _ in range(n):
        x = (1664525 * x + 1013904223) & 0xFFFFFFFF
        out.append(3 + (x >> 8) % (vocab - 3))
    return out


def prefill(engine: Adapter, n: int) -> float:
    """Seconds of a prompt."""
    ids = tokens(n, engine.vocab)
    start = time.perf_counter()
    engine.prefill(ids).argmax()
    return time.perf_counter() - start


def decode(engine: Adapter, n: int, before: int) -> float:
    """Seconds of n greedy tokens after a prompt."""
    token = engine.begin(tokens(before, engine.vocab)).argmax()
    start = time.perf_counter()
    for _ in range(n):
        token = engine.step(int(token)).argmax()
    return time.perf_counter() - start


def logits(engine: Adapter, path: str) -> float:
    """Both ways to the logits after the same tokens. Takes no time that counts."""
    ids = tokens(N_FIRST, engine.vocab)
    at_once = np.array(engine.prefill(ids))
    engine.begin(ids[:-1])
    np.save(path, np.stack([at_once, engine.step(ids[-1])]).astype(np.float32))
    return 0.0


_KINDS = {"prefill": prefill, "decode": decode, "logits": logits}


def memory(process: int | str = "self") -> dict[str, float]:
    """A process's resident MiB: the most so far, and now without and in mapped files. OSError: there is none;
    KeyError: it has ended.
    """
    status = Path(f"/proc/{process}/status").read_text()
    kib = dict(re.findall(r"^(\w+):\s+(\d+) kB$", status, re.MULTILINE))
    names = {"peak": "VmHWM", "private": "RssAnon", "mapped": "RssFile"}
    return {name: int(kib[key]) / 1024 for name, key in names.items()}


def main() -> None:
    adapter, model, n_threads, options = sys.argv[1:]
    # What libraries print goes where errors go; stdout is for answers alone.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**said: Any) -> None:
        print(json.dumps(said), file=answers, flush=True)

    made = importlib.import_module(f"tests.bench.{adapter}").Engine
    engine: Adapter = made(model, int(n_threads), **json.loads(options))
    engine.begin(tokens(N_FIRST, engine.vocab)).argmax()
    answer(read_per_token=engine.read_per_token)
    for line in sys.stdin:
        work = json.loads(line)
        seconds = _KINDS[work.pop("kind")](engine, **work)
        answer(seconds=seconds, memory=memory(), notes=list(engine.notes))


if __name__ == "__main__":
    main()
