"""Devices that are alike, which measure beside one another: each has a batch of choices at a time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TypeVar

from mossnet_tg.codegen.tune.measure import Choice, Measurer, Outcome, Place, Subject
from mossnet_tg.errors import DeviceError

_T = TypeVar("_T")
# So often it is asked whether there are more devices by now.
_ASKED_S = 5.0


@dataclass(eq=False)
class Batch:
    """Choices of a subject, and what became of them by their number."""

    subject: Subject
    choices: Sequence[Choice]
    found: dict[int, Outcome] = field(default_factory=dict)
    in_flight: Sequence[int] = ()
    was_lost: bool = False

    @property
    def left(self) -> list[int]:
        return [i for i in range(len(self.choices)) if i not in self.found]

    @property
    def outcomes(self) -> list[Outcome]:
        """In the choices' order, when none is left."""
        return [self.found[i] for i in range(len(self.choices))]

    def run(self, measurer: Measurer) -> None:
        """Measure what is left: in one go, or one by one to find the one to blame after a device was lost."""
        for numbers in [[i] for i in self.left] if self.was_lost else [self.left]:
            self.in_flight = numbers
            outcomes = measurer.measure(self.subject, [self.choices[i] for i in numbers])
            self.found.update(zip(numbers, outcomes, strict=True))

    def lose(self, why: DeviceError) -> None:
        """The device has gone meanwhile. A choice during which that happened twice is not tried again."""
        if self.was_lost:
            self.found.update(dict.fromkeys(self.in_flight, Outcome("lost", text=f"twice: {why}")))
        self.was_lost = True


class Crew:
    """`places` gives further places each time that it is called, () when there are none; `make` a measurer for one.

    A place whose device cannot be brought back is left out, of which `said` is told, and what it had is measured by
    another; DeviceError when none is left. One alone measures in the caller's thread, in the order in which it is
    asked; several in threads of their own.
    """

    def __init__(
        self,
        make: Callable[[Place], Measurer],
        places: Callable[[], Sequence[Place]],
        said: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.make, self.places, self.said = make, places, said
        self.measurers: list[Measurer] = []  # also those that were left out
        self._free: list[Measurer] = []
        self._waiting: deque[Batch] = deque()
        self._ended: SimpleQueue[tuple[Measurer, Batch, BaseException | None]] = SimpleQueue()
        self._n_running = 0
        self._asked = 0.0
        self._ask()

    def _ask(self) -> None:
        new = [self.make(place) for place in self.places()]
        self.measurers += new
        self._free += new
        self._asked = time.monotonic()

    # ---- batches

    @property
    def is_free(self) -> bool:
        """Whether another batch would be begun at once."""
        if time.monotonic() - self._asked > _ASKED_S:
            self._ask()
        return len(self._free) > len(self._waiting)

    def begin(self, batch: Batch) -> None:
        """Measure it; `wait` gives it back."""
        self._waiting.append(batch)
        while self._free and self._waiting:
            self._start(self._free.pop(0), self._waiting.popleft())

    def _start(self, measurer: Measurer, batch: Batch) -> None:
        self._n_running += 1

        def run() -> None:
            try:
                batch.run(measurer)
                self._ended.put((measurer, batch, None))
            except Exception as e:
                self._ended.put((measurer, batch, e))

        if len(self.measurers) == 1:
            run()
        else:
            threading.Thread(target=run, daemon=True).start()

    def wait(self) -> Batch:
        """A batch that has ended."""
        while True:
            measurer, batch, error = self._ended.get()
            self._n_running -= 1
            if isinstance(error, DeviceError):
                self._leave_out(error)
                batch.lose(error)
                if batch.left:
                    self.begin(batch)
                    continue
            elif error is not None:
                raise error
            else:
                self._free.append(measurer)
            if self._waiting:
                self.begin(self._waiting.popleft())
            return batch

    def _leave_out(self, error: DeviceError) -> None:
        if not self._free and not self._n_running:
            self._ask()
            if not self._free:
                raise DeviceError(f"no device is left: {error}", error.hint) if len(self.measurers) > 1 else error
        self.said(f"goes on without a device: {error}")

    # ---- one after the other

    def anywhere(self, work: Callable[[Measurer], _T]) -> _T:
        """What `work` makes of one of them, while no batch is being measured."""
        while True:
            measurer = self._free[0]
            try:
                return work(measurer)
            except DeviceError as e:
                self._free.remove(measurer)
                self._leave_out(e)

    def pair(self, subject: Subject, choice: Choice) -> tuple[float, float]:
        """Seconds of the default and of a choice that was right before, in turns."""
        return self.anywhere(lambda measurer: measurer.pair(subject, choice))

    def default_s(self, task: str) -> float | None:
        """What the default of a task usually takes, by its text; None before it was measured."""
        return next((s for s in (m.default_s(task) for m in self.measurers) if s is not None), None)

    @property
    def n_discarded(self) -> int:
        """The runs that were slow spells."""
        return sum(m.n_discarded for m in self.measurers)
