"""A SPIR-V module while it grows: types and constants made once, sections in order, capabilities as they are needed."""

from __future__ import annotations

import struct
from collections.abc import Hashable, Sequence

from mossnet_tg.codegen.emit.spirv_words import (
    MAGIC,
    NO_CONTROL,
    VERSION,
    BuiltIn,
    Capability,
    Decoration,
    Glsl,
    Op,
    StorageClass,
    words,
)
from mossnet_tg.codegen.emit.tir import DType

MAX_LANES = 4  # of a vector: Vulkan does not have the capability Vector16

_LOGICAL, _GLSL450 = 0, 1  # addressing and memory model
_GL_COMPUTE, _LOCAL_SIZE = 5, 17  # execution model and mode

_FEATURES = {
    Capability.Float16: "shaderFloat16",
    Capability.Int16: "shaderInt16",
    Capability.Int8: "shaderInt8",
    Capability.StorageBuffer16BitAccess: "storageBuffer16BitAccess",
    Capability.StorageBuffer8BitAccess: "storageBuffer8BitAccess",
}
_EXTENSIONS = {Capability.StorageBuffer8BitAccess: "SPV_KHR_8bit_storage"}
# What it takes to compute with a type, and to have one of so many bits in a storage buffer.
_ARITHMETIC = {
    ("float", 16): Capability.Float16,
    ("int", 16): Capability.Int16,
    ("uint", 16): Capability.Int16,
    ("int", 8): Capability.Int8,
    ("uint", 8): Capability.Int8,
}
_STORAGE = {16: Capability.StorageBuffer16BitAccess, 8: Capability.StorageBuffer8BitAccess}
_MOVES = (Op.Load, Op.FConvert, Op.SConvert, Op.UConvert)


