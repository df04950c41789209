"""The vulkan emitter: every kernel of every mode is valid SPIR-V, and small kernels compute on this machine's Vulkan
device what numpy computes.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from mossnet_tg.codegen.emit.spirv import Spirv, emit, source
from mossnet_tg.codegen.kernels import build, maths
from mossnet_tg.codegen.kernels.build import Frame, Generated, Param, Size, barrier, group_kernel, local, vector
from mossnet_tg.codegen.options import CompileOptions
from mossnet_tg.codegen.plan import make_plan
from mossnet_tg.codegen.schedules import CpuSchedule, GpuSchedule, Schedule
from mossnet_tg.codegen.tune.bench import Bench, Trial
from mossnet_tg.engine import CompiledModel, Library
from mossnet_tg.errors import DeviceError
from mossnet_tg.targets.table import parse_target
from mossnet_tg.weights.checkpoint import Checkpoint
from tests.codegen import random_models

Array = np.ndarray[Any, Any]
STORAGE = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
F16_STORED, I8_STORED = "storageBuffer16BitAccess", "storageBuffer8BitAccess"
VULKAN = parse_target("vulkan")


# ---- every kernel of a model


def single(lanes: int) -> CpuSchedule:
    """Threads that work alone, on vectors of so many lanes."""
    return CpuSchedule(lanes, lanes, 2, 1, STORAGE, group_size=64)


def emitted(mode: str, folder: Path, dtype: torch.dtype, s: Schedule) -> list[Spirv]:
    random_models.reference(mode, dtype=dtype).save(folder, dtype=dtype)
    plan = make_plan(Checkpoint.open(folder), s, CompileOptions(chunk=16, context=64), lambda _: None)
    return [emit(f.name, f.generated.func, f.generated.params) for f in plan.functions]


@functools.cache
def complaints(code: bytes) -> str:
    """What spirv-val has to say against it."""
    arguments = ["spirv-val", "--target-env", "vulkan1.1", "-"]
    found = subprocess.run(arguments, input=code, capture_output=True)
    return "" if found.returncode == 0 else f"{found.returncode}: {found.stderr.decode()}"


needs_validator = pytest.mark.skipif(not shutil.which("spirv-val"), reason="no spirv-val: apt install spirv-tools")


@needs_validator
@pytest.mark.parametrize("mode", random_models.MODES)
def test_models_are_valid(mode, tmp_path):
    kernels = emitted(mode, tmp_path, torch.float16, GpuSchedule(128))
    for kernel in kernels:
        assert not complaints(kernel.code), source(kernel.code)
    assert {feature for kernel in kernels for feature in kernel.features} == {F16_STORED}


@needs_validator
@pytest.mark.parametrize(
    ("dtype", "s", "features"),
    [
        pytest.param(torch.float32, GpuSchedule(64), set(), id="f32"),
        pytest.param(torch.bfloat16, GpuSchedule(64), {F16_STORED}, id="bf16"),
        pytest.param(torch.float32, single(1), set(), id="f32-single"),
        pytest.param(torch.bfloat16, single(2), {F16_STORED}, id="bf16-single-x2"),
        pytest.param(torch.float16, single(4), {F16_STORED}, id="f16-single-x4"),
    ],
)
@pytest.mark.parametrize("mode", ["attention", "param_mix_zoh", "odd"])
def test_types_and_schedules(mode, dtype, s, features, tmp_path):
    kernels = emitted(mode, tmp_path, dtype, s)
    for kernel in kernels:
        assert not complaints(kernel.code), source(kernel.code)
    assert {feature for kernel in kernels for feature in kernel.features} == features


# ---- one kernel


def kernel(
    params: Sequence[Param], body: Callable[[Frame], None], grid: Size = (1, 1, 1), block: Size = (1, 1, 1)
) -> Generated:
    with group_kernel("kernel", params, grid, block) as frame:
        body(frame)
    return frame.generated(1)


def spirv(generated: Generated) -> Spirv:
    found = emit("kernel", generated.func, generated.params)
    if shutil.which("spirv-val"):
        assert not complaints(found.code), source(found.code)
    return found


def n_bytes(p: Param) -> int:
    return p.n * np.dtype(build.storage(p.dtype)).itemsize


@functools.cache
def missing_device() -> str:
    try:
        Library.default().devices("vulkan")
    except DeviceError as error:
        return f"no Vulkan device: {error}"
    return ""


@pytest.fixture
def run(tmp_path):
    """Calls a kernel with an array a parameter and returns them as it left them."""
    if missing_device():
        pytest.skip(missing_device())

    def call(generated: Generated, *arrays: Array) -> list[Array]:
        spirv(generated)
        trial = Trial([generated], [p.name for p in generated.params])
        bench = Bench([trial], VULKAN, tmp_path, lambda path: CompiledModel(path, allow_native=True), 1)
        for array, param in zip(arrays, generated.params, strict=True):
            assert (array.size, array.nbytes) == (param.n, n_bytes(param)), param.name
        bench.write(0, arrays)
        bench.run(0)
        results = [np.empty_like(array) for array in arrays]
        for result, param in zip(results, generated.params, strict=True):
            bench.read(0, param.name, result)
        bench.close()
        return results

    return call


rng = np.random.default_rng(0)


def out(n: int, dtype: str = "float32") -> Param:
    return Param("out", n, dtype, written=True, read=False)


def floats(n: int) -> Array:
    return rng.standard_normal(n).astype(np.float32)


def zeros(n: int, dtype: str = "float32") -> Array:
    return np.zeros(n, dtype)


def elementwise(run: Any, compute: Callable[..., Any], dtype: str, *arrays: Array, lanes: int = 1) -> Array:
    """compute(x0[i], x1[i], ...) for every i, `lanes` at a time."""
    n = arrays[0].size
    params = [out(n, dtype), *(Param(f"x{i}", n, str(a.dtype)) for i, a in enumerate(arrays))]

    def body(k: Frame) -> None:
        with T.serial(n // lanes) as i, vector(lanes) as v:
            at = i * lanes + v
            T.buffer_store(k.buffers[0], compute(*(x[at] for x in k.buffers[1:])), [at])

    return run(kernel(params, body), zeros(n, dtype), *arrays)[0]


def test_threads(run):
    """Every axis of group and thread, those of one included."""
    grid, block = (3, 2, 4), (5, 1, 2)
    n = 3 * 2 * 4 * 5 * 1 * 2

    def body(k: Frame) -> None:
        at = 0
        for i, size in zip((*k.group[::-1], *k.thread[::-1]), (*grid[::-1], *block[::-1]), strict=True):
            at = at * size + i
        T.buffer_store(k.buffers[0], at + 1, [at])

    found = run(kernel([out(n, "int32")], body, grid, block), zeros(n, "int32"))[0]
    assert list(found) == list(range(1, n + 1))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "int8", "uint8"])
@pytest.mark.parametrize("lanes", [2, 3, 4])
def test_vector_access(run, lanes, dtype):
    """Vectors that are aligned, that are not, with gaps, and of gathered elements."""
    n = 24
    x = rng.integers(-9 if dtype != "uint8" else 0, 99, 2 * n).astype(dtype)
    order = rng.permutation(n).astype(np.int32)
    params = [out(4 * n), Param("x", 2 * n, dtype), Param("order", n, "int32")]

    def body(k: Frame) -> None:
        out_, x_, order_ = k.buffers
        with T.serial(n // lanes) as i:
            at = i * lanes
            places = (lambda v: at + v, lambda v: at + 1 + v, lambda v: (at + v) * 2, lambda v: order_[at + v])
            for j, place in enumerate(places):
                with vector(lanes) as v:
                    T.buffer_store(out_, T.cast(x_[place(v)], "float32"), [at + v + j * n])

    generated = kernel(params, body)
    found = run(generated, zeros(4 * n), x, order)[0]
    assert np.array_equal(found, np.concatenate([x[:n], x[1 : n + 1], x[: 2 * n : 2], x[order]]).astype(np.float32))
    text = source(spirv(generated).code)
    assert ("%x_x" in text) == (lanes != 3), text
    assert "Aliased" not in text  # two views of what only is read
    narrow = {"float16": (F16_STORED,), "int8": (I8_STORED,), "uint8": (I8_STORED,)}
    assert spirv(generated).features == narrow.get(dtype, ())


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_vector_stores(run, dtype):
    """Aligned, not aligned, with gaps; and a scalar between, which shares the buffer with them."""
    n = 16
    x = rng.integers(0, 99, n).astype(np.float32)

    def body(k: Frame) -> None:
        out_, x_ = k.buffers
        with T.serial(n // 4) as i:
            for base, stride in ((i * 4, 1), (n + 1 + i * 4, 1), (2 * n + 1 + i * 8, 2)):
                with vector(4) as v:
                    T.buffer_store(out_, T.cast(x_[i * 4 + v], dtype), [base + v * stride])
            T.buffer_store(out_, out_[i * 4 + 1] + out_[i * 4 + 2], [i * 4 + 3])

    generated = kernel([Param("out", 4 * n + 1, dtype, written=True), Param("x", n)], body)
    found = run(generated, zeros(4 * n + 1, dtype), x)[0]
    wanted = zeros(4 * n + 1, dtype)
    wanted[:n], wanted[n + 1 : 2 * n + 1], wanted[2 * n + 1 :: 2] = x, x, x
    wanted[3:n:4] = wanted[1:n:4] + wanted[2:n:4]
    assert np.array_equal(found, wanted)
    assert source(spirv(generated).code).count("Aliased") == 2


def test_group_memory(run):
    """What the threads of a group write to shared and global memory, the others see behind the barrier."""
    n, groups = 64, 4

    def body(k: Frame) -> None:
        out_, seen, x_ = k.buffers
        both = build.shared(n)
        i, base = k.thread[0], k.group[0] * n
        T.buffer_store(both, x_[base + i] * T.float32(2), [i])
        T.buffer_store(seen, x_[base + i], [base + i])
        barrier()
        T.buffer_store(out_, both[n - 1 - i] + seen[base + (i + 7) % n], [base + i])

    params = [out(n * groups), Param("seen", n * groups, written=True), Param("x", n * groups)]
    generated = kernel(params, body, (groups, 1, 1), (n, 1, 1))
    x = floats(n * groups)
    found = run(generated, zeros(n * groups), zeros(n * groups), x)[0].reshape(groups, n)
    x = x.reshape(groups, n)
    assert np.array_equal(found, x[:, ::-1] * 2 + np.roll(x, -7, 1))
    compiled = spirv(generated)
    assert compiled.local_bytes == 4 * n
    coherent = [line for line in source(compiled.code).splitlines() if line.endswith(" Coherent")]
    assert coherent == ["Decorate %seen Coherent"]  # out is not read, x not written
    # Scope, scope, acquire and release of storage buffers and of the group's memory.
    assert f"ControlBarrier 2 2 {0x8 | 0x40 | 0x100}" in source(compiled.code)


def test_sums_of_a_group(run):
    """A product split over the threads of a group, vectors in shared memory: what group kernels are made for."""
    n_k, width, parts = 40, 8, 4
    x, w = floats(n_k), floats(n_k * width)

    def body(k: Frame) -> None:
        out_, x_, w_ = k.buffers
        sums, acc = build.shared(parts * width), local(4)
        lane, part = k.thread[0], k.thread[1]
        with vector(4) as v:
            T.buffer_store(acc, T.float32(0), [v])
        with T.serial(n_k // parts) as i, vector(4) as v:
            at = i * parts + part
            T.buffer_store(acc, acc[v] + x_[at] * w_[at * width + lane * 4 + v], [v])
        with vector(4) as v:
            T.buffer_store(sums, acc[v], [(part * 2 + lane) * 4 + v])
        barrier()
        with T.If(part == 0), T.Then():
            with T.serial(1, parts) as other, vector(4) as v:
                T.buffer_store(acc, acc[v] + sums[(other * 2 + lane) * 4 + v], [v])
            with vector(4) as v:
                T.buffer_store(out_, acc[v], [lane * 4 + v])

    params = [out(width), Param("x", n_k), Param("w", n_k * width)]
    found = run(kernel(params, body, block=(2, parts, 1)), zeros(width), x, w)[0]
    np.testing.assert_allclose(found, x @ w.reshape(n_k, width), rtol=1e-5)


def test_choices_are_branches(run):
    """if_then_else loads only on the side that is chosen: the other's index may be anywhere."""
    n = 8
    index = np.array([0, 3, 7, -1, 1 << 30, -(1 << 31), 8, 5], np.int32)
    x = floats(n)

    def body(k: Frame) -> None:
        out_, x_, index_ = k.buffers
        with T.serial(n) as i:
            at = index_[i]
            inside = T.And(at >= 0, at < n)
            nested = T.if_then_else(at == 3, T.float32(-3), x_[at])
            T.buffer_store(out_, T.if_then_else(inside, nested, T.float32(7)), [i])

    generated = kernel([out(n), Param("x", n), Param("index", n, "int32")], body)
    found = run(generated, zeros(n), x, index)[0]
    assert list(found) == [x[0], -3, x[7], 7, 7, 7, 7, x[5]]
    lines = source(spirv(generated).code).splitlines()
    load = next(i for i, line in enumerate(lines) if "AccessChain" in line and "%x " in line)
    assert sum("BranchConditional" in line for line in lines[:load]) == 3  # the loop and both choices
    assert sum(" Phi " in line for line in lines) == 3


