"""What the emitters for GPUs share: reading a lowered kernel (`codegen.lower.lower_gpu`).

About thirty kinds of nodes are left then. An emitter is a class with one method for each, found by the node's name:
`visit(node)` calls `self.Add(node)`, `self.BufferStore(node)`, and for calls `self.call_<name>(node, arguments)`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from tvm import ir, sym, tirx

Node = Any

_DTYPE = re.compile(r"(bool|float|int|uint)(\d*)(?:x(\d+))?")


@dataclass(frozen=True)
class DType:
    """A scalar or vector type: `kind` bool, float, int or uint; `bits` of one lane (bool: 8)."""

    kind: str
    bits: int
    lanes: int

    @classmethod
    def of(cls, node: Node) -> DType:
        """The type of an expression or variable."""
        return cls.parse(str(node.ty.dtype))

    @classmethod
    def parse(cls, text: str) -> DType:
        found = _DTYPE.fullmatch(text)
        if not found:
            raise TypeError(f"type {text} in a kernel")
        kind, bits, lanes = found.groups()
        return cls(kind, int(bits or 8), int(lanes or 1))

    @property
    def scalar(self) -> DType:
        return DType(self.kind, self.bits, 1)

    def with_lanes(self, lanes: int) -> DType:
        return DType(self.kind, self.bits, lanes)

    @property
    def bytes(self) -> int:
        return self.bits // 8 * self.lanes

    def __str__(self) -> str:
        return f"{self.kind}{'' if self.kind == 'bool' else self.bits}{f'x{self.lanes}' if self.lanes > 1 else ''}"


@dataclass(frozen=True)
class DeviceParam:
    """A buffer of a kernel: its variable in the body, element type, and whether the kernel writes it."""

    name: str
    var: Node
    dtype: DType
    written: bool


class Visitor:
    """Calls a method by the kind of node; one that is missing is a defect of the emitter, named."""

    def __init__(self) -> None:
        self._analyzer = sym.Analyzer()

    def range_of(self, var: Node, begin: Node, extent: Node) -> None:
        """Note where a loop or the threads of a group run."""
        self._analyzer.bind(var, ir.Range.from_min_extent(begin, extent))

    def simple(self, node: Node) -> Node:
        """An index or condition, simplified; what T.bind named stays a name."""
        return self._analyzer.simplify(node)

    def bound(self, var: Node, value: Node) -> Node:
        """The value of a T.bind, simplified if it is an integer; of a number or another name, later uses are simplified
        too.
        """
        if DType.of(var) == DType("int", 32, 1):
            value = self.simple(value)
            if isinstance(value, (tirx.IntImm, tirx.Var)):
                self._analyzer.bind(var, value)
        return value

    def branch(self, condition: Node, then: Node, otherwise: Node) -> tuple[Node | None, Node, Node]:
        """(condition, then, otherwise), simplified; of a condition that is known only the side `then` is left, and the
        condition is None.
        """
        condition = self.simple(condition)
        if isinstance(condition, tirx.IntImm):
            return None, then if int(condition.value) else otherwise, None
        return condition, then, otherwise

    def visit(self, node: Node) -> Any:
        if isinstance(node, ir.Call):
            return self._call(node)
        method = getattr(self, type(node).__name__, None)
        if method is None:
            raise TypeError(f"{type(self).__name__} does not know {type(node).__name__}")
        return method(node)

    def _call(self, node: Node) -> Any:
        name, args = str(node.op.name).rpartition(".")[2], list(node.args)
        if name in ("call_pure_extern", "call_extern"):
            name, *args = str(args[0].value), *args[1:]
        method = getattr(self, f"call_{name}", None)
        if method is None:
            raise TypeError(f"{type(self).__name__} does not know the function {name}")
        return method(node, args)


def buffer_root(node: Node) -> Node:
    """The variable behind a buffer's data pointer."""
    while isinstance(node, ir.Call) and node.op.name == "tirx.buffer_data":
        node = node.args[0]
    return node


def written_buffers(body: Node) -> set[Node]:
    """The variables of all buffers that a body stores to."""
    found: set[Node] = set()
    todo = [body]
    while todo:
        node = todo.pop()
        if isinstance(node, tirx.SeqStmt):
            todo.extend(node.seq)
        elif isinstance(node, tirx.BufferStore):
            found.add(node.buffer)
        elif isinstance(node, tirx.IfThenElse):
            todo.extend(n for n in (node.then_case, node.else_case) if n is not None)
        elif isinstance(node, (tirx.For, tirx.AttrStmt)):
            todo.append(node.body)
    return found


class Alignment:
    """What divides an index: the largest known factor of an integer expression, for aligned vector accesses."""

    def __init__(self) -> None:
        self._bound: dict[Node, int] = {}

    def bind(self, var: Node, value: Node) -> None:
        """Note what a variable stands for."""
        self._bound[var] = self.factor(value)

    def factor(self, node: Node) -> int:
        """A divisor of `node`'s every value; 0 for zero, which everything divides."""
        kind = type(node).__name__
        if kind == "IntImm":
            return abs(int(node.value))
        if kind == "Mul":
            return self.factor(node.a) * self.factor(node.b)
        if kind in ("Add", "Sub"):
            return math.gcd(self.factor(node.a), self.factor(node.b))
        if kind == "LShift" and type(node.b).__name__ == "IntImm":
            return self.factor(node.a) << int(node.b.value)
        if kind == "Select":
            return math.gcd(self.factor(node.true_value), self.factor(node.false_value))
        if kind == "Call" and node.op.name.endswith("if_then_else"):
            return math.gcd(self.factor(node.args[1]), self.factor(node.args[2]))
        return self._bound.get(node, 1)
