"""Whether an OpenCL model file keeps to what a device can do: every kernel, by the source that the file holds.

Three tables of rules, for what the file says of a kernel, for its text, and for what a front end that is not ours makes
of it (`opencl_ir.py`). What that does not take, or what is no single kernel, is not looked into any further.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from mossnet_tg.codegen import opencl_ir
from mossnet_tg.codegen.moss_file import Buffer, Kernel, MossFile, Region
from mossnet_tg.errors import ArtifactError
from mossnet_tg.targets.table import GpuTarget


@dataclass(frozen=True)
class Limits:
    """What every device of a target allows.

    lanes: of a vector. private_bytes: a thread's arrays that are memory in an optimized kernel. features: extensions
    that a file may ask for.
    """

    threads: int
    local_bytes: int
    buffer_bytes: int
    lanes: int
    private_bytes: int = 96 * 16  # an Adreno's registers: a larger array cannot lie there
    arguments: int = 128
    argument_bytes: int = 1024
    features: Set[str] = frozenset({opencl_ir.FP16})

    @classmethod
    def of(cls, target: GpuTarget) -> Limits:
        """A GPU loads 16 bytes at once."""
        return cls(target.threads, target.shared_bytes, target.max_buffer_bytes, max(4, target.simd))


@dataclass(frozen=True)
class Violation:
    """A rule that is broken, by a kernel or, where that is "", by the file."""

    kernel: str
    rule: str
    found: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.kernel or 'the file'}: {self.rule}: {self.found}, allowed: {self.allowed}"


@dataclass(frozen=True)
class Facts:
    """A kernel: the file's record of it, its source, and what was read from that."""

    kernel: Kernel
    source: str
    features: Set[str]
    body: opencl_ir.Body = field(default_factory=opencl_ir.Body)


@dataclass(frozen=True)
class Rule:
    """What is found must be what is allowed: as a number at most that, as a set no more than that, or equal to it."""

    name: str
    found: Callable[[Facts], Any]
    allowed: Callable[[Facts, Limits], Any]
    holds: Callable[[Any, Any], bool] = operator.le

    def violation(self, facts: Facts, limits: Limits) -> Violation | None:
        found, allowed = self.found(facts), self.allowed(facts, limits)
        if self.holds(found, allowed):
            return None
        if isinstance(found, Set):
            found = found - allowed
        return Violation(facts.kernel.name, self.name, _show(found), _show(allowed))


def _show(value: Any) -> str:
    if not isinstance(value, Set):
        return str(value)
    more = len(value) - 3
    return ("; ".join(sorted(value)[:3]) or "none") + f" and {more} more" * (more > 0)


# ---- the rules

_POINTER_BYTES = 8
_SIZES = ("", 2, 4, 8, 16)
_ACCESSES = (f"{name}{n}" for name in ("vload", "vstore", "vload_half") for n in _SIZES)
_ROUNDED = (f"vstore_half{n}_rte" for n in _SIZES)
_POSITIONS = ("get_group_id", "get_local_id")
_MATHS = ("floor", "fabs", "sqrt", "exp2", "trunc")
# Core OpenCL 1.2, and one instruction of every GPU or a few. Not fma: an Adreno has none that rounds once.
BUILTINS: Set[str] = frozenset({*_ACCESSES, *_ROUNDED, *_POSITIONS, *_MATHS, "barrier", "convert"})


def _nothing(facts: Facts, limits: Limits) -> Set[str]:
    return frozenset()


RECORD_RULES = (
    Rule("threads of a group", lambda k: math.prod(k.kernel.block), lambda k, most: most.threads),
    Rule("bytes of local memory", lambda k: k.kernel.local_bytes, lambda k, most: most.local_bytes),
    Rule("arguments", lambda k: len(k.kernel.params), lambda k, most: most.arguments),
    Rule("bytes of arguments", lambda k: _POINTER_BYTES * len(k.kernel.params), lambda k, most: most.argument_bytes),
)
# A kernel that keeps to them is the same among others, where clang reads it, as it is alone, where a driver does.
TEXT_RULES = (
    Rule("names", lambda k: re.findall(r"void (\w+)\(", k.source), lambda k, most: [k.kernel.name], operator.eq),
    Rule("definitions", lambda k: _definitions(k.source), lambda k, most: 1, operator.eq),
    Rule("characters", lambda k: _strange(k.source), _nothing),
    Rule("directives", lambda k: _directives(k.source), lambda k, most: _pragmas(k.features)),
)
BODY_RULES = (
    Rule("group of the source", lambda k: k.body.block, lambda k, most: k.kernel.block, operator.eq),
    Rule("local memory of the source", lambda k: k.body.local_bytes, lambda k, most: k.kernel.local_bytes, operator.eq),
    Rule("arguments of the source", lambda k: len(k.body.arguments), lambda k, most: len(k.kernel.params), operator.eq),
    Rule("arguments that are no buffers", lambda k: _no_buffers(k.body.arguments), _nothing),
    Rule("lanes of a vector", lambda k: k.body.lanes, lambda k, most: most.lanes),
    Rule("float64", lambda k: k.body.doubles, _nothing),
    Rule("integers of 64 bits", lambda k: k.body.longs, _nothing),
    Rule("sums in float16", lambda k: k.body.carried_halves, _nothing),
    Rule("subnormal constants", lambda k: k.body.subnormals, _nothing),
    Rule("functions", lambda k: k.body.calls, lambda k, most: BUILTINS),
    Rule("bytes of private arrays", lambda k: k.body.private_bytes, lambda k, most: most.private_bytes),
)


