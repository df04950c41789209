"""Fixtures of the runtime's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mossnet_tg.engine import CompiledModel
from mossnet_tg.remote import RemoteModel, Runner
from tests.runtime.toy import toy, write_toy

Load = Callable[..., Any]


@pytest.fixture(scope="session")
def runner() -> Iterator[Runner]:
    """A runner on this machine, for everything that does not end it."""
    with Runner.local() as runner:
        yield runner


@pytest.fixture
def load_here(tmp_path: Path) -> Callable[..., CompiledModel]:
    """Loads a toy model with the sizes and META that a test names, in this process."""
    return _loader(tmp_path, CompiledModel)


@pytest.fixture
def load_there(tmp_path: Path, runner: Runner) -> Callable[..., RemoteModel]:
    """The same in a runner."""
    return _loader(tmp_path, runner.load)


@pytest.fixture(params=["load_here", "load_there"])
def load(request: pytest.FixtureRequest) -> Load:
    """Both: what a test says of one holds for the other."""
    made: Load = request.getfixturevalue(request.param)
    return made


def _loader(folder: Path, load: Load) -> Load:
    count = 0

    def make(**options: Any) -> Any:
        nonlocal count
        count += 1
        return load(write_toy(folder / f"toy{count}.moss", toy(**options)), allow_native=True)

    return make
