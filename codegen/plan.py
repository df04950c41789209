"""The plan of a model: which kernels run in which order, and where every buffer lies.

Each entry (decode, prefill, score) is the captured parts of the model strung together, a layer's calls repeated with
its own weights and states. Kernels that are the same are one. Temporaries share the arena: two may overlap when they
are never needed at the same step.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from tinygrad.uop.ops import UOp

from mossnet_tg import model
from mossnet_tg.codegen import layout, moss_file, tensorir
from mossnet_tg.codegen.capture import Call, Graph, Ref, Spec, capture
from mossnet_tg.codegen.kernels.build import Generated, Param, itemsize
from mossnet_tg.codegen.options import CompileOptions
from mossnet_tg.codegen.schedules import Schedule
from mossnet_tg.codegen.workload import Workload
from mossnet_tg.config import Config
from mossnet_tg.weights.checkpoint import Checkpoint
from mossnet_tg.weights.parameters import parameters
from mossnet_tg.weights.tensors import Values

_SCRATCH = -1
ALIGN = 512  # twice what the format asks for: OpenCL on NVIDIA's GPUs wants it of a buffer's part

_DTYPE = {
    "float32": moss_file.DType.F32,
    "float16": moss_file.DType.F16,
    "float16_bits": moss_file.DType.F16,
    "bfloat16": moss_file.DType.BF16,
    "int32": moss_file.DType.I32,
    "q8": moss_file.DType.Q8,
    "q4": moss_file.DType.Q4,
    "int8": moss_file.DType.I8,
    "uint8": moss_file.DType.U8,
    "bool": moss_file.DType.BOOL,
}


@dataclass(frozen=True)
class Weight:
    """A parameter in the model file: where it comes from, its type, how it is laid out and where it lies."""

    prefix: str
    short_name: str
    parameter: model.Parameter
    matrix: layout.Matrix | None  # None: a float32 vector, as it is
    offset: int

    @property
    def parts(self) -> list[tuple[int, int]]:
        """(offset, elements) of each buffer that it lies in."""
        found, offset = [], self.offset
        for n in self.matrix.parts if self.matrix else [math.prod(self.parameter.shape)]:
            found.append((offset, n))
            offset = align(offset + n * itemsize(self.dtype))
        return found

    @property
    def name(self) -> str:
        return self.prefix + self.short_name

    @property
    def dtype(self) -> str:
        return self.matrix.dtype if self.matrix else "float32"

    @property
    def end(self) -> int:
        offset, n = self.parts[-1]
        return offset + n * itemsize(self.dtype)

    def pack(self, value: Values) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """(offset, content) of each buffer, as they lie in the file."""
        flat = (self.matrix.panels.pack(value, self.dtype) if self.matrix else np.ascontiguousarray(value)).reshape(-1)
        begin = 0
        for offset, n in self.parts:
            yield offset, flat[begin : begin + n]
            begin += n


@dataclass(frozen=True)
class Function:
    """A kernel of the plan before it is machine code."""

    generated: Generated

    @property
    def name(self) -> str:
        return self.generated.name


@dataclass(frozen=True)
class Step:
    """One call: `function` on buffers, by index into the plan's."""

    function: int
    args: tuple[int, ...]
    label: str


@dataclass(frozen=True)
class Use:
    """A call in an entry: its steps there, and its buffers in order, a weight by its name, others by their index into
    the plan's.
    """

    workload: Workload
    entry: moss_file.EntryKind
    first_step: int
    n_steps: int
    buffers: tuple[str | int, ...]


@dataclass
class Plan:
    """Everything that `package` writes, but for the code; `uses` are the calls that the steps came from."""

    config: Config
    chunk: int
    context: int
    weights: list[Weight]
    functions: list[Function] = field(default_factory=list)
    buffers: list[moss_file.Buffer] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    entries: list[moss_file.Entry] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    state_bytes: int = 0
    arena_bytes: int = 0
    io_bytes: int = 0

    @property
    def weights_bytes(self) -> int:
        return self.weights[-1].end


Progress = Callable[[str], None]


def make_plan(checkpoint: Checkpoint, s: Schedule, options: CompileOptions, progress: Progress) -> Plan:
    """The plan for the model of `checkpoint`, whose data is not read."""
    c = checkpoint.config
    grows = bool(c.swa.layers) and c.swa.window is None
    plan = Plan(c, options.chunk, options.context if grows else 0, list(_weights(checkpoint, s)))
    _Builder(plan, s, progress).build()
    return plan


