"""The devices of a key, as runners: frames go through TVM's RPC to the hosts that have them."""

from __future__ import annotations

import contextlib
import json
import struct
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from mossnet_tg.codegen.farm.served import ENDED, PREFIX
from mossnet_tg.codegen.farm.tracker import Address, Server, Tracker
from mossnet_tg.errors import DeviceError, MossnetError
from mossnet_tg.remote import Runner
from mossnet_tg.targets.frames import Line

_T = TypeVar("_T")
_CONNECTED_S = 20.0
_FREE_S = 60.0
_STARTED_S = 180.0  # a runner that is put into a phone first
_POLL_S = 2.0
# What a call may take beyond what it waits for, and for each byte of a slow network.
_SLACK_S, _PER_BYTE_S = 30.0, 1e-5


class Worker:
    """A session with a server of the farm: a `Transport`. `place` is the key and the server's address, `device` what
    of its host is meant.
    """

    shares_files = False

    def __init__(self, key: str, server: Server) -> None:
        from tvm import rpc

        self.place = f"{key}@{server.host}:{server.port}"
        self._functions: dict[str, Any] = {}
        try:
            self._session = _within(_CONNECTED_S, lambda: rpc.connect(server.host, server.port, server.match))
        except (RuntimeError, TimeoutError) as e:
            raise DeviceError(f"{self.place}: the server is not reached: {_line(e)}") from None
        facts = json.loads(self.call("about", timeout_s=_CONNECTED_S)[1:])
        self.device = str(facts["device"])

    def call(self, name: str, *arguments: Any, timeout_s: float) -> bytes:
        """Call one of the server's functions. Raises DeviceError when the server has gone."""

        def call() -> bytes:
            if name not in self._functions:
                self._functions[name] = self._session.get_function(PREFIX + name)
            return bytes(self._functions[name](*arguments))

        try:
            return _within(timeout_s, call)
        except TimeoutError:
            raise DeviceError(f"{self.place}: the server does not answer for {timeout_s:.0f} s") from None
        except AttributeError:
            hint = "another program serves this key: mossnet-tg tune needs devices of mossnet-tg farm serve"
            raise DeviceError(f"{self.place}: the server has no {PREFIX}{name}", hint) from None
        except RuntimeError as e:  # TVM's: RPCError of what failed there, others of a connection that has ended
            why = f"failed: {_line(e)}" if type(e).__name__ == "RPCError" else "has gone"
            raise DeviceError(f"{self.place}: the server {why}") from None

    def room(self, said: str) -> str | None:
        """What a session stores goes with it."""
        return f"make room at {self.place}" if "No space left" in said else None

    def start(self) -> Line:
        """A runner that serves; DeviceError where there is none."""
        answer = self.call("start", timeout_s=_STARTED_S)
        if answer[:1] == ENDED:
            text, hint = json.loads(answer[1:])
            raise DeviceError(f"{self.place}: {text}", hint)
        return _Frames(self)

    def close(self) -> None:
        """End the session: the device is free for others."""
        self._functions.clear()
        with contextlib.suppress(RuntimeError, TimeoutError):
            _within(_CONNECTED_S, lambda: self._session.get_function("CloseRPCConnection")())


class _Frames:
    """The way to a worker's runner, a `Line`."""

    def __init__(self, worker: Worker) -> None:
        self.worker, self.place = worker, worker.place
        self.received = bytearray()
        self.said = ""
        self._outgoing: list[bytes] = []
        self._code: int | None = None
        self._is_over = False

    def write(self, data: bytes | memoryview) -> None:
        self._outgoing.append(bytes(data))

    @property
    def n_queued(self) -> int:
        return sum(map(len, self._outgoing))

    def wait(self, until: Callable[[], bool], deadline: float) -> None:
        while not until():
            if self._is_over:
                raise EOFError
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            frames = b"".join(self._outgoing)
            self._outgoing.clear()
            # What only has to be on its way is not waited for.
            self._exchange(frames, 0.0 if until() else min(left, _POLL_S))

    def _exchange(self, frames: bytes, wait_s: float) -> None:
        timeout_s = wait_s + _SLACK_S + len(frames) * _PER_BYTE_S
        try:
            answer = self.worker.call("exchange", frames, round(wait_s * 1000), timeout_s=timeout_s)
        except DeviceError as e:
            self._is_over = True
            self.said = str(e).removeprefix(f"{self.place}: ")
            raise EOFError from None
        if answer[:1] == ENDED:
            self._is_over = True
            self._code, self.said = struct.unpack("<i", answer[1:5])[0], answer[5:].decode(errors="replace")
            raise EOFError
        self.received += answer[1:]

    def end(self, patience_s: float) -> int | None:
        if not self._is_over:
            self._is_over = True
            with contextlib.suppress(DeviceError):
                self.worker.call("end", timeout_s=patience_s + _SLACK_S)
        return self._code


