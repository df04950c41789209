"""The model's lazy graph, scheduled on tinygrad's NULL device: which kernels run, in which order, on which buffers.

No hardware, no compiler and no data are needed. Each part of the model (embedding, one layer of each kind, head) is
captured once; the plan repeats a layer's calls with that layer's weights and states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tinygrad import Tensor, dtypes
from tinygrad.helpers import Context
from tinygrad.uop.ops import Ops, UOp

from mossnet_tg import model, ops

_DTYPES = {
    "float32": dtypes.float,
    "float16": dtypes.half,
    "float16_bits": dtypes.half,
    "bfloat16": dtypes.bfloat16,
    "int32": dtypes.int,
    # A stand-in: the graph widens what it reads of a matrix, and nothing else.
    "q8": dtypes.half,
    "q4": dtypes.half,
}
Kind = Literal["weight", "state", "input", "output", "temp"]

# Every setting of tinygrad's that changes what is scheduled, so that the user's environment does not.
SETTINGS: dict[str, Any] = {
    "DEV": "NULL",
    "NO_MEMORY_PLANNER": 1,  # temporaries stay apart: our own plan packs them
    "SPLIT_REDUCEOP": 0,
    "PCONTIG": 0,
    "FLOAT16": 0,
    "IMAGE": 0,
    "TRACEMETA": 0,
    "DEFAULT_FLOAT": "float32",
    "DEFAULT_INT": "int32",
    "DISALLOW_BROADCAST": 0,
}


@dataclass(frozen=True)
class Spec:
    """A placeholder: shape and dtype (numpy's name, bfloat16, or float16_bits)."""

    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class Ref:
    """A buffer as a captured call sees it; `name` is the weight's, state's or input's name, or a temporary's number."""

    kind: Kind
    name: str
    bytes: int


@dataclass(frozen=True)
class Call:
    """One kernel call: an op of ours or a kernel of tinygrad's, and its buffers in order."""

    kernel: ops.Op | UOp
    buffers: tuple[Ref, ...]


Graph = Callable[[Mapping[str, Tensor], dict[str, Tensor], Mapping[str, Tensor]], Tensor]


def capture(
    graph: Graph, weights: Mapping[str, Spec], states: Mapping[str, Spec], inputs: Mapping[str, Spec]
) -> list[Call]:
    """The calls of `graph(weights, states, inputs) -> output` on placeholders; states are advanced in place."""
    with model.TINYGRAD_LOCK, Context(**SETTINGS):
        placed: dict[UOp, tuple[Kind, str]] = {}

        def place(kind: Kind, specs: Mapping[str, Spec]) -> dict[str, Tensor]:
            found = {}
            for name, spec in specs.items():
                found[name] = Tensor.empty(*spec.shape, dtype=_DTYPES[spec.dtype])
                placed[found[name].uop.base] = (kind, name)
            return found

        w, s, i = place("weight", weights), place("state", states), place("input", inputs)
        output = graph(w, s, i)
        linear = output.schedule_linear(*s.values())
        placed[output.uop.base] = ("output", "output")
        return [_call(c, placed) for c in linear.src]


def _call(call: UOp, placed: dict[UOp, tuple[Kind, str]]) -> Call:
    if call.op is not Ops.CALL or call.src[0].op is not Ops.SINK:
        raise RuntimeError(f"the schedule holds {call.op} of {call.src[0].op}, expected kernels only")
    kernel: Any = ops.parse_kernel_name(call.src[0].arg.name) or call.src[0]
    return Call(kernel, tuple(_ref(b, placed) for b in call.src[1:]))


def _ref(buffer: UOp, placed: dict[UOp, tuple[Kind, str]]) -> Ref:
    if buffer.op is not Ops.BUFFER:
        raise RuntimeError(f"a kernel's buffer is {buffer.op}, expected a whole buffer")
    if buffer not in placed:
        placed[buffer] = ("temp", str(len(placed)))
    return Ref(*placed[buffer], math.prod(buffer.shape) * buffer.dtype.itemsize)