def _definitions(source: str) -> int:
    """How many things stand at the top of a source."""
    depth = found = 0
    for c in source:
        depth += (c in "({[") - (c in ")}]")
        found += depth == 0 and c in ";}"
    return found


def _strange(source: str) -> Set[str]:
    """What hides something from `_definitions`: comments, texts, lines that go on."""
    return set(re.findall(r"//|/\*|[^\w\s(){}\[\]<>=+\-*/%!&|^~?:;,.#]", source))


def _directives(source: str) -> Set[str]:
    return {line.strip() for line in source.splitlines() if "#" in line}


def _pragmas(features: Set[str]) -> Set[str]:
    return {f"#pragma OPENCL EXTENSION {feature} : enable" for feature in features}


def _no_buffers(arguments: Sequence[str]) -> Set[str]:
    return {argument for argument in arguments if "addrspace(1)" not in argument}


# ---- a file


def kernels(moss: MossFile) -> list[Facts]:
    """What a file says of its kernels. Raises ArtifactError for a file whose code is not OpenCL C."""
    if moss.meta.get("driver") != "opencl":
        raise ArtifactError(f"the file is for {moss.meta.get('driver')}, expected opencl")
    spans = [(k, k.code_offset, k.code_offset + k.code_bytes) for k in moss.kernels]
    return [Facts(k, moss.code[begin:end].decode(), _features(moss)) for k, begin, end in spans]


def read(found: Sequence[Facts], clang: str) -> list[Facts]:
    """The same with what the sources hold; clang must take them."""
    if not found:
        return []
    bodies = opencl_ir.read({k.kernel.name: k.source for k in found}, found[0].features, clang)
    return [Facts(k.kernel, k.source, k.features, bodies[k.kernel.name]) for k in found]


def check(moss: MossFile, limits: Limits, clang: str) -> list[Violation]:
    """Every rule that a file breaks. Raises ArtifactError for a file whose code is not OpenCL C."""
    left, found = kernels(moss), list(_of_file(moss, limits))

    def keep(violations: Sequence[Violation]) -> list[Facts]:
        found.extend(violations)
        return [k for k in left if k.kernel.name not in {v.kernel for v in violations}]

    keep(_broken(RECORD_RULES, left, limits))
    left = keep(_broken(TEXT_RULES, left, limits))
    left = keep(list(_refusals(left, clang)))
    keep(_broken(BODY_RULES, read(left, clang), limits))
    return found


def _broken(rules: Sequence[Rule], facts: Sequence[Facts], limits: Limits) -> list[Violation]:
    return [v for k in facts for rule in rules if (v := rule.violation(k, limits))]


def _refusals(facts: Sequence[Facts], clang: str) -> Iterator[Violation]:
    """What clang says of the sources."""
    sources = {k.kernel.name: k.source for k in facts}
    for version in opencl_ir.VERSIONS if facts else ():
        for d in opencl_ir.diagnose(sources, version, facts[0].features, clang):
            yield Violation(d.kernel, f"OpenCL C as {version}", f"line {d.line}: {d.text}", "no error, no warning")


def _features(moss: MossFile) -> Set[str]:
    return set(filter(None, moss.meta.get("features", "").split(",")))


def _of_file(moss: MossFile, limits: Limits) -> Iterator[Violation]:
    if strange := _features(moss) - limits.features:
        yield Violation("", "features", _show(strange), _show(limits.features))
    for region in Region:
        for name, n_bytes in _memory(b for b in moss.buffers if b.region == region):
            if n_bytes > limits.buffer_bytes:
                yield Violation("", f"bytes of buffer {name}", str(n_bytes), str(limits.buffer_bytes))
    names = [k.name for k in moss.kernels]
    if repeated := {name for name in names if names.count(name) > 1}:
        yield Violation("", "names of several kernels", _show(repeated), "none")


def _memory(buffers: Iterable[Buffer]) -> Iterator[tuple[str, int]]:
    """(first name, bytes) of what is one piece of memory: buffers of a region that overlap."""
    pieces: list[tuple[str, int, int]] = []
    for b in sorted(buffers, key=lambda b: b.offset):
        if pieces and b.offset < pieces[-1][2]:
            name, begin, end = pieces[-1]
            pieces[-1] = name, begin, max(end, b.offset + b.bytes)
        else:
            pieces.append((b.name, b.offset, b.offset + b.bytes))
    for name, begin, end in pieces:
        yield name, end - begin
