"""`mossnet-tg bench`: how fast a model reads a prompt and decodes, and how near that is to the memory's speed."""

from __future__ import annotations

import datetime
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

import mossnet_tg
from mossnet_tg.cli import options
from mossnet_tg.cli.console import Console, markdown
from mossnet_tg.cli.facts import count, human, n_parameters, tensors_of
from mossnet_tg.codegen.reads import read_per_token
from mossnet_tg.errors import MossnetError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mossnet_tg import Model
    from mossnet_tg.cli.bench_profile import Profile
    from mossnet_tg.codegen.moss_file import MossFile
    from mossnet_tg.remote import AnySession

# One pass over so many bytes: more than any cache holds, a blink of an eye on any machine.
_BANDWIDTH_BYTES = 256 << 20


@dataclass
class Test:
    """One row: `n_prompt` tokens read at once or `n_gen` decoded, one of them 0, and what was measured."""

    n_prompt: int
    n_gen: int
    n_threads: int | None  # None: on a GPU
    samples_ns: list[int] = field(default_factory=list)
    bandwidth_per_s: list[float] = field(default_factory=list)
    launches: Launches | None = None  # of a token that is decoded on a GPU
    profile: Profile | None = None  # of a token, or of a chunk of the prompt

    @property
    def name(self) -> str:
        return f"pp{self.n_prompt}" if self.n_prompt else f"tg{self.n_gen}"

    @property
    def samples_per_s(self) -> list[float]:
        """Tokens per second of each repetition."""
        return [(self.n_prompt + self.n_gen) * 1e9 / ns for ns in self.samples_ns]

    @property
    def median_per_s(self) -> float:
        return statistics.median(self.samples_per_s)

    def bandwidth_share(self, read_per_token: int) -> float | None:
        """The bandwidth that decoding used over the one measured beside it; None where none was."""
        if not self.bandwidth_per_s:
            return None
        return self.median_per_s * read_per_token / statistics.median(self.bandwidth_per_s)

    def host_s(self, n_chunk: int) -> float:
        """The seconds of a token that is decoded, or of a chunk of the prompt, by the host's clock."""
        n_runs = math.ceil(self.n_prompt / n_chunk) + self.n_gen
        return (self.n_prompt + self.n_gen) / self.median_per_s / n_runs

    @property
    def host_s_per_launch(self) -> float | None:
        """What a launch costs besides its work: a token's time less that of its kernels, over its launches."""
        if self.launches is None:
            return None
        return (1 / self.median_per_s - self.launches.device_s) / self.launches.n


@dataclass(frozen=True)
class Launches:
    """The launches of a decoded token, and the seconds that the device works on them, by its own clock."""

    n: int
    device_s: float


@dataclass(frozen=True)
class Column:
    """A column of the table: its head, "r" where it is aligned to the right, and a row's text."""

    head: str
    align: str
    cell: Callable[[dict[str, Any], Test], str]


def _share(facts: dict[str, Any], test: Test) -> str:
    share = test.bandwidth_share(facts["read_per_token"])
    return "" if share is None else f"{100 * share:.0f} %"


def _host(facts: dict[str, Any], test: Test) -> str:
    return "" if test.host_s_per_launch is None else f"{test.host_s_per_launch * 1e6:.1f}"


_COLUMNS = (
    Column("model", "l", lambda facts, test: f"{facts['model']} {facts['model_type'].replace(' ', '+')}"),
    Column("size", "r", lambda facts, test: human(facts["model_size"])),
    Column("params", "r", lambda facts, test: count(facts["model_n_params"])),
    Column("target", "l", lambda facts, test: facts["target"]),
    Column("threads", "r", lambda facts, test: "-" if test.n_threads is None else str(test.n_threads)),
    Column("test", "r", lambda facts, test: test.name),
    Column("t/s", "r", lambda facts, test: f"{test.median_per_s:.1f} ± {_spread(test.samples_per_s):.1f}"),
)
_CPU_COLUMNS = (*_COLUMNS, Column("of read bandwidth", "r", _share))
_GPU_COLUMNS = (*_COLUMNS, Column("of copy bandwidth", "r", _share), Column("host us/launch", "r", _host))


