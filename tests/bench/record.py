"""What was measured, as it is kept in JSON: every sample, and where they were taken."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mossnet_tg.errors import MossnetError

VERSION = 1


@dataclass
class Run:
    """An engine with a number of threads. `seconds`: by the test's name, in the order of the rounds; and of `start`.

    `memory`: MiB, the most that were seen. `agreement`: with the oracle's logits (`max_abs`, `rel_l2`, `same_argmax`).
    `problem`: why there are no further samples.
    """

    label: str
    type: str
    n_threads: int
    read_per_token: int = 0
    seconds: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    agreement: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problem: str = ""


@dataclass
class Counted:
    """A test: how many tokens its seconds are for, and the table that it belongs to (`main`, `busy`, `context`)."""

    name: str
    n_tokens: int
    part: str


@dataclass
class Measured:
    """A model with its engines. `bandwidth`: bytes per second at which memory was read, by threads."""

    name: str
    about: str
    oracle: str
    tests: list[Counted] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    bandwidth: dict[str, list[float]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass
class Record:
    """A session."""

    options: str
    machine: dict[str, str]
    versions: dict[str, str]
    models: list[Measured] = field(default_factory=list)

    def json(self) -> str:
        return json.dumps({"version": VERSION, **asdict(self)}, indent=1) + "\n"


def read(path: Path) -> Record:
    """Raises MossnetError for a file that is no record."""
    hint = "give a peers.json that tests/bench/peers.py wrote"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise MossnetError(f"{path}: cannot be read: {e.strerror}", hint) from None
    except ValueError as e:
        raise MossnetError(f"{path}: no JSON: {e}", hint) from None
    version = found.pop("version", None) if isinstance(found, dict) else None
    if version != VERSION:
        raise MossnetError(f"{path}: version {version} of a record, expected {VERSION}", hint)
    try:
        models = [_measured(**model) for model in found.pop("models")]
        record = Record(models=models, **found)
        _ = record.machine["cpu"], record.machine["commit"], float(record.machine["load before"])  # which tables need
        return record
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise MossnetError(f"{path}: no record of this version: {e}", hint) from None


def _measured(tests: list[dict[str, Any]], runs: list[dict[str, Any]], **rest: Any) -> Measured:
    if sum(test["part"] == "main" for test in tests) < 2:
        raise KeyError("a prompt and a decode among the tests")
    return Measured(tests=[Counted(**test) for test in tests], runs=[Run(**run) for run in runs], **rest)
