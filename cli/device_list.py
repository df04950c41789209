"""`mossnet-tg devices`: what can be reached to run models on: here, on the phones that are plugged in, elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from mossnet_tg.cli import options
from mossnet_tg.cli.console import Console, filled
from mossnet_tg.cli.devices import lines_about, typed
from mossnet_tg.errors import MossnetError, UsageError

if TYPE_CHECKING:
    from mossnet_tg.targets.host import Host


@click.command()
@click.argument("places", nargs=-1, metavar="[PLACE]...")
@options.as_json
@options.verbosity
@click.pass_obj
def command(console: Console, places: tuple[str, ...], as_json: bool) -> None:
    """Show the devices that can be reached, by machine and driver, with their limits.

    Without a PLACE: those of this machine and of every phone that adb shows. A PLACE is what --device of the other
    verbs begins with: ssh:[USER@]HOST, adb:SERIAL, or adb: for the only phone. What runs models is put there first.

    \b
    Examples:
      mossnet-tg devices
      mossnet-tg devices ssh:me@box
      mossnet-tg devices --json | jq -r '.[].devices[].device'
    """
    found = []
    for place, model in ((place, "") for place in places) if places else (("", ""), *_phones()):
        console.step(f"asking {place}" if place else "asking this machine")
        found.append({**_about(place, console.step), "model": model})
    console.clear()
    if as_json:
        console.out(json.dumps(found, indent=1) + "\n")
        return
    for row in found:
        for line in _lines(row):
            console.out(line.rstrip() + "\n")


def _phones() -> list[tuple[str, str]]:
    """(place, what it calls itself) of the phones that adb shows; "adb:" where it cannot be asked, which says why."""
    from mossnet_tg.targets.transport import adb_devices

    try:
        return [(f"adb:{device.serial}", device.model) for device in adb_devices()]
    except MossnetError:
        return [("adb:", "")]


def _about(place: str, progress: Callable[[str], None]) -> dict[str, Any]:
    """What there is at a place, or why that cannot be said."""
    from mossnet_tg.targets.host import this_machine
    from mossnet_tg.targets.transport import split_place

    row = {"place": place, "available": False, "reason": None, "devices": [], "missing": {}}
    if place and split_place(place) != (place, ""):
        raise UsageError(f"'{place}' is no place, expected ssh:[USER@]HOST, adb:SERIAL or adb:")
    try:
        if not place:
            return {**row, **_devices(this_machine())}
        from mossnet_tg.remote import Runner

        with Runner.at(place, progress) as runner:
            return {**row, **_devices(runner)}
    except UsageError:
        raise
    except MossnetError as e:
        return {**row, "reason": str(e).removeprefix(f"{place}: "), "hint": e.hint}


def _devices(host: Host) -> dict[str, Any]:
    from mossnet_tg.targets.devices import DRIVERS

    before = f"{host.place}/" if host.place else ""
    found: list[dict[str, Any]] = [
        {
            "through": "cpu",
            "device": host.place,
            "name": host.cpu_name,
            "arch": host.cpu_arch,
            "threads": host.cpu_count,
            "features": list(host.cpu_features),
        }
    ]
    missing = {}
    for driver in DRIVERS:
        try:
            there = host.devices(driver)
        except MossnetError as e:
            missing[driver] = str(e)
            continue
        found += [{"through": driver, "device": f"{before}{driver}:{d['name']}", **typed(d)} for d in there]
    facts = {"place": host.place, "available": True, "system": host.system, "libmossnet": host.version}
    return {**facts, "devices": found, "missing": missing}


def _lines(row: dict[str, Any]) -> Iterator[str]:
    place = row["place"] or "this machine"
    if not row["available"]:
        yield filled(0, place, f"no: {row['reason']}")
        if row["hint"]:
            yield filled(2, "hint", row["hint"])
        return
    model = f"{row['model']}, " if row["model"] else ""
    yield filled(0, place, f"{model}{row['system']}, libmossnet {row['libmossnet']}")
    for device in row["devices"]:
        yield filled(2, device["through"], device["name"])
        about = _about_cpu(device) if device["through"] == "cpu" else lines_about(device)
        for key, text in about:
            yield filled(4, key, text)
    for driver, reason in row["missing"].items():
        yield filled(2, driver, f"no: {reason}")


def _about_cpu(device: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "machine", f"{device['arch']}, {device['threads']} threads"
    yield "features", " ".join(device["features"])
