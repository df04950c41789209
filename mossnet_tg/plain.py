"""The model on a plain tinygrad device, uncompiled: slow, and for debugging only.

The graph of `mossnet_tg.model` with the ops' UOp bodies, run as tinygrad runs any graph. `PYTHON` needs nothing
installed; `CPU` needs clang, `CUDA` and `CL` their drivers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from tinygrad import Tensor, dtypes
from tinygrad.helpers import Context

from mossnet_tg import model
from mossnet_tg.config import Config
from mossnet_tg.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from mossnet_tg.engine import Sampler
    from mossnet_tg.sampling import SamplingParams

Floats = npt.NDArray[np.float32]


class PlainModel:
    """A model's weights on a tinygrad device; `values` are the parameters of `mossnet_tg.model` by their full names."""

    def __init__(self, config: Config, values: dict[str, Floats], device: str, context: int) -> None:
        self.config, self.device, self.context = config, device, context
        self.max_context = context if config.swa.layers and config.swa.window is None else 0
        try:
            with model.TINYGRAD_LOCK, Context(DEV=device):
                self.weights = {name: Tensor(np.ascontiguousarray(value)).realize() for name, value in values.items()}
        except Exception as e:  # tinygrad says what a device lacks in many ways
            raise DeviceError(
                f"tinygrad has no device {device} here: {str(e).splitlines()[0] if str(e) else e!r}"
            ) from None

    def session(self) -> PlainSession:
        """A new sequence at position 0."""
        return PlainSession(self)

    def sampler(self, params: SamplingParams | None = None) -> Sampler:
        """libmossnet's: tinygrad has none."""
        from mossnet_tg.engine import Sampler

        return Sampler(params)


class PlainSession:
    """One sequence. As `mossnet_tg.engine.Session`: prefill and decode give logits [vocab], score [n, vocab]."""

    def __init__(self, plain: PlainModel) -> None:
        self.model = plain
        self.reset()

    def __enter__(self) -> PlainSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing to free: tensors go with their last reference."""

    def reset(self) -> None:
        """Back to position 0."""
        c = self.model.config
        self.position = 0
        with model.TINYGRAD_LOCK, Context(DEV=self.model.device):
            self._states = [
                {
                    name: Tensor(np.zeros(shape, np.float32)).realize()
                    for name, shape in model.state_shapes(c, i, self.model.context).items()
                }
                for i in range(c.n_layer)
            ]

    def score(self, ids: Sequence[int]) -> Floats:
        """The logits after each id, float32 [n, vocab]."""
        c, n = self.model.config, len(ids)
        if not n:
            raise UsageError("no token ids, expected at least one")
        if wrong := [i for i in ids if not 0 <= i < c.vocab_size]:
            raise UsageError(f"token id {wrong[0]} is not in the vocabulary, expected 0 to {c.vocab_size - 1}")
        if 0 < self.model.max_context < self.position + n:
            raise UsageError(
                f"{self.position + n} tokens, but attention without a window holds {self.model.max_context}"
            )
        with model.TINYGRAD_LOCK, Context(DEV=self.model.device):
            params = Tensor(np.array([n, self.position], np.int32)).realize()
            h = model.embed(self.model.weights, Tensor(np.array(ids, np.int32)).realize()).realize()
            for i, states in enumerate(self._states):
                prefix = f"layers.{i}."
                weights = {name[len(prefix) :]: w for name, w in self.model.weights.items() if name.startswith(prefix)}
                h = model.layer(c, i, weights, states, h, params)
                h = Tensor.realize(h, *states.values())
            logits = model.head(c, self.model.weights, h).cast(dtypes.float).numpy()
        self.position += n
        return np.asarray(logits, np.float32)

    def prefill(self, ids: Sequence[int]) -> Floats:
        """Read ids; the logits after the last."""
        last: Floats = self.score(ids)[-1]
        return last

    def decode(self, token: int) -> Floats:
        """Read one id; the logits after it."""
        return self.prefill([token])
