"""What is compiled for an Adreno keeps to what one can do, and the checker that says so sees what does not."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mossnet_tg.codegen import checker, moss_file, opencl_ir
from mossnet_tg.codegen.checker import BODY_RULES, RECORD_RULES, TEXT_RULES, Limits, check
from mossnet_tg.codegen.compile import compile_checkpoint
from mossnet_tg.codegen.moss_file import Access, Buffer, DType, Kernel, MossFile, Param, Region
from mossnet_tg.codegen.options import CompileOptions
from mossnet_tg.config import Config
from mossnet_tg.errors import ArtifactError
from mossnet_tg.targets.table import GpuTarget, parse_target
from tests.codegen.empty_models import size_class, zeros
from tests.codegen.random_models import CHUNK, MODES, config

CLANG = opencl_ir.find_clang() or ""
needs_clang = pytest.mark.skipif(not CLANG, reason="no clang, which reads the kernels (Debian: clang)")
SMALL = CompileOptions(chunk=CHUNK, context=4 * CHUNK)


def limits(target: str = "adreno") -> Limits:
    resolved = parse_target(target)
    assert isinstance(resolved, GpuTarget)
    return Limits.of(resolved)


def compiled(
    model: Config,
    folder: Path,
    target: str = "adreno",
    options: CompileOptions = SMALL,
    dtype: str = "F16",
    shared_a: bool = False,
    weights: str = "",
) -> MossFile:
    """What a checkpoint of zeros becomes."""
    checkpoint, path = zeros(model, folder, dtype, shared_a).with_weights(weights), folder / "model.moss"
    compile_checkpoint(checkpoint, parse_target(target), path, options, lambda _: None)
    return moss_file.read(path)


# ---- what is compiled


def test_limits():
    """Of an Adreno 750; the ones that no device of OpenCL 1.2 may fall below are not repeated."""
    assert limits() == Limits(
        threads=128, local_bytes=32 << 10, buffer_bytes=1 << 30, lanes=4, private_bytes=1536, arguments=128,
        argument_bytes=1024, features=frozenset({"cl_khr_fp16"}),
    )  # fmt: skip


@needs_clang
@pytest.mark.parametrize("mode", MODES)
def test_every_mode(mode, tmp_path):
    moss = compiled(config(mode), tmp_path, shared_a=MODES[mode][2])
    assert check(moss, limits(), CLANG) == []


_SWA = {"layers": [3], "window": 2048, "n_heads": 4, "n_kv_heads": 4, "head_dim": 64}
CLASS_S: Mapping[str, dict[str, Any]] = {
    "selected": {},
    "all": {"ssm": {"state_update": "all"}},
    "all_zoh_norms": {"ssm": {"state_update": "all", "discretization": "zoh", "dt_bc_norm": True}},
    "attention": {"swa": _SWA},
    "attention_instead": {"swa": {**_SWA, "replaces_time_mix": True, "rope_theta": None}},
    "attention_to_all": {"swa": {**_SWA, "window": None}},
}


@needs_clang
@pytest.mark.parametrize("mode", CLASS_S)
def test_class_s(mode, tmp_path):
    moss = compiled(size_class("S", **CLASS_S[mode]), tmp_path, options=CompileOptions())
    assert moss.meta["features"] == "" and check(moss, limits(), CLANG) == []


@needs_clang
def test_float16_arithmetic(tmp_path):
    moss = compiled(size_class("S", swa=_SWA), tmp_path, "adreno:half=1", CompileOptions())
    assert moss.meta["features"] == "cl_khr_fp16" and check(moss, limits("adreno:half=1"), CLANG) == []


@needs_clang
def test_float32_weights(tmp_path):
    assert check(compiled(config("selected"), tmp_path, dtype="F32"), limits(), CLANG) == []


@needs_clang
@pytest.mark.parametrize("weights", ["q8", "q4"])
def test_quantised_weights(weights, tmp_path):
    moss = compiled(size_class("S"), tmp_path, options=CompileOptions(), weights=weights)
    assert weights in moss.meta["weights"].split() and check(moss, limits(), CLANG) == []


@needs_clang
def test_class_l():
    """1034 million parameters and the embedding, as the file that goes to a phone."""
    with tempfile.TemporaryDirectory(prefix="mossnet-class-l-") as folder:  # pytest would keep three of them
        if shutil.disk_usage(folder).free < 4 << 30:
            pytest.skip(f"the file has 2.2 GB, and {folder} has not twice as much")
        model = size_class("L")
        moss = compiled(model, Path(folder), options=CompileOptions())
        assert Path(folder, "model.moss").stat().st_size > moss.weights_bytes > 2 * 1_070_000_000
        assert Config.from_json(moss.meta["config"]) == model
        assert check(moss, limits(), CLANG) == []


@needs_clang
def test_every_clang_reads_the_same(tmp_path):
    """LLVM's code is written in two ways: since 15 pointers have no types."""
    kernels = checker.kernels(compiled(config("selected"), tmp_path))
    found = {}
    for name in {CLANG, *filter(None, map(shutil.which, ("clang-14", "clang-15", "clang-19")))}:
        bodies = [k.body for k in checker.read(kernels, name)]
        found[name] = [(b.block, len(b.arguments), b.local_bytes, b.lanes, b.calls) for b in bodies]
    assert all(one == found[CLANG] for one in found.values())


