"""The frame of every CPU kernel: flat buffers, a range of tiles, one PrimFunc.

`with cpu_kernel(name, params) as k:` opens the function; inside, TensorIR is emitted through tvm's IR builder and
`k.func` holds the result afterwards. A kernel computes tiles lo <= tile < hi, each on its own, so that threads share
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from mossnet_tg.errors import MossnetError

Expr = Any
Buffer = Any


@dataclass(frozen=True)
class Param:
    """A kernel's buffer: a flat array of `n` elements of `dtype` (numpy's name, bfloat16, or float16_bits)."""

    name: str
    n: int
    dtype: str = "float32"
    written: bool = False
    read: bool = True


@dataclass(frozen=True)
class Generated:
    """A kernel in TensorIR: its function, buffers and tiles; `work` is roughly its arithmetic for one call."""

    func: Any
    params: Sequence[Param]
    n_tiles: int
    work: int


@dataclass
class CpuKernel:
    """What `cpu_kernel` yields: the buffers in order, the tile bounds, and at the end the function."""

    buffers: list[Buffer]
    lo: Expr
    hi: Expr
    func: Any = field(default=None)


@contextmanager
def cpu_kernel(name: str, params: Sequence[Param]) -> Iterator[CpuKernel]:
    """Open `void name(T *p0, …, int32 lo, int32 hi)`."""
    for p in params:
        if p.n >= 1 << 31:
            hint = "this version's kernels count with 31 bits"
            raise MossnetError(f"{name}: {p.name} has {p.n} elements, expected at most {(1 << 31) - 1}", hint)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            T.func_attr({"tirx.noalias": True, "global_symbol": name})
            buffers = [T.arg(p.name, T.buffer((p.n,), storage(p.dtype))) for p in params]
            kernel = CpuKernel(buffers, T.arg("lo", T.int32()), T.arg("hi", T.int32()))
            yield kernel
        kernel.func = builder.get()


_MAX_LOCAL_BYTES = 1 << 16

_BYTES = {
    "float32": 4,
    "float16": 2,
    "float16_bits": 2,
    "bfloat16": 2,
    "int32": 4,
    "int64": 8,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
    "uint32": 4,
}


def itemsize(dtype: str) -> int:
    """Bytes of one element."""
    return _BYTES[dtype]


def storage(dtype: str) -> str:
    """The type a buffer of `dtype` is declared with: what the processor cannot widen is read as its bits."""
    return {"bfloat16": "uint16", "float16_bits": "uint16", "bool": "uint8"}.get(dtype, dtype)


def load(buffer: Buffer, index: Expr, dtype: str) -> Expr:
    """buffer[index], a narrow float widened to float32."""
    value = buffer[index]
    if dtype == "float16":
        return T.cast(value, "float32")
    if dtype == "bfloat16":  # the upper half of a float32
        return T.reinterpret("float32", T.shift_left(T.cast(value, "uint32"), T.uint32(16)))
    if dtype == "float16_bits":  # exponent and mantissa moved into place, then the exponents' different zeros made one
        bits = T.bind(T.cast(value, "uint32"))
        sign = T.shift_left(T.bitwise_and(bits, T.uint32(0x8000)), T.uint32(16))
        rest = T.shift_left(T.bitwise_and(bits, T.uint32(0x7FFF)), T.uint32(13))
        return T.reinterpret("float32", T.bitwise_or(sign, rest)) * T.float32(2.0**112)
    return value


def local(n: int, dtype: str = "float32") -> Buffer:
    """A small array of the tile's own; with constant indices it becomes registers. Raises MossnetError for a large one:
    it would lie on the stack of a thread that may belong to someone else."""
    if n * itemsize(dtype) > _MAX_LOCAL_BYTES:
        text = f"a kernel needs {n * itemsize(dtype)} bytes of its thread's stack, expected at most {_MAX_LOCAL_BYTES}"
        raise MossnetError(text, "d_state, d_conv, head_dim or n_experts is larger than this version's kernels take")
    return T.alloc_buffer((n,), dtype, scope="local")


def sum_lanes(parts: Buffer, lanes: int) -> None:
    """parts[0] becomes the sum of all lanes, in halves: as exact as the lanes are many, and no chain of additions."""
    half = lanes // 2
    while half:
        with T.vectorized(half) as v:
            T.buffer_store(parts, parts[v] + parts[half + v], [v])
        half //= 2


def when(condition: Expr, then: Callable[[], None]) -> None:
    """if (condition) then()."""
    with T.If(condition), T.Then():
        then()


def vectors(n: int, lanes: int) -> Iterator[tuple[int, int]]:
    """(begin, lanes) pieces of a row of n: full vectors, then halves, so that every piece is a power of two long."""
    begin = 0
    while begin < n:
        while begin + lanes > n:
            lanes //= 2
        yield begin, lanes
        begin += lanes


def channel_tiles(n_channels: int, lanes: int) -> int:
    """How many tiles of `lanes` channels cover n_channels."""
    return -(-n_channels // lanes)


def for_channels(n_channels: int, lanes: int, tile: Expr, body: Callable[[Expr, int], None]) -> None:
    """Emit body(first channel, lanes) for one tile of `lanes` channels; a shorter last tile goes in powers of two."""
    whole, tail = divmod(n_channels, lanes)
    if not tail:
        body(tile * lanes, lanes)
        return
    if whole:
        when(tile < whole, lambda: body(tile * lanes, lanes))
    with T.If(tile == whole), T.Then():
        for begin, piece in vectors(tail, lanes // 2):
            body(whole * lanes + begin, piece)
