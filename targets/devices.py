"""Which of a machine's devices is meant: `--device [PLACE/][DRIVER:]NAME`, where NAME is a part of the device's name.

What stands before the device is taken off by `transport.split_place`; here it is [DRIVER:]NAME.
"""

from __future__ import annotations

from mossnet_tg.errors import DeviceError, MossnetError, UsageError
from mossnet_tg.targets.host import Host, called, this_machine

# libmossnet's drivers of GPUs; each has a target of the same name.
DRIVERS = ("opencl", "vulkan", "cuda")
_SEE = "mossnet-tg devices shows what there is"
_OTHERS = "name one of these, or copy {file} to a machine that has the device"
_FAILED = f"update the device's driver, or take another device or target: {_SEE}"


def split(device: str) -> tuple[str, str]:
    """(driver, a part of the name), each "" where it is not said; a driver alone means any of its devices."""
    driver, _, name = device.partition(":")
    return (driver, name) if driver in DRIVERS else ("", device)


def default_target(device: str, host: Host | None = None) -> str:
    """The target where none is given: of the device's driver, or without a device the processor's; on a phone that of
    its GPU, if it is one that there is a target for.
    """
    driver, name = split(device)
    is_phone = host is not None and host.place.startswith("adb:")
    if (
        is_phone
        and driver in ("", "opencl")
        and any("adreno" in d["name"].lower() for d in named("opencl", name, host))
    ):
        return "adreno"
    if name and not driver:
        known = ", ".join(f"{d}:{name}" for d in DRIVERS)
        raise UsageError(f"the device '{device}' names no driver, expected {known}, or a --target", _SEE)
    return driver or "cpu"


def wanted(what: str, driver: str, default: str, device: str, host: Host | None = None) -> str:
    """The part of a device's name by which `driver` chooses for `what`; `default` is what it is without a name.

    Raises UsageError for the device of another driver, and for any where `what` runs on the processor.
    """
    named, name = split(device)
    if device and driver not in DRIVERS:
        where = called(host) if host is not None else "this machine"
        raise UsageError(f"{what} runs on {where}'s processor, --device '{device}' is for GPUs", _SEE)
    if named and named != driver:
        raise UsageError(f"{what} runs through {driver}, --device '{device}' names a device of {named}", _SEE)
    return name or default


_TYPES = ("gpu", "accelerator", "cpu")  # as the drivers prefer them


def best(driver: str, name: str, host: Host | None = None) -> dict[str, str] | None:
    """The device that `driver` would take; None where there is none."""
    return min(named(driver, name, host), key=lambda d: _TYPES.index(d["type"]), default=None)


def is_processor(driver: str, name: str, host: Host | None = None) -> bool:
    """Whether the device that `driver` would take is a CPU."""
    found = named(driver, name, host)
    return bool(found) and all(d.get("type") == "cpu" for d in found)


def explained(
    error: DeviceError,
    what: str,
    file: str,
    driver: str,
    name: str,
    device: str,
    remedy: str,
    host: Host | None = None,
) -> DeviceError:
    """`error` of a compiled `file` that found no device, or one that failed, with what can be done about it.

    `name` is what was looked for, `device` what the user asked for; `remedy` is for a machine that has nothing at all.
    """
    reason = str(error).removeprefix(f"{file[:200]}: ")  # libmossnet names the file, cut to so much
    if named(driver, name, host):
        remedy = _FAILED
    elif named(driver, "", host) and split(device)[1]:
        remedy = _OTHERS
    return DeviceError(f"{what}: {reason}", remedy.format(file=file))


def named(driver: str, name: str, host: Host | None = None) -> list[dict[str, str]]:
    """A machine's devices of `driver` whose name holds `name`, as libmossnet reads it: OpenCL's platforms count.

    `host` None is this machine, here and in the other functions.
    """
    try:
        found = (host or this_machine()).devices(driver)
    except MossnetError:
        return []
    return [d for d in found if name.lower() in f"{d.get('platform', '')} / {d['name']}".lower()]
