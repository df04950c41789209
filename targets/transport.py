"""How a runner gets to where models shall run, and how it is started there.

A place is named `ssh:[USER@]HOST` or `adb:SERIAL`. The installed `ssh` and `adb` do the talking, with the user's own
settings: what is needed of them is a command line that runs there, whose streams are ours and carry any byte.
"""

from __future__ import annotations

import hashlib
import platform
import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mossnet_tg.errors import DeviceError, MossnetError, UsageError
from mossnet_tg.targets import cross
from mossnet_tg.targets.frames import Line, Stream

Progress = Callable[[str], None]

RUNNER_NAME = "mossnet-run"
_REACHED_S = 30.0
_STORED_S = 120.0

# What `uname -sm` and, on Android, `getprop ro.product.cpu.abi` say: the runner that fits.
_ABIS = {
    ("Linux x86_64", ""): "linux-x86_64",
    ("Linux aarch64", ""): "linux-arm64",
    ("Linux aarch64", "arm64-v8a"): "android-arm64",
}
_HERE = "mossnet-is-here"
_STARTS = "mossnet-run-starts"
_MISSING = "mossnet-run-is-missing"
_STORED = "mossnet-run-is-stored"


class Transport(Protocol):
    """A place where a runner can be started. `place` is how errors and `--device` name it."""

    @property
    def place(self) -> str: ...

    @property
    def shares_files(self) -> bool:
        """Whether the runner sees this machine's files."""

    def room(self, said: str) -> str | None:
        """What to do where the disk is full, if that is what was said."""

    def start(self) -> Line:
        """A runner that serves. Raises DeviceError where that is not possible."""


@dataclass(frozen=True)
class Local:
    """A process of this machine: what a crash or a hang of a kernel takes with it is not this one."""

    runner: Path
    place: str = "local"
    shares_files: bool = True

    def room(self, said: str) -> str | None:
        """Nothing is stored here."""
        return None

    def start(self) -> Stream:
        """A runner that serves."""
        try:
            return Stream([str(self.runner), "--serve"], self.place)
        except OSError as e:
            raise DeviceError(f"{self.runner}: the runner cannot be started: {e.strerror}") from None


