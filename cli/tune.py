"""`mossnet-tg tune`: a device made faster, and what it was that did it."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mossnet_tg.cli import options
from mossnet_tg.cli.console import Console, is_terminal_err, table
from mossnet_tg.codegen.options import CompileOptions
from mossnet_tg.codegen.tune.wish import KERNELS, Wish
from mossnet_tg.errors import DeviceError, MossnetError, UsageError

if TYPE_CHECKING:
    from mossnet_tg.codegen.farm.farm import Farm
    from mossnet_tg.codegen.tune.measure import Limits
    from mossnet_tg.codegen.tune.records import Device, Records
    from mossnet_tg.codegen.tune.run import Report
    from mossnet_tg.codegen.tune.tuner import Trial
    from mossnet_tg.remote import Runner
    from mossnet_tg.targets.table import Target

_UNITS = {"s": 1, "m": 60, "h": 3600}
# A run of a kernel may take so long before the device is given up.
_TIMEOUT_S = 10.0


@click.command()
@click.argument("arguments", nargs=-1, metavar="[MODEL | list | export NAME FILE | import FILE | clear NAME]")
@options.target
@options.device
@click.option("--time", "duration", default="10m", metavar="TIME", show_default=True, help="How long: 90s, 10m, 1h.")
@click.option("--trials", type=click.IntRange(min=1), metavar="N", help="At most so many trials.  [default: no limit]")
@click.option("--kernels", default="", metavar="NAMES", help=f"Only these: {','.join(KERNELS)}.  [default: all]")
@click.option("-t", "--threads", type=click.IntRange(min=0), default=0, help="CPU threads.  [default: all]")
@click.option("--seed", type=int, default=0, metavar="N", show_default=True, help="Of the search and its inputs.")
@options.tracker(required=False)
@click.option("--key", metavar="KEY", default="", help="Tune on the farm's devices of this key, all that are free.")
@click.option("--report", metavar="FILE", help="Curves of the search and the table, as .html or .png.")
@options.plan
@options.as_json
@options.verbosity
@click.pass_obj
def command(
    console: Console,
    arguments: tuple[str, ...],
    target: str | None,
    device: str,
    duration: str,
    trials: int | None,
    kernels: str,
    threads: int,
    seed: int,
    tracker: str,
    key: str,
    report: str | None,
    chunk: int | None,
    context: int | None,
    weights: str | None,
    as_json: bool,
) -> None:
    """Tune a model's kernels for a device, and remember what is faster.

    The kernels that MODEL (a checkpoint; the bundled demo when left out) spends its time in are made in other ways, run
    on the device, checked against this machine's processor and timed beside the default. What beats the default in
    a last run of both is kept in the records of that device, and generate and compile use it from then on. A run may
    be stopped at any moment; the same command goes on where it was.

    list shows the records, export writes those of one device into FILE, import takes such a file, clear removes them;
    NAME is a part of the device's name, or the records' number.

    \b
    Examples:
      mossnet-tg tune
      mossnet-tg tune ./my-model --time 30m --report tuning.html
      mossnet-tg tune ./my-model --target opencl --device "opencl:intel(r) arc" --kernels scan,gemv
      mossnet-tg tune ./my-model --target adreno --tracker box:9190 --key adreno-750   (see: mossnet-tg farm)
      mossnet-tg tune list
      mossnet-tg tune export adreno adreno.json
    """
    verb, *rest = arguments or ("",)
    if verb in _VERBS:
        _VERBS[verb](console, rest, as_json)
        return
    if rest:
        raise UsageError(f"'{rest[0]}' behind the model '{verb}' is one argument too many")
    wish = Wish(_seconds(duration), trials, _kernels(kernels), seed)
    plan = options.compile_options(chunk, context)
    draw = _drawing(report)
    source = _Source(console, device, tracker, key)
    device_, found, folder = _run(console, verb or None, weights or "", target, source, wish, plan, threads)
    if as_json:
        console.out(json.dumps(_plain(found, device_, folder), indent=1) + "\n")
    else:
        for line in _table(found):
            console.out(line.rstrip() + "\n")
        for line in _verdict(found, folder):
            console.note(line)
    if draw:
        draw(found, device_)


def _run(
    console: Console,
    model: str | None,
    weights: str,
    target: str | None,
    source: _Source,
    wish: Wish,
    plan: CompileOptions,
    threads: int,
) -> tuple[Device, Report, Path]:
    from mossnet_tg.cli.compile_model import refuse_uncompiled
    from mossnet_tg.codegen.tune import shelf
    from mossnet_tg.codegen.tune.records import Records
    from mossnet_tg.targets.devices import default_target
    from mossnet_tg.targets.table import KINDS, parse_target
    from mossnet_tg.weights.checkpoint import DEMO, Checkpoint

    refuse_uncompiled(target)
    checkpoint = Checkpoint.open(DEMO if model is None else model).with_weights(weights)
    with source as runner:
        device = source.device
        resolved = parse_target(target or default_target(device, runner), device, runner)
        resolved.require_host(runner)
        name = KINDS[resolved.kind].wanted(device, runner)
        known = _device(resolved, name, runner, threads)
        folder = shelf.own(known)
        records = Records.open(folder, known)
        console.note(f"tuning {checkpoint.name} for {resolved.name} on {known.name}")
        if records.n_trials():
            console.note(f"{records.n_trials()} trials are known already")
        console.step("loading the compiler")
        from mossnet_tg.codegen.tune.run import tune

        with _Progress(console, wish) as progress:
            found = tune(
                checkpoint,
                resolved,
                source.places(runner, lambda other: _device(resolved, name, other, threads), name),
                _limits(runner, resolved, name),
                records,
                plan,
                wish,
                threads,
                progress.step,
                progress.trial,
                console.warning,
            )
    return known, found, folder


def _device(target: Target, name: str, runner: Runner, threads: int) -> Device:
    """What records are kept for. Raises DeviceError where the runner has no such device."""
    from mossnet_tg.codegen.tune import shelf

    known = shelf.device_for(target, name, runner)
    if known is None and target.driver == "cpu":
        raise DeviceError(f"{runner.place}: its processor does not run {target.name}", "leave --target out")
    if known is None:
        there = ", ".join(d["name"] for d in runner.devices(target.driver))
        raise DeviceError(f"no {target.driver} device named '{name}', there are: {there}", "name one: --device")
    return replace(known, n_cpus=threads) if threads and target.driver == "cpu" else known


class _Source(contextlib.ExitStack):
    """Where runners come from: a place, this machine, or with a tracker the farm."""

    def __init__(self, console: Console, device: str, tracker: str, key: str) -> None:
        from mossnet_tg.targets.transport import split_place

        super().__init__()
        self.console, self.tracker, self.key = console, tracker, key
        self.place, self.device = split_place(device)
        if bool(tracker) != bool(key):
            raise UsageError(
                f"--{'tracker' if tracker else 'key'} stands alone, expected --tracker HOST:PORT --key KEY"
            )
        if tracker and self.place:
            text = f"--device names the place '{self.place}', and --tracker gives places: expected a device alone"
            raise UsageError(text, f"--device '{self.device}'" if self.device else "leave --device out")
        self.farm: Farm | None = None

    def __enter__(self) -> Runner:  # type: ignore[override]  # what is entered is the runner
        from mossnet_tg.remote import Runner

        super().__enter__()
        try:
            if not self.tracker:
                return self.enter_context(Runner.at(self.place) if self.place else Runner.local())
            from mossnet_tg.codegen.farm.farm import Farm
            from mossnet_tg.codegen.farm.tracker import Address, key_of

            self.console.step("loading TVM's RPC")
            self.farm = self.enter_context(Farm(Address.of(self.tracker), key_of(self.key), self.console.step))
            runner = self.farm.first()
        except BaseException:
            self.close()
            raise
        self.device = self.device or self.farm.device
        return runner

    def places(self, first: Runner, device: Callable[[Runner], Device], name: str) -> Callable[[], Sequence[_Place]]:
        """The first runner's place, and each time more of the farm's, as long as their devices are the same."""
        known, given = device(first), False

        def more() -> list[_Place]:
            nonlocal given
            runners = self.farm.more() if self.farm else []
            fitting = [runner for runner in runners if self._is_alike(runner, known, device)]
            if not given:
                fitting.insert(0, first)
            given = True
            return [_Place(runner, name) for runner in fitting]

        return more

    def _is_alike(self, runner: Runner, known: Device, device: Callable[[Runner], Device]) -> bool:
        try:
            other = device(runner)
        except MossnetError as e:
            self.console.warning(f"{runner.place} is left out: {e}")
            return False
        if other != known:
            text = "; ".join(known.differences(other))
            self.console.warning(f"{runner.place} is left out, its device is another than the first one's: {text}")
        return other == known


def _limits(runner: Runner, target: Target, name: str) -> Limits:
    from mossnet_tg.codegen.tune.measure import Limits
    from mossnet_tg.targets import devices

    facts = devices.best(target.driver, name, runner) if target.driver != "cpu" else None
    return Limits(int(facts["max_block"]), int(facts["local_bytes"])) if facts else Limits(1 << 30, 1 << 30)


class _Place:
    """A runner, as tuning needs it."""

    def __init__(self, runner: Runner, device: str) -> None:
        self.runner, self.device = runner, device

    def load(self, path: Path) -> Any:
        runner, device = self.runner, self.device
        return runner.load(path, allow_native=True, device=device, cache_dir="", timeout_s=_TIMEOUT_S, keep=False)

    def load_whole(self, path: Path) -> Any:
        if not self.runner.transport.shares_files:
            return self.runner.load(path, allow_native=True, device=self.device)
        from mossnet_tg.codegen.cache import program_folder
        from mossnet_tg.engine import CompiledModel

        return CompiledModel(path, allow_native=True, device=self.device, cache_dir=program_folder())

    def restart(self) -> None:
        self.runner.restart()


class _Progress:
    """A bar for people, lines with -v."""

    def __init__(self, console: Console, wish: Wish) -> None:
        self.console, self.wish, self.n_trials = console, wish, 0
        self.best: dict[str, float] = {}
        self.bar: Any = None

    def __enter__(self) -> _Progress:
        if is_terminal_err() and not self.console.verbosity:
            from tqdm import tqdm

            form = "{desc}  {percentage:3.0f}%|{bar}| {elapsed} of {total:.0f} s"
            self.console.clear()
            self.bar = tqdm(total=self.wish.time_s, bar_format=form, file=sys.stderr, leave=False, dynamic_ncols=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def step(self, text: str) -> None:
        if self.bar is None:
            self.console.step(text)
        else:
            self.bar.set_description_str(text[:60])

    def trial(self, trial: Trial) -> None:
        self.n_trials += 1
        if trial.outcome.ratio is not None:
            self.best[trial.task] = min(self.best.get(trial.task, 1.0), trial.outcome.ratio)
        kernel = trial.task.partition(" ")[0]
        best = 1 / self.best.get(trial.task, 1.0)
        if self.bar is not None:
            self.bar.n = min(trial.at_s, self.wish.time_s)
            self.bar.set_description_str(f"{self.n_trials} trials, {kernel} best {best:.2f}x")
        else:
            outcome = trial.outcome
            said = f"{1 / outcome.ratio:.2f}x" if outcome.ratio else f"{outcome.status}: {outcome.text}"
            again = " (known)" if trial.remembered else ""
            self.console.step(f"trial {self.n_trials}: {kernel} {trial.choice.key}: {said}{again}")


# ---- what is shown


def _table(report: Report) -> Sequence[str]:
    from mossnet_tg.cli.tune_report import COLUMNS, cells

    return list(table([COLUMNS, *map(cells, report.rows)], "llrrrrrrl"))


def _verdict(report: Report, folder: Path) -> Sequence[str]:
    ended = ", ".join(f"{n} {status}" for status, n in sorted(report.ended.items(), key=lambda pair: -pair[1]))
    lines = [f"{len(report.trials)} trials in {report.seconds:.0f} s ({ended or 'none'})"]
    if report.n_remembered:
        lines[0] += f", {report.n_remembered} of them known before"
    if report.n_devices > 1:
        lines[0] += f", on {report.n_devices} devices"
    if report.tuned_s:
        lines.append(
            f"end to end, in turns: a token {report.default_s * 1e6:.0f} us with the defaults,"
            f" {report.tuned_s * 1e6:.0f} us tuned: {report.ratio:.2f}x; prompts {report.prefill_ratio:.2f}x"
        )
    if report.kept:
        lines.append(f"generate and compile use it from now on; the records: {folder}")
    else:
        lines.append("nothing beat the defaults, which stay")
    return lines


def _plain(report: Report, device: Device, folder: Path) -> dict[str, Any]:
    rows = [{**asdict(row), "ratio": row.ratio} for row in report.rows]
    return {
        "device": asdict(device),
        "records": str(folder),
        "ratio": report.ratio,
        "prefill_ratio": report.prefill_ratio,
        "default_s": report.default_s,
        "tuned_s": report.tuned_s,
        "kept": report.kept,
        "seconds": report.seconds,
        "n_trials": len(report.trials),
        "n_remembered": report.n_remembered,
        "n_discarded": report.n_discarded,
        "n_devices": report.n_devices,
        "ended": dict(report.ended),
        "kernels": rows,
    }


def _drawing(path: str | None) -> Callable[[Report, Device], None] | None:
    """What writes --report; refuses at once what could not be written after minutes."""
    if path is None:
        return None
    from mossnet_tg.cli.tune_report import drawing

    return drawing(Path(path))


# ---- records


def _list(console: Console, rest: Sequence[str], as_json: bool) -> None:
    from mossnet_tg.codegen.tune import shelf

    _expect(rest, "list", 0)
    found = [_about(whose, records) for whose, records in shelf.shelved()]
    if as_json:
        console.out(json.dumps(found, indent=1) + "\n")
        return
    if not found:
        console.note("no records: mossnet-tg tune makes some")
        return
    for one in found:
        console.out(f"{one['id']}  {one.get('device', {}).get('name', 'damaged')}\n")
        for key in ("target", "whose", "kernels", "trials", "used", "error"):
            if key in one:
                console.out(f"  {key:<8} {one[key]}\n")


def _about(whose: str, records: Records) -> dict[str, Any]:
    from mossnet_tg.codegen.tune import shelf
    from mossnet_tg.errors import ArtifactError

    about: dict[str, Any] = {"id": records.folder.name, "whose": whose}
    try:
        device = records.device
        about |= {"device": asdict(device), "target": device.target, "kernels": len(records.choices().tasks)}
        about |= {"trials": records.n_trials(), "used": shelf.why_not(device) or "yes"}
    except ArtifactError as e:
        about["error"] = str(e)
    return about


def _one(name: str) -> Records:
    """The user's records that are meant."""
    from mossnet_tg.codegen.tune import shelf
    from mossnet_tg.errors import ArtifactError

    found = []
    for whose, records in shelf.shelved():
        if whose != "yours":
            continue
        try:
            called = records.device.name
        except ArtifactError:
            called = ""
        if records.folder.name == name or (name and name.lower() in called.lower()):
            found.append(records)
    if len(found) != 1:
        there = ", ".join(r.folder.name for r in found) or "none"
        raise UsageError(f"'{name}' means {len(found)} of your records ({there}), expected one", "mossnet-tg tune list")
    return found[0]


