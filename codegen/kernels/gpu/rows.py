"""RmsNorm and NormRouter: a group works on a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm.script.ir_builder import tirx as T

from mossnet_tg.codegen.kernels.build import Buffer, Expr, Generated, barrier, group_kernel, local, shared, when
from mossnet_tg.codegen.kernels.gpu.matvec import Columns, n_panels
from mossnet_tg.codegen.kernels.gpu.sums import sum_splits
from mossnet_tg.codegen.kernels.norm import norm_params
from mossnet_tg.codegen.kernels.panel import Panel
from mossnet_tg.codegen.kernels.router import choose, norm_router_params
from mossnet_tg.codegen.schedules.gpu import GpuSchedule
from mossnet_tg.ops import NormRouter, RmsNorm


def rms_norm(name: str, op: RmsNorm, s: GpuSchedule) -> Generated:
    params, width = norm_params(op), sum(op.segments)
    with group_kernel(name, params, (op.n_rows, 1, 1), (s.threads, 1, 1)) as k:
        out, x, *weights = k.buffers
        begin = T.bind(k.group[0] * width)
        for i, (n, weight) in enumerate(zip(op.segments, weights, strict=True)):
            if i:
                barrier()
            normed(s, out, x, weight, begin, n, op.eps, k.thread[0])
            begin = begin + n
    return k.generated(4 * op.n_rows * width)


def normed(
    s: GpuSchedule, out: Buffer, x: Buffer, weight: Buffer, begin: Expr, n: int, eps: float, thread: Expr
) -> None:
    """out[begin : begin + n] = x / rms(x) * weight, by all threads of the group."""
    total, scale = local(1), shared(1)
    T.buffer_store(total, T.float32(0), [0])

    def each(body: Callable[[Expr], None]) -> None:
        with T.serial(-(-n // s.threads)) as i:
            at = i * s.threads + thread
            when(at < n, lambda: body(at))

    def add(at: Expr) -> None:
        value = T.bind(x[begin + at])
        T.buffer_store(total, total[0] + value * value, [0])

    each(add)
    sum_splits([total], 1, T.int32(0), 1, thread, s.threads)
    mean = total[0] * T.float32(1 / n) + T.float32(eps)
    when(thread == 0, lambda: T.buffer_store(scale, T.float32(1) / T.sqrt(mean), [0]))
    barrier()
    each(lambda at: T.buffer_store(out, x[begin + at] * scale[0] * weight[at], [begin + at]))


def norm_router(name: str, op: NormRouter, dtypes: Sequence[str], s: GpuSchedule) -> Generated:
    D, E = op.d_model, op.n_experts
    params = norm_router_params(op, dtypes, s.panels)
    with group_kernel(name, params, (1, 1, 1), (s.threads, 1, 1)) as k:
        out, gates, idx, logits, x, norm, weight = k.buffers
        thread = k.thread[0]
        normed(s, out, x, norm, T.int32(0), D, op.eps, thread)
        column, split = T.bind(thread % s.columns), T.bind(thread // s.columns)
        for panel in range(n_panels(s, E)):
            barrier()
            columns = Columns(s, 1, column, split)
            columns.add(D, lambda i: out[i], [Panel.of(weight, panel, dtypes[0], D, s.panels)])

            def store(v: Expr, e: Expr, columns: Columns = columns) -> None:
                T.buffer_store(logits, columns.accs[0][v], [e])

            columns.finish(E, T.int32(panel), store)
        barrier()
        when(thread == 0, lambda: choose(op, gates, idx, logits, T.int32(0)))
    return k.generated(D * (E + 4))