@dataclass(frozen=True)
class Shell:
    """A machine that runs command lines: the last argument of `command` is one. The runner and what it loads lie in
    `folder`, as a shell spells it.
    """

    place: str
    command: tuple[str, ...]
    folder: str
    environment: str  # of the runner
    missing: str  # what to do where there is no such program
    unreached: str  # what to do where nobody answers
    progress: Progress
    shares_files: bool = False

    def start(self) -> Stream:
        """A runner that serves; it is put there first where it is not there yet."""
        # A shell that reads its commands from us: one connection, however much there is to ask.
        stream = self._open("exec sh")
        try:
            runner = self._runner(stream)
            name = f"{RUNNER_NAME}-{hashlib.sha256(runner.read_bytes()).hexdigest()[:16]}"
            if not self._serves(stream, name):
                self._store(runner, name)
                if not self._serves(stream, name):
                    raise DeviceError(f"{self.place}: {self.folder}/{name} was put there and is not there")
        except BaseException:
            stream.end(patience_s=0.0)
            raise
        return stream

    def _open(self, line: str) -> Stream:
        try:
            return Stream([*self.command, line], self.place)
        except OSError as e:
            raise self._not_started(e) from None

    def _not_started(self, e: OSError) -> DeviceError:
        program = self.command[0]
        if isinstance(e, FileNotFoundError):
            return DeviceError(f"{self.place}: {program} is not installed", self.missing)
        return DeviceError(f"{self.place}: {program} cannot be started: {e.strerror}")

    def _runner(self, stream: Stream) -> Path:
        """The runner for the machine that is there."""
        stream.write(f'echo "{_HERE} $(uname -sm):$(getprop ro.product.cpu.abi 2>/dev/null)"\n'.encode())
        _, said = self._told(stream, (_HERE,))
        system, _, android = said.partition(":")
        abi = _ABIS.get((system, android))
        if abi is None:
            found = f"{system}, Android {android}" if android else system
            known = ", ".join(sorted(_ABIS.values()))
            raise DeviceError(f"{self.place}: the machine is {found}, there are runners for {known}")
        return runner_for(abi, self.progress)

    def _serves(self, stream: Stream, name: str) -> bool:
        """Start what is there. One line: what comes behind it must not be taken for commands when the runner ends."""
        ended = f'echo "{RUNNER_NAME} ended with $?" >&2; exit'
        run = f"{{ echo {_STARTS}; {self.environment} ./{name} --serve; {ended}; }}"
        stream.write(f"cd {self.folder} 2>/dev/null && [ -x {name} ] && {run}; echo {_MISSING}\n".encode())
        told, _ = self._told(stream, (_STARTS, _MISSING))
        return told == _STARTS

    def _told(self, stream: Stream, words: tuple[str, ...]) -> tuple[str, str]:
        """The line that begins with one of the words: the word, and the rest. Others are a login's."""
        found: list[tuple[str, str]] = []

        def has_line() -> bool:
            while not found and (end := stream.received.find(b"\n")) >= 0:
                word, _, rest = bytes(stream.received[:end]).decode(errors="replace").strip().partition(" ")
                del stream.received[: end + 1]
                if word in words:
                    found.append((word, rest))
            return bool(found)

        try:
            stream.wait(has_line, time.monotonic() + _REACHED_S)
        except TimeoutError:
            said = f": {stream.said}" if stream.said else ""
            raise DeviceError(f"{self.place}: no answer within {_REACHED_S:.0f} s{said}", self.unreached) from None
        except EOFError:
            stream.end(patience_s=2.0)
            said = stream.said or f"{self.command[0]} ended and said nothing"
            raise DeviceError(f"{self.place}: not reached: {said}", self.unreached) from None
        return found[0]

    def _store(self, runner: Path, name: str) -> None:
        self.progress(f"putting {RUNNER_NAME} into {self.place}")
        content = runner.read_bytes()
        unfinished = f"{name}.$$"
        whole = f"[ $(wc -c < {unfinished}) -eq {len(content)} ] && chmod 700 {unfinished}"
        steps = f"umask 077 && mkdir -p {self.folder} && cd {self.folder} && cat > {unfinished} && {whole}"
        line = f"{steps} && mv -f {unfinished} {name} && echo {_STORED} || rm -f {unfinished}"
        try:
            done = subprocess.run(
                [*self.command, f"exec sh -c {shlex.quote(line)}"],
                input=content,
                capture_output=True,
                timeout=_STORED_S,
                check=False,
            )
        except OSError as e:
            raise self._not_started(e) from None
        except subprocess.TimeoutExpired:
            text = f"{self.place}: the runner was not put there within {_STORED_S:.0f} s"
            raise DeviceError(text, self.unreached) from None
        # Not what it returned: an adb returns 0 also when the device was unplugged.
        if _STORED.encode() not in done.stdout:
            said = " ".join(done.stderr.decode(errors="replace").split()) or "the connection ended"
            raise DeviceError(f"{self.place}: the runner cannot be put into {self.folder}: {said}", self.room(said))

    def room(self, said: str) -> str | None:
        """What to do when a disk is full there."""
        if "No space left" not in said:
            return None
        line = shlex.join([*self.command, f"rm -r {self.folder}"])
        return f"make room there; what mossnet-tg has put there is removed by: {line}"


def ssh(host: str, progress: Progress) -> Shell:
    """`[USER@]HOST`, as the user's own ssh knows it. Raises UsageError for what is none."""
    if not host or host.startswith("-"):
        raise UsageError(f"the place 'ssh:{host}' names no host, expected ssh:[USER@]HOST")
    return Shell(
        place=f"ssh:{host}",
        command=("ssh", "-T", "-o", "BatchMode=yes", "--", host),
        folder=f'"${{XDG_CACHE_HOME:-$HOME/.cache}}"/mossnet-tg/{_version()}',
        environment="",
        missing="install an OpenSSH client (Debian: apt install openssh-client)",
        unreached=f"`ssh {host} true` must work without being asked for anything: set up a key or an agent",
        progress=progress,
    )


