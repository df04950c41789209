"""Where mossnet-tg keeps what it made and can make again, and how a file gets there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mossnet_tg.errors import MossnetError


def cache_folder() -> Path:
    """Where compiled models are kept: `MOSSNET_CACHE_DIR`, or the user's cache folder."""
    if named := os.environ.get("MOSSNET_CACHE_DIR"):
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_cache_dir("mossnet-tg", appauthor=False))


def cross_folder() -> Path:
    """Where libmossnet and its runner are kept for other platforms."""
    return cache_folder() / "cross"


def make_writable(folder: Path) -> None:
    """Make `folder`, unless it is there; raises MossnetError for one that cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "not writable")
    except OSError as e:
        hint = "set MOSSNET_CACHE_DIR to a folder that can be written"
        raise MossnetError(f"{folder}: the cache folder cannot be used: {e.strerror}", hint) from None


def sha256(file: BinaryIO) -> bytes:
    """The hash of what is left of a file."""
    total = hashlib.sha256()
    while block := file.read(1 << 20):
        total.update(block)
    return total.digest()


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes `path` when the block has ended, and goes away if it fails. Raises OSError."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that appears when it is complete, or not at all. Raises OSError."""
    with appearing(path) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
