"""Products with a quantised matrix in integers: what processors do several times as fast as in floats.

The activations become codes too (`kernels.rounding`). Then four codes of a weight times four of an activation are added
up in one int32 lane at once, for as many outputs as a vector has lanes; after each group the sums are scaled. Nothing
is summed across lanes. arm64's i8mm multiplies two tokens' eight codes with two outputs' instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mossnet_tg.codegen.kernels.build import Buffer, Expr, local, ramp
from mossnet_tg.codegen.kernels.panel import Panel
from mossnet_tg.codegen.kernels.rounding import QUADS, Codes
from mossnet_tg.codegen.schedules.cpu import CpuSchedule
from mossnet_tg.targets.table import DOTS
from mossnet_tg.weights.quantised import BITS

_MOST_CODES = 1 << 15  # of a token's slots: they lie on the stack

Emit: TypeAlias = Callable[[Expr, Expr, Expr], Expr]


@dataclass(frozen=True)
class Dot:
    """An instruction of `table.DOTS`, by the type of the weights: `q8(sums, weights, activations)` adds to int32 sums;
    the other two are words of four codes, the activations' signed. `signed`: so are those of q8, else weights are with
    their offset. `pairs`: it takes two rows and two outputs at once, eight codes of each.
    """

    lanes: int
    feature: str
    q8: Emit
    q4: Emit
    signed: bool
    pairs: bool


def _bytes(words: Expr, lanes: int) -> Expr:
    return T.reinterpret(f"int8x{4 * lanes}", words)


def _vnni(lanes: int) -> Emit:
    name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
    return lambda sums, w, x: T.call_llvm_pure_intrin(f"int32x{lanes}", name, sums, _bytes(w, lanes), _bytes(x, lanes))


def _avx2(result: str, name: str, a: Expr, b: Expr) -> Expr:
    return T.call_llvm_pure_intrin(result, f"llvm.x86.avx2.{name}", a, b)


def _avx2_q4(sums: Expr, w: Expr, x: Expr) -> Expr:
    """The first factor counts as unsigned; sums of two products fit 16 bits."""
    pairs = _avx2("int16x16", "pmadd.ub.sw", _bytes(w, 8), _bytes(x, 8))
    return sums + _avx2("int32x8", "pmadd.wd", pairs, tirx.Broadcast(T.int16(1), 16))


def _avx2_q8(sums: Expr, w: Expr, x: Expr) -> Expr:
    """A sign is moved from the weight to the activation."""
    positive, moved = (_avx2("int8x32", "psign.b", _bytes(a, 8), _bytes(w, 8)) for a in (w, x))
    return _avx2_q4(sums, positive, moved)


def _neon(name: str) -> Emit:
    name = f"llvm.aarch64.neon.{name}.v4i32.v16i8"
    return lambda sums, w, x: T.call_llvm_pure_intrin("int32x4", name, sums, _bytes(w, 4), _bytes(x, 4))


def _dot(name: str, q8: Emit, q4: Emit | None = None, signed: bool = True, pairs: bool = False) -> Dot:
    """The row of DOTS with what it emits; without a `q4` both are alike."""
    return Dot(DOTS[name].lanes, DOTS[name].feature, q8, q4 or q8, signed, pairs)


_SDOT = _dot("dotprod", _neon("sdot"))
# By the names of DOTS: for a prompt; those that differ for one token.
_OF_PROMPTS: Mapping[str, Dot] = {
    "avx512vnni": _dot("avx512vnni", _vnni(16), signed=False),
    "avxvnni": _dot("avxvnni", _vnni(8), signed=False),
    "avx2": _dot("avx2", _avx2_q8, _avx2_q4),
    "i8mm": _dot("i8mm", lambda sums, w, x: _neon("smmla")(sums, x, w), pairs=True),
    "dotprod": _SDOT,
}
_OF_TOKENS = {"i8mm": _SDOT}


def dot_of(s: CpuSchedule, dtypes: Sequence[str], n_tokens: int, n_codes: int) -> Dot | None:
    """How a product of `n_tokens` tokens with matrices of these types is computed in integers; None where it is not.
    `n_codes` are those of one token.
    """
    if not s.dot or not all(dtype in BITS for dtype in dtypes):
        return None
    if n_tokens > 1:
        dot, fits = _OF_PROMPTS[s.dot], True
    else:
        dot, fits = _OF_TOKENS.get(s.dot, _OF_PROMPTS[s.dot]), n_codes <= _MOST_CODES
    return dot if fits and s.width % dot.lanes == 0 else None


class IntegerTile:
    """The sums of some rows, by number, over one panel of each matrix, as `matmul.Tile` has them."""

    def __init__(self, s: CpuSchedule, dot: Dot, codes: Codes, rows: Sequence[Expr], panels: Sequence[Panel]) -> None:
        self.schedule, self.dot, self.codes, self.rows = s, dot, codes, rows
        # A vector of sums is of one row, or of two and half as many outputs.
        self.step = 2 if dot.pairs else 1
        self.firsts = range(0, s.width, dot.lanes // self.step)
        self.blocks = [list(rows[i : i + self.step]) for i in range(0, len(rows), self.step)]
        accs = [local(len(self.blocks) * len(self.firsts) * dot.lanes) for _ in panels]
        for acc in accs:
            for at in self._places():
                T.buffer_store(acc, tirx.Broadcast(T.float32(0), dot.lanes), [at])
        whole, rest = divmod(codes.n_groups, 2)
        with T.serial(whole) as pair:  # whose scales share a word
            for half in range(2):
                self._group(pair * 2 + half, accs, panels)
        if rest:
            self._group(T.int32(2 * whole), accs, panels)
        as_it_is = len(rows) == 1 and not dot.pairs
        self.sums = accs if as_it_is else [self._laid_down(acc) for acc in accs]

    def _places(self) -> list[Expr]:
        """Where each vector of sums lies: of the first block for each of `firsts`, then of the next."""
        return [ramp(i * self.dot.lanes, self.dot.lanes) for i in range(len(self.blocks) * len(self.firsts))]

    def _group(self, group: Expr, accs: Sequence[Buffer], panels: Sequence[Panel]) -> None:
        for acc, panel in zip(accs, panels, strict=True):
            bits, emit = BITS[panel.dtype], self.dot.q8 if panel.dtype == "q8" else self.dot.q4
            offset = 0 if self._signed(panel) else 1 << (bits - 1)
            starts = [
                self._spread([self.codes.sum(row, group) * T.int32(-offset) for row in block])
                if offset
                else tirx.Broadcast(T.int32(0), self.dot.lanes)
                for block in self.blocks
            ]
            sums = [start for start in starts for _ in self.firsts]
            for word in range(0, bits, self.step):
                if len(self.rows) == 1 or panel.following is not None:
                    for i in range(self.step):
                        panel.prefetch_words(group, word + i)
                for i, weights in enumerate(self._weights(panel, group, word)):
                    quad = word + i * 4
                    x = [T.bind(self._activations(block, group * QUADS + quad)) for block in self.blocks]
                    for n, weight in enumerate(weights):
                        for b in range(len(self.blocks)):
                            at = b * len(self.firsts) + n
                            sums[at] = T.bind(emit(sums[at], weight, x[b]))
            scales = self._scales(panel, group)
            for b, block in enumerate(self.blocks):
                scale = T.bind(self._spread([self.codes.scale(row, group) for row in block]))
                for n, weight_scale in enumerate(scales):
                    at = b * len(self.firsts) + n
                    place = self._places()[at]
                    total = T.cast(sums[at], f"float32x{self.dot.lanes}") * (weight_scale * scale)
                    T.buffer_store(acc, acc[place] + total, [place])

    def _signed(self, panel: Panel) -> bool:
        return self.dot.signed and panel.dtype == "q8"

    def _spread(self, values: Sequence[Expr]) -> Expr:
        """A value of each row of a block, for the lanes that are the row's."""
        spread = [tirx.Broadcast(T.bind(value), self.dot.lanes) for value in values]
        return _shuffled([spread[0], spread[-1]], [0, 1, 4, 5]) if self.dot.pairs else spread[0]

    def _activations(self, block: Sequence[Expr], word: Expr) -> Expr:
        """What a block's rows give to one instruction."""
        if not self.dot.pairs:
            return tirx.Broadcast(self.codes.words(block[0], word, 1), self.dot.lanes)
        return _shuffled([self.codes.words(row, word, 2) for row in (block[0], block[-1])], [0, 1, 2, 3])

    def _weights(self, panel: Panel, group: Expr, word: int) -> list[list[Expr]]:
        """For each of the quads that a word holds, or a pair of words, the codes of each of `firsts`."""
        lanes = self.dot.lanes
        if not self.dot.pairs:
            return _transposed([self._codes(panel, group, word, first) for first in self.firsts])
        found = []
        for first in range(0, self.schedule.width, lanes):
            both = (self._codes(panel, group, word + i, first) for i in range(2))
            zipped = list(zip(*both, strict=True))
            found += [[_shuffled(two, order) for two in zipped] for order in ([0, 4, 1, 5], [2, 6, 3, 7])]
        return _transposed(found)

    def _scales(self, panel: Panel, group: Expr) -> list[Expr]:
        """The scales of each of `firsts`."""
        lanes = self.dot.lanes
        found = [
            T.bind(panel.scale(group, ramp(first, lanes), self.schedule.native_half))
            for first in range(0, self.schedule.width, lanes)
        ]
        if not self.dot.pairs:
            return found
        return [_shuffled([scale], order) for scale in found for order in ([0, 1, 0, 1], [2, 3, 2, 3])]

    def _codes(self, panel: Panel, group: Expr, word: int, first: int) -> list[Expr]:
        """The codes of the one or two quads in a word, for the outputs from `first` on."""
        lanes = self.dot.lanes

        def all_lanes(value: int) -> Expr:
            return tirx.Broadcast(T.uint32(value), lanes)

        words = T.bind(panel.words(group, word, ramp(first, lanes)))
        if panel.dtype == "q8":
            return [T.bind(T.bitwise_xor(words, all_lanes(0x80808080))) if self._signed(panel) else words]
        low = T.bitwise_and(words, all_lanes(0x0F0F0F0F))
        high = T.bitwise_and(T.shift_right(words, all_lanes(4)), all_lanes(0x0F0F0F0F))
        return [T.bind(low), T.bind(high)]

    def _laid_down(self, acc: Buffer) -> Buffer:
        """The sums [rows][width], which an epilogue takes row by row."""
        width, half = self.schedule.width, self.dot.lanes // self.step
        sums = local(len(self.rows) * width)
        for i, place in enumerate(self._places()):
            block, n = divmod(i, len(self.firsts))
            for r in range(len(self.blocks[block])):
                row, at = block * self.step + r, place.base + r * half
                T.buffer_store(sums, acc[ramp(at, half)], [ramp(row * width + self.firsts[n], half)])
        return sums

    def sum(self, matrix: int, r: Expr, j: int, v: Expr) -> Expr:
        return self.sums[matrix][r * self.schedule.width + j * self.schedule.lanes + v]


def _shuffled(vectors: Sequence[Expr], order: Sequence[int]) -> Expr:
    return T.bind(tirx.Shuffle(list(vectors), [T.int32(i) for i in order]))


def _transposed(rows: Sequence[Sequence[Expr]]) -> list[list[Expr]]:
    return [list(column) for column in zip(*rows, strict=True)]
