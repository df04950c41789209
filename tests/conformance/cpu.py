"""The row of the driver cpu."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.conformance.suite import Block, Code, Driver
from tests.runtime.toy import compile_kernels


def unavailable() -> str | None:
    return None if shutil.which("gcc") else "no gcc to compile the kernels with"


def code(kernels: Sequence[str]) -> Code:
    block, places = compile_kernels(Path(__file__).with_name("cpu_kernels.c"), "-fno-tree-vectorize")
    return block, {name: places[name] for name in kernels}


def block_of(kernel: str) -> Block:
    return 1, 1, 1


MACHINE = "aarch64" if platform.machine() in ("aarch64", "arm64") else "x86_64"
DRIVER = Driver("cpu", unavailable, code, meta={"arch": MACHINE}, block_of=block_of, caching=None, gpu=False)
