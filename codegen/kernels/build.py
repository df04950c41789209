"""The frames of kernels: flat buffers, one PrimFunc, and who computes what.

- `tile_kernel`: tiles that are computed each on its own. On a CPU the function takes a range of them, so that threads
  share it; on a GPU each thread computes one.
- `group_kernel`: on a GPU only, groups of threads that work together through shared memory and barriers.

Inside, TensorIR is emitted through tvm's IR builder; the frame's `func` holds the result afterwards.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from mossnet_tg.errors import MossnetError
from mossnet_tg.weights.quantised import BITS

Expr = Any
Buffer = Any
Size = tuple[int, int, int]


_SMALL_WORK = 16384


@dataclass(frozen=True)
class Param:
    """A kernel's buffer: a flat array of `n` elements of `dtype` (numpy's name, bfloat16, float16_bits, or the words of
    q8 and q4).

    `parts`: a weight larger than the device allows lies in several buffers of so many elements, one after the other.
    """

    name: str
    n: int
    dtype: str = "float32"
    written: bool = False
    read: bool = True
    parts: tuple[int, ...] = ()

    @property
    def buffers(self) -> list[Param]:
        """One for each part, or itself."""
        if len(self.parts) < 2:
            return [self]
        return [Param(f"{self.name}_{i}", n, self.dtype, self.written, self.read) for i, n in enumerate(self.parts)]


@dataclass(frozen=True)
class Parts:
    """The buffers of a Param in parts, and where in it each begins."""

    buffers: Sequence[Buffer]
    begins: Sequence[int]


@dataclass(frozen=True)
class Generated:
    """A kernel in TensorIR: its function, its parameters and how it is launched; `work` is roughly its arithmetic for
    one call. On a CPU `grid` is (tiles, 1, 1) and `block` (1, 1, 1); on a GPU they are groups, and threads of a group.
    `feature`: what the processor must have beyond the target's.
    """

    func: Any
    params: Sequence[Param]
    grid: Size
    work: int
    block: Size = (1, 1, 1)
    feature: str = ""

    @property
    def name(self) -> str:
        return str(self.func.attrs["global_symbol"])

    @property
    def small(self) -> bool:
        """Whether it is over before a second thread would have noticed it."""
        return self.work < _SMALL_WORK or self.grid == (1, 1, 1)

    @property
    def buffers(self) -> list[Param]:
        """What the function takes: the parameters, each part of one for itself."""
        return [buffer for p in self.params for buffer in p.buffers]


@dataclass
class Frame:
    """What a frame yields: the buffers in order, and when it is closed the kernel."""

    params: Sequence[Param]
    buffers: list[Buffer]
    grid: Size
    block: Size
    tile: Expr = None  # of a tile_kernel
    group: tuple[Expr, Expr, Expr] = (None, None, None)  # of a group_kernel
    thread: tuple[Expr, Expr, Expr] = (None, None, None)
    shared: Any = None  # of a tile_kernel: what was worked out before its tiles
    func: Any = field(default=None)

    def generated(self, work: int, feature: str = "") -> Generated:
        return Generated(self.func, self.params, self.grid, work, self.block, feature)

    @property
    def by_name(self) -> dict[str, Buffer]:
        return {p.name: buffer for p, buffer in zip(self.params, self.buffers, strict=True)}


@contextmanager
def _function(name: str, params: Sequence[Param], grid: Size, block: Size) -> Iterator[Frame]:
    """Open `name(T *p0, …)`."""
    for p in params:
        if p.n >= 1 << 31:
            hint = "this version's kernels count with 31 bits"
            raise MossnetError(f"{name}: {p.name} has {p.n} elements, expected at most {(1 << 31) - 1}", hint)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            T.func_attr({"tirx.noalias": True, "global_symbol": name})
            buffers = [_declared(p) for p in params]
            frame = Frame(params, buffers, grid, block)
            yield frame
        frame.func = builder.get()


def _declared(p: Param) -> Buffer | Parts:
    buffers = [T.arg(part.name, T.buffer((part.n,), storage(part.dtype))) for part in p.buffers]
    return buffers[0] if len(buffers) == 1 else Parts(buffers, [0, *itertools.accumulate(p.parts)][:-1])


@contextmanager
def tile_kernel(
    name: str,
    params: Sequence[Param],
    n_tiles: int,
    group_size: int | None,
    before: Callable[[dict[str, Buffer]], Any] | None = None,
) -> Iterator[Frame]:
    """Open a kernel whose body computes the tile `frame.tile`. On a CPU, `before` emits what all tiles of a call share.

    `group_size` None: for a CPU, `void name(T *p0, …, int32 lo, int32 hi)` runs the tiles lo <= tile < hi; else for a
    GPU, in groups of that many threads.
    """
    if group_size is None:
        with _function(name, params, (n_tiles, 1, 1), (1, 1, 1)) as frame:
            lo, hi = (T.arg(bound, T.int32()) for bound in ("lo", "hi"))
            frame.shared = before(frame.by_name) if before else None
            with T.serial(lo, hi) as frame.tile:
                yield frame
        return
    n_groups = -(-n_tiles // group_size)
    with group_kernel(name, params, (n_groups, 1, 1), (group_size, 1, 1)) as frame:
        tile = frame.group[0] * group_size + frame.thread[0] if group_size > 1 else frame.group[0]
        frame.tile = T.bind(tile)
        if n_groups * group_size == n_tiles:
            yield frame
        else:
            with T.If(frame.tile < n_tiles), T.Then():
                yield frame


@contextmanager
def group_kernel(name: str, params: Sequence[Param], grid: Size, block: Size) -> Iterator[Frame]:
    """Open a GPU kernel of `grid` groups of `block` threads; `frame.group` and `frame.thread` are where it stands."""
    with _function(name, params, grid, block) as frame, contextlib.ExitStack() as stack:

        def position(tag: str, sizes: Size) -> tuple[Expr, Expr, Expr]:
            axes = zip("xyz", sizes, strict=True)
            bound = [stack.enter_context(T.launch_thread(f"{tag}.{axis}", n)) for axis, n in axes]
            return bound[0], bound[1], bound[2]

        frame.group, frame.thread = position("blockIdx", grid), position("threadIdx", block)
        yield frame


def shared(n: int, dtype: str = "float32") -> Buffer:
    """An array that the threads of a group share.

    Two arrays that are not needed at the same time may become one: between the last use of the one and the first of the
    other a barrier must stand.
    """
    return T.alloc_buffer((n,), dtype, scope="shared")


def barrier() -> None:
    """Every thread of the group gets here, and sees what all wrote to shared and global memory, before one goes on."""
    T.evaluate(T.tvm_storage_sync("shared"))


_MAX_LOCAL_BYTES = 1 << 16


def itemsize(dtype: str) -> int:
    """Bytes of one element."""
    return np.dtype(storage(dtype)).itemsize


_STORAGE = {"bfloat16": "uint16", "float16_bits": "uint16", "bool": "uint8", **dict.fromkeys(BITS, "uint32")}


def storage(dtype: str) -> str:
    """The type a buffer of `dtype` is declared with: what the processor cannot widen is read as its bits."""
    return _STORAGE.get(dtype, dtype)


def load(buffer: Buffer | Parts, index: Expr, dtype: str, base: Expr = None) -> Expr:
    """buffer[index], a narrow float widened to float32.

    Of a buffer in parts, `base` says which part it is, the same for all lanes of a vector; without it each lane has its
    own.
    """
    if isinstance(buffer, Parts):
        return _load_part(buffer, index, base, lambda part, at: load(part, at, dtype))
    value = buffer[index]
    if dtype == "float16":
        return T.cast(value, "float32")
    if dtype == "bfloat16":  # the upper half of a float32
        return T.reinterpret("float32", T.shift_left(T.cast(value, "uint32"), T.uint32(16)))
    if dtype == "float16_bits":
        return widened(T.bind(T.cast(value, "uint32")))
    return value


def widened(bits: Expr) -> Expr:
    """The float32 of a float16 in the lower half of a uint32, whatever is in the upper, without the processor's help.
    Exponent and mantissa are moved into place, then the exponents' different zeros made one.
    """
    sign = T.shift_left(T.bitwise_and(bits, T.uint32(0x8000)), T.uint32(16))
    rest = T.shift_left(T.bitwise_and(bits, T.uint32(0x7FFF)), T.uint32(13))
    return T.reinterpret("float32", T.bitwise_or(sign, rest)) * T.float32(2.0**112)


def load_half(buffer: Buffer | Parts, index: Expr, base: Expr) -> Expr:
    """buffer[index] of a float16 buffer, as it is."""
    if isinstance(buffer, Parts):
        return _load_part(buffer, index, base, lambda part, at: part[at])
    return buffer[index]


def _load_part(parts: Parts, index: Expr, base: Expr, read: Callable[[Buffer, Expr], Expr]) -> Expr:
    *firsts, (last, begin) = zip(parts.buffers, parts.begins, strict=True)
    # Without a base all parts are read, each at a place that it has.
    value = read(last, index - begin if base is not None else T.max(index - begin, 0))
    for part, start in reversed(firsts):
        if base is not None:
            value = T.if_then_else(base < begin, read(part, index - start), value)
        else:
            here = T.max(T.min(index, begin - 1) - start, 0)
            value = T.Select(index < begin, read(part, here), value)
        begin = start
    return value


def prefetch(buffer: Buffer | Parts, index: Expr, level: int) -> None:
    """On a CPU: bring the line of buffer[index] into the first or second cache. Beyond the buffer nothing happens."""
    if not isinstance(buffer, Parts):
        locality = T.int32(4 - level)
        at = T.address_of(buffer[index])
        T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch.p0", at, T.int32(0), locality, T.int32(1)))


def div(index: Expr, n: int) -> Expr:
    """index // n of an index, which is never negative: where TVM cannot see that, `//` costs a comparison."""
    return index // n if isinstance(index, int) else T.truncdiv(index, n)


