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


def distribute(
    folder: Path,
    model: Path,
    facts: Mapping[str, Any],
    abi: str,
    progress: Progress,
    warn: Progress,
    *,
    code: bytes = b"",
    ndk: Path | None = None,
    require_ndk: bool = False,
) -> list[Path]:
    """Put what goes with `model`, which lies in `folder`, beside it; what was put there. `facts` are what the manifest
    says beside the files; `code` is the model's for processors of the platform, of which Android gets a library. Each
    file appears when it is complete, the manifest last. `warn` is told what has to be left out for want of a Java
    compiler.

    Raises MossnetError: where nothing compiles for the platform, and when the disk does not take it.
    """
    made = {"lib/libmossnet.so": cross.library, "lib/libmossnet.a": cross.archive}
    contents = {"include/mossnet.h": (RUNTIME / "mossnet.h").read_bytes()}
    for name, build in made.items():
        installed = Library.default().path.with_name(Path(name).name)
        is_here = abi == own_abi() and installed.is_file()
        path = installed if is_here else build(abi, progress, ndk=ndk, require_ndk=require_ndk)
        contents[name] = path.read_bytes()
    version = Library.default().version
    for name, place in _PLACES.items():
        contents[place] = (_TEMPLATES / name).read_bytes().replace(b"@VERSION@", version.encode())
    if abi in ANDROID_NAMES:
        wanted = Wanted(ndk, require_ndk)
        libraries = {code_library_name(code): code_library(abi, code, progress, wanted)} if code else {}
        contents |= {f"lib/{name}": content for name, content in libraries.items()}
        try:
            classes = classes_jar()
        except MossnetError as e:
            warn(f"no {AAR}: {e}" + (f"; {e.hint}" if e.hint else ""))
        else:
            contents[AAR] = aar(abi, classes, libraries, progress, wanted)
    with model.open("rb") as file:
        files = {model.relative_to(folder).as_posix(): _described(model.stat().st_size, sha256(file))}
    files |= {name: _described(len(content), sha256(BytesIO(content))) for name, content in contents.items()}
    manifest = {"mossnet-tg": version, "abi": abi, **facts, "files": dict(sorted(files.items()))}
    contents[MANIFEST] = (json.dumps(manifest, indent=1) + "\n").encode()
    for name, content in contents.items():
        try:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_whole(folder / name, content)
        except OSError as e:
            raise MossnetError(f"{folder / name}: cannot be written: {e.strerror}") from None
    return [folder / name for name in contents]


def _described(n_bytes: int, digest: bytes) -> dict[str, Any]:
    return {"bytes": n_bytes, "sha256": digest.hex()}
