"""One kernel, compiled, linked and called in this process."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np

from mossnet_tg.codegen.emit.llvm import compile_object
from mossnet_tg.codegen.kernels.build import Generated
from mossnet_tg.codegen.link import link
from mossnet_tg.codegen.schedules.cpu import CpuSchedule
from mossnet_tg.engine import Library
from mossnet_tg.targets.table import Target, parse_target


def host_targets() -> list[Target]:
    """This machine's own target, and the lowest level: few lanes, few registers, no float16 in hardware."""
    return [
        parse_target(name)
        for name in ("cpu", *(["cpu:mcpu=x86-64-v2"] if Library.default().cpu_arch == "x86_64" else []))
    ]


class Native:
    """A kernel in executable memory; `run` calls it tile by tile, as threads would."""

    def __init__(self, generated: Generated, name: str, target: Target) -> None:
        linked = link([compile_object(name, generated.func, target.tvm)])
        self.generated = generated
        self._memory = mmap.mmap(-1, len(linked.code), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._memory.write(linked.code)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory)) + linked.symbols[name][0]
        self._call = ctypes.CFUNCTYPE(None)(address)

    def run(self, *arrays: np.ndarray[Any, Any]) -> None:
        """Call with one array a parameter, in order; their sizes must be exactly the parameters'."""
        assert [p.n for p in self.generated.params] == [a.size for a in arrays]
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in arrays]
        for tile in range(self.generated.grid[0]):
            self._call(*pointers, ctypes.c_int32(tile), ctypes.c_int32(tile + 1))


def schedule(target: Target) -> CpuSchedule:
    return CpuSchedule.of(target)
