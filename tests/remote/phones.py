"""Phones for the real `adb` client: fake daemons on loopback, and an adb server of the test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.remote.sshd import free_port


class Phones:
    """Plugs phones in and out. Everything that an `adb` of the test needs stands in the environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._plugged: dict[str, subprocess.Popen[str]] = {}

    def plug_in(self, name: str = "phone", **programs: str) -> str:
        """A phone; its serial number. `programs` are those that it has of its own, each a shell script; a name in
        capitals is a variable of its environment.
        """
        storage, bin_ = self.folder / name / "storage", self.folder / name / "bin"
        storage.mkdir(parents=True)
        bin_.mkdir()
        env = {"PATH": f"{bin_}:{os.environ['PATH']}"}
        for key, value in programs.items():
            if key.isupper():
                env[key] = value
            else:
                (bin_ / key).write_text(f"#!/bin/sh\n{value}\n")
                (bin_ / key).chmod(0o755)
        daemon = Path(__file__).with_name("fake_adbd.py")
        process = subprocess.Popen(
            [sys.executable, daemon, storage, *(f"{key}={value}" for key, value in env.items())],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        serial = f"127.0.0.1:{int(process.stdout.readline())}"
        self._plugged[serial] = process
        said = subprocess.run(["adb", "connect", serial], capture_output=True, text=True, timeout=30).stdout
        assert "connected to" in said, said
        return serial

    def storage(self, name: str = "phone") -> Path:
        """What the phone calls /data/local/tmp."""
        return self.folder / name / "storage"

    def unplug(self, serial: str) -> None:
        """As one pulls a cable."""
        process = self._plugged.pop(serial)
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()

    def unplug_all(self) -> None:
        for serial in list(self._plugged):
            self.unplug(serial)


@contextmanager
def phones(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Phones]:
    """Skips the test where there is no adb."""
    adb = shutil.which("adb")
    if adb is None:
        pytest.skip("no adb: apt install adb")
    (folder / "home").mkdir()
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    made = Phones(folder)
    try:
        yield made
    finally:
        made.unplug_all()
        subprocess.run([adb, "kill-server"], capture_output=True, timeout=30)
