"""The vulkan emitter: SPIR-V, one module per kernel, valid for Vulkan 1.1.

A buffer is the binding of its position in set 0. Loops and branches are blocks with phis; nothing of them goes through
memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tvm import tirx

from mossnet_tg.codegen.emit.spirv_arithmetic import BINARY, BOOL, FUNCTIONS, INT, UINT, Arithmetic
from mossnet_tg.codegen.emit.spirv_words import (
    NO_CONTROL,
    BuiltIn,
    Decoration,
    MemorySemantics,
    Op,
    Scope,
    StorageClass,
    source,
)
from mossnet_tg.codegen.emit.tir import Alignment, DType, Node, Visitor, buffer_root
from mossnet_tg.codegen.kernels.build import Param
from mossnet_tg.codegen.lower import lower_gpu

__all__ = ["Spirv", "emit", "source"]

_WHOLE = (2, 4)  # lanes whose vectors lie as close as their elements


@dataclass(frozen=True)
class Spirv:
    """A kernel: its module, Vulkan's names of the device features that it needs, and the bytes that a group shares."""

    code: bytes
    features: tuple[str, ...]
    local_bytes: int


def emit(name: str, func: Any, params: Sequence[Param]) -> Spirv:
    """The kernel `name` for Vulkan; `params` are its buffers in order."""
    return _Emitter(name, params).kernel(lower_gpu(func))


@dataclass
class _Memory:
    """An array of `dtype`: a parameter's buffer, or with `param` None the group's or the thread's own.

    `variables` show it as an array of vectors, by their lanes.
    """

    dtype: DType
    storage: StorageClass
    param: Param | None = None
    binding: int = 0
    variables: dict[int, int] = field(default_factory=dict)
    loaded: bool = False


