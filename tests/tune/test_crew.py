"""Several devices at once: who measures what, and what becomes of it when one goes away."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from mossnet_tg.codegen.tune.crew import Batch, Crew
from mossnet_tg.codegen.tune.measure import Choice, Outcome
from mossnet_tg.errors import DeviceError

GOOD, BAD = Choice({"rows": 1}), Choice({"rows": 2})


class Device:
    """A measurer that a bad choice takes with it, and a place at the same time."""

    n_discarded = 0

    def __init__(self, name: str, *, meet: threading.Barrier | None = None, dies: bool = False) -> None:
        self.name, self.meet, self.dies = name, meet, dies
        self.asked: list[Sequence[Choice]] = []
        self.threads: set[int] = set()

    def measure(self, subject: Any, choices: Sequence[Choice]) -> list[Outcome]:
        self.asked.append(choices)
        self.threads.add(threading.get_ident())
        if self.meet is not None:
            self.meet.wait(10)
        if self.dies or BAD in choices:
            raise DeviceError(f"{self.name} has gone")
        return [Outcome("ok", ratio=1.0, text=self.name) for _ in choices]

    def pair(self, subject: Any, choice: Choice) -> tuple[float, float]:
        if self.dies:
            raise DeviceError(f"{self.name} has gone")
        return 2.0, 1.0


def crew(*devices: Device, later: Sequence[Device] = (), said: Any = lambda text: None) -> Crew:
    given = iter([devices, later])
    return Crew(lambda place: place, lambda: next(given, ()), said)  # type: ignore[arg-type, return-value]


def batch(*choices: Choice) -> Batch:
    return Batch(None, choices)  # type: ignore[arg-type]


def statuses(found: Batch) -> list[str]:
    return [outcome.status for outcome in found.outcomes]


def test_one_alone_works_in_this_thread() -> None:
    device = Device("a")
    one = crew(device)
    for _ in range(2):
        assert one.is_free
        begun = batch(GOOD, GOOD)
        one.begin(begun)
        assert not one.is_free and one.wait() is begun and statuses(begun) == ["ok", "ok"]
    assert device.threads == {threading.get_ident()} and device.asked == [[GOOD, GOOD]] * 2


def test_two_measure_at_once() -> None:
    """Neither would end before the other has begun."""
    meet = threading.Barrier(2)
    two = crew(Device("a", meet=meet), Device("b", meet=meet))
    begun = {batch(GOOD), batch(GOOD)}
    for one in begun:
        two.begin(one)
    assert not two.is_free and {two.wait(), two.wait()} == begun
    assert {one.outcomes[0].text for one in begun} == {"a", "b"}


def test_another_measures_again_what_one_had() -> None:
    said: list[str] = []
    a, b = Device("a", dies=True), Device("b")
    two = crew(a, b, said=said.append)
    two.begin(batch(GOOD, GOOD))
    found = two.wait()
    assert [o.text for o in found.outcomes] == ["b", "b"] and [len(one) for one in b.asked] == [1, 1]
    assert said == ["goes on without a device: a has gone"]


def test_only_the_one_to_blame_is_lost() -> None:
    devices = [Device(name) for name in "abc"]
    three = crew(*devices)
    three.begin(batch(GOOD, BAD, GOOD))
    found = three.wait()
    assert statuses(found) == ["ok", "lost", "ok"] and found.outcomes[1].text == "twice: b has gone"
    assert [len(d.asked) for d in devices] == [1, 2, 1]


def test_none_is_left() -> None:
    two = crew(Device("a", dies=True), Device("b", dies=True))
    two.begin(batch(GOOD))
    with pytest.raises(DeviceError, match="no device is left: b has gone"):
        two.wait()
    alone = crew(Device("a", dies=True))
    alone.begin(batch(GOOD))
    with pytest.raises(DeviceError, match=r"^a has gone$"):
        alone.wait()


def test_one_that_comes_later() -> None:
    """Asked for when nobody is left, at the latest."""
    one = crew(Device("a", dies=True), later=[Device("b")])
    one.begin(batch(GOOD))
    assert one.wait().outcomes[0].text == "b"


def test_pairs_go_anywhere() -> None:
    said: list[str] = []
    two = crew(Device("a", dies=True), Device("b"), said=said.append)
    assert two.pair(None, GOOD) == (2.0, 1.0) and len(said) == 1  # type: ignore[arg-type]


def test_a_defect_is_no_lost_device() -> None:
    broken = Device("a")
    broken.measure = None  # type: ignore[assignment, method-assign]
    one = crew(broken, Device("b"))
    one.begin(batch(GOOD))
    with pytest.raises(TypeError):
        one.wait()
