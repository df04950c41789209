"""Graphs of tinygrad's own, captured, brought to TensorIR, compiled and run, against numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tinygrad import Tensor, dtypes

from mossnet_tg.codegen import capture as capturing
from mossnet_tg.codegen import tensorir
from mossnet_tg.codegen.capture import Spec, capture
from tests.codegen.cases import read_call
from tests.codegen.one_kernel import OneKernel, cpu_schedule, host_targets, schedule

Arrays = dict[str, np.ndarray[Any, Any]]
rng = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return rng.standard_normal(shape).astype(np.float32)


def run(
    graph: Callable[..., Tensor],
    inputs: Arrays,
    states: Arrays | None = None,
    weights: Arrays | None = None,
    n_tokens: int = 1,
    n_valid: int = 1,
) -> tuple[list[np.ndarray[Any, Any]], list[str]]:
    """Outputs of `graph` on every host target, and how each kernel was read; `states` are advanced in place."""
    states, weights = states or {}, weights or {}

    def specs(arrays: Arrays) -> dict[str, Spec]:
        return {name: Spec(a.shape, a.dtype.name) for name, a in arrays.items()}

    calls = capture(graph, specs(weights), specs(states), specs(inputs))
    shapes = {name: (w.shape, {"float32": "f32", "float16": "f16"}[w.dtype.name]) for name, w in weights.items()}
    outputs, readings = [], []
    for target in host_targets():
        s = schedule(target)
        memory: dict[tuple[str, str], np.ndarray[Any, Any]] = {("input", n): a for n, a in inputs.items()}
        memory |= {("state", n): a.copy() for n, a in states.items()}
        for call in calls:
            kernel, matrices = read_call(call, shapes, s)
            (generated,) = tensorir.generate("kernel", kernel, matrices, n_tokens, s)
            readings.append("product" if tensorir.is_product(kernel, matrices, n_tokens) else "loops")
            arrays = []
            for slot in kernel.buffers:
                ref = call.buffers[slot]
                if ref.kind == "weight":
                    arrays.append(matrices[slot].panels.pack(weights[ref.name]))
                    continue
                n, dtype = kernel.buffers[slot]
                arrays.append(memory.setdefault((ref.kind, ref.name), np.full(n, 7, dtype)))
            if len(generated.params) > len(arrays):
                arrays.append(np.array([n_valid, 0], np.int32))
            OneKernel([generated], target).run(*arrays)
        outputs.append(memory["output", "output"])
        outputs[-1] = outputs[-1].copy()
        final = {name: memory["state", name] for name in states}
    states.update(final if states else {})
    return outputs, readings


def same(outputs: list[np.ndarray[Any, Any]], expected: Any, tolerance: float = 2e-6) -> None:
    expected = np.asarray(expected)
    for found in outputs:
        found = found.reshape(expected.shape)
        if expected.dtype.kind == "f":
            assert np.abs(found.astype(np.float64) - expected).max() <= tolerance * max(1.0, np.abs(expected).max())
        else:
            assert np.array_equal(found, expected)


@pytest.mark.parametrize("n", [1, 3, 16, 37, 257])
def test_elementwise_of_any_length(n):
    a, b = floats(n), floats(n)
    outputs, _ = run(lambda w, s, i: (i["a"] * 2 + i["b"]).relu().contiguous(), {"a": a, "b": b})
    same(outputs, np.maximum(a * 2 + b, 0))


UNARY = {
    "exp2": (lambda t: t.exp2(), np.exp2),
    "exp": (lambda t: t.exp(), np.exp),
    "sin": (lambda t: (t * 30).sin(), lambda x: np.sin(x * 30)),
    "cos": (lambda t: t.cos(), np.cos),
    "log": (lambda t: (t.abs() + 0.01).log(), lambda x: np.log(np.abs(x) + np.float32(0.01))),
    "sqrt": (lambda t: t.abs().sqrt(), lambda x: np.sqrt(np.abs(x))),
    "reciprocal": (lambda t: (t.abs() + 1).reciprocal(), lambda x: 1 / (np.abs(x) + 1)),
    "trunc": (lambda t: (t * 9).trunc(), lambda x: np.trunc(x * 9)),
    "silu": (lambda t: t.silu(), lambda x: x / (1 + np.exp(-x.astype(np.float64)))),
    "softplus": (lambda t: t.softplus(), lambda x: np.logaddexp(0, x.astype(np.float64))),
    "where": (lambda t: (t > 0).where(t, 3.0), lambda x: np.where(x > 0, x, np.float32(3))),
    "clip": (lambda t: t.clip(-0.5, 0.25), lambda x: np.clip(x, -0.5, 0.25)),
}


@pytest.mark.parametrize("name", list(UNARY))
def test_functions(name):
    ours, theirs = UNARY[name]
    x = floats(53) * 3
    outputs, _ = run(lambda w, s, i: ours(i["x"]).contiguous(), {"x": x})
    same(outputs, theirs(x))


INTEGERS = {
    "divide": (lambda a, b: a // b, lambda a, b: a // b),
    "modulo": (lambda a, b: a % b, lambda a, b: a % b),
    "shift": (lambda a, b: (a << 3) + (b >> 1), lambda a, b: (a << 3) + (b >> 1)),
    "bits": (lambda a, b: (a & b) | (a ^ 5), lambda a, b: (a & b) | (a ^ 5)),
    "compare": (lambda a, b: (a < b).where(a, b), np.minimum),
    "negate": (lambda a, b: -a + b.maximum(3), lambda a, b: -a + np.maximum(b, 3)),
    "bool": (
        lambda a, b: ((a < b) & (a != 4) | (b == 9)).cast(dtypes.int),
        lambda a, b: ((a < b) & (a != 4) | (b == 9)).astype(np.int32),
    ),
}


@pytest.mark.parametrize("name", list(INTEGERS))
def test_integers(name):
    ours, theirs = INTEGERS[name]
    a, b = rng.integers(-50, 50, 45).astype(np.int32), rng.integers(1, 20, 45).astype(np.int32)
    outputs, _ = run(lambda w, s, i: ours(i["a"], i["b"]).contiguous(), {"a": a, "b": b})
    same(outputs, theirs(a, b).astype(np.int32))


def test_bits_of_a_float():
    x = floats(19)
    outputs, _ = run(lambda w, s, i: (i["x"].bitcast(dtypes.int) + 1).contiguous(), {"x": x})
    same(outputs, x.view(np.int32) + 1)


def test_sums_and_maxima_over_any_axis():
    x = floats(5, 7, 11)
    outputs, _ = run(lambda w, s, i: i["x"].sum((0, 2)).contiguous(), {"x": x})
    same(outputs, x.astype(np.float64).sum((0, 2)))
    outputs, _ = run(lambda w, s, i: (i["x"].max(1) * i["x"].sum(1)).contiguous(), {"x": x})
    same(outputs, x.max(1) * x.astype(np.float64).sum(1))


def test_softmax_and_argmax():
    x = floats(6, 29)
    e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    outputs, _ = run(lambda w, s, i: i["x"].softmax(-1).contiguous(), {"x": x})
    same(outputs, e / e.sum(1, keepdims=True))
    outputs, _ = run(lambda w, s, i: i["x"].argmax(-1).cast(dtypes.int).contiguous(), {"x": x})
    same(outputs, x.argmax(1).astype(np.int32))


def test_a_reduction_inside_a_reduction(monkeypatch):
    """With partial fusion tinygrad computes a norm where it is used: reductions nest and depend on outer loops."""
    monkeypatch.setitem(capturing.SETTINGS, "PCONTIG", 2)
    x, w = floats(4, 21), floats(21)

    def graph(_: Any, s: Any, i: Any) -> Tensor:
        normed = i["x"] * ((i["x"] * i["x"]).mean(-1, keepdim=True) + 1e-5).rsqrt() * i["w"]
        return (normed * normed).sum(-1).contiguous()

    outputs, readings = run(graph, {"x": x, "w": w})
    assert len(readings) == len(host_targets())  # one kernel
    normed = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-5) * w
    same(outputs, (normed**2).sum(-1))


def test_gather_reads_rows():
    table, ids = floats(13, 37), np.array([3, 12, 0, 3], np.int32)
    outputs, _ = run(lambda w, s, i: i["table"][i["ids"]].contiguous(), {"table": table, "ids": ids})
    same(outputs, table[ids])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_gather_from_panels(dtype):
    table, ids = floats(45, 21).astype(dtype), np.array([44, 7, 0], np.int32)
    outputs, _ = run(
        lambda w, s, i: w["t"][i["ids"]].cast(dtypes.float).contiguous(), {"ids": ids}, weights={"t": table}
    )
    same(outputs, table[ids].astype(np.float32))


def test_shift_and_pad():
    x = floats(3, 10)
    outputs, _ = run(lambda w, s, i: i["x"].pad(((1, 0), (2, 3))).contiguous(), {"x": x})
    same(outputs, np.pad(x, ((1, 0), (2, 3))))
    outputs, _ = run(lambda w, s, i: i["x"][:, 2:9].flip(1).T.contiguous(), {"x": x})
    same(outputs, x[:, 2:9][:, ::-1].T)
    outputs, _ = run(lambda w, s, i: Tensor.cat(i["x"], i["x"] * 2, dim=1).contiguous(), {"x": x})
    same(outputs, np.concatenate([x, 2 * x], 1))


def test_a_state_is_stored_in_place_and_in_part():
    state, x = floats(6, 8), floats(2, 8)

    def graph(w: Any, s: Any, i: Any) -> Tensor:
        s["h"][2:4].assign(s["h"][2:4] * 0.5 + i["x"])
        return (i["x"] + 1).contiguous()

    states = {"h": state}
    outputs, _ = run(graph, {"x": x}, states)
    expected = state.copy()
    expected[2:4] = expected[2:4] * 0.5 + x
    same(outputs, x + 1)
    assert np.abs(states["h"] - expected).max() < 1e-6


def test_a_narrow_float_is_stored():
    x = floats(40)
    outputs, _ = run(lambda w, s, i: i["x"].cast(dtypes.half).contiguous(), {"x": x})
    for found in outputs:
        assert np.array_equal(found.reshape(-1), x.astype(np.float16))


@pytest.mark.parametrize(("n_tokens", "n_valid"), [(1, 1), (7, 5), (16, 16)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("n_in", "n_out"), [(24, 64), (13, 37), (2, 5)])
def test_dense_product(n_tokens, n_valid, dtype, n_in, n_out):
    """Row and epilogue are the graph's own; rows behind the valid tokens are left alone."""
    x, w, r = floats(n_tokens, n_in), floats(n_out, n_in).astype(dtype), floats(n_tokens, n_out)

    def graph(weights: Any, s: Any, i: Any) -> Tensor:
        return (i["r"] + (i["x"] * 2) @ weights["w"].cast(dtypes.float).T).relu().contiguous()

    outputs, readings = run(graph, {"x": x, "r": r}, weights={"w": w}, n_tokens=n_tokens, n_valid=n_valid)
    assert set(readings) == {"product"}
    expected = np.maximum(r + (2 * x.astype(np.float64)) @ w.astype(np.float64).T, 0)
    same([o.reshape(n_tokens, n_out)[:n_valid] for o in outputs], expected[:n_valid])
    if n_valid < n_tokens:
        rows = [cpu_schedule(t).rows_of(n_tokens) for t in host_targets()]
        blocks = [-(-n_valid // r) * r for r in rows]
        for found, done in zip(outputs, blocks, strict=True):
            assert np.all(found.reshape(n_tokens, n_out)[done:] == 7)


def test_what_is_no_kernel_of_ours_is_named():
    with pytest.raises(tensorir.UnsupportedKernelError, match="dtype"):
        run(lambda w, s, i: i["x"].cast(dtypes.double).contiguous(), {"x": floats(4)})
