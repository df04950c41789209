"""The targets that a model can be compiled for: rows of data.

A target is named `KIND` or `KIND:key=value,…`, e.g. `cpu` (this machine), `cpu:mcpu=x86-64-v3`, `adreno` or
`cuda:arch=80+90`. Its kind says what of libmossnet runs it (`driver`); how code for a driver is made stands in
`codegen/backends.py`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from mossnet_tg.errors import ArtifactError, UsageError
from mossnet_tg.targets import devices
from mossnet_tg.targets.host import Host, called, this_machine

ARCHS = ("x86_64", "aarch64")
_ELSEWHERE = "`mossnet-tg compile` makes a file for the other machine"


def _triple(arch: str) -> str:
    """LLVM's name for a machine of `arch`."""
    return f"{arch}-unknown-linux-gnu"


@dataclass(frozen=True)
class Target:
    """A resolved target. `name` is its full spelling; `driver` the part of libmossnet that runs it."""

    kind: str
    name: str
    driver: str

    def require_host(self, host: Host | None = None) -> None:
        """Raise ArtifactError unless the machine (None: this one) runs code for the target: before it is compiled, not
        after.
        """


@dataclass(frozen=True)
class CpuTarget(Target):
    """Machine code. `features`: what the machine that runs it must have."""

    arch: str
    mcpu: str
    features: tuple[str, ...]
    lanes: int  # float32 values in a vector register
    registers: int  # vector registers
    f16_loads: bool  # float16 widens in hardware
    dot: str = ""  # how quantised weights are multiplied: of DOTS, or "" in floats

    def require_host(self, host: Host | None = None) -> None:
        """Raise ArtifactError unless the machine (None: this one) runs code for the target: before it is compiled, not
        after.
        """
        host = host or this_machine()
        if self.arch != host.cpu_arch:
            text = f"target {self.name} is for {self.arch}, {called(host)} is {host.cpu_arch}"
            raise ArtifactError(text, _ELSEWHERE)
        if missing := sorted(set(self.features) - set(host.cpu_features)):
            text = f"target {self.name} needs {', '.join(missing)}, which {called(host)} does not have"
            raise ArtifactError(text, _ELSEWHERE)

    @property
    def tvm(self) -> dict[str, Any]:
        """TVM's spelling of this target."""
        # Pairs of features of one name would contradict each other; mcpu alone says it all.
        return {"kind": "llvm", "mtriple": _triple(self.arch), "mcpu": self.mcpu}


@dataclass(frozen=True)
class GpuTarget(Target):
    """Groups of threads. What is stated here every device of the kind has; the rest is checked when a model is loaded.

    `simd` > 0: the device is a processor, whose work-items are best whole vectors of so many float32. `half`: products
    of many tokens are computed in float16. `plain`: the classes of kernels that are made in the plainest way. `archs`:
    compute capabilities of cubins (90 for 9.0).
    """

    threads: int  # of a group that works together
    shared_bytes: int  # that it may share
    max_buffer_bytes: int  # weights that are larger are split
    simd: int = 0
    half: bool = False
    plain: tuple[str, ...] = ()
    archs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Kind:
    """One row: what `--target KIND` means. `resolve` turns options into a Target for a machine. `needs`: what runs it;
    `remedy`: what to do with a compiled `{file}` where that is not; `device`: what a device's name must hold when the
    user names none.
    """

    name: str
    summary: str
    driver: str
    options: Mapping[str, str]  # option: what it is
    resolve: Callable[[Mapping[str, str], Host | None], Target]
    needs: str = ""
    remedy: str = ""
    device: str = ""

    def wanted(self, device: str, host: Host | None = None) -> str:
        """What the name of the device that runs it must hold, from `device` as `devices.split` reads it."""
        return devices.wanted(f"target {self.name}", self.driver, self.device, device, host)


# x86-64 levels of the psABI, best first: a model compiled on one machine of a level runs on every other.
_X86_LEVELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("x86-64-v4", ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")),
    ("x86-64-v3", ("avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")),
    ("x86-64-v2", ("sse4.2", "popcnt")),
)
_BASELINE = {"x86_64": "x86-64", "aarch64": "generic"}


class Dot(NamedTuple):
    """An instruction that adds up products of int8: who has it, and the int32 sums of a vector."""

    arch: str
    feature: str
    lanes: int


# The best first.
DOTS = {
    "avx512vnni": Dot("x86_64", "avx512vnni", 16),
    "avxvnni": Dot("x86_64", "avxvnni", 8),
    "avx2": Dot("x86_64", "avx2", 8),
    "i8mm": Dot("aarch64", "i8mm", 4),
    "dotprod": Dot("aarch64", "dotprod", 4),
}


