"""A scheduled tinygrad kernel becomes a TensorIR function.

After tinygrad's own clean-up passes a kernel is a small graph: RANGE loops, INDEX loads from PARAM buffers, REDUCE,
about twenty kinds of arithmetic, STORE. Two readings of it are tried in order:

1. a **dense product** with a weight in panels, x(t, k) W[n, k] summed over k, whatever stands before and after it: the
register tile of `kernels/matmul.py` with the graph's own expressions as row and epilogue;
2. **anything else**: a loop nest with the store's contiguous axis as vector lanes, reductions as inner loops where they
stand, gathers as guarded loads.

This file and `capture.py` hold all contact with tinygrad's internals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from tinygrad.codegen import pm_flatten_range, pm_load_collapse, pm_mops, pm_simplify_ranges, pm_split_ranges, sym
from tinygrad.dtype import Invalid, dtypes
from tinygrad.helpers import Context
from tinygrad.uop.ops import Ops, UOp, graph_rewrite
from tvm.script.ir_builder import tirx as T

from mossnet_tg import model
from mossnet_tg.codegen.capture import SETTINGS
from mossnet_tg.codegen.kernels import dispatch, maths
from mossnet_tg.codegen.kernels.build import (
    Buffer,
    Expr,
    Generated,
    Param,
    channel_tiles,
    for_channels,
    load,
    local,
    storage,
    tile_kernel,
    vector,
    vectors,
    when,
)
from mossnet_tg.codegen.layout import Matrix
from mossnet_tg.codegen.schedules import Schedule


class UnsupportedKernelError(Exception):
    """A kernel that this reading does not cover: a defect of ours, named so that it can be mended."""


_DTYPES = {
    dtypes.float: "float32",
    dtypes.weakfloat: "float32",
    dtypes.half: "float16",
    dtypes.bfloat16: "bfloat16",
    dtypes.int: "int32",
    dtypes.weakint: "int32",
    dtypes.uint: "uint32",
    dtypes.long: "int64",
    dtypes.char: "int8",
    dtypes.uchar: "uint8",
    dtypes.bool: "bool",
}


def clean(ast: UOp) -> UOp:
    """tinygrad's first lowering passes: movement is gone, a sum over a one-hot has become a load, ranges are simple."""
    ast = graph_rewrite(ast, pm_mops, bottom_up=True)
    ast = graph_rewrite(ast, pm_load_collapse)
    ast = graph_rewrite(ast, pm_split_ranges + pm_flatten_range, ctx={})
    ast = graph_rewrite(ast, sym + pm_flatten_range)
    return graph_rewrite(ast, pm_flatten_range + pm_simplify_ranges, ctx={})


@dataclass(frozen=True)
class Store:
    """One store of a kernel and the loops around it."""

    index: UOp  # INDEX(PARAM, position)
    value: UOp
    ranges: tuple[UOp, ...]


@dataclass(frozen=True)
class Kernel:
    """A cleaned kernel: its stores, and its buffers by slot as (elements, dtype name)."""

    stores: list[Store]
    buffers: dict[int, tuple[int, str]]

    @classmethod
    def read(cls, ast: UOp) -> Kernel:
        with model.TINYGRAD_LOCK, Context(**SETTINGS):
            ast = clean(ast)
        buffers = {u.arg.slot: (_extent(u), _dtype(u)) for u in ast.toposort() if u.op is Ops.PARAM}
        return cls(list(_stores(ast, ())), dict(sorted(buffers.items())))

    def params(self, laid_out: Mapping[int, Matrix]) -> list[Param]:
        """The buffers in order; `laid_out` are those that lie otherwise than tinygrad thinks."""
        written = {s.index.src[0].arg.slot for s in self.stores}
        read = {u.src[0].arg.slot for s in self.stores for u in s.value.toposort() if u.op is Ops.INDEX}
        params = []
        for slot, (n, dtype) in self.buffers.items():
            if slot in laid_out:
                params.append(laid_out[slot].param(f"p{slot}"))
                continue
            params.append(Param(f"p{slot}", n, dtype, slot in written, slot in read))
        return params


