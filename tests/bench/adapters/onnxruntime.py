"""onnxruntime on the processor: the graphs of onnx_mamba.py, one for a prompt, one for a token."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from tests.bench.adapters import Logits


class Engine:
    """A folder with step.onnx and prefill.onnx. The first prompt loads the second."""

    notes = ("a graph written by hand (tests/bench/onnx_mamba.py), the scan of a prompt by the operator Scan",)

    def __init__(self, model: str, n_threads: int) -> None:
        self.folder = Path(model)
        self.options = onnxruntime.SessionOptions()
        self.options.intra_op_num_threads, self.options.inter_op_num_threads = n_threads, 1
        self.token = self._load("step.onnx")
        conv, ssm = (next(i for i in self.token.get_inputs() if i.name == name) for name in ("conv", "ssm"))
        self.zeros = np.zeros(conv.shape, np.float32), np.zeros(ssm.shape, np.float32)
        self.state = self.zeros
        self.vocab = self.token.get_outputs()[0].shape[-1]
        metadata = self.token.get_modelmeta().custom_metadata_map
        self.read_per_token = int(metadata["weights_bytes"])

    def _load(self, name: str) -> Any:
        return onnxruntime.InferenceSession(self.folder / name, self.options, providers=["CPUExecutionProvider"])

    @cached_property
    def prompt(self) -> Any:
        return self._load("prefill.onnx")

    def _run(self, session: Any, ids: Sequence[int]) -> Logits:
        conv, ssm = self.state
        logits, *state = session.run(None, {"ids": np.array(ids, np.int64), "conv": conv, "ssm": ssm})
        self.state = state[0], state[1]
        last: Logits = logits[0]
        return last

    def prefill(self, ids: Sequence[int]) -> Logits:
        self.state = self.zeros
        return self._run(self.prompt, ids)

    begin = prefill

    def step(self, token: int) -> Logits:
        return self._run(self.token, [token])
