"""A machine that runs models, as far as compiling for it and choosing among its devices goes."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Protocol


class Host(Protocol):
    """`mossnet_tg.engine.Library` is this machine, `mossnet_tg.remote.Runner` another."""

    @property
    def place(self) -> str:
        """How `--device` names it; "" for this machine."""

    @property
    def version(self) -> str:
        """The version of its libmossnet."""

    @property
    def system(self) -> str:
        """`Linux` or `Android`."""

    @property
    def cpu_arch(self) -> str:
        """`x86_64` or `aarch64`."""

    @property
    def cpu_name(self) -> str:
        """What the processor calls itself."""

    @property
    def cpu_count(self) -> int:
        """The CPUs that may be used."""

    @property
    def cpu_features(self) -> tuple[str, ...]:
        """What CPU and system have, in LLVM's names."""

    def devices(self, driver: str, /) -> list[dict[str, str]]:
        """What there is to run models on through `driver`; DeviceError without any."""

    def read_bandwidth(self, n_bytes: int = ..., n_threads: int = ..., reps: int = ...) -> float:
        """Bytes per second at which memory is read."""


def this_machine() -> Host:
    """This machine."""
    from mossnet_tg.engine import Library

    return Library.default()


def called(host: Host) -> str:
    """What a text calls it."""
    return host.place or "this machine"


def cpu_name() -> str:
    """What this machine's processor calls itself, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for key in ("model name", "Hardware", "Model"):  # x86-64, older arm64, single-board computers
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() == key and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()