def _stores(u: UOp, ranges: tuple[UOp, ...]) -> Iterator[Store]:
    if u.op is Ops.STORE:
        if len(u.src) > 2:
            raise UnsupportedKernelError("a store with a gate")
        yield Store(u.src[0], u.src[1], ranges)
    elif u.op is Ops.END:
        yield from _stores(u.src[0], (*u.src[1:], *ranges))
    elif u.op in (Ops.SINK, Ops.GROUP):
        for src in u.src:
            yield from _stores(src, ranges)
    else:
        raise UnsupportedKernelError(f"{u.op} around a store")


def _extent(u: UOp) -> int:
    """The extent of a RANGE, the elements of a PARAM."""
    size = u.src[0]
    if size.op is Ops.STACK:
        return math.prod(int(s.arg) for s in size.src)
    if size.op is not Ops.CONST:
        raise UnsupportedKernelError(f"an extent that is not constant: {size}")
    return int(size.arg)


def _dtype(u: UOp) -> str:
    if u.dtype not in _DTYPES:
        raise UnsupportedKernelError(f"dtype {u.dtype} of {u.op}")
    return _DTYPES[u.dtype]


def affine(u: UOp) -> dict[UOp | None, int] | None:
    """u as a sum of ranges times constants, {range: factor, None: constant}; None when it is not one."""
    if u.op is Ops.CONST and u.arg is not Invalid:
        return {None: int(u.arg)}
    if u.op is Ops.RANGE:
        return {u: 1}
    if u.op is Ops.CAST:
        return affine(u.src[0])
    if u.op in (Ops.ADD, Ops.MUL):
        a, b = affine(u.src[0]), affine(u.src[1])
        if a is None or b is None:
            return None
        if u.op is Ops.ADD:
            return {r: a.get(r, 0) + b.get(r, 0) for r in {**a, **b}}
        if set(a) == {None}:
            a, b = b, a
        if set(b) == {None}:
            return {r: f * b[None] for r, f in a.items()}
    return None


# ---- reading 1: a dense product


@dataclass(frozen=True)
class _Product:
    store: Store
    reduce: UOp
    row: UOp  # x(t, k)
    weight: int  # slot of W
    t: UOp | None
    n: UOp
    k: UOp


def _match_product(kernel: Kernel, matrices: Mapping[int, Matrix], n_tokens: int) -> _Product | None:
    """The kernel as a dense product over tokens, when it is one."""
    if len(kernel.stores) != 1:
        return None
    store = kernel.stores[0]
    reduces = [u for u in store.value.toposort() if u.op is Ops.REDUCE]
    if (
        len(reduces) != 1
        or reduces[0].arg[0] is not Ops.ADD
        or len(reduces[0].src) != 2
        or reduces[0].src[0].op is not Ops.MUL
    ):
        return None
    (product, k), outer = reduces[0].src, store.ranges
    for weight, row in (product.src, product.src[::-1]):
        load = weight.src[0] if weight.op is Ops.CAST else weight
        if load.op is not Ops.INDEX or load.src[0].op is not Ops.PARAM or load.src[0].arg.slot not in matrices:
            continue
        position = affine(load.src[1]) or {}
        n = next((r for r in outer if position.get(r) == _extent(k)), None)
        if n is None or {r: f for r, f in position.items() if f} != {n: _extent(k), k: 1} or n in row.ranges:
            continue
        if _extent(n) * _extent(k) != kernel.buffers[load.src[0].arg.slot][0]:
            continue
        others = [r for r in outer if r is not n]
        if len(others) == (n_tokens > 1) and all(_extent(r) == n_tokens for r in others):
            return _Product(store, reduces[0], row, load.src[0].arg.slot, others[0] if others else None, n, k)
    return None


