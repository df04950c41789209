"""OpenCL C as clang reads it: what it has to say about a kernel, and what LLVM's code for the kernel holds.

The code is read twice. Before anything is optimized each instruction is one of the source; addresses have 64 bits then,
so that it shows where the source computes positions or offsets in them. Optimized, it says which arrays are memory.
"""

from __future__ import annotations

import itertools
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

FP16 = "cl_khr_fp16"
# The versions that a driver may take our source for: libmossnet asks for the first.
VERSIONS = ("CL1.2", "CL2.0", "CL3.0")

_VERSIONS_OF_CLANG = range(30, 13, -1)


def find_clang() -> str | None:
    """The clang of this machine: `clang`, or the newest of those with a version."""
    names = ("clang", *(f"clang-{version}" for version in _VERSIONS_OF_CLANG))
    return next(filter(None, map(shutil.which, names)), None)


@dataclass(frozen=True)
class Diagnostic:
    """An error or a warning about a kernel."""

    kernel: str
    line: int
    text: str


@dataclass
class Body:
    """What the code for a kernel holds; sets are of instructions, or of the names of what is called."""

    block: tuple[int, ...] = ()
    arguments: tuple[str, ...] = ()
    local_bytes: int = 0
    private_bytes: int = 0
    lanes: int = 1
    doubles: set[str] = field(default_factory=set)
    longs: set[str] = field(default_factory=set)
    carried_halves: set[str] = field(default_factory=set)
    subnormals: set[str] = field(default_factory=set)
    calls: set[str] = field(default_factory=set)


def diagnose(sources: Mapping[str, str], version: str, features: Set[str], clang: str) -> list[Diagnostic]:
    """The errors and warnings about kernels by name."""
    options = [f"-cl-std={version}", "-target", "spir64", "-fsyntax-only", "-ferror-limit=0"]
    run = _clang(sources, features, clang, options)
    found = re.findall(r"^(.+?):(\d+):\d+: (?:fatal )?(?:error|warning): (.*)", run.stderr, re.MULTILINE)
    if run.returncode and not found:
        raise RuntimeError(f"{clang} fails:\n{run.stderr}")
    return [Diagnostic(kernel, int(line), text) for kernel, line, text in found]


def read(sources: Mapping[str, str], features: Set[str], clang: str) -> dict[str, Body]:
    """What is in kernels that clang takes."""
    plain = _llvm(sources, features, clang, "spir64", "-O0")
    optimized = _llvm(sources, features, clang, "spir", "-O2", _private_accesses(features))
    bodies = {name: Body() for name in sources}
    for name, function in _functions(plain).items():
        _Plain(bodies[name]).read(function)
    for name, n_bytes in _local_arrays(plain):
        bodies[name].local_bytes += n_bytes
    for name, function in _functions(optimized).items():
        if name in bodies:
            _read_optimized(bodies[name], function)
    return bodies


# ---- clang


_PLAIN = "#pragma OPENCL EXTENSION all : disable\n"  # what one kernel enables the next may not use


def _clang(
    sources: Mapping[str, str], features: Set[str], clang: str, options: Sequence[str], prelude: str = ""
) -> subprocess.CompletedProcess[str]:
    """clang on all sources at once; places in them are named after the kernels."""
    text = prelude + "".join(f'{_PLAIN}#line 1 "{name}"\n{source}\n' for name, source in sources.items())
    # Nothing that a device may lack, but what clang's own header does not do without.
    allowed = ["-all", "+__opencl_c_images", "+__opencl_c_read_write_images", *(f"+{f}" for f in sorted(features))]
    allowed += ["+__opencl_c_fp64"] * ("cl_khr_fp64" in features)  # its name in version 3.0
    # The header declares all functions; in clang's own table, its default, vload_half needs cl_khr_fp16.
    header = ["-cl-no-stdinc", "-Xclang", "-finclude-default-header"]
    # A kernel has the buffers of its call in their order, whether it reads them or not.
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]
    command = [clang, "-x", "cl", *header, "-Xclang", f"-cl-ext={','.join(allowed)}", *warnings, *options]
    return subprocess.run([*command, "-o", "-", "-"], input=text, capture_output=True, text=True)


def _llvm(
    sources: Mapping[str, str], features: Set[str], clang: str, target: str, level: str, prelude: str = ""
) -> list[str]:
    """The lines of LLVM's code."""
    # As libmossnet builds it (targets/runtime/opencl_program.c).
    built = [f"-cl-std={VERSIONS[0]}", "-cl-mad-enable"]
    run = _clang(sources, features, clang, [*built, "-target", target, level, "-S", "-emit-llvm"], prelude)
    if run.returncode:
        raise RuntimeError(f"{clang} fails:\n{run.stderr}")
    return run.stdout.splitlines()


def _private_accesses(features: Set[str]) -> str:
    """vload and vstore of private memory as a device's compiler knows them: to clang they are functions of which it
    knows nothing, and an array whose address they get could never be anything but memory.
    """
    made = [f"#pragma OPENCL EXTENSION {feature} : enable\n" for feature in features]
    for kind in ("float", "int", *(["half"] if FP16 in features else [])):
        for n in (2, 4, 8, 16):
            loaded = ", ".join(f"p[{n} * i + {k}]" for k in range(n))
            stored = " ".join(f"p[{n} * i + {k}] = x.s{k:x};" for k in range(n))
            vector, head = f"{kind}{n}", "__attribute__((overloadable, always_inline))"
            made.append(f"{vector} {head} vload{n}(size_t i, const {kind} *p) {{ return ({vector})({loaded}); }}\n")
            made.append(f"void {head} vstore{n}({vector} x, size_t i, {kind} *p) {{ {stored} }}\n")
    return "".join(made)


