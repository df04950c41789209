"""SPIR-V's words: its numbers by name, instructions as words, and a module listed for people.

Names and numbers are those of the specification (https://registry.khronos.org/SPIR-V/specs/unified1/SPIRV.html) and of
GLSL.std.450 beside it; only what the emitter uses stands here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum, IntFlag

MAGIC = 0x07230203
VERSION = 0x00010300  # 1.3, which Vulkan 1.1 takes
NO_CONTROL = 0  # of a function, loop or selection: as the driver likes

Operand = int | str


class Op(IntEnum):
    """Instructions."""

    Name = 5
    Extension = 10
    ExtInstImport = 11
    ExtInst = 12
    MemoryModel = 14
    EntryPoint = 15
    ExecutionMode = 16
    Capability = 17
    TypeVoid = 19
    TypeBool = 20
    TypeInt = 21
    TypeFloat = 22
    TypeVector = 23
    TypeArray = 28
    TypeRuntimeArray = 29
    TypeStruct = 30
    TypePointer = 32
    TypeFunction = 33
    ConstantTrue = 41
    ConstantFalse = 42
    Constant = 43
    ConstantComposite = 44
    Function = 54
    FunctionEnd = 56
    Variable = 59
    Load = 61
    Store = 62
    AccessChain = 65
    Decorate = 71
    MemberDecorate = 72
    CompositeConstruct = 80
    CompositeExtract = 81
    ConvertFToU = 109
    ConvertFToS = 110
    ConvertSToF = 111
    ConvertUToF = 112
    UConvert = 113
    SConvert = 114
    FConvert = 115
    Bitcast = 124
    IAdd = 128
    FAdd = 129
    ISub = 130
    FSub = 131
    IMul = 132
    FMul = 133
    UDiv = 134
    SDiv = 135
    FDiv = 136
    UMod = 137
    LogicalEqual = 164
    LogicalNotEqual = 165
    LogicalOr = 166
    LogicalAnd = 167
    LogicalNot = 168
    Select = 169
    IEqual = 170
    INotEqual = 171
    UGreaterThan = 172
    SGreaterThan = 173
    UGreaterThanEqual = 174
    SGreaterThanEqual = 175
    ULessThan = 176
    SLessThan = 177
    ULessThanEqual = 178
    SLessThanEqual = 179
    FOrdEqual = 180
    FUnordNotEqual = 183
    FOrdLessThan = 184
    FOrdGreaterThan = 186
    FOrdLessThanEqual = 188
    FOrdGreaterThanEqual = 190
    ShiftRightLogical = 194
    ShiftRightArithmetic = 195
    ShiftLeftLogical = 196
    BitwiseOr = 197
    BitwiseXor = 198
    BitwiseAnd = 199
    Not = 200
    ControlBarrier = 224
    Phi = 245
    LoopMerge = 246
    SelectionMerge = 247
    Label = 248
    Branch = 249
    BranchConditional = 250
    Return = 253


class Glsl(IntEnum):
    """Instructions of GLSL.std.450."""

    Trunc = 3
    FAbs = 4
    Floor = 8
    Exp2 = 29
    Sqrt = 31


class Capability(IntEnum):
    Shader = 1
    Float16 = 9
    Int16 = 22
    Int8 = 39
    StorageBuffer16BitAccess = 4433
    StorageBuffer8BitAccess = 4448


class StorageClass(IntEnum):
    Input = 1
    Workgroup = 4
    Function = 7
    StorageBuffer = 12


class Decoration(IntEnum):
    Block = 2
    ArrayStride = 6
    BuiltIn = 11
    Restrict = 19
    Aliased = 20
    Coherent = 23
    NonWritable = 24
    Binding = 33
    DescriptorSet = 34
    Offset = 35
    NoContraction = 42


class BuiltIn(IntEnum):
    WorkgroupId = 26
    LocalInvocationId = 27


class Scope(IntEnum):
    Workgroup = 2


class MemorySemantics(IntFlag):
    AcquireRelease = 0x8
    UniformMemory = 0x40  # storage buffers are this too
    WorkgroupMemory = 0x100


def words(op: Op, *operands: Operand) -> list[int]:
    """An instruction."""
    tail: list[int] = []
    for operand in operands:
        tail += _text_words(operand) if isinstance(operand, str) else [operand]
    return [len(tail) + 1 << 16 | op, *tail]


def _text_words(text: str) -> Sequence[int]:
    """UTF-8, ended by NUL, filled up to whole words."""
    data = text.encode() + b"\0"
    data += bytes(-len(data) % 4)
    return struct.unpack(f"<{len(data) // 4}I", data)


# The operands of each instruction: T the result's type, R the result, i an id, n a number, " text, a letter of _ENUMS a
# number with a name; the last one may repeat. Of all others: "TRi".
_FORMS = {
    Op.Name: 'i"', Op.Extension: '"', Op.ExtInstImport: 'R"', Op.ExtInst: "TRigi", Op.MemoryModel: "n",
    Op.EntryPoint: 'ni"', Op.ExecutionMode: "in", Op.Capability: "c", Op.TypeVoid: "R", Op.TypeBool: "R",
    Op.TypeInt: "Rn", Op.TypeFloat: "Rn", Op.TypeVector: "Rin", Op.TypeArray: "Ri", Op.TypeRuntimeArray: "Ri",
    Op.TypeStruct: "Ri", Op.TypePointer: "Rsi", Op.TypeFunction: "Ri", Op.Constant: "TRn", Op.Function: "TRni",
    Op.FunctionEnd: "", Op.Variable: "TRs", Op.Store: "i", Op.Decorate: "idn", Op.MemberDecorate: "indn",
    Op.CompositeExtract: "TRin", Op.ControlBarrier: "i", Op.LoopMerge: "iin", Op.SelectionMerge: "in", Op.Label: "R",
    Op.Branch: "i", Op.BranchConditional: "i", Op.Return: "",
}  # fmt: skip
_ENUMS: dict[str, type[IntEnum]] = {
    "c": Capability,
    "d": Decoration,
    "g": Glsl,
    "s": StorageClass,
}


def _instructions(code: bytes) -> Iterator[tuple[Op, Sequence[int]]]:
    all_words = struct.unpack(f"<{len(code) // 4}I", code)
    at = 5  # behind the header
    while at < len(all_words):
        n, op = divmod(all_words[at], 1 << 16)
        yield Op(op), all_words[at + 1 : at + n]
        at += n


def _constant(x: Sequence[str]) -> str:
    dtype, word = x[0], struct.pack("<I", int(x[1]))
    return str(struct.unpack({"float32": "<f", "int32": "<i"}.get(dtype, "<I"), word)[0])


# How a type or constant is written where it is used, from its operands.
_INLINE: dict[Op, Callable[[list[str]], str]] = {
    Op.TypeVoid: lambda x: "void",
    Op.TypeBool: lambda x: "bool",
    Op.TypeInt: lambda x: ("int" if x[1] == "1" else "uint") + x[0],
    Op.TypeFloat: lambda x: f"float{x[0]}",
    Op.TypeVector: lambda x: f"{x[0]}x{x[1]}",
    Op.TypeArray: lambda x: f"{x[0]}[{x[1]}]",
    Op.TypeRuntimeArray: lambda x: f"{x[0]}[]",
    Op.TypeStruct: lambda x: f"{{{x[0]}}}",
    Op.TypePointer: lambda x: f"{x[1]}*",
    Op.TypeFunction: lambda x: f"{x[0]}()",
    Op.ConstantTrue: lambda x: "true",
    Op.ConstantFalse: lambda x: "false",
    Op.Constant: _constant,
    Op.ConstantComposite: lambda x: f"({' '.join(x[1:])})",
}


def source(code: bytes) -> str:
    """A module as text: types and constants stand where they are used, everything else on a line of its own."""
    names: dict[int, str] = {}
    lines = []
    for op, operands in _instructions(code):
        form, result, rest = _FORMS.get(op, "TRi"), 0, []
        for i, x in enumerate(operands):
            kind = form[min(i, len(form) - 1)]
            if kind == "R":
                result = x
            elif kind == '"':
                rest.append(struct.pack(f"<{len(operands) - i}I", *operands[i:]).partition(b"\0")[0].decode())
                break
            elif kind == "n":
                rest.append(str(x))
            else:
                rest.append(_ENUMS[kind](x).name if kind in _ENUMS else names.get(x, f"%{x}"))
        if op == Op.Name:
            names[operands[0]] = "%" + rest[1]
        elif op in _INLINE:
            names[result] = _INLINE[op](rest)
        else:
            head = f"{names.get(result, f'%{result}')} = " if result else ""
            lines.append(f"{head}{op.name} {' '.join(rest)}".rstrip())
    return "\n".join([*lines, ""])
