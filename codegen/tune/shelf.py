"""Where records stand, and which of them are good for a device.

The user's own come first, then those that mossnet-tg brings. A folder's records are used when everything that they say
of device, driver and compiler is so; brought ones may leave the device open ("*"), for all of a target. What was
recorded with another version is shown and not used.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

import mossnet_tg
from mossnet_tg.codegen.tune.records import Choices, Device, Records
from mossnet_tg.codegen.tuning import SCHEDULES
from mossnet_tg.errors import ArtifactError, MossnetError
from mossnet_tg.folders import write_whole
from mossnet_tg.targets import devices
from mossnet_tg.targets.host import Host, this_machine
from mossnet_tg.targets.table import CpuTarget, Target, parse_target

ANY = "*"
_BROUGHT = Path(mossnet_tg.__file__).parent / "targets" / "records"


@dataclass(frozen=True)
class Found:
    """Choices for a target, and whose they are: "" for the defaults."""

    choices: Choices
    whose: str = ""

    def said(self, tasks: Collection[str]) -> str:
        """For META: whose choices how many of a plan's tasks have; "" for none."""
        used = len(set(tasks) & set(self.choices.tasks))
        return f"{self.whose}: {used} of {len(set(tasks))} kernels" if used else ""

    @property
    def digest(self) -> str:
        """Equal for equal choices."""
        tuning = self.choices.tuning
        return json.dumps([dict(tuning.widths), {text: dict(f) for text, f in tuning.choices.items()}], sort_keys=True)


NOTHING = Found(Choices())


def records_folder() -> Path:
    """Where the user's records are kept: `MOSSNET_RECORDS_DIR`, or the user's data folder."""
    if named := os.environ.get("MOSSNET_RECORDS_DIR"):
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_data_dir("mossnet-tg", appauthor=False)) / "records"


@cache
def compiler() -> str:
    """What records are good for on the compiler's side: its schedules and TVM."""
    return f"schedules {SCHEDULES}, tvm {version('apache-tvm')}"


def _device(target: Target, facts: Mapping[str, str], n_cpus: int) -> Device:
    """`facts` are what a driver says of the device (`name`, `driver`); of a cpu: its name."""
    version = ",".join(sorted(target.features)) if isinstance(target, CpuTarget) else facts["driver"]
    return Device(target.name, target.driver, facts["name"], version, n_cpus, compiler())


def device_for(target: Target, name: str, host: Host) -> Device | None:
    """The device of a machine that runs a target, the one whose name holds `name`; None where there is none."""
    if isinstance(target, CpuTarget):
        runs = target.arch == host.cpu_arch and set(target.features) <= set(host.cpu_features)
        return _device(target, {"name": host.cpu_name}, host.cpu_count) if runs else None
    facts = devices.best(target.driver, name, host)
    return _device(target, facts, 0) if facts else None


def lookup(target: Target, name: str, host: Host | None = None) -> Found:
    """The choices that a model for `target` is compiled with, to run on the device of `host` (None: this machine) whose
    name holds `name`.

    Without such a device those that were recorded for one of that name, as for a phone that is not plugged in.
    """
    device = device_for(target, name, host or this_machine())
    if device is not None:
        return find(device)
    named = (d for _, _, d in _readable() if name and name.lower() in d.name.lower())
    fitting = (d for d in named if (d.target, d.compiler) == (target.name, compiler()))
    anybody = Device(target.name, target.driver, ANY, ANY, 0, compiler())
    return find(next(fitting, anybody))


def _readable() -> Iterator[tuple[str, Records, Device]]:
    """What `shelved` has, with the device, where that can be read."""
    for whose, records in shelved():
        try:
            device = records.device
        except ArtifactError:
            continue
        yield whose, records, device


def shelved() -> Iterator[tuple[str, Records]]:
    """("yours" or "mossnet-tg's", records) of all that there are."""
    for whose, folder in (("yours", records_folder()), ("mossnet-tg's", _BROUGHT)):
        if folder.is_dir():
            for one in sorted(folder.iterdir()):
                if (one / "device.json").exists():
                    yield whose, Records(one)


def own(device: Device) -> Path:
    """Where the user's records of a device are or would be."""
    return records_folder() / device.id


def find(device: Device) -> Found:
    """The choices for a device: the user's, else mossnet-tg's for it, else those for any of its target. Raises
    ArtifactError for records that fit and are damaged.
    """
    order: list[tuple[int, Found]] = []
    for whose, records, known in _readable():
        if known == device:
            order.append((0 if whose == "yours" else 1, Found(records.choices(), f"{whose} for {known.name}")))
        elif whose != "yours" and known == _open(device):
            order.append((2, Found(records.choices(), f"{whose} for any {device.target}")))
    return next((found for _, found in sorted(order, key=lambda pair: pair[0]) if found.choices.tasks), NOTHING)


def _open(device: Device) -> Device:
    """A device as records have it that are for any of a target."""
    return replace(device, name=ANY, version=ANY, n_cpus=0)


def why_not(recorded: Device) -> str:
    """Why records are not used on this machine; "" where they are."""
    if recorded.compiler != compiler():
        return f"no: made by {recorded.compiler}, this is {compiler()}"
    try:
        here = device_for(parse_target(recorded.target), "" if recorded.name == ANY else recorded.name, this_machine())
    except MossnetError as e:
        return f"no: {e}"
    if here is None:
        return "no: such a device is not here"
    if recorded.name == ANY or here == recorded:
        return ""
    return f"no: {'; '.join(recorded.differences(here))}"


def export(records: Records, path: Path) -> None:
    """One JSON file with everything of a device's records."""
    content = {"mossnet-tg records": 1, "files": {p.name: p.read_text() for p in _files(records.folder)}}
    try:
        write_whole(path, json.dumps(content) + "\n")
    except OSError as e:
        raise MossnetError(f"{path}: cannot be written: {e.strerror}") from None


_NAMES = ("device.json", "choices.json", "trials.jsonl", "database_workload.json", "database_tuning_record.json")


def _files(folder: Path) -> list[Path]:
    return [folder / name for name in _NAMES if (folder / name).exists()]


def take(path: Path) -> Records:
    """Records that `export` wrote become the user's; of a device that has some already, the choices are added. Raises
    ArtifactError for anything else.
    """
    expected = "a file that mossnet-tg tune export wrote"
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        if not isinstance(files, dict) or not {"device.json", "choices.json"} <= set(files) <= set(_NAMES):
            raise ValueError
    except OSError as e:
        raise ArtifactError(f"{path}: cannot be read: {e.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise ArtifactError(f"{path}: no records, expected {expected}") from None
    unfinished = records_folder() / f".import-{os.getpid()}"
    try:
        unfinished.mkdir(parents=True)
        for name, text in files.items():
            (unfinished / name).write_text(text, encoding="utf-8")
        arrived = Records(unfinished)
        arrived.choices()
        place = own(arrived.device)
        if place.exists():
            Records.open(place, arrived.device).keep(arrived.choices())
            return Records(place)
        unfinished.replace(place)
        return Records(place)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def clear(records: Records) -> None:
    """Remove a device's records."""
    shutil.rmtree(records.folder)
