"""The vulkan row: kernels in GLSL, run by lavapipe, Mesa's Vulkan on the CPU, or by what VK_ICD_FILENAMES names."""

from __future__ import annotations

import ctypes.util
import functools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.conformance.suite import Block, Code, Driver
from tests.runtime.toy import build

HERE = Path(__file__).parent
MANIFESTS = sorted(Path("/usr/share/vulkan/icd.d").glob("lvp_icd*.json"))
MANIFEST = os.environ.get("VK_ICD_FILENAMES") or (str(MANIFESTS[0]) if MANIFESTS else "")


def unavailable() -> str | None:
    if not shutil.which("glslangValidator"):
        return "no glslangValidator (Debian: glslang-tools)"
    if not ctypes.util.find_library("vulkan"):
        return "no Vulkan loader (Debian: libvulkan1)"
    if not MANIFEST:
        return "no Vulkan driver (Debian: mesa-vulkan-drivers)"
    return None


# ---- devices that are not here


@functools.cache
def folder() -> Path:
    """For what this run of the tests builds."""
    made = tempfile.TemporaryDirectory(prefix="mossnet-vulkan-")
    folder.made = made  # type: ignore[attr-defined] # lives as long as the process
    return Path(made.name)


@functools.cache
def fake_library() -> str:
    """fake_vulkan.c, built."""
    out = folder() / "libfake_vulkan.so"
    build(out, [HERE / "fake_vulkan.c"], "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-ldl")
    return str(out)


def real_driver() -> str:
    """The library of the driver itself."""
    path: str = json.loads(Path(MANIFEST).read_text())["ICD"]["library_path"]
    return path


def faked(*options: str, through_loader: bool = False) -> Mapping[str, str]:
    """The environment in which the driver finds a device that is changed (fake_vulkan.c)."""
    settings = {"FAKE_VULKAN_DRIVER": real_driver(), "FAKE_VULKAN": ";".join(options)}
    if not through_loader:
        return {**settings, "MOSSNET_VULKAN_LIB": fake_library()}
    manifest = folder() / "fake.json"
    content = {"file_format_version": "1.0.0", "ICD": {"library_path": fake_library(), "api_version": "1.1.0"}}
    manifest.write_text(json.dumps(content))
    return {**settings, "VK_ICD_FILENAMES": str(manifest)}


def small() -> Mapping[str, str]:
    limits = {"max_allocation": 8 << 20, "max_range": 8 << 20, "threads": 128, "local": 512}
    return faked(*(f"limit:{name}={value}" for name, value in limits.items()))


# ---- kernels


def buffer(binding: int, name: str, access: str = "", kind: str = "float") -> str:
    return f"layout(set = 0, binding = {binding}) {access} buffer Buffer{binding} {{ {kind} {name}[]; }};"


# Mesa's llvmpipe ends all loops of an invocation after 65535 rounds altogether, so a round has many steps, and the one
# thread of `slow` is a group of them that all do the same: that takes its time. The multiplier is one that no compiler
# knows, so that it cannot make fewer steps of them.
SLOW_THREADS, SLOW_STEPS = 256, 1024
SLOW_STEP = "v = v * a + 1013904223u;"

# name: threads of a group, declarations, body
KERNELS = {
    "add": (
        64,
        [buffer(0, "a", "readonly"), buffer(1, "b", "readonly"), buffer(2, "sum", "writeonly")],
        "uint i = gl_GlobalInvocationID.x; sum[i] = a[i] + b[i];",
    ),
    "scale": (64, [buffer(0, "x")], "uint i = gl_GlobalInvocationID.x; x[i] = 2.0 * x[i] + 1.0;"),
    "reverse": (
        256,
        [buffer(0, "from", "readonly"), buffer(1, "to", "writeonly"), "shared float copy[256];"],
        "uint i = gl_LocalInvocationID.x; copy[i] = from[i]; barrier(); to[i] = copy[255 - i];",
    ),
    "slow": (
        SLOW_THREADS,
        [buffer(0, "count", "readonly", "int"), buffer(1, "result", kind="int")],
        f"uint v = 1; int n = count[0], i = 0; uint a = 1664525u + uint(n >> 31);"
        f"for (; i + {SLOW_STEPS} <= n; i += {SLOW_STEPS}) {{ {SLOW_STEP * SLOW_STEPS} }}"
        f"for (; i < n; i++) {{ {SLOW_STEP} }}"
        "if (gl_LocalInvocationID.x == 0) result[0] = int(v);",
    ),
    "touch": (
        64,
        [buffer(0, "big", "readonly"), buffer(1, "found", "writeonly")],
        "uint i = gl_GlobalInvocationID.x; found[i] = big[i * (big.length() / 256)];",
    ),
}


@functools.cache
def compiled(source: str) -> bytes:
    """The SPIR-V of a compute shader."""
    with tempfile.TemporaryDirectory() as folder:
        shader, module = Path(folder, "kernel.comp"), Path(folder, "kernel.spv")
        shader.write_text(source)
        command = ["glslangValidator", "-V", "--target-env", "vulkan1.1", str(shader), "-o", str(module)]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout
        return module.read_bytes()


def kernel(threads: int, declarations: Sequence[str], body: str, extensions: Sequence[str] = ()) -> bytes:
    head = ["#version 450", *(f"#extension {name} : require" for name in extensions)]
    lines = [*head, f"layout(local_size_x = {threads}) in;", *declarations, f"void main() {{ {body} }}"]
    return compiled("\n".join(lines) + "\n")


def code(names: Sequence[str]) -> Code:
    modules, at = b"", {}
    for name in names:
        module = kernel(*KERNELS[name])
        at[name] = (len(modules), len(module))
        modules += module
    return modules, at


def block_of(name: str) -> Block:
    return KERNELS[name][0], 1, 1


DRIVER = Driver("vulkan", unavailable, code, env={"VK_ICD_FILENAMES": MANIFEST}, block_of=block_of, small=small)
