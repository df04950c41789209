"""Fixtures of the tests with runners."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mossnet_tg.remote import Runner
from tests.remote.fragile import write_fragile
from tests.runtime.toy import toy, write_toy


@pytest.fixture
def runner() -> Iterator[Runner]:
    """A runner on this machine."""
    with Runner.local() as runner:
        yield runner


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """The toy model."""
    return write_toy(tmp_path / "toy.moss", toy())


@pytest.fixture
def fragile(tmp_path: Path) -> Path:
    """The toy model whose kernels can be made to crash and to hang."""
    return write_fragile(tmp_path / "fragile.moss")