def mod(index: Expr, n: int) -> Expr:
    """index % n, as `div`."""
    return index % n if isinstance(index, int) else T.truncmod(index, n)


def local(n: int, dtype: str = "float32") -> Buffer:
    """A small array of the tile's own; with constant indices it becomes registers. Raises MossnetError for a large one:
    it would lie on the stack of a thread that may belong to someone else."""
    if n * itemsize(dtype) > _MAX_LOCAL_BYTES:
        text = f"a kernel needs {n * itemsize(dtype)} bytes of its thread's stack, expected at most {_MAX_LOCAL_BYTES}"
        raise MossnetError(text, "d_state, d_conv, head_dim or n_experts is larger than this version's kernels take")
    return T.alloc_buffer((n,), dtype, scope="local")


def ramp(base: Expr, lanes: int) -> Expr:
    """The indices of neighbours from `base` on."""
    return tirx.Ramp(base, 1, lanes)


@contextmanager
def vector(lanes: int) -> Iterator[Expr]:
    """A loop over the lanes of a vector, computed at once; of one lane, none."""
    if lanes == 1:
        yield 0
        return
    with T.vectorized(lanes) as v:
        yield v


def sum_lanes(parts: Buffer, lanes: int) -> None:
    """parts[0] becomes the sum of all lanes, in halves: as exact as the lanes are many, and no chain of additions."""
    half = lanes // 2
    while half:
        with vector(half) as v:
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