@click.command()
@options.model_argument
@click.option(
    "-p", "--prompt", "n_prompt", type=options.Numbers(0), default="512", show_default=True, help="Prompt lengths."
)
@click.option(
    "-n", "--gen", "n_gen", type=options.Numbers(0), default="128", show_default=True, help="Numbers of decoded tokens."
)
@click.option(
    "-t", "--threads", type=options.Numbers(1), help="Numbers of CPU threads.  [default: all this process may use]"
)
@click.option(
    "-r", "--reps", type=click.IntRange(min=1), default=5, show_default=True, metavar="N", help="Repetitions of each."
)
@click.option("--profile", is_flag=True, help="Show where the time goes, kernel by kernel.")
@options.target
@options.device
@options.plan
@options.allow_native
@options.as_json
@options.verbosity
@click.pass_obj
def command(
    console: Console,
    model: str | None,
    n_prompt: tuple[int, ...],
    n_gen: tuple[int, ...],
    threads: tuple[int, ...] | None,
    reps: int,
    profile: bool,
    target: str | None,
    device: str,
    chunk: int | None,
    context: int | None,
    weights: str | None,
    allow_native: bool,
    as_json: bool,
) -> None:
    """Measure tokens per second.

    As in llama-bench, ppN reads a prompt of N tokens and tgN decodes N tokens. The tokens are random; each repetition
    runs every test once, from an empty state. "t/s" is the median of the repetitions ± their standard deviation. A
    length of 0 leaves the test out.

    "Of read bandwidth" is what tgN reads (see: mossnet-tg inspect --help) per second over the speed at which as many
    threads read memory, measured between the repetitions; a model that fits into the caches can exceed 100 %. On GPUs
    it is "of copy bandwidth": over the bytes, read and written ones, that the device moves when it copies memory.
    "Host us/launch" is a token's time by the host's clock less the times of its kernels by the device's, over the
    launches of a token, in microseconds: below zero where kernels take longer one by one than in a row.

    --profile shows the kernels of a decoded token (of tgN) and of a chunk of a prompt (of ppN), the layers together and
    the longest first, each run by itself and timed by the device where it can, on tokens that change from run to run.
    "GB/s" is what a kernel has to move of weights and state, of routed ones as many experts as its tokens can select.
    "GFLOP/s" counts its products, scan and attention. What is nothing of both is left empty.

    \b
    Examples:
      mossnet-tg bench
      mossnet-tg bench ./my-model -p 128,512 -n 64 -t 1,2,4
      mossnet-tg bench model.moss --allow-native -p 0 -n 128 -r 20 --json >> runs.jsonl
      mossnet-tg bench ./my-model -p 0 -t 1 --profile
      mossnet-tg bench ./my-model --target vulkan --device radeon
      mossnet-tg bench ./my-model --device adb:R58M12ABCDE
    """
    from mossnet_tg.cli.compile_model import refuse_uncompiled
    from mossnet_tg.cli.devices import is_gpu
    from mossnet_tg.cli.loading import Wanted, load_model

    wanted = Wanted(model, target, device, chunk, context, weights, 0, allow_native)
    refuse_uncompiled(target)
    loaded = load_model(console, wanted).model
    assert loaded.path is not None
    moss = loaded.compiled
    gpu = is_gpu(loaded)
    options.warn_of_threads(console, threads is not None and gpu)
    tests: list[Test] = []
    for n_threads in (None,) if gpu else threads or (loaded.engine.library.cpu_count,):
        here = [Test(n, 0, n_threads) for n in n_prompt if n] + [Test(0, n, n_threads) for n in n_gen if n]
        _measure(console, loaded, moss, here, n_threads, reps, profile)
        tests += here
    console.clear()
    facts = _facts(loaded, moss)
    for line in _json_lines(facts, tests) if as_json else _text(facts, tests):
        console.out(line + "\n")


def _measure(
    console: Console,
    model: Model,
    moss: MossFile,
    tests: Sequence[Test],
    n_threads: int | None,
    reps: int,
    profile: bool,
) -> None:
    import numpy as np

    session = model.engine.session(n_threads or 0)
    where = "" if n_threads is None else f", {n_threads} threads"
    rng = np.random.default_rng(0)
    ids = {id(test): rng.integers(0, model.config.vocab_size, test.n_prompt + test.n_gen) for test in tests}
    for rep in range(-1, reps):  # the one before the first warms up: threads, caches, clocks
        for test in tests:
            done = f"repetition {rep + 1} of {reps}" if rep >= 0 else "warming up"
            console.step(f"{test.name}{where}: {done}")
            ns = _run(session, test, ids[id(test)])
            if rep >= 0:
                test.samples_ns.append(ns)
                if test.n_gen:
                    test.bandwidth_per_s += _bandwidth(console, model, n_threads)
    if n_threads is None:
        launches = _launches(session)
        for test in tests:
            test.launches = launches if test.n_gen else None
    if profile:
        _profile(console, model, moss, session, tests, n_threads)
    session.close()


def _run(session: AnySession, test: Test, ids: npt.NDArray[np.int64]) -> int:
    """Nanoseconds of one repetition."""
    session.reset()
    tokens = ids.tolist()
    started = time.perf_counter_ns()
    if test.n_prompt:
        session.prefill(ids, copy=False)
    else:
        for token in tokens:
            session.decode(token, copy=False)
    return time.perf_counter_ns() - started


def _bandwidth(console: Console, model: Model, n_threads: int | None) -> list[float]:
    """Bytes per second, of the memory that the test's tokens are decoded from."""
    engine = model.engine
    try:
        if n_threads is not None:
            return [engine.library.read_bandwidth(_BANDWIDTH_BYTES, n_threads, 3)]
        return [engine.bandwidth(min(_BANDWIDTH_BYTES, int(engine.device["max_buffer_bytes"])), 3)]
    except MossnetError as e:
        console.warning(f"the memory's speed was not measured: {e}")
        return []


