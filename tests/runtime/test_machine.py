"""What the library says of the machine, how it is found, and how it calls kernels."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mossnet_tg.codegen.moss_file import (
    Access,
    Buffer,
    DType,
    Entry,
    EntryKind,
    Kernel,
    MossFile,
    Param,
    Region,
    Step,
    write,
)
from mossnet_tg.engine import DECODE, CompiledModel, Library
from mossnet_tg.errors import MossnetError, UsageError
from tests.runtime.toy import ROOT, compile_kernels, toy, write_toy

# LLVM's name: the kernel's in /proc/cpuinfo
X86 = {
    "sse4.2": "sse4_2",
    "popcnt": "popcnt",
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "bmi": "bmi1",
    "bmi1": "bmi1",
    "bmi2": "bmi2",
    "lzcnt": "abm",
    "movbe": "movbe",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512cd": "avx512cd",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512vnni": "avx512_vnni",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
    "avxvnni": "avx_vnni",
    "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avx512ifma": "avx512ifma",
    "gfni": "gfni",
    "vaes": "vaes",
    "vpclmulqdq": "vpclmulqdq",
    "aes": "aes",
    "pclmul": "pclmulqdq",
    "sha": "sha_ni",
    "amx-tile": "amx_tile",
}
ARM = {
    "neon": "asimd",
    "dotprod": "asimddp",
    "fullfp16": "asimdhp",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
}


def test_features_are_the_kernels():
    info = Path("/proc/cpuinfo").read_text()
    line = next(line for line in info.splitlines() if line.startswith(("flags", "Features")))
    known, flags = (X86 if platform.machine() == "x86_64" else ARM), line.split(":")[1].split()
    features = Library.default().cpu_features
    assert {name for name in known if name in features} == {name for name, flag in known.items() if flag in flags}
    assert len(set(features)) == len(features)


def test_version_is_the_projects():
    line = next(line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("version = "))
    assert line == f'version = "{Library.default().version}"'


def test_bandwidth():
    library = Library.default()
    speed = library.read_bandwidth(16 << 20, 1, 3)
    assert 1e8 < speed < 1e13
    with pytest.raises(UsageError, match="at least 1048576 bytes"):
        library.read_bandwidth(1000, 1, 3)
    with pytest.raises(UsageError):
        library.read_bandwidth(16 << 20, 100000, 3)


def test_a_missing_library_says_how_to_build_it(tmp_path):
    program = "from mossnet_tg.engine import Library; Library.default()"
    environment = {**os.environ, "MOSSNET_LIB": str(tmp_path / "none.so"), "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert "MossnetError" in result.stderr
    assert "none.so: the library cannot be loaded" in result.stderr


def test_another_library_is_refused(tmp_path):
    source = tmp_path / "other.c"
    source.write_text("int mossnet_version(void) { return 0; }")
    subprocess.run(["gcc", "-shared", "-fPIC", source, "-o", tmp_path / "other.so"], check=True)
    with pytest.raises(MossnetError, match="mossnet_abi_version is missing"):
        Library(tmp_path / "other.so")


def test_importing_the_engine_imports_little():
    heavy = ("tinygrad", "tvm", "torch", "safetensors")
    program = f"import sys, mossnet_tg.engine; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_exports_are_the_header(tmp_path):
    header = (ROOT / "targets" / "runtime" / "mossnet.h").read_text()
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", Library.default().path], capture_output=True, text=True, check=True
    )
    exported = {line.split()[2] for line in listed.stdout.splitlines()}
    assert exported
    assert {name for name in exported if not name.startswith("mossnet_") or f"{name}(" not in header} == set()


def test_header_is_c_and_cplusplus(tmp_path):
    for language, options in (("c", ["-std=c11"]), ("c++", ["-std=c++11"])):
        source = tmp_path / "use.txt"
        source.write_text(
            '#include "mossnet.h"\nint main(void) { return (int)mossnet_abi_version() - MOSSNET_ABI_VERSION; }\n'
        )
        command = ["gcc", "-x", language, *options, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]
        subprocess.run([*command, f"-I{ROOT / 'targets' / 'runtime'}", source], check=True)


def test_kernels_of_every_number_of_parameters(tmp_path):
    """Each writes a sum to which every parameter, lo and hi contribute differently."""
    source = tmp_path / "calls.c"
    functions = []
    for n in range(1, 25):
        params = ", ".join(f"int *p{i}" for i in range(n))
        total = " + ".join(f"{i + 2} * *p{i}" for i in range(1, n)) or "0"
        functions.append(f"void k{n}({params}, int lo, int hi) {{ p0[0] = {total} + 1000 * lo + 100000 * hi; }}")
    source.write_text("\n".join(functions))
    code, at = compile_kernels(source)
    buffers = [Buffer(f"b{i}", Region.STATE, DType.I32, 256 * i, 4) for i in range(25)]
    buffers += [Buffer("io", Region.IO, dtype, 0, 8) for dtype in (DType.I32, DType.F32)]
    param = Param(4, Access.READ | Access.WRITTEN)
    moss = MossFile(
        model_hash=bytes(32),
        vocab_size=2,
        chunk=1,
        max_context=0,
        n_params=2,
        state_bytes=256 * 25,
        arena_bytes=0,
        io_bytes=256,
        weights_bytes=0,
        buffers=buffers,
        kernels=[Kernel(f"k{n}", (param,) * n, *at[f"k{n}"]) for n in range(1, 25)],
        steps=[Step(n - 1, (24, *range(1, n)), (7, 1, 1), small=True) for n in range(1, 25)],
        entries=[
            Entry("decode", EntryKind.DECODE, 0, 24, 1, 1, 25, 25, 26),
            Entry("prefill", EntryKind.PREFILL, 0, 0, 1, 1, 25, 25, 26),
        ],
        code=code,
        meta=toy().meta,
    )
    write(tmp_path / "calls.moss", moss, [])
    session = CompiledModel(tmp_path / "calls.moss", allow_native=True).session(1)
    for i in range(1, 24):
        session.write(i, np.array([i * i], np.int32))
    got = np.zeros(1, np.int32)
    for n in range(1, 25):
        session.run(DECODE, n - 1, 1)
        session.read(24, got)
        assert got[0] == sum((i + 2) * i * i for i in range(1, n)) + 700000


def test_every_tile_runs_once_whatever_the_threads(tmp_path):
    source = tmp_path / "tiles.c"
    source.write_text("void count(int *p, int lo, int hi) { for (int i = lo; i < hi; i++) p[i]++; }")
    code, at = compile_kernels(source)
    sizes = (1, 2, 3, 5, 7, 16, 100, 1000)
    io = [Buffer("io", Region.IO, dtype, 0, 8) for dtype in (DType.I32, DType.F32)]
    moss = MossFile(
        model_hash=bytes(32),
        vocab_size=2,
        chunk=1,
        max_context=0,
        n_params=2,
        state_bytes=4096,
        arena_bytes=0,
        io_bytes=256,
        weights_bytes=0,
        buffers=[Buffer("counts", Region.STATE, DType.I32, 0, 4096), *io],
        kernels=[Kernel("count", (Param(4000, Access.READ | Access.WRITTEN),), *at["count"])],
        steps=[Step(0, (0,), (n, 1, 1)) for n in sizes],
        entries=[
            Entry("decode", EntryKind.DECODE, 0, len(sizes), 1, 1, 1, 1, 2),
            Entry("prefill", EntryKind.PREFILL, 0, 0, 1, 1, 1, 1, 2),
        ],
        code=code,
        meta=toy().meta,
    )
    write(tmp_path / "tiles.moss", moss, [])
    model = CompiledModel(tmp_path / "tiles.moss", allow_native=True)
    expected = sum((np.arange(1024) < n).astype(np.int32) for n in sizes)
    for n_threads in (1, 2, 3, 8):
        session = model.session(n_threads)
        for rep in range(1, 6):
            session.decode(0)
            counts = np.zeros(1024, np.int32)
            session.read(0, counts)
            assert np.array_equal(counts, rep * expected)


def test_code_on_a_filesystem_without_exec(tmp_path):
    """A model on a noexec mount runs from a copy of its code."""
    path, mounted = write_toy(tmp_path / "toy.moss", toy()), tmp_path / "mounted"
    mounted.mkdir()
    mount = f"mount -t tmpfs -o noexec none {mounted} && cp {path} {mounted}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("this process may not mount a tmpfs")
    program = (
        "import mmap; from mossnet_tg.engine import CompiledModel\n"
        f"file = open('{mounted / path.name}', 'rb')\n"
        "try: mmap.mmap(file.fileno(), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)\n"
        "except PermissionError: pass\n"
        "else: raise SystemExit('the mount allows code')\n"
        "print(CompiledModel(file.name, allow_native=True).session(1).decode(1).shape)"
    )
    command = f'{mount} && exec "{sys.executable}" -c "{program}"'
    result = subprocess.run(["unshare", "-rm", "sh", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (result.stdout, result.returncode) == ("(32,)\n", 0), result.stderr
