"""Writing a reference checkpoint (SPEC.md): a folder with config.json and model.safetensors."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from mossnet_tg.config import Config

# A 16-bit A_log or step bias is an error of the decay that grows with the context; a router's may pick another expert.
# The rest of these are too small to be worth rounding.
_SENSITIVE = re.compile(r"norm|\.A_log$|\.D$|\.bias$|\.conv\.|\.router\.")


def is_sensitive(name: str) -> bool:
    """Whether a tensor stays float32 when a checkpoint is written in a 16-bit type."""
    return _SENSITIVE.search(name) is not None


def write(folder: Path, config: Config, tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> None:
    """Write both files; see MossNet.save for `dtype`."""
    small = dtype in (torch.float16, torch.bfloat16)
    stored = {
        name: t.detach().to(torch.float32 if small and is_sensitive(name) else dtype or torch.float32).contiguous()
        for name, t in tensors.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "model.safetensors", to_bytes(stored, {"format": "pt"}))
    write_atomically(folder / "config.json", (json.dumps(config.to_dict(), indent=1) + "\n").encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file at `path` as a whole: a reader (or a memory map) has the old one or the new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(content)
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)  # mkstemp makes files that only their owner reads
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise
