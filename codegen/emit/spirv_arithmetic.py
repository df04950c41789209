"""C's operators on SPIR-V values: which instruction for which types, conversions, vectors and their lanes.

Types of 8 and 16 bits are converted by way of those of 32, so that a model that only stores them needs no arithmetic of
the device with them.
"""

from __future__ import annotations

from collections.abc import Sequence

from mossnet_tg.codegen.emit.spirv_module import Module
from mossnet_tg.codegen.emit.spirv_words import Decoration, Glsl, Op
from mossnet_tg.codegen.emit.tir import DType

BOOL, INT, UINT = DType("bool", 8, 1), DType("int", 32, 1), DType("uint", 32, 1)

# By TIR's name of the operator and the kind of its operands.
BINARY = {
    "Add": {"float": Op.FAdd, "int": Op.IAdd, "uint": Op.IAdd},
    "Sub": {"float": Op.FSub, "int": Op.ISub, "uint": Op.ISub},
    "Mul": {"float": Op.FMul, "int": Op.IMul, "uint": Op.IMul},
    "Div": {"float": Op.FDiv, "int": Op.SDiv, "uint": Op.UDiv},
    "LShift": {"int": Op.ShiftLeftLogical, "uint": Op.ShiftLeftLogical},
    "RShift": {"int": Op.ShiftRightArithmetic, "uint": Op.ShiftRightLogical},
    "BitwiseAnd": {"int": Op.BitwiseAnd, "uint": Op.BitwiseAnd},
    "BitwiseOr": {"int": Op.BitwiseOr, "uint": Op.BitwiseOr},
    "BitwiseXor": {"int": Op.BitwiseXor, "uint": Op.BitwiseXor},
    "EQ": {"float": Op.FOrdEqual, "int": Op.IEqual, "uint": Op.IEqual, "bool": Op.LogicalEqual},
    "NE": {"float": Op.FUnordNotEqual, "int": Op.INotEqual, "uint": Op.INotEqual, "bool": Op.LogicalNotEqual},
    "LT": {"float": Op.FOrdLessThan, "int": Op.SLessThan, "uint": Op.ULessThan},
    "LE": {"float": Op.FOrdLessThanEqual, "int": Op.SLessThanEqual, "uint": Op.ULessThanEqual},
    "GT": {"float": Op.FOrdGreaterThan, "int": Op.SGreaterThan, "uint": Op.UGreaterThan},
    "GE": {"float": Op.FOrdGreaterThanEqual, "int": Op.SGreaterThanEqual, "uint": Op.UGreaterThanEqual},
    "And": {"bool": Op.LogicalAnd},
    "Or": {"bool": Op.LogicalOr},
}
_COMPARISONS = ("EQ", "NE", "LT", "LE", "GT", "GE")
FUNCTIONS = {"floor": Glsl.Floor, "fabs": Glsl.FAbs, "sqrt": Glsl.Sqrt, "exp2": Glsl.Exp2, "trunc": Glsl.Trunc}

# What a driver may not merge with what stands around it. Without this Mesa makes (u + 1) - 1 into u, and softplus loses
# what it adds to make up for the rounding of u + 1.
_EXACT = (Op.FSub,)

# Between types of 32 bits, and between widths of one kind.
_CONVERT = {
    ("float", "int"): Op.ConvertFToS,
    ("float", "uint"): Op.ConvertFToU,
    ("int", "float"): Op.ConvertSToF,
    ("uint", "float"): Op.ConvertUToF,
    ("int", "uint"): Op.Bitcast,
    ("uint", "int"): Op.Bitcast,
}
_RESIZE = {"float": Op.FConvert, "int": Op.SConvert, "uint": Op.UConvert}


def _wide(dtype: DType) -> DType:
    """The type of the same kind that conversions go through."""
    return dtype if dtype.kind == "bool" else DType(dtype.kind, 32, dtype.lanes)


class Arithmetic(Module):
    """A module with operators. Values are ids; the types that they have are the caller's to know."""

    def number(self, dtype: DType, value: float) -> int:
        """A constant of any type; for a vector, in every lane."""
        wide = _wide(dtype)
        return self.converted(self.constant(wide, value), wide, dtype)

    def binary(self, operator: str, dtype: DType, a: int, b: int) -> int:
        """An operator of BINARY on operands of `dtype`."""
        if dtype.kind not in BINARY[operator]:
            raise TypeError(f"{operator} of {dtype} in a kernel")
        self.computes_with(dtype)
        op = BINARY[operator][dtype.kind]
        result = self.result(op, BOOL.with_lanes(dtype.lanes) if operator in _COMPARISONS else dtype, a, b)
        if op in _EXACT:
            self.decorate(result, Decoration.NoContraction)
        return result

    def remainder(self, dtype: DType, a: int, b: int) -> int:
        """With the sign of `a`; Vulkan leaves OpSRem of negative numbers undefined."""
        if dtype.kind == "uint":
            return self.result(Op.UMod, dtype, a, b)
        whole = self.binary("Mul", dtype, self.binary("Div", dtype, a, b), b)
        return self.binary("Sub", dtype, a, whole)

    def either(self, comparison: str, dtype: DType, a: int, b: int) -> int:
        """`a` if it compares so with `b`, else `b`: minimum and maximum as TVM defines them, NaN included. GLSL's FMin
        and FMax leave that open.
        """
        return self.result(Op.Select, dtype, self.binary(comparison, dtype, a, b), a, b)

    def converted(self, x: int, source: DType, target: DType) -> int:
        """x as C converts it."""
        if source == target:
            return x
        start, end = _wide(source), _wide(target)
        if source != start:
            x = self.result(_RESIZE[source.kind], start, x)
        if end.kind == "bool":
            x = self.binary("NE", start, x, self.constant(start, 0))
        elif start.kind == "bool":
            x = self.result(Op.Select, end, x, self.constant(end, 1), self.constant(end, 0))
        elif start != end:
            x = self.result(_CONVERT[start.kind, end.kind], end, x)
        return self.result(_RESIZE[target.kind], target, x) if target != end else x

    def reinterpreted(self, x: int, source: DType, target: DType) -> int:
        """x's bits as a `target`."""
        if source == target:
            return x
        self.computes_with(source)
        return self.result(Op.Bitcast, target, x)

    def joined(self, dtype: DType, lanes: Sequence[int]) -> int:
        """Lanes as a vector; of one, itself."""
        return self.result(Op.CompositeConstruct, dtype, *lanes) if len(lanes) > 1 else lanes[0]

    def lanes(self, dtype: DType, vector: int) -> list[int]:
        """A vector's lanes; of a scalar, itself."""
        if dtype.lanes == 1:
            return [vector]
        return [self.result(Op.CompositeExtract, dtype.scalar, vector, i) for i in range(dtype.lanes)]
