"""Products of one token with a quantised matrix in integers: what processors do four times as fast as in floats.

The token's activations become codes too, in groups like the matrix's, once for each call of the kernel. Then four codes
of a weight times four of an activation are added up in one int32 lane at once, for as many outputs as a vector has
lanes; after each group the sums are scaled. Nothing is summed across lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mossnet_tg.codegen.kernels.build import Expr, local, vector
from mossnet_tg.codegen.kernels.panel import Panel
from mossnet_tg.codegen.schedules.cpu import CpuSchedule
from mossnet_tg.targets.table import DOTS
from mossnet_tg.weights.quantised import BITS, GROUP

_MOST_CODES = 1 << 15  # of a token's slots: they lie on the stack
_QUADS = GROUP // 4


Emit: TypeAlias = Callable[[Expr, Expr, Expr], Expr]


@dataclass(frozen=True)
class Dot:
    """An instruction of `table.DOTS`: `emit(sums, weights, activations)` adds to int32 sums; the other two are words of
    four codes, the activations' signed. `signed`: so are the weights' of eight bits, else they are with their offset.
    """

    lanes: int
    feature: str
    signed: bool
    emit: Emit


def _ramp(base: Expr, lanes: int) -> Expr:
    return tirx.Ramp(base, 1, lanes)


def _bytes(words: Expr, lanes: int) -> Expr:
    return T.reinterpret(f"int8x{4 * lanes}", words)


def _vnni(lanes: int) -> Emit:
    name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
    return lambda sums, w, x: T.call_llvm_pure_intrin(f"int32x{lanes}", name, sums, _bytes(w, lanes), _bytes(x, lanes))


def _avx2(sums: Expr, w: Expr, x: Expr) -> Expr:
    """A sign is moved from the weight to the activation: the first factor counts as unsigned."""
    w, x = T.bind(_bytes(w, 8)), _bytes(x, 8)

    def call(result: str, name: str, a: Expr, b: Expr) -> Expr:
        return T.call_llvm_pure_intrin(result, f"llvm.x86.avx2.{name}", a, b)

    positive, moved = (call("int8x32", "psign.b", a, w) for a in (w, x))
    pairs = call("int16x16", "pmadd.ub.sw", positive, moved)
    return sums + call("int32x8", "pmadd.wd", pairs, tirx.Broadcast(T.int16(1), 16))


def _neon(sums: Expr, w: Expr, x: Expr) -> Expr:
    return T.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.sdot.v4i32.v16i8", sums, _bytes(w, 4), _bytes(x, 4))


_EMITTED: Mapping[str, tuple[bool, Emit]] = {
    "avx512vnni": (False, _vnni(16)),
    "avxvnni": (False, _vnni(8)),
    "avx2": (True, _avx2),
    "dotprod": (True, _neon),
}


def dot_of(s: CpuSchedule, dtypes: Sequence[str], n_codes: int) -> Dot | None:
    """How a product with matrices of these types is computed in integers; None where it is not."""
    if not s.dot or n_codes > _MOST_CODES or not all(dtype in BITS for dtype in dtypes):
        return None
    _, feature, lanes = DOTS[s.dot]
    return None if s.width % lanes else Dot(lanes, feature, *_EMITTED[s.dot])


class Activations:
    """The codes of `n_rows` rows of n_k activations, which `row(r, k)` gives: words of four, a scale for each group and
    the sum of its codes.
    """

    def __init__(self, n_rows: int, n_k: int, row: Callable[[Expr, Expr], Expr]) -> None:
        self.n_groups = n_k // GROUP
        n = n_rows * self.n_groups
        self.words, self.scales, self.sums = local(n * _QUADS, "int32"), local(n), local(n, "int32")
        values = local(GROUP)
        with T.serial(n_rows) as r, T.serial(self.n_groups) as g:
            at = r * self.n_groups + g
            with vector(GROUP) as v:
                T.buffer_store(values, row(r, g * GROUP + v), [v])
            every = values[_ramp(0, GROUP)]
            # Without their sign, floats are in the order of their bits; a NaN is the largest, and so every sum's.
            bits = T.bitwise_and(T.reinterpret(f"int32x{GROUP}", every), tirx.Broadcast(T.int32(0x7FFFFFFF), GROUP))
            largest = T.bind(T.reinterpret("float32", _reduced("smax", bits)))
            inverse = T.bind(T.Select(largest > T.float32(0), T.float32(127) / largest, T.float32(0)))
            T.buffer_store(self.scales, largest * T.float32(1 / 127), [at])
            codes = T.bind(T.cast(T.nearbyint(every * tirx.Broadcast(inverse, GROUP)), f"int32x{GROUP}"))
            T.buffer_store(self.sums, _reduced("add", codes), [at])
            words = T.reinterpret(f"int32x{_QUADS}", T.cast(codes, f"int8x{GROUP}"))
            T.buffer_store(self.words, words, [_ramp(at * _QUADS, _QUADS)])


def _reduced(op: str, codes: Expr) -> Expr:
    """An operation over all lanes of a group's int32."""
    return T.call_llvm_pure_intrin("int32", f"llvm.vector.reduce.{op}.v{GROUP}i32", codes)


