"""An ONNX graph while it is written: a call makes a node, and values have the operators of arithmetic.

Only operators that opset 18 has are meant to be used here, in what was their form then: converters and runtimes that
lag behind know these, and composites (a norm, attention) are made of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper


@dataclass(frozen=True)
class Value:
    """What a node gives, an input or a constant, by its name in `graph`; arithmetic adds nodes there."""

    graph: Graph
    name: str

    def __add__(self, other: Operand) -> Value:
        return self.graph.op("Add", self, other)

    def __sub__(self, other: Operand) -> Value:
        return self.graph.op("Sub", self, other)

    def __mul__(self, other: Operand) -> Value:
        return self.graph.op("Mul", self, other)

    def __truediv__(self, other: Operand) -> Value:
        return self.graph.op("Div", self, other)


# What becomes a constant: float32 from floats, int64 from integers and lists of them, arrays as they are.
Number: TypeAlias = float | int | Sequence[int] | npt.NDArray[Any]
Operand: TypeAlias = Value | Number


class Graph:
    """Nodes, constants, inputs and outputs in the order of the calls. `scope` begins the names of what follows."""

    def __init__(self, outer: Graph | None = None) -> None:
        self.scope: str = outer.scope if outer else ""
        # A name may not stand for two values, not even where one is in a body of the other's graph.
        self._numbers: Iterator[int] = outer._numbers if outer else itertools.count()
        self._nodes: list[NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Value] = {}
        self._inputs: list[ValueInfoProto] = []
        self._outputs: list[ValueInfoProto] = []

    def input(self, name: str, kind: int, shape: Sequence[int] | None) -> Value:
        """An input of a type of TensorProto; shape None: whatever comes."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return Value(self, name)

    def output(self, name: str, value: Value, kind: int, shape: Sequence[int] | None) -> None:
        """`value`, given out as `name`."""
        self._nodes.append(helper.make_node("Identity", [value.name], [name], name))
        self._outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def initializer(self, tensor: TensorProto) -> Value:
        """A tensor of the graph, by its own name; it may come again."""
        self._initializers[tensor.name] = tensor
        return Value(self, tensor.name)

    def constant(self, number: Number) -> Value:
        """A constant; equal ones are one."""
        array = np.asarray(number, np.float32 if isinstance(number, float) else getattr(number, "dtype", np.int64))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant.{next(self._numbers)}"
            self._constants[key] = self.initializer(numpy_helper.from_array(array, name))
        return self._constants[key]

    def op(self, kind: str, *inputs: Operand, **attributes: Any) -> Value:
        """The only output of a node."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, n_outputs: int, *inputs: Operand, **attributes: Any) -> list[Value]:
        """The outputs of a node."""
        names = [(x if isinstance(x, Value) else self.constant(x)).name for x in inputs]
        name = self._name(kind)
        outputs = [name if n_outputs == 1 else f"{name}.{i}" for i in range(n_outputs)]
        self._nodes.append(helper.make_node(kind, names, outputs, name, **attributes))
        return [Value(self, output) for output in outputs]

    def split(self, x: Value, sizes: Sequence[int], axis: int) -> list[Value]:
        """`x` cut along an axis into parts of these sizes."""
        return self.ops("Split", len(sizes), x, sizes, axis=axis)

    def scan(
        self, step: Callable[[Graph, Value, Sequence[Value]], tuple[Value, Value]], state: Value, rows: Sequence[Value]
    ) -> tuple[Value, Value]:
        """`step(graph, state, one row of each)` gives the next state and a result, float32; the last state and all
        results, along a new first axis, come back.

        The graph of `step` sees the values of this one, as `graph.seen(value)`.
        """
        body = Graph(self)
        here = [body.input(body._name("in"), TensorProto.FLOAT, None) for _ in range(1 + len(rows))]
        for value in step(body, here[0], here[1:]):
            body.output(body._name("out"), value, TensorProto.FLOAT, None)
        last, results = self.ops("Scan", 2, state, *rows, body=body.proto("step"), num_scan_inputs=len(rows))
        return last, results

    def seen(self, value: Value) -> Value:
        """A value of a graph around this one, for use in this one."""
        return Value(self, value.name)

    def proto(self, name: str) -> GraphProto:
        """The graph as it stands."""
        return helper.make_graph(self._nodes, name, self._inputs, self._outputs, list(self._initializers.values()))

    def _name(self, what: str) -> str:
        return f"{self.scope}{what}.{next(self._numbers)}"