def reference_target(dot: str, quantised: bool) -> str:
    """The target whose model on this machine's processor computes as one does whose `dot` it is: integers as integers,
    floats as floats.
    """
    return "cpu:dot=none" if quantised and not dot else "cpu"


def _resolve_cpu(options: Mapping[str, str], host: Host | None) -> CpuTarget:
    host = host or this_machine()
    arch = options.get("arch", host.cpu_arch)
    if arch not in ARCHS:
        raise UsageError(f"target cpu: arch is '{arch}', expected {' or '.join(ARCHS)}")
    mcpu = options.get("mcpu") or (_host_level(host.cpu_features) if arch == host.cpu_arch else _BASELINE[arch])
    features = _features(arch, mcpu)
    if arch == "x86_64" and "sse4.2" not in features:
        hint = "x86-64-v2 fits every machine since about 2009, x86-64-v3 those since about 2013"
        raise UsageError(f"target cpu: '{mcpu}' has no SSE4.2, expected at least x86-64-v2", hint)
    lanes, registers = (
        (4, 32)
        if arch == "aarch64"
        else (16, 32)
        if "avx512vl" in features
        else (8, 16)
        if "avx2" in features
        else (4, 16)
    )
    name = f"cpu:arch={arch},mcpu={mcpu}"
    f16_loads = arch == "aarch64" or "f16c" in features
    # Code for this machine may use what its level has not; only the kernels that do need it where they run.
    there = features if "mcpu" in options or arch != host.cpu_arch else host.cpu_features
    dot = _dot(arch, lanes, there, options.get("dot"))
    if "dot" in options:
        name += f",dot={options['dot']}"
    return CpuTarget("cpu", name, "cpu", arch, mcpu, features, lanes, registers, f16_loads, dot)


def _dot(arch: str, lanes: int, there: tuple[str, ...], wanted: str | None) -> str:
    """The best of DOTS among the features that are there, or the one that is wanted; "" for none."""
    known = {name: dot for name, dot in DOTS.items() if dot.arch == arch and dot.lanes <= lanes}
    if wanted is None:
        return next((name for name, dot in known.items() if dot.feature in there), "")
    if wanted not in (*known, "none"):
        raise UsageError(f"target cpu: dot is '{wanted}', expected {', '.join([*known, 'none'])}")
    return "" if wanted == "none" else wanted


def _host_level(features: tuple[str, ...]) -> str:
    if any(name in features for name in ("neon",)):
        return _BASELINE["aarch64"]
    for i, (level, _) in enumerate(_X86_LEVELS):
        needed = [name for _, names in _X86_LEVELS[i:] for name in names]
        if all(name in features for name in needed):
            return level
    return _BASELINE["x86_64"]


# What LLVM may use of a processor and the runtime can check. Names outside (fxsr, sse2, …) are part of every x86-64.
_CHECKED = {
    "x86_64": [
        "sse4.2",
        "popcnt",
        "avx",
        "avx2",
        "fma",
        "f16c",
        "bmi",
        "bmi2",
        "lzcnt",
        "movbe",
        "avxvnni",
        "gfni",
        "vaes",
        "vpclmulqdq",
        "avx512f",
        "avx512bw",
        "avx512cd",
        "avx512dq",
        "avx512vl",
        "avx512vnni",
        "avx512bf16",
        "avx512fp16",
        "avx512vbmi",
        "avx512vbmi2",
        "avx512bitalg",
        "avx512vpopcntdq",
        "avx512ifma",
    ],
    "aarch64": ["fullfp16", "dotprod", "i8mm", "bf16", "sve", "sve2"],
}


def _features(arch: str, mcpu: str) -> tuple[str, ...]:
    """The features of processor `mcpu` that code for it may use, in LLVM's names; UsageError for an unknown one."""
    for i, (level, _) in enumerate(_X86_LEVELS):
        if arch == "x86_64" and mcpu == level:  # known without TVM, whose import takes seconds
            return tuple(sorted(name for _, names in _X86_LEVELS[i:] for name in names))
    if mcpu == _BASELINE[arch]:
        return ()
    import tvm

    triple = _triple(arch)
    plain = tvm.target.Target({"kind": "llvm", "mtriple": triple})
    known = [str(name) for name in tvm.get_global_func("target.llvm_get_cpu_archlist")(plain)]
    if mcpu not in known:
        close = difflib.get_close_matches(mcpu, known, 3)
        hint = f"did you mean {', '.join(close)}?" if close else "x86-64-v2, x86-64-v3 and x86-64-v4 fit most machines"
        raise UsageError(f"target cpu: '{mcpu}' is no {arch} processor that LLVM knows", hint)
    target = tvm.target.Target({"kind": "llvm", "mtriple": triple, "mcpu": mcpu})
    has = {str(name) for name in tvm.get_global_func("target.llvm_get_cpu_features")(target)}
    if arch == "x86_64" and "64bit" not in has:
        raise UsageError(f"target cpu: '{mcpu}' is a 32-bit processor, expected a 64-bit one")
    return tuple(sorted(name for name in _CHECKED[arch] if name in has))


