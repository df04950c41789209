"""Fixtures of the runtime's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mossnet_tg.engine import CompiledModel
from tests.runtime.toy import toy, write_toy


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., CompiledModel]:
    """Loads a toy model with the sizes and META that a test names."""
    count = 0

    def make(**options: Any) -> CompiledModel:
        nonlocal count
        count += 1
        return CompiledModel(write_toy(tmp_path / f"toy{count}.moss", toy(**options)), allow_native=True)

    return make
