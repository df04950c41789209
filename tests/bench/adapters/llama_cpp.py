"""llama.cpp through llama-cpp-python; the model is a .gguf file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import gguf
import llama_cpp as lc
import numpy as np

from tests.bench.adapters import Logits


class Engine:
    """One sequence, prompts in one batch of at most 2048 tokens."""

    def __init__(self, model: str, n_threads: int) -> None:
        self.quiet = lc.llama_log_callback(lambda *_: None)  # kept: the library calls it
        lc.llama_log_set(self.quiet, None)
        lc.llama_backend_init()
        loaded = lc.llama_model_default_params()
        loaded.n_gpu_layers = 0
        self.model = lc.llama_model_load_from_file(model.encode(), loaded)
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {model}")
        params = lc.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = 4096, 2048, 512
        params.n_threads = params.n_threads_batch = n_threads
        self.context = lc.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit("llama.cpp cannot make a context")
        self.vocab = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(self.model))
        self.position = 0
        self._look_into(model)

    def _look_into(self, path: str) -> None:
        """How many bytes there are of each type. The tied embedding is the head, so a token reads all of the file."""
        n_bytes, n_weights = Counter[str](), 0
        for tensor in gguf.GGUFReader(path).tensors:
            n_bytes[tensor.tensor_type.name] += int(tensor.n_bytes)
            n_weights += int(tensor.n_elements)
        self.read_per_token = n_bytes.total()
        bits = 8 * self.read_per_token / n_weights
        parts = ", ".join(f"{kind} {100 * n / n_bytes.total():.1f} %" for kind, n in n_bytes.most_common())
        # Such as "CPU : SSE3 = 1 | AVX2 = 1 | LLAMAFILE = 1 | ".
        flags = re.findall(r"(\w+) = 1", lc.llama_print_system_info().decode())
        self.notes = (f"{bits:.2f} bits per weight, bytes by type: {parts}", f"built for {' '.join(flags)}")

    def _run(self, ids: Sequence[int]) -> Logits:
        batch = lc.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, self.position + i, 1, 0
            batch.logits[i] = i == len(ids) - 1
        if lc.llama_decode(self.context, batch):
            raise SystemExit("llama_decode failed")
        lc.llama_batch_free(batch)
        self.position += len(ids)
        return np.ctypeslib.as_array(lc.llama_get_logits_ith(self.context, -1), shape=(self.vocab,))

    def prefill(self, ids: Sequence[int]) -> Logits:
        lc.llama_memory_clear(lc.llama_get_memory(self.context), True)
        self.position = 0
        return self._run(ids)

    begin = prefill

    def step(self, token: int) -> Logits:
        return self._run([token])