def _gpu(
    kind: str, driver: str, threads: int, shared_bytes: int, max_buffer_bytes: int
) -> Callable[[Mapping[str, str], Host | None], GpuTarget]:
    """How a kind of GPU is resolved; what is given here every device of the kind must have."""

    def resolve(options: Mapping[str, str], host: Host | None) -> GpuTarget:
        plain = _plain(kind, options)
        for option, text in options.items():
            if option in _VALUES and text not in _VALUES[option]:
                allowed = " or ".join(_VALUES[option])
                raise UsageError(f"target {kind}: {option} is '{text}', expected {allowed}")
        given = ",".join(f"{option}={text}" for option, text in sorted(options.items()) if text != "0")
        simd, half = int(options.get("simd", "0")), options.get("half") == "1"
        if simd and half:
            raise UsageError(f"target {kind}: half and simd are given, expected one of them")
        return GpuTarget(
            kind,
            f"{kind}:{given}" if given else kind,
            driver,
            threads,
            shared_bytes,
            max_buffer_bytes,
            simd,
            half,
            plain,
        )

    return resolve


def _plain(kind: str, options: Mapping[str, str]) -> tuple[str, ...]:
    plain = options["plain"].split("+") if "plain" in options else []
    if wrong := [name for name in plain if name not in KERNEL_CLASSES]:
        raise UsageError(f"target {kind}: plain names '{wrong[0]}', expected some of {'+'.join(KERNEL_CLASSES)}")
    return tuple(sorted(plain))


def _resolve_cuda(options: Mapping[str, str], host: Host | None) -> GpuTarget:
    text = options.get("arch", _CUDA_ARCHS)
    parts = text.split("+")
    if not all(part.isdecimal() and 50 <= int(part) < 1000 for part in parts):
        raise UsageError(f"target cuda: arch is '{text}', expected compute capabilities such as 80+90")
    plain = _plain("cuda", options)
    name = f"cuda:arch={text}" + (f",plain={'+'.join(plain)}" if plain else "")
    return GpuTarget("cuda", name, "cuda", 256, 48 << 10, 1 << 40, plain=plain, archs=tuple(map(int, parts)))


_VALUES = {"simd": ("0", "4", "8", "16"), "half": ("0", "1")}
# The ops, the products and the loops between them.
KERNEL_CLASSES = (
    "RmsNorm",
    "CausalConv",
    "RouterTopk",
    "NormRouter",
    "ExpertMatmul",
    "RoutedScan",
    "SwaAttention",
    "product",
    "loops",
)
_COMMON = {
    "half": "1: prompts are multiplied in float16 where the weights are float16; needs float16 arithmetic",
    "plain": "kernel classes to be made in the plainest way, e.g. RoutedScan+product: mossnet-tg doctor says which",
}
# Turing to Blackwell; what is newer compiles the PTX.
_CUDA_ARCHS = "75+80+86+89+90+100+120"

