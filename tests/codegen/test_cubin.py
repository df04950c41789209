"""CODE for the driver cuda: the table of images, and what the compilers of this machine make of CUDA C.

Which image a device takes is tested where it is decided: in tests/conformance/test_cuda.py.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from mossnet_tg.codegen.emit import cubin
from mossnet_tg.codegen.emit.cubin import Image, Kind
from mossnet_tg.errors import MossnetError, UsageError

SOURCE = """
extern "C" __global__ void __launch_bounds__(64) half(const float *__restrict__ x, float *__restrict__ out) {
    __shared__ float shared[64];
    shared[threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x];
    __syncthreads();
    out[blockIdx.x * 64 + threadIdx.x] = shared[63 - threadIdx.x] / 2.0f;
}
"""
COMPILERS = {one.name: one for one in cubin.compilers()}


def read(code: bytes) -> list[Image]:
    """As docs/format.md says."""
    n, zero = struct.unpack_from("<II", code)
    assert zero == 0
    records = [struct.unpack_from("<IIQQ", code, 8 + 24 * i) for i in range(n)]
    for _, _, offset, size in records:
        assert size and offset >= 8 + 24 * n and offset + size <= len(code)
    return [Image(Kind(kind), sm, code[offset : offset + size]) for kind, sm, offset, size in records]


@pytest.fixture(params=list(COMPILERS) or [pytest.param("", id="none")])
def compiler(request, monkeypatch):
    if not request.param:
        pytest.skip("no CUDA compiler: pip install 'mossnet-tg[cuda]', or a toolkit's nvcc")
    monkeypatch.setattr(cubin, "compilers", lambda: iter([COMPILERS[request.param]]))
    return COMPILERS[request.param]


def test_table_round_trip():
    images = [Image(Kind.CUBIN, 80, b"\x7fELF" * 5), Image(Kind.CUBIN, 90, b"x" * 1000), Image(Kind.PTX, 80, b".v")]
    code = cubin.encode(images)
    assert read(code) == images
    offsets = [struct.unpack_from("<Q", code, 8 + 24 * i + 8)[0] for i in range(3)]
    assert all(offset % 64 == 0 for offset in offsets)


def test_images_of_a_kernel(compiler):
    images = read(cubin.images(SOURCE, [90, 80]))
    assert [(image.kind, image.architecture) for image in images] == [
        (Kind.CUBIN, 80),
        (Kind.CUBIN, 90),
        (Kind.PTX, 80),
    ]
    for image in images[:2]:
        assert image.code.startswith(b"\x7fELF") and b".text.half" in image.code
    assert images[0].code != images[1].code
    text = images[2].code.decode()
    assert ".target sm_80" in text and ".entry half(" in text and "\0" not in text
    assert cubin.images(SOURCE, [80, 90]) == cubin.encode(images), "the same source makes the same bytes"


@pytest.mark.parametrize("architectures, ptx", [([75], 75), ([75, 90], 90), ([75, 80, 90], 80)])
def test_architecture_of_the_ptx(compiler, architectures, ptx):
    *_, last = read(cubin.images(SOURCE, architectures))
    assert (last.kind, last.architecture) == (Kind.PTX, ptx)


def test_all_architectures(compiler):
    images = read(cubin.images(SOURCE))
    assert [image.architecture for image in images] == [*cubin.ARCHITECTURES, 80]


@pytest.mark.parametrize("architecture", [80, 90])
def test_ptx_assembles(compiler, architecture, tmp_path):
    home = os.environ.get("CUDA_HOME")
    ptxas = (shutil.which("ptxas", path=str(Path(home, "bin"))) if home else None) or shutil.which("ptxas")
    if not ptxas:
        pytest.skip("no ptxas: a CUDA toolkit has it, and PyPI's nvidia-cuda-nvcc")
    (tmp_path / "kernels.ptx").write_bytes(read(cubin.images(SOURCE, [80]))[1].code)
    command = [ptxas, f"-arch=sm_{architecture}", "kernels.ptx", "-o", "kernels.cubin"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    if "Unsupported .version" in run.stderr:
        pytest.skip(f"{compiler.name} writes newer PTX than this ptxas reads: {run.stderr.splitlines()[0]}")
    assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / "kernels.cubin").read_bytes().startswith(b"\x7fELF")


def test_nan_stays_nan(compiler):
    """Fast mathematics would make a division an approximation and let NaN be compared away."""
    source = SOURCE.replace("/ 2.0f", "/ shared[threadIdx.x]")
    text = read(cubin.images(source, [80]))[1].code.decode()
    assert "div.rn.f32" in text


def test_source_with_an_error(compiler):
    with pytest.raises(MossnetError, match=r"refuses the kernels for sm_80[^$]*kernels\.cu\(2\)[^$]*nonsense"):
        cubin.images('\nextern "C" __global__ void f(nonsense x) {}', [80])


def test_unknown_architecture(compiler):
    with pytest.raises(UsageError, match=r"all of sm_80, sm_999: .* knows .*80"):
        cubin.images(SOURCE, [80, 999])


def test_no_architectures():
    with pytest.raises(UsageError, match="at least one"):
        cubin.images(SOURCE, [])


def test_no_compiler(monkeypatch):
    monkeypatch.setattr(cubin, "compilers", lambda: iter([]))
    with pytest.raises(MossnetError, match="neither NVRTC nor nvcc") as caught:
        cubin.images(SOURCE)
    assert caught.value.hint == "pip install 'mossnet-tg[cuda]'"
