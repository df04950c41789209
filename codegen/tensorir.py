"""A scheduled tinygrad kernel becomes a TensorIR function.

After tinygrad's own clean-up passes a kernel is a small graph: RANGE loops, INDEX loads from PARAM buffers, REDUCE, about
twenty kinds of arithmetic, STORE. Two readings of it are tried in order:

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
from typing import Any

from tinygrad.codegen import pm_flatten_range, pm_load_collapse, pm_mops, pm_simplify_ranges, pm_split_ranges, sym
from tinygrad.dtype import Invalid, dtypes
from tinygrad.uop.ops import Ops, UOp, graph_rewrite
from tvm.script.ir_builder import tirx as T

from mossnet_tg.codegen.kernels import maths, matmul
from mossnet_tg.codegen.kernels.build import Buffer, Expr, Generated, Param, channel_tiles, cpu_kernel, for_channels, load_f32, local, vectors, when
from mossnet_tg.codegen.layout import Panels
from mossnet_tg.codegen.schedules.cpu import CpuSchedule


class UnsupportedKernel(Exception):
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
        ast = clean(ast)
        buffers = {u.arg.slot: (_extent(u), _dtype(u)) for u in ast.toposort() if u.op is Ops.PARAM}
        return cls(list(_stores(ast, ())), dict(sorted(buffers.items())))

    def params(self, layouts: Mapping[int, int]) -> list[Param]:
        """The buffers in order; `layouts` gives the elements of those that are laid out otherwise than tinygrad thinks."""
        written = {s.index.src[0].arg.slot for s in self.stores}
        read = {u.src[0].arg.slot for s in self.stores for u in s.value.toposort() if u.op is Ops.INDEX}
        return [Param(f"p{slot}", layouts.get(slot, n), dtype, slot in written, slot in read) for slot, (n, dtype) in self.buffers.items()]


def _stores(u: UOp, ranges: tuple[UOp, ...]) -> Iterator[Store]:
    if u.op is Ops.STORE:
        if len(u.src) > 2:
            raise UnsupportedKernel("a store with a gate")
        yield Store(u.src[0], u.src[1], ranges)
    elif u.op is Ops.END:
        yield from _stores(u.src[0], (*u.src[1:], *ranges))
    elif u.op in (Ops.SINK, Ops.GROUP):
        for src in u.src:
            yield from _stores(src, ranges)
    else:
        raise UnsupportedKernel(f"{u.op} around a store")


def _extent(u: UOp) -> int:
    """The extent of a RANGE, the elements of a PARAM."""
    size = u.src[0]
    if size.op is Ops.STACK:
        return math.prod(int(s.arg) for s in size.src)
    if size.op is not Ops.CONST:
        raise UnsupportedKernel(f"an extent that is not constant: {size}")
    return int(size.arg)


def _dtype(u: UOp) -> str:
    if u.dtype not in _DTYPES:
        raise UnsupportedKernel(f"dtype {u.dtype} of {u.op}")
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


def _match_product(kernel: Kernel, panels: Mapping[int, Panels], n_tokens: int) -> _Product | None:
    """The kernel as a dense product over tokens, when it is one."""
    if len(kernel.stores) != 1:
        return None
    store = kernel.stores[0]
    reduces = [u for u in store.value.toposort() if u.op is Ops.REDUCE]
    if len(reduces) != 1 or reduces[0].arg[0] is not Ops.ADD or len(reduces[0].src) != 2 or reduces[0].src[0].op is not Ops.MUL:
        return None
    (product, k), outer = reduces[0].src, store.ranges
    for weight, row in (product.src, product.src[::-1]):
        load = weight.src[0] if weight.op is Ops.CAST else weight
        if load.op is not Ops.INDEX or load.src[0].op is not Ops.PARAM or load.src[0].arg.slot not in panels:
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
            self.values[u] = T.bind(value) if u.op not in (Ops.CONST, Ops.INDEX) and u.dtype in (dtypes.float, dtypes.half) else value
        return self.values[u]

    def _compute(self, u: UOp, lane: UOp | None) -> Expr:
        if u.op is Ops.CONST:
            return T.int32(0) if u.arg is Invalid else _constant(u)
        if u.op is Ops.INDEX:
            return self.loads(u, self._position(u.src[1], lane))
        if u.op is Ops.WHERE:
            condition, yes, no = (self.value(s, lane) for s in u.src)
            return T.Select(condition, yes, no)
        if u.op is Ops.LOG2 and (inner := _one_plus(u.src[0])) is not None:
            return maths.log2_1p(self.value(inner, lane))
        if u.op is Ops.CMPNE and u.src[0].dtype == dtypes.bool:
            a, b = (self.value(s, lane) for s in u.src)
            return T.Select(b, T.Not(a), a)
        if u.op not in _ARITHMETIC:
            raise UnsupportedKernel(f"{u.op} in an expression")
        return _ARITHMETIC[u.op](u, *(self.value(s, lane) for s in u.src))

    def _position(self, u: UOp, lane: UOp | None) -> Expr:
        """A load's index. Where a guard does not depend on the lane it is applied to the rest of the index only, which keeps
        neighbouring lanes neighbours; the value loaded under a false guard is not used."""
        if u.op is Ops.WHERE and any(s.op is Ops.CONST and s.arg is Invalid for s in u.src) and lane is not None:
            condition, inside = u.src[0], u.src[1]
            factor = _factor(inside, lane)
            if factor is not None and lane not in condition.ranges:
                rest = inside.substitute({lane: lane.const_like(0)})
                return T.Select(self.value(condition, lane), self.value(rest, lane), T.int32(0)) + factor * self.value(lane)
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


def _one_plus(u: UOp) -> UOp | None:
    """x when u is 1 + x: log2(1 + x) must not lose a small x."""
    if u.op is Ops.ADD:
        for a, b in (u.src, u.src[::-1]):
            if b.op is Ops.CONST and b.arg == 1.0 and a.dtype == dtypes.float:
                return a
    return None


def _constant(u: UOp) -> Expr:
    dtype = _dtype(u)
    if dtype == "bool":
        return T.bool(bool(u.arg))
    if dtype in ("float32", "float16", "bfloat16"):
        return T.float32(float(u.arg)) if dtype != "float16" else T.float16(float(u.arg))
    return getattr(T, dtype)(int(u.arg))


def _cast(u: UOp, value: Expr) -> Expr:
    # bfloat16 lives as float32 here: loads widen it, and nothing stores it.
    dtype = _dtype(u).replace("bfloat16", "float32")
    return value if _dtype(u.src[0]).replace("bfloat16", "float32") == dtype else T.cast(value, dtype)


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


def generate(name: str, kernel: Kernel, panels: Mapping[int, Panels], shapes: Mapping[int, tuple[int, ...]], n_tokens: int, s: CpuSchedule) -> Generated:
    """The kernel in TensorIR.

    `panels` and `shapes` describe the slots that are weights in panels. A dense product over several tokens gets one more
    parameter at the end, the params buffer of `mossnet_tg.ops`, and leaves the rows behind the valid tokens alone.
    """
    laid_out = {slot: math.prod(panels[slot].shape(shapes[slot])) for slot in panels}
    params = kernel.params(laid_out)
    at = {slot: i for i, slot in enumerate(kernel.buffers)}
    product = _match_product(kernel, panels, n_tokens)
    if product is not None:
        return _product(name, product, params, at, n_tokens, s)
    return _loops(name, kernel, params, at, panels, shapes, s)


def _loads(buffers: list[Buffer], params: list[Param], at: Mapping[int, int], panels: Mapping[int, Panels], shapes: Mapping[int, tuple[int, ...]]) -> Callable[[UOp, Expr], Expr]:
    def load(u: UOp, position: Expr) -> Expr:
        slot = u.src[0].arg.slot
        buffer, param = buffers[at[slot]], params[at[slot]]
        if slot in panels:
            n_k = shapes[slot][-1]
            position = panels[slot].index(position // n_k, position % n_k, n_k)
        if param.dtype == "bfloat16":
            return load_f32(buffer, position, param.dtype)
        return T.cast(buffer[position], "bool") if param.dtype == "bool" else buffer[position]

    return load


def _product(name: str, p: _Product, params: list[Param], at: Mapping[int, int], n_tokens: int, s: CpuSchedule) -> Generated:
    if n_tokens > 1:
        params = [*params, Param("params", 2, "int32")]

    def scope(buffers: list[Buffer], values: dict[UOp, Expr]) -> _Scope:
        return _Scope(_loads(buffers, params, at, {}, {}), values)

    def place(t: Expr) -> dict[UOp, Expr]:
        return {} if p.t is None else {p.t: t}

    def row(buffers: list[Buffer], t: Expr, k: Expr) -> Expr:
        return scope(buffers, {**place(t), p.k: k}).value(p.row)

    def store(buffers: list[Buffer], t: Expr, n: Expr, total: Expr) -> None:
        values = scope(buffers, {**place(t), p.n: n, p.reduce: total})
        T.buffer_store(buffers[at[p.store.index.src[0].arg.slot]], values.value(p.store.value), [values.value(p.store.index.src[1])])

    n_in, n_out = _extent(p.k), _extent(p.n)
    tokens = len(params) - 1 if n_tokens > 1 else None
    return matmul.linear(name, s, params, n_tokens, n_in, n_out, at[p.weight], tokens, row, store)


def _loops(name: str, kernel: Kernel, params: list[Param], at: Mapping[int, int], panels: Mapping[int, Panels], shapes: Mapping[int, tuple[int, ...]], s: CpuSchedule) -> Generated:
    lanes = [_lane(store) for store in kernel.stores]
    outers = [[r for r in store.ranges if r is not lane] for store, lane in zip(kernel.stores, lanes, strict=True)]
    n_outer = [math.prod(map(_extent, outer)) for outer in outers]
    shared = len(kernel.stores) == 1  # a kernel with several stores is one tile: its loops differ
    work = sum(math.prod(map(_extent, st.ranges)) * len(st.value.toposort()) * _reduced(st.value) for st in kernel.stores)
    n_tiles = 1
    with cpu_kernel(name, params) as k, T.serial(k.lo, k.hi) as tile:
        load = _loads(k.buffers, params, at, panels, shapes)
        for store, lane, outer, n in zip(kernel.stores, lanes, outers, n_outer, strict=True):
            out = k.buffers[at[store.index.src[0].arg.slot]]

            def run(index: Expr, store: Store = store, lane: UOp | None = lane, outer: list[UOp] = outer, out: Buffer = out) -> None:
                scope = _Scope(load, _unravel(index, outer))
                if lane is None:
                    _emit_store(scope, store, out, None)
                    return
                _reductions(scope, store.value)
                whole, tail = divmod(_extent(lane), s.lanes)
                if whole:
                    with T.serial(whole) as i, T.vectorized(s.lanes) as v:
                        _emit_store(scope.child({lane: i * s.lanes + v}), store, out, lane)
                for first, piece in vectors(tail, s.lanes):
                    with T.vectorized(piece) as v:
                        _emit_store(scope.child({lane: whole * s.lanes + first + v}), store, out, lane)

            def run_lanes(first: Expr, piece: int, store: Store = store, lane: UOp | None = lane, out: Buffer = out) -> None:
                scope = _Scope(load, {})
                _reductions(scope, store.value)
                with T.vectorized(piece) as v:
                    _emit_store(scope.child({lane: first + v}), store, out, lane)

            if not shared:
                with T.serial(n) as index:
                    run(index)
            elif n == 1 and lane is not None:
                n_tiles = channel_tiles(_extent(lane), s.lanes)
                for_channels(_extent(lane), s.lanes, tile, run_lanes)
            else:
                n_tiles = n
                run(tile)
    return Generated(k.func, params, n_tiles, work)


def _lane(store: Store) -> UOp | None:
    """The range whose neighbours are stored side by side, unless a reduction is computed for each of them."""
    position = affine(store.index.src[1]) or {}
    reduces = [u for u in store.value.toposort() if u.op is Ops.REDUCE]
    found = [r for r in store.ranges if position.get(r) == 1 and not any(r in u.ranges for u in reduces)]
    return found[0] if found else None


def _reduced(u: UOp) -> int:
    """How many times the innermost reduction runs for one element."""
    return max((math.prod(_extent(r) for r in v.src[1:]) for v in u.toposort() if v.op is Ops.REDUCE), default=1)


def _unravel(index: Expr, ranges: list[UOp]) -> dict[UOp, Expr]:
    values: dict[UOp, Expr] = {}
    for r in reversed(ranges):
        values[r] = index % _extent(r) if r is not ranges[0] else index
        index = index // _extent(r)
    return values


def _emit_store(scope: _Scope, store: Store, out: Buffer, lane: UOp | None) -> None:
    _reductions(scope, store.value)
    position = store.index.src[1]
    if position.op is Ops.WHERE and any(s.op is Ops.CONST and s.arg is Invalid for s in position.src):
        condition, inside = position.src[0], position.src[1]
        when(scope.value(condition), lambda: T.buffer_store(out, scope.value(store.value), [scope.value(inside)]))
        return
    value = scope.value(store.value, lane)
    T.buffer_store(out, T.cast(value, "uint8") if store.value.dtype == dtypes.bool else value, [scope.value(position, lane)])


_REDUCE: dict[Ops, tuple[float, Callable[[Expr, Expr], Expr]]] = {
    Ops.ADD: (0.0, lambda a, b: a + b),
    Ops.MAX: (-math.inf, lambda a, b: T.max(a, b)),
    Ops.MUL: (1.0, lambda a, b: a * b),
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
    dtype = _dtype(u)
    acc = local(1, dtype)
    if start == -math.inf and dtype != "float32":
        raise UnsupportedKernel(f"maximum over {dtype}")
    T.buffer_store(acc, T.min_value("float32") if start == -math.inf else T.cast(T.float32(start), dtype), [0])
    _reduce_loops(scope, u, list(u.src[1:]), acc, combine)
    return acc[0]


def _reduce_loops(scope: _Scope, u: UOp, ranges: list[UOp], acc: Buffer, combine: Callable[[Expr, Expr], Expr]) -> None:
    if not ranges:
        _reductions(scope, u.src[0])
        T.buffer_store(acc, combine(acc[0], scope.value(u.src[0])), [0])
        return
    with T.serial(_extent(ranges[0])) as i:
        _reduce_loops(scope.child({ranges[0]: i}), u, ranges[1:], acc, combine)
