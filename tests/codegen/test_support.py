"""docs/targets.md: its table is what tests/support.py measured, of every class of kernels on every target."""

from __future__ import annotations

import dataclasses
import re

import pytest

from mossnet_tg.codegen.kernels import dispatch
from mossnet_tg.targets.table import KERNEL_CLASSES, KINDS, GpuTarget, parse_target
from tests import support
from tests.codegen.cases import TOLERANCE, GraphCase
from tests.codegen.one_kernel import host_targets, schedule

TEXT = support.DOC.read_text()
WRITTEN = support.read()


def test_the_table_is_what_was_measured():
    lines = support.split(TEXT)[1].splitlines()
    assert [line for line in lines if line.startswith("|")] == support.table(WRITTEN)
    assert TEXT.count(support.BEGIN) == TEXT.count(support.END) == 1


def test_rows_and_columns_are_the_generators():
    expected = [(row.kernel, row.n_tokens, row.dtype, target) for row in support.ROWS for target in support.TARGETS]
    assert [(r.kernel, r.n_tokens, r.weights, r.target) for r in WRITTEN] == expected
    assert list(support.TARGETS) == list(KINDS)


def test_every_class_of_kernels_is_a_row():
    for generators in dispatch._GENERATORS.values():
        assert support.classes() == set(generators)
    made = (case for row in support.ROWS for case in row.cases(support.SMALL))
    graphs = {case.is_product(schedule(host_targets()[0])) for case in made if isinstance(case, GraphCase)}
    assert graphs == {True, False}, "products and loops"
    assert {kind.__name__ for kind in support.classes()} | {"product", "loops"} == set(KERNEL_CLASSES)


def test_nothing_passes_that_did_not_run():
    head = support.split(TEXT)[1].partition("\n|")[0]
    for r in WRITTEN:
        measured = (r.error, r.bytes, r.seconds, r.gb_per_s)
        if r.result == "pass":
            assert all(measured) and float(r.error) < TOLERANCE and float(r.error_beside_cpu or 0) < TOLERANCE, r
        else:
            assert r.result in ("FAIL", "assembled", "not run"), r
            assert r.result == "FAIL" or not any(measured), r
        if r.result in ("assembled", "not run"):
            assert re.search(rf"- {r.target}: .*(not run|no GPU here): ", head), r.target


@pytest.mark.parametrize("missing", ["", "no driver"])
def test_a_row_is_measured(missing):
    place = dataclasses.replace(support.place_of("cpu"), missing=missing)
    row = next(row for row in support.ROWS if row.kernel == "norm + router")
    (result,) = support.results([row], [place])
    assert (result.kernel, result.n_tokens, result.weights, result.target) == ("norm + router", 1, "f32", "cpu")
    assert result.result == ("not run" if missing else "pass")
    assert bool(result.gb_per_s) != bool(missing)
    assert missing in result.note


def test_options_and_limits_are_those_of_the_targets():
    for kind in KINDS.values():
        assert f"| `{kind.name}` |" in TEXT
        for option in kind.options:
            assert re.search(rf"^\| `{option}=.*`{kind.name}`", TEXT, re.MULTILINE), (kind.name, option)
        target = parse_target(kind.name)
        if isinstance(target, GpuTarget):
            limit = target.max_buffer_bytes
            size = f"{limit >> 30} GiB" if limit >> 30 else f"{limit >> 20} MiB"
            cells = (f"`{kind.name}`", target.threads, f"{target.shared_bytes >> 10} KiB")
            size = size if limit < 1 << 40 else "no limit"
            assert f"| {' | '.join(map(str, cells))} | {size} |" in TEXT, kind.name