def adb(serial: str, progress: Progress) -> Shell:
    """The device with this serial number, or with "" the only one that is plugged in. Raises UsageError where there are
    several, DeviceError where there is none.
    """
    found = adb_devices()
    if not serial:
        if not found:
            raise DeviceError("adb: no device is plugged in", _PLUG_IN)
        if len(found) > 1:
            names = " or ".join(f"adb:{d.serial}" for d in found)
            raise UsageError(f"adb: {len(found)} devices are plugged in, expected {names}")
        serial = found[0].serial
    device = next((d for d in found if d.serial == serial), None)
    if device is None:
        names = ", ".join(d.serial for d in found) or "none"
        raise DeviceError(f"adb:{serial}: no such device is plugged in, there is {names}", _PLUG_IN)
    if device.state != "device":
        raise DeviceError(f"adb:{serial}: the device is {device.state}", _STATES.get(device.state, _PLUG_IN))
    return Shell(
        place=f"adb:{serial}",
        command=("adb", "-s", serial, "shell", "-T"),
        folder=f"/data/local/tmp/mossnet-{_version()}",
        # Where the GPU's drivers have what they need, and what /proc/cpuinfo does not say on a phone.
        environment="LD_LIBRARY_PATH=/vendor/lib64 "
        'MOSSNET_CPU="$(getprop ro.soc.manufacturer 2>/dev/null) $(getprop ro.soc.model 2>/dev/null)"',
        missing=_INSTALL_ADB,
        unreached=_PLUG_IN,
        progress=progress,
    )


_INSTALL_ADB = "install Android's platform tools (Debian: apt install adb)"
_PLUG_IN = "plug it in with USB debugging allowed; `adb devices` shows what is there"
_STATES = {
    "unauthorized": "allow USB debugging in the dialog on its screen",
    "authorizing": "ask again in a few seconds",
    "offline": "adb kill-server, then plug it in again",
    "no permissions": "this user may not use the USB device (Debian: apt install android-sdk-platform-tools-common, "
    "join the group plugdev, log in again, plug it in again)",
}


@dataclass(frozen=True)
class AdbDevice:
    """What adb shows: `state` is "device" for one that works, `model` what it calls itself."""

    serial: str
    state: str
    model: str


def adb_devices() -> list[AdbDevice]:
    """What is plugged in. Raises DeviceError where adb is missing or does not work."""
    try:
        done = subprocess.run(["adb", "devices", "-l"], capture_output=True, timeout=_REACHED_S, check=False)
    except FileNotFoundError:
        raise DeviceError("adb is not installed", _INSTALL_ADB) from None
    except (OSError, subprocess.TimeoutExpired) as e:
        raise DeviceError(f"adb does not work: {e}") from None
    if done.returncode:
        raise DeviceError(f"adb does not work: {' '.join(done.stderr.decode(errors='replace').split())[-300:]}")
    found = []
    for line in done.stdout.decode(errors="replace").splitlines():
        words = line.split()
        if len(words) >= 2 and not line.startswith(("List of", "*")):
            model = next((w.removeprefix("model:") for w in words if w.startswith("model:")), "")
            state = "no permissions" if words[1:3] == ["no", "permissions"] else words[1]
            found.append(AdbDevice(words[0], state, model.replace("_", " ")))
    return found


_KINDS: dict[str, Callable[[str, Progress], Shell]] = {"ssh": ssh, "adb": adb}


def split_place(device: str) -> tuple[str, str]:
    """(place, device) of `--device PLACE[/[DRIVER:]NAME]`; the place is "" for this machine."""
    if device.partition(":")[0] not in _KINDS or ":" not in device:
        return "", device
    place, _, rest = device.partition("/")
    return place, rest


def transport(place: str, progress: Progress) -> Shell:
    """The way to a place that `split_place` found. Raises UsageError and DeviceError."""
    kind, _, address = place.partition(":")
    return _KINDS[kind](address, progress)


def own_runner() -> Path:
    """The runner that was installed beside libmossnet. Raises MossnetError when it is not there."""
    from mossnet_tg.engine import Library

    path = Library.default().path.with_name(RUNNER_NAME)
    if not path.is_file():
        raise MossnetError(f"{path} is not there", "it is built and installed with libmossnet: pip install mossnet-tg")
    return path


def runner_for(abi: str, progress: Progress) -> Path:
    """The runner for a machine, which may be built now. Raises MossnetError where there is none and none can be."""
    return own_runner() if abi == own_abi() else cross.runner(abi, progress)


def own_abi() -> str:
    """The platform that this machine is; "" for one that there are no runners for."""
    return _ABIS.get((f"{platform.system()} {platform.machine()}", ""), "")


def _version() -> str:
    from mossnet_tg.engine import Library

    return Library.default().version