# ---- what the checker sees

SOURCE = """__kernel __attribute__((reqd_work_group_size(64, 1, 1)))
void k0(
    __global float * restrict out,
    __global const half * restrict w) {
  const int block_x = (int)get_group_id(0);
  const int thread_x = (int)get_local_id(0);
  __local float shared[64];
  float r[4];
  vstore4(vload_half4(0, w + ((block_x * 256) + (thread_x * 4))), 0, r + 0);
  shared[thread_x] = r[0] + r[3];
  barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
  for (int i = 0; i < 4; ++i) {
    r[i] = shared[(thread_x + i) & 63];
  }
  out[thread_x] = r[0] + r[1];
}
"""
LAST = "  out[thread_x] = r[0] + r[1];\n"
RECORD = Kernel("k0", (Param(256, Access.WRITTEN), Param(512, Access.READ)), 0, 0, (64, 1, 1), 256)


def made(source: str = SOURCE, features: str = "", buffers: Sequence[Buffer] = (), **record: Any) -> MossFile:
    """A file of a kernel with `source` and the `record`, and of one behind it that is as it should be."""
    good = SOURCE.replace("k0", "k1")
    n = len(source)
    kernels = [
        dataclasses.replace(RECORD, code_bytes=n, **record),
        dataclasses.replace(RECORD, name="k1", code_offset=n, code_bytes=len(good)),
    ]
    return MossFile(
        model_hash=bytes(32), vocab_size=1, chunk=1, max_context=0, n_params=2, state_bytes=0, arena_bytes=0,
        io_bytes=0, weights_bytes=0, buffers=buffers, kernels=kernels, steps=[], entries=[],
        code=(source + good).encode(), meta={"driver": "opencl", "features": features},
    )  # fmt: skip


def changed(old: str, new: str) -> str:
    assert old in SOURCE
    return SOURCE.replace(old, new)


def last(new: str) -> str:
    """The source with another last line."""
    return changed(LAST, "".join(f"  {line}\n" for line in new.splitlines()))


def arguments(n: int) -> str:
    more = "".join(f",\n    __global const float * restrict p{i}" for i in range(n - 2))
    return changed("restrict w) {", f"restrict w{more}) {{")


def another_argument(text: str) -> str:
    return changed("restrict w) {", f"restrict w,\n    {text}) {{")


def params(n: int) -> tuple[Param, ...]:
    return RECORD.params[:1] * n


REFUSED = {f"OpenCL C as {version}" for version in opencl_ir.VERSIONS}
NO_BUFFER, LONG, PRIVATE = {"arguments that are no buffers"}, {"integers of 64 bits"}, {"bytes of private arrays"}
FP16 = "#pragma OPENCL EXTENSION cl_khr_fp16 : enable\n"
FP64 = "#pragma OPENCL EXTENSION cl_khr_fp64 : enable\n"
HALF_SUM = "half s = w[0];\nfor (int i = 1; i < block_x; ++i) s += w[i];\nout[thread_x] = s;"
PRIVATE_ARRAY = "float a[400];\nfor (int i = 0; i < 400; ++i) a[i] = out[i];\nout[thread_x] = a[(int)r[0]];"

