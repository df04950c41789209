"""The opencl emitter: OpenCL C 1.2, one self-contained source per kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from mossnet_tg.codegen.emit.c_source import Dialect
from mossnet_tg.codegen.emit.tir import DType
from mossnet_tg.codegen.kernels.build import Size

_SPACES = {"global": "__global ", "shared": "__local ", "local": ""}


class OpenCL(Dialect):
    """OpenCL C: vectors of 2, 4, 8 or 16 with operators of their own."""

    name = "opencl"
    restrict = "restrict"
    shared = "__local"
    barrier = "barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE)"
    scalars: ClassVar[Mapping[tuple[str, int], str]] = {
        ("bool", 8): "int",
        ("float", 32): "float",
        ("float", 16): "half",
        ("int", 32): "int",
        ("int", 16): "short",
        ("int", 8): "char",
        ("uint", 32): "uint",
        ("uint", 16): "ushort",
        ("uint", 8): "uchar",
    }

    def signature(self, name: str, block: Size, params: Sequence[str]) -> str:
        group = ", ".join(map(str, block))
        arguments = ",\n    ".join(params)
        return f"__kernel __attribute__((reqd_work_group_size({group})))\nvoid {name}(\n    {arguments})"

    def pointer(self, dtype: DType, space: str, const: bool) -> str:
        return f"{_SPACES[space]}{'const ' if const else ''}{self.type(dtype)} *"

    def position(self, tag: str) -> str:
        return f"(int)get_{'group' if tag.startswith('block') else 'local'}_id({'xyz'.index(tag[-1])})"

    def vector(self, dtype: DType) -> str:
        return f"{self.scalars[dtype.kind, dtype.bits]}{dtype.lanes}"

    def convert(self, x: str, source: DType, target: DType) -> str:
        return f"convert_{self.type(target)}({x})" if target.lanes > 1 else f"({self.type(target)})({x})"

    def reinterpret(self, x: str, source: DType, target: DType) -> str:
        return f"as_{self.type(target)}({x})"

    def make_vector(self, dtype: DType, lanes: Sequence[str]) -> str:
        return f"(({self.type(dtype)})({', '.join(lanes)}))"

    def splat(self, dtype: DType, x: str) -> str:
        # True is 1 as a scalar and all bits in a vector.
        return f"(({self.type(dtype)})({f'-({x})' if dtype.kind == 'bool' else x}))"

    def lane(self, x: str, index: int) -> str:
        return f"{x}.s{index:x}"

    def select(self, dtype: DType, condition: str, yes: str, no: str) -> str:
        return f"({condition} ? {yes} : {no})"

    def call(self, dtype: DType, function: str, x: str) -> str:
        return f"{function}({x})"

    def load(self, dtype: DType, pointer: str, space: str, aligned: bool) -> str:
        return f"vload{dtype.lanes}(0, {pointer})"

    def store(self, dtype: DType, pointer: str, x: str, space: str, aligned: bool) -> str:
        return f"vstore{dtype.lanes}({x}, 0, {pointer})"

    def load_half(self, lanes: int, pointer: str, aligned: bool) -> str:
        return f"vload_half{lanes if lanes > 1 else ''}(0, {pointer})"

    def half_arithmetic(self) -> tuple[str, tuple[str, ...]]:
        return "#pragma OPENCL EXTENSION cl_khr_fp16 : enable\n", ("cl_khr_fp16",)

    def store_half(self, lanes: int, pointer: str, x: str, aligned: bool) -> str:
        return f"vstore_half{lanes if lanes > 1 else ''}_rte({x}, 0, {pointer})"
