"""mossnet.aar: library and classes as Android's Gradle plugin takes them, a zip archive that is made without Gradle."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mossnet_tg.targets.cross.android_libc import API_LEVEL
from mossnet_tg.targets.cross.build import Output, build, library_sources
from mossnet_tg.targets.cross.toolchain import Wanted
from mossnet_tg.targets.java.classes import HERE
from mossnet_tg.targets.java.stored import stored

NAME = "mossnet.aar"
# The platforms that there is one for, and what Android calls them.
ANDROID_NAMES = {"android-arm64": "arm64-v8a"}
JNI_SOURCES = tuple(sorted(HERE.glob("native/*.c")))
# libmossnet with the methods of its Java classes in it: an app loads one library.
LIBRARY = Output("libmossnet.so", (*library_sources(), *JNI_SOURCES), is_program=False)
_TEMPLATES = HERE / "aar"
_PLACES = {
    "AndroidManifest.xml": "AndroidManifest.xml",
    "proguard.txt": "proguard.txt",
    "aar-metadata.properties": "META-INF/com/android/build/gradle/aar-metadata.properties",
}


def aar(
    abi: str, classes: bytes, others: Mapping[str, bytes], progress: Callable[[str], None], wanted: Wanted
) -> bytes:
    """The package for a platform of ANDROID_NAMES, of the classes' archive, with `others`, libraries by their names.

    Raises MossnetError as `build` does.
    """
    libraries = {LIBRARY.name: build(abi, LIBRARY, progress, wanted).read_bytes(), **others}
    files = {"classes.jar": classes, "R.txt": b""}
    files |= {f"jni/{ANDROID_NAMES[abi]}/{name}": content for name, content in libraries.items()}
    for name, place in _PLACES.items():
        files[place] = (_TEMPLATES / name).read_bytes().replace(b"@API_LEVEL@", str(API_LEVEL).encode())
    return stored(files)
