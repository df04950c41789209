"""The table of docs/targets.md: every class of kernels on every target that this machine can run, measured.

    python tests/support.py            # prints it
    python tests/support.py --write    # and puts it into docs/targets.md, the rows as they were measured beside it

A kernel passes when it agrees at small, odd sizes with the op's UOp body (or numpy), and at the sizes of the table with
the cpu's kernel. What did not run is no pass: a target without a driver says so.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import date
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests are no installed package

from mossnet_tg import ops
from mossnet_tg.codegen.backends import backend
from mossnet_tg.codegen.emit import cubin
from mossnet_tg.codegen.kernels.build import Param, itemsize
from mossnet_tg.engine import Library
from mossnet_tg.errors import MossnetError
from mossnet_tg.targets.host import cpu_name
from mossnet_tg.targets.table import KINDS, GpuTarget, Target, parse_target
from tests import conftest  # noqa: F401  # which drivers are taken
from tests.codegen import cases
from tests.codegen.cases import TOLERANCE, Case, GraphCase, Made, OpCase
from tests.codegen.one_kernel import OneKernel, schedule
from tests.devices import ROWS as DEVICES

ROOT = Path(__file__).parents[1]
DOC, CSV = ROOT / "docs" / "targets.md", ROOT / "docs" / "targets.csv"
BEGIN, END = "<!-- made by tests/support.py: begin -->", "<!-- made by tests/support.py: end -->"
COMMAND = "python tests/support.py --write"
TARGETS = tuple(KINDS)
_MEASURE_S = 0.4  # of runs, for one speed


# ---- what is run


@dataclass(frozen=True)
class Sizes:
    """A model's sizes, as in `mossnet_tg/model.py`; `n_valid` of `n_tokens` count in a prompt."""

    d_model: int
    d_inner: int
    d_state: int
    dt_rank: int
    d_ff: int
    n_experts: int
    top_k: int
    vocab_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    window: int
    n_tokens: int
    n_valid: int

    def valid(self, n_tokens: int) -> int:
        return min(n_tokens, self.n_valid)


SMALL = Sizes(13, 21, 3, 5, 37, 4, 2, 45, 4, 2, 6, 5, 7, 5)
REAL = Sizes(768, 1536, 16, 48, 2048, 8, 2, 32768, 12, 4, 64, 1024, 64, 64)

Make = Callable[[Sizes, int, str], Case]  # of sizes, n_tokens, the weights' type


@dataclass(frozen=True)
class Row:
    """A line of the table. `make`s: its cases, of which the first is measured for speed."""

    kernel: str
    n_tokens: int  # of REAL: 1 or its n_tokens
    dtype: str
    makes: tuple[Make, ...]

    def cases(self, sizes: Sizes) -> list[Case]:
        return [make(sizes, 1 if self.n_tokens == 1 else sizes.n_tokens, self.dtype) for make in self.makes]


def _product(z: Sizes, T: int, dtype: str) -> Case:
    """The head of one token, the in-projection of several."""
    n_out = z.vocab_size if T == 1 else 2 * z.d_inner
    return cases.product(T, z.valid(T), z.d_model, n_out, dtype)


def _expert(epilogue: str, every: bool = False) -> Make:
    def make(z: Sizes, T: int, dtype: str) -> Case:
        n_in, n_out, stride, per_slot = {
            "none": (z.d_inner, z.dt_rank + 2 * z.d_state, z.d_inner, False),  # x_proj
            "softplus": (z.dt_rank, z.d_inner, z.dt_rank + 2 * z.d_state, True),  # dt_proj
            "swiglu": (z.d_model, z.d_ff, z.d_model, False),
            "combine": (z.d_ff, z.d_model, z.d_ff, True),
        }[epilogue]
        k = z.n_experts if every else z.top_k
        op = ops.ExpertMatmul(T, z.n_experts, k, n_in, n_out, stride, per_slot, not every, epilogue)  # type: ignore[arg-type]
        return cases.expert_matmul(op, z.valid(T), dtype)

    return make


def _scan(mode: str, update: str = "selected", n_experts: int = 0, discretization: str = "mamba") -> Make:
    def make(z: Sizes, T: int, dtype: str) -> Case:
        E = n_experts or z.n_experts
        k = min(z.top_k, E)
        op = ops.RoutedScan(T, z.d_inner, z.d_state, z.dt_rank, E, k, False, mode, update, discretization)  # type: ignore[arg-type]
        return cases.routed_scan(op, z.valid(T), dtype)

    return make


def _norm(z: Sizes, T: int, dtype: str) -> Case:
    return cases.rms_norm(ops.RmsNorm(T, (z.d_model,), 1e-5))


