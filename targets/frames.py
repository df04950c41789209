"""Frames to and from a runner, `mossnet-run`: requests go out, answers come in their order, nothing waits for ever.

`runtime/frames.h` says what a frame is and `runtime/requests.h` what can be asked for; the numbers here are theirs.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import selectors
import signal
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Protocol

from mossnet_tg.errors import DeviceError, MossnetError, of_status

_HEADER = struct.Struct("<4s4I")  # magic, type, seq, timeout_ms, bytes
_MAGIC = b"MNRP"
_ANSWER, _ERROR, _QUIET = 0x80, 0x81, 0x100
_STATUS_PROTOCOL, _STATUS_TIMEOUT = 256, 257
MAX_BYTES = 1 << 28

# After the other side's own deadline, ours: what the way there and back may take.
_GRACE_S = 10.0
# Requests that nobody waits for are sent when there are so many bytes of them.
_HELD_BYTES = 1 << 16
_PIPE_BYTES = 1 << 16
_STDERR_BYTES = 4096


class Request(IntEnum):
    """What a runner can be asked for."""

    HELLO = 1
    BYE = 2
    DEVICES = 3
    READ_BANDWIDTH = 4
    HAS = 5
    PUT = 6
    REMOVE = 7
    LOAD = 16
    UNLOAD = 17
    META = 18
    TOKENIZER = 19
    DEVICE = 20
    BANDWIDTH = 21
    SESSION = 32
    FREE_SESSION = 33
    RESET = 34
    FORK = 35
    PREFILL = 36
    DECODE = 37
    LOGITS = 38
    SCORE = 39
    POSITION = 40
    SAVE = 41
    RESTORE = 42
    RUN = 43
    READ = 44
    WRITE = 45
    PROFILE = 46
    SAMPLER = 48
    FREE_SAMPLER = 49
    ACCEPT = 50
    PICK = 51
    PICK_FROM = 52


def text(value: str | bytes) -> bytes:
    """A text as a payload holds it. Raises MossnetError for one that cannot be sent."""
    content = value.encode(errors="surrogateescape") if isinstance(value, str) else value
    if b"\0" in content:
        raise MossnetError(f"{value!r} holds a NUL, expected a text without")
    return struct.pack("<I", len(content)) + content + b"\0"


class Line(Protocol):
    """A way to a runner and back. `place` is how errors name it; `received` is what came and was not taken yet."""

    place: str
    received: bytearray

    def write(self, data: bytes | memoryview) -> None:
        """Queue bytes; they go out while something is waited for."""

    @property
    def n_queued(self) -> int:
        """The bytes that are not written yet."""

    def wait(self, until: Callable[[], bool], deadline: float) -> None:
        """Write and read until `until` says so. TimeoutError at the deadline, EOFError when the runner ends."""

    @property
    def said(self) -> str:
        """The last that the runner said beside its answers, in a line; "" for nothing."""

    def end(self, patience_s: float) -> int | None:
        """End the runner; what it returned, negative for a signal, None when that is not known."""


class Stream:
    """A process and its three streams. No call blocks past the deadline (of `time.monotonic`) that it is given.

    What the process says on stderr is kept for them.
    """

    def __init__(self, argv: Sequence[str], place: str) -> None:
        self.place = place
        self.received = bytearray()
        self._said = bytearray()
        self._outgoing: deque[memoryview] = deque()
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is ours: what was asked for can still be answered
        )
        p = self._process
        assert p.stdin is not None and p.stdout is not None and p.stderr is not None
        self._stdin, self._stdout, self._stderr = p.stdin, p.stdout, p.stderr
        self._selector = selectors.DefaultSelector()
        self._is_writing = False
        self._is_over = False
        for stream in (self._stdin, self._stdout, self._stderr):
            os.set_blocking(stream.fileno(), False)
        self._selector.register(self._stdout, selectors.EVENT_READ, self._read)
        self._selector.register(self._stderr, selectors.EVENT_READ, self._listen)

    def write(self, data: bytes | memoryview) -> None:
        """Queue bytes; they go out while something is waited for."""
        if data:
            self._outgoing.append(memoryview(data))

    @property
    def n_queued(self) -> int:
        """The bytes that are not written yet."""
        return sum(map(len, self._outgoing))

    def wait(self, until: Callable[[], bool], deadline: float) -> None:
        """Write and read until `until` says so. TimeoutError at the deadline, EOFError when the process ends."""
        if self._is_over:
            raise EOFError
        if not self._is_writing:
            self._write()
        while not until():
            if bool(self._outgoing) != self._is_writing:
                self._is_writing = not self._is_writing
                if self._is_writing:
                    self._selector.register(self._stdin, selectors.EVENT_WRITE, self._write)
                else:
                    self._selector.unregister(self._stdin)
            left = deadline - time.monotonic()
            ready = self._selector.select(left) if left > 0 else []
            if not ready:
                if left <= 0:
                    raise TimeoutError
                continue
            for key, _ in ready:
                key.data()

    def _write(self) -> None:
        if not self._outgoing:
            return
        try:
            # Together, so that small requests are one packet on the way.
            n = os.writev(self._stdin.fileno(), list(itertools.islice(self._outgoing, 64)))
        except BlockingIOError:
            return
        except BrokenPipeError:  # why, its other streams say
            self._outgoing.clear()
            return
        while self._outgoing and n >= len(self._outgoing[0]):
            n -= len(self._outgoing.popleft())
        if n:
            self._outgoing[0] = self._outgoing[0][n:]

    def _read(self) -> None:
        data = os.read(self._stdout.fileno(), _PIPE_BYTES)
        if not data:
            raise EOFError
        self.received += data

    def _listen(self) -> None:
        data = os.read(self._stderr.fileno(), _STDERR_BYTES)
        if data:
            self._said = (self._said + data)[-_STDERR_BYTES:]
        else:
            self._selector.unregister(self._stderr)

    @property
    def said(self) -> str:
        """The last that came on stderr, in a line; "" for nothing."""
        lines = [line.strip() for line in self._said.decode(errors="replace").splitlines() if line.strip()]
        return "; ".join(lines[-3:])[-400:]

    def end(self, patience_s: float) -> int | None:
        """Let the process end by itself, and end it when it does not; what it returned, negative for a signal, None
        when it had to be ended or this was called before.
        """
        if self._is_over:
            return None
        self._is_over = True
        with contextlib.suppress(OSError):
            self._stdin.close()
        code = None
        try:
            code = self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(BlockingIOError, ValueError, OSError):
            while data := os.read(self._stderr.fileno(), _STDERR_BYTES):
                self._said = (self._said + data)[-_STDERR_BYTES:]
        self._selector.close()
        for stream in (self._stdout, self._stderr):
            stream.close()
        return code


class Answer:
    """What will have come back for one request."""

    def __init__(self, connection: Connection, request: Request, timeout_s: float, is_quiet: bool) -> None:
        self._connection = connection
        self.request, self.timeout_s, self.is_quiet = request, timeout_s, is_quiet
        self.payload: bytes | None = None
        self.error: MossnetError | None = None

    @property
    def is_there(self) -> bool:
        return self.payload is not None or self.error is not None

    def result(self) -> bytes:
        """Wait for it: the payload (b"" of a quiet request), or what went wrong is raised."""
        self._connection.wait_for(self)
        if self.error is not None:
            raise self.error
        assert self.payload is not None
        return self.payload


class Connection:
    """Requests and their answers on a stream. Threads may share it."""

    def __init__(self, stream: Line) -> None:
        self.stream = stream
        self.place = stream.place
        self.lost: DeviceError | None = None  # why there will be no more answers
        self._lock = threading.RLock()
        self._process_id = os.getpid()
        self._seq = 0
        self._waiting: dict[int, Answer] = {}  # by seq, in the order in which they will come
        self._forgotten: deque[tuple[Request, bytes]] = deque()

    def send(self, request: Request, payload: bytes = b"", timeout_s: float = 60.0, *, quiet: bool = False) -> Answer:
        """Ask for something. It goes out when somebody waits for an answer, this one's or a later one's.

        A quiet request is answered when it fails only: it is done when a later one is. After `timeout_s` on its side
        the runner counts as hung and ends.
        """
        with self._lock:
            while self._forgotten:
                self._queue(*self._forgotten.popleft(), 60.0, True)
            answer = self._queue(request, payload, timeout_s, quiet)
            if quiet and self.stream.n_queued > _HELD_BYTES:
                self._run(lambda: self.stream.n_queued <= _HELD_BYTES, answer)
            return answer

    def call(self, request: Request, payload: bytes = b"", timeout_s: float = 60.0) -> bytes:
        """Ask and wait. Raises what the runner says, or DeviceError when it is lost."""
        return self.send(request, payload, timeout_s).result()

    def forget(self, request: Request, payload: bytes) -> None:
        """A request whose answer does not matter, from wherever the garbage collector runs: it goes out with the
        next one.
        """
        self._forgotten.append((request, payload))

    def _queue(self, request: Request, payload: bytes, timeout_s: float, quiet: bool) -> Answer:
        answer = Answer(self, request, timeout_s, quiet)
        if self._process_id != os.getpid():
            answer.error = DeviceError(f"{self.place}: the runner is that of the process that this one was forked from")
        elif self.lost is not None:
            answer.error = self.lost
        elif len(payload) > MAX_BYTES:
            answer.error = MossnetError(f"{request.name} of {len(payload)} bytes, a runner takes at most {MAX_BYTES}")
        else:
            self._seq += 1
            timeout_ms = min(max(round(timeout_s * 1000), 1), (1 << 32) - 1)
            kind = request | _QUIET * quiet
            self.stream.write(_HEADER.pack(_MAGIC, kind, self._seq, timeout_ms, len(payload)))
            self.stream.write(payload)
            self._waiting[self._seq] = answer
        return answer

    def wait_for(self, answer: Answer) -> None:
        """Until it is there."""
        with self._lock:
            if answer.is_there:
                return
            if next(reversed(self._waiting.values())).is_quiet:
                self._queue(Request.HELLO, b"", 60.0, False)  # whose answer says that the quiet ones went well
            self._run(lambda: answer.is_there, answer)

    def _run(self, until: Callable[[], bool], answer: Answer) -> None:
        """Exchange until then; what goes wrong becomes the error of all that wait."""

        def is_done() -> bool:
            while self._take():
                pass
            return until() or self.lost is not None

        now = time.monotonic()
        deadline = now + _GRACE_S + sum(a.timeout_s for a in self._waiting.values())
        try:
            self.stream.wait(is_done, deadline)
        except TimeoutError:
            self._lose(f"no answer to {answer.request.name} within {deadline - now:.0f} s")
        except EOFError:
            self._lose(f"the runner ended before it answered {answer.request.name}")

    def _take(self) -> bool:
        """Take one frame out of what was received; whether there was a whole one."""
        if self.lost is not None:
            return False
        received = self.stream.received
        start = received.find(_MAGIC)
        if start:  # what a login says before the runner starts
            del received[: start if start > 0 else max(len(received) - len(_MAGIC) + 1, 0)]
        if len(received) < _HEADER.size:
            return False
        _, kind, seq, _, size = _HEADER.unpack_from(received)
        if kind not in (_ANSWER, _ERROR) or size > MAX_BYTES or seq not in self._waiting:
            self._lose(f"what came is no answer: type {kind}, number {seq}, {size} bytes")
            return False
        if len(received) < _HEADER.size + size:
            return False
        payload = bytes(memoryview(received)[_HEADER.size : _HEADER.size + size])
        del received[: _HEADER.size + size]
        self._answered(kind, seq, payload)
        return True

    def _answered(self, kind: int, seq: int, payload: bytes) -> None:
        while True:
            first = next(iter(self._waiting))
            answer = self._waiting.pop(first)
            if first == seq:
                break
            if not answer.is_quiet:
                self._waiting[first] = answer
                self._lose(f"answer {seq} came before answer {first}")
                return
            answer.payload = b""
        if kind == _ANSWER:
            answer.payload = payload
            return
        status = int.from_bytes(payload[:4], "little")
        said = payload[4:].decode(errors="replace")
        answer.error = of_status(status, said)
        if status == _STATUS_TIMEOUT:
            self._lose(f"{answer.request.name} {said}")
            answer.error = self.lost
        elif status == _STATUS_PROTOCOL:
            answer.error = MossnetError(f"{self.place}: {said}", "this is a defect of mossnet-tg")

    def _lose(self, why: str) -> None:
        """There is no more to come: end the process, and give everybody who waits the reason."""
        code = self.stream.end(patience_s=1.0)
        # What an ssh or adb returns says nothing of the runner.
        signalled = f" by {signal.Signals(-code).name}" if code is not None and code < 0 else ""
        said = f": {self.stream.said}" if self.stream.said else ""
        self.lost = DeviceError(f"{self.place}: {why}{signalled}{said}")
        for answer in self._waiting.values():
            answer.error = self.lost
        self._waiting.clear()

    def close(self) -> None:
        """Say goodbye and end the process, whatever it does; a second call does nothing."""
        with self._lock:
            if self.lost is not None or self._process_id != os.getpid():
                return
            if all(answer.is_quiet for answer in self._waiting.values()) and not self.stream.n_queued:
                with contextlib.suppress(MossnetError):
                    self.call(Request.BYE, timeout_s=5.0)
            self.stream.end(patience_s=2.0)
            self.lost = DeviceError(f"{self.place}: the runner was closed")