# what breaks a rule: (the rules, the source, what else of the file)
BROKEN: Mapping[str, tuple[set[str], str, dict[str, Any]]] = {
    "group": ({"threads of a group"}, changed("size(64, 1", "size(64, 4"), {"block": (64, 4, 1)}),
    "local memory": ({"bytes of local memory"}, changed("shared[64]", "shared[8193]"), {"local_bytes": 32772}),
    "arguments": ({"arguments", "bytes of arguments"}, arguments(129), {"params": params(129)}),
    "name": ({"names"}, changed("void k0", "void k2"), {}),
    "another function": ({"names", "definitions"}, "void f(void) {}\n" + SOURCE, {}),
    "a global": ({"definitions"}, "__constant int three = 3;\n" + SOURCE, {}),
    "a comment": ({"characters"}, SOURCE + "// }\n", {}),
    "a text": ({"characters"}, last('out[0] = "3"[0];'), {}),
    "a macro": ({"directives"}, "#define N 64\n" + SOURCE, {}),
    "an extension that the file does not name": ({"directives"}, FP16 + SOURCE, {}),
    "an extension that the device has not": ({"features"}, FP64 + SOURCE, {"features": "cl_khr_fp64"}),
    "no type": (REFUSED, changed("const int block_x", "const nint block_x"), {}),
    "an unused variable": (REFUSED, last("int n = 3;"), {}),
    "a comparison of signs": (REFUSED, last("if (thread_x < 3u) out[0] = r[0];"), {}),
    "a float64": (REFUSED, last("double d = r[0];\nout[thread_x] = d;"), {}),
    "a float64 constant": (REFUSED, last("out[thread_x] = r[0] * 0.5;"), {}),
    "a float64 conversion": (REFUSED, last("out[thread_x] = (float)convert_double(r[0]);"), {}),
    "a float64 that the file names": (
        {"features", "float64"}, FP64 + last("out[thread_x] = r[0] * 0.5;"), {"features": "cl_khr_fp64"},
    ),
    "float16 arithmetic": (REFUSED, last("out[thread_x] = w[0] * w[1];"), {}),
    "a float16 variable": (REFUSED, last("half h;\nvstore_half_rte(r[0], 0, &h);"), {}),
    "float16 that the kernel does not ask for": (
        REFUSED, last("out[thread_x] = w[0] * w[1];"), {"features": "cl_khr_fp16"},
    ),
    "a subgroup": (REFUSED, last("out[thread_x] = sub_group_reduce_add(r[0]);"), {}),
    "a function pointer": (REFUSED, last("float (*f)(float) = sqrt;\nout[thread_x] = f(r[0]);"), {}),
    "an array of variable length": (REFUSED, last("float a[block_x];\nout[thread_x] = a[0];"), {}),
    "what only version 2.0 has": (
        REFUSED - {"OpenCL C as CL2.0"}, last("const float *p = out;\nout[thread_x] = p[0];"), {},
    ),
    "another group": ({"group of the source"}, changed("size(64, 1", "size(32, 2"), {}),
    "no group": ({"group of the source"}, changed(" __attribute__((reqd_work_group_size(64, 1, 1)))", ""), {}),
    "other local memory": ({"local memory of the source"}, changed("shared[64]", "shared[65]"), {}),
    "another argument": ({"arguments of the source"}, arguments(3), {}),
    "a number as argument": (NO_BUFFER, another_argument("int n"), {"params": params(3)}),
    "local memory as argument": (NO_BUFFER, another_argument("__local int *n"), {"params": params(3)}),
    "a wide vector": ({"lanes of a vector"}, last("vstore8(vload8(0, out) * 2.0f, 0, out);"), {}),
    "a long": (LONG, last("const long n = (long)thread_x * block_x;\nout[n] = r[0];"), {}),
    "a size_t": (LONG, last("const size_t n = get_local_id(0);\nout[n] = r[0];"), {}),
    "a position as index": (LONG, last("out[get_local_id(0)] = r[0];"), {}),
    "a position computed with": (LONG, last("out[(int)(get_local_id(0) * 2)] = r[0];"), {}),
    "a position compared": (LONG, last("if (get_local_id(0) == 0) out[0] = r[0];"), {}),
    "an offset computed with": (LONG, last("out[thread_x * 4ul] = r[0];"), {}),
    "an offset of vload": (LONG, last("vstore4(vload4(thread_x, out), 0, out);"), {}),
    "a constant of 64 bits": (LONG, last("if (thread_x < 4294967296 - block_x) out[0] = r[0];"), {}),
    "a vector of longs": (LONG, last("long2 n = (long2)(thread_x, 1);\nout[(int)n.s0] = r[0];"), {}),
    "a sum in float16": ({"sums in float16"}, FP16 + last(HALF_SUM), {"features": "cl_khr_fp16"}),
    "a subnormal constant": ({"subnormal constants"}, last("out[thread_x] = r[0] * 1e-39f;"), {}),
    "recursion": ({"functions"}, last("if (block_x > 3) k0(out, w);"), {}),
    "fma": ({"functions"}, last("out[thread_x] = fma(r[0], r[1], r[2]);"), {}),
    "an atomic": ({"functions"}, last("atomic_inc((__global int *)out);"), {}),
    "a thread's array": (PRIVATE, last(PRIVATE_ARRAY), {}),
}  # fmt: skip


