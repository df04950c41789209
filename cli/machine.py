"""This build, by name, for what is reported about it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import mossnet_tg


def commit() -> str | None:
    """The short commit of the source tree that this runs from, with "+" for changes since; None elsewhere."""
    folder = Path(mossnet_tg.__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    found = _git(folder, "rev-parse", "--short", "HEAD")
    if not found:
        return None
    return found + "+" * bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
