"""`mossnet-tg targets`."""

from __future__ import annotations

import json

import pytest

from mossnet_tg.engine import Library
from mossnet_tg.errors import MossnetError
from mossnet_tg.targets.table import KINDS, parse_target
from tests.cli.conftest import Run


def test_this_machine(run: Run) -> None:
    found = run("targets")
    assert found.exit_code == 0 and found.stderr == ""
    host = Library.default()
    assert parse_target("cpu").name in found.stdout and "tinygrad:DEVICE" in found.stdout
    for kind in KINDS:
        assert f"\n{kind} " in "\n" + found.stdout
    cpu, debugging = json.loads(run("targets", "--json").stdout)
    assert cpu["available"] is True and cpu["arch"] == host.cpu_arch and cpu["threads"] == host.cpu_count
    assert cpu["features"] == list(host.cpu_features) and cpu["level"] == parse_target("cpu").mcpu
    assert debugging["available"] is None  # known when a device is opened


def test_why_it_cannot_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise MossnetError("libmossnet is not built")

    monkeypatch.setattr(Library, "default", missing)
    found = run("targets")
    assert found.exit_code == 0 and "no: libmossnet is not built" in found.stdout
    cpu = json.loads(run("targets", "--json").stdout)[0]
    assert cpu["available"] is False and cpu["reason"] == "libmossnet is not built"