def _export(console: Console, rest: Sequence[str], as_json: bool) -> None:
    from mossnet_tg.codegen.tune import shelf

    name, file = _expect(rest, "export NAME FILE", 2)
    shelf.export(_one(name), Path(file))
    console.out(f"{file}\n")


def _import(console: Console, rest: Sequence[str], as_json: bool) -> None:
    from mossnet_tg.codegen.tune import shelf

    (file,) = _expect(rest, "import FILE", 1)
    records = shelf.take(Path(file))
    device = records.device
    console.note(f"records of {device.name} for {device.target}, {len(records.choices().tasks)} kernels")
    if reason := shelf.why_not(device):
        console.warning(f"they are not used here: {reason}")
    console.out(f"{records.folder.name}\n")


def _clear(console: Console, rest: Sequence[str], as_json: bool) -> None:
    from mossnet_tg.codegen.tune import shelf

    (name,) = _expect(rest, "clear NAME", 1)
    records = _one(name)
    shelf.clear(records)
    console.note(f"removed {records.folder}")


def _expect(rest: Sequence[str], usage: str, n: int) -> Sequence[str]:
    if len(rest) != n:
        raise UsageError(f"{len(rest)} arguments, expected: mossnet-tg tune {usage}")
    return rest


_VERBS: dict[str, Callable[[Console, Sequence[str], bool], None]] = {
    "list": _list,
    "export": _export,
    "import": _import,
    "clear": _clear,
}


# ---- options


def _seconds(duration: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", duration)
    if match is None or not float(match[1]):
        raise UsageError(f"--time is '{duration}', expected a duration such as 90s, 10m or 1h")
    return float(match[1]) * _UNITS[match[2] or "s"]


def _kernels(names: str) -> tuple[str, ...]:
    found = tuple(name for name in names.split(",") if name)
    if wrong := [name for name in found if name not in KERNELS]:
        raise UsageError(f"--kernels names '{wrong[0]}', expected some of {','.join(KERNELS)}")
    return found
