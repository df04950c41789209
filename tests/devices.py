"""The GPU targets that the tests run, on devices that are this machine's processor: PoCL and lavapipe.

adreno's kernels, made of threads and groups, run on PoCL as well as those that OpenCL has for processors. A row whose
driver is missing is skipped with the reason.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import pytest

from mossnet_tg.engine import Library
from mossnet_tg.errors import MossnetError
from mossnet_tg.targets.table import Target, parse_target


@dataclass(frozen=True)
class Row:
    """A target and a part of the name of the device that it is tested on; `n_threads`: to try on a cpu."""

    name: str
    target: str
    device: str = ""
    n_threads: tuple[int, ...] = (0,)

    @property
    def resolved(self) -> Target:
        return parse_target(self.target, self.device)

    @property
    def available(self) -> bool:
        return self.resolved.driver == "cpu" or not _missing(self.resolved.driver, self.device)

    def require(self) -> None:
        """Skip the test where the device is missing."""
        if not self.available:
            pytest.skip(_missing(self.resolved.driver, self.device))


CPU = Row("cpu", "cpu", n_threads=(1, 2))
ROWS = (
    Row("opencl", "opencl:simd=8", "pthread"),
    Row("adreno", "adreno", "pthread"),
    Row("vulkan", "vulkan", "llvmpipe"),
)


@functools.cache
def _missing(driver: str, device: str) -> str:
    try:
        found = [d["name"] for d in Library.default().devices(driver)]
    except MossnetError as e:
        return f"no {driver} device: {e}"
    return "" if any(device in name for name in found) else f"no {driver} device '{device}', only {', '.join(found)}"
