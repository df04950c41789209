"""The cpu emitter: kernels to object code through TVM's LLVM."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from mossnet_tg.codegen.lower import lower_cpu


def compile_object(name: str, func: Any, target: dict[str, Any]) -> bytes:
    """One kernel as an ELF object of the C function `name`; `target` is TVM's llvm target as a dict."""
    module = lower_cpu({name: func}, target)
    with tempfile.TemporaryDirectory(prefix="mossnet-tg-") as folder:
        path = Path(folder, "kernel.o")
        module.write_to_file(str(path), "o")
        return path.read_bytes()


def kernel_source(name: str, func: Any, target: dict[str, Any]) -> str:
    """The kernel as assembly, to be read."""
    text: str = lower_cpu({name: func}, target).inspect_source("asm")
    return text
