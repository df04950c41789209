"""Sums over the threads of a group, through shared memory."""

from __future__ import annotations

from collections.abc import Sequence

from tvm.script.ir_builder import tirx as T

from mossnet_tg.codegen.kernels.build import Buffer, Expr, barrier, shared, vector, when


def sum_splits(accs: Sequence[Buffer], n_each: int, column: Expr, n_columns: int, split: Expr, n_splits: int) -> None:
    """accs[...][0 : n_each] of the threads with split 0 become the sums over all splits of their column.

    In rounds of four to one, each with one barrier: what a round reads, none after it writes.
    """
    if n_splits == 1:
        return
    kept = shared(len(accs) * n_splits * n_columns * n_each)

    def place(acc: int, split: Expr) -> Expr:
        return ((acc * n_splits + split) * n_columns + column) * n_each

    n = n_splits
    while n > 1:
        ways = 4 if n % 4 == 0 else 2
        left = n // ways

        def put(n: int = n, left: int = left) -> None:
            for i, acc in enumerate(accs):
                with vector(n_each) as v:
                    T.buffer_store(kept, acc[v], [place(i, split) + v])

        def add(ways: int = ways, left: int = left) -> None:
            for i, acc in enumerate(accs):
                with vector(n_each) as v:
                    total = acc[v]
                    for way in range(1, ways):
                        total = total + kept[place(i, split + way * left) + v]
                    T.buffer_store(acc, total, [v])

        when(T.And(split >= left, split < n) if n < n_splits else split >= left, put)
        barrier()
        when(split < left, add)
        n = left
