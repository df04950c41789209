"""The program as a whole: help, verbs, exit codes, what becomes of errors, what is imported when."""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mossnet_tg.cli import console as console_module
from mossnet_tg.cli.app import VERBS
from mossnet_tg.cli.console import KERNEL_SOURCE, Console
from mossnet_tg.errors import ArtifactError, DeviceError, MossnetError, UsageError
from mossnet_tg.weights.checkpoint import Checkpoint
from tests.cli.conftest import Run


def test_the_bare_command_teaches(run: Run) -> None:
    bare, helped, short = run(), run("--help"), run("-h")
    assert bare.exit_code == helped.exit_code == 0 and bare.stderr == ""
    assert bare.stdout == helped.stdout == short.stdout
    assert 'mossnet-tg generate "def fibonacci(n):"' in bare.stdout and "Exit codes: 0 done" in bare.stdout
    for verb in VERBS:
        assert re.search(rf"^  {verb}  +\w", bare.stdout, re.MULTILINE)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(run: Run, verb: str) -> None:
    found = run(verb, "--help")
    assert found.exit_code == 0 and found.stderr == ""
    assert found.stdout.count(f"    mossnet-tg {verb}") >= 2 or (
        verb == "generate" and found.stdout.count("| mossnet-tg")
    )


def test_version(run: Run) -> None:
    found = run("--version")
    assert found.exit_code == 0 and re.fullmatch(r"mossnet-tg \S+\n", found.stdout)


def test_what_is_unknown_is_a_usage_error_with_a_hint(run: Run) -> None:
    verb = run("generat", "x")
    assert (verb.exit_code, verb.stdout) == (2, "")
    assert verb.stderr.startswith("error: unknown verb 'generat', expected generate, ")
    assert verb.stderr.endswith("hint: did you mean 'generate'?\n")
    assert "hint: see: mossnet-tg --help" in run("zzz").stderr
    option = run("generate", "x", "--temprature", "1")
    assert (option.exit_code, option.stdout) == (2, "")
    assert "'--temprature'" in option.stderr and "--temperature" in option.stderr
    assert option.stderr.endswith("hint: see: mossnet-tg generate --help\n")
    target = run("compile", "--out", "nowhere", "--target", "cpx")
    assert target.exit_code == 2 and "unknown target 'cpx'" in target.stderr and "did you mean 'cpu'" in target.stderr
    assert run("generate", "two", "words").exit_code == 2
    assert not Path("nowhere").exists()


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (MossnetError("found", "do this"), 1, "error: found\nhint: do this\n"),
        (MossnetError("found"), 1, "error: found\n"),
        (UsageError("found"), 2, "error: found\n"),
        (DeviceError("found"), 3, "error: found\n"),
        (ArtifactError("found"), 4, "error: found\n"),
        (OSError(28, "No space left on device", "/x/y"), 1, "error: /x/y: No space left on device\n"),
        (MemoryError(), 1, "error: not enough memory\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_errors_become_text_and_exit_code(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, text: str
) -> None:
    def fail(path: object) -> None:
        raise error

    monkeypatch.setattr(Checkpoint, "open", fail)
    found = run("inspect", "nothing-here")
    assert (found.exit_code, found.stdout) == (code, "")
    assert found.stderr.startswith(text) and "Traceback" not in found.stderr and (text or not found.stderr)


def test_a_defect_is_said_to_be_one_and_shown_on_demand(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: object) -> None:
        raise TypeError("first line\nsecond line")

    monkeypatch.setattr(Checkpoint, "open", fail)
    found = run("inspect", "nothing-here")
    assert (found.exit_code, found.stdout) == (1, "")
    assert found.stderr.startswith("error: internal: TypeError: first line\nhint: ") and "-v" in found.stderr
    for args in (("-v", "inspect", "nothing-here"), ("inspect", "nothing-here", "-v")):
        shown = run(*args)
        assert shown.exit_code == 1 and "Traceback" in shown.stderr and "error: internal: TypeError" in shown.stderr


@pytest.mark.parametrize(("args", "level"), [((), 0), (("-v",), 1), (("-vv",), 2), (("-vvv",), 3), (("-vvvv",), 3)])
def test_verbosity_is_a_ladder_of_log_levels(
    run: Run, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], level: int
) -> None:
    log = logging.getLogger("mossnet_tg.codegen")

    def opened(path: object) -> Any:
        for number, text in ((30, "look out"), (20, "a step"), (10, "a fact"), (KERNEL_SOURCE, "vaddps")):
            log.log(number, text)
        raise MossnetError("end")

    monkeypatch.setattr(Checkpoint, "open", opened)
    expected = "".join(["warning: look out\n", "a step\n", "a fact\n", "vaddps\n"][: level + 1]) + "error: end\n"
    assert run(*args, "inspect", "nothing-here").stderr == expected
    assert run("inspect", "nothing-here", *args).stderr == expected
    assert not logging.getLogger("mossnet_tg").handlers  # an embedding program's logging is as it was


def test_v_before_and_after_the_verb_add_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(Checkpoint, "open", lambda path: seen.append(logging.getLogger("mossnet_tg").level))
    run("-v", "inspect", "nothing-here", "-v")
    assert seen == [logging.DEBUG]


def test_progress_is_silent_where_nobody_sees_it(capsys: pytest.CaptureFixture[str]) -> None:
    with Console() as console:
        console.step("working")
        assert capsys.readouterr().err == ""
        console.raise_verbosity(1)
        console.step("working")
    assert re.fullmatch(r" +\d+\.\d\d s  working\n", capsys.readouterr().err)


def test_a_line_of_progress_is_taken_away_before_anything_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_module, "_is_terminal", lambda stream: True)
    monkeypatch.setenv("COLUMNS", "10")
    with Console() as console:
        console.step("one step")
        console.step("another that is too long")
        console.error("it failed", "do this")
        console.step("more")
    line = "\r\033[K"
    assert (
        capsys.readouterr().err
        == f"{line}one step{line}another t{line}error: it failed\nhint: do this\n{line}more{line}"
    )


def test_each_piece_is_seen_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8"))
    Console().out("pi\x1b[1mece")
    assert raw.getvalue() == b"pi\x1b[1mece"


@pytest.mark.parametrize(
    ("args", "may_load"),
    [
        (["--help"], set()),
        (["generate", "--help"], set()),
        (["doctor", "--help"], set()),
        (["--version"], set()),
        (["generate", "the", "-n", "2", "-m", "TINY"], {"numpy", "tokenizers"}),
        (["targets"], {"numpy"}),
        (["inspect", "MOSS"], {"numpy"}),
    ],
)
def test_a_verb_imports_only_what_it_needs(
    args: list[str], may_load: set[str], tiny: Path, moss: Path, loads: Callable[..., set[str]]
) -> None:
    """Every start pays for imports; a model in the cache must not load a compiler to be run."""
    assert loads(*({"TINY": str(tiny), "MOSS": str(moss)}.get(a, a) for a in args)) <= may_load