def is_product(kernel: Kernel, matrices: Mapping[int, Matrix], n_tokens: int) -> bool:
    """Whether `generate` reads the kernel as a dense product."""
    return _match_product(kernel, matrices, n_tokens) is not None


# ---- both readings: expressions


class _Scope:
    """Values of graph nodes where the builder stands; a nested loop works in a `child`, whose values end with it."""

    def __init__(self, loads: Callable[[UOp, Expr], Expr], values: dict[UOp, Expr]) -> None:
        self.loads, self.values = loads, dict(values)

    def child(self, values: Mapping[UOp, Expr]) -> _Scope:
        return _Scope(self.loads, {**self.values, **values})

    def value(self, u: UOp, lane: UOp | None = None) -> Expr:
        """u as an expression; `lane` is the range that a surrounding vector loop runs over."""
        if u not in self.values:
            value = self._compute(u, lane)
            # A node is often used more than once: bind what costs something.
            self.values[u] = T.bind(value) if u.op not in (Ops.CONST, Ops.INDEX) and u.dtype == dtypes.float else value
        return self.values[u]

    def _compute(self, u: UOp, lane: UOp | None) -> Expr:
        if u.op is Ops.CONST:
            return T.int32(0) if u.arg is Invalid else _constant(u)
        if u.op is Ops.INDEX:
            return self.loads(u, self._position(u.src[1], lane))
        if u.op is Ops.WHERE:
            condition, yes, no = (self.value(s, lane) for s in u.src)
            return T.Select(condition, yes, no)
        if u.op is Ops.CMPNE and u.src[0].dtype == dtypes.bool:
            a, b = (self.value(s, lane) for s in u.src)
            return T.Select(b, T.Not(a), a)
        if u.op not in _ARITHMETIC:
            raise UnsupportedKernelError(f"{u.op} in an expression")
        return _ARITHMETIC[u.op](u, *(self.value(s, lane) for s in u.src))

    def _position(self, u: UOp, lane: UOp | None) -> Expr:
        """A load's index. Where a guard does not depend on the lane it is applied to the rest of the index only,
        which keeps neighbouring lanes neighbours; the value loaded under a false guard is not used."""
        if lane is not None and (guard := _guard(u)) is not None:
            condition, inside = guard
            factor = _factor(inside, lane)
            if factor is not None and lane not in condition.ranges:
                rest = inside.substitute({lane: lane.const_like(0)})
                return T.Select(self.value(condition, lane), self.value(rest, lane), T.int32(0)) + factor * self.value(
                    lane
                )
        return self.value(u, lane)


def _factor(u: UOp, r: UOp) -> int | None:
    """What r is multiplied with in u, when u is something without r plus that."""
    if u is r:
        return 1
    if r not in u.ranges:
        return 0
    if u.op is Ops.CAST:
        return _factor(u.src[0], r)
    if u.op is Ops.ADD:
        a, b = (_factor(s, r) for s in u.src)
        return None if a is None or b is None else a + b
    if u.op is Ops.MUL:
        for a, b in (u.src, u.src[::-1]):
            if b.op is Ops.CONST and (factor := _factor(a, r)) is not None:
                return factor * int(b.arg)
    return None


def _constant(u: UOp) -> Expr:
    dtype = _dtype(u)
    if dtype == "bool":
        return T.bool(bool(u.arg))
    if dtype in _FLOATS:
        return T.float32(float(u.arg))
    return getattr(T, dtype)(int(u.arg))


# Narrow floats are storage: loads widen them, all arithmetic is float32, a store narrows.
_FLOATS = ("float32", "float16", "bfloat16")


def _cast(u: UOp, value: Expr) -> Expr:
    source, dtype = ("float32" if name in _FLOATS else name for name in (_dtype(u.src[0]), _dtype(u)))
    return value if source == dtype else T.cast(value, dtype)


