"""Models that run in another process, here or on another machine: a runner, and what it has loaded.

`RemoteModel`, `RemoteSession` and `RemoteSampler` are used as `CompiledModel`, `Session` and `Sampler` of
`mossnet_tg.engine` are, and raise what those raise. What goes wrong on the way is a DeviceError: the process ended, the
cable was cut, a kernel hangs. `Runner.restart` starts it anew; what the runner had loaded is gone then.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import math
import os
import struct
import weakref
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from mossnet_tg.engine import (
    ALLOW_NATIVE,
    SCORE,
    CompiledModel,
    Ids,
    InfoStruct,
    Library,
    Logits,
    ModelInfo,
    Owned,
    SamplingStruct,
    Session,
    contiguous,
    device_facts,
    token_array,
)
from mossnet_tg.errors import DeviceError, MossnetError, UsageError
from mossnet_tg.folders import sha256
from mossnet_tg.sampling import SamplingParams
from mossnet_tg.targets.frames import MAX_BYTES, Answer, Connection, Request, text
from mossnet_tg.targets.transport import Local, Transport, own_runner, transport

# What a GPU's driver may take for a run before it gives the device up, where nobody says.
_TIMEOUT_S = 30.0
# The runner's own end comes after that, so that it is the driver that says what happened.
_LATER_S = 1.0
_LOAD_S = 600.0
_MOST_S = 86400.0
_PUT_S = 60.0
_PIECE = 1 << 18
_WINDOW = 1 << 22  # of pieces that are sent before the answer to the first of them is asked for
_HELLO_S = 30.0
_HELLOS = 3


class Runner:
    """A mossnet-run and the connection to it. Threads may share it, one is served after the other.

    `version`, `cpu_arch`, `cpu_features`, `cpu_count`, `devices` and `read_bandwidth` say of the runner's machine what
    `Library`'s say of this one. Ends with `close`, with a `with`, or with the last reference to it and its models.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.place = transport.place
        self.connection, self.facts = self._connect()
        self._finalizer = weakref.finalize(self, self.connection.close)

    @classmethod
    def local(cls) -> Runner:
        """A runner on this machine: what crashes or hangs there does not take this process with it."""
        return cls(Local(own_runner()))

    @classmethod
    def at(cls, place: str, progress: Callable[[str], None] = lambda step: None) -> Runner:
        """A runner at `ssh:[USER@]HOST`, `adb:SERIAL` or, for the only device that is plugged in, `adb:`; `progress` is
        told what has to be done for it.
        """
        return cls(transport(place, progress))

    def _connect(self) -> tuple[Connection, dict[str, str]]:
        for _ in range(_HELLOS):
            connection = Connection(self.transport.start())
            try:
                facts = _facts(connection.call(Request.HELLO, timeout_s=_HELLO_S))
                break
            except MossnetError as e:
                connection.close()
                failure = e
        else:
            raise DeviceError(f"{failure}; tried {_HELLOS} times")
        expected = Library.default().version
        if facts.get("version") != expected:
            connection.close()
            raise MossnetError(f"{self.place}: the runner is version {facts.get('version')}, expected {expected}")
        return connection, facts

    @property
    def is_lost(self) -> bool:
        """Whether the process or the way to it is gone."""
        return self.connection.lost is not None

    def restart(self) -> None:
        """End the runner and start it anew: after a hang or a crash. Models and sessions of before are lost."""
        self._finalizer()
        self.connection, self.facts = self._connect()
        self._finalizer = weakref.finalize(self, self.connection.close)

    def close(self) -> None:
        """End the runner; a second call does nothing."""
        self._finalizer()

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def version(self) -> str:
        return self.facts["version"]

    @property
    def system(self) -> str:
        """`Linux` or `Android`."""
        return self.facts["os"]

    @property
    def cpu_arch(self) -> str:
        """`x86_64` or `aarch64`."""
        return self.facts["arch"]

    @property
    def cpu_name(self) -> str:
        """What the processor calls itself, or else its architecture."""
        return self.facts["cpu"] or self.cpu_arch

    @property
    def cpu_count(self) -> int:
        """The CPUs that the runner may use."""
        return int(self.facts["cpus"])

    @property
    def cpu_features(self) -> tuple[str, ...]:
        """What the runner's CPU and system have, in LLVM's names."""
        return tuple(self.facts["features"].split(","))

    def devices(self, driver: str) -> list[dict[str, str]]:
        """What there is to run models on through `driver`, as mossnet.h describes it; DeviceError without any."""
        return device_facts(self.connection.call(Request.DEVICES, text(driver)))

    def read_bandwidth(self, n_bytes: int = 256 << 20, n_threads: int = 0, reps: int = 10) -> float:
        """Bytes per second at which memory is read, the best of `reps` passes."""
        answer = self.connection.call(Request.READ_BANDWIDTH, struct.pack("<QII", n_bytes, n_threads, reps))
        return float(_unpack("<d", answer)[0])

    def load(
        self,
        path: str | os.PathLike[str],
        *,
        allow_native: bool = False,
        device: str = "",
        cache_dir: str | os.PathLike[str] | None = None,
        timeout_s: float = 0,
        driver: str = "",
        keep: bool = True,
        progress: Callable[[str], None] = lambda step: None,
    ) -> RemoteModel:
        """Load a model.moss of this machine there; the arguments are those of `CompiledModel`.

        Where this machine's files are not seen it is sent, once: it stays there under a hash of what is in it.
        `cache_dir` is a folder there (None: one beside the models, and none on this machine). `timeout_s` is also what
        a run may take on the processor: after that, and a second more, the runner ends. What was sent and is not to be
        kept is removed when it is loaded.
        """
        if not 0 <= timeout_s <= _MOST_S:
            raise UsageError(f"timeout_s is {timeout_s}, expected 0 to {_MOST_S:.0f}")
        if cache_dir is None:
            cache_dir = "" if self.transport.shares_files else "programs"
        digest = None if self.transport.shares_files else self._sent(Path(path), progress)
        name = os.fspath(Path(path).resolve()) if digest is None else f"{digest.hex()}.moss"
        try:
            return RemoteModel(self, name, allow_native, device, os.fsencode(cache_dir), timeout_s, driver)
        except MossnetError as e:  # says of the file what it is called there, cut to so much
            reason = str(e).removeprefix(f"{name[:200]}: ")
            raise e if reason == str(e) else type(e)(f"{os.fspath(path)}: {reason}", e.hint) from None
        finally:
            if digest is not None and not keep:
                with contextlib.suppress(DeviceError):  # what is lost says so itself
                    self.connection.call(Request.REMOVE, digest)

    def _sent(self, path: Path, progress: Callable[[str], None]) -> bytes:
        """The hash by which a file is there that is this one."""
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                digest = sha256(file)
                if not _unpack("<I", self.connection.call(Request.HAS, digest + struct.pack("<Q", size)))[0]:
                    file.seek(0)
                    self._send(file, digest, size, progress)
        except OSError as e:
            raise MossnetError(f"{path}: {e.strerror}") from None
        return digest

    def _send(self, file: BinaryIO, digest: bytes, size: int, progress: Callable[[str], None]) -> None:
        for start in range(0, max(size, 1), _WINDOW):
            progress(f"sending the model to {self.place}: {start >> 20} of {size >> 20} MiB")
            sent = []
            for offset in range(start, min(start + _WINDOW, max(size, 1)), _PIECE):
                payload = digest + struct.pack("<QQ", size, offset) + file.read(_PIECE)
                sent.append(self.connection.send(Request.PUT, payload, _PUT_S, quiet=True))
            try:
                for answer in sent:
                    answer.result()
            except DeviceError:
                raise
            except MossnetError as e:
                raise MossnetError(f"{self.place}: {e}", self.transport.room(str(e))) from None


