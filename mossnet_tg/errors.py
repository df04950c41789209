"""The errors that a user of mossnet-tg can meet: each says what was found, what was expected and what to do.

Every error that bad input, a bad file or a missing device can cause derives from `MossnetError`; the command line
prints `error: MESSAGE` and `hint: HINT` and exits with `exit_code`. Anything else that escapes is a defect of ours.
"""

from __future__ import annotations


class MossnetError(Exception):
    """Something failed for a reason that the user can act on (exit code 1).

    `hint`, when given, is the one thing to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(MossnetError):
    """What was asked for does not exist or does not fit together (exit code 2)."""

    exit_code = 2


class ConsentError(UsageError):
    """The model holds native code, and the caller did not allow it to run."""


class DeviceError(MossnetError):
    """The device of the target is not available on this machine (exit code 3)."""

    exit_code = 3


class CancelledError(MossnetError):
    """The call was ended by `Session.cancel`."""


class ArtifactError(MossnetError):
    """A compiled model and the machine or runtime that should run it do not fit (exit code 4)."""

    exit_code = 4


# By number, as in `mossnet.h`: which error a status becomes.
_BY_STATUS: tuple[type[MossnetError], ...] = (
    MossnetError,  # OK: never raised
    UsageError,  # ARGUMENT
    MossnetError,  # MEMORY
    MossnetError,  # IO
    ArtifactError,  # FORMAT
    ArtifactError,  # UNSUPPORTED
    ConsentError,  # CONSENT
    ArtifactError,  # STATE
    UsageError,  # CONTEXT
    DeviceError,  # DEVICE
    CancelledError,  # CANCELLED
)
_HINTS = {
    5: "compile the model on this machine, or for another target or device: mossnet-tg targets shows what there is",
    6: "native code runs with your rights: allow it only for files whose maker you trust",
    8: "start a new session, or compile the model with a larger context",
}


def of_status(status: int, text: str) -> MossnetError:
    """The error that libmossnet says with a status and a text."""
    kind = _BY_STATUS[status] if status < len(_BY_STATUS) else MossnetError
    return kind(text, _HINTS.get(status))