@needs_clang
def test_nothing_is_found_where_nothing_is():
    assert check(made(), limits(), CLANG) == []


@needs_clang
@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_found(name):
    rules, source, rest = BROKEN[name]
    found = check(made(source, **rest), limits(), CLANG)
    assert {v.rule for v in found} == rules, "\n".join(map(str, found))
    assert {v.kernel for v in found} <= {"k0", ""}, "the kernel behind it is as it should be"
    assert all(v.found and v.allowed for v in found)


def test_every_rule_is_among_them():
    tried = {rule for rules, _, _ in BROKEN.values() for rule in rules}
    assert {rule.name for rule in (*RECORD_RULES, *TEXT_RULES, *BODY_RULES)} <= tried


@needs_clang
def test_what_a_violation_says():
    (found,) = check(made(last("out[get_local_id(0)] = r[0];")), limits(), CLANG)
    assert str(found).startswith("k0: integers of 64 bits: %") and str(found).endswith(", allowed: none")
    (found, *_) = check(made(last("int n = 3;")), limits(), CLANG)
    assert str(found) == (
        "k0: OpenCL C as CL1.2: line 15: unused variable 'n' [-Werror,-Wunused-variable], allowed: no error, no warning"
    )


@needs_clang
def test_memory_that_is_too_large():
    """Buffers that overlap are one object."""

    def arena(name: str, offset: int, n_bytes: int) -> Buffer:
        return Buffer(name, Region.ARENA, DType.F32, offset, n_bytes)

    most = 1 << 30
    fitting = [arena("a", 0, most), arena("b", most, 4), dataclasses.replace(arena("c", 256, most), region=Region.IO)]
    assert check(made(buffers=fitting), limits(), CLANG) == []
    (found,) = check(made(buffers=[arena("a", 0, most + 4)]), limits(), CLANG)
    assert str(found) == f"the file: bytes of buffer a: {most + 4}, allowed: {most}"
    (found,) = check(made(buffers=[arena("b", 512, most), arena("a", 0, 1024)]), limits(), CLANG)
    assert (found.rule, found.found) == ("bytes of buffer a", str(most + 512))


@needs_clang
def test_names_that_repeat():
    moss = made()
    twice = dataclasses.replace(moss, kernels=[moss.kernels[1], moss.kernels[1]])
    assert [v.rule for v in check(twice, limits(), CLANG)] == ["names of several kernels"]


@needs_clang
def test_heads_that_are_too_large_are_found(tmp_path):
    """An artifact that breaks a rule: attention keeps a head's sums in each thread."""
    model = size_class("S", swa={**_SWA, "n_heads": 1, "n_kv_heads": 1, "head_dim": 512})
    found = check(compiled(model, tmp_path), limits(), CLANG)
    assert {v.rule for v in found} == {"bytes of private arrays"} and all("SwaAttention" in v.kernel for v in found)


def test_another_driver():
    with pytest.raises(ArtifactError, match="the file is for cpu, expected opencl"):
        check(dataclasses.replace(made(), meta={"driver": "cpu"}), limits(), CLANG)