class _Emitter(Visitor):
    """Statements append to the module; expressions do, and return the id of their value."""

    def __init__(self, name: str, params: Sequence[Param]) -> None:
        super().__init__()
        self.name, self.params = name, params
        self.module = Arithmetic()
        self.label = self.module.entry_label  # of the block that instructions go to
        self.values: dict[Node, int] = {}
        self.memories: dict[Node, _Memory] = {}
        self.alignment = Alignment()
        self.block = [1, 1, 1]
        self.local_bytes = 0
        self.has_barrier = False

    def kernel(self, func: Any) -> Spirv:
        buffers = []
        for i, (var, param) in enumerate(zip(func.params, self.params, strict=True)):
            dtype = DType.parse(str(var.ty.element_type.dtype))
            buffers.append(_Memory(dtype, StorageClass.StorageBuffer, param, i))
            self.memories[var] = buffers[-1]
        self.visit(func.body)
        for buffer in buffers:
            for variable in buffer.variables.values():
                for decoration in self._decorations(buffer):
                    self.module.decorate(variable, decoration)
        return Spirv(self.module.code(self.name, self.block), self.module.features, self.local_bytes)

    def _decorations(self, buffer: _Memory) -> list[Decoration]:
        """Buffers do not overlap. Two variables of one do, which matters where it is written; and what threads of a
        group tell each other through one must not stay in a thread's cache.
        """
        assert buffer.param
        if not buffer.param.written:
            return [Decoration.Restrict, Decoration.NonWritable]
        coherent = [Decoration.Coherent] if self.has_barrier and buffer.loaded else []
        return [Decoration.Aliased if len(buffer.variables) > 1 else Decoration.Restrict, *coherent]

    # ---- statements

    def SeqStmt(self, node: Node) -> None:
        for statement in node.seq:
            self.visit(statement)

    def Evaluate(self, node: Node) -> None:
        self.visit(node.value)

    def Bind(self, node: Node) -> None:
        self._bind(node.var, node.value)

    def _bind(self, var: Node, value: Node) -> None:
        if DType.of(var) == INT:
            value = self.simple(value)
            self.alignment.bind(var, value)
        self.values[var] = self.visit(value)

    def AttrStmt(self, node: Node) -> None:
        if node.attr_key == "thread_extent":
            self._position(node.node.var, str(node.node.thread_tag), node.value)
        self.visit(node.body)

    def _position(self, var: Node, tag: str, extent: Node) -> None:
        """Where the group or the thread stands on an axis; of one, the driver's compiler need not find out."""
        kind, axis = tag.split(".")
        builtin = {"blockIdx": BuiltIn.WorkgroupId, "threadIdx": BuiltIn.LocalInvocationId}[kind]
        at = "xyz".index(axis)
        self.range_of(var, tirx.IntImm("int32", 0), extent)
        if builtin == BuiltIn.LocalInvocationId:
            self.block[at] = int(extent)
        if int(extent) == 1:
            self.values[var] = self.module.constant(INT, 0)
            return
        vector = UINT.with_lanes(3)
        position = self.module.result(Op.Load, vector, self.module.input(builtin, vector))
        position = self.module.result(Op.CompositeExtract, UINT, position, at)
        self.values[var] = self.module.converted(position, UINT, INT)

    def For(self, node: Node) -> None:
        m, int_type = self.module, self.module.type(INT)
        i, following, head, body, step, end = (m.id() for _ in range(6))
        self.values[node.loop_var] = i
        self.range_of(node.loop_var, node.min, node.extent)
        first, behind = self.visit(node.min), self.visit(self.simple(node.min + node.extent))
        by, before = m.constant(INT, int(node.step) if node.step is not None else 1), self.label
        m.emit(Op.Branch, head)
        self._begin(head)
        m.emit(Op.Phi, int_type, i, first, before, following, step)
        more = m.binary("LT", INT, i, behind)
        m.emit(Op.LoopMerge, end, step, NO_CONTROL)
        m.emit(Op.BranchConditional, more, body, end)
        self._begin(body)
        self.visit(node.body)
        m.emit(Op.Branch, step)
        self._begin(step)
        m.emit(Op.IAdd, int_type, following, i, by)
        m.emit(Op.Branch, head)
        self._begin(end)

    def IfThenElse(self, node: Node) -> None:
        condition, then, otherwise = self.branch(node.condition, node.then_case, node.else_case)
        sides = [lambda side=side: self.visit(side) for side in (then, otherwise) if side is not None]
        if condition is not None:
            self._branches(condition, sides)
        elif sides:
            sides[0]()

    def _branches(self, condition: Node, sides: Sequence[Callable[[], Any]]) -> list[Any]:
        """One of two sides, or one or none; for each, what it returns and the label of the block that it ends in."""
        if DType.of(condition) != BOOL:
            raise TypeError(f"{self.name}: a branch on {DType.of(condition)}")
        labels, end = [self.module.id() for _ in sides], self.module.id()
        chosen = self.visit(condition)
        self.module.emit(Op.SelectionMerge, end, NO_CONTROL)
        self.module.emit(Op.BranchConditional, chosen, *[*labels, end][:2])
        results = []
        for label, side in zip(labels, sides, strict=True):
            self._begin(label)
            results += [side(), self.label]
            self.module.emit(Op.Branch, end)
        self._begin(end)
        return results

    def _begin(self, label: int) -> None:
        self.module.emit(Op.Label, label)
        self.label = label

    # ---- memory

    def AllocBuffer(self, node: Node) -> None:
        dtype = DType.of(node.buffer)
        n = math.prod(int(size) for size in node.buffer.ty.shape)
        shared = str(node.buffer.scope()) == "shared"
        storage = StorageClass.Workgroup if shared else StorageClass.Function
        variable = self.module.array(storage, dtype, n)
        self.memories[node.buffer] = _Memory(dtype, storage, variables={dtype.lanes: variable})
        if shared:
            self.local_bytes += n * dtype.bytes

    def DeclBuffer(self, node: Node) -> None:
        memory = self._memory(node.data)
        if DType.of(node.buffer) != memory.dtype:
            raise TypeError(f"{self.name}: memory of {memory.dtype} seen as {DType.of(node.buffer)}")
        self.memories[node.buffer] = memory

    def _memory(self, node: Node) -> _Memory:
        return self.memories[buffer_root(node)]

    def _pointers(self, memory: _Memory, index: Node) -> list[int]:
        """To what an access touches: one element, one vector, or every lane by itself."""
        lanes = DType.of(index).lanes
        if lanes == 1:
            return [self._pointer(memory, self.visit(index))]
        if self._is_whole(memory, index):
            return [self._pointer(memory, self.visit(self.simple(index.base // lanes)), lanes)]
        return [self._pointer(memory, at) for at in self._lanes(index)]

    def _is_whole(self, memory: _Memory, index: Node) -> bool:
        """Whether the elements at a vector of indices are one vector of a buffer."""
        lanes = DType.of(index).lanes
        if not memory.param or not isinstance(index, tirx.Ramp) or lanes not in _WHOLE:
            return False
        return int(index.stride) == 1 and self.alignment.factor(index.base) % lanes == 0

    def _pointer(self, memory: _Memory, index: int, lanes: int = 1) -> int:
        """To `lanes` elements, the index-th such."""
        if not memory.param:
            variable = memory.variables[memory.dtype.lanes]
            return self.module.access(memory.storage, memory.dtype, variable, index)
        dtype = memory.dtype.with_lanes(lanes)
        if lanes not in memory.variables:
            memory.variables[lanes] = self.module.buffer(dtype, memory.binding)
            self.module.name(memory.variables[lanes], memory.param.name + (f"_x{lanes}" if lanes > 1 else ""))
        zero = self.module.constant(INT, 0)  # a buffer is a structure of one array
        return self.module.access(memory.storage, dtype, memory.variables[lanes], zero, index)

    def BufferStore(self, node: Node) -> None:
        memory = self._memory(node.buffer)
        if memory.param and not memory.param.written:
            raise TypeError(f"{self.name} writes {memory.param.name}, which is not listed as written")
        pointers = self._pointers(memory, self.simple(node.indices[0]))
        values = [self.visit(node.value)] if len(pointers) == 1 else self._lanes(node.value)
        for pointer, value in zip(pointers, values, strict=True):
            self.module.emit(Op.Store, pointer, value)

    def TensorLoad(self, node: Node) -> int:
        return self.module.joined(DType.of(node), self._loaded(node))

    def _loaded(self, node: Node) -> list[int]:
        """What a load finds: one value, or each of its lanes."""
        memory, dtype = self._memory(node.source), DType.of(node)
        memory.loaded = True
        pointers = self._pointers(memory, self.simple(node.indices[0]))
        dtype = dtype if len(pointers) == 1 else dtype.scalar
        return [self.module.result(Op.Load, dtype, pointer) for pointer in pointers]

    def _is_scattered(self, node: Node) -> bool:
        """Whether it is loaded lane by lane; narrow types are then converted so, as making vectors of them is
        arithmetic.
        """
        if type(node).__name__ != "TensorLoad" or DType.of(node.indices[0]).lanes == 1:
            return False
        return not self._is_whole(self._memory(node.source), self.simple(node.indices[0]))

    # ---- expressions

    def _lanes(self, node: Node) -> list[int]:
        """The lanes of a vector, each by itself."""
        m, dtype = self.module, DType.of(node)
        if isinstance(node, tirx.Broadcast):
            return [self.visit(node.value)] * dtype.lanes
        if isinstance(node, tirx.Ramp):
            return self._places(node.base, int(node.stride), dtype)
        if self._is_scattered(node):
            return self._loaded(node)
        if isinstance(node, tirx.Cast) and (dtype.bits < 32 or self._is_scattered(node.value)):
            source = DType.of(node.value).scalar
            return [m.converted(x, source, dtype.scalar) for x in self._lanes(node.value)]
        return m.lanes(dtype, self.visit(node))

    def _places(self, base: Node, stride: int, dtype: DType) -> list[int]:
        """The lanes of a ramp. Known ones are constants: with those an array of a thread becomes registers."""
        steps = [lane * stride for lane in range(dtype.lanes)]
        if isinstance(base, tirx.IntImm):
            return [self.module.constant(dtype.scalar, int(base) + step) for step in steps]
        first = self.visit(base)
        rest = [self.module.constant(dtype.scalar, step) for step in steps[1:]]
        return [first, *(self.module.binary("Add", dtype.scalar, first, step) for step in rest)]

    def Var(self, node: Node) -> int:
        return self.values[node]

    def IntImm(self, node: Node) -> int:
        return self.module.number(DType.of(node), int(node.value))

    def FloatImm(self, node: Node) -> int:
        return self.module.number(DType.of(node), float(node.value))

    def Broadcast(self, node: Node) -> int:
        dtype, value = DType.of(node), node.value
        if isinstance(value, (tirx.IntImm, tirx.FloatImm)):
            return self.module.number(dtype, value.value)
        return self._splat(dtype, self.visit(value))

    def _splat(self, dtype: DType, x: int) -> int:
        return self.module.joined(dtype, [x] * dtype.lanes)

    def Ramp(self, node: Node) -> int:
        return self.module.joined(DType.of(node), self._lanes(node))

    def Shuffle(self, node: Node) -> int:
        lanes = [lane for vector in node.vectors for lane in self.module.lanes(DType.of(vector), self.visit(vector))]
        return self.module.joined(DType.of(node), [lanes[int(i)] for i in node.indices])

    def __getattr__(self, name: str) -> Any:
        """The methods of BINARY and FUNCTIONS."""
        if name in BINARY:
            return lambda node: self.module.binary(name, DType.of(node.a), self.visit(node.a), self.visit(node.b))
        function = FUNCTIONS.get(name.removeprefix("call_"))
        if function is None:
            raise AttributeError(name)
        return lambda node, args: self.module.glsl(function, DType.of(node), self.visit(args[0]))

    def Mod(self, node: Node) -> int:
        return self.module.remainder(DType.of(node), self.visit(node.a), self.visit(node.b))

    def FloorDiv(self, node: Node) -> int:
        """Of an index; what simplifying makes of a division is never of negative numbers."""
        n = int(node.b)
        if n & (n - 1):
            return self.module.binary("Div", INT, self.visit(node.a), self.visit(node.b))
        return self.module.binary("RShift", INT, self.visit(node.a), self.module.constant(INT, n.bit_length() - 1))

    def FloorMod(self, node: Node) -> int:
        return self.Mod(node)

    def Min(self, node: Node) -> int:
        return self.module.either("LT", DType.of(node), self.visit(node.a), self.visit(node.b))

    def Max(self, node: Node) -> int:
        return self.module.either("GT", DType.of(node), self.visit(node.a), self.visit(node.b))

    def Not(self, node: Node) -> int:
        return self.module.result(Op.LogicalNot, DType.of(node), self.visit(node.a))

    def BitwiseNot(self, node: Node) -> int:
        return self.module.result(Op.Not, DType.of(node), self.visit(node.a))

    def Select(self, node: Node) -> int:
        condition, yes, no = self.branch(node.condition, node.true_value, node.false_value)
        if condition is None:
            return int(self.visit(yes))
        dtype, chosen = DType.of(node), self.visit(condition)
        if DType.of(condition).lanes < dtype.lanes:
            chosen = self._splat(BOOL.with_lanes(dtype.lanes), chosen)
        return self.module.result(Op.Select, dtype, chosen, self.visit(yes), self.visit(no))

    def Let(self, node: Node) -> int:
        self._bind(node.var, node.value)
        return int(self.visit(node.body))

    def Cast(self, node: Node) -> int:
        source, target = DType.of(node.value), DType.of(node)
        if self._is_scattered(node.value):
            return self.module.joined(target, self._lanes(node))
        return self.module.converted(self.visit(node.value), source, target)

    # ---- calls

    def call_if_then_else(self, node: Node, args: list[Node]) -> int:
        """Only the side that is chosen may be computed: it may load."""
        condition, yes, no = self.branch(*args)
        if condition is None:
            return int(self.visit(yes))
        sides = self._branches(condition, [lambda: self.visit(yes), lambda: self.visit(no)])
        return self.module.result(Op.Phi, DType.of(node), *sides)

    def call_likely(self, node: Node, args: list[Node]) -> int:
        return int(self.visit(args[0]))

    def call_reinterpret(self, node: Node, args: list[Node]) -> int:
        return self.module.reinterpreted(self.visit(args[0]), DType.of(args[0]), DType.of(node))

    def call_tvm_storage_sync(self, node: Node, args: list[Node]) -> None:
        """For shared memory and for buffers, whatever is asked for."""
        seen = MemorySemantics.AcquireRelease | MemorySemantics.WorkgroupMemory | MemorySemantics.UniformMemory
        operands = [self.module.constant(UINT, x) for x in (Scope.Workgroup, Scope.Workgroup, seen)]
        self.module.emit(Op.ControlBarrier, *operands)
        self.has_barrier = True
