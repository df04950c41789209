"""Runners that are running."""

from __future__ import annotations

import re
from pathlib import Path

_RUNNER = re.compile(rb"\./mossnet-run-[0-9a-f]{16}\0--serve\0")


def n_runners(folder: Path) -> int:
    """How many serve below a folder."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_runner = _RUNNER.fullmatch((process / "cmdline").read_bytes())
            found += bool(is_runner) and (process / "cwd").resolve().is_relative_to(folder)
        except OSError:  # it has ended
            continue
    return found
