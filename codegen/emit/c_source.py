"""The emitter for the languages of GPUs that are C: OpenCL C and CUDA C, from one walk over a lowered kernel.

What differs between them is a `Dialect`: words for address spaces and threads, and how vectors are spelled. float16 is
storage: a load is widened where it is read (OpenCL's `vload_half`, which needs no extension), a store rounds.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from tvm import tirx

from mossnet_tg.codegen.emit.tir import Alignment, DType, Node, Visitor, buffer_root
from mossnet_tg.codegen.kernels.build import Param, Size
from mossnet_tg.codegen.lower import lower_gpu


class Dialect(ABC):
    """One C-like language. Methods return source text; `x` are texts of operands."""

    name: str
    restrict: str
    shared: str
    barrier: str
    scalars: ClassVar[Mapping[tuple[str, int], str]]

    @abstractmethod
    def signature(self, name: str, block: Size, params: Sequence[str]) -> str:
        """A kernel's head, without its brace."""

    @abstractmethod
    def pointer(self, dtype: DType, space: str, const: bool) -> str:
        """A pointer to memory that is `global`, `shared` or `local`."""

    @abstractmethod
    def position(self, tag: str) -> str:
        """blockIdx.x and the like, as int."""

    @abstractmethod
    def vector(self, dtype: DType) -> str:
        """The name of a vector type."""

    @abstractmethod
    def convert(self, x: str, source: DType, target: DType) -> str:
        """x, converted as C does; bool excepted."""

    @abstractmethod
    def reinterpret(self, x: str, source: DType, target: DType) -> str: ...

    @abstractmethod
    def make_vector(self, dtype: DType, lanes: Sequence[str]) -> str: ...

    @abstractmethod
    def splat(self, dtype: DType, x: str) -> str:
        """A vector of the same value in every lane."""

    @abstractmethod
    def lane(self, x: str, index: int) -> str: ...

    @abstractmethod
    def select(self, dtype: DType, condition: str, yes: str, no: str) -> str:
        """Lane by lane, where the condition is a vector."""

    @abstractmethod
    def call(self, dtype: DType, function: str, x: str) -> str:
        """floor, fabs, sqrt, exp2, trunc of a float."""

    @abstractmethod
    def load(self, dtype: DType, pointer: str, space: str, aligned: bool) -> str:
        """Neighbouring elements as a vector."""

    @abstractmethod
    def store(self, dtype: DType, pointer: str, x: str, space: str, aligned: bool) -> str:
        """A vector to neighbouring elements, as a statement without semicolon."""

    @abstractmethod
    def load_half(self, lanes: int, pointer: str, aligned: bool) -> str:
        """float16 at a global pointer as float."""

    @abstractmethod
    def store_half(self, lanes: int, pointer: str, x: str, aligned: bool) -> str: ...

    @abstractmethod
    def half_arithmetic(self) -> tuple[str, tuple[str, ...]]:
        """What source that computes in float16 begins with, and the features that it needs."""

    def type(self, dtype: DType) -> str:
        return self.vector(dtype) if dtype.lanes > 1 else self.scalars[dtype.kind, dtype.bits]


@dataclass(frozen=True)
class Source:
    """A kernel's source, the bytes of memory that its groups share, and what the device must have."""

    text: str
    shared_bytes: int
    features: tuple[str, ...]


def emit(name: str, func: Any, params: Sequence[Param], dialect: Dialect) -> Source:
    """The kernel `name`."""
    writer = _Writer(dialect)
    text = writer.kernel(name, lower_gpu(func), params)
    head, features = dialect.half_arithmetic() if writer.computes_half else ("", ())
    return Source(head + text, writer.shared_bytes, features)


def _bare(text: str) -> str:
    """An expression without the parentheses around all of it."""
    depth = 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if depth == 0:
            return text[1:-1] if c == ")" and i == len(text) - 1 and text[0] == "(" else text
    return text


class _Array:
    """Memory as the writer knows it: its name, element type and address space."""

    def __init__(self, name: str, dtype: DType, space: str) -> None:
        self.name, self.dtype, self.space = name, dtype, space


_HALF = DType("float", 16, 1)

