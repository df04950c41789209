"""What goes where: results on stdout and nothing else there; notes, progress, warnings and errors on stderr."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from types import TracebackType

import click

from mossnet_tg.errors import MossnetError

# The logging level of kernel sources: below DEBUG, since it is pages of text.
KERNEL_SOURCE = 5

_WIDTH = 100

# By how often -v was given.
_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG, KERNEL_SOURCE)


class Console:
    """The two streams of one run. As a context it shows what the package logs, as far as `verbosity` asks for it."""

    def __init__(self) -> None:
        self.verbosity = 0
        self._started = time.perf_counter()
        self._line_is_shown = False
        self._handler = _Handler(self)
        self._logger = logging.getLogger("mossnet_tg")
        self._level_before = self._logger.level

    def __enter__(self) -> Console:
        self._logger.addHandler(self._handler)
        self.raise_verbosity(0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()
        self._logger.removeHandler(self._handler)
        self._logger.setLevel(self._level_before)

    def raise_verbosity(self, count: int) -> None:
        """Add the -v of one place: they may stand before the verb and after it."""
        self.verbosity += count
        self._logger.setLevel(_LEVELS[min(self.verbosity, len(_LEVELS) - 1)])

    def out(self, text: str) -> None:
        """A piece of the result, to be seen at once."""
        # Not click.echo, which takes escape sequences out of the text when it goes into a file.
        if sys.stdout is None:
            return
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as e:
            abandon_stdout()
            raise MossnetError(f"standard output cannot be written: {e.strerror or e}") from None

    def note(self, text: str) -> None:
        """A line for people."""
        self.clear()
        # A reader of stderr that has gone away must not end what runs.
        with contextlib.suppress(OSError):
            click.echo(text, err=True)

    def detail(self, level: int, text: str) -> None:
        """A line for those who gave -v at least `level` times."""
        if self.verbosity >= level:
            self.note(text)

    def warning(self, text: str) -> None:
        """Something that the user should know although it goes on."""
        self.note(f"warning: {text}")

    def error(self, text: str, hint: str | None = None) -> None:
        """Why it ends, and what to do."""
        self.note(f"error: {text}")
        if hint:
            self.note(f"hint: {hint}")

    def step(self, text: str) -> None:
        """Progress: one line that is written over on a terminal, a line each with -v, otherwise nothing."""
        if self.verbosity:
            self.note(f"{time.perf_counter() - self._started:8.2f} s  {text}")
        elif _is_terminal(sys.stderr):
            width = shutil.get_terminal_size().columns - 1
            with contextlib.suppress(OSError):
                sys.stderr.write(f"\r\033[K{text[:width]}")
                sys.stderr.flush()
            self._line_is_shown = True

    def clear(self) -> None:
        """Take the line of progress away."""
        if self._line_is_shown:
            self._line_is_shown = False
            with contextlib.suppress(OSError):
                sys.stderr.write("\r\033[K")
                sys.stderr.flush()


class _Handler(logging.Handler):
    """Log records as lines on stderr, warnings marked as such."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        show = self._console.warning if record.levelno >= logging.WARNING else self._console.note
        show(record.getMessage())


def table(rows: Sequence[tuple[str, ...]], right: str = "") -> Iterator[str]:
    """Lines with columns of one width each; `right` has an "r" where one is aligned to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    for row in rows:
        cells = (
            c.rjust(w) if r == "r" else c.ljust(w) for c, w, r in zip(row, widths, right.ljust(len(row)), strict=True)
        )
        yield "  " + "  ".join(cells)


def markdown(rows: Sequence[Sequence[str]], right: str) -> Iterator[str]:
    """The lines of a table whose first row is its head; `right` has an "r" where a column is aligned to the right."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    rules = ["-" * (width - 1) + ("-", ":")[r == "r"] for width, r in zip(widths, right, strict=True)]
    aligned = [
        [cell.rjust(w) if r == "r" else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)]
        for row in rows
    ]
    for cells in (aligned[0], rules, *aligned[1:]):
        yield f"| {' | '.join(cells)} |"


def is_terminal_err() -> bool:
    """Whether a person sees stderr."""
    return _is_terminal(sys.stderr)


def filled(indent: int, key: str, text: str) -> str:
    """A key and its text, in as many lines as it takes."""
    first = f"{' ' * indent}{key:<12} "
    return textwrap.fill(text, _WIDTH, initial_indent=first, subsequent_indent=" " * len(first))


def is_terminal_out() -> bool:
    """Whether a person sees stdout."""
    return _is_terminal(sys.stdout)


def _is_terminal(stream: object) -> bool:
    try:
        return bool(stream.isatty())  # type: ignore[attr-defined]
    except (AttributeError, ValueError):  # no stream at all, or a closed one
        return False


def abandon_stdout() -> None:
    """Send what is left of stdout nowhere: the interpreter writes it out at its end, and would complain."""
    # Streams of a test runner have no descriptor.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
