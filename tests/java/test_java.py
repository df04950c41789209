"""org.mossnet on a desktop's virtual machine, under its checks of native methods: it says what the engine says."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mossnet_tg import Model
from mossnet_tg.engine import CompiledModel, Library
from mossnet_tg.targets.java.classes import HERE as SOURCES
from tests.devices import ROWS
from tests.java.conftest import HERE, Java

HEADERS = [
    *sorted(Path("/usr/lib/jvm").glob("*/include/jni.h")),
    Path("/usr/include/android/nativehelper/jni.h"),  # apt install android-libnativehelper-dev
]


def test_the_demos_text(java: Java, demo: Path) -> None:
    prompt = "def fibonacci(n):"
    (line,) = java("text", demo, prompt, "60")
    assert bytes.fromhex(line).decode() == "".join(Model.load().generate(prompt, max_tokens=60))


@pytest.mark.parametrize("seed", range(3))
def test_tokens_come_as_they_are_made(java: Java, babble: Path, seed: int) -> None:
    """Bytes of any kind: a piece has whole characters, and together they are the text."""
    ids, text = java("stream", babble, "🌱 the quick", "300", "1.5", str(seed))
    with CompiledModel(babble, allow_native=True) as model, model.decoder() as decoder:
        pieces = [decoder.push(int(i)) for i in ids.split()]
        assert "" in pieces
        assert bytes.fromhex(text).decode() == "".join(pieces) + decoder.flush()


def test_a_text_in_tokens(java: Java, babble: Path) -> None:
    text = "naïve 🙂🌱👩‍👩‍👧 苔 e\u0301"
    (line,) = java("tokens", babble, text)
    with CompiledModel(babble, allow_native=True) as model:
        assert np.array_equal(np.array(line.strip("[]").split(", "), int), model.encode(text))


@pytest.mark.parametrize("check", ["cancel", "throws", "closed", "closing", "threads", "states"])
def test_what_an_app_does(java: Java, babble: Path, check: str) -> None:
    java(check, babble)


def test_the_demo_on_eight_threads(java: Java, demo: Path) -> None:
    java("threads", demo)


def test_how_a_text_ends(java: Java, demo: Path) -> None:
    java("endings", demo)


def test_callbacks_leave_nothing_behind(java: Java, babble: Path) -> None:
    """The machine's checks tell of references that pile up."""
    java("callbacks", babble, "200000")


def test_errors_say_what_is_wrong(java: Java, babble: Path, tmp_path: Path) -> None:
    copy = tmp_path / "модель 🌱.moss"
    copy.write_bytes(babble.read_bytes())
    java("errors", babble, str(copy))


def test_a_device_is_chosen_and_its_programs_kept(java: Java, babble: Path, tmp_path: Path) -> None:
    row = next(row for row in ROWS if row.name == "vulkan")
    row.require()
    model = Model.load(target=row.target, device=row.device)
    cache = tmp_path / "programs"
    cache.mkdir()
    *_, line = java(
        "gpu", babble, str(model.path), row.device, str(cache)
    )  # what the GPU's driver does to signals stands before
    assert bytes.fromhex(line).decode() == "".join(model.generate("the quick", max_tokens=8))
    assert list(cache.iterdir())


def test_facts_and_numbers_are_the_librarys(java: Java, babble: Path) -> None:
    version, target, nothing, device, numbers, statuses, endings = java("facts", babble)
    library = Library.default()
    assert (version, target, nothing, device) == (library.version, "cpu", "null", f"name={library.cpu_arch}")
    with CompiledModel(babble, allow_native=True) as model:
        session_bytes = ctypes.CDLL(str(library.path)).mossnet_session_bytes
        session_bytes.restype, session_bytes.argtypes = ctypes.c_uint64, [ctypes.c_void_p]
        assert numbers == f"900 0 {session_bytes(model.pointer)}"
    name = ctypes.CDLL(str(library.path)).mossnet_status_name
    name.restype = ctypes.c_char_p
    names = statuses.strip("[]").split(", ")
    assert names == [name(i).decode() for i in range(len(names))] and name(len(names)) == b"UNKNOWN"
    assert endings == "[ENDED, LENGTH, STOPPED]"


@pytest.mark.parametrize("header", HEADERS, ids=str)
def test_declarations_agree_with_a_real_header(header: Path) -> None:
    if not header.exists() or not shutil.which("gcc"):
        pytest.skip(f"no {header}, or no gcc")
    places = [f"-I{header.parent}", f"-I{header.parent}/linux"]
    declared = f'-DDECLARED="{SOURCES}/native/jni.h"'
    command = ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", *places, declared]
    done = subprocess.run([*command, HERE / "jni_abi.c"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
