"""What every driver is tested with: toy kernels that each row of the suite has in its own code, and models of them.

A row is the `DRIVER` of a module of this folder, or one of its `DRIVERS`. Its code defines, by these names (float32
unless said; grid x block covers exactly the elements; a cpu runs one tile where a GPU runs a group):

- `add(a[256], b[256], out[256] written)`: out = a + b
- `scale(x[256] read and written)`: x = 2 x + 1
- `reverse(in[256], out[256] written)`: out[i] = in[255 - i], through memory that the group shares, with a barrier
- `slow(count int32[1], out int32[1] read and written)`: one thread; v = 1; count times v = v * 1664525 + 1013904223, in
  32 bits; out = v. The compiler may neither drop the loop nor find its sum.
- `touch(big[1 << 20], out[256] written)`: out[i] = big[i * 4096]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

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
from mossnet_tg.engine import CompiledModel, Session

N = 256
BIG = 1 << 20
CHUNK = 4
READ, WRITTEN = Access.READ, Access.WRITTEN
F32, I32 = DType.F32, DType.I32

Block = tuple[int, int, int]
Code = tuple[bytes, dict[str, tuple[int, int]]]


@dataclass(frozen=True)
class Driver:
    """A row of the suite.

    `code` gives CODE with the kernels that are asked for, and each one's offset and bytes. `env` stands in the
    environment of every test of the row. What comes with `small` is added for a device that has less: buffers of 8 MiB
    at most, groups of 128 threads at most that share less than 1 MiB. `caching` is added where the driver would
    otherwise not use the library's program cache. Both may be None: then the row has no such test. `title` tells the
    rows of one driver apart.
    """

    name: str
    unavailable: Callable[[], str | None]
    code: Callable[[Sequence[str]], Code]
    features: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, str] = field(default_factory=dict)
    block_of: Callable[[str], Block] | None = None
    small: Callable[[], Mapping[str, str]] | None = None
    caching: Callable[[], Mapping[str, str]] | None = dict
    gpu: bool = True
    title: str = ""


@dataclass(frozen=True)
class ToyKernel:
    """`params`: elements and access of each, 4 bytes an element."""

    params: tuple[tuple[int, Access], ...]
    block: Block
    grid: int
    local_bytes: int = 0


KERNELS = {
    "add": ToyKernel(((N, READ), (N, READ), (N, WRITTEN)), (64, 1, 1), 4),
    "scale": ToyKernel(((N, READ | WRITTEN),), (64, 1, 1), 4),
    "reverse": ToyKernel(((N, READ), (N, WRITTEN)), (256, 1, 1), 1, 1024),
    "slow": ToyKernel(((1, READ), (1, READ | WRITTEN)), (1, 1, 1), 1),
    "touch": ToyKernel(((BIG, READ), (N, WRITTEN)), (64, 1, 1), 4),
}

Values = npt.NDArray[Any]


def compute(kernel: str, memory: dict[str, Values], *buffers: str) -> None:
    """What a kernel does, in numpy."""
    a = memory[buffers[0]]
    if kernel == "add":
        memory[buffers[2]][:] = a + memory[buffers[1]]
    elif kernel == "scale":
        a[:] = np.float32(2) * a + np.float32(1)
    elif kernel == "reverse":
        memory[buffers[1]][:] = a[::-1]
    elif kernel == "touch":
        memory[buffers[1]][:] = a[:: BIG // N]
    else:
        value = 1
        for _ in range(int(a[0])):
            value = (value * 1664525 + 1013904223) & 0xFFFFFFFF
        memory[buffers[1]].view(np.uint32)[0] = value


class Toy:
    """A toy model being put together: buffers by name, steps of its entries, weights.

    It has the buffers `ids`, `params` and `logits` (256 floats, so that it can take a kernel's result). Between any two
    buffers of a region 256 bytes belong to none.
    """

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.buffers: list[Buffer] = []
        self.weights: dict[str, Values] = {}
        self.ends = dict.fromkeys(Region, 0)
        self.entries: dict[EntryKind, list[tuple[str, tuple[str, ...]]]] = {EntryKind.DECODE: [], EntryKind.PREFILL: []}
        for name, dtype, n in (("ids", I32, CHUNK), ("params", I32, 4), ("logits", F32, N)):
            self.buffer(name, Region.IO, n, dtype)

    def buffer(self, name: str, region: Region, n: int = N, dtype: DType = F32) -> str:
        """A buffer of `n` elements of 4 bytes, behind those that the region has."""
        offset = self.ends[region]
        self.buffers.append(Buffer(name, region, dtype, offset, 4 * n))
        self.ends[region] = offset + -(-4 * n // 256) * 256 + 256
        return name

    def alias(self, name: str, of: str, n: int) -> str:
        """Another name for the first `n` elements of a buffer."""
        whole = self.buffers[self.index(of)]
        self.buffers.append(Buffer(name, whole.region, whole.dtype, whole.offset, 4 * n))
        return name

    def weight(self, name: str, values: Values) -> str:
        self.weights[name] = values
        return self.buffer(name, Region.WEIGHTS, values.size)

    def step(self, kernel: str, *buffers: str, entry: EntryKind = EntryKind.DECODE) -> None:
        self.entries[entry].append((kernel, buffers))

    def index(self, name: str) -> int:
        return next(i for i, buffer in enumerate(self.buffers) if buffer.name == name)

    def memory(self) -> dict[str, Values]:
        """What the buffers hold at the start."""
        types = {F32: np.float32, I32: np.int32}
        memory: dict[str, Values] = {b.name: np.zeros(b.bytes // 4, types[b.dtype]) for b in self.buffers}
        return {**memory, **{name: values.copy() for name, values in self.weights.items()}}

    def _kernels(self, changes: Mapping[str, Mapping[str, Any]]) -> tuple[bytes, dict[str, int], list[Kernel]]:
        used = list(dict.fromkeys(kernel for steps in self.entries.values() for kernel, _ in steps)) or ["add"]
        code, places = self.driver.code(used)
        kernels = []
        for name in used:
            toy = KERNELS[name]
            block = self.driver.block_of(name) if self.driver.block_of else toy.block
            params = tuple(Param(4 * n, access) for n, access in toy.params)
            fields = {"block": block, "local_bytes": toy.local_bytes if self.driver.gpu else 0}
            kernels.append(Kernel(name, params, *places[name], **{**fields, **changes.get(name, {})}))
        return code, {name: i for i, name in enumerate(used)}, kernels

    def plan(self, changes: Mapping[str, Mapping[str, Any]], meta: Mapping[str, str]) -> MossFile:
        code, number, kernels = self._kernels(changes)
        steps: list[Step] = []
        entries = []
        uses = (self.index("ids"), self.index("params"), self.index("logits"))
        for kind, listed in self.entries.items():
            first = len(steps)
            for kernel, names in listed:
                grid = (KERNELS[kernel].grid, 1, 1)
                steps.append(Step(number[kernel], tuple(map(self.index, names)), grid, kernel))
            n_tokens = 1 if kind == EntryKind.DECODE else CHUNK
            entries.append(Entry(kind.name.lower(), kind, first, len(listed), n_tokens, 1, *uses))
        return MossFile(
            model_hash=b"\x11" * 32,
            vocab_size=N,
            chunk=CHUNK,
            max_context=0,
            n_params=4,
            state_bytes=self.ends[Region.STATE],
            arena_bytes=self.ends[Region.ARENA],
            io_bytes=self.ends[Region.IO],
            weights_bytes=self.ends[Region.WEIGHTS],
            buffers=self.buffers,
            kernels=kernels,
            steps=steps,
            entries=entries,
            code=code,
            meta={"driver": self.driver.name, "features": self.driver.features, **self.driver.meta, **meta},
        )

    def save(self, path: Path, changes: Mapping[str, Mapping[str, Any]] | None = None, **meta: str) -> Path:
        """Writes the model; `changes` are of the KERNEL records, by name."""
        placed = [(self.buffers[self.index(name)].offset, values) for name, values in self.weights.items()]
        write(path, self.plan(changes or {}, meta), placed)
        return path

    def load(
        self, path: Path, *, changes: Mapping[str, Mapping[str, Any]] | None = None, **options: Any
    ) -> CompiledModel:
        return CompiledModel(self.save(path, changes), allow_native=True, **options)

    def get(self, session: Session, name: str) -> Values:
        out = self.memory()[name]
        session.read(self.index(name), out)
        return out

    def put(self, session: Session, name: str, values: Values) -> None:
        session.write(self.index(name), np.ascontiguousarray(values))
