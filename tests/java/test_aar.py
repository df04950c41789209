"""mossnet.aar: each file in it, the same each time that it is made, and what is said where it cannot be made."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import xml.etree.ElementTree as ElementTree
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from mossnet_tg.errors import MossnetError
from mossnet_tg.targets.cross.platforms import PLATFORMS
from mossnet_tg.targets.cross.toolchain import Wanted
from mossnet_tg.targets.distribution import MANIFEST, distribute, for_android
from mossnet_tg.targets.elf import findings
from mossnet_tg.targets.java.aar import LIBRARY, NAME
from mossnet_tg.targets.java.classes import SOURCES, classes_jar
from mossnet_tg.targets.java.code_library import code_library_name
from tests.cross import programs

ABI = "android-arm64"
CLASS_VERSION = 52  # Java 8's
CODE = bytes(range(256)) * 70  # stands for a model's
HEADER = (Path(__file__).parents[2] / "targets" / "runtime" / "mossnet.h").read_text()


@pytest.fixture(scope="module")
def folder(jar: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stands beside a model for Android."""
    programs.toolchain(ABI, "clang")
    folder = tmp_path_factory.mktemp("phone")
    (folder / "other.so").write_bytes(b"a library")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOSSNET_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        for variable in ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT", "ANDROID_HOME"):
            patch.delenv(variable, raising=False)
        beside_a_model(folder)
        (folder / "first").write_bytes((folder / NAME).read_bytes())
        patch.setenv("MOSSNET_CACHE_DIR", str(tmp_path_factory.mktemp("second")))
        beside_a_model(folder)
    return folder


def beside_a_model(folder: Path) -> list[str]:
    """The warnings of making it."""
    model, warnings = folder / "model.moss", list[str]()
    model.write_bytes(b"a model")
    distribute(folder, model, ABI, for_android(ABI, CODE, lambda _: None, warnings.append, Wanted()), {})
    return warnings


@pytest.fixture(scope="module")
def files(folder: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(folder / NAME) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def exported(path: Path) -> dict[str, list[str]]:
    """Name and row of readelf of what a library shows to others."""
    lines = subprocess.run(["readelf", "--dyn-syms", "-W", path], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in lines.splitlines() if re.match(r"\s*\d+:", line)]
    return {row[7].partition("@")[0]: row for row in rows if len(row) > 7 and row[6] != "UND"}


def test_what_is_in_it(files: dict[str, bytes]) -> None:
    assert list(files) == [
        "AndroidManifest.xml",
        "META-INF/com/android/build/gradle/aar-metadata.properties",
        "R.txt",
        "classes.jar",
        "jni/arm64-v8a/libmossnet.so",
        f"jni/arm64-v8a/{code_library_name(CODE)}",
        "proguard.txt",
    ]
    assert files["R.txt"] == b"" and b"-keep class org.mossnet.** { *; }" in files["proguard.txt"]
    metadata = files["META-INF/com/android/build/gradle/aar-metadata.properties"]
    assert metadata == b"aarFormatVersion=1.0\naarMetadataVersion=1.0\nminCompileSdk=24\n"


def test_its_manifest(files: dict[str, bytes]) -> None:
    """A library that an app may open without it being installed is named within `application`."""
    manifest, android = (
        ElementTree.fromstring(files["AndroidManifest.xml"]),
        "{http://schemas.android.com/apk/res/android}",
    )
    assert manifest.attrib == {"package": "org.mossnet"}
    sdk, application = manifest
    assert (sdk.tag, sdk.attrib, application.tag) == ("uses-sdk", {f"{android}minSdkVersion": "24"}, "application")
    (library,) = application
    assert library.tag == "uses-native-library"
    assert library.attrib == {f"{android}name": "libOpenCL.so", f"{android}required": "false"}


def test_its_classes(files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(BytesIO(files["classes.jar"])) as archive:
        classes = {name: archive.read(name) for name in archive.namelist()}
    assert {name.rpartition("/")[0] for name in classes} == {"org/mossnet"}
    tops = {name.rpartition("/")[2].removesuffix(".class") for name in classes if "$" not in name}
    assert tops == {path.stem for path in SOURCES}
    for content in classes.values():
        assert struct.unpack(">IHH", content[:8]) == (0xCAFEBABE, 0, CLASS_VERSION)


def test_its_library(files: dict[str, bytes], tmp_path: Path) -> None:
    """One that Android takes, with nothing to be seen but the C interface and what a virtual machine looks for."""
    library = files["jni/arm64-v8a/libmossnet.so"]
    assert findings(library, PLATFORMS[ABI].rules, is_program=False) == []
    path = tmp_path / "libmossnet.so"
    path.write_bytes(library)
    declared = set(re.findall(r"MOSSNET_API [\w *]*?\b(mossnet_\w+)\(", HEADER))
    assert set(exported(path)) == declared | {"JNI_OnLoad"}


def test_the_models_code(files: dict[str, bytes], folder: Path, tmp_path: Path) -> None:
    """It lies in pages that are executable, at the beginning of one, and is the only thing to be seen."""
    name = code_library_name(CODE)
    library = files[f"jni/arm64-v8a/{name}"]
    assert (folder / "lib" / name).read_bytes() == library
    assert findings(library, PLATFORMS[ABI].rules, is_program=False) == []
    path = tmp_path / name
    path.write_bytes(library)
    rows = exported(path)
    assert set(rows) == {"mossnet_code", "mossnet_code_bytes"}
    at = int(rows["mossnet_code"][1], 16)
    segments = subprocess.run(["readelf", "-lW", path], capture_output=True, text=True, check=True).stdout
    ((offset, address),) = re.findall(r"LOAD +0x(\w+) 0x(\w+) .* R E ", segments)
    start = int(offset, 16) + at - int(address, 16)
    assert at % 4096 == 0 and library[start : start + len(CODE)] == CODE


@pytest.mark.parametrize(("abi", "name"), programs.rows(ABI))
def test_every_compiler_makes_the_library_without_a_warning(abi: str, name: str) -> None:
    made = programs.built(abi, name, LIBRARY)
    assert findings(made.read_bytes(), PLATFORMS[abi].rules, is_program=False) == []


def test_it_is_the_same_each_time(folder: Path) -> None:
    assert (folder / NAME).read_bytes() == (folder / "first").read_bytes()


def test_the_list_beside_the_model_has_it(folder: Path) -> None:
    listed = json.loads((folder / MANIFEST).read_text())["files"]
    assert listed[NAME]["bytes"] == (folder / NAME).stat().st_size


def test_without_a_java_compiler_all_else_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    (warning,) = beside_a_model(tmp_path)
    assert warning == (
        f"no mossnet.aar: no javac in {tmp_path}/bin (JAVA_HOME) to compile the Java classes with;"
        " `apt install default-jdk-headless`"
    )
    listed = json.loads((tmp_path / MANIFEST).read_text())["files"]
    assert not (tmp_path / NAME).exists() and NAME not in listed and f"lib/{code_library_name(CODE)}" in listed


def test_what_the_java_compiler_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, javac: str) -> None:
    source = tmp_path / "Broken.java"
    source.write_text("class Broken { int none() { return none; } }\n")
    monkeypatch.setattr("mossnet_tg.targets.java.classes.SOURCES", (source,))
    with pytest.raises(MossnetError, match=r"compiling the Java classes failed:\n.*cannot find symbol"):
        classes_jar()
