"""Text that a verb reads from a file or from stdin."""

from __future__ import annotations

import sys
from pathlib import Path

from mossnet_tg.errors import MossnetError, UsageError


def read_text(file: str, what: str) -> str:
    """The text of a file, "-" for stdin, without a byte order mark; `what` it is for errors.

    Raises UsageError for a file that cannot be read and for what is no UTF-8.
    """
    if file == "-":
        return _decode(_stdin(what), "stdin")
    try:
        content = Path(file).read_bytes()
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else e
        raise UsageError(f"{file}: {what} cannot be read: {reason}") from None
    return _decode(content, file)


def _stdin(what: str) -> bytes:
    if sys.stdin is None:
        raise UsageError(f"stdin is closed, expected {what} there")
    try:
        return sys.stdin.buffer.read()
    except OSError as e:
        raise MossnetError(f"stdin cannot be read: {e.strerror}") from None


def _decode(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        found = f"byte {e.start} is 0x{content[e.start]:02x}"
        raise UsageError(f"{where}: {found}, expected UTF-8 text", "iconv -t UTF-8 converts other encodings") from None