class _Handle(Owned):
    """Something that the runner made; `close` frees it with the next request."""

    _free: Request

    def __init__(self, connection: Connection, number: int) -> None:
        self.connection = connection
        self._number = struct.pack("<I", number)
        self._finalizer = weakref.finalize(self, connection.forget, self._free, self._number)
        self._finalizer.atexit = False  # the runner frees everything at its end

    @property
    def number(self) -> bytes:
        """How requests name it."""
        self._require_open()
        return self._number


class RemoteModel(_Handle):
    """A model.moss that a runner has loaded. Made by `Runner.load`; used as a `CompiledModel`."""

    _free = Request.UNLOAD

    def __init__(
        self,
        runner: Runner,
        file: str,
        allow_native: bool,
        device: str,
        cache_dir: bytes,
        timeout_s: float,
        driver: str,
    ) -> None:
        self.library = runner  # what says of the machine
        self.timeout_s = timeout_s or _TIMEOUT_S
        self._meta: dict[str, str | None] = {}
        connection = runner.connection
        payload = struct.pack("<II", ALLOW_NATIVE if allow_native else 0, round(timeout_s * 1000))
        payload += text(file) + text(device) + text(cache_dir) + text(driver)
        answer = connection.call(Request.LOAD, payload, _LOAD_S)
        number, info = _unpack(f"<I{ctypes.sizeof(InfoStruct)}s", answer)
        super().__init__(connection, number)
        self.info = ModelInfo.of(InfoStruct.from_buffer_copy(info))

    def __enter__(self) -> RemoteModel:
        return self

    def meta(self, key: str) -> str | None:
        """A value of META (`config`, `target`, ...)."""
        if key not in self._meta:
            value = _optional(self.connection.call(Request.META, self.number + text(key)))
            self._meta[key] = None if value is None else value.decode(errors="replace")
        return self._meta[key]

    @functools.cached_property
    def tokenizer(self) -> bytes | None:
        """The `tokenizer.json` inside the file."""
        return _optional(self.connection.call(Request.TOKENIZER, self.number))

    @property
    def device(self) -> dict[str, str]:
        """The device in use: `name` and what else mossnet.h says."""
        return device_facts(self.connection.call(Request.DEVICE, self.number))[0]

    def bandwidth(self, n_bytes: int = 256 << 20, reps: int = 10) -> float:
        """Bytes read and written per second when the device copies memory; on a cpu, bytes read."""
        answer = self.connection.call(Request.BANDWIDTH, self.number + struct.pack("<QI", n_bytes, reps))
        return float(_unpack("<d", answer)[0])

    def session(self, n_threads: int = 0) -> RemoteSession:
        """A new session at position 0; `n_threads` 0 takes every CPU that the runner may use."""
        if not 0 <= n_threads < 1 << 32:
            raise UsageError(f"{n_threads} threads, expected 0 or more")
        answer = self.connection.call(Request.SESSION, self.number + struct.pack("<I", n_threads))
        return RemoteSession(self, *_unpack("<II", answer))

    def sampler(self, params: SamplingParams | None = None) -> RemoteSampler:
        """A sampler beside the model, which picks where the logits are."""
        return RemoteSampler(self.connection, params)


