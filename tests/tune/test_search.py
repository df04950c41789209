"""MetaSchedule over spaces of ours: what it proposes, and that it learns."""

from __future__ import annotations

import math

import pytest

from mossnet_tg import ops
from mossnet_tg.codegen.backends import backend
from mossnet_tg.codegen.schedules.space import fits, space, widths
from mossnet_tg.codegen.tune.search import Search, fields_of, target, workload
from mossnet_tg.codegen.tuning import Task
from mossnet_tg.targets.table import KERNEL_CLASSES, parse_target

SPACE = {"rows": (1, 2, 4), "unroll": (1, 2, 4, 8), "lanes": (4, 8, 16), "exp": (0, 1, 2)}


def fitting(fields):
    return fields["rows"] * fields["unroll"] <= 16


def seconds(fields):
    """Best with 2, 4, 8, 0."""
    distance = abs(fields["rows"] - 2) + abs(fields["unroll"] - 4) / 2 + abs(fields["lanes"] - 8) + fields["exp"]
    return 1e-6 * (1 + distance)


def run(seed=0, most=1000):
    search, found = Search("text", SPACE, fitting, seed), []
    while len(found) < most and (candidates := search.propose()):
        found += [dict(c.fields) for c in candidates]
        search.tell(candidates, [seconds(c.fields) for c in candidates])
    return found


def test_each_fitting_choice_once():
    found = run()
    assert all(map(fitting, found))
    assert len({tuple(f.items()) for f in found}) == len(found)
    n_fitting = 9 * sum(rows * unroll <= 16 for rows in SPACE["rows"] for unroll in SPACE["unroll"])
    assert n_fitting * 0.9 <= len(found) <= n_fitting


def test_it_learns():
    """The best of a hundred is among the first quarter, whatever the seed."""
    for seed in range(5):
        assert min(map(seconds, run(seed, 24))) == 1e-6


def test_the_same_seed_proposes_the_same():
    assert run(3, 40) == run(3, 40) != run(4, 40)


def test_a_failure_is_no_end():
    search = Search("text", SPACE, fitting, 0)
    for _ in range(3):
        candidates = search.propose()
        search.tell(candidates, [None] * len(candidates))
    assert candidates


def test_a_record_comes_back(tmp_path):
    """Through MetaSchedule's own database."""
    from tvm import s_tir
    from tvm.s_tir import meta_schedule as ms

    search = Search("text", SPACE, fitting, 0)
    candidates = search.propose()
    database = ms.database.JSONDatabase(work_dir=str(tmp_path))
    entry = database.commit_workload(search.module)
    for i, candidate in enumerate(candidates):
        database.commit_tuning_record(candidate.record(entry, 1e-6 * (2 + (i != 3))))
    again = ms.database.JSONDatabase(work_dir=str(tmp_path))
    assert again.query_tuning_record(workload("other"), target(), "main") is None
    schedule = s_tir.Schedule(workload("text"))
    again.query_tuning_record(workload("text"), target(), "main").trace.apply_to_schedule(schedule, False)
    assert fields_of(schedule) == candidates[3].fields


# ---- the spaces

TARGETS = ("cpu:arch=x86_64,mcpu=x86-64-v3", "opencl:simd=8", "adreno", "vulkan", "cuda")


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("n_tokens", [1, 128])
@pytest.mark.parametrize("kernel_class", KERNEL_CLASSES)
def test_every_class_has_a_space_around_its_default(name, n_tokens, kernel_class):
    resolved = parse_target(name)
    matrices = (((768, 256), "float16"),) if kernel_class in ("product", "ExpertMatmul", "NormRouter") else ()
    task = Task(kernel_class, n_tokens, matrices, "text")
    s = backend(resolved).schedule(resolved).of_task(task)
    found = space(s, task)
    assert all(getattr(s, field) in values for field, values in found.items())
    assert fits(s, task)
    assert (s.width in widths(s, task)) == bool(matrices)
    choices = math.prod(map(len, found.values()))
    # One launch of a single thread, and one that is only made for a token: nothing to choose.
    fixed = {"RouterTopk": (1, 128) if hasattr(s, "rows_of") else (1,), "NormRouter": (128,)}
    if n_tokens not in fixed.get(kernel_class, ()):
        assert choices > 1


def test_the_recurrence_has_the_richest():
    resolved = parse_target("cpu:arch=x86_64,mcpu=x86-64-v3")
    s = backend(resolved).schedule(resolved)
    sizes = {name: math.prod(map(len, space(s, Task(name, 1, (), "")).values())) for name in KERNEL_CLASSES}
    assert max(sizes, key=lambda name: sizes[name]) == ops.RoutedScan.__name__
