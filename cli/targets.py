"""`mossnet-tg targets`: what there is to compile for, and what this machine can run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from mossnet_tg.cli import options
from mossnet_tg.cli.console import Console, filled
from mossnet_tg.cli.devices import lines_about, typed
from mossnet_tg.errors import MossnetError

if TYPE_CHECKING:
    from mossnet_tg.targets.table import Kind

# What is shown of a target besides its devices.
_SHOWN = ("available", "machine", "spelling", "features", "threads")


@click.command()
@options.as_json
@options.verbosity
@click.pass_obj
def command(console: Console, as_json: bool) -> None:
    """Show the targets, their options, and the devices of this machine that can run them.

    A part of a device's name is what --device of the other verbs takes. Compiling for a target needs no device.
    mossnet-tg devices shows those of phones and other machines too.

    \b
    Examples:
      mossnet-tg targets
      mossnet-tg targets --json | jq '.[] | select(.available) | .target'
      mossnet-tg targets --json | jq -r '.[].devices[]?.name'
    """
    from mossnet_tg.targets.table import KINDS

    found = [*(_cpu(kind) if kind.driver == "cpu" else _gpu(kind) for kind in KINDS.values()), _tinygrad()]
    if as_json:
        console.out(json.dumps(found, indent=1) + "\n")
        return
    for row in found:
        for line in _lines(row):
            console.out(line.rstrip() + "\n")


def _lines(row: dict[str, Any]) -> Iterator[str]:
    yield f"{row['target']:<16} {row['summary']}"
    for key in _SHOWN:
        if key in row:
            value = row[key]
            text = " ".join(value) if isinstance(value, list) else _available(row) if key == "available" else value
            yield filled(2, key, str(text))
    for device in row.get("devices", ()):
        yield filled(2, "device", device["name"])
        for key, text in lines_about(device):
            yield filled(4, key, text)
    for name, meaning in row["options"].items():
        yield f"  {row['target'].partition(':')[0]}:{name}=…  {meaning}"


def _available(row: dict[str, Any]) -> str:
    return {True: "yes", False: f"no: {row['reason']}", None: "depends on DEVICE"}[row["available"]]


def _row(kind: Kind) -> dict[str, Any]:
    row = {"target": kind.name, "summary": kind.summary, "driver": kind.driver, "options": dict(kind.options)}
    return {**row, "available": False, "reason": None}


def _cpu(kind: Kind) -> dict[str, Any]:
    from mossnet_tg.targets.host import cpu_name
    from mossnet_tg.targets.table import CpuTarget

    row = {**_row(kind), "machine": cpu_name()}
    try:
        from mossnet_tg.engine import Library

        host, target = Library.default(), kind.resolve({}, None)
    except MossnetError as e:
        return {**row, "reason": str(e)}
    assert isinstance(target, CpuTarget)
    return {
        **row,
        "available": True,
        "spelling": target.name,
        "arch": target.arch,
        "level": target.mcpu,
        "features": list(host.cpu_features),
        "threads": host.cpu_count,
        "libmossnet": host.version,
    }


def _gpu(kind: Kind) -> dict[str, Any]:
    row = {**_row(kind), "devices": []}
    try:
        from mossnet_tg.engine import Library

        there = Library.default().devices(kind.driver)
    except MossnetError as e:
        return {**row, "reason": str(e)}
    devices = [typed(d) for d in there if kind.device in d["name"].lower()]
    if not devices:
        return {**row, "reason": f"no device named {kind.device}, there are: {', '.join(d['name'] for d in there)}"}
    return {**row, "available": True, "devices": devices}


def _tinygrad() -> dict[str, Any]:
    # Which of its devices work is known when they are opened and not before: each has a compiler or driver of its own.
    return {
        "target": "tinygrad:DEVICE",
        "summary": "uncompiled, slow, for debugging with `generate`: PYTHON runs everywhere, CPU needs clang,"
        " CL and CUDA their drivers",
        "available": None,
        "reason": None,
        "options": {},
    }
