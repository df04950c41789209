"""One panel of a matrix, as kernels read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mossnet_tg.codegen.kernels import groups
from mossnet_tg.codegen.kernels.build import (
    Buffer,
    Expr,
    Parts,
    div,
    itemsize,
    load,
    mod,
    prefetch,
    widened,
)
from mossnet_tg.weights.quantised import BITS, GROUP

if TYPE_CHECKING:
    from mossnet_tg.codegen.layout import Panels

# What a stream is asked for ahead: 4 KiB made a token of a q4 Mamba 15 % faster, of an f16 one 8 %.
_AHEAD_BYTES = 4096
_LINE_BYTES = 64


@dataclass(frozen=True)
class Panel:
    """A panel from `base` in `buffer`: elements [n_k][width], or the words of a quantised one."""

    buffer: Buffer | Parts
    base: Expr
    dtype: str
    n_k: int
    width: int
    following: Expr = None  # where the panel begins that is read after some passes over this one
    turn: Expr = None  # which lines of its rows this pass over the panel asks for

    @classmethod
    def of(cls, buffer: Buffer | Parts, number: Expr, dtype: str, n_k: int, panels: Panels) -> Panel:
        """Panel `number` of a matrix."""
        return cls(buffer, T.bind(number * panels.elements(n_k, dtype)), dtype, n_k, panels.width)

    @property
    def quantised(self) -> bool:
        return self.dtype in BITS

    def weight(self, k: Expr, lane: Expr) -> Expr:
        """Element (k, lane) of one that is not quantised."""
        return load(self.buffer, self.base + k * self.width + lane, self.dtype, self.base)

    def prefetch(self, k: Expr) -> None:
        """Of one that is not quantised, while row k is read: ask for what comes a while behind, or if a panel follows
        for a line of its row k.
        """
        self._prefetch_row(k * self.width)

    # What follows is of a quantised one.

    def element(self, k: Expr, lane: Expr) -> Expr:
        """Element (k, lane), float32."""
        group, at = div(k, GROUP), mod(k, GROUP)
        quad, b = div(at, 4), mod(at, 4)
        return self.code(self.quad_word(group, quad, lane), quad, b) * self.scale(group, lane)

    def scale(self, group: Expr, lane: Expr, native: bool = False) -> Expr:
        """What the codes of a group are multiplied with; `native`: by a processor that widens float16 itself."""
        word = self._load(self.base + div(group, 2) * self.width, lane)
        shift = _u32(mod(group, 2) * 16)
        bits = T.bind(T.shift_right(word, tirx.Broadcast(shift, lane.lanes) if isinstance(lane, tirx.Ramp) else shift))
        if native:
            lanes = f"x{lane.lanes}" if isinstance(lane, tirx.Ramp) else ""
            return T.cast(T.reinterpret(f"float16{lanes}", T.cast(bits, f"uint16{lanes}")), f"float32{lanes}")
        return widened(bits)

    def words(self, group: Expr, word: Expr, lane: Expr) -> Expr:
        """A word of a group's codes."""
        return self._load(self.base + self._row(group, word), lane)

    def prefetch_words(self, group: Expr, word: Expr) -> None:
        """The same for a row of words."""
        self._prefetch_row(self._row(group, word))

    def quad_word(self, group: Expr, quad: Expr, lane: Expr) -> Expr:
        """The word that holds elements 4 quad to 4 quad + 3 of a group."""
        return self.words(group, quad if self.dtype == "q8" else mod(quad, 4), lane)

    def code(self, word: Expr, quad: Expr, b: Expr) -> Expr:
        """Of such a word, the code of element 4 quad + b less the offset, float32: without the scale."""
        bits = BITS[self.dtype]
        shift = _u32((0 if self.dtype == "q8" else div(quad, 4) * 4) + b * 8)
        code = T.bitwise_and(T.shift_right(word, shift), T.uint32((1 << bits) - 1))
        return T.cast(T.cast(code, "int32"), "float32") - T.float32(1 << (bits - 1))

    def four(self, group: Expr, quad: Expr, lane: Expr) -> list[Expr]:
        """The codes of all four."""
        word = T.bind(self.quad_word(group, quad, lane))
        return [self.code(word, quad, b) for b in range(4)]

    def _row(self, group: Expr, word: Expr) -> Expr:
        """Where in the panel a row of words begins."""
        return (groups.scale_rows(self.n_k) + group * BITS[self.dtype] + word) * self.width

    def _prefetch_row(self, begin: Expr) -> None:
        size = itemsize(self.dtype)
        lines = range(0, self.width * size, _LINE_BYTES)
        if self.following is None:  # a panel's end is the next one's beginning
            for line in lines:
                prefetch(self.buffer, self.base + begin + (_AHEAD_BYTES + line) // size, level=1)
        else:
            line = mod(self.turn, len(lines)) * (_LINE_BYTES // size)
            prefetch(self.buffer, self.following + begin + line, level=2)

    def _load(self, begin: Expr, lane: Expr) -> Expr:
        """The word of each lane in a row; neighbours stay neighbours if `lane` is several."""
        several = isinstance(lane, tirx.Ramp)
        at = tirx.Ramp(begin + lane.base, lane.stride, lane.lanes) if several else begin + lane
        return load(self.buffer, at, "uint32", self.base)


def _u32(value: Any) -> Expr:
    return T.uint32(value) if isinstance(value, int) else T.cast(value, "uint32")
