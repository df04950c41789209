"""Which of the machine's devices is meant: `--device [DRIVER:]NAME`, where NAME is a part of the device's name."""

from __future__ import annotations

from collections.abc import Sequence

from mossnet_tg.errors import DeviceError, MossnetError, UsageError

# libmossnet's drivers of GPUs; each has a target of the same name.
DRIVERS = ("opencl", "vulkan", "cuda")
_SEE = "mossnet-tg targets shows the devices of this machine"
_OTHERS = "name one of these, or copy {file} to a machine that has the device"
_FAILED = f"update the device's driver, or take another device or target: {_SEE}"


def split(device: str) -> tuple[str, str]:
    """(driver, a part of the name), each "" where it is not said; a driver alone means any of its devices."""
    driver, _, name = device.partition(":")
    return (driver, name) if driver in DRIVERS else ("", device)


def default_target(device: str) -> str:
    """The target where none is given: of the device's driver, or without a device the processor's."""
    driver, name = split(device)
    if name and not driver:
        known = ", ".join(f"{d}:{name}" for d in DRIVERS)
        raise UsageError(f"the device '{device}' names no driver, expected {known}, or a --target", _SEE)
    return driver or "cpu"


def wanted(what: str, driver: str, default: str, device: str) -> str:
    """The part of a device's name by which `driver` chooses for `what`; `default` is what it is without a name.

    Raises UsageError for the device of another driver, and for any where `what` runs on the processor.
    """
    named, name = split(device)
    if device and driver not in DRIVERS:
        raise UsageError(f"{what} runs on this machine's processor, --device '{device}' is for GPUs", _SEE)
    if named and named != driver:
        raise UsageError(f"{what} runs through {driver}, --device '{device}' names a device of {named}", _SEE)
    return name or default


_TYPES = ("gpu", "accelerator", "cpu")  # as the drivers prefer them


def best(driver: str, name: str) -> dict[str, str] | None:
    """The device that `driver` would take; None where there is none."""
    return best_of(named(driver, name), name)


def best_of(there: Sequence[dict[str, str]], name: str) -> dict[str, str] | None:
    """Of the devices of a driver the one that it would take; None where none is named so."""
    fitting = (d for d in there if name.lower() in _full_name(d))
    return min(fitting, key=lambda d: _TYPES.index(d["type"]), default=None)


def _full_name(device: dict[str, str]) -> str:
    """What a part is looked for in: with OpenCL's platform, as libmossnet does."""
    return f"{device.get('platform', '')} / {device['name']}".lower()


def is_processor(driver: str, name: str) -> bool:
    """Whether the device that `driver` would take is a CPU."""
    found = named(driver, name)
    return bool(found) and all(d.get("type") == "cpu" for d in found)


def explained(
    error: DeviceError, what: str, file: str, driver: str, name: str, device: str, remedy: str
) -> DeviceError:
    """`error` of a compiled `file` that found no device, or one that failed, with what can be done about it.

    `name` is what was looked for, `device` what the user asked for; `remedy` is for a machine that has nothing at all.
    """
    reason = str(error).removeprefix(f"{file[:200]}: ")  # libmossnet names the file, cut to so much
    if named(driver, name):
        remedy = _FAILED
    elif named(driver, "") and split(device)[1]:
        remedy = _OTHERS
    return DeviceError(f"{what}: {reason}", remedy.format(file=file))


def named(driver: str, name: str) -> list[dict[str, str]]:
    """The machine's devices of `driver` whose name holds `name`, as libmossnet reads it: OpenCL's platforms count."""
    from mossnet_tg.engine import Library

    try:
        found = Library.default().devices(driver)
    except MossnetError:
        return []
    return [d for d in found if name.lower() in _full_name(d)]
