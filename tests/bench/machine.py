"""Where a record was taken: what decides its figures, and nothing that names the machine or its folders."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import date
from pathlib import Path

import mossnet_tg
from mossnet_tg.engine import Library
from tests.bench.engines import Package
from tests.bench.process import ROOT

# What is said of the figures decides none of them.
_CHANGES = ("status", "--porcelain", "-uno", "--", ".", ":!docs", ":!*.md")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def machine() -> dict[str, str]:
    """Facts by name."""
    library = Library.default()
    return {
        "date": str(date.today()),
        "commit": _git("rev-parse", "--short", "HEAD") + " and changes" * bool(_git(*_CHANGES)),
        "cpu": library.cpu_name,
        "cores": str(library.cpu_count),
        "vector instructions": _vector(library.cpu_features),
        "caches": _caches(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.freedesktop_os_release().get('PRETTY_NAME', 'Linux')}, Linux {platform.release()}",
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def _vector(features: Iterable[str]) -> str:
    wanted = ("neon", "dotprod", "i8mm", "sve", "avx2", "fma", "f16c", "avxvnni", "avx512f", "avx512vnni")
    return ", ".join(name for name in wanted if name in features)


def _caches() -> str:
    """The first processor's, such as `L2 1024K, L3 32768K of 2`."""
    found = []
    for index in sorted(_CACHES.glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        letter = {"Data": "d", "Instruction": "i"}.get(kind, "")
        found.append(f"L{level}{letter} {size}")
    return ", ".join(found) or "unknown"


def versions(packages: Iterable[Package]) -> dict[str, str]:
    """Of what is installed of them, of mossnet-tg and of Python."""
    found = {"mossnet-tg": mossnet_tg.__version__, "Python": platform.python_version()}
    return found | {p.name: p.installed for p in packages if p.installed}


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return "unknown"