class Module:
    """A module of one function, the entry point `main`.

    Types of 8 and 16 bits that are only loaded, converted and stored need no more than storage; where they are computed
    with, `result` notes it.
    """

    def __init__(self) -> None:
        self._last_id = 0
        self._known: dict[Hashable, int] = {}
        self._capabilities = {Capability.Shader}
        self._names: list[int] = []
        self._decorations: list[int] = []
        self._globals: list[int] = []
        self._locals: list[int] = []
        self._body: list[int] = []
        self._inputs: list[int] = []
        self._glsl, self._main, self.entry_label = self.id(), self.id(), self.id()

    def id(self) -> int:
        self._last_id += 1
        return self._last_id

    def name(self, target: int, text: str) -> None:
        """What listings and debuggers call it."""
        self._names += words(Op.Name, target, text)

    def decorate(self, target: int, decoration: Decoration, *operands: int) -> None:
        self._decorations += words(Op.Decorate, target, decoration, *operands)

    # ---- types, constants and variables

    def type(self, dtype: DType) -> int:
        if dtype.lanes > MAX_LANES or dtype.bits > 32:
            raise TypeError(f"{dtype} in a kernel, expected vectors of up to {MAX_LANES} lanes of up to 32 bits")
        if dtype.lanes > 1:
            return self._type(Op.TypeVector, self.type(dtype.scalar), dtype.lanes)
        if dtype.kind == "bool":
            return self._type(Op.TypeBool)
        if dtype.kind == "float":
            return self._type(Op.TypeFloat, dtype.bits)
        return self._type(Op.TypeInt, dtype.bits, int(dtype.kind == "int"))

    def constant(self, dtype: DType, value: float) -> int:
        """A bool or value of 32 bits; for a vector, in every lane."""
        if dtype.lanes > 1:
            lane = self.constant(dtype.scalar, value)
            return self._constant(Op.ConstantComposite, dtype, *[lane] * dtype.lanes)
        if dtype.kind == "bool":
            return self._constant(Op.ConstantTrue if value else Op.ConstantFalse, dtype)
        data = struct.pack("<f", value) if dtype.kind == "float" else struct.pack("<I", int(value) & 0xFFFFFFFF)
        return self._constant(Op.Constant, dtype, struct.unpack("<I", data)[0])

    def pointer(self, storage: StorageClass, dtype: DType) -> int:
        """The type of a pointer to a `dtype`."""
        return self._type(Op.TypePointer, storage, self.type(dtype))

    def buffer(self, dtype: DType, binding: int) -> int:
        """A variable: the storage buffer at `binding` of set 0 as an array of `dtype`."""
        if dtype.bits in _STORAGE:
            self._capabilities.add(_STORAGE[dtype.bits])
        variable = self._variable(StorageClass.StorageBuffer, self._block(dtype))
        self.decorate(variable, Decoration.DescriptorSet, 0)
        self.decorate(variable, Decoration.Binding, binding)
        return variable

    def array(self, storage: StorageClass, dtype: DType, n: int) -> int:
        """A variable: n elements that the group (Workgroup) or the thread (Function) has for itself."""
        self.computes_with(dtype)
        n_id = self.constant(DType("uint", 32, 1), n)
        return self._variable(storage, self._type(Op.TypeArray, self.type(dtype), n_id))

    def input(self, builtin: BuiltIn, dtype: DType) -> int:
        """A variable: what the device says of the thread."""
        key = (builtin, dtype)
        if key not in self._known:
            variable = self._known[key] = self._variable(StorageClass.Input, self.type(dtype))
            self.decorate(variable, Decoration.BuiltIn, builtin)
            self._inputs.append(variable)
        return self._known[key]

    def _block(self, dtype: DType) -> int:
        """The type of a storage buffer that holds an array of `dtype`, and how it lies."""
        key = ("block", dtype)
        if key not in self._known:
            array = self._type(Op.TypeRuntimeArray, self.type(dtype))
            block = self._known[key] = self._type(Op.TypeStruct, array)
            self.decorate(array, Decoration.ArrayStride, dtype.bytes)
            self.decorate(block, Decoration.Block)
            self._decorations += words(Op.MemberDecorate, block, 0, Decoration.Offset, 0)
        return self._known[key]

    def _variable(self, storage: StorageClass, type_id: int) -> int:
        pointer, variable = self._type(Op.TypePointer, storage, type_id), self.id()
        section = self._locals if storage == StorageClass.Function else self._globals
        section += words(Op.Variable, pointer, variable, storage)
        return variable

    def _type(self, op: Op, *operands: int) -> int:
        key = (op, *operands)
        if key not in self._known:
            self._known[key] = self.id()
            self._globals += words(op, self._known[key], *operands)
        return self._known[key]

    def _constant(self, op: Op, dtype: DType, *operands: int) -> int:
        key = (op, dtype, *operands)
        if key not in self._known:
            type_id = self.type(dtype)
            self._known[key] = self.id()
            self._globals += words(op, type_id, self._known[key], *operands)
        return self._known[key]

    # ---- the function

    def emit(self, op: Op, *operands: int) -> None:
        """An instruction without a result, or with one whose id is known before."""
        self._body += words(op, *operands)

    def result(self, op: Op, dtype: DType, *operands: int) -> int:
        """An instruction's result, a value of `dtype`."""
        if op not in _MOVES:
            self.computes_with(dtype)
        type_id, result = self.type(dtype), self.id()
        self.emit(op, type_id, result, *operands)
        return result

    def access(self, storage: StorageClass, dtype: DType, variable: int, *indices: int) -> int:
        """A pointer to a `dtype` inside a variable."""
        type_id, result = self.pointer(storage, dtype), self.id()
        self.emit(Op.AccessChain, type_id, result, variable, *indices)
        return result

    def glsl(self, instruction: Glsl, dtype: DType, *operands: int) -> int:
        return self.result(Op.ExtInst, dtype, self._glsl, instruction, *operands)

    def computes_with(self, dtype: DType) -> None:
        """Note that values of the type are more than moved."""
        capability = _ARITHMETIC.get((dtype.kind, dtype.bits))
        if capability:
            self._capabilities.add(capability)

    # ---- the whole

    @property
    def features(self) -> tuple[str, ...]:
        """Vulkan's names of the device features that the module needs."""
        return tuple(name for capability, name in _FEATURES.items() if capability in self._capabilities)

    def code(self, name: str, block: Sequence[int]) -> bytes:
        """The module's bytes; `name` is for people, `block` the threads of a group."""
        void = self._type(Op.TypeVoid)
        function = self._type(Op.TypeFunction, void)
        capabilities = sorted(self._capabilities)
        parts = [
            [MAGIC, VERSION, 0, self._last_id + 1, 0],
            *(words(Op.Capability, c) for c in capabilities),
            *(words(Op.Extension, _EXTENSIONS[c]) for c in capabilities if c in _EXTENSIONS),
            words(Op.ExtInstImport, self._glsl, "GLSL.std.450"),
            words(Op.MemoryModel, _LOGICAL, _GLSL450),
            words(Op.EntryPoint, _GL_COMPUTE, self._main, "main", *self._inputs),
            words(Op.ExecutionMode, self._main, _LOCAL_SIZE, *block),
            words(Op.Name, self._main, name),
            self._names,
            self._decorations,
            self._globals,
            words(Op.Function, void, self._main, NO_CONTROL, function),
            words(Op.Label, self.entry_label),
            self._locals,
            self._body,
            words(Op.Return),
            words(Op.FunctionEnd),
        ]
        return b"".join(struct.pack(f"<{len(part)}I", *part) for part in parts)
