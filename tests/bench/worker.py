"""One engine with one model, kept loaded: reads a line of work from stdin, does it once, answers with a line of JSON.

    python worker.py ENGINE MODEL THREADS         engines: mossnet, transformers, llama.cpp

Work: `prefill N` (a prompt of N tokens from nothing, logits of the last), `decode N` (N greedy tokens after a prompt of
32, which is not timed). The answer holds `seconds`, and `memory`: this process's resident MiB now, in all and without
mapped files.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

N_BEFORE = 32  # tokens before a timed decode


def tokens(n: int, vocab: int) -> list[int]:
    """n reproducible ids: the same for every engine."""
    x, out = 12345, []
    for _ in range(n):
        x = (1664525 * x + 1013904223) & 0xFFFFFFFF
        out.append(3 + (x >> 8) % (vocab - 3))
    return out


class Mossnet:
    """Ours: a checkpoint folder through the cache."""

    def __init__(self, model: str, n_threads: int) -> None:
        from mossnet_tg import Model

        self.model = Model.load(model, n_threads=n_threads)
        self.session: Any = self.model.session()
        self.vocab = self.model.config.vocab_size

    def prefill(self, ids: list[int]) -> int:
        self.session.reset()
        return int(self.session.prefill(ids, copy=False).argmax())

    def step(self, token: int) -> int:
        return int(self.session.decode(token, copy=False).argmax())


class Transformers:
    """Hugging Face transformers on torch, eager."""

    def __init__(self, model: str, n_threads: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM, logging

        logging.set_verbosity_error()
        torch.set_num_threads(n_threads)
        torch.set_grad_enabled(False)
        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.vocab = self.model.config.vocab_size
        self.cache: Any = None

    def _run(self, ids: list[int], **cache: Any) -> int:
        out = self.model(input_ids=self.torch.tensor([ids]), use_cache=True, logits_to_keep=1, **cache)
        self.cache = out.cache_params
        return int(out.logits[0, -1].argmax())

    def prefill(self, ids: list[int]) -> int:
        return self._run(ids)

    def step(self, token: int) -> int:
        return self._run([token], cache_params=self.cache)


class LlamaCpp:
    """llama.cpp through llama-cpp-python; the model is a .gguf file."""

    def __init__(self, model: str, n_threads: int) -> None:
        import llama_cpp as lc
        import numpy as np

        self.lc, self.np = lc, np
        self.quiet = lc.llama_log_callback(lambda *_: None)  # kept: the library calls it
        lc.llama_log_set(self.quiet, None)
        lc.llama_backend_init()
        self.model = lc.llama_model_load_from_file(model.encode(), lc.llama_model_default_params())
        params = lc.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = 4096, 2048, 512
        params.n_threads = params.n_threads_batch = n_threads
        self.context = lc.llama_init_from_model(self.model, params)
        self.vocab = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(self.model))
        self.position = 0

    def _run(self, ids: list[int]) -> int:
        batch = self.lc.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, self.position + i, 1, 0
            batch.logits[i] = i == len(ids) - 1
        if self.lc.llama_decode(self.context, batch):
            raise SystemExit("llama_decode failed")
        self.lc.llama_batch_free(batch)
        self.position += len(ids)
        logits = self.lc.llama_get_logits_ith(self.context, -1)
        return int(self.np.ctypeslib.as_array(logits, shape=(self.vocab,)).argmax())

    def prefill(self, ids: list[int]) -> int:
        self.lc.llama_memory_clear(self.lc.llama_get_memory(self.context), True)
        self.position = 0
        return self._run(ids)

    def step(self, token: int) -> int:
        return self._run([token])


ENGINES: dict[str, Callable[[str, int], Any]] = {
    "mossnet": Mossnet,
    "transformers": Transformers,
    "llama.cpp": LlamaCpp,
}


def resident_mib() -> tuple[float, float]:
    """This process's resident memory, and the part of it that is no mapped file."""
    status = Path("/proc/self/status").read_text()
    found = {name: int(kib) / 1024 for name, kib in re.findall(r"(VmRSS|RssAnon):\s+(\d+) kB", status)}
    return found["VmRSS"], found["RssAnon"]


def main() -> None:
    engine = ENGINES[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        kind, n = line.split()
        if kind == "prefill":
            ids = tokens(int(n), engine.vocab)
            start = time.perf_counter()
            engine.prefill(ids)
        else:
            token = engine.prefill(tokens(N_BEFORE, engine.vocab))
            start = time.perf_counter()
            for _ in range(int(n)):
                token = engine.step(token)
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "memory": resident_mib()}), flush=True)


if __name__ == "__main__":
    main()