def test_choices_of_vectors(run):
    x, flag = floats(8), np.array([1, 0], np.int32)

    def body(k: Frame) -> None:
        out_, x_, flag_ = k.buffers
        with T.serial(2) as i, vector(4) as v:
            here = x_[i * 4 + v]
            T.buffer_store(out_, T.if_then_else(flag_[i] > 0, here * here, T.float32(0)), [i * 4 + v])

    found = run(kernel([out(8), Param("x", 8), Param("flag", 2, "int32")], body), zeros(8), x, flag)[0]
    assert np.array_equal(found, np.append(x[:4] * x[:4], zeros(4)))


@pytest.mark.parametrize("lanes", [1, 4])
def test_select(run, lanes):
    x, y = floats(8), floats(8)
    found = elementwise(run, lambda a, b: T.Select(a < b, a - b, b), "float32", x, y, lanes=lanes)
    assert np.array_equal(found, np.where(x < y, x - y, y))


def test_select_by_one_condition(run):
    x = floats(8)

    def body(k: Frame) -> None:
        with T.serial(2) as i:
            at = tirx.Ramp(i * 4, 1, 4)
            value = T.bind(k.buffers[1][at])  # with loads in it, it would become if_then_else
            T.buffer_store(k.buffers[0], tirx.Select(i == 1, value, value * value), [at])

    found = run(kernel([out(8), Param("x", 8)], body), zeros(8), x)[0]
    assert np.array_equal(found, np.append(x[:4] * x[:4], x[4:]))


