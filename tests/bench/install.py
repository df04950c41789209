"""The peers, from PyPI into the virtual environment that this runs in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable

from mossnet_tg.errors import UsageError
from tests.bench.engines import Package


def install(packages: Iterable[Package], tell: Callable[[str], None]) -> None:
    """Each that is not there, one after the other: where one fails the rest goes on, and its engine is left out later.

    Raises UsageError outside a virtual environment.
    """
    missing = [p for p in packages if not p.installed]
    if missing and sys.prefix == sys.base_prefix:
        raise UsageError(
            "this Python is no virtual environment, and packages would go into the system",
            "run it through: sh setup.sh python tests/bench/peers.py --install",
        )
    for package in missing:
        named = f"{package.name}=={package.version}" if package.version else package.name
        compiled = " (compiled here: ten minutes on two cores)" if package.cmake_args else ""
        tell(f"installing {named}{compiled}")
        if code := subprocess.run(command(package, named), env=environment(package), stdout=2).returncode:
            tell(f"{named} could not be installed: pip ended with {code}, and says why above")


def command(package: Package, named: str) -> list[str]:
    """What installs it."""
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    return [*pip, *package.options, named]


def environment(package: Package) -> dict[str, str]:
    """Of that command: the user's own flags for CMake come first."""
    if not package.cmake_args:
        return dict(os.environ)
    return {**os.environ, "CMAKE_ARGS": f"{os.environ.get('CMAKE_ARGS', '')} {package.cmake_args}".strip()}