class RemoteLogits:
    """The logits [vocab_size] after a session's last token, on the device until they are asked for.

    numpy takes it for an array, and so can everybody: what an array has, it has.
    """

    def __init__(self, session: RemoteSession, decoded: Answer | None) -> None:
        self.session = session
        self._decoded = decoded
        self._array: Logits | None = None

    @property
    def are_there(self) -> bool:
        """Whether they are on the device still, and not here."""
        return self._array is None

    def array(self) -> Logits:
        """The logits, here."""
        if self._array is None:
            self.settle()
            answer = self.session.connection.call(Request.LOGITS, self.session.number)
            self._array = _array(answer, np.float32, self.session.model.info.vocab_size)
        return self._array

    def settle(self) -> None:
        """Raise what went wrong when they were computed."""
        if self._decoded is not None:
            self._decoded.result()

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.array(), dtype, copy=copy)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.array(), name)

    def __len__(self) -> int:
        return len(self.array())

    def __getitem__(self, index: Any) -> Any:
        return self.array()[index]


class RemoteSession(_Handle):
    """One text being read and continued, used as a `Session`.

    What `prefill` and `decode` return stays on the device until it is read: `RemoteSampler.pick` picks there. With
    `copy`, `decode` does not even wait: the token goes with the next request, and what goes wrong is raised by that.
    """

    _free = Request.FREE_SESSION

    def __init__(self, model: RemoteModel, number: int, n_threads: int) -> None:
        super().__init__(model.connection, number)
        self.model = model
        self.n_threads = n_threads
        self._decoded: Answer | None = None  # a token that is on its way
        self._logits: weakref.ref[RemoteLogits] | None = None
        self._n_sent = 0  # no fewer tokens than the session has read

    def __enter__(self) -> RemoteSession:
        return self

    def close(self) -> None:
        """Frees it, with the next request; a second call does nothing."""
        if self._finalizer.alive and self.connection.lost is None:
            self._go_on()
        super().close()

    def settle(self) -> None:
        """Wait for the token that is on its way; what went wrong with it is raised once."""
        decoded, self._decoded = self._decoded, None
        if decoded is not None:
            decoded.result()

    def _go_on(self) -> None:
        """Before a call after which the logits of the one before are no more: who still holds them, gets them."""
        self.settle()
        logits = self._logits() if self._logits is not None else None
        self._logits = None
        if logits is not None:
            logits.array()

    def _deadline_s(self, n_runs: int) -> float:
        return self.model.timeout_s * n_runs + _LATER_S

    def _call(self, request: Request, payload: bytes = b"", timeout_s: float = 60.0) -> bytes:
        self._go_on()
        return self.connection.call(request, self.number + payload, timeout_s)

    def _made(self, decoded: Answer | None) -> Logits:
        logits = RemoteLogits(self, decoded)
        self._logits = weakref.ref(logits)
        return cast(Logits, logits)

    def _n_runs(self, n_tokens: int) -> int:
        return n_tokens // self.model.info.chunk + 1

    def prefill(self, ids: Ids, *, copy: bool = True) -> Logits:
        """Reads tokens; returns the logits [vocab_size] for the one after the last."""
        tokens = token_array(ids)
        self._n_sent += len(tokens)
        self._call(Request.PREFILL, tokens.tobytes(), self._deadline_s(self._n_runs(len(tokens))))
        return self._made(None)

    def decode(self, token: int, *, copy: bool = True) -> Logits:
        """Reads one token; returns the logits [vocab_size] for the next."""
        if not -(1 << 31) <= token < 1 << 31:
            raise UsageError(f"token {token} is no int32")
        info = self.model.info
        fits = 0 <= token < info.vocab_size and (not info.max_context or self._n_sent < info.max_context)
        self._n_sent += 1
        self._go_on()
        payload = self.number + struct.pack("<i", token)
        decoded = self.connection.send(Request.DECODE, payload, self._deadline_s(1), quiet=copy and fits)
        if not copy or not fits or decoded.is_there:  # what is refused, is refused here and now
            decoded.result()
            return self._made(None)
        self._decoded = decoded
        return self._made(decoded)

    def score(self, ids: Ids) -> Logits:
        """Reads tokens; returns the logits [len(ids), vocab_size] after each of them.

        What does not fit into one answer is read in parts, and each part is checked when its turn comes.
        """
        tokens, info = token_array(ids), self.model.info
        most = MAX_BYTES // (4 * info.vocab_size)
        most = max(most - most % info.chunk, 1)
        rows = []
        for i in range(0, len(tokens), most):
            part = tokens[i : i + most]
            self._n_sent += len(part)
            n_runs = self._n_runs(len(part)) if info.n_steps[SCORE] else len(part)
            answer = self._call(Request.SCORE, part.tobytes(), self._deadline_s(n_runs))
            rows.append(_array(answer, np.float32, len(part), info.vocab_size))
        return np.concatenate(rows) if len(rows) > 1 else rows[0]

    def reset(self) -> None:
        """Back to position 0."""
        self._call(Request.RESET)
        self._n_sent = 0

    def fork(self) -> RemoteSession:
        """A second session that continues from the same state."""
        fork = RemoteSession(self.model, *_unpack("<II", self._call(Request.FORK)))
        fork._n_sent = self._n_sent
        return fork

    def save(self) -> bytes:
        """The state and the position, for `restore`."""
        return self._call(Request.SAVE)

    def restore(self, state: bytes) -> None:
        """Continues from what a session of the same model saved; anything else is an `ArtifactError`."""
        self._call(Request.RESTORE, state)
        self._n_sent = self.position

    @property
    def position(self) -> int:
        """How many tokens the session has read."""
        self.settle()
        return int(_unpack("<Q", self.connection.call(Request.POSITION, self.number))[0])

    def run(self, entry: int, first_step: int, n_steps: int) -> None:
        """Runs some steps of an entry on the buffers as they stand; the position stays."""
        self._call(Request.RUN, _numbers(entry, first_step, n_steps), self._deadline_s(1))

    def read(self, buffer: int, out: npt.NDArray[Any]) -> None:
        """Fills a contiguous array from the start of a buffer of the file."""
        contiguous(out)
        answer = self._call(Request.READ, _numbers(buffer) + struct.pack("<Q", out.nbytes))
        out.reshape(-1).view(np.uint8)[:] = _array(answer, np.uint8, out.nbytes)

    def write(self, buffer: int, values: npt.NDArray[Any]) -> None:
        """Writes a contiguous array to the start of a buffer of the file."""
        self._call(Request.WRITE, _numbers(buffer) + contiguous(values).tobytes())

    def profile(self, entry: int, reps: int = 20) -> npt.NDArray[np.float64]:
        """Median seconds of each step of an entry. Resets the session."""
        answer = self._call(Request.PROFILE, _numbers(entry, reps), self._deadline_s(reps + 1))
        self._n_sent = 0
        return _array(answer, np.float64, self.model.info.n_steps[entry])