INTS = np.array([-7, -6, -1, 0, 1, 6, 7, 2147483647, -2147483648, -2147483647, 100, -100], np.int32)
DIVISORS = np.array([2, -3, 5, 7, -7, 4, -4, 10, 3, -10, -1, 64], np.int32)


def c_divmod(a: Array, b: Array) -> tuple[Array, Array]:
    """Division as in C: towards zero."""
    exact = [(abs(int(x)) // abs(int(y)) * (1 if (x < 0) == (y < 0) else -1)) for x, y in zip(a, b, strict=True)]
    quotient = np.array(exact, np.int32)
    return quotient, a - quotient * b


@pytest.mark.parametrize("lanes", [1, 4])
def test_division(run, lanes):
    quotient, remainder = c_divmod(INTS, DIVISORS)
    divide = functools.partial(elementwise, run, lanes=lanes)
    assert list(divide(T.truncdiv, "int32", INTS, DIVISORS)) == list(quotient)
    assert list(divide(T.truncmod, "int32", INTS, DIVISORS)) == list(remainder)
    assert list(divide(T.floordiv, "int32", INTS, DIVISORS)) == list(INTS // DIVISORS)
    assert list(divide(T.floormod, "int32", INTS, DIVISORS)) == list(INTS % DIVISORS)
    unsigned = INTS.view(np.uint32)
    by = np.abs(DIVISORS).astype(np.uint32)
    assert list(divide(T.truncdiv, "uint32", unsigned, by)) == list(unsigned // by)
    assert list(divide(T.truncmod, "uint32", unsigned, by)) == list(unsigned % by)


COMPARISONS = {
    "EQ": np.equal,
    "NE": np.not_equal,
    "LT": np.less,
    "LE": np.less_equal,
    "GT": np.greater,
    "GE": np.greater_equal,
}


@pytest.mark.parametrize("name", COMPARISONS)
@pytest.mark.parametrize("dtype", ["float32", "int32", "uint32"])
def test_comparisons(run, name, dtype):
    a, b = np.array([1, 2, 3, -1, 2, 0, -5, 5]), np.array([1, 3, 2, 1, -1, -1, 5, -5])
    a, b = (x.astype(np.int64).astype(dtype) if dtype != "uint32" else x.astype(np.uint32) for x in (a, b))
    if dtype == "float32":
        a[0] = b[1] = np.nan
    for lanes in (1, 4):
        compare = lambda x, y: T.cast(getattr(tirx, name)(x, y), "int32")  # noqa: E731
        assert list(elementwise(run, compare, "int32", a, b, lanes=lanes)) == list(COMPARISONS[name](a, b)), lanes


@pytest.mark.parametrize("lanes", [1, 4])
def test_minimum_and_maximum(run, lanes):
    """a < b ? a : b and a > b ? a : b: of NaN and a number the second is left."""
    nan = np.nan
    a = np.array([1, nan, 3, -0.5, nan, -np.inf, np.inf, 0], np.float32)
    b = np.array([2, 5, nan, -1.5, nan, 1, nan, -1], np.float32)
    for function, wanted in ((T.min, np.where(a < b, a, b)), (T.max, np.where(a > b, a, b))):
        np.testing.assert_array_equal(elementwise(run, function, "float32", a, b, lanes=lanes), wanted)
        ints = INTS[:8], DIVISORS[:8]
        found = elementwise(run, function, "int32", *ints, lanes=lanes)
        assert list(found) == list((np.minimum if function is T.min else np.maximum)(*ints))


@pytest.mark.parametrize("lanes", [1, 4])
def test_bits(run, lanes):
    """Shifts, and bitwise operations, and reinterpret."""
    a = np.append(INTS[:4], [0x3F800000, -0x40000000, 12345678, -1]).astype(np.int32)
    shift = np.array([0, 1, 31, 3, 4, 7, 16, 9], np.int32)
    bits = functools.partial(elementwise, run, lanes=lanes)
    assert list(bits(T.shift_right, "int32", a, shift)) == list(a >> shift)
    assert list(bits(T.shift_left, "int32", a, shift)) == list((a.astype(np.int64) << shift).astype(np.int32))
    unsigned = a.view(np.uint32)
    found = bits(T.shift_right, "uint32", unsigned, shift.view(np.uint32))
    assert list(found) == list(unsigned >> shift.view(np.uint32))
    found = bits(
        lambda x, y: T.bitwise_xor(T.bitwise_or(x, y), T.bitwise_and(T.bitwise_not(x), y + 1)), "int32", a, shift
    )
    assert list(found) == list((a | shift) ^ (~a & (shift + 1)))
    x = floats(8)
    assert list(bits(lambda x: T.reinterpret("float32", x + 1), "float32", x.view(np.int32) - 1)) == list(x)
    assert list(bits(lambda x: T.reinterpret("uint32", x), "uint32", x)) == list(x.view(np.uint32))


@pytest.mark.parametrize("lanes", [1, 4])
def test_logic(run, lanes):
    a, b = INTS[:8], INTS[:8][::-1].copy()
    found = elementwise(
        run,
        lambda x, y: T.cast(T.Or(T.And(x > 0, y < 3), T.Not(T.Or(x == -6, y > 0))), "float32"),
        "float32",
        a,
        b,
        lanes=lanes,
    )
    assert list(found) == list(((a > 0) & (b < 3)) | ~((a == -6) | (b > 0)))


TYPES = ["float32", "float16", "int32", "uint32", "int16", "uint16", "int8", "uint8"]


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("source_type", TYPES)
def test_casts(run, source_type, lanes):
    """As C converts, and with no more of the device than that it stores the types."""
    values = np.array([0, 1, 2, 100, 127, 3, 64, 5])
    if not source_type.startswith("u"):
        values[5:] *= -1
    x = (values + 0.75 * np.sign(values) * source_type.startswith("float")).astype(source_type)
    whole = np.trunc(x.astype(np.float64)).astype(np.int64)
    targets = [*TYPES, "bool"]

    def body(k: Frame) -> None:
        *outs, x_ = k.buffers
        for target, out_ in zip(targets, outs, strict=True):
            with T.serial(8 // lanes) as i, vector(lanes) as v:
                value = T.cast(x_[i * lanes + v], target)
                T.buffer_store(out_, T.cast(value, "uint8") if target == "bool" else value, [i * lanes + v])

    generated = kernel([*(Param(f"to_{t}", 8, t, True, False) for t in targets), Param("x", 8, source_type)], body)
    found = run(generated, *(zeros(8, build.storage(t)) for t in targets), x)
    assert spirv(generated).features == (F16_STORED, I8_STORED)
    for target, result in zip(targets, found, strict=False):
        defined = np.ones(8, bool)
        if target == "bool":
            wanted = (x != 0).astype(np.uint8)
        elif target.startswith("float"):
            wanted = x.astype(target)
        else:
            wanted = whole.astype(target)
            defined = whole >= 0 if source_type.startswith("float") and target.startswith("u") else defined
        assert list(result[defined]) == list(wanted[defined]), target


def test_casts_that_wrap(run):
    x = np.array([256, 257, -1, 65536, 65535, 128, 32768, -129], np.int32)
    for target in ("int8", "uint8", "int16", "uint16", "uint32"):
        found = elementwise(run, lambda a, target=target: T.cast(a, target), target, x, lanes=4)
        assert list(found) == list(x.astype(target))


def test_casts_of_large_unsigned(run):
    x = np.array([0, 1 << 31, 0xFFFFFF00, 7], np.uint32)
    assert list(elementwise(run, lambda a: T.cast(a, "float32"), "float32", x, lanes=4)) == list(x.astype(np.float32))
    back = elementwise(run, lambda a: T.cast(a, "uint32"), "uint32", x.astype(np.float32), lanes=4)
    assert list(back) == list(x)


def test_loops(run):
    """Bounds that memory holds, none of what is empty, one inside the other, and an array of the thread's own."""
    x, bounds = floats(20), np.array([3, 17, 5, 5, 9, 2, 0, 20], np.int32)

    def body(k: Frame) -> None:
        out_, x_, bounds_ = k.buffers
        sums = local(4)
        with T.serial(4) as i:
            T.buffer_store(sums, T.float32(0), [i])
            with T.serial(bounds_[2 * i], bounds_[2 * i + 1]) as j, T.If(x_[j] > 0):
                with T.Then(), T.serial(j % 3) as m:
                    T.buffer_store(sums, sums[i] + x_[j] * T.cast(m + 1, "float32"), [i])
                with T.Else():
                    T.buffer_store(sums, sums[i] - T.float32(1), [i])
        with T.serial(4) as i:
            T.buffer_store(out_, sums[3 - i], [i])

    found = run(kernel([out(4), Param("x", 20), Param("bounds", 8, "int32")], body), zeros(4), x, bounds)[0]
    wanted = [
        sum(x[j] * sum(range(j % 3 + 1)) if x[j] > 0 else -1 for j in range(bounds[2 * i], bounds[2 * i + 1]))
        for i in range(4)
    ]
    np.testing.assert_allclose(found, wanted[::-1], rtol=1e-5, atol=1e-5)


def test_loops_unrolled_and_with_steps(run):
    def body(k: Frame) -> None:
        with T.serial(1, 8, step=3) as i, T.unroll(2) as j:
            T.buffer_store(k.buffers[0], i * 10 + j, [i + j])

    assert list(run(kernel([out(9, "int32")], body), zeros(9, "int32"))[0]) == [0, 10, 11, 0, 40, 41, 0, 70, 71]


def test_let_and_shuffle(run):
    x = floats(8)

    def body(k: Frame) -> None:
        out_, x_ = k.buffers
        name = tirx.Var("name", "float32")
        T.buffer_store(out_, tirx.Let(name, x_[0] * x_[1], name * name), [0])
        with T.serial(1, 4) as i:
            first = tirx.Ramp(i * 0, 1, 4)
            picked = tirx.Shuffle([x_[first], tirx.Broadcast(x_[4], 2)], [tirx.IntImm("int32", j) for j in (3, 4)])
            T.buffer_store(out_, tirx.Shuffle([picked], [tirx.IntImm("int32", 0)]) + x_[i], [i])
            T.buffer_store(out_, tirx.Shuffle([picked], [tirx.IntImm("int32", 1)]) + x_[i], [i + 4])

    found = run(kernel([out(8), Param("x", 8)], body), zeros(8), x)[0]
    assert list(found[:4]) == [(x[0] * x[1]) ** 2, *(x[3] + x[1:4])]
    assert list(found[5:]) == list(x[4] + x[1:4])


FUNCTIONS = {"floor": np.floor, "trunc": np.trunc, "fabs": np.abs, "sqrt": np.sqrt, "exp2": np.exp2}


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(run, name, lanes):
    x = np.array([-2.5, -0.5, 0, 0.5, 1.75, 2, 9.5, -7], np.float32)
    x = np.abs(x) if name == "sqrt" else x
    found = elementwise(run, getattr(T, "abs" if name == "fabs" else name), "float32", x, lanes=lanes)
    np.testing.assert_allclose(found, FUNCTIONS[name](x), rtol=1e-5 if name == "exp2" else 1e-6)


@pytest.mark.parametrize("lanes", [1, 4])
def test_compensated_sums_stay(run, lanes):
    """softplus adds what 1 + u loses: that survives a driver that may rearrange additions."""
    x = np.linspace(-60, 20, 64, dtype=np.float32)
    np.testing.assert_allclose(
        elementwise(run, maths.softplus, "float32", x, lanes=lanes), np.logaddexp(0, x.astype(np.float64)), rtol=5e-6
    )


def test_maths_of_nan(run):
    x = np.array([np.nan, np.inf, -np.inf, -200], np.float32)
    np.testing.assert_array_equal(elementwise(run, maths.exp2, "float32", x, lanes=4), [np.nan, np.inf, 0, 0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float16_bits"])
def test_weights(run, dtype):
    """Narrow floats as kernels read them."""
    values = floats(8).astype(np.float16)
    bits = values.astype(np.float32).view(np.uint32) >> 16 if dtype == "bfloat16" else values.view(np.uint16)
    wanted = (bits << 16).view(np.float32) if dtype == "bfloat16" else values.astype(np.float32)

    def body(k: Frame) -> None:
        with T.serial(2) as i, vector(4) as v:
            T.buffer_store(k.buffers[0], build.load(k.buffers[1], i * 4 + v, dtype), [i * 4 + v])

    generated = kernel([out(8), Param("x", 8, dtype)], body)
    found = run(generated, zeros(8), bits.astype(np.uint16))[0]
    assert list(found) == list(wanted)
    assert spirv(generated).features == (F16_STORED,)


@pytest.mark.parametrize(
    ("dtype", "features"),
    [
        ("float16", ("shaderFloat16", F16_STORED)),
        ("int16", ("shaderInt16", F16_STORED)),
        ("uint8", ("shaderInt8", I8_STORED)),
    ],
)
def test_narrow_arithmetic_is_a_feature(run, dtype, features):
    x = np.array([1, 2, 3, 4, 5, 6, 7, 100], dtype)

    def body(k: Frame) -> None:
        one = T.cast(T.float32(1), dtype) if dtype == "float16" else tirx.IntImm(dtype, 1)
        with T.serial(2) as i, vector(4) as v:
            T.buffer_store(k.buffers[0], k.buffers[1][i * 4 + v] + one, [i * 4 + v])

    generated = kernel([out(8, dtype), Param("x", 8, dtype)], body)
    assert spirv(generated).features == features
    assert list(run(generated, zeros(8, dtype), x)[0]) == list(x + np.dtype(dtype).type(1))


def test_narrow_choices_are_a_feature(run):
    x = np.array([1, -2, 3, -4, 5, 6, -7, 8], np.float16)

    def body(k: Frame) -> None:
        with T.serial(8) as i:
            value = k.buffers[1][i]
            T.buffer_store(k.buffers[0], T.Select(i < 4, value, k.buffers[1][7 - i]), [i])

    generated = kernel([out(8, "float16"), Param("x", 8, "float16")], body)
    assert spirv(generated).features == ("shaderFloat16", F16_STORED)
    assert list(run(generated, zeros(8, "float16"), x)[0]) == [*x[:4], *x[3::-1]]


def test_narrow_memory_of_a_group_is_a_feature():
    def body(k: Frame) -> None:
        both = build.shared(4, "float16")
        T.buffer_store(both, k.buffers[1][k.thread[0]], [k.thread[0]])
        barrier()
        T.buffer_store(k.buffers[0], T.cast(both[3 - k.thread[0]], "float32"), [k.thread[0]])

    found = spirv(kernel([out(4), Param("x", 4, "float16")], body, block=(4, 1, 1)))
    assert (found.features, found.local_bytes) == (("shaderFloat16", F16_STORED), 8)


def test_refusals():
    def double(lanes: int) -> Callable[[Frame], None]:
        def body(k: Frame) -> None:
            with vector(lanes) as v:
                T.buffer_store(k.buffers[0], k.buffers[1][v] + k.buffers[1][v], [v])

        return body

    with pytest.raises(TypeError, match="float32x8 in a kernel, expected vectors of up to 4 lanes"):
        spirv(kernel([out(8), Param("x", 8)], double(8)))
    with pytest.raises(TypeError, match="int64 in a kernel"):
        spirv(kernel([out(8, "int64"), Param("x", 8, "int64")], double(1)))
    with pytest.raises(TypeError, match="kernel writes out, which is not listed as written"):
        spirv(kernel([Param("out", 8), Param("x", 8)], double(4)))


def test_source():
    """A module is listed so that one can follow it."""

    def body(k: Frame) -> None:
        with vector(4) as v:
            at = k.thread[0] * 4 + v
            T.buffer_store(k.buffers[0], k.buffers[1][at] * T.float32(0.5) + T.float32(-1), [at])

    compiled = spirv(kernel([out(16), Param("x", 16, "float16")], body, block=(4, 1, 1)))
    lines = [line.split(" = ")[-1] for line in source(compiled.code).splitlines()]
    assert "ExecutionMode %2 17 4 1 1" in lines
    assert "Decorate %x_x4 NonWritable" in lines
    assert "Variable {float16x4[]}* StorageBuffer" in lines
    assert any(line.startswith("FMul float32x4 ") and line.endswith("(0.5 0.5 0.5 0.5)") for line in lines)
