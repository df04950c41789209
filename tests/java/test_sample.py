"""The sample app's own code, on a stand-in for the few classes of Android's that it uses."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from mossnet_tg import Model
from mossnet_tg.targets.java.classes import HERE as SOURCES
from tests.java.conftest import HERE

PROMPT = "def fibonacci(n):"


def test_it_shows_a_text_and_takes_a_new_model(javac: str, program: Path, demo: Path, tmp_path: Path) -> None:
    classes = tmp_path / "classes"
    sources = [*(SOURCES / "sample").rglob("*.java"), *(HERE / "android_stand_in").rglob("*.java")]
    command = [javac, "--release", "8", "-Xlint:-options", "-cp", program, "-d", classes, *sources]
    subprocess.run(command, check=True)
    (tmp_path / "assets").mkdir()
    shutil.copyfile(demo, tmp_path / "assets" / "model.moss")
    apk, copy = tmp_path / "base.apk", tmp_path / "files" / "model.moss"
    apk.touch()
    os.utime(apk, (time.time() - 60,) * 2)

    def shown() -> str:
        path = os.pathsep.join(map(str, (program, classes)))
        java = ["java", f"-Djava.library.path={program}", "-cp", path, "org.mossnet.sample.Phone"]
        return subprocess.run(java, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    expected = PROMPT + "".join(Model.load().generate(PROMPT, max_tokens=100))
    assert shown() == expected and copy.read_bytes() == demo.read_bytes()
    before = copy.stat().st_mtime_ns
    assert shown() == expected and copy.stat().st_mtime_ns == before
    (tmp_path / "assets" / "model.moss").write_bytes(b"no model")
    os.utime(apk, (time.time() + 60,) * 2)
    assert "model.moss: " in shown()
