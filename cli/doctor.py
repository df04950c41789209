"""`mossnet-tg doctor`: every kernel of a model on a device, held against this machine's processor."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from mossnet_tg.cli import options
from mossnet_tg.cli.console import Console, table
from mossnet_tg.cli.facts import human, layer_of
from mossnet_tg.errors import MossnetError, UsageError

if TYPE_CHECKING:
    from mossnet_tg import Model
    from mossnet_tg.cli.loading import Wanted
    from mossnet_tg.codegen.doctor import Finding
    from mossnet_tg.codegen.moss_file import MossFile

_WRONG = "update the device's driver, or take another --device or --target; please report what --json says"


@dataclass
class Row:
    """Everything that was found of the kernels of one step."""

    kernels: tuple[str, ...]
    findings: list[Finding] = field(default_factory=list)

    @property
    def what(self) -> list[str]:
        """What the steps do, the layers together."""
        return list(dict.fromkeys(layer_of(finding.label)[1] for finding in self.findings))

    @property
    def entries(self) -> list[str]:
        return list(dict.fromkeys(finding.entry for finding in self.findings))

    @property
    def worst(self) -> Finding:
        return max(self.findings, key=lambda finding: finding.error / finding.allowed)

    @property
    def passed(self) -> bool:
        return self.worst.passed


@click.command()
@options.model_argument
@options.target
@options.device
@click.option(
    "--against",
    metavar="PATH",
    help="Of a model.moss: the checkpoint that it was made of, or that compiled for this machine's cpu.",
)
@click.option("--entry", type=click.Choice(("prefill", "decode", "score")), help="Only these steps.  [default: all]")
@options.plan
@options.allow_native
@options.as_json
@options.verbosity
@click.pass_obj
def command(
    console: Console,
    model: str | None,
    target: str | None,
    device: str,
    against: str | None,
    entry: str | None,
    chunk: int | None,
    context: int | None,
    weights: str | None,
    allow_native: bool,
    as_json: bool,
) -> None:
    """Check every kernel of a model on a device.

    Drivers of GPUs give wrong results for single kernels, and then the text is nonsense and nothing says why. Here
    each step of the model runs on the device and on this machine's processor, with the same inputs, and the results
    are compared: the error is the largest difference over the largest value. Exit code 0 when all are right, 1 when one
    is not, 3 without a device. -v shows every step. Where a target with plain=... passes, its device gets plain kernels
    from then on.

    --target or --device says where a checkpoint is checked. A model.moss is checked as it is, against the checkpoint or
    against its twin for the cpu; with that, nothing needs to be compiled.

    \b
    Examples:
      mossnet-tg doctor --target vulkan
      mossnet-tg doctor ./my-model --target opencl --device "intel(r) arc" --chunk 32
      mossnet-tg doctor ./my-model --target cpu:mcpu=x86-64-v2
      mossnet-tg doctor phone/model.moss --against ./my-model
      mossnet-tg doctor ./my-model --target adreno --device adb:
    """
    from mossnet_tg.cli.loading import Wanted, load_model
    from mossnet_tg.codegen.doctor import ENTRIES, examine

    wanted = Wanted(model, target, device, chunk, context, weights, 0, allow_native)
    _check(wanted, against)
    found = load_model(console, wanted).model
    assert found.path is not None
    found_file = found.compiled
    expected = load_model(console, _reference(wanted, against, found_file)).model
    assert expected.path is not None
    expected_file = expected.compiled
    _check_twins(against, expected_file, found_file)

    kinds = [kind for kind in ENTRIES if entry in (None, kind.name.lower())]
    n_steps = sum(e.n_steps for e in expected_file.entries if e.kind in kinds)
    rows: dict[tuple[str, ...], Row] = {}
    for i, finding in enumerate(examine(expected.engine, expected_file, found.engine, found_file, kinds)):
        console.step(
            f"step {i + 1}/{n_steps}: {finding.entry} {finding.label}"
            + f", error {finding.error:.1e} in {finding.buffer}" * bool(console.verbosity)
        )
        rows.setdefault(finding.kernels, Row(finding.kernels)).findings.append(finding)
    console.clear()
    _report(console, found, found_file, expected_file, list(rows.values()), as_json)
    if not wanted.is_compiled and entry is None:
        _keep(console, wanted, found)


def _keep(console: Console, wanted: Wanted, found: Model) -> None:
    """Plain kernels that were asked for and are right are this device's from now on."""
    from mossnet_tg.codegen.remedy import remember
    from mossnet_tg.targets.table import GpuTarget, parse_target
    from mossnet_tg.targets.transport import split_place

    _, device = split_place(wanted.device)
    target = parse_target(wanted.target or found.meta("target") or "cpu", device, found.engine.library)
    if isinstance(target, GpuTarget) and target.plain and "plain=" in (wanted.target or ""):
        path = remember(target.driver, found.engine.device, target.plain)
        names = ", ".join(target.plain)
        console.note(f"kept: this device's {names} are made plainly from now on; without {path} no more")


def _check(wanted: Wanted, against: str | None) -> None:
    """Refuse what does not fit together before anything is compiled."""
    from mossnet_tg.cli.compile_model import refuse_uncompiled

    if wanted.is_compiled:
        if against is None:
            raise UsageError(
                f"{wanted.path}: a compiled model, and nothing to compare it with",
                "--against takes the checkpoint, or a model.moss that was made of it for this machine's cpu",
            )
        return
    if against is not None:
        raise UsageError("--against is for a compiled model, expected a model.moss before it", "leave it out")
    if not wanted.target and not wanted.device:
        raise UsageError("no --target and no --device, so nothing to check", "see: mossnet-tg targets")
    refuse_uncompiled(wanted.target)