# ---- LLVM's code


@dataclass(frozen=True)
class _Function:
    arguments: tuple[str, ...]
    block: tuple[int, ...]
    lines: Sequence[str]


_DEFINE = re.compile(r"define .*?@([\w.$]+)\((.*)\)[^()]*\{")
_GROUP = re.compile(r"!reqd_work_group_size !(\d+)")
_METADATA = re.compile(r"!(\d+) = !\{(.*)\}")
_IMPLEMENTATION = "__clang_ocl_kern_imp_"  # of a kernel that only calls it: later clangs make two functions of one


def _functions(lines: Sequence[str]) -> dict[str, _Function]:
    """By name."""
    groups = {m[1]: tuple(map(int, re.findall(r"i32 (\d+)", m[2]))) for m in map(_METADATA.match, lines) if m}
    found = {}
    for i, head in ((i, m) for i, m in enumerate(map(_DEFINE.match, lines)) if m):
        group = _GROUP.search(lines[i])
        body = list(itertools.takewhile(lambda text: text != "}", lines[i + 1 :]))
        arguments = tuple(filter(None, head[2].split(", ")))
        found[head[1]] = _Function(arguments, groups[group[1]] if group else (), body)
    implementations = {name.removeprefix(_IMPLEMENTATION): f for name, f in found.items() if _IMPLEMENTATION in name}
    return {name: f for name, f in found.items() if _IMPLEMENTATION not in name} | implementations


def _instructions(function: _Function) -> Iterator[str]:
    """Without labels, and without what is said about an instruction."""
    for line in function.lines:
        if line.startswith("  "):
            yield line.split(", !", 1)[0].strip()


_ARRAY = re.compile(
    r"@([\w$]+)\.[\w.$]+ = internal .*?addrspace\(3\) global (.+?) (?:undef|poison|zeroinitializer), align \d+"
)
_SCALARS = {"i1": 1, "i8": 1, "i16": 2, "half": 2, "i32": 4, "float": 4, "i64": 8, "double": 8}


def _size(kind: str) -> int:
    """Bytes of a type, as LLVM writes it."""
    if inner := re.fullmatch(r"[\[<](\d+) x (.+)[\]>]", kind):
        return int(inner[1]) * _size(inner[2])
    return _SCALARS.get(kind, 8)  # a pointer


def _local_arrays(lines: Sequence[str]) -> Iterator[tuple[str, int]]:
    """(kernel, bytes) of each array that a group shares."""
    for found in filter(None, map(_ARRAY.match, lines)):
        yield found[1], _size(found[2])


def _read_optimized(body: Body, function: _Function) -> None:
    for text in _instructions(function):
        if made := re.match(r"%\w+ = alloca (.+?), align", text):
            body.private_bytes += _size(made[1])
        if " = phi " in text and _values(text, "half"):
            body.carried_halves.add(text)


def _values(text: str, kind: str) -> bool:
    """Whether an instruction is about values of a type, not only about where they lie."""
    text = re.sub(rf"getelementptr (\w+ )*{kind},", "", text)
    return re.search(rf"\b{kind}\b(?!( addrspace\(\d+\))?\*)", text) is not None


class _Plain:
    """Reads a function that is not optimized: each instruction is one of the source."""

    def __init__(self, body: Body) -> None:
        self.body = body
        self.positions: set[str] = set()  # of the thread, in 64 bits
        self.widened: set[str] = set()  # offsets

    def read(self, function: _Function) -> None:
        self.body.block, self.body.arguments = function.block, function.arguments
        for text in _instructions(function):
            self._calls(text)
            self._constants(text)
            self.body.lanes = max([self.body.lanes, *map(int, re.findall(r"<(\d+) x ", text))])
            if re.search(r"\bdouble\b", text):
                self.body.doubles.add(text)
            if self._computes_in_64_bits(text):
                self.body.longs.add(text)

    def _calls(self, text: str) -> None:
        called = re.search(r"\bcall\b.*? ([@%][\w.$]+)\(", text)
        if called and not called[1].startswith("@llvm."):
            mangled = re.match(r"@_Z(\d+)(.*)", called[1])
            name = mangled[2][: int(mangled[1])] if mangled else called[1]
            self.body.calls.add("convert" if name.startswith("convert_") else name)

    def _constants(self, text: str) -> None:
        """Numbers that only devices with subnormal numbers know."""
        for found in re.findall(r"\b0x([0-9A-F]{16})\b|(?<![\w.])-?(\d\.\d+e[+-]\d+)", text):
            value = struct.unpack(">d", bytes.fromhex(found[0]))[0] if found[0] else float(found[1])
            if 0 < abs(value) < 2.0**-126:
                self.body.subnormals.add(text)

    def _computes_in_64_bits(self, text: str) -> bool:
        """Any integer of 64 bits but what OpenCL gives and C asks for: a position, if it is narrowed at once, and the
        offset of an address, if nothing was computed with it.
        """
        text = re.sub(r"@[\w.$]+", "", text)  # names say types too
        result, _, right = text.rpartition(" = ")
        if re.match(r"(?:tail )?call .*\bi64 ?\(i32", right):
            self.positions.add(result)
            return False
        if narrowed := re.fullmatch(r"trunc i64 (%\w+) to i32", right):
            return narrowed[1] not in self.positions
        if re.fullmatch(r"[sz]ext i\d+ %\w+ to i64", right):
            self.widened.add(result)
            return False
        if right.startswith("getelementptr"):
            return not self.widened.issuperset(re.findall(r"\bi64 (%\w+)", right))
        return re.search(r"\bi64\b(?! (?:noundef )?\d)", text) is not None