class IntegerTile:
    """The sums of one row over one panel of each matrix, as `matmul.Tile` has them."""

    n_rows = 1

    def __init__(self, s: CpuSchedule, dot: Dot, activations: Activations, row: Expr, panels: Sequence[Panel]) -> None:
        self.schedule, self.dot, self.x, self.row = s, dot, activations, row
        self.sums = [local(s.width) for _ in panels]
        for acc in self.sums:
            for j in range(s.width // dot.lanes):
                T.buffer_store(acc, tirx.Broadcast(T.float32(0), dot.lanes), [_ramp(j * dot.lanes, dot.lanes)])
        whole, rest = divmod(self.x.n_groups, 2)
        with T.serial(whole) as pair:
            for half in range(2):
                self._group(pair * 2 + half, panels)
        if rest:
            self._group(T.int32(2 * whole), panels)

    def _group(self, group: Expr, panels: Sequence[Panel]) -> None:
        lanes, at = self.dot.lanes, self.row * self.x.n_groups + group
        for acc, panel in zip(self.sums, panels, strict=True):
            for word in range(BITS[panel.dtype]):
                panel.prefetch_words(group, word)
            signed = self.dot.signed and panel.dtype == "q8"
            offset = 0 if signed else 1 << (BITS[panel.dtype] - 1)
            start = T.bind(self.x.sums[at] * T.int32(-offset)) if offset else T.int32(0)
            for j in range(self.schedule.width // lanes):
                ramp = _ramp(j * lanes, lanes)
                sums = tirx.Broadcast(start, lanes)
                for word, codes in self._codes(panel, group, ramp, signed):
                    x = tirx.Broadcast(self.x.words[at * _QUADS + word], lanes)
                    sums = T.bind(self.dot.emit(sums, codes, x))
                factor = panel.scale(group, ramp, self.schedule.native_half) * tirx.Broadcast(self.x.scales[at], lanes)
                T.buffer_store(acc, acc[ramp] + T.cast(sums, f"float32x{lanes}") * factor, [ramp])

    def _codes(self, panel: Panel, group: Expr, ramp: Expr, signed: bool) -> list[tuple[int, Expr]]:
        """(quad, words of four codes) of the group, for the outputs of `ramp`."""
        lanes = self.dot.lanes

        def all_lanes(value: int) -> Expr:
            return tirx.Broadcast(T.uint32(value), lanes)

        rows = [T.bind(panel.words(group, word, ramp)) for word in range(BITS[panel.dtype])]
        if panel.dtype == "q8":
            return [(i, T.bitwise_xor(row, all_lanes(0x80808080)) if signed else row) for i, row in enumerate(rows)]
        low = [T.bitwise_and(row, all_lanes(0x0F0F0F0F)) for row in rows]
        high = [T.bitwise_and(T.shift_right(row, all_lanes(4)), all_lanes(0x0F0F0F0F)) for row in rows]
        return list(enumerate([*low, *high]))

    def sum(self, matrix: int, r: Expr, j: int, v: Expr) -> Expr:
        return self.sums[matrix][j * self.schedule.lanes + v]
