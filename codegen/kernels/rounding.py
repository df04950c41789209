"""Activations as codes of eight bits, in groups as those of a quantised matrix: what products in integers take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mossnet_tg.codegen.kernels.build import (
    Buffer,
    Expr,
    Frame,
    Generated,
    Param,
    local,
    ramp,
    tile_kernel,
    vector,
    when,
)
from mossnet_tg.weights.quantised import GROUP

if TYPE_CHECKING:
    from mossnet_tg.codegen.kernels.integer import Dot

QUADS = GROUP // 4  # words of four codes in a group


class Codes:
    """Rows of n_k activations as codes, in a buffer of int32: of each row words of four codes, then for each group the
    scale's bits and the sum of its codes.
    """

    def __init__(self, buffer: Buffer, n_k: int) -> None:
        self.buffer, self.n_groups = buffer, n_k // GROUP

    @staticmethod
    def size(n_rows: int, n_k: int) -> int:
        """The int32 of a buffer for so many rows."""
        return n_rows * (n_k // GROUP) * (QUADS + 2)

    def _at(self, row: Expr, part: int, i: Expr) -> Expr:
        """Where number i lies of a row's words (0), scales (QUADS) or sums (QUADS + 1)."""
        return row * (self.n_groups * (QUADS + 2)) + self.n_groups * part + i

    def words(self, row: Expr, first: Expr, n: int) -> Expr:
        """`n` words from number `first` on."""
        at = self._at(row, 0, first)
        return self.buffer[ramp(at, n) if n > 1 else at]

    def scale(self, row: Expr, group: Expr) -> Expr:
        """float32."""
        return T.reinterpret("float32", self.buffer[self._at(row, QUADS, group)])

    def sum(self, row: Expr, group: Expr) -> Expr:
        """Of a group's codes."""
        return self.buffer[self._at(row, QUADS + 1, group)]

    def fill(self, row: Expr, x: Callable[[Expr], Expr]) -> None:
        """Round the activations x(k) of a row."""
        values = local(GROUP)
        with T.serial(self.n_groups) as g:
            with vector(GROUP) as v:
                T.buffer_store(values, x(g * GROUP + v), [v])
            every = values[ramp(0, GROUP)]
            # Without their sign, floats are in the order of their bits; a NaN is the largest, and so every sum's.
            bits = T.bitwise_and(T.reinterpret(f"int32x{GROUP}", every), tirx.Broadcast(T.int32(0x7FFFFFFF), GROUP))
            largest = T.bind(T.reinterpret("float32", _reduced("smax", bits)))
            inverse = T.bind(T.Select(largest > T.float32(0), T.float32(127) / largest, T.float32(0)))
            codes = T.bind(T.cast(T.nearbyint(every * tirx.Broadcast(inverse, GROUP)), f"int32x{GROUP}"))
            words = T.reinterpret(f"int32x{QUADS}", T.cast(codes, f"int8x{GROUP}"))
            T.buffer_store(self.buffer, words, [ramp(self._at(row, 0, g * QUADS), QUADS)])
            scale = T.reinterpret("int32", largest * T.float32(1 / 127))
            T.buffer_store(self.buffer, scale, [self._at(row, QUADS, g)])
            T.buffer_store(self.buffer, _reduced("add", codes), [self._at(row, QUADS + 1, g)])


def _reduced(op: str, codes: Expr) -> Expr:
    """An operation over all lanes of a group's int32."""
    return T.call_llvm_pure_intrin("int32", f"llvm.vector.reduce.{op}.v{GROUP}i32", codes)


class Rounding:
    """How the activations of a product become codes: of a prompt by a kernel before it, of one token in each call of
    its own. Of `n_rows` rows the first `n_valid(buffers)` are there, `row(buffers, r, k)` of each; `params` are the
    product's, and `read` those that this takes. Without a `dot` the product is in floats.
    """

    def __init__(
        self,
        dot: Dot | None,
        name: str,
        params: Sequence[Param],
        read: Sequence[Param],
        prompt: bool,
        n_rows: int,
        n_k: int,
        n_valid: Callable[[Mapping[str, Buffer]], Expr],
        row: Callable[[Mapping[str, Buffer], Expr, Expr], Expr],
    ) -> None:
        self.dot, self.params, self.n_k = dot, list(params), n_k
        self.feature = dot.feature if dot else ""
        self.kernels: list[Generated] = []  # that run before the product's
        self.before: Callable[[dict[str, Buffer]], Codes] | None = None  # what that one's calls begin with
        size = Codes.size(n_rows, n_k)
        if dot and prompt:
            self.params.append(Param("scratch", size, "int32"))
            made = Param("scratch", size, "int32", written=True, read=False)
            with tile_kernel(f"{name}_codes", [made, *read], n_rows, None) as k:
                codes, b = Codes(k.by_name["scratch"], n_k), k.by_name
                when(k.tile < n_valid(b), lambda: codes.fill(k.tile, lambda i: row(b, k.tile, i)))
            self.kernels.append(k.generated(4 * n_rows * n_k))
        elif dot:

            def before(b: dict[str, Buffer]) -> Codes:
                codes = Codes(local(size, "int32"), n_k)
                with T.serial(n_rows) as r:
                    codes.fill(r, lambda i: row(b, r, i))
                return codes

            self.before = before

    def integer(self, frame: Frame) -> tuple[Dot, Codes] | None:
        """What `IntegerTile` takes, in the product's kernel."""
        if self.dot is None:
            return None
        return self.dot, frame.shared or Codes(frame.by_name["scratch"], self.n_k)
