"""SwaAttention: a group is one token's one head. Each thread goes over its share of the positions with a softmax of its
own; then they are joined.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm.script.ir_builder import tirx as T

from mossnet_tg.codegen.kernels import maths
from mossnet_tg.codegen.kernels.attention import attention_params, in_chunk, in_ring
from mossnet_tg.codegen.kernels.build import (
    Buffer,
    Expr,
    Generated,
    barrier,
    group_kernel,
    local,
    shared,
    tile_kernel,
    when,
)
from mossnet_tg.codegen.schedules.gpu import GpuSchedule
from mossnet_tg.ops import SwaAttention


def swa_attention(name: str, op: SwaAttention, s: GpuSchedule) -> list[Generated]:
    """Of one token one kernel: what it puts into the ring, no position of the window lies at. Several tokens put theirs
    in when all have attended.
    """
    attend = _attend(name, op, s)
    return [attend] if op.n_tokens == 1 else [attend, _append(f"{name}_append", op, s)]


def _attend(name: str, op: SwaAttention, s: GpuSchedule) -> Generated:
    d, params = op.head_dim, attention_params(op)
    threads = min(s.group_size, 1 << (s.shared_bytes // 4 // (d + 2)).bit_length() - 1)
    with group_kernel(name, params, (op.n_heads, op.n_tokens, 1), (threads, 1, 1)) as k:
        b, (head, t, _), thread = k.by_name, k.group, k.thread[0]
        kv_head = T.bind(head // (op.n_heads // op.n_kv_heads))
        tops, totals, accs = shared(threads), shared(threads), shared(threads * d)

        def attend() -> None:
            query = T.bind((t * op.n_heads + head) * d)
            top, total, acc = _over_positions(op, b, kv_head, query, t, thread, threads)
            T.buffer_store(tops, top[0], [thread])
            T.buffer_store(totals, total[0], [thread])
            with T.serial(d) as i:
                T.buffer_store(accs, acc[i], [thread * d + i])
            barrier()
            highest = local(1)
            T.buffer_store(highest, T.float32(maths.LOWEST), [0])
            with T.serial(threads) as other:
                T.buffer_store(highest, T.max(highest[0], tops[other]), [0])
            with T.serial(-(-d // threads)) as j:
                i = T.bind(j * threads + thread)
                when(i < d, lambda: join(i, highest, query))
            if op.n_tokens == 1:
                when(head % (op.n_heads // op.n_kv_heads) == 0, lambda: put(query))

        def join(i: Expr, highest: Buffer, query: Expr) -> None:
            value, weights = local(1), local(1)
            T.buffer_store(value, T.float32(0), [0])
            T.buffer_store(weights, T.float32(0), [0])
            with T.serial(threads) as other:
                share = T.bind(maths.exp(tops[other] - highest[0]))
                T.buffer_store(weights, weights[0] + share * totals[other], [0])
                T.buffer_store(value, value[0] + share * accs[other * d + i], [0])
            T.buffer_store(b["out"], value[0] / weights[0], [query + i])

        def put(query: Expr) -> None:
            with T.serial(-(-d // threads)) as j:
                i = j * threads + thread
                for which, fresh in ((0, b["k"]), (1, b["v"])):
                    at = in_ring(op, which, kv_head, b["params"][1]) + i
                    when(
                        i < d,
                        lambda at=at, fresh=fresh, i=i: T.buffer_store(  # type: ignore[misc]
                            b["ring"], fresh[in_chunk(op, kv_head, 0) + i], [at]
                        ),
                    )

        when(t < b["params"][0], attend)
    return k.generated(2 * op.n_tokens * op.n_heads * d * op.window)


def _over_positions(
    op: SwaAttention, b: dict[str, Buffer], kv_head: Expr, query: Expr, t: Expr, thread: Expr, threads: int
) -> tuple[Buffer, Buffer, Buffer]:
    """(largest score, sum of powers, weighted sum of values) over this thread's share of the window."""
    d = op.head_dim
    top, total, acc, score, rescale = local(1), local(1), local(d), local(1), local(1)
    T.buffer_store(top, T.float32(maths.LOWEST), [0])
    T.buffer_store(total, T.float32(0), [0])
    with T.serial(d) as i:
        T.buffer_store(acc, T.float32(0), [i])

    def visit(keys: Buffer, key: Expr, values: Buffer, value: Expr) -> None:
        T.buffer_store(score, T.float32(0), [0])
        with T.serial(d) as i:
            T.buffer_store(score, score[0] + b["q"][query + i] * keys[key + i], [0])
        T.buffer_store(score, score[0] * T.float32(d**-0.5), [0])
        T.buffer_store(rescale, maths.exp(top[0] - T.max(top[0], score[0])), [0])
        T.buffer_store(top, T.max(top[0], score[0]), [0])
        weight = T.bind(maths.exp(score[0] - top[0]))
        T.buffer_store(total, total[0] * rescale[0] + weight, [0])
        with T.serial(d) as i:
            T.buffer_store(acc, acc[i] * rescale[0] + weight * values[value + i], [i])

    def strided(begin: Expr, end: Expr, body: Callable[[Expr], None]) -> None:
        with T.serial((T.max(end - begin, 0) + (threads - 1 - thread)) // threads) as i:
            body(T.bind(begin + i * threads + thread))

    position = T.bind(b["params"][1] + t)

    def fresh(i: Expr) -> None:
        visit(b["k"], in_chunk(op, kv_head, i), b["v"], in_chunk(op, kv_head, i))

    def kept(p: Expr) -> None:
        visit(b["ring"], in_ring(op, 0, kv_head, p), b["ring"], in_ring(op, 1, kv_head, p))

    strided(T.max(t + 1 - op.window, 0), t + 1, fresh)
    strided(T.max(position + 1 - op.window, 0), b["params"][1], kept)
    return top, total, acc


def _append(name: str, op: SwaAttention, s: GpuSchedule) -> Generated:
    """The valid tokens' keys and values, of which the last `window` survive."""
    params = [p for p in attention_params(op) if p.name in ("ring", "k", "v", "params")]
    d, row = op.head_dim, op.n_kv_heads * op.head_dim
    with tile_kernel(name, params, op.n_tokens * row, s.group_size) as k:
        b, t = k.by_name, T.bind(k.tile // row)
        kv_head, i = T.bind(k.tile % row // d), T.bind(k.tile % d)

        def put() -> None:
            for which, fresh in ((0, b["k"]), (1, b["v"])):
                T.buffer_store(b["ring"], fresh[k.tile], [in_ring(op, which, kv_head, b["params"][1] + t) + i])

        n = b["params"][0]
        when(T.And(t < n, t >= n - op.window), put)
    return k.generated(4 * op.n_tokens * row)
