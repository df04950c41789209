"""The toy model with kernels that crash and hang when they are told to."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

from tests.runtime.toy import compile_kernels, toy, write_toy

CRASH, HANG = 30, 31


@functools.cache
def _kernels() -> tuple[bytes, dict[str, tuple[int, int]]]:
    return compile_kernels(Path(__file__).with_name("kernels.c"), "-Wno-old-style-declaration", "-w")


def write_fragile(path: Path, **options: Any) -> Path:
    """A model.moss whose tokens CRASH and HANG do that; `options` are those of `toy`."""
    moss = toy(**options)
    code, at = _kernels()
    kernels = [dataclasses.replace(k, code_offset=at[k.name][0], code_bytes=at[k.name][1]) for k in moss.kernels]
    return write_toy(path, dataclasses.replace(moss, code=code, kernels=kernels))
