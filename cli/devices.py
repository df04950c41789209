"""What there is to say of a device, for people and for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mossnet_tg.cli.facts import human

if TYPE_CHECKING:
    from mossnet_tg import Model

# What mossnet.h gives as text. Everything else is text.
_TYPES: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("memory_bytes", "max_buffer_bytes", "local_bytes", "max_block", "n_built", "n_cached"), int),
    **dict.fromkeys(("build_s", "upload_s"), float),
    "features": lambda text: [name for name in text.split(",") if name],
}


def typed(device: Mapping[str, str]) -> dict[str, Any]:
    """A device as libmossnet describes it, with numbers and lists where they are meant."""
    return {key: _TYPES.get(key, str)(value) for key, value in device.items()}


def is_gpu(model: Model) -> bool:
    """Whether the model runs through one of the drivers for GPUs (whose device may be a processor all the same)."""
    return model.meta("driver") not in (None, "cpu")


def device_of(model: Model) -> dict[str, Any]:
    """The device that the model runs on."""
    if model.path is None:  # uncompiled
        return {"name": f"tinygrad:{model.engine.device}"}
    host = model.engine.library
    device = typed(model.engine.device) if is_gpu(model) else {**model.engine.device, "name": host.cpu_name}
    return {**device, "place": host.place} if host.place else device


def in_a_line(device: Mapping[str, Any]) -> str:
    """Name, kind and driver, and the place if it is not this machine."""
    more = f" ({device['type']}; {device['api']}; driver {device['driver']})" if "api" in device else ""
    where = f" at {device['place']}" if "place" in device else ""
    return f"{device['name']}{more}{where}"


def lines_about(device: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, value) for people of what a GPU's driver says."""
    yield "type", f"{device['type']}, by {device['vendor']}"
    yield "driver", f"{device['driver']}, {device['api']}"
    yield (
        "limits",
        f"{human(device['memory_bytes'])} of memory, {human(device['max_buffer_bytes'])} in a buffer, groups of"
        f" {device['max_block']} threads that share {human(device['local_bytes'])}",
    )
    yield "features", " ".join(device["features"]) or "none"
