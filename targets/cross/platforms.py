"""The platforms that libmossnet is built for, as data: what is asked of the result, and which compilers are tried."""

from __future__ import annotations

import platform as host
from dataclasses import dataclass

from mossnet_tg.errors import MossnetError, UsageError
from mossnet_tg.targets.cross import android_libc, ndk
from mossnet_tg.targets.cross.toolchain import Finder, Toolchain, Wanted, clang, compiler, zig
from mossnet_tg.targets.elf import Rules


@dataclass(frozen=True)
class Platform:
    """`toolchains`: the first that is there is taken."""

    rules: Rules
    compile: tuple[str, ...]
    link: tuple[str, ...]  # options of a linker
    libraries: tuple[str, ...]
    toolchains: tuple[Finder, ...]
    hint: str  # how to get one

    def toolchain(self, abi: str, wanted: Wanted) -> Toolchain:
        """What to build with; raises MossnetError where there is nothing."""
        missing = []
        for find in self.toolchains:
            found = find(wanted)
            if isinstance(found, Toolchain):
                return found
            missing.append(found)
            if wanted.require_ndk and find is ndk.find:
                hint = "install an NDK and say where with ANDROID_NDK_HOME, or build without --require-ndk"
                raise MossnetError(f"{abi}: {found}, and one is required", hint)
        raise MossnetError(f"{abi}: nothing here compiles for it: {'; '.join(missing)}", self.hint)


def platform(abi: str) -> Platform:
    """The platform of this name; raises UsageError that says which there are."""
    if abi not in PLATFORMS:
        raise UsageError(f"unknown platform '{abi}', expected {' or '.join(PLATFORMS)}")
    return PLATFORMS[abi]


_COMPILE = ("-fPIC", "-fstack-protector-strong")
_LINK = (
    *("--hash-style=gnu", "--build-id", "--eh-frame-hdr", "--gc-sections", "--no-undefined"),
    *("-z", "now", "-z", "relro", "-z", "noexecstack"),
)
_ANDROID = f"aarch64-linux-android{android_libc.API_LEVEL}"
_ZIG = "`pip install ziglang`"


def _linux(arch: str, machine: int, page_bytes: int, loader: str, packages: str) -> Platform:
    """A Linux with the GNU C library; `packages` are Debian's that compile for it."""
    triple = f"{arch}-linux-gnu"
    own = ("cc",) if host.machine() == arch and host.libc_ver()[0] == "glibc" else ()
    return Platform(
        rules=Rules(
            machine=machine,
            page_bytes=page_bytes,
            interpreter=loader,
            needed=("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", loader.rpartition("/")[2]),
            versions=r"GLIBC_[0-9.]+",
        ),
        compile=_COMPILE,
        link=_LINK,
        libraries=("-lpthread", "-ldl", "-lc"),
        toolchains=(
            compiler(*own, f"{triple}-gcc"),
            clang(triple, libc=f"/usr/{triple}/lib/libc.so.6"),
            zig(f"{triple}.2.28"),  # the C library of 2018, and all that came later
        ),
        hint=f"`apt install {packages}`, or {_ZIG}",
    )


PLATFORMS = {
    "android-arm64": Platform(
        rules=Rules(
            machine=183,
            page_bytes=16 << 10,
            interpreter="/system/bin/linker64",
            needed=("libc.so", "libm.so", "libdl.so", "liblog.so"),
            versions=r"LIBC(_N)?|LIBLOG(_[LM])?",
            android_api=android_libc.API_LEVEL,
        ),
        # Both sets of atomic instructions in one file would take a library of the compiler's.
        compile=(*_COMPILE, "-mno-outline-atomics"),
        link=(*_LINK, "-z", "max-page-size=16384", "--fix-cortex-a53-843419"),
        libraries=("-ldl", "-lc"),
        toolchains=(
            ndk.find,
            clang(_ANDROID, own_libc=True),
            zig(_ANDROID, own_libc=True),
        ),
        hint=f"`apt install clang lld`, or {_ZIG}, or set ANDROID_NDK_HOME to an NDK",
    ),
    "linux-arm64": _linux(
        "aarch64", 183, 64 << 10, "/lib/ld-linux-aarch64.so.1", "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
    ),
    "linux-x86_64": _linux(
        "x86_64", 62, 4 << 10, "/lib64/ld-linux-x86-64.so.2", "gcc-x86-64-linux-gnu libc6-dev-amd64-cross"
    ),
}