_ARITHMETIC: dict[Ops, Callable[..., Expr]] = {
    Ops.ADD: lambda u, a, b: T.Or(a, b) if u.dtype == dtypes.bool else a + b,
    Ops.SUB: lambda u, a, b: a - b,
    Ops.MUL: lambda u, a, b: T.And(a, b) if u.dtype == dtypes.bool else a * b,
    Ops.MAX: lambda u, a, b: T.Or(a, b) if u.dtype == dtypes.bool else T.max(a, b),
    Ops.NEG: lambda u, a: -a,
    Ops.AND: lambda u, a, b: T.And(a, b) if u.dtype == dtypes.bool else T.bitwise_and(a, b),
    Ops.OR: lambda u, a, b: T.Or(a, b) if u.dtype == dtypes.bool else T.bitwise_or(a, b),
    Ops.XOR: lambda u, a, b: T.bitwise_xor(a, b),
    Ops.SHL: lambda u, a, b: T.shift_left(a, T.cast(b, _dtype(u))),
    Ops.SHR: lambda u, a, b: T.shift_right(a, T.cast(b, _dtype(u))),
    Ops.CDIV: lambda u, a, b: T.truncdiv(a, b),
    Ops.CMOD: lambda u, a, b: T.truncmod(a, b),
    Ops.FLOORDIV: lambda u, a, b: T.floordiv(a, b),
    Ops.FLOORMOD: lambda u, a, b: T.floormod(a, b),
    Ops.CMPLT: lambda u, a, b: a < b,
    Ops.CMPNE: lambda u, a, b: T.NE(a, b),
    Ops.CMPEQ: lambda u, a, b: T.EQ(a, b),
    Ops.CAST: _cast,
    Ops.BITCAST: lambda u, a: T.reinterpret(_dtype(u), a),
    Ops.RECIPROCAL: lambda u, a: T.float32(1) / a,
    Ops.SQRT: lambda u, a: T.sqrt(a),
    Ops.EXP2: lambda u, a: maths.exp2(a),
    Ops.LOG2: lambda u, a: maths.log2(a),
    Ops.SIN: lambda u, a: maths.sin(a),
    Ops.TRUNC: lambda u, a: T.trunc(a),
}


# ---- the functions


def generate(name: str, kernel: Kernel, matrices: Mapping[int, Matrix], n_tokens: int, s: Schedule) -> list[Generated]:
    """The kernel in TensorIR, or several that run in order; `matrices` are the slots that are weights in panels. Their
    buffers are called as `Kernel.params` does, or `scratch`.

    A dense product over several tokens gets one more parameter at the end, the params buffer of `mossnet_tg.ops`, and
    leaves the rows behind the valid tokens alone.
    """
    product = _match_product(kernel, matrices, n_tokens)
    if product is not None:
        return _product(name, kernel, product, matrices, n_tokens, s)
    return [_loops(name, kernel, matrices, s)]


class _Buffers:
    """A kernel's buffers by slot, while its function is open."""

    def __init__(
        self, kernel: Kernel, params: list[Param], buffers: list[Buffer], matrices: Mapping[int, Matrix]
    ) -> None:
        self.by_slot = {slot: (buffers[i], params[i]) for i, slot in enumerate(kernel.buffers)}
        self.matrices = matrices

    def load(self, u: UOp, position: Expr) -> Expr:
        """The value of an INDEX."""
        slot = u.src[0].arg.slot
        buffer, param = self.by_slot[slot]
        if slot in self.matrices:
            return self.matrices[slot].load(buffer, position)
        return T.cast(buffer[position], "bool") if param.dtype == "bool" else load(buffer, position, param.dtype)

    def store(self, index: UOp, position: Expr, value: Expr) -> None:
        buffer, param = self.by_slot[index.src[0].arg.slot]
        T.buffer_store(buffer, value if param.dtype == "float32" else T.cast(value, storage(param.dtype)), [position])


