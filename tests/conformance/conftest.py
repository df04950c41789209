"""Fixtures of the conformance tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conformance import vulkan

# Set where the validation layer watches: then every device is reached through the loader, which brings the layer in.
UNDER_LAYER = "MOSSNET_TEST_UNDER_LAYER"


class FakeVulkan:
    """Changes the device from here on, as fake_vulkan.c describes it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._log, self._monkeypatch = folder / "calls", monkeypatch

    def __call__(self, *options: str) -> None:
        if os.environ.get(UNDER_LAYER) and any(o.startswith("lose") or o == "fail=vkQueueSubmit" for o in options):
            pytest.skip("the layer takes what a failed submission was given for running, for ever")
        through_loader = bool(os.environ.get(UNDER_LAYER)) and not any(o.startswith("devices") for o in options)
        for name, value in vulkan.faked(f"log={self._log}", *options, through_loader=through_loader).items():
            self._monkeypatch.setenv(name, value)

    def calls(self) -> str:
        """The letters of the calls since the last time."""
        letters = self._log.read_text() if self._log.exists() else ""
        self._log.unlink(missing_ok=True)
        return letters


@pytest.fixture
def fake_vulkan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeVulkan:
    if reason := vulkan.unavailable():
        pytest.skip(reason)
    return FakeVulkan(tmp_path, monkeypatch)
