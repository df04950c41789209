"""What tuning found out, kept: one folder for each device as it was then.

- `device.json`: which device, driver and compiler;
- `database_workload.json`, `database_tuning_record.json`: MetaSchedule's own database of what was measured;
- `trials.jsonl`: every trial with what became of it, those that failed too, so that a run goes on where it was;
- `choices.json`: what compiling uses.

Writers hold a lock. Lines are appended whole; a line that a killed process left unfinished is dropped by the next
writer. What is damaged otherwise is said, and left as it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mossnet_tg.codegen.tuning import VALUES, WIDTHS, Tuning
from mossnet_tg.errors import ArtifactError, MossnetError
from mossnet_tg.folders import write_whole

if TYPE_CHECKING:
    from mossnet_tg.codegen.tune.measure import Choice, Outcome

_DATABASE = ("database_workload.json", "database_tuning_record.json")
_TRIALS, _CHOICES, _DEVICE = "trials.jsonl", "choices.json", "device.json"
_LISTS = (*_DATABASE, _TRIALS)


@dataclass(frozen=True)
class Device:
    """What records are good for: a target on a device with this driver and this compiler."""

    target: str
    driver: str
    name: str
    version: str  # of the driver; of a cpu its features
    n_cpus: int  # 0 on GPUs
    compiler: str

    @property
    def id(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, other: Device) -> list[str]:
        """What is not the same, for people: "driver 1.2 instead of 1.1"."""
        pairs = ((key, value, asdict(other)[key]) for key, value in asdict(self).items())
        return [f"{key} {theirs} instead of {ours}" for key, ours, theirs in pairs if ours != theirs]


@dataclass(frozen=True)
class Kept:
    """A choice that compiling uses: `fields` of a task's schedule, made for matrices of `widths`, and what default and
    choice took side by side.
    """

    fields: Mapping[str, int]
    widths: Mapping[str, int]
    default_s: float
    tuned_s: float


@dataclass(frozen=True)
class Choices:
    """By task, and the widths of matrices."""

    tasks: Mapping[str, Kept] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)

    @property
    def tuning(self) -> Tuning:
        return Tuning(dict(self.widths), {text: dict(kept.fields) for text, kept in self.tasks.items()})

    def merged(self, newer: Choices) -> Choices:
        """With what is newer; a task that was tuned for another width of its matrices is dropped."""
        widths = {**self.widths, **newer.widths}
        tasks = {**self.tasks, **newer.tasks}
        fitting = {
            text: kept
            for text, kept in tasks.items()
            if all(widths.get(key, width) == width for key, width in kept.widths.items())
        }
        return Choices(fitting, widths)


class Records:
    """The records of one device in `folder`, which need not be there yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._begun: dict[tuple[str, str], int] = {}
        self._known: dict[tuple[str, str], Outcome] = {}

    # ---- a run

    @classmethod
    def open(cls, folder: Path, device: Device) -> Records:
        """For writing. Raises ArtifactError for records that are damaged."""
        records = cls(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            hint = "set MOSSNET_RECORDS_DIR to a folder that can be written"
            raise MossnetError(f"{folder}: records cannot be kept: {e.strerror}", hint) from None
        with records._locked():
            if not (folder / _DEVICE).exists():
                _write(folder / _DEVICE, asdict(device))
            records._read_trials()
            records._database()
        records.choices()
        return records

    def known(self, task: str, choice: str) -> Outcome | None:
        """What became of a choice before; one that took the process with it twice is not tried again."""
        from mossnet_tg.codegen.tune.measure import Outcome

        key = (task, choice)
        if key in self._known:
            return self._known[key]
        return Outcome("lost", text="ended the run twice") if self._begun.get(key, 0) >= 2 else None

    def begin(self, task: str, choices: Sequence[Choice]) -> None:
        """Note what is about to be tried."""
        self._append([{"task": task, "begin": choice.key} for choice in choices])

    def end(self, task: str, choices: Sequence[Choice], outcomes: Sequence[Outcome]) -> None:
        """Note what became of it."""
        rows = []
        for choice, outcome in zip(choices, outcomes, strict=True):
            rows.append({"task": task, "choice": choice.key, **asdict(outcome)})
            self._known[task, choice.key] = outcome
        self._append(rows)

    def commit(self, module: Any, makers: Sequence[Any], seconds: Sequence[float]) -> None:
        """Add measurements to MetaSchedule's database; a maker makes a record of the database's entry for `module`."""
        if not makers:
            return
        with self._locked():
            database = self._database()
            entry = database.commit_workload(module)
            for maker, s in zip(makers, seconds, strict=True):
                database.commit_tuning_record(maker(entry, s))

    def keep(self, newer: Choices) -> None:
        """What compiling shall use from now on."""
        with self._locked():
            merged = self.choices().merged(newer)
            _write(self.folder / _CHOICES, {"tasks": _plain(merged.tasks), "widths": dict(merged.widths)})

    # ---- reading

    @property
    def device(self) -> Device:
        """Raises ArtifactError for what is no record of ours."""
        path = self.folder / _DEVICE
        try:
            return Device(**_object(path))
        except TypeError:
            raise _damaged(path, "not the fields that a device has") from None

    def choices(self) -> Choices:
        """Empty before a run has ended."""
        path = self.folder / _CHOICES
        if not path.exists():
            return Choices()
        content = _object(path)
        try:
            tasks = {str(text): _kept(kept) for text, kept in content["tasks"].items()}
            return Choices(tasks, _widths(content["widths"]))
        except ValueError as e:
            raise _damaged(path, str(e)) from None
        except (KeyError, TypeError, AttributeError):
            raise _damaged(path, "not the fields that choices have") from None

    def n_trials(self) -> int:
        """How many choices were tried."""
        if not self._known:
            self._read_trials()
        return len(self._known)

    # ---- files

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for name in _LISTS:
                _drop_unfinished(self.folder / name)
            yield

    def _append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        with self._locked(), (self.folder / _TRIALS).open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def _read_trials(self) -> None:
        from mossnet_tg.codegen.tune.measure import Outcome

        path = self.folder / _TRIALS
        for number, row in enumerate(_rows(path), 1):
            try:
                if "begin" in row:
                    key = (row["task"], row["begin"])
                    self._begun[key] = self._begun.get(key, 0) + 1
                else:
                    fields = {name: row[name] for name in ("status", "ratio", "error", "text")}
                    self._known[row["task"], row["choice"]] = Outcome(**fields)
            except (KeyError, TypeError):
                raise _damaged(path, f"line {number} is no trial") from None

    def _database(self) -> Any:
        """MetaSchedule's database, as it is on the disk now."""
        from tvm.s_tir import meta_schedule as ms

        for name in _DATABASE:
            for _ in _rows(self.folder / name):
                pass
        return ms.database.JSONDatabase(work_dir=str(self.folder))


def _drop_unfinished(path: Path) -> None:
    """A last line without its end: the process that wrote it was killed."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
        content = path.read_bytes()
        file.truncate(content.rfind(b"\n") + 1)


def _rows(path: Path) -> Iterator[Any]:
    """The lines' contents. Raises ArtifactError where one is no JSON."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except ValueError:
                raise _damaged(path, f"line {number} is no JSON") from None


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise _damaged(path, str(e)) from None
    if not isinstance(found, dict):
        raise _damaged(path, "no JSON object")
    return found


def _damaged(path: Path, reason: str) -> ArtifactError:
    hint = f"it is left as it is: mend it, or move {path.parent} away (mossnet-tg tune clear removes it) and tune again"
    return ArtifactError(f"{path}: the records are damaged: {reason}", hint)


def _kept(row: Mapping[str, Any]) -> Kept:
    fields = {str(name): _among(VALUES.get(name, range(0)), str(name), value) for name, value in row["fields"].items()}
    return Kept(fields, _widths(row["widths"]), float(row["default_s"]), float(row["tuned_s"]))


def _widths(row: Mapping[str, Any]) -> dict[str, int]:
    return {str(key): _among(WIDTHS, "width", value) for key, value in row.items()}


def _among(values: range, name: str, value: Any) -> int:
    """A value that kernels can be made with. Raises ValueError for another."""
    if not isinstance(value, int) or value not in values:
        expected = f"{values[0]} to {values[-1]}" if values else "no such field"
        raise ValueError(f"{name} is {value}, expected {expected}")
    return value


def _plain(tasks: Mapping[str, Kept]) -> dict[str, Any]:
    return {text: asdict(kept) for text, kept in tasks.items()}


def _write(path: Path, content: Any) -> None:
    write_whole(path, json.dumps(content, indent=1, sort_keys=True) + "\n")
