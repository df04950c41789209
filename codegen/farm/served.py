"""A device for others: what runs on a host of the farm, a server of TVM's RPC that passes frames on to a runner.

Each session is a process of its own, which TVM's server forks; the functions that are registered here are what its
caller calls. All that they return begins with a byte: 0, or 1 before a text that says what went wrong.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mossnet_tg.codegen.farm.tracker import Address, Tracker
from mossnet_tg.errors import DeviceError, MossnetError
from mossnet_tg.targets.frames import Line
from mossnet_tg.targets.transport import Local, Transport, own_runner, transport

PREFIX = "mossnet.farm."
OPEN, ENDED = b"\0", b"\1"
_MOST_BYTES = 1 << 24  # of what a runner says, in one answer
_FOLLOWS_S = 0.005
_PIPE_BYTES = 1 << 16
_REGISTERED_S = 60.0


@dataclass
class Served:
    """`device`, a part of its name, at a `place` ("" for this machine)."""

    place: str
    device: str
    parent: int = field(default_factory=os.getpid)
    line: Line | None = None

    def about(self) -> bytes:
        """Where the device is and which is meant. The first call of a session."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends this process
        threading.Thread(target=self._end_with_server, daemon=True).start()
        return OPEN + json.dumps({"place": self.place, "device": self.device}).encode()

    def _end_with_server(self) -> None:
        """Also when the server was killed: who asks here must learn that it has gone."""
        while os.getppid() == self.parent:
            time.sleep(0.2)
        os._exit(0)

    def start(self) -> bytes:
        """A new runner, instead of one that there was."""
        self.end()
        try:
            self.line = self.transport.start()
        except MossnetError as e:
            return ENDED + json.dumps([str(e), e.hint]).encode()
        return OPEN

    @property
    def transport(self) -> Transport:
        return transport(self.place, lambda step: None) if self.place else Local(own_runner())

    def exchange(self, frames: bytes, wait_ms: int) -> bytes:
        """Give the runner bytes; what it said, as soon as it says something, but after `wait_ms` in any case."""
        line = self.line
        if line is None:
            return ENDED + struct.pack("<i", 0) + b"it was ended"
        line.write(bytes(frames))
        try:
            line.wait(lambda: bool(line.received) or (not wait_ms and not line.n_queued), _in(max(wait_ms, 1) / 1000))
            if len(line.received) >= _PIPE_BYTES:  # a long answer, of which more is on its way
                line.wait(lambda: len(line.received) >= _MOST_BYTES, _in(_FOLLOWS_S))
        except TimeoutError:
            pass
        except EOFError:
            if not line.received:
                self.line = None
                code = line.end(patience_s=1.0)
                return ENDED + struct.pack("<i", code or 0) + line.said.encode()
        found = bytes(line.received)
        line.received.clear()
        return OPEN + found

    def end(self) -> bytes:
        """End the runner."""
        line, self.line = self.line, None
        if line is not None:
            line.end(patience_s=1.0)
        return OPEN


def _in(seconds: float) -> float:
    return time.monotonic() + seconds


def serve(address: Address, key: str, served: Served, port: int, registered: Callable[[str], None]) -> None:
    """Offer a device under `key` until interrupted, one session after the other; port 0 takes any. `registered` is
    told under which name. A tracker that was started anew is told again.

    Raises DeviceError where there is no tracker, MossnetError where the port is taken.
    """
    import tvm_ffi
    from tvm.rpc import server

    server.logger.setLevel(logging.CRITICAL)
    with Tracker(address) as tracker:
        host = tracker.own_host
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as e:
        raise MossnetError(f"no server can listen on {Address(host, port)}: {e.strerror or e}", "--port") from None
    # Connections that are accepted inherit it: the session of a caller whose host has gone ends, and another may come.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
    port = int(listening.getsockname()[1])
    for name in ("about", "start", "exchange", "end"):
        tvm_ffi.register_global_func(PREFIX + name, getattr(served, name), override=True)
    # A session has the functions that were registered here only when it is forked.
    multiprocessing.set_start_method("fork", force=True)
    folder = Path.cwd()
    told = threading.Thread(target=_tell, args=(address, key, port, lambda: registered(f"{host}:{port}")), daemon=True)
    told.start()
    try:
        while True:
            try:
                server._listen_loop(listening, port, key, (address.host, address.port), None, None)
            except Exception:  # of one session, or a tracker that has been away for a minute: the next may come
                os.chdir(folder)
                time.sleep(1.0)
    finally:
        for session in multiprocessing.active_children():
            session.kill()
        listening.close()


def _tell(address: Address, key: str, port: int, registered: Callable[[], None]) -> None:
    end = time.monotonic() + _REGISTERED_S
    while time.monotonic() < end:
        try:
            with Tracker(address) as tracker:
                while time.monotonic() < end:
                    if tracker.has(key, port):
                        registered()
                        return
                    time.sleep(0.05)
        except DeviceError:
            time.sleep(1.0)