_INFIX = {
    "Add": "+",
    "Sub": "-",
    "Mul": "*",
    "Div": "/",
    "Mod": "%",
    # Lowering leaves none; what simplifying makes of a division is never of negative numbers.
    "FloorDiv": "/",
    "FloorMod": "%",
    "LShift": "<<",
    "RShift": ">>",
    "BitwiseAnd": "&",
    "BitwiseOr": "|",
    "BitwiseXor": "^",
    "EQ": "==",
    "NE": "!=",
    "LT": "<",
    "LE": "<=",
    "GT": ">",
    "GE": ">=",
    "And": "&&",
    "Or": "||",
}


class _Writer(Visitor):
    """Statements append lines; expressions return text that binds at least as tightly as a unary operator."""

    def __init__(self, dialect: Dialect) -> None:
        super().__init__()
        self.d = dialect
        self.lines: list[str] = []
        self.depth = 1
        self.names: dict[Node, str] = {}
        self.used: set[str] = set()
        self.arrays: dict[Node, _Array] = {}
        self.alignment = Alignment()
        self.block = [1, 1, 1]
        self.shared_bytes = 0
        self.computes_half = False  # float16 is more than storage

    def kernel(self, name: str, func: Any, params: Sequence[Param]) -> str:
        heads = []
        for var, param in zip(func.params, params, strict=True):
            dtype = DType.parse(str(var.ty.element_type.dtype))
            array = self.arrays[var] = _Array(self._name(param.name), dtype, "global")
            pointer = self.d.pointer(dtype, "global", const=not param.written)
            heads.append(f"{pointer} {self.d.restrict} {array.name}")
        self.visit(func.body)
        x, y, z = self.block
        return "\n".join([self.d.signature(name, (x, y, z), heads) + " {", *self.lines, "}", ""])

    # ---- names and lines

    def _name(self, wanted: str) -> str:
        name, n = wanted, 1
        while name in self.used:
            n += 1
            name = f"{wanted}_{n}"
        self.used.add(name)
        return name

    def _line(self, text: str) -> None:
        self.lines.append("  " * self.depth + text)

    def _nested(self, head: str, body: Node) -> None:
        self._line(head + " {")
        self.depth += 1
        self.visit(body)
        self.depth -= 1
        self._line("}")

    def _array(self, node: Node) -> _Array:
        return self.arrays[buffer_root(node)]

    # ---- statements

    def SeqStmt(self, node: Node) -> None:
        for statement in node.seq:
            self.visit(statement)

    def DeclBuffer(self, node: Node) -> None:
        self.arrays[node.buffer] = self._array(node.data)

    def AllocBuffer(self, node: Node) -> None:
        dtype = DType.of(node.buffer)
        n = math.prod(int(size) for size in node.buffer.ty.shape)
        shared = str(node.buffer.scope()).startswith("shared")
        array = _Array(self._name("shared" if shared else "r"), dtype, "shared" if shared else "local")
        self.arrays[node.buffer] = array
        self.computes_half |= dtype.scalar == _HALF
        if shared:
            self.shared_bytes += n * dtype.bytes
        self._line(f"{self.d.shared + ' ' if shared else ''}{self.d.type(dtype)} {array.name}[{n}];")

    def AttrStmt(self, node: Node) -> None:
        if node.attr_key == "thread_extent":
            tag, extent = str(node.node.thread_tag), int(node.value)
            self.range_of(node.node.var, tirx.IntImm("int32", 0), node.value)
            if tag.startswith("threadIdx"):
                self.block["xyz".index(tag[-1])] = extent
            # Of one thread or group the position is known, and the driver's compiler need not find out.
            if extent == 1:
                self.names[node.node.var] = "0"
            elif node.node.var not in self.names:
                name = self.names[node.node.var] = self._name(tag.replace("Idx.", "_"))
                self._line(f"const int {name} = {self.d.position(tag)};")
        self.visit(node.body)

    def Bind(self, node: Node) -> None:
        dtype = DType.of(node.var)
        bound = self.bound(node.var, node.value)
        self.alignment.bind(node.var, bound)
        value = self.visit(bound)
        if value.replace("_", "").isalnum():  # another name, or a number
            self.names[node.var] = value
            return
        self.names[node.var] = self._name("v")
        self._line(f"const {self.d.type(dtype)} {self.names[node.var]} = {_bare(value)};")

    def For(self, node: Node) -> None:
        if node.step is not None and int(node.step) != 1:
            raise TypeError(f"a loop of step {node.step} in a kernel")
        i = self.names[node.loop_var] = self._name("i")
        self.range_of(node.loop_var, node.min, node.extent)
        begin, end = self.visit(node.min), self.visit(self.simple(node.min + node.extent))
        self._nested(f"for (int {i} = {begin}; {i} < {end}; ++{i})", node.body)

    def IfThenElse(self, node: Node) -> None:
        condition, then, otherwise = self.branch(node.condition, node.then_case, node.else_case)
        if condition is None:
            if then is not None:
                self.visit(then)
            return
        self._nested(f"if ({_bare(self.visit(condition))})", then)
        if otherwise is not None:
            self._nested("else", otherwise)

    def Evaluate(self, node: Node) -> None:
        text = self.visit(node.value)
        if text not in ("", "0"):
            self._line(f"{text};")

    def BufferStore(self, node: Node) -> None:
        array, value, dtype = self._array(node.buffer), _bare(self.visit(node.value)), DType.of(node.value)
        index = self.simple(node.indices[0])
        n = dtype.lanes // array.dtype.lanes
        half = array.space == "global" and array.dtype == _HALF
        if n == 1:
            at = self.visit(index)
            place = f"{array.name}[{_bare(at)}]"
            if half:
                self._line(f"{self.d.store_half(1, f'{array.name} + {at}', value, True)};")
            elif value != place:  # StorageRewrite makes one of two arrays and leaves the copy
                self._line(f"{place} = {value};")
            return
        if int(index.stride) == 1:
            at, aligned = f"{array.name} + {self.visit(index.base)}", self._aligned(index.base, n)
            store = (
                self.d.store_half(n, at, value, aligned)
                if half
                else self.d.store(dtype, at, value, array.space, aligned)
            )
            self._line(f"{store};")
            return
        name = self._name("v")
        self._line(f"const {self.d.type(dtype)} {name} = {value};")
        for lane, at in enumerate(self._ramp(index)):
            self._line(f"{array.name}[{at}] = {self.d.lane(name, lane)};")

    # ---- expressions

    def Var(self, node: Node) -> str:
        return self.names[node]

    def IntImm(self, node: Node) -> str:
        dtype, value = DType.of(node), int(node.value)
        if dtype.kind == "bool":
            return str(int(bool(value)))
        if dtype.kind == "uint":
            return f"{value}u"
        return f"({value})" if value < 0 else str(value)

    def FloatImm(self, node: Node) -> str:
        value = float(node.value)
        if not math.isfinite(value):
            raise TypeError(f"a constant {value} in a kernel")
        text = str(np.float32(value))  # the shortest that is read back as the same float32
        text += "f" if "." in text or "e" in text else ".0f"
        return f"({text})" if value < 0 else text

    def __getattr__(self, name: str) -> Any:
        if name in _INFIX:
            return lambda node: f"({self.visit(node.a)} {_INFIX[name]} {self.visit(node.b)})"
        raise AttributeError(name)

    def Not(self, node: Node) -> str:
        return f"(!{self.visit(node.a)})"

    def Max(self, node: Node) -> str:
        return self._either(node, ">")

    def Min(self, node: Node) -> str:
        return self._either(node, "<")

    def _either(self, node: Node, comparison: str) -> str:
        """As TVM defines it, NaN included: fmax and max differ from device to device."""
        a, b = self._named(node.a), self._named(node.b)
        return self.d.select(DType.of(node), f"({a} {comparison} {b})", a, b)

    def _named(self, node: Node) -> str:
        """The value under a name, since it is used twice."""
        text = self.visit(node)
        scalar = node.value if type(node).__name__ == "Broadcast" else node
        if text.replace("_", "").isalnum() or type(scalar).__name__ in ("FloatImm", "IntImm"):
            return str(text)
        name = self._name("v")
        self._line(f"const {self.d.type(DType.of(node))} {name} = {_bare(text)};")
        return name

    def Select(self, node: Node) -> str:
        condition, yes, no = self.branch(node.condition, node.true_value, node.false_value)
        if condition is None:
            return str(self.visit(yes))
        return self.d.select(DType.of(node), self.visit(condition), self.visit(yes), self.visit(no))

    def call_if_then_else(self, node: Node, args: list[Node]) -> str:
        """Only the side that is chosen may be computed: it may load."""
        condition, yes, no = self.branch(*args)
        if condition is None:
            return str(self.visit(yes))
        name = self._name("v")
        self._line(f"{self.d.type(DType.of(node))} {name};")
        for head, side in ((f"if ({_bare(self.visit(condition))})", yes), ("else", no)):
            self._line(head + " {")
            self.depth += 1
            self._line(f"{name} = {_bare(self.visit(side))};")
            self.depth -= 1
            self._line("}")
        return name

    def call_likely(self, node: Node, args: list[Node]) -> str:
        return str(self.visit(args[0]))

    def call_reinterpret(self, node: Node, args: list[Node]) -> str:
        return self.d.reinterpret(self.visit(args[0]), DType.of(args[0]), DType.of(node))

    def call_tvm_storage_sync(self, node: Node, args: list[Node]) -> str:
        return self.d.barrier

    def call_floor(self, node: Node, args: list[Node]) -> str:
        return self.d.call(DType.of(node), "floor", self.visit(args[0]))

    def call_fabs(self, node: Node, args: list[Node]) -> str:
        return self.d.call(DType.of(node), "fabs", self.visit(args[0]))

    def call_sqrt(self, node: Node, args: list[Node]) -> str:
        return self.d.call(DType.of(node), "sqrt", self.visit(args[0]))

    def call_trunc(self, node: Node, args: list[Node]) -> str:
        return self.d.call(DType.of(node), "trunc", self.visit(args[0]))

    def call_exp2(self, node: Node, args: list[Node]) -> str:
        return self.d.call(DType.of(node), "exp2", self.visit(args[0]))

    def Cast(self, node: Node) -> str:
        source, target = DType.of(node.value), DType.of(node)
        loaded = type(node.value).__name__ == "TensorLoad" and self._array(node.value.source).space == "global"
        if loaded and source.scalar == _HALF:
            return self._load(node.value, widened=True)
        x = self.visit(node.value)
        if source == target:
            return str(x)
        if target.kind == "bool":
            return f"({x} != 0)"
        if source.kind == "bool":
            one, zero = (self._constant(target, value) for value in (1, 0))
            return self.d.select(target, x, one, zero)
        return self.d.convert(x, source, target)

    def _constant(self, dtype: DType, value: int) -> str:
        text = f"{value}.0f" if dtype.kind == "float" else str(value)
        return text if dtype.lanes == 1 else self.d.splat(dtype, text)

    def Broadcast(self, node: Node) -> str:
        return self.d.splat(DType.of(node), self.visit(node.value))

    def Ramp(self, node: Node) -> str:
        return self.d.make_vector(DType.of(node), self._ramp(node))

    def _ramp(self, node: Node) -> list[str]:
        base, stride = self._named(node.base), int(node.stride)
        return [f"({base} + {lane * stride})" for lane in range(int(node.lanes))]

    def _aligned(self, base: Node, lanes: int) -> bool:
        return self.alignment.factor(base) % lanes == 0

    def TensorLoad(self, node: Node) -> str:
        return self._load(node, widened=False)

    def _load(self, node: Node, widened: bool) -> str:
        """A load; `widened`: of float16, as float."""
        array, dtype, index = self._array(node.source), DType.of(node), self.simple(node.indices[0])
        n = dtype.lanes // array.dtype.lanes
        if n == 1:
            at = self.visit(index)
            return self.d.load_half(1, f"{array.name} + {at}", True) if widened else f"{array.name}[{_bare(at)}]"
        if type(index).__name__ == "Ramp" and int(index.stride) == 1:
            at, aligned = f"{array.name} + {self.visit(index.base)}", self._aligned(index.base, n)
            return self.d.load_half(n, at, aligned) if widened else self.d.load(dtype, at, array.space, aligned)
        if type(index).__name__ == "Ramp":
            places = self._ramp(index)
        else:
            name = self._named(index)
            places = [self.d.lane(name, lane) for lane in range(n)]
        if widened:
            lanes = [self.d.load_half(1, f"{array.name} + {at}", True) for at in places]
            return self.d.make_vector(DType("float", 32, n), lanes)
        return self.d.make_vector(dtype, [f"{array.name}[{at}]" for at in places])
