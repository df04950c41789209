"""What an app needs to run a model, in a folder: libraries, header, build files, an example, and a list of it all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from mossnet_tg.engine import Library
from mossnet_tg.errors import MossnetError
from mossnet_tg.folders import sha256, write_whole
from mossnet_tg.targets import cross
from mossnet_tg.targets.cross.build import RUNTIME
from mossnet_tg.targets.cross.platforms import platform
from mossnet_tg.targets.cross.toolchain import Wanted
from mossnet_tg.targets.java.aar import ANDROID_NAMES, aar
from mossnet_tg.targets.java.aar import NAME as AAR
from mossnet_tg.targets.java.classes import classes_jar
from mossnet_tg.targets.java.code_library import code_library, code_library_name
from mossnet_tg.targets.transport import own_abi

Progress = Callable[[str], None]

_TEMPLATES = Path(__file__).with_name("embed")
# Where each lies in the folder.
_PLACES = {
    "app.c": "app.c",
    "CMakeLists.txt": "CMakeLists.txt",
    "mossnet-config.cmake": "lib/cmake/mossnet/mossnet-config.cmake",
    "mossnet-config-version.cmake": "lib/cmake/mossnet/mossnet-config-version.cmake",
    "mossnet.pc": "lib/pkgconfig/mossnet.pc",
}
MANIFEST = "manifest.json"
# Android's names of what has another one here.
_ALIASES = {name: abi for abi, name in ANDROID_NAMES.items()}


def abi_named(text: str) -> str:
    """A platform by its name, or by Android's; "" is this machine. Raises UsageError for one that is not known."""
    abi = _ALIASES.get(text, text) or own_abi()
    platform(abi)
    return abi


def libraries(abi: str, progress: Progress, wanted: Wanted) -> dict[str, bytes]:
    """libmossnet for a platform, shared and static, by the place in the folder: this machine's own was installed,
    others are built. Raises MossnetError where nothing here compiles for it.
    """
    found = {}
    for build, name in ((cross.library, "libmossnet.so"), (cross.archive, "libmossnet.a")):
        installed = Library.default().path.with_name(name)
        is_here = abi == own_abi() and installed.is_file()
        found[f"lib/{name}"] = (installed if is_here else build(abi, progress, wanted)).read_bytes()
    return found


def for_android(abi: str, code: bytes, progress: Progress, warn: Progress, wanted: Wanted) -> dict[str, bytes]:
    """What an Android app wants beside that, by the place in the folder, and nothing for other platforms: `code`, the
    model's for processors, as a library, and mossnet.aar, of which `warn` is told where there is no Java compiler.

    Raises MossnetError where nothing here compiles for the platform.
    """
    if abi not in ANDROID_NAMES:
        return {}
    libraries = {code_library_name(code): code_library(abi, code, progress, wanted)} if code else {}
    found = {f"lib/{name}": content for name, content in libraries.items()}
    try:
        classes = classes_jar()
    except MossnetError as e:
        warn(f"no {AAR}: {e}" + (f"; {e.hint}" if e.hint else ""))
        return found
    return found | {AAR: aar(abi, classes, libraries, progress, wanted)}


def distribute(folder: Path, model: Path, abi: str, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> None:
    """Put `files`, by their places, and what every app needs beside `model`, which lies in `folder`. `facts` are what
    the manifest says beside the files. Each file appears when it is complete, the manifest last. Raises MossnetError
    when the disk does not take it.
    """
    contents = {"include/mossnet.h": (RUNTIME / "mossnet.h").read_bytes(), **files}
    version = Library.default().version
    for name, place in _PLACES.items():
        contents[place] = (_TEMPLATES / name).read_bytes().replace(b"@VERSION@", version.encode())
    with model.open("rb") as file:
        listed = {model.relative_to(folder).as_posix(): _described(model.stat().st_size, sha256(file))}
    listed |= {name: _described(len(content), sha256(BytesIO(content))) for name, content in contents.items()}
    manifest = {"mossnet-tg": version, "abi": abi, **facts, "files": dict(sorted(listed.items()))}
    contents[MANIFEST] = (json.dumps(manifest, indent=1) + "\n").encode()
    for name, content in contents.items():
        try:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_whole(folder / name, content)
        except OSError as e:
            raise MossnetError(f"{folder / name}: cannot be written: {e.strerror}") from None


def _described(n_bytes: int, digest: bytes) -> dict[str, Any]:
    return {"bytes": n_bytes, "sha256": digest.hex()}
