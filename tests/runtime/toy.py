"""A small valid model.moss whose kernels are C: the runtime is tested without the compiler.

The model keeps a hash of the tokens it has seen; `Reference` is the same in Python.
"""

from __future__ import annotations

import functools
import platform
import shutil
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path

import numpy as np

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

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RUNTIME = ROOT / "targets" / "runtime"
LOG_CALLS = 400
BUFFERS = ("entry_decode", "entry_prefill", "entry_score", "state", "log", "ids", "params", "logits")
SIZES = {Region.STATE: 256, Region.ARENA: 16384}

READ, WRITTEN = Access.READ, Access.WRITTEN


def compile_kernels(source: Path, *flags: str) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """The .text of a C file, and offset and size of each function in it; refuses code that needs relocation."""
    with tempfile.TemporaryDirectory() as folder:
        object_file, binary = Path(folder, "kernels.o"), Path(folder, "kernels.bin")
        options = ["-O2", "-ffreestanding", "-fno-stack-protector", "-fno-jump-tables", "-fPIC"]
        subprocess.run(["gcc", *options, *flags, "-c", source, "-o", object_file], check=True)
        relocations = subprocess.run(["objdump", "-r", "-j", ".text", object_file], capture_output=True, check=True)
        assert b"R_" not in relocations.stdout, relocations.stdout.decode()
        subprocess.run(["objcopy", "-O", "binary", "-j", ".text", object_file, binary], check=True)
        symbols = subprocess.run(["nm", "-S", object_file], capture_output=True, check=True, text=True).stdout
        found = {}
        for line in symbols.splitlines():
            at, size, kind, name = line.split()
            if kind == "T":
                found[name] = (int(at, 16), int(size, 16))
        return binary.read_bytes(), found


@functools.cache
def toy_kernels() -> tuple[bytes, dict[str, tuple[int, int]]]:
    return compile_kernels(HERE / "kernels.c")


def toy(
    vocab_size: int = 32,
    chunk: int = 4,
    max_context: int = 0,
    with_score: bool = True,
    model_hash: bytes = b"\x5a" * 32,
    **meta: str,
) -> MossFile:
    """The plan; `meta` adds to META or replaces what stands there (`features="avx2,none"`)."""
    code, at = toy_kernels()
    buffers, io_bytes = [], 0
    for i in range(3):
        buffers.append(Buffer(BUFFERS[i], Region.WEIGHTS, DType.I32, 256 * i, 12))
    buffers.append(Buffer("state", Region.STATE, DType.I32, 0, 8))
    buffers.append(Buffer("log", Region.ARENA, DType.I32, 0, 4 + 32 * LOG_CALLS))
    for name, dtype, n in (
        ("ids", DType.I32, chunk),
        ("params", DType.I32, 4),
        ("logits", DType.F32, (chunk if with_score else 1) * vocab_size),
    ):
        buffers.append(Buffer(name, Region.IO, dtype, io_bytes, 4 * n))
        io_bytes += -(-4 * n // 256) * 256

    params = {
        "record": (Param(12, READ), Param(8, READ), Param(4, READ), Param(4 + 32 * LOG_CALLS, READ | WRITTEN)),
        "absorb": (Param(8, READ), Param(4, READ), Param(8, READ | WRITTEN)),
        "head": (Param(4, READ), Param(4 * vocab_size, WRITTEN)),
        "score": (Param(12, READ), Param(8, READ), Param(4, READ), Param(8, READ | WRITTEN), Param(4, WRITTEN)),
    }
    kernels = [Kernel(name, p, *at[name]) for name, p in params.items()]
    index = {name: i for i, name in enumerate(BUFFERS)}

    def step(kernel: str, *names: str, grid: int = 1, small: bool = False) -> Step:
        args = tuple(index[name] for name in names)
        return Step(list(params).index(kernel), args, (grid, 1, 1), f"{kernel}.step", small)

    steps: list[Step] = []
    entries: list[Entry] = []
    for kind in EntryKind if with_score else (EntryKind.DECODE, EntryKind.PREFILL):
        n_tokens = 1 if kind == EntryKind.DECODE else chunk
        n_logits = chunk if kind == EntryKind.SCORE else 1
        first, entry = len(steps), BUFFERS[kind]
        steps.append(step("record", entry, "params", "ids", "log", small=True))
        if kind == EntryKind.SCORE:
            steps.append(step("score", entry, "params", "ids", "state", "logits"))
        else:
            steps.append(step("absorb", "params", "ids", "state"))
            steps.append(step("head", "state", "logits", grid=vocab_size))
        use = (index["ids"], index["params"], index["logits"])
        entries.append(Entry(kind.name.lower(), kind, first, len(steps) - first, n_tokens, n_logits, *use))

    machine = "aarch64" if platform.machine() in ("aarch64", "arm64") else "x86_64"
    return MossFile(
        model_hash=model_hash,
        vocab_size=vocab_size,
        chunk=chunk,
        max_context=max_context,
        n_params=4,
        state_bytes=SIZES[Region.STATE],
        arena_bytes=SIZES[Region.ARENA],
        io_bytes=io_bytes,
        weights_bytes=256 * 2 + 12,
        buffers=buffers,
        kernels=kernels,
        steps=steps,
        entries=entries,
        code=code,
        meta={"driver": "cpu", "target": "cpu", "arch": machine, "features": "", "config": '{"toy": true}', **meta},
        tokenizer=b'{"version": "1.0"}',
    )


def write_toy(path: Path, moss: MossFile) -> Path:
    values = [(0, 1, moss.vocab_size), (1, moss.chunk, moss.vocab_size), (2, moss.chunk, moss.vocab_size)]
    write(path, moss, [(256 * i, np.array(v, np.int32)) for i, v in enumerate(values)])
    return path


class Reference:
    """What the toy model computes."""

    def __init__(self, vocab_size: int = 32) -> None:
        self.vocab_size = vocab_size
        self.hash = 0

    @staticmethod
    def _mix(value: int, token: int) -> int:
        value = (value ^ token) * 2654435761 & 0xFFFFFFFF
        return value ^ value >> 15

    def read(self, *ids: int) -> np.ndarray:
        for token in ids:
            self.hash = self._mix(self.hash, token)
        return np.array([self._mix(self.hash, v) % 2001 for v in range(self.vocab_size)], np.float32)


def build(out: Path, sources: list[Path], *flags: str) -> Path:
    """A test program of C files of the library; the compiler's messages are the test's."""
    assert shutil.which("gcc")
    common = ["-std=c11", "-D_GNU_SOURCE", '-DMOSSNET_VERSION="test"', f"-I{RUNTIME}", "-ffp-contract=off", "-pthread"]
    subprocess.run(["gcc", *common, *flags, *map(str, sources), "-o", str(out)], check=True)
    return out


def sealed(data: bytearray) -> bytearray:
    """A changed file with checksums that match: what a hostile writer makes, where an accident would be found."""
    for i in range(struct.unpack_from("<I", data, 12)[0]):
        kind, _, offset, size = struct.unpack_from("<IIQQ", data, 64 + 32 * i)
        if kind != 12 and offset + size <= len(data):
            struct.pack_into("<I", data, 64 + 32 * i + 24, zlib.crc32(data[offset : offset + size]))
    return data
