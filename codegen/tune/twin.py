"""What the kernels of a model meet: the inputs of its calls and what they must come to.

They come from the model itself, run on this machine's processor with the default schedules.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mossnet_tg.codegen.layout import Panels
from mossnet_tg.codegen.moss_file import DType, EntryKind, Region
from mossnet_tg.codegen.plan import Plan, Use
from mossnet_tg.codegen.tune.bench import Array
from mossnet_tg.engine import CompiledModel
from mossnet_tg.weights.checkpoint import Checkpoint
from mossnet_tg.weights.parameters import value
from mossnet_tg.weights.quantised import Groups
from mossnet_tg.weights.tensors import Values

_NUMPY: dict[DType, Any] = {DType.F32: np.float32, DType.I32: np.int32}


@dataclass(frozen=True)
class Sample:
    """A call as it was met: its buffers before and after, in the call's order; a weight by its name in both. `near`:
    which of them kernels just before it work on too, so that caches hold them: neither weights nor states.
    """

    before: Sequence[Array | str]
    after: Sequence[Array | str]
    near: Sequence[bool]


class Twin:
    """`plan` is that of the model file at `path`, for this machine's processor."""

    def __init__(self, checkpoint: Checkpoint, plan: Plan, path: Path) -> None:
        self.checkpoint, self.plan = checkpoint, plan
        self.weights = {w.name: w for w in plan.weights}
        self._values: dict[str, Values] = {}
        self.model = CompiledModel(path, allow_native=True)

    def close(self) -> None:
        self.model.close()

    def samples(self, wanted: Collection[int], seed: int) -> dict[int, Sample]:
        """Samples of uses, by their index in the plan: of a full chunk of random tokens, and of the token behind it."""
        rng, found, position = np.random.default_rng(seed), {}, 0
        with self.model.session(1) as session:
            for kind in (EntryKind.PREFILL, EntryKind.DECODE):
                entry = next(e for e in self.plan.entries if e.kind == kind)
                if self.plan.context and position + entry.n_tokens > self.plan.context:
                    position = 0
                ids = rng.integers(0, self.plan.config.vocab_size, entry.n_tokens).astype(np.int32)
                session.write(entry.ids, ids)
                session.write(entry.params, np.array([entry.n_tokens, position], np.int32))
                position += entry.n_tokens
                for i, use in enumerate(self.plan.uses):
                    if use.entry != kind:
                        continue
                    before = self._read(session, use) if i in wanted else ()
                    session.run(kind, use.first_step, use.n_steps)
                    if i in wanted:
                        found[i] = Sample(before, self._read(session, use), [self._is_near(b) for b in use.buffers])
        return found

    def _is_near(self, buffer: int | str) -> bool:
        return isinstance(buffer, int) and self.plan.buffers[buffer].region != Region.STATE

    def _read(self, session: Any, use: Use) -> list[Array | str]:
        found: list[Array | str] = []
        for buffer in use.buffers:
            if isinstance(buffer, int):
                place = self.plan.buffers[buffer]
                values = np.empty(place.bytes // 4, _NUMPY[place.dtype])
                session.read(buffer, values)
                found.append(values)
            else:
                found.append(buffer)
        return found

    def weight(self, name: str, panels: Panels) -> Array:
        """A parameter as it lies in a file: a matrix in `panels`, a vector as it is."""
        w = self.weights[name]
        if name not in self._values:
            self._values[name] = value(self.checkpoint, w.prefix, w.parameter)
        values = self._values[name]
        if w.matrix or isinstance(values, Groups):
            return panels.pack(values, w.dtype)
        return values
