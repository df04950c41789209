"""The command line: `mossnet-tg` with its verbs, one module each."""

from __future__ import annotations

import signal
import sys
from types import FrameType


def main() -> None:
    """The entry point of `mossnet-tg`; ends the process."""
    # SIGTERM ends a process on the spot: as an exception it lets a compilation remove the file it is writing.
    signal.signal(signal.SIGTERM, _terminate)
    try:
        from mossnet_tg.cli.app import app

        app.main(sys.argv[1:])
    except KeyboardInterrupt:  # during the imports; later ones are app's
        sys.exit(130)


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
