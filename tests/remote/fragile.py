"""What goes wrong on purpose: kernels that crash and hang when they are told to, a disk that is full."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

from tests.runtime.toy import build, compile_kernels, toy, write_toy

CRASH, HANG = 30, 31


@functools.cache
def _kernels() -> tuple[bytes, dict[str, tuple[int, int]]]:
    return compile_kernels(Path(__file__).with_name("kernels.c"), "-w")


def write_fragile(path: Path, **options: Any) -> Path:
    """A model.moss whose tokens CRASH and HANG do that; `options` are those of `toy`."""
    moss = toy(**options)
    code, at = _kernels()
    kernels = [dataclasses.replace(k, code_offset=at[k.name][0], code_bytes=at[k.name][1]) for k in moss.kernels]
    return write_toy(path, dataclasses.replace(moss, code=code, kernels=kernels))


def full_disk(folder: Path) -> Path:
    """A library for LD_PRELOAD: after FULL_DISK_AFTER bytes no unfinished file takes more."""
    source = Path(__file__).with_name("full_disk.c")
    return build(folder / "full_disk.so", [source], "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror")