def _segments(z: Sizes, T: int, dtype: str) -> Case:
    return cases.rms_norm(ops.RmsNorm(T * z.top_k, (z.dt_rank, z.d_state, z.d_state), 1e-5))


def _router(z: Sizes, T: int, dtype: str) -> Case:
    return cases.router_topk(ops.RouterTopk(T, z.n_experts, z.top_k, True), z.valid(T))


def _norm_router(z: Sizes, T: int, dtype: str) -> Case:
    return cases.norm_router(ops.NormRouter(z.d_model, z.n_experts, z.top_k, True, 1e-5), dtype)


def _conv(z: Sizes, T: int, dtype: str) -> Case:
    return cases.causal_conv(ops.CausalConv(T, z.d_inner, 4, True), z.valid(T))


def _attention(z: Sizes, T: int, dtype: str) -> Case:
    """The window is full."""
    op = ops.SwaAttention(T, z.n_heads, z.n_kv_heads, z.head_dim, z.window)
    return cases.swa_attention(op, z.valid(T), 2 * z.window + 1)


def _gather(z: Sizes, T: int, dtype: str) -> Case:
    return cases.gather(T, z.vocab_size, z.d_model, dtype)


_ALL = ("f32", "f16", "bf16")
_F32 = ("f32",)
_MODES = (("separate_state", "selected"), ("separate_state", "all"), ("param_mix", "selected"))
_SCANS: tuple[tuple[str, tuple[Make, ...]], ...] = (
    ("selected", (_scan("separate_state"),)),
    ("all states", (_scan("separate_state", "all"),)),
    ("param_mix", (_scan("param_mix"),)),
    ("one expert", (_scan("separate_state", n_experts=1),)),
    ("zoh", tuple(_scan(m, u, discretization="zoh") for m, u in _MODES)),
)
_EPILOGUES = ("none", "softplus", "swiglu", "combine")
_MANY = REAL.n_tokens

# name, tokens, types of the matrices that it reads ("f32" where it reads none), cases
_TABLE: tuple[tuple[str, int, tuple[str, ...], tuple[Make, ...]], ...] = (
    ("gemv", 1, _ALL, (_product,)),
    *((f"expert gemv, {e}", 1, _ALL, (_expert(e),)) for e in _EPILOGUES),
    ("expert gemv, every expert", 1, _F32, (_expert("none", True),)),
    ("gemm", _MANY, _ALL, (_product,)),
    *((f"grouped gemm, {e}", _MANY, _ALL, (_expert(e),)) for e in _EPILOGUES),
    ("gemm, every expert", _MANY, _F32, (_expert("none", True),)),
    *((f"scan, {name}", 1, _ALL if name == "selected" else _F32, makes) for name, makes in _SCANS),
    *((f"scan, {name}", _MANY, _F32, makes) for name, makes in _SCANS),
    ("norm + router", 1, _ALL, (_norm_router,)),
    ("router", _MANY, _F32, (_router,)),
    ("norm", 1, _F32, (_norm, _segments)),
    ("norm", _MANY, _F32, (_norm, _segments)),
    ("convolution", 1, _F32, (_conv,)),
    ("convolution", _MANY, _F32, (_conv,)),
    ("attention", 1, _F32, (_attention,)),
    ("attention", _MANY, _F32, (_attention,)),
    ("gather", 1, _ALL, (_gather,)),
    ("gather", _MANY, _ALL, (_gather,)),
)
ROWS = [Row(name, n, dtype, makes) for name, n, dtypes, makes in _TABLE for dtype in dtypes]


def classes() -> set[type]:
    """The kinds of ops that the rows hold."""
    made = (case for row in ROWS if row.dtype == "f32" for case in row.cases(SMALL))
    return {type(case.op) for case in made if isinstance(case, OpCase)}


# ---- where it is run


@dataclass(frozen=True)
class Place:
    """A column. `missing`: why nothing runs here; `assembled`: it is compiled nevertheless."""

    name: str
    target: Target
    device: str
    about: str
    missing: str = ""
    assembled: bool = False


def place_of(name: str, devices: Mapping[str, str] | None = None) -> Place:
    """`devices`: by driver, others than those that the tests take."""
    driver = KINDS[name].driver
    device = (devices or {}).get(driver, next((row.device for row in DEVICES if row.name == name), ""))
    try:
        there = [d for d in Library.default().devices(driver) if device.lower() in d["name"].lower()]
    except MossnetError as e:
        return _absent(name, str(e))
    if not there:
        return _absent(name, f"no device '{device}'")
    if driver == "cpu":
        return Place(name, parse_target(name), "", "all cores")
    options = f":arch={there[0]['features'].removeprefix('sm_')}" if driver == "cuda" else ""
    about = f"{there[0]['name']}, driver {there[0]['driver']}, {there[0]['api']}"
    return Place(name, parse_target(name + options, device), device, about)