class RemoteSampler(_Handle):
    """Picks tokens where the runner is, as a `Sampler` does here: the same tokens."""

    _free = Request.FREE_SAMPLER

    def __init__(self, connection: Connection, params: SamplingParams | None = None) -> None:
        sampling = SamplingStruct(**dataclasses.asdict(params or SamplingParams()))
        answer = connection.call(Request.SAMPLER, bytes(sampling))
        super().__init__(connection, _unpack("<I", answer)[0])
        self._accepted: list[int] = []  # not told yet

    def __enter__(self) -> RemoteSampler:
        return self

    def accept(self, token: int) -> None:
        """Adds a token to the history."""
        self._accepted.append(token)

    def pick(self, logits: Logits | RemoteLogits) -> int:
        """Picks a token; does not accept it. Logits with NaN or +infinity are a `UsageError`."""
        if self._accepted:
            ids = np.array(self._accepted, np.int32).tobytes()
            self._accepted.clear()
            self.connection.send(Request.ACCEPT, self.number + ids, quiet=True)
        if isinstance(logits, RemoteLogits) and logits.are_there and logits.session.connection is self.connection:
            answer = self.connection.send(Request.PICK, self.number + logits.session.number)
            logits.session.settle()
        else:
            array = np.ascontiguousarray(logits, np.float32)
            if array.ndim != 1:
                raise UsageError(f"logits of shape {array.shape}, expected one dimension")
            answer = self.connection.send(Request.PICK_FROM, self.number + array.tobytes())
        return int(_unpack("<i", answer.result())[0])


