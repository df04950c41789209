"""`mossnet-tg farm`: devices of many hosts for `tune`, through TVM's RPC tracker."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from mossnet_tg.cli import options
from mossnet_tg.cli.console import Console, table


@click.group(subcommand_metavar="tracker | serve | list")
def command() -> None:
    """Lend devices to tune: a tracker knows them all, each host that has one serves it.

    Who reaches a server can run code on its host: only for networks that you trust.

    \b
    Examples:
      mossnet-tg farm tracker --host 10.0.0.1
      mossnet-tg farm serve --tracker 10.0.0.1:9190 --key adreno-750 --device adb:R58M12ABCDE
      mossnet-tg farm list --tracker 10.0.0.1:9190
      mossnet-tg tune --target adreno --tracker 10.0.0.1:9190 --key adreno-750
    """


@command.command("tracker")
@click.option("--host", default="127.0.0.1", metavar="HOST", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=9190, metavar="N", show_default=True, help="0: any.")
@options.verbosity
@click.pass_obj
def tracker_command(console: Console, host: str, port: int) -> None:
    """Keep the list of devices, until interrupted."""
    from mossnet_tg.codegen.farm.tracker import track

    track(host, port, lambda address: console.out(f"the tracker is {address}\n"))


@command.command("serve")
@options.tracker(required=True)
@click.option("--key", metavar="KEY", required=True, help="What devices that are alike are asked for by.")
@options.device
@click.option("--port", type=click.IntRange(0, 65535), default=0, metavar="N", help="To listen on.  [default: any]")
@options.verbosity
@click.pass_obj
def serve_command(console: Console, tracker: str, key: str, device: str, port: int) -> None:
    """Offer a device of this host, or one that it reaches, until interrupted; one caller has it at a time."""
    from mossnet_tg.codegen.farm.served import Served, serve
    from mossnet_tg.codegen.farm.tracker import Address, key_of
    from mossnet_tg.remote import Runner
    from mossnet_tg.targets.transport import split_place

    address, key = Address.of(tracker), key_of(key)
    place, name = split_place(device)
    console.step("starting a runner")
    # Now, so that what is missing is said here and not to those who call.
    with Runner.at(place, console.step) if place else Runner.local() as runner:
        served = Served(runner.place if place else "", name)
        about = f"{device or 'this machine'} ({runner.cpu_name})"
    serve(address, key, served, port, lambda at: console.out(f"{about} is {key} at {address}, served on {at}\n"))


@command.command("list")
@options.tracker(required=True)
@options.as_json
@options.verbosity
@click.pass_obj
def list_command(console: Console, tracker: str, as_json: bool) -> None:
    """Show the keys that a tracker has, and how many of their devices are free."""
    from mossnet_tg.codegen.farm.tracker import Address, Tracker

    with Tracker(Address.of(tracker)) as found:
        queues = found.queues()
    if as_json:
        rows = [{"key": key, **asdict(queue)} for key, queue in queues.items()]
        console.out(json.dumps(rows, indent=1) + "\n")
        return
    if not queues:
        console.note("no devices: mossnet-tg farm serve offers one")
        return
    cells = [(key, str(queue.total), str(queue.free), str(queue.waiting)) for key, queue in queues.items()]
    for line in table([("key", "total", "free", "waiting"), *cells], "lrrr"):
        console.out(line.rstrip() + "\n")