def _product(
    name: str, kernel: Kernel, p: _Product, matrices: Mapping[int, Matrix], n_tokens: int, s: Schedule
) -> list[Generated]:
    params = kernel.params(matrices)
    if n_tokens > 1:
        params.append(Param("params", 2, "int32"))

    def scope(buffers: list[Buffer], t: Expr, values: dict[UOp, Expr]) -> tuple[_Buffers, _Scope]:
        bound = _Buffers(kernel, params, buffers, matrices)
        return bound, _Scope(bound.load, values if p.t is None else {**values, p.t: t})

    def row(buffers: list[Buffer], t: Expr, k: Expr) -> Expr:
        return scope(buffers, t, {p.k: k})[1].value(p.row)

    def store(buffers: list[Buffer], t: Expr, n: Expr, total: Expr) -> None:
        bound, values = scope(buffers, t, {p.n: n, p.reduce: total})
        bound.store(p.store.index, values.value(p.store.index.src[1]), values.value(p.store.value))

    weight = list(kernel.buffers).index(p.weight)
    tokens = len(params) - 1 if n_tokens > 1 else None
    return dispatch.linear(name, s, params, n_tokens, _extent(p.k), _extent(p.n), weight, tokens, row, store)


def _loops(name: str, kernel: Kernel, matrices: Mapping[int, Matrix], s: Schedule) -> Generated:
    params = kernel.params(matrices)
    work = sum(_work(store) for store in kernel.stores)
    nests = [_Nest(store, s) for store in kernel.stores]
    alone = len(nests) == 1  # else their loops differ: one tile does all
    with tile_kernel(name, params, nests[0].n_tiles if alone else 1, s.group_size) as k:
        buffers = _Buffers(kernel, params, k.buffers, matrices)
        for nest in nests:
            nest.buffers = buffers
            if alone:
                nest.tiled(k.tile)
            else:
                with T.serial(nest.n_outer) as index:
                    nest.run(index)
    return k.generated(work)