class Farm:
    """What is free of the devices of `key`, taken as it is asked for and given back at the end. `progress` is told what
    takes time.
    """

    def __init__(self, address: Address, key: str, progress: Callable[[str], None]) -> None:
        self.address, self.key, self.progress = address, key, progress
        self._taken: list[tuple[Worker, Runner]] = []

    def __enter__(self) -> Farm:
        return self

    def __exit__(self, *_: object) -> None:
        for worker, runner in self._taken:
            runner.close()
            worker.close()

    @property
    def device(self) -> str:
        """Which device of its host the first server offers."""
        return self._taken[0][0].device

    def first(self) -> Runner:
        """One of the devices. Raises DeviceError where the tracker has none of the key, and where none becomes free."""
        end = time.monotonic() + _FREE_S
        failure = ""
        while True:
            with Tracker(self.address) as tracker:
                queues = tracker.queues()
                if self.key not in queues:
                    there = ", ".join(queues) or "none"
                    said = f"; {failure}" if failure else ""
                    text = (
                        f"the tracker at {self.address} has no device of the key '{self.key}', there are: {there}{said}"
                    )
                    raise DeviceError(text, "offer one: mossnet-tg farm serve")
                self.progress(f"waiting for a device of {self.key}")
                left = end - time.monotonic()
                server = tracker.request(self.key, left) if left > 0 else None
            if server is None:
                total = queues[self.key].total
                text = f"all {total} devices of '{self.key}' are in use, none became free within {_FREE_S:.0f} s"
                raise DeviceError(f"{text}{f'; {failure}' if failure else ''}", "mossnet-tg farm list shows them")
            try:
                return self._runner(server)
            except MossnetError as e:
                failure = str(e)
                self.progress(failure)
                time.sleep(1.0)

    def more(self) -> list[Runner]:
        """Those that are free now."""
        found: list[Runner] = []
        try:
            with Tracker(self.address) as tracker:
                queue = tracker.queues().get(self.key)
                for _ in range(queue.free if queue else 0):
                    # What was free may be somebody else's by now.
                    server = tracker.request(self.key, _POLL_S)
                    if server is None:
                        break
                    try:
                        found.append(self._runner(server))
                    except MossnetError as e:
                        self.progress(str(e))
        except DeviceError as e:  # those that are taken need no tracker
            self.progress(str(e))
        return found

    def _runner(self, server: Server) -> Runner:
        self.progress(f"connecting to {self.key}@{server.host}:{server.port}")
        worker = Worker(self.key, server)
        try:
            runner = Runner(worker)
        except BaseException:
            worker.close()
            raise
        self._taken.append((worker, runner))
        return runner


def _within(timeout_s: float, call: Callable[[], _T]) -> _T:
    """What a call of TVM's RPC returns, or raises; TimeoutError later.

    In a thread that may be left behind: where the other host has gone without a word, such a call never returns.
    """
    done: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            done.put((call(), None))
        except BaseException as e:
            done.put((None, e))

    threading.Thread(target=run, daemon=True).start()
    try:
        value, error = done.get(timeout=timeout_s)
    except Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    found: _T = value
    return found


def _line(error: BaseException) -> str:
    """The last line, which says what it was."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no answer"
