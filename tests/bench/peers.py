"""Ours beside llama.cpp, transformers, mamba.py, onnxruntime and PyTorch: the same random models, in one session."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from click.core import ParameterSource

sys.path.insert(0, str(Path(__file__).parents[2]))  # the tests are no installed package

from mossnet_tg.cli.options import Numbers
from mossnet_tg.errors import MossnetError, UsageError
from mossnet_tg.folders import write_whole
from tests.bench import chart, figures, record
from tests.bench.engines import CHART, FAMILIES, Family, Package, families
from tests.bench.install import install
from tests.bench.machine import machine, versions
from tests.bench.rounds import Plan, measure

ROOT = Path(__file__).parents[2]
DOC, PICTURE = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "benchmarks.png"
BEGIN, END = "<!-- made by tests/bench/peers.py: begin -->", "<!-- made by tests/bench/peers.py: end -->"


def tell(text: str) -> None:
    """A line of progress."""
    click.echo(text, err=True)


class Names(click.ParamType):  # type: ignore[type-arg]  # generic in some versions of click only
    """Names separated by commas."""

    name = "NAME,..."

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return tuple(part.strip() for part in value.split(",") if part.strip())


def _one_of(kind: str, known: list[str]) -> str:
    return f"{kind}: {', '.join(known)}.  [default: all]"


_ENGINES = list(dict.fromkeys(e.name for family in FAMILIES for e in family.engines))
_POSITIVE = click.IntRange(min=1)


@click.command(epilog="All samples go to peers.json, the tables to peers.md and the chart to peers.png, in --out.")
@click.option("--models", type=Names(), default="", help=_one_of("Models", [f.name for f in FAMILIES]))
@click.option(
    "--engines", type=Names(), default="", help=_one_of("Engines, or one of a type such as 'mossnet f16'", _ENGINES)
)
@click.option("--threads", type=Numbers(1), default="1,2", show_default=True, help="Numbers of threads.")
@click.option("--prefill", type=Numbers(1), default="128,512", show_default=True, help="Prompt lengths.")
@click.option("--decode", type=_POSITIVE, default=64, show_default=True, help="Tokens decoded after a prompt of 32.")
@click.option("--context", type=Numbers(0), help="Decode behind so many tokens too: ours, such as 0,1024,8192,32768.")
@click.option("--rounds", type=_POSITIVE, default=5, show_default=True, help="Rounds, of which the median is taken.")
@click.option("--starts", type=_POSITIVE, default=3, show_default=True, help="Starts, likewise.")
@click.option("--busy", is_flag=True, help="Decode beside a busy core too: ours and llama.cpp.")
@click.option("--limit", type=_POSITIVE, default=300, show_default=True, help="Seconds that an answer may take.")
@click.option("--compile-limit", type=_POSITIVE, default=600, show_default=True, help="Seconds of the first answer.")
@click.option("--install", "installs", is_flag=True, help="Install the peers that are missing, from PyPI.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=ROOT / "build" / "bench",
    help="Keeps the models.  [default: build/bench]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=ROOT / "build" / "bench",
    help="Gets the results.  [default: build/bench]",
)
@click.option("--from", "source", type=click.Path(path_type=Path), help="Measure nothing: the results of a peers.json.")
@click.option("--write-docs", is_flag=True, help="Put them into docs/benchmarks.md too.")
def main(
    models: tuple[str, ...],
    engines: tuple[str, ...],
    threads: tuple[int, ...],
    prefill: tuple[int, ...],
    decode: int,
    context: tuple[int, ...] | None,
    rounds: int,
    starts: int,
    busy: bool,
    limit: int,
    compile_limit: int,
    installs: bool,
    folder: Path,
    out: Path,
    source: Path | None,
    write_docs: bool,
) -> None:
    """Measure ours beside its peers, in turns, each in a process of its own.

    An engine whose packages are missing is left out, one that dies or hangs is named, and the rest goes on.
    """
    chosen = families(models, engines)
    options = _shown(click.get_current_context())
    if write_docs and source is None and (models or engines):
        raise UsageError("a part of the engines is no table for docs/benchmarks.md", "leave --models and --engines out")
    plan = Plan(threads, prefill, decode, context or (), rounds, starts, busy, limit, compile_limit)
    if installs:
        install(_packages(chosen), tell)
    if write_docs:
        _around()  # an hour before it is needed
        if not CHART.installed:
            raise MossnetError("--write-docs needs matplotlib", "give --install too")
    _make(out)
    if source is not None:
        found = record.read(source)
    else:
        _make(folder)
        os.environ.setdefault("MOSSNET_CACHE_DIR", str(folder.resolve() / "cache"))
        found = record.Record(options, machine(), versions(_packages(chosen)))
        for family in chosen:
            found.models.append(measure(family, folder / "models", plan, tell))
            _write(found, out)  # what there is, should the next one end it all
    lines = _write(found, out)
    print("\n".join(lines))
    if write_docs:
        before, after = _around()
        write_whole(DOC, "\n".join([before.rstrip("\n"), *lines, "", after]))
        write_whole(PICTURE, chart.png(found))


def _packages(chosen: list[Family]) -> list[Package]:
    return list(dict.fromkeys([*(p for family in chosen for e in family.engines for p in e.packages), CHART]))


def _shown(context: click.Context) -> str:
    """The options as they were given, without those that change no figure, of which some are paths."""
    words = []
    for option in context.command.params:
        value = context.params[str(option.name)]
        if (
            context.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
            and option.name not in _UNSHOWN
        ):
            words.append(option.opts[0])
            if value is not True:
                words.append(",".join(map(str, value)) if isinstance(value, tuple) else str(value))
    return shlex.join(words)


_UNSHOWN = {"folder", "out", "installs", "write_docs"}


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise MossnetError(f"{folder}: cannot be made: {e.strerror}", "give a folder that can be written") from None


def _write(found: record.Record, out: Path) -> list[str]:
    """The three files; the lines of the tables."""
    lines = figures.markdown(found)
    write_whole(out / "peers.json", found.json())
    write_whole(out / "peers.md", "\n".join(lines) + "\n")
    if CHART.installed:
        write_whole(out / "peers.png", chart.png(found))
    else:
        tell("peers.png is left out: matplotlib not installed, see --install")
    return lines


def _around() -> tuple[str, str]:
    """What stands in docs/benchmarks.md before the tables and behind them, with the markers."""
    before, first, rest = DOC.read_text().partition(f"{BEGIN}\n")
    _, last, after = rest.partition(END)
    if not (first and last):
        raise MossnetError(f"{DOC}: the lines '{BEGIN}' and '{END}' are missing", "put them where the tables belong")
    return before + first, last + after


def run(arguments: Sequence[str]) -> int:
    """`main`, with errors as the program itself reports them."""
    try:
        main(arguments, "peers.py", standalone_mode=False)
    except MossnetError as e:
        tell(f"error: {e}")
        if e.hint:
            tell(f"hint: {e.hint}")
        return e.exit_code
    except click.ClickException as e:
        e.show()
        return e.exit_code
    except OSError as e:  # a full disk: the machine's doing
        tell(f"error: {e.filename or 'a file'}: {e.strerror or e}")
        return 1
    except (click.Abort, KeyboardInterrupt):
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