# What runs somewhere: here or there.
AnyModel: TypeAlias = CompiledModel | RemoteModel
AnySession: TypeAlias = Session | RemoteSession


def _facts(lines: bytes) -> dict[str, str]:
    """Lines key=value."""
    pairs = (line.partition("=") for line in lines.decode(errors="replace").splitlines())
    return {key: value for key, _, value in pairs}


def _optional(answer: bytes) -> bytes | None:
    return answer[4:] if _unpack("<I", answer[:4])[0] else None


def _numbers(*values: int) -> bytes:
    """u32 each. Raises UsageError for what is none."""
    if wrong := [value for value in values if not 0 <= value < 1 << 32]:
        raise UsageError(f"{wrong[0]} is no number from 0 to {(1 << 32) - 1}")
    return struct.pack(f"<{len(values)}I", *values)


def _array(answer: bytes, dtype: type[np.generic], *shape: int) -> npt.NDArray[Any]:
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    if len(answer) != expected:
        raise DeviceError(f"an answer of {len(answer)} bytes, expected {expected}")
    return np.frombuffer(bytearray(answer), dtype).reshape(shape)


def _unpack(layout: str, answer: bytes) -> tuple[Any, ...]:
    try:
        return struct.unpack(layout, answer)
    except struct.error:
        raise DeviceError(f"an answer of {len(answer)} bytes, expected {struct.calcsize(layout)}") from None
