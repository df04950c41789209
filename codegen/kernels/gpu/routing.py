"""RouterTopk of several tokens: one group chooses token by token, then sorts the slots by expert."""

from __future__ import annotations

from collections.abc import Callable

from tvm.script.ir_builder import tirx as T

from mossnet_tg.codegen.kernels.build import Expr, Generated, barrier, group_kernel, local, shared, when
from mossnet_tg.codegen.kernels.router import choose, router_params
from mossnet_tg.codegen.schedules.gpu import GpuSchedule
from mossnet_tg.ops import RouterTopk


def router_topk(name: str, op: RouterTopk, s: GpuSchedule) -> Generated:
    E, k = op.n_experts, op.top_k
    with group_kernel(name, router_params(op), (1, 1, 1), (s.threads, 1, 1)) as frame:
        gates, idx, groups, logits, tokens = frame.buffers
        thread = frame.thread[0]
        n_slots = T.bind(tokens[0] * k)

        def strided(n: int, body: Callable[[Expr], None], limit: Expr) -> None:
            """body(i) for thread, thread + threads, … below `limit`, which is n at most."""
            with T.serial(-(-n // s.threads)) as i:
                at = i * s.threads + thread
                when(at < limit, lambda: body(at))

        strided(op.n_tokens, lambda t: choose(op, gates, idx, logits, t), tokens[0])
        barrier()
        begins = shared(E + 1, "int32")

        def count(e: Expr) -> None:
            n = local(1, "int32")
            T.buffer_store(n, T.int32(0), [0])
            with T.serial(n_slots) as slot:
                T.buffer_store(n, n[0] + T.Select(idx[slot] == e, T.int32(1), T.int32(0)), [0])
            T.buffer_store(begins, n[0], [e + 1])

        def add_up() -> None:
            T.buffer_store(begins, T.int32(0), [0])
            T.buffer_store(groups, T.int32(0), [0])
            with T.serial(E) as e:
                T.buffer_store(begins, begins[e] + begins[e + 1], [e + 1])
                T.buffer_store(groups, begins[e + 1], [e + 1])

        def sort(e: Expr) -> None:
            place = local(1, "int32")
            T.buffer_store(place, begins[e], [0])

            def put(slot: Expr) -> None:
                T.buffer_store(groups, slot, [E + 1 + place[0]])
                T.buffer_store(place, place[0] + 1, [0])

            with T.serial(n_slots) as slot:
                when(idx[slot] == e, lambda: put(slot))

        strided(E, count, T.int32(E))
        barrier()
        when(thread == 0, add_up)
        barrier()
        strided(E, sort, T.int32(E))
    return frame.generated(op.n_tokens * (E * (k + 16) + 2 * k * E))