def _weights(checkpoint: Checkpoint, s: Schedule) -> Iterator[Weight]:
    """Every parameter, placed in the order of use."""
    offset = 0
    for prefix, name, p in parameters(checkpoint):
        matrix = None
        if p.matrix:
            dtype = s.storage[checkpoint.tensors[f"{prefix}{p.source}"].dtype]
            matrix = layout.Matrix(p.shape, dtype, s.panels_of(p.shape, dtype))
        weight = Weight(prefix, name, p, matrix, offset)
        yield weight
        offset = align(weight.end)


def align(offset: int) -> int:
    return -(-offset // ALIGN) * ALIGN


@dataclass(frozen=True)
class _Part:
    """A captured part of the model: its calls, the prefix of its weights and states, how many tokens it works on, and
    how its steps' labels begin."""

    calls: list[Call]
    prefix: str
    n_tokens: int
    label: str


class _Builder:
    def __init__(self, plan: Plan, s: Schedule, progress: Progress) -> None:
        self.plan, self.s, self.progress = plan, s, progress
        self.c = plan.config
        self.weights = {w.name: w for w in plan.weights}
        self.captured: dict[Any, list[Call]] = {}
        self.functions: dict[Workload, list[int]] = {}
        self.kernels: dict[bytes, tensorir.Kernel] = {}
        self.buffer_index: dict[moss_file.Buffer, int] = {}
        self.states = self._place_states()
        self.io = self._place_io()

    # ---- buffers with a place of their own

    def _place_states(self) -> dict[str, moss_file.Buffer]:
        found, offset = {}, 0
        for i in range(self.c.n_layer):
            for name, shape in model.state_shapes(self.c, i, self.plan.context).items():
                size = math.prod(shape) * 4
                full = f"layers.{i}.{name}"
                found[full] = moss_file.Buffer(full, moss_file.Region.STATE, moss_file.DType.F32, offset, size)
                offset = align(offset + size)
        self.plan.state_bytes = offset
        return found

    def _place_io(self) -> dict[str, moss_file.Buffer]:
        found, offset = {}, 0
        logits = 4 * self.c.vocab_size
        for name, dtype, size in (
            ("params", moss_file.DType.I32, 4 * 2),
            ("ids", moss_file.DType.I32, 4 * self.plan.chunk),
            ("logits", moss_file.DType.F32, logits),
            ("all_logits", moss_file.DType.F32, logits * self.plan.chunk),
        ):
            found[name] = moss_file.Buffer(name, moss_file.Region.IO, dtype, offset, size)
            offset = align(offset + size)
        self.plan.io_bytes = offset
        return found

    def _index(self, buffer: moss_file.Buffer) -> int:
        if buffer not in self.buffer_index:
            self.buffer_index[buffer] = len(self.plan.buffers)
            self.plan.buffers.append(buffer)
        return self.buffer_index[buffer]

    # ---- entries

    def build(self) -> None:
        chunk, kinds = self.plan.chunk, moss_file.EntryKind
        for kind, n_tokens, n_logits in ((kinds.DECODE, 1, 1), (kinds.PREFILL, chunk, 1), (kinds.SCORE, chunk, chunk)):
            self.progress(f"plan {kind.name.lower()}")
            first = len(self.plan.steps)
            logits = self.io["logits" if n_logits == 1 else "all_logits"]
            self._entry(kind, list(self._parts(n_tokens, n_logits)), logits)
            ids, params = self._index(self.io["ids"]), self._index(self.io["params"])
            count = len(self.plan.steps) - first
            self.plan.entries.append(
                moss_file.Entry(
                    kind.name.lower(), kind, first, count, n_tokens, n_logits, ids, params, self._index(logits)
                )
            )

    def _parts(self, n_tokens: int, n_logits: int) -> Iterator[_Part]:
        c, h = self.c, {"h": Spec((n_tokens, self.c.d_model))}
        ids = {"ids": Spec((n_tokens,), "int32")}
        outer = self._specs("", model.outer_parameters(c))
        yield _Part(
            self._capture("embed", lambda w, s, i: model.embed(w, i["ids"]), outer, {}, ids), "", n_tokens, "embed/"
        )
        for layer in range(c.n_layer):
            prefix = f"layers.{layer}."
            weights = self._specs(prefix, [w.short_name for w in self.plan.weights if w.prefix == prefix])
            states = {name: Spec(shape) for name, shape in model.state_shapes(c, layer, self.plan.context).items()}

            def graph(w: Any, s: Any, i: Any, layer: int = layer) -> Any:
                return model.layer(c, layer, w, s, i["h"], i["params"])

            yield _Part(self._capture("layer", graph, weights, states, h), prefix, n_tokens, prefix)
        if n_logits == 1 < n_tokens:
            calls = self._capture("last", lambda w, s, i: model.last_valid(i["h"], i["params"]), {}, {}, h)
            yield _Part(calls, "", n_tokens, "last/")
            h = {"h": Spec((1, c.d_model))}
        yield _Part(
            self._capture("head", lambda w, s, i: model.head(c, w, i["h"]), outer, {}, h), "", n_logits, "head/"
        )

    def _specs(self, prefix: str, names: Iterable[str]) -> dict[str, Spec]:
        return {
            name: Spec(self.weights[prefix + name].parameter.shape, self.weights[prefix + name].dtype) for name in names
        }

    def _capture(
        self, part: str, graph: Graph, weights: dict[str, Spec], states: dict[str, Spec], inputs: dict[str, Spec]
    ) -> list[Call]:
        """The part's calls; layers whose weights and states have the same shapes and types share one capture."""
        inputs = {**inputs, "params": Spec((2,), "int32")}
        key = (part, *(tuple(specs.items()) for specs in (weights, states, inputs)))
        if key not in self.captured:
            self.captured[key] = capture(graph, weights, states, inputs)
        return self.captured[key]

    def _entry(self, kind: moss_file.EntryKind, parts: list[_Part], logits: moss_file.Buffer) -> None:
        """Steps for the parts in order; the output of one is the next one's `h`, that of the last the logits."""
        arena, begin = Arena(), len(self.plan.steps)
        pending: list[tuple[int, list[moss_file.Buffer | str], str]] = []
        calls: list[tuple[_Part, Call, Workload, int, list[list[int | None]]]] = []
        for number, part in enumerate(parts):
            for position, call in enumerate(part.calls):

                def bound(ref: Ref, number: int = number, part: _Part = part) -> moss_file.Buffer | str:
                    if ref.kind == "output" and number == len(parts) - 1:
                        return logits
                    if ref.kind in ("temp", "output"):
                        return arena.use(f"{number}.{ref.name}", ref.bytes, len(pending))
                    if ref.name == "h":
                        return arena.use(f"{number - 1}.output", ref.bytes, len(pending))
                    return self._placed(part.prefix, ref)

                workload, functions = self._functions(call, part)
                calls.append((part, call, workload, len(pending), [slots for _, slots in functions]))
                for function, slots in functions:
                    args: list[moss_file.Buffer | str] = []
                    for slot in slots:
                        if slot == _SCRATCH:
                            param = next(p for p in self._params(function) if p.name == "scratch")
                            size = param.n * itemsize(param.dtype)
                            args.append(arena.use(f"{number}.{position}.scratch", size, len(pending)))
                        elif slot is not None and call.buffers[slot].kind == "weight":
                            args += self._weight(part.prefix + call.buffers[slot].name)
                        else:
                            args.append(self.io["params"] if slot is None else bound(call.buffers[slot]))
                    pending.append((function, args, self._label(call, part)))
        offsets = arena.pack()
        self.plan.arena_bytes = max(self.plan.arena_bytes, arena.bytes)
        for function, args, label in pending:
            params = self.plan.functions[function].generated.buffers
            indices = []
            for arg, param in zip(args, params, strict=True):
                if isinstance(arg, str):
                    size = arena.sizes[arg]
                    arg = moss_file.Buffer(
                        f"{kind.name.lower()}/{arg}", moss_file.Region.ARENA, _DTYPE[param.dtype], offsets[arg], size
                    )
                indices.append(self._index(arg))
            self.plan.steps.append(Step(function, tuple(indices), label))
        for part, call, workload, first, of_steps in calls:
            steps = self.plan.steps[begin + first : begin + first + len(of_steps)]
            buffers = self._buffers(part, call, steps, of_steps)
            self.plan.uses.append(Use(workload, kind, first, len(steps), buffers))

    def _buffers(
        self, part: _Part, call: Call, steps: Sequence[Step], of_steps: Sequence[Sequence[int | None]]
    ) -> tuple[str | int, ...]:
        """The call's buffers as `Use` has them; `of_steps` are the slots of each step's parameters."""
        n_slots = len(call.buffers)
        found: dict[int, str | int] = {}
        for step, slots in zip(steps, of_steps, strict=True):
            args = iter(step.args)
            for slot in slots:
                if slot is not None and slot != _SCRATCH and call.buffers[slot].kind == "weight":
                    name = part.prefix + call.buffers[slot].name
                    found[slot] = name
                    for _ in self.weights[name].parts:
                        next(args)
                else:
                    index = next(args)
                    if slot != _SCRATCH:
                        found[n_slots if slot is None else slot] = index
        return tuple(buffer for _, buffer in sorted(found.items()))

    def _weight(self, name: str) -> list[moss_file.Buffer]:
        w = self.weights[name]
        size = itemsize(w.dtype)
        return [moss_file.Buffer(name, moss_file.Region.WEIGHTS, _DTYPE[w.dtype], at, n * size) for at, n in w.parts]

    def _placed(self, prefix: str, ref: Ref) -> moss_file.Buffer:
        return self.states[prefix + ref.name] if ref.kind == "state" else self.io[ref.name]

    # ---- kernels

    def _functions(self, call: Call, part: _Part) -> tuple[Workload, list[tuple[int, list[int | None]]]]:
        """What a call is, its kernels, and which of the call's buffers their parameters are (None: the params buffer,
        _SCRATCH: memory of the call's own).
        """
        matrices = {
            slot: w.matrix
            for slot, ref in enumerate(call.buffers)
            if ref.kind == "weight" and (w := self.weights[part.prefix + ref.name]).matrix
        }
        kernel = self._read(call.kernel) if isinstance(call.kernel, UOp) else None
        workload = Workload.of(call, kernel, part.n_tokens, matrices)
        found = self._made(workload)
        places: dict[str, int | None]
        if kernel is not None:
            places = {
                **{p.name: slot for slot, p in zip(kernel.buffers, kernel.params({}), strict=True)},
                "params": None,
            }
        elif len(found) == 1:
            return workload, [(found[0], list(range(len(call.buffers))))]
        else:
            places = {name: slot for slot, name in enumerate(workload.names(self.s))}
        return workload, [(f, [places.get(p.name, _SCRATCH) for p in self._params(f)]) for f in found]

    def _read(self, kernel: UOp) -> tensorir.Kernel:
        if kernel.key not in self.kernels:
            self.kernels[kernel.key] = tensorir.Kernel.read(kernel)
        return self.kernels[kernel.key]

    def _made(self, workload: Workload) -> list[int]:
        if workload not in self.functions:
            first = len(self.plan.functions)
            made = workload.make(f"k{first}_{workload.task.kernel_class}", self.s)
            self.plan.functions.extend(map(Function, made))
            self.functions[workload] = list(range(first, len(self.plan.functions)))
        return self.functions[workload]

    def _params(self, function: int) -> Sequence[Param]:
        return self.plan.functions[function].generated.params

    def _label(self, call: Call, part: _Part) -> str:
        """What a step does, for people: its first weight's name, or its op's."""
        weight = next((ref.name for ref in call.buffers if ref.kind == "weight"), None)
        op = "" if isinstance(call.kernel, UOp) else type(call.kernel).__name__
        return part.label + (f"{op}({weight})" if op and weight else op or weight or "elementwise")


class Arena:
    """Scratch memory: each use of a name extends its life to that step; names whose lives do not meet may share
    bytes.
    """

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.lives: dict[str, tuple[int, int]] = {}
        self.bytes = 0

    def use(self, name: str, size: int, step: int) -> str:
        """Note that `name`, of `size` bytes, is needed at `step`; steps come in order."""
        first, _ = self.lives.get(name, (step, step))
        self.sizes[name], self.lives[name] = max(size, self.sizes.get(name, 0)), (first, step)
        return name

    def pack(self) -> dict[str, int]:
        """An offset for each name: the largest first, each at the lowest place where its life meets no other's."""
        placed: list[tuple[int, int, int, int]] = []  # offset, end, first step, last step; in order of offset
        offsets: dict[str, int] = {}
        for name in sorted(self.sizes, key=lambda n: (-self.sizes[n], self.lives[n])):
            (first, last), size, at = self.lives[name], align(self.sizes[name]), 0
            for offset, end, begin, over in placed:
                if begin <= last and first <= over:
                    if at + size <= offset:
                        break
                    at = max(at, end)
            offsets[name] = at
            bisect.insort(placed, (at, at + size, first, last))
            self.bytes = max(self.bytes, at + size)
        return offsets
