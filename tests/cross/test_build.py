"""Building for other platforms: what is kept, what is refused, and what is said where it cannot be done."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from mossnet_tg.errors import MossnetError, UsageError
from mossnet_tg.folders import cross_folder
from mossnet_tg.targets import cross
from mossnet_tg.targets.cross import build, toolchain
from mossnet_tg.targets.cross.build import RUNTIME, Output, library_sources, runner_sources
from mossnet_tg.targets.cross.platforms import PLATFORMS
from mossnet_tg.targets.cross.toolchain import Wanted
from tests.cross import programs

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MOSSNET_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def small(tmp_path, monkeypatch) -> Output:
    """A library that is made in no time, with clang and lld."""
    programs.toolchain("android-arm64", "clang")
    for variable in ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT", "ANDROID_HOME"):
        monkeypatch.delenv(variable, raising=False)
    source = tmp_path / "small.c"
    source.write_text(text_of("return 1;"))
    return Output("libsmall.so", (source,), is_program=False)


def text_of(body: str) -> str:
    """A C file whose one function is seen from outside."""
    return (
        f'#include <stdlib.h>\n__attribute__((visibility("default"))) int small(void);\nint small(void) {{ {body} }}\n'
    )


def kept() -> list[str]:
    """The files of the cache."""
    return sorted(str(path.relative_to(cross_folder())) for path in cross_folder().rglob("*") if path.is_file())


def test_it_is_made_once_and_anew_when_a_source_changes(small, monkeypatch):
    said = list[str]()
    first = build.build("android-arm64", small, said.append, Wanted())
    assert first.name == "libsmall.so" and first.parent.name.startswith("android-arm64-")
    assert kept() == [f"{first.parent.name}/libsmall.so"]
    assert len(said) == 1 and re.fullmatch(r"libsmall.so for android-arm64: .*clang.*LLD.*without an NDK.*", said[0])
    with monkeypatch.context() as patch:
        patch.setattr(build, "make", lambda *_: pytest.fail("it is there"))
        assert build.build("android-arm64", small, said.append, Wanted()) == first
    assert said[1] == said[0]
    small.sources[0].write_text(text_of("return 2;"))
    second = build.build("android-arm64", small, said.append, Wanted())
    assert second.read_bytes() != first.read_bytes() and len(kept()) == 2


def test_what_the_platform_would_not_take_is_not_kept(small, monkeypatch):
    android = PLATFORMS["android-arm64"]
    monkeypatch.setitem(PLATFORMS, "android-arm64", replace(android, rules=replace(android.rules, page_bytes=1 << 20)))
    with pytest.raises(MossnetError, match=r"libsmall\.so for android-arm64, made by .* is aligned to 16384 bytes"):
        build.build("android-arm64", small, lambda _: None, Wanted())
    assert kept() == []


def test_what_the_compiler_says_is_told(small):
    small.sources[0].write_text(text_of("return none;"))
    with pytest.raises(MossnetError, match=r"compiling small\.c failed:\n.*undeclared identifier 'none'"):
        build.build("android-arm64", small, lambda _: None, Wanted())
    assert kept() == [] and list(cross_folder().iterdir()) == []


def test_what_android_has_not_cannot_be_used(small):
    small.sources[0].write_text(text_of("return aligned_alloc(8, 8) != 0;"))
    with pytest.raises(MossnetError, match=r"implicit.*aligned_alloc"):
        build.build("android-arm64", small, lambda _: None, Wanted())
    small.sources[0].write_text(text_of("extern int other(void); return other();"))
    with pytest.raises(MossnetError, match=r"linking libsmall\.so failed:\n.*undefined symbol: other"):
        build.build("android-arm64", small, lambda _: None, Wanted())


@pytest.mark.parametrize("abi", PLATFORMS)
def test_where_no_compiler_is_the_hint_names_packages(abi, monkeypatch):
    for variable in ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT", "ANDROID_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(toolchain, "find_spec", lambda _: None)
    with pytest.raises(MossnetError, match=f"{abi}: nothing here compiles for it: .*no zig") as e:
        cross.library(abi)
    assert "apt install" in (e.value.hint or "") and "pip install ziglang" in (e.value.hint or "")


def test_an_unknown_platform_is_named():
    with pytest.raises(UsageError, match="unknown platform 'ios-arm64', expected android-arm64 or linux-arm64"):
        cross.library("ios-arm64")


def test_the_sources_are_those_that_cmake_builds():
    text = (ROOT / "CMakeLists.txt").read_text()
    library, _, runner = text.partition("add_executable(")
    assert set(re.findall(r"(\w+\.c)\b", library)) == {path.name for path in library_sources()}
    there = {path.name for path in runner_sources() if path.exists()}
    assert set(re.findall(r"\{runtime\}/(\w+\.c)\b", runner)) == there
    assert {path.name for path in RUNTIME.glob("*.c")} == there | {path.name for path in library_sources()}
