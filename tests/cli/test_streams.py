"""What only a process of its own shows: signals, closed pipes, full disks, terminals."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Start

ENDLESS = ("generate", "the quick", "-n", "-1", "--allow-native", "-m")


def read_some(process: subprocess.Popen[bytes], n: int = 40) -> bytes:
    assert process.stdout is not None
    return os.read(process.stdout.fileno(), n)


def test_ctrl_c_ends_a_generation(start: Start, moss: Path) -> None:
    process = start(*ENDLESS, moss, "--stats")
    assert read_some(process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"Traceback" not in err and b"ended by an interruption" in err and b"tok/s" in err


def test_a_signal_in_a_compilation_leaves_nothing(start: Start, tiny: Path, tmp_path: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        process = start("-v", "compile", tiny, "--out", tmp_path)
        assert process.stderr is not None
        while b"plan" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 128 + number and out == b"" and b"Traceback" not in err
        assert not list(tmp_path.iterdir())


def test_a_reader_that_has_seen_enough(start: Start, moss: Path) -> None:
    process = start(*ENDLESS, moss)
    assert read_some(process) and process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=20) == 141
    assert process.stderr is not None and process.stderr.read() == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_under_stdout(start: Start, moss: Path) -> None:
    for args in ((*ENDLESS, moss), ("inspect", moss), ("--help",)):
        with Path("/dev/full").open("wb") as full:
            process = start(*args, stdout=full)
            _, err = process.communicate(timeout=20)
        assert process.returncode == 1, err
        assert err.startswith(b"error: ") and err.count(b"\n") == 1 and b"No space left on device" in err


def test_closed_streams(start: Start, moss: Path) -> None:
    quiet = start(*ENDLESS, moss, "--stats", "-n", "3", closed=2)
    assert quiet.communicate(timeout=20)[0] and quiet.returncode == 0
    blind = start(*ENDLESS, moss, "-n", "3", closed=1)
    assert blind.communicate(timeout=20)[1] == b"" and blind.returncode == 0
    deaf = start("generate", "-m", moss, "--allow-native", closed=0)
    assert b"error: no prompt" in deaf.communicate(timeout=20)[1] and deaf.returncode == 2


def on_terminal(start: Start, *args: str | Path) -> tuple[int, str]:
    """Runs the program with a terminal on all streams; the exit code and what the terminal showed."""
    control, terminal = pty.openpty()
    process = start(*args, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown = b""
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        try:
            part = os.read(control, 4096)
        except OSError:  # how Linux says that the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(control)
    return process.wait(timeout=20), shown.decode()


def test_a_terminal_gets_progress_and_a_last_newline(start: Start, moss: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt").write_text("the lazy dog " * 2000)
    code, shown = on_terminal(start, "generate", "-m", moss, "--allow-native", "-f", tmp_path / "prompt", "-n", "3")
    assert code == 0 and shown.endswith("\r\n")
    before, clear, text = shown.rpartition("\r\033[K")
    assert "\r\033[Kprompt 512/" in before and clear and "prompt" not in text and text.strip()


def test_a_terminal_without_a_prompt_is_not_waited_for(start: Start, moss: Path) -> None:
    code, shown = on_terminal(start, "generate", "-m", moss, "--allow-native")
    assert code == 2 and "error: no prompt" in shown and "hint: try: mossnet-tg generate" in shown
