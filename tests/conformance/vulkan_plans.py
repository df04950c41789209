"""Plans for tests of the vulkan driver alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from mossnet_tg.engine import CompiledModel, Session
from tests.conformance import vulkan
from tests.conformance.vulkan import kernel

READ, WRITTEN, BOTH = Access.READ, Access.WRITTEN, Access.READ | Access.WRITTEN
ROW = 1024  # bytes of what a toy kernel takes

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Module:
    """A kernel: its SPIR-V, and what the plan says of it."""

    code: bytes
    params: Sequence[Access]
    block: tuple[int, int, int] = (64, 1, 1)
    grid: tuple[int, int, int] = (4, 1, 1)
    local_bytes: int = 0


_TOYS: dict[str, dict[str, Any]] = {
    "add": {"params": (READ, READ, WRITTEN)},
    "scale": {"params": (BOTH,)},
    "reverse": {"params": (READ, WRITTEN), "block": (256, 1, 1), "grid": (1, 1, 1), "local_bytes": 1024},
    "slow": {"params": (READ, BOTH), "block": (vulkan.SLOW_THREADS, 1, 1), "grid": (1, 1, 1)},
    "touch": {"params": (READ, WRITTEN)},
}


def toy(name: str, **changes: Any) -> Module:
    """A toy kernel, with what the plan says of it changed."""
    return Module(**{"code": kernel(*vulkan.KERNELS[name]), **_TOYS[name], **changes})


class Plan:
    """`buffers`: region, offset and bytes by name; those of IO follow. `steps`: a kernel and its buffers; all are the
    entry decode. `code` replaces the kernels' in the file.
    """

    def __init__(
        self,
        codes: Mapping[str, Module],
        buffers: Mapping[str, tuple[Region, int, int]],
        steps: Sequence[tuple[str, ...]],
        features: str = "",
        code: bytes | None = None,
    ) -> None:
        table = [Buffer(name, region, DType.F32, at, n) for name, (region, at, n) in buffers.items()]
        for i, name in enumerate(("ids", "params", "logits")):
            table.append(Buffer(name, Region.IO, DType.F32 if name == "logits" else DType.I32, ROW * i, ROW))
        self.index = {b.name: i for i, b in enumerate(table)}
        self.sizes = [b.bytes for b in table]
        names, modules, kernels = list(codes), b"", []
        for name, c in codes.items():
            params = tuple(Param(0, access) for access in c.params)
            kernels.append(Kernel(name, params, len(modules), len(c.code), c.block, c.local_bytes))
            modules += c.code
        records = [Step(names.index(k), tuple(self.index[b] for b in args), codes[k].grid, k) for k, *args in steps]
        ends = {region: max((b.offset + b.bytes for b in table if b.region == region), default=0) for region in Region}
        ends[Region.STATE] += 100  # which belong to no buffer
        io = (self.index["ids"], self.index["params"], self.index["logits"])
        self.file = MossFile(
            model_hash=bytes(32),
            vocab_size=ROW // 4,
            chunk=1,
            max_context=0,
            n_params=2,
            state_bytes=ends[Region.STATE],
            arena_bytes=ends[Region.ARENA],
            io_bytes=ends[Region.IO],
            weights_bytes=ends[Region.WEIGHTS],
            buffers=table,
            kernels=kernels,
            steps=records,
            entries=[
                Entry("decode", EntryKind.DECODE, 0, len(records), 1, 1, *io),
                Entry("prefill", EntryKind.PREFILL, 0, 0, 1, 1, *io),
            ],
            code=modules if code is None else code,
            meta={"driver": "vulkan", "features": features},
        )

    def write(self, path: Path, weights: Sequence[tuple[int, Array]] = ()) -> Path:
        write(path, self.file, weights)
        return path

    def put(self, session: Session, name: str, values: Array) -> None:
        session.write(self.index[name], values)

    def get(self, session: Session, name: str, dtype: Any = np.float32) -> Array:
        """A whole buffer."""
        out = np.full(self.sizes[self.index[name]] // np.dtype(dtype).itemsize, 77, dtype)
        session.read(self.index[name], out)
        return out


A, B = np.arange(256, dtype=np.float32), np.full(256, 0.5, np.float32)
SUM = {"a": (Region.STATE, 0, ROW), "b": (Region.STATE, ROW, ROW), "sum": (Region.ARENA, 0, ROW)}


def sum_plan(**options: Any) -> Plan:
    """logits = 2 (a + b) + 1, backwards."""
    codes = {name: toy(name) for name in ("add", "scale", "reverse")}
    steps = [("add", "a", "b", "sum"), ("scale", "sum"), ("reverse", "sum", "logits")]
    return Plan(codes, SUM, steps, **options)


def check_sum(plan: Plan, session: Session) -> None:
    plan.put(session, "a", A)
    plan.put(session, "b", B)
    assert np.array_equal(session.decode(0), (2 * (A + B) + 1)[::-1])


def check_works(path: Path, **options: Any) -> None:
    """A device works, from the start."""
    plan = sum_plan()
    with CompiledModel(plan.write(path), allow_native=True, **options) as model, model.session() as session:
        check_sum(plan, session)