def _absent(name: str, reason: str) -> Place:
    """A target that nothing here runs."""
    target = parse_target(name)
    if not isinstance(target, GpuTarget) or not target.archs:
        return Place(name, target, "", "", reason)
    try:
        compiler = cubin.compiler(target.archs).name
    except MossnetError as e:
        return Place(name, target, "", "", f"{reason}; {e}")
    return Place(name, target, "", f"assembled by {compiler}", reason, assembled=True)


# ---- running it


@dataclass(frozen=True)
class Result:
    """A line of docs/targets.csv. `result`: pass, FAIL, assembled or not run; `error` of the small sizes, and
    `error_beside_cpu` of the large ones, over the largest value expected; `bytes` that a call has to move.
    """

    kernel: str
    n_tokens: int
    weights: str
    target: str
    result: str
    error: str = ""
    error_beside_cpu: str = ""
    bytes: str = ""
    seconds: str = ""
    gb_per_s: str = ""
    note: str = ""


def results(rows: Sequence[Row], there: Sequence[Place]) -> Iterator[Result]:
    """Of every row in every place."""
    assembled = {p.name: _assembled(rows, p) for p in there if p.assembled}
    for row in rows:
        small, large, cpu = row.cases(SMALL), row.cases(REAL)[0], list[cases.Array]()
        for place in there:
            name = (row.kernel, row.n_tokens, row.dtype, place.name)
            if place.assembled:
                yield Result(*name, *assembled[place.name][row])
            elif place.missing:
                yield Result(*name, "not run", note=place.missing)
            else:
                yield _measured(Result(*name, "FAIL"), place, small, large, cpu)


def _measured(failed: Result, place: Place, small: Sequence[Case], large: Case, cpu: list[cases.Array]) -> Result:
    """What a place does with a row. `cpu`: what the cpu, which comes first, said at the large sizes."""
    try:
        error = max(case.error(_ran(place, case)[0].arrays) for case in small)
        made, one = _ran(place, large)
        said = large.said(made.arrays)
        beside = max(map(cases.difference, said, cpu or said))
        seconds, n_bytes = _seconds(one), moved(large, made)
    except MossnetError as e:
        return replace(failed, note=" ".join(str(e).split())[:200])
    cpu[:] = cpu or said
    return replace(
        failed,
        result="pass" if max(error, beside) < TOLERANCE else "FAIL",
        error=_shown(error),
        error_beside_cpu="" if place.target.driver == "cpu" else _shown(beside),
        bytes=str(n_bytes),
        seconds=f"{seconds:.3e}",
        gb_per_s=f"{n_bytes / seconds / 1e9:.3g}",
    )


def _shown(error: float) -> str:
    return f"{error:.1e}" if error else "0"


def _ran(place: Place, case: Case) -> tuple[Made, OneKernel]:
    made = case.made(schedule(place.target))
    one = OneKernel(made.kernels, place.target, made.names, place.device, n_threads=0)
    one.run(*made.arrays)
    return made, one


def _seconds(one: OneKernel) -> float:
    once = one.seconds(1)
    return one.seconds(max(5, min(500, round(_MEASURE_S / max(once, 1e-7)))))


def _assembled(rows: Sequence[Row], place: Place) -> dict[Row, tuple[str, ...]]:
    """The result of each row where there is a compiler but no device. One program holds all kernels, as that of a model
    does; where it is refused, each row has its own.
    """
    s, kernels = schedule(place.target), {}
    for i, row in enumerate(rows):
        made = [
            case.made(s, f"k{i}_{j}_{n}") for n, z in enumerate((SMALL, REAL)) for j, case in enumerate(row.cases(z))
        ]
        kernels[row] = [kernel for m in made for kernel in m.kernels]
    compile = backend(place.target).compile
    try:
        compile([kernel for of_row in kernels.values() for kernel in of_row], place.target, lambda _: None)
        return dict.fromkeys(rows, ("assembled",))
    except MossnetError:
        found: dict[Row, tuple[str, ...]] = {}
        for row, of_row in kernels.items():
            try:
                compile(of_row, place.target, lambda _: None)
                found[row] = ("assembled",)
            except MossnetError as e:
                found[row] = ("FAIL", "", "", "", "", "", " ".join(str(e).split())[:200])
        return found


def moved(case: Case, made: Made) -> int:
    """The bytes that a call's kernels have to read and write: their buffers, as far as they are used."""
    each = (
        p.n * itemsize(p.dtype) * (p.read + p.written) * _used(case, p)
        for kernel in made.kernels
        for p in kernel.params
    )
    return round(sum(each))


