"""What becomes of candidates that are wrong, crash, hang or ask for too much: on the processor and on OpenCL, in a
runner that they may take with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from tvm.script.ir_builder import tirx as T

from mossnet_tg.codegen.backends import backend
from mossnet_tg.codegen.kernels.build import Generated, Param, tile_kernel
from mossnet_tg.codegen.tune.bench import sweep, touch
from mossnet_tg.codegen.tune.measure import Choice, Limits, Measurer, Subject
from mossnet_tg.codegen.tune.twin import Sample
from mossnet_tg.codegen.tuning import Task
from mossnet_tg.errors import DeviceError
from mossnet_tg.remote import Runner
from tests.codegen.one_kernel import OneKernel
from tests.devices import CPU, ROWS, Row

N = 64


@dataclass(frozen=True)
class Doubling:
    """A workload: out = 2 x. Its schedule's `rows` (or `token_rows`) says what is the matter with it."""

    field: str
    task: Task

    def make(self, name: str, schedule: Any) -> list[Generated]:
        s = schedule.of_task(self.task)
        which = {20: "wrong", 21: "crash", 22: "hang", 23: "large", 24: "failed"}.get(getattr(s, self.field))
        if which == "failed":
            raise ValueError("no such kernel\nsecond line")
        params = [Param("out", N, written=True, read=True), Param("x", N)]
        group = None if s.group_size is None else 1024 if which == "large" else s.group_size
        with tile_kernel(name, params, 1024 if which == "large" else N, group) as k:
            out, x = k.buffers
            at = T.min(k.tile, N - 1)
            if which == "hang":
                with T.serial((1 << 31) - 1) as i, T.serial((1 << 31) - 1) as j:
                    T.buffer_store(out, out[at] * T.float32(0.5) + x[(i + j) % N], [at])
            if which == "crash":
                T.buffer_store(out, T.float32(1), [at - (1 << 29)])
            # What the loops made is used, so that no compiler leaves them out.
            rest = out[at] if which == "hang" else T.float32(0)
            T.buffer_store(out, x[at] * T.float32(3 if which == "wrong" else 2) + rest, [at])
        return [k.generated(N)]


class Place:
    """A runner that gives a kernel one second."""

    def __init__(self, runner: Runner, device: str) -> None:
        self.runner, self.device, self.n_restarts = runner, device, 0

    def load(self, path: Any) -> Any:
        return self.runner.load(path, allow_native=True, device=self.device, timeout_s=1)

    def load_whole(self, path: Any) -> Any:
        return self.load(path)

    def restart(self) -> None:
        self.n_restarts += 1
        self.runner.restart()


@pytest.fixture(params=[CPU, *(row for row in ROWS if row.name == "opencl")], ids=lambda row: row.name)
def row(request: pytest.FixtureRequest) -> Row:
    found: Row = request.param
    found.require()
    return found


@pytest.fixture
def place(row):
    with Runner.local() as runner:
        yield Place(runner, row.device)


def measurer(row: Row, place: Place, folder: Any, threads: int = 512) -> Measurer:
    return Measurer(None, row.resolved, place, Limits(threads, 1 << 16), folder, 1, 1 << 17)  # type: ignore[arg-type]


def subject(row: Row) -> Subject:
    x = np.arange(N, dtype=np.float32)
    target = row.resolved
    schedule = backend(target).schedule(target)
    sample = Sample([np.zeros(N, np.float32), x], [2 * x, x], [True, False])
    return Subject(Doubling("rows", Task("loops", 1, (), "doubling")), schedule, sample, 1e-6, 1.0)  # type: ignore[arg-type]


GOOD, WRONG, CRASH, HANG, LARGE, FAILED = (Choice({"rows": n}) for n in (3, 20, 21, 22, 23, 24))


def test_each_gets_its_due(row, place, tmp_path):
    found = measurer(row, place, tmp_path).measure(subject(row), [GOOD, WRONG, FAILED, GOOD])
    assert [o.status for o in found] == ["ok", "wrong", "failed", "ok"]
    assert found[0].ratio is not None and 0.1 < found[0].ratio < 10 and found[0].error == 0
    assert found[1].ratio is None and found[1].error == pytest.approx(0.5)
    assert found[2].text == "no such kernel"
    assert place.n_restarts == 0 and not list(tmp_path.iterdir())


def test_all_is_swept(row):
    schedule = backend(row.resolved).schedule(row.resolved)
    kernel = sweep(schedule, 100_000)
    sums, swept = (np.zeros(p.n, np.float32) for p in kernel.params)
    swept[:] = np.arange(swept.size) % 7 + 1
    total = swept.sum()
    OneKernel([kernel], row.resolved, device=row.device).run(sums, swept)
    assert 90_000 < swept.nbytes <= 100_000 and sums.sum() == total
    assert (swept.reshape(-1, 1024) == 0).any(axis=1).sum() >= swept.size // 1024 * (not schedule.flat)


def test_all_is_touched(row):
    """A value of each line, and a buffer's last one for each line that a longer one has beyond it."""
    schedule = backend(row.resolved).schedule(row.resolved)
    kernel = touch([Param("many", 3000), Param("few", 20, "int32")], schedule)
    sums, many, few = (np.zeros(p.n, p.dtype) for p in kernel.params)
    many[::16], many[-1], few[0], few[-1] = 1, 1, 1000, 10_000
    OneKernel([kernel], row.resolved, device=row.device).run(sums, many, few)
    n_lines = 3 * 1024 // 16
    assert sums.sum() == n_lines + 1000 + (n_lines - 2) * 10_000


@pytest.mark.parametrize("bad", [CRASH, HANG], ids=["crash", "hang"])
def test_the_others_go_on(row, place, tmp_path, bad):
    """OpenCL's processor driver ends with the process, as the processor's own code does."""
    found = measurer(row, place, tmp_path).measure(subject(row), [GOOD, bad, GOOD])
    assert [o.status for o in found] == ["ok", "lost", "ok"], found
    assert place.n_restarts == 1 and found[1].text


def test_limits_are_kept_before_anything_is_built(row, place, tmp_path):
    if row.name == "cpu":
        pytest.skip("a processor has no groups")
    (found,) = measurer(row, place, tmp_path).measure(subject(row), [LARGE])
    assert found.status == "refused" and "groups of 1024 threads, the device allows 512" in found.text


def test_a_default_that_hangs_is_an_error(row, place, tmp_path):
    from dataclasses import replace

    broken = subject(row)
    broken = replace(broken, schedule=replace(broken.schedule, rows=HANG.fields["rows"]))
    with pytest.raises(DeviceError, match="the default of doubling does not run"):
        measurer(row, place, tmp_path).measure(broken, [GOOD])


def test_a_slow_spell_is_measured_again(row, place, tmp_path, monkeypatch):
    """The default, timed in every run, says when the device is slower than it was."""
    one = measurer(row, place, tmp_path)
    one.measure(subject(row), [GOOD])
    usual, rounds, sleeps = one.default_s("doubling"), [], []
    monkeypatch.setattr("time.sleep", sleeps.append)
    real = Measurer._rounds

    def slow_once(self, bench):
        times = real(self, bench)
        rounds.append(times)
        return [100 * usual for _ in times] if len(rounds) == 1 else [usual for _ in times]

    monkeypatch.setattr(Measurer, "_rounds", slow_once)
    (found,) = one.measure(subject(row), [GOOD])
    assert (found.ratio, one.n_discarded, len(rounds), len(sleeps)) == (1.0, 1, 2, 1)
