"""One panel of a matrix, as kernels read it."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.script.ir_builder import tirx as T

from mossnet_tg.codegen.kernels import groups
from mossnet_tg.codegen.kernels.build import Buffer, Expr, load, prefetch
from mossnet_tg.codegen.layout import Panels
from mossnet_tg.weights.quantised import BITS


@dataclass(frozen=True)
class Panel:
    """A panel from `base` in `buffer`: elements [n_k][width], or the words of a quantised one."""

    buffer: Buffer
    base: Expr
    dtype: str
    n_k: int
    width: int

    @classmethod
    def of(cls, buffer: Buffer, number: Expr, dtype: str, n_k: int, panels: Panels) -> Panel:
        """Panel `number` of a matrix."""
        return cls(buffer, T.bind(number * panels.elements(n_k, dtype)), dtype, n_k, panels.width)

    @property
    def quantised(self) -> bool:
        return self.dtype in BITS

    def weight(self, k: Expr, lane: Expr) -> Expr:
        """Element (k, lane) of one that is not quantised."""
        return load(self.buffer, self.base + k * self.width + lane, self.dtype, self.base)

    def scale(self, group: Expr, lane: Expr, native: bool = False) -> Expr:
        """Of a quantised one: what the codes of a group are multiplied with; `native`: by the processor's float16."""
        return groups.scale(self.buffer, self.base, group, lane, self.width, native)

    def words(self, group: Expr, word: Expr, lane: Expr) -> Expr:
        """Of a quantised one: a word of a group's codes."""
        return groups.row(self.buffer, self.base, group, word, lane, self.dtype, self.n_k, self.width)

    def prefetch(self, k: Expr) -> None:
        """Of one that is not quantised: ask for what comes a while after row k."""
        prefetch(self.buffer, self.base + k * self.width, self.width, self.dtype)

    def prefetch_words(self, group: Expr, word: Expr) -> None:
        """Of a quantised one: ask for what comes a while after a row of words."""
        begin = groups.begin(self.base, group, word, self.dtype, self.n_k, self.width)
        prefetch(self.buffer, begin, self.width, "uint32")

    def quad_word(self, group: Expr, quad: Expr, lane: Expr) -> Expr:
        """Of a quantised one: the word that holds four neighbours along k."""
        return groups.quad_word(self.buffer, self.base, group, quad, lane, self.dtype, self.n_k, self.width)

    def quad_code(self, word: Expr, quad: Expr, b: int) -> Expr:
        """The code of one of the four less the offset, float32."""
        return groups.quad_code(word, quad, b, self.dtype)

    def four(self, group: Expr, quad: Expr, lane: Expr) -> list[Expr]:
        """The codes of all four."""
        word = T.bind(self.quad_word(group, quad, lane))
        return [self.quad_code(word, quad, b) for b in range(4)]
