"""Compiled models in the user's cache folder, one file for everything that decides what is in it.

A file's name is a hash of the checkpoint's fingerprint, the target, the options and the compiler itself (its version,
those of TVM, tinygrad and tokenizers, its own source), so nothing in the cache is ever stale: it is found or it is not.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path

import mossnet_tg
from mossnet_tg.codegen import moss_file
from mossnet_tg.codegen.options import CompileOptions
from mossnet_tg.codegen.tune.shelf import NOTHING, Found
from mossnet_tg.errors import ArtifactError, UsageError
from mossnet_tg.folders import cache_folder, make_writable
from mossnet_tg.targets.table import Target
from mossnet_tg.weights.checkpoint import Checkpoint

_PACKAGE = Path(mossnet_tg.__file__).parent
# The compiler: what these files say is what a model file holds.
_SOURCES = ("ops.py", "model.py", "config.py", "codegen/**/*.py", "targets/table.py", "weights/*.py")
# The names of our own files: the folder may be one that the user keeps other things in.
_OURS = re.compile(r".*-[a-z]+-[0-9a-f]{24}\.moss")
_OURS_UNFINISHED = re.compile(r"\..*-[a-z]+-[0-9a-f]{24}\.moss\..*\.tmp")
_DAY_S = 86400


def program_folder() -> Path:
    """Where libmossnet keeps what a GPU's driver has built."""
    return cache_folder() / "programs"


def compiled_path(checkpoint: Checkpoint, target: Target, options: CompileOptions, found: Found = NOTHING) -> Path:
    """The file that holds `checkpoint` compiled for `target` with `found`'s choices, whether it is there or not."""
    parts = [checkpoint.fingerprint(), repr(target), repr(sorted(asdict(options).items())), found.digest, _compiler()]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
    return cache_folder() / f"{checkpoint.name[:64]}-{target.kind}-{key}.moss"


@cache
def _compiler() -> str:
    h = hashlib.sha256()
    for name in ("tinygrad", "apache-tvm", "apache-tvm-ffi", "tokenizers"):
        h.update(f"{name} {version(name)}\n".encode())
    for pattern in _SOURCES:
        for path in sorted(_PACKAGE.glob(pattern)):
            h.update(path.read_bytes())
    return h.hexdigest()


def cached(
    checkpoint: Checkpoint,
    target: Target,
    options: CompileOptions,
    progress: Callable[[str], None],
    found: Found = NOTHING,
) -> Path:
    """The compiled model of `checkpoint`, from the cache or made now. Raises MossnetError, also for a folder that
    cannot be written.
    """
    path, limit_bytes = compiled_path(checkpoint, target, options, found), _limit_bytes()
    if path.is_file():
        with contextlib.suppress(OSError):  # a cache that is only read serves as well
            os.utime(path)
        return path
    make_writable(path.parent)
    progress("loading the compiler")
    from mossnet_tg.codegen.compile import compile_checkpoint  # brings TVM, which takes seconds

    compile_checkpoint(checkpoint, target, path, options, progress, found)
    _prune(path, limit_bytes)
    return path


def discard_damaged(path: Path) -> bool:
    """Remove a cached file that is not as it was written; whether it was removed, so that it can be made anew.

    For a file that could not be loaded: the runtime checks every file anyway, so no start pays for this.
    """
    try:
        moss_file.read(path)
    except ArtifactError:
        path.unlink(missing_ok=True)
        return True
    return False


def _limit_bytes() -> float:
    """What the cache may hold: MOSSNET_CACHE_GIB, or 16 GiB."""
    text = os.environ.get("MOSSNET_CACHE_GIB", "16")
    try:
        return float(text) * 2**30
    except ValueError:
        raise UsageError(f"MOSSNET_CACHE_GIB is '{text}', expected a number") from None


def _prune(newest: Path, limit_bytes: float) -> None:
    """Remove the models that were not used for longest until the rest fits, and what killed compilations left."""
    with contextlib.suppress(OSError):  # another process may have been here first
        files = [(p.stat().st_mtime, p.stat().st_size, p) for p in newest.parent.iterdir() if p.is_file()]
        for used_s, size, path in sorted(files, reverse=True):
            if _OURS_UNFINISHED.fullmatch(path.name) and used_s < time.time() - _DAY_S:
                path.unlink()
            elif _OURS.fullmatch(path.name):
                limit_bytes -= size
                if limit_bytes < 0 and path != newest:
                    path.unlink()