class _Nest:
    """The loops of one store: the lane range innermost in vectors, all others as one outer index."""

    buffers: _Buffers  # once the function is open

    def __init__(self, store: Store, s: Schedule) -> None:
        self.store, self.s = store, s
        self.lane = _lane(store)
        self.outer = [r for r in store.ranges if r is not self.lane]
        self.n_outer = math.prod(map(_extent, self.outer))

        # A tile is an outer index, with the whole lane range or one vector of it.
        self.n_vectors = 1
        if self.lane is not None and (s.flat or self.n_outer == 1):
            self.n_vectors = channel_tiles(_extent(self.lane), s.lanes)

    @property
    def n_tiles(self) -> int:
        return self.n_outer * self.n_vectors

    def tiled(self, tile: Expr) -> None:
        """Emit one tile."""
        if self.lane is None or self.n_vectors < channel_tiles(_extent(self.lane), self.s.lanes):
            self.run(tile)
            return
        outer, part = (tile // self.n_vectors, tile % self.n_vectors) if self.n_outer > 1 else (T.int32(0), tile)
        scope = _Scope(self.buffers.load, _unravel(outer, self.outer))
        _reductions(scope, self.store.value)
        for_channels(_extent(self.lane), self.s.lanes, part, lambda first, lanes: self._vector(scope, first, lanes))

    def run(self, index: Expr) -> None:
        """Emit everything under one outer index."""
        scope = _Scope(self.buffers.load, _unravel(index, self.outer))
        _reductions(scope, self.store.value)
        if self.lane is None:
            self._emit(scope)
            return
        whole, tail = divmod(_extent(self.lane), self.s.lanes)
        if whole:
            with T.serial(whole) as i:
                self._vector(scope, i * self.s.lanes, self.s.lanes)
        for first, lanes in vectors(tail, self.s.lanes):
            self._vector(scope, whole * self.s.lanes + first, lanes)

    def _vector(self, scope: _Scope, first: Expr, lanes: int) -> None:
        assert self.lane is not None
        with vector(lanes) as v:
            self._emit(scope.child({self.lane: first + v}))

    def _emit(self, scope: _Scope) -> None:
        index, value = self.store.index, self.store.value
        guard = _guard(index.src[1])
        if guard is None:
            self.buffers.store(index, scope.value(index.src[1], self.lane), scope.value(value, self.lane))
            return
        condition, position = guard
        when(scope.value(condition), lambda: self.buffers.store(index, scope.value(position), scope.value(value)))


def _guard(position: UOp) -> tuple[UOp, UOp] | None:
    """(condition, position) of an index that is only valid where the condition holds."""
    if position.op is Ops.WHERE and position.src[2].op is Ops.CONST and position.src[2].arg is Invalid:
        return position.src[0], position.src[1]
    return None


def _lane(store: Store) -> UOp | None:
    """The range whose neighbours are stored side by side, unless a reduction is computed for each of them."""
    position = affine(store.index.src[1]) or {}
    reduces = [u for u in store.value.toposort() if u.op is Ops.REDUCE]
    found = [r for r in store.ranges if position.get(r) == 1 and not any(r in u.ranges for u in reduces)]
    return found[0] if found and _guard(store.index.src[1]) is None else None


def _work(store: Store) -> int:
    """Roughly the arithmetic of a store: its elements, times its nodes, times its reductions' lengths."""
    nodes = store.value.toposort()
    reduced = (math.prod(_extent(r) for r in u.src[1:]) for u in nodes if u.op is Ops.REDUCE)
    return math.prod(map(_extent, store.ranges)) * len(nodes) * max(reduced, default=1)


def _unravel(index: Expr, ranges: list[UOp]) -> dict[UOp, Expr]:
    values: dict[UOp, Expr] = {}
    for r in reversed(ranges):
        values[r] = index % _extent(r) if r is not ranges[0] else index
        index = index // _extent(r)
    return values


# reduction: (its start by dtype, how two values become one)
_REDUCE: dict[Ops, tuple[Callable[[str], Expr], Callable[[Expr, Expr], Expr]]] = {
    Ops.ADD: (lambda dtype: T.cast(T.int32(0), dtype), lambda a, b: a + b),
    Ops.MAX: (lambda dtype: T.min_value(dtype), lambda a, b: T.max(a, b)),
    Ops.MUL: (lambda dtype: T.cast(T.int32(1), dtype), lambda a, b: a * b),
}


def _reductions(scope: _Scope, u: UOp) -> None:
    """Compute every reduction in u that is not yet known and whose ranges are; one inside another is left to it."""
    todo, seen = [u], set()
    while todo:
        node = todo.pop()
        if node in seen or node in scope.values:
            continue
        seen.add(node)
        if node.op is not Ops.REDUCE:
            todo.extend(node.src)
        elif all(r in scope.values for r in node.ranges):
            scope.values[node] = _reduce(scope, node)


def _reduce(scope: _Scope, u: UOp) -> Expr:
    start, combine = _REDUCE[u.arg[0]]
    dtype = "float32" if _dtype(u) in _FLOATS else _dtype(u)
    acc = local(1, dtype)
    T.buffer_store(acc, start(dtype), [0])
    _reduce_loops(scope, u, list(u.src[1:]), acc, combine)
    return acc[0]


def _reduce_loops(scope: _Scope, u: UOp, ranges: list[UOp], acc: Buffer, combine: Callable[[Expr, Expr], Expr]) -> None:
    if not ranges:
        _reductions(scope, u.src[0])
        T.buffer_store(acc, combine(acc[0], scope.value(u.src[0])), [0])
        return
    with T.serial(_extent(ranges[0])) as i:
        _reduce_loops(scope.child({ranges[0]: i}), u, ranges[1:], acc, combine)