def _reference(wanted: Wanted, against: str | None, found: MossFile) -> Wanted:
    """The same model for this machine's processor."""
    from mossnet_tg.cli.loading import Wanted
    from mossnet_tg.targets.table import reference_target
    from mossnet_tg.weights.quantised import BITS

    compiled = Wanted(against, allow_native=wanted.allow_native)
    if compiled.is_compiled:
        return compiled
    path = wanted.path if against is None else against
    quantised = not BITS.keys().isdisjoint(found.meta.get("weights", "").split())
    target = reference_target(found.meta.get("dot", ""), quantised)
    return Wanted(path, target, chunk=found.chunk, context=found.max_context or None, weights=wanted.weights)


def _check_twins(against: str | None, expected: MossFile, found: MossFile) -> None:
    if expected.meta["driver"] != "cpu":
        driver = expected.meta["driver"]
        raise UsageError(f"{against}: compiled for {driver}, expected a checkpoint or a model.moss for the cpu")
    if expected.model_hash != found.model_hash:
        raise UsageError(f"{against}: not the checkpoint that the compiled model was made of")
    for what, a, b in (("chunk", expected.chunk, found.chunk), ("context", expected.max_context, found.max_context)):
        if a != b:
            raise UsageError(f"{against}: compiled with --{what} {a}, the other with {b}", "compile both alike")


def _report(
    console: Console, found: Model, found_file: MossFile, expected_file: MossFile, rows: Sequence[Row], as_json: bool
) -> None:
    from mossnet_tg.cli.devices import device_of

    device = device_of(found)
    if as_json:
        console.out(json.dumps(_facts(device, found_file, expected_file, rows), indent=1) + "\n")
    else:
        for line in _lines(device, found_file, expected_file, rows):
            console.out(line.rstrip() + "\n")
    if wrong := [kernel for row in rows if not row.passed for kernel in row.kernels]:
        hint = "; ".join(filter(None, (_plainer(found_file.meta.get("target", ""), wrong), _WRONG)))
        raise MossnetError(f"{device['name']} computes {', '.join(wrong)} wrong", hint)


def _plainer(target: str, kernels: Sequence[str]) -> str | None:
    """The same target with the classes of `kernels` made in the plainest way, which is what there is to try first; None
    where it does not have the option, or had it.
    """
    from mossnet_tg.targets.table import KINDS

    kind, _, text = target.partition(":")
    given = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
    before = set(filter(None, given.get("plain", "").split("+")))
    classes = {kernel.partition("_")[2].removesuffix("_sum") for kernel in kernels}
    if kind not in KINDS or "plain" not in KINDS[kind].options or classes <= before:
        return None
    given["plain"] = "+".join(sorted(classes | before))
    return f"try --target {kind}:{','.join(f'{key}={value}' for key, value in given.items())}"


def _facts(device: dict[str, Any], found: MossFile, expected: MossFile, rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "device": device,
        "target": found.meta.get("target", ""),
        "compared_with": expected.meta.get("target", ""),
        "producer": found.meta.get("producer", ""),
        "model_hash": found.model_hash.hex(),
        "chunk": found.chunk,
        "features": [name for name in found.meta["features"].split(",") if name],
        "passed": all(row.passed for row in rows),
        "kernels": [
            {
                "kernels": list(row.kernels),
                "what": row.what,
                "entries": row.entries,
                "steps": len(row.findings),
                "error": row.worst.error if math.isfinite(row.worst.error) else None,
                "allowed": row.worst.allowed,
                "buffer": row.worst.buffer,
                "passed": row.passed,
            }
            for row in rows
        ],
    }


def _lines(device: dict[str, Any], found: MossFile, expected: MossFile, rows: Sequence[Row]) -> Iterator[str]:
    yield from (line[2:] for line in table(list(_facts_for_people(device, found, expected))))
    cells = [
        (
            " ".join(row.kernels),
            ", ".join(row.what),
            ", ".join(row.entries),
            str(len(row.findings)),
            f"{row.worst.error:.1e}",
            f"{row.worst.allowed:.0e}",
            "pass" if row.passed else "FAIL",
        )
        for row in rows
    ]
    yield from table([("kernels", "what", "of", "steps", "error", "allowed", ""), *cells], "   rrr")
    kernels = sum(len(row.kernels) for row in rows)
    wrong = sum(len(row.kernels) for row in rows if not row.passed)
    steps, worst = sum(len(row.findings) for row in rows), max(row.worst.error for row in rows)
    verdict = f"FAIL: {wrong} of {kernels} kernels" if wrong else f"pass: {kernels} kernels"
    yield f"{verdict} in {steps} steps, worst error {worst:.1e}"


def _facts_for_people(device: dict[str, Any], found: MossFile, expected: MossFile) -> Iterator[tuple[str, str]]:
    from mossnet_tg.cli.devices import lines_about

    yield "device", device["name"]
    if "api" in device:
        yield from (line for line in lines_about(device) if line[0] != "features")
    needs = found.meta["features"].replace(",", " ") or "nothing more"
    yield "target", f"{found.meta.get('target', '')}, chunk {found.chunk}, needs {needs}"
    code = f"{len(found.kernels)} kernels, {human(len(found.code))}"
    if "build_s" in device:
        code += f"; {device['n_built']} built in {device['build_s']:.2f} s, {device['n_cached']} built before"
    yield "code", code
    yield "against", f"{expected.meta.get('target', '')}, on the same inputs"
