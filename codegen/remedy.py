"""What `mossnet-tg doctor` found out about a device: kernel classes that it gets wrong, made plainly from then on.

One file a device, named after its driver, its name and its driver's version: a new driver starts with none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mossnet_tg.errors import MossnetError
from mossnet_tg.folders import cache_folder, write_whole
from mossnet_tg.targets import devices
from mossnet_tg.targets.host import Host
from mossnet_tg.targets.table import KERNEL_CLASSES, GpuTarget, Target


def remedied(target: Target, device: str, host: Host | None = None) -> Target:
    """`target` with what is known of the device that it would run on; one that names plain kernels itself stays.

    `device` is a part of the device's name, "" for the best one; `host` the machine that has it, None for this one.
    """
    if not isinstance(target, GpuTarget) or target.plain or target.simd:
        return target
    chosen = devices.best(target.driver, device, host)
    plain = remembered(target.driver, chosen) if chosen else ()
    if not plain:
        return target
    option = f"plain={'+'.join(plain)}"
    return replace(target, plain=plain, name=f"{target.name}{',' if ':' in target.name else ':'}{option}")


def remembered(driver: str, device: Mapping[str, str]) -> tuple[str, ...]:
    """The kernel classes that the device gets wrong; a file that cannot be read says nothing."""
    try:
        found = json.loads(_path(driver, device).read_text(encoding="utf-8"))["plain"]
    except (OSError, ValueError, KeyError, TypeError):
        return ()
    return tuple(sorted(name for name in KERNEL_CLASSES if name in found))


def remember(driver: str, device: Mapping[str, str], plain: Sequence[str]) -> Path:
    """Keep it; the file. Raises MossnetError where the folder cannot be written."""
    path = _path(driver, device)
    content = {"device": device["name"], "driver": device["driver"], "plain": sorted(plain)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(content, indent=1) + "\n")
    except OSError as e:
        raise MossnetError(f"{path}: what was found cannot be kept: {e.strerror}") from None
    return path


def _path(driver: str, device: Mapping[str, str]) -> Path:
    key = hashlib.sha256(f"{driver}\n{device['name']}\n{device['driver']}".encode()).hexdigest()[:16]
    return cache_folder() / "remedies" / f"{driver}-{key}.json"