def _used(case: Case, p: Param) -> float:
    """The part of a buffer that a call touches."""
    if isinstance(case, GraphCase):
        return case.n_rows / len(case.weight) if p.n >= case.weight.size else 1.0
    op = case.op
    if isinstance(op, ops.ExpertMatmul):
        if p.name in ("weight", "weight3", "bias") and op.routed:
            return _experts(case) / op.n_experts
        return op.n_in / op.x_stride if p.name == "x" else 1.0
    if isinstance(op, ops.RoutedScan):
        routed = op.n_experts > 1 and op.update == "selected"
        if routed and (p.name in ("weight", "bias", "A") or (p.name == "h" and op.mode == "separate_state")):
            return _experts(case) / op.n_experts
    if (isinstance(op, ops.CausalConv | ops.RoutedScan) and p.name == "xz") or p.name == "ring":
        return 0.5  # half of the columns; the ring is read, and what is written are a few rows
    return 1.0


def _experts(case: OpCase) -> int:
    """How many experts the tokens go to."""
    return len(set(next(a for a in case.arrays if a.dtype == np.int32).reshape(-1).tolist()))


# ---- what is written


def table(found: Sequence[Result]) -> list[str]:
    """The table in Markdown."""
    by_row: dict[tuple[str, int, str], dict[str, Result]] = {}
    for r in found:
        by_row.setdefault((r.kernel, r.n_tokens, r.weights), {})[r.target] = r
    columns = list(dict.fromkeys(r.target for r in found))
    lines = [
        "| " + " | ".join(("kernel", "tokens", "weights", *columns)) + " |",
        "|---|--:|---" + "|--:" * len(columns) + "|",
    ]
    for (kernel, n, weights), of_row in by_row.items():
        cells = [kernel, str(n), weights, *(_cell(of_row[name]) for name in columns)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _cell(r: Result) -> str:
    return " ".join(filter(None, (r.result, r.error, r.gb_per_s)))


def head(there: Sequence[Place]) -> list[str]:
    """Where and how it was made."""
    commit = _git("rev-parse", "--short", "HEAD") + " and changes" * bool(
        _git("status", "--porcelain", "--", *_SOURCES)
    )
    machine = f"{Library.default().cpu_count} cores of {cpu_name()}, load {os.getloadavg()[0]:.1f} before"
    lines = [f"`{COMMAND}` at commit {commit}, {date.today()}, {machine}:", ""]
    for place in there:
        how = "no GPU here: " if place.assembled else "not run: "
        facts = filter(None, (place.about, place.missing and how + place.missing))
        lines.append(f"- {place.name}: `{place.target.name}`, {'; '.join(facts)}")
    return [*lines, ""]


# What decides the results.
_SOURCES = (
    "codegen/kernels",
    "codegen/emit",
    "codegen/schedules",
    "codegen/*.py",
    "targets/table.py",
    "targets/runtime",
)


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def split(text: str) -> tuple[str, str, str]:
    """docs/targets.md up to the first marker, what stands between the two, and the rest."""
    before, first, rest = text.partition(f"{BEGIN}\n")
    inside, last, after = rest.partition(END)
    assert first and last, f"{DOC}: the markers are missing"
    return before + first, inside.rstrip("\n"), last + after


def read() -> list[Result]:
    """The rows of docs/targets.csv."""
    with CSV.open(newline="") as f:
        return [Result(**{**row, "n_tokens": int(row["n_tokens"])}) for row in csv.DictReader(f)]  # type: ignore[arg-type]


def _write(found: Sequence[Result], lines: Sequence[str]) -> None:
    before, _, after = split(DOC.read_text())
    DOC.write_text("\n".join([before.rstrip("\n"), *lines, "", after]))
    with CSV.open("w", newline="") as f:
        writer = csv.DictWriter(f, [field.name for field in fields(Result)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put it into docs/targets.md and docs/targets.csv")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose kernel's name holds TEXT; not written")
    parser.add_argument("--targets", default=",".join(TARGETS), metavar="NAME,...", help="columns; not written")
    parser.add_argument("--device", action="append", default=[], metavar="DRIVER:NAME", help="not the tests' own")
    given = parser.parse_args()
    devices = {driver: name for driver, _, name in (device.partition(":") for device in given.device)}
    columns = given.targets.split(",")
    if given.write and (given.only or columns != list(TARGETS)):
        parser.error("a part of the table cannot be written")
    there = [place_of(name, devices) for name in TARGETS if name in columns]
    rows = [row for row in ROWS if given.only in row.kernel]
    found, lines = [], head(there)  # before: what is measured is the code of now
    for result in results(rows, there):
        found.append(result)
        print(f"{len(found)}/{len(rows) * len(there)}", *asdict(result).values(), file=sys.stderr)
    lines += table(found)
    print("\n".join(lines))
    if given.write:
        _write(found, lines)


if __name__ == "__main__":
    main()