# No buffer above what each device of a kind must allow: 1 GiB on an Adreno, 128 MiB in a binding of Vulkan's.
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "cpu",
            "machine code for processors, through LLVM",
            "cpu",
            {
                "arch": "x86_64 or aarch64; default: this machine's",
                "mcpu": "a processor or level that LLVM knows, or all, in one file; default: this machine's level",
                "dot": f"how quantised weights are multiplied: {', '.join(DOTS)} or none; default: the best there is",
            },
            _resolve_cpu,
        ),
        Kind(
            "adreno",
            "OpenCL for the GPUs of Snapdragon phones",
            "opencl",
            _COMMON,
            _gpu("adreno", "opencl", 128, 32 << 10, 1 << 30),
            "an Adreno GPU with OpenCL 1.2",
            "copy {file} to a Snapdragon phone, or name another OpenCL device with --device opencl:NAME",
            device="adreno",
        ),
        Kind(
            "opencl",
            "OpenCL for desktop GPUs, and processors through PoCL or Intel's runtime",
            "opencl",
            {"simd": "4, 8 or 16: vectors for a processor of so many float32; 0: threads for a GPU", **_COMMON},
            _gpu("opencl", "opencl", 256, 32 << 10, 1 << 30),
            "a device with OpenCL 1.2",
            "install an OpenCL driver (the GPU's, or for the processor Debian's pocl-opencl-icd), or copy {file} to a"
            " machine that has one",
        ),
        Kind(
            "vulkan",
            "SPIR-V for any GPU with Vulkan 1.1",
            "vulkan",
            _COMMON,
            _gpu("vulkan", "vulkan", 128, 16 << 10, 128 << 20),
            "a device with Vulkan 1.1",
            "install a Vulkan driver (NVIDIA's, or for other GPUs and the processor Debian's mesa-vulkan-drivers), or"
            " copy {file} to a machine that has one",
        ),
        Kind(
            "cuda",
            "NVIDIA GPUs, through NVRTC or nvcc",
            "cuda",
            {"arch": f"compute capabilities to make code for; default: {_CUDA_ARCHS}", "plain": _COMMON["plain"]},
            _resolve_cuda,
            "an NVIDIA GPU",
            "install NVIDIA's driver, or copy {file} to a machine with an NVIDIA GPU",
        ),
    )
}


# What `mcpu=all` stands for, the best first, and whether it differs for quantised weights only.
_EVERY = {
    "x86_64": (
        ("mcpu=x86-64-v4,dot=avx512vnni", True),
        ("mcpu=x86-64-v4", False),
        ("mcpu=x86-64-v3,dot=avxvnni", True),
        ("mcpu=x86-64-v3", False),
        ("mcpu=x86-64-v2", False),
    ),
    "aarch64": (("mcpu=generic,dot=i8mm", True), ("mcpu=generic,dot=dotprod", True), ("mcpu=generic", False)),
}


def _every(name: str, quantised: bool) -> list[str]:
    """The targets for all processors of an architecture, if the target `name` is that; else itself."""
    kind, _, rest = name.partition(":")
    given = dict(part.partition("=")[::2] for part in rest.split(","))
    if kind != "cpu" or given.get("mcpu") != "all":
        return [name]
    arch = given.get("arch", this_machine().cpu_arch)
    if arch not in _EVERY or given.keys() - {"arch", "mcpu"}:
        raise UsageError(f"target {name}: with mcpu=all expected nothing but arch={' or arch='.join(_EVERY)}")
    return [f"cpu:arch={arch},{options}" for options, only_quantised in _EVERY[arch] if quantised or not only_quantised]


def split_targets(text: str, quantised: bool = False) -> list[str]:
    """The targets of a list with commas, which also stand between a target's options: `cpu:arch=aarch64,mcpu=x,vulkan`
    are two. `cpu:mcpu=all` becomes one for each level that makes a difference, to weights that are `quantised` or not.
    Raises UsageError for one that is there twice.
    """
    found: list[str] = []
    for part in text.split(","):
        if found and "=" in part.partition(":")[0]:
            found[-1] += f",{part}"
        else:
            found.append(part)
    found = [each for name in found for each in _every(name, quantised)]
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise UsageError(f"target {twice[0]} is there twice")
    return found


def parse_target(text: str, device: str = "", host: Host | None = None) -> Target:
    """`KIND[:key=value,…]` resolved; raises UsageError that says what was found and what is known.

    `device` is the device that it will run on, as `devices.split` reads it, "" for the best one; `host` the machine,
    None for this one: what is not said of a processor is taken from it.
    """
    kind_name, _, rest = text.partition(":")
    kind = KINDS.get(kind_name)
    if kind is None:
        close = difflib.get_close_matches(kind_name, KINDS, 1)
        hint = f"did you mean '{close[0]}'?" if close else "see: mossnet-tg targets"
        raise UsageError(f"unknown target '{kind_name}', expected {' or '.join(KINDS)}", hint)
    options: dict[str, str] = {}
    for part in rest.split(",") if rest else ():
        key, equals, value = part.partition("=")
        if not equals or not value or key not in kind.options:
            known = ", ".join(f"{name}=…" for name in kind.options) or "none"
            raise UsageError(f"target {kind_name}: option '{part}' is not known, expected {known}")
        options[key] = value
    name = kind.wanted(device, host)
    # What else is given is for threads.
    if kind_name == "opencl" and not options and devices.is_processor("opencl", name, host):
        cpu = _resolve_cpu({}, host)
        options["simd"] = str(cpu.lanes)
    return kind.resolve(options, host)
