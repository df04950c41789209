"""TVM's RPC tracker: which devices there are under which key, and who has them."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mossnet_tg.errors import DeviceError, MossnetError, UsageError

_ANSWERED_S = 10.0
_MOST_BYTES = 1 << 20  # of a message, as the tracker has it
_START = "start one: mossnet-tg farm tracker"


@dataclass(frozen=True)
class Address:
    """HOST:PORT of a tracker."""

    host: str
    port: int

    @classmethod
    def of(cls, text: str) -> Address:
        """Raises UsageError for what is none."""
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise UsageError(f"the tracker is '{text}', expected HOST:PORT, such as 127.0.0.1:9190")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Server:
    """A device that the tracker gave: it is to be reached at once, and proves with `match` who was meant."""

    host: str
    port: int
    match: str


@dataclass(frozen=True)
class Queue:
    """The devices of a key: all, those that nobody has, and how many wait for one."""

    total: int
    free: int
    waiting: int


def key_of(text: str) -> str:
    """A key that the tracker's messages can carry. Raises UsageError for another."""
    if not text or any(c.isspace() or c == ":" for c in text):
        raise UsageError(f"the key is '{text}', expected a word without blanks and colons, such as adreno-750")
    return text


class Tracker:
    """A connection to a tracker. Raises DeviceError where none answers."""

    def __init__(self, address: Address) -> None:
        from tvm.rpc import base

        self._base, self.address = base, address
        try:
            self._socket = socket.create_connection((address.host, address.port), _ANSWERED_S)
        except OSError as e:
            raise DeviceError(f"no tracker at {address}: {e.strerror or e}", _START) from None
        try:
            self._socket.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
            answer = base.recvall(self._socket, 4)
        except OSError:
            answer = b""
        if answer != struct.pack("<i", base.RPC_TRACKER_MAGIC):
            self.close()
            raise DeviceError(f"what answers at {address} is no tracker of TVM's RPC", _START)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def own_host(self) -> str:
        """This machine's address on the way to the tracker."""
        return str(self._socket.getsockname()[0])

    def queues(self) -> dict[str, Queue]:
        """By key. Keys of which all devices have gone are left out."""
        found, servers = self._summary()
        totals = [key for key, _, _ in servers]
        return {
            key: Queue(totals.count(key), int(found[key]["free"]), int(found[key]["pending"]))
            for key in sorted(set(totals) & set(found))
        }

    def has(self, key: str, port: int) -> bool:
        """Whether a server that listens on `port` of this machine is registered."""
        found, servers = self._summary()
        return key in found and (key, self.own_host, port) in servers

    def _summary(self) -> tuple[dict[str, Any], list[tuple[str, str, int]]]:
        """What is said of each key, and the servers as (key, host, port)."""
        try:
            status, found = self._ask([self._base.TrackerCode.SUMMARY], _ANSWERED_S)
        except TimeoutError:
            text = f"the tracker at {self.address} does not answer for {_ANSWERED_S:.0f} s"
            raise DeviceError(text, _START) from None
        if status != self._base.TrackerCode.SUCCESS:
            raise DeviceError(f"the tracker at {self.address} does not say what it has", _START)
        servers = [(str(s["key"]).removeprefix("server:"), *s["addr"]) for s in found["server_info"]]
        return found["queue_info"], servers

    def request(self, key: str, timeout_s: float) -> Server | None:
        """A device, which is ours until its connection ends; None, and no longer usable, when none came in time."""
        try:
            status, value = self._ask([self._base.TrackerCode.REQUEST, key, "", 1], timeout_s)
        except TimeoutError:
            self.close()  # else one that comes later would be given to nobody
            return None
        if status != self._base.TrackerCode.SUCCESS:
            raise DeviceError(f"the tracker at {self.address} does not give a device of '{key}'")
        return Server(str(value[0]), int(value[1]), str(value[2]))

    def _ask(self, question: list[Any], timeout_s: float) -> tuple[int, Any]:
        self._socket.settimeout(timeout_s)
        try:
            self._base.sendjson(self._socket, question)
            (size,) = struct.unpack("<i", self._base.recvall(self._socket, 4))
            if not 0 < size <= _MOST_BYTES:
                raise ValueError
            self._socket.settimeout(_ANSWERED_S)
            status, value = json.loads(self._base.recvall(self._socket, size))
            return int(status), value
        except TimeoutError:
            raise
        except OSError as e:
            raise DeviceError(f"the tracker at {self.address} has gone away: {e.strerror or e}", _START) from None
        except (ValueError, TypeError):
            raise DeviceError(f"what answers at {self.address} is no tracker of TVM's RPC", _START) from None


def track(host: str, port: int, started: Callable[[Address], None]) -> None:
    """Be the tracker, until interrupted; port 0 takes any."""
    import asyncio

    try:
        from tvm.rpc.tracker import TrackerServerHandler, logger
    except ModuleNotFoundError as e:
        raise MossnetError(
            f"{e.name} is not installed, TVM's tracker needs it", "pip install mossnet-tg[farm]"
        ) from None
    logger.setLevel("WARNING")
    try:
        listening = socket.create_server((host, port), family=_family(host))
    except OSError as e:
        hint = "another tracker may run there: mossnet-tg farm list asks it; or take another --port"
        raise MossnetError(f"no tracker can listen on {Address(host, port)}: {e.strerror or e}", hint) from None
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    with contextlib.closing(listening):
        tracker = TrackerServerHandler(listening, stop_key="")
        started(Address(host, int(listening.getsockname()[1])))
        tracker.run()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
