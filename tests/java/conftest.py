"""Fixtures of the tests of org.mossnet: the library and the classes, built for this machine, and a virtual machine."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mossnet_tg import Model
from mossnet_tg.codegen.text.tokenizer import compile_tokenizer
from mossnet_tg.engine import Library
from mossnet_tg.targets.cross.build import RUNTIME
from mossnet_tg.targets.java.aar import JNI_SOURCES
from mossnet_tg.targets.java.classes import classes_jar
from tests.runtime.toy import toy, write_toy
from tests.text.kinds import tokenizer_json

HERE = Path(__file__).parent
NO_JAVAC = "no javac: apt install default-jdk-headless"
Java = Callable[..., list[str]]


@pytest.fixture(scope="session")
def javac() -> str:
    """The compiler; tests that need it are skipped where there is none."""
    path = shutil.which("javac")
    if not path:
        pytest.skip(NO_JAVAC)
    return path


@pytest.fixture(scope="session")
def jar(javac: str) -> bytes:
    return classes_jar()


@pytest.fixture(scope="session")
def program(javac: str, jar: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with libmossnet.so as Java loads it, the classes, and Checks."""
    folder = tmp_path_factory.mktemp("java")
    archive = folder / "classes.jar"
    archive.write_bytes(jar)
    with zipfile.ZipFile(archive) as classes:
        classes.extractall(folder)
    subprocess.run([javac, "-encoding", "UTF-8", "-cp", folder, "-d", folder, HERE / "Checks.java"], check=True)
    options = ["-std=gnu11", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wconversion", "-Wshadow"]
    command = ["gcc", "-shared", *options, "-Werror", f"-I{RUNTIME}", "-o", folder / "libmossnet.so", *JNI_SOURCES]
    archive = Library.default().path.with_name("libmossnet.a")
    subprocess.run([*command, archive, "-lpthread", "-ldl", "-Wl,--no-undefined"], check=True)
    return folder


@pytest.fixture(scope="session")
def java(program: Path) -> Java:
    """Runs a check of Checks under the virtual machine's own checks; the lines that it prints."""

    def run(name: str, model: Path, *arguments: str) -> list[str]:
        command = ["java", "-Xcheck:jni", "-Xmx256m", f"-Djava.library.path={program}", "-cp", str(program)]
        # Names of files are in the encoding of the environment.
        environment = {**os.environ, "LC_ALL": "C.UTF-8"}
        command += ["Checks", name, str(model), *arguments]
        done = subprocess.run(command, cwd=program, capture_output=True, env=environment, timeout=300)
        out, said = done.stdout.decode(), done.stderr.decode()
        assert done.returncode == 0, out + said
        complaints = re.findall(
            r"^(?:WARNING in native|WARNING: JNI|FATAL ERROR in native).*", out + said, re.MULTILINE
        )
        assert not complaints, "\n".join(complaints[:10])
        *lines, last = out.splitlines()
        assert last == "done", out + said
        return lines

    return run


@pytest.fixture(scope="session")
def demo() -> Path:
    """The bundled model, compiled for this machine."""
    path = Model.load().path
    assert path
    return path


@pytest.fixture(scope="session")
def babble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says any of its tokens next, halves of characters too, in no time; its texts have no end."""
    content = tokenizer_json("gpt2")
    moss = dataclasses.replace(toy(vocab_size=900), tokenizer=content, text=compile_tokenizer(content))
    return write_toy(tmp_path_factory.mktemp("babble") / "model.moss", moss)
