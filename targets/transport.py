"""How a runner is started, and where the files are that it loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mossnet_tg.errors import DeviceError, MossnetError
from mossnet_tg.targets.frames import Stream

RUNNER_NAME = "mossnet-run"


class Transport(Protocol):
    """A place where a runner can be started. `place` is how errors and `--device` name it."""

    @property
    def place(self) -> str: ...

    @property
    def shares_files(self) -> bool:
        """Whether the runner sees this machine's files."""

    def start(self) -> Stream:
        """A runner that serves. Raises DeviceError where that is not possible."""


def own_runner() -> Path:
    """The runner that was installed beside libmossnet. Raises MossnetError when it is not there."""
    from mossnet_tg.engine import Library

    path = Library.default().path.with_name(RUNNER_NAME)
    if not path.is_file():
        raise MossnetError(f"{path} is not there", "it is built and installed with libmossnet: pip install mossnet-tg")
    return path


@dataclass(frozen=True)
class Local:
    """A process of this machine: what a crash or a hang of a kernel takes with it is not this one."""

    runner: Path
    place: str = "local"
    shares_files: bool = True

    def start(self) -> Stream:
        """A runner that serves."""
        try:
            return Stream([str(self.runner), "--serve"], self.place)
        except OSError as e:
            raise DeviceError(f"{self.runner}: the runner cannot be started: {e.strerror}") from None
