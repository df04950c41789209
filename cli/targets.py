"""`mossnet-tg targets`: what there is to compile for, and what this machine can run."""

from __future__ import annotations

import json
import textwrap
from typing import Any

import click

from mossnet_tg.cli import options
from mossnet_tg.cli.console import Console
from mossnet_tg.errors import MossnetError


@click.command()
@options.as_json
@options.verbosity
@click.pass_obj
def command(console: Console, as_json: bool) -> None:
    """Show the targets, and whether this machine can run them.

    \b
    Examples:
      mossnet-tg targets
      mossnet-tg targets --json | jq '.[] | select(.available) | .target'
    """
    found = [_cpu(), _tinygrad()]
    if as_json:
        console.out(json.dumps(found, indent=1) + "\n")
        return
    for row in found:
        console.out(f"{row['target']:<16} {row['summary']}\n")
        for key in ("available", "machine", "spelling", "features", "threads"):
            if key in row:
                value = row[key]
                text = " ".join(value) if isinstance(value, list) else _available(row) if key == "available" else value
                console.out(
                    textwrap.fill(str(text), 100, initial_indent=f"  {key:<12} ", subsequent_indent=" " * 15) + "\n"
                )
        for name, meaning in row["options"].items():
            console.out(f"  {row['target'].partition(':')[0]}:{name}=…  {meaning}\n")


def _available(row: dict[str, Any]) -> str:
    return {True: "yes", False: f"no: {row['reason']}", None: "depends on DEVICE"}[row["available"]]


def _cpu() -> dict[str, Any]:
    from mossnet_tg.cli.machine import cpu_name
    from mossnet_tg.targets.table import KINDS, parse_target

    kind = KINDS["cpu"]
    row: dict[str, Any] = {"target": "cpu", "summary": kind.summary, "available": False, "reason": None}
    row |= {"machine": cpu_name(), "options": dict(kind.options)}
    try:
        from mossnet_tg.engine import Library

        host, target = Library.default(), parse_target("cpu")
    except MossnetError as e:
        return {**row, "reason": str(e)}
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