def _launches(session: AnySession) -> Launches:
    from mossnet_tg.codegen.moss_file import EntryKind

    seconds = session.profile(EntryKind.DECODE)
    return Launches(len(seconds), float(seconds.sum()))


def _profile(
    console: Console,
    model: Model,
    moss: MossFile,
    session: AnySession,
    tests: Sequence[Test],
    n_threads: int | None,
) -> None:
    """Give each test the profile of the entry that it runs."""
    from mossnet_tg.cli import bench_profile
    from mossnet_tg.codegen.moss_file import EntryKind

    console.step("profile")
    speeds = [per_s for test in tests for per_s in test.bandwidth_per_s] or _bandwidth(console, model, n_threads)
    bandwidth_per_s = statistics.median(speeds) if speeds else None
    for kind, wanted in (
        (EntryKind.DECODE, [test for test in tests if test.n_gen]),
        (EntryKind.PREFILL, [test for test in tests if test.n_prompt]),
    ):
        if wanted:
            measured = bench_profile.measure(session, moss, model.config, kind, bandwidth_per_s)
            for test in wanted:
                test.profile = measured


def _facts(model: Model, moss: MossFile) -> dict[str, Any]:
    """What all rows say of the model, the build and the machine."""
    from mossnet_tg.cli.devices import device_of
    from mossnet_tg.cli.machine import commit

    return {
        "version": mossnet_tg.__version__,
        "build_commit": commit(),
        "libmossnet": model.engine.library.version,
        "cpu_info": model.engine.library.cpu_name,
        "device": device_of(model),
        "target": moss.meta.get("target", ""),
        "model": moss.meta.get("source", ""),
        "model_type": moss.meta.get("weights", ""),
        "model_hash": moss.model_hash.hex(),
        "model_size": moss.weights_bytes,
        "model_n_params": n_parameters(tensors_of(moss, model.config)),
        "n_chunk": moss.chunk,
        "read_per_token": read_per_token(moss, model.config),
    }


def _json_lines(facts: dict[str, Any], tests: Sequence[Test]) -> Iterator[str]:
    from mossnet_tg.cli.bench_profile import as_json

    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    for test in tests:
        bandwidth = "read_bandwidth" if test.n_threads else "copy_bandwidth"
        row = {
            **facts,
            "test": test.name,
            "n_threads": test.n_threads,
            "n_prompt": test.n_prompt,
            "n_gen": test.n_gen,
            "test_time": now,
            "samples_ns": test.samples_ns,
            "samples_ts": test.samples_per_s,
            "median_ts": test.median_per_s,
            "stddev_ts": _spread(test.samples_per_s),
            f"{bandwidth}_per_s": test.bandwidth_per_s,
            f"{bandwidth}_share": test.bandwidth_share(facts["read_per_token"]),
            "n_launches": test.launches.n if test.launches else None,
            "device_s_per_token": test.launches.device_s if test.launches else None,
            "host_s_per_launch": test.host_s_per_launch,
        }
        if test.profile is not None:
            row["profile"] = {
                "n_tokens": test.profile.n_tokens,
                "host_s": test.host_s(facts["n_chunk"]),
                "kernels_s": test.profile.total.seconds,
                "bandwidth_per_s": test.profile.bandwidth_per_s,
                "kernels": as_json(test.profile),
            }
        yield json.dumps(row)


def _text(facts: dict[str, Any], tests: Sequence[Test]) -> Iterator[str]:
    columns = _CPU_COLUMNS if any(test.n_threads for test in tests) else _GPU_COLUMNS
    rows = [[c.head for c in columns], *([c.cell(facts, test) for c in columns] for test in tests)]
    yield from markdown(rows, "".join(c.align for c in columns))
    # Of tests that run the same entry the longest has the best clock.
    shown = {id(test.profile): test for test in sorted(tests, key=lambda test: test.n_prompt + test.n_gen)}
    for test in tests:
        if test.profile is not None and shown[id(test.profile)] is test:
            yield ""
            yield from _profile_text(facts, test, test.profile)


def _profile_text(facts: dict[str, Any], test: Test, profile: Profile) -> Iterator[str]:
    from mossnet_tg.cli.bench_profile import cells

    what = "a token" if test.n_gen else f"a chunk of {profile.n_tokens} tokens"
    kind = "read" if test.n_threads else "copy"
    total = profile.total
    limit = f"; {kind} bandwidth {profile.bandwidth_per_s / 1e9:.1f} GB/s" if profile.bandwidth_per_s else ""
    threads = f", {test.n_threads} threads" if test.n_threads else ""
    yield (
        f"{test.name}{threads}: {what} takes {test.host_s(facts['n_chunk']) * 1e6:.1f} us by the host's clock,"
        f" its {total.n_calls} kernels one by one {total.seconds * 1e6:.1f} us{limit}"
    )
    yield ""
    yield from markdown(list(cells(profile, kind)), "llrrrrrrr")


def _spread(samples: Sequence[float]) -> float:
    return statistics.stdev(samples) if len(samples) > 1 else 0.0
