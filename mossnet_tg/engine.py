"""libmossnet from Python: compiled models, sessions, the sampler and the tokenizer, through ctypes.

What each call does stands in `mossnet.h`; here are only types, lifetimes and errors. ctypes releases the GIL during a
call, so sessions of several threads run at once; one session, sampler or decoder belongs to one thread at a time.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import os
import weakref
from collections.abc import Callable, Sequence
from ctypes import POINTER, byref, c_char_p, c_double, c_float, c_int32, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

import mossnet_tg
from mossnet_tg.errors import MossnetError, UsageError, of_status
from mossnet_tg.sampling import SamplingParams

ABI_VERSION = 2
LIBRARY_NAME = "libmossnet.so"
DECODE, PREFILL, SCORE = 0, 1, 2

Ids = Sequence[int] | npt.NDArray[np.integer[Any]]
Logits = npt.NDArray[np.float32]

ALLOW_NATIVE = 1
_ENTRY_KINDS = 3


class _Error(ctypes.Structure):
    _fields_ = (("status", ctypes.c_int), ("text", ctypes.c_char * 480))


class _Options(ctypes.Structure):
    _fields_ = (
        ("flags", c_uint32),
        ("timeout_ms", c_uint32),
        ("device", c_char_p),
        ("cache_dir", c_char_p),
        ("driver", c_char_p),
        ("reserved", c_uint64 * 3),
    )


_OnText = ctypes.CFUNCTYPE(ctypes.c_int, c_void_p, POINTER(ctypes.c_char), c_size_t, c_int32)


class _Generation(ctypes.Structure):
    _fields_ = (
        ("max_tokens", c_uint64),
        ("sampler", c_void_p),
        ("on_text", _OnText),
        ("context", c_void_p),
        ("reserved", c_uint64 * 4),
    )


class _Generated(ctypes.Structure):
    _fields_ = (("n_prompt", c_uint64), ("n_tokens", c_uint64), ("ending", ctypes.c_int), ("reserved", c_uint32))


_ENDINGS = ("eos", "max_tokens", "stop")


class InfoStruct(ctypes.Structure):
    _fields_ = (
        ("vocab_size", c_uint32),
        ("chunk", c_uint32),
        ("max_context", c_uint32),
        ("n_steps", c_uint32 * _ENTRY_KINDS),
        ("n_buffers", c_uint32),
        ("reserved", c_uint32),
        ("file_bytes", c_uint64),
        ("weights_bytes", c_uint64),
        ("code_bytes", c_uint64),
        ("state_bytes", c_uint64),
        ("arena_bytes", c_uint64),
        ("io_bytes", c_uint64),
        ("session_bytes", c_uint64),
        ("model_hash", c_uint8 * 32),
    )


class SamplingStruct(ctypes.Structure):
    _fields_ = (
        ("temperature", c_float),
        ("top_p", c_float),
        ("min_p", c_float),
        ("repetition_penalty", c_float),
        ("top_k", c_uint32),
        ("repetition_window", c_uint32),
        ("seed", c_uint64),
    )


# name: (result, arguments); a call that returns a status takes the error behind these arguments.
_STATUS = "status"
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "version": (c_char_p, ()),
    "abi_version": (c_uint32, ()),
    "cpu_arch": (c_char_p, ()),
    "cpu_count": (c_uint32, ()),
    "cpu_features": (c_size_t, (c_char_p, c_size_t)),
    "read_bandwidth": (_STATUS, (c_size_t, c_uint32, c_uint32, POINTER(c_double))),
    "devices": (_STATUS, (c_char_p, c_char_p, c_size_t, POINTER(c_size_t))),
    "model_load": (_STATUS, (c_char_p, POINTER(_Options), POINTER(c_void_p))),
    "model_free": (None, (c_void_p,)),
    "model_info": (None, (c_void_p, POINTER(InfoStruct))),
    "model_meta": (c_char_p, (c_void_p, c_char_p)),
    "model_tokenizer": (c_void_p, (c_void_p, POINTER(c_size_t))),
    "model_device": (c_size_t, (c_void_p, c_char_p, c_size_t)),
    "model_bandwidth": (_STATUS, (c_void_p, c_uint64, c_uint32, POINTER(c_double))),
    "session_bytes": (c_uint64, (c_void_p,)),
    "model_encode": (_STATUS, (c_void_p, c_char_p, c_size_t, c_void_p, c_size_t, POINTER(c_size_t))),
    "decoder_new": (_STATUS, (c_void_p, POINTER(c_void_p))),
    "decoder_free": (None, (c_void_p,)),
    "decoder_push": (_STATUS, (c_void_p, c_int32, POINTER(c_void_p), POINTER(c_size_t))),
    "decoder_flush": (_STATUS, (c_void_p, POINTER(c_void_p), POINTER(c_size_t))),
    "session_new": (_STATUS, (c_void_p, c_uint32, POINTER(c_void_p))),
    "session_free": (None, (c_void_p,)),
    "session_reset": (None, (c_void_p,)),
    "session_fork": (_STATUS, (c_void_p, POINTER(c_void_p))),
    "session_prefill": (_STATUS, (c_void_p, c_void_p, c_size_t, POINTER(c_void_p))),
    "session_decode": (_STATUS, (c_void_p, c_int32, POINTER(c_void_p))),
    "session_generate": (_STATUS, (c_void_p, c_char_p, c_size_t, POINTER(_Generation), POINTER(_Generated))),
    "session_score": (_STATUS, (c_void_p, c_void_p, c_size_t, c_void_p)),
    "session_cancel": (None, (c_void_p,)),
    "session_position": (c_uint64, (c_void_p,)),
    "session_threads": (c_uint32, (c_void_p,)),
    "session_state_bytes": (c_size_t, (c_void_p,)),
    "session_save": (_STATUS, (c_void_p, c_void_p, c_size_t, POINTER(c_size_t))),
    "session_restore": (_STATUS, (c_void_p, c_void_p, c_size_t)),
    "session_run": (_STATUS, (c_void_p, c_uint32, c_uint32, c_uint32)),
    "session_read": (_STATUS, (c_void_p, c_uint32, c_void_p, c_size_t)),
    "session_write": (_STATUS, (c_void_p, c_uint32, c_void_p, c_size_t)),
    "session_profile": (_STATUS, (c_void_p, c_uint32, c_uint32, c_void_p)),
    "sampler_new": (_STATUS, (POINTER(SamplingStruct), POINTER(c_void_p))),
    "sampler_free": (None, (c_void_p,)),
    "sampler_accept": (None, (c_void_p, c_int32)),
    "sampler_pick": (_STATUS, (c_void_p, c_void_p, c_size_t, POINTER(c_int32))),
}


class Library:
    """libmossnet, loaded. `Library.default()` finds it; a path is for tests and unusual places.

    As a host it is this machine.
    """

    place = ""
    system = "Linux"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            dso = ctypes.CDLL(os.fspath(path))
        except OSError as error:
            raise MossnetError(f"{self.path}: the library cannot be loaded: {error}") from error
        self._calls: dict[str, Any] = {}
        for name, (result, arguments) in _FUNCTIONS.items():
            try:
                function = getattr(dso, f"mossnet_{name}")
            except AttributeError:
                raise MossnetError(
                    f"{self.path}: no libmossnet, or another version: mossnet_{name} is missing"
                ) from None
            function.restype = ctypes.c_int if result is _STATUS else result
            function.argtypes = (*arguments, POINTER(_Error)) if result is _STATUS else arguments
            self._calls[name] = function
        if (found := self.call("abi_version")) != ABI_VERSION:
            raise MossnetError(f"{self.path}: the library has ABI version {found}, expected {ABI_VERSION}")

    @staticmethod
    @functools.cache
    def default() -> Library:
        """The library named by MOSSNET_LIB, or else the one installed with this package."""
        if named := os.environ.get("MOSSNET_LIB"):
            return Library(named)
        # An editable install has two folders: the sources, and the one where the library was installed.
        places = [Path(folder) / "lib" / LIBRARY_NAME for folder in mossnet_tg.__path__]
        for place in places:
            if place.exists():
                return Library(place)
        raise MossnetError(
            f"libmossnet is not built: {' and '.join(map(str, places))} not found",
            hint="pip install mossnet-tg builds it; in a source tree: "
            "cmake -S . -B build && cmake --build build && cmake --install build --prefix .",
        )

    def call(self, name: str, *arguments: Any) -> Any:
        """Calls a function that cannot fail."""
        return self._calls[name](*arguments)

    def check(self, name: str, *arguments: Any) -> None:
        """Calls a function that can, and raises what it says."""
        error = _Error()
        status = self._calls[name](*arguments, byref(error))
        if status:
            raise of_status(status, error.text.decode(errors="replace"))

    @property
    def version(self) -> str:
        return str(self.call("version").decode())

    @property
    def cpu_arch(self) -> str:
        """`x86_64` or `aarch64`."""
        return str(self.call("cpu_arch").decode())

    @property
    def cpu_name(self) -> str:
        """What the processor calls itself."""
        from mossnet_tg.targets.host import cpu_name

        return cpu_name()

    @property
    def cpu_count(self) -> int:
        """The CPUs that this process may run on."""
        return int(self.call("cpu_count"))

    @property
    def cpu_features(self) -> tuple[str, ...]:
        """What this CPU and its system have, in LLVM's names."""
        text = ctypes.create_string_buffer(self.call("cpu_features", None, 0))
        self.call("cpu_features", text, len(text))
        return tuple(text.value.decode().split(","))

    def devices(self, driver: str) -> list[dict[str, str]]:
        """What there is to run models on through `driver`, as mossnet.h describes it; DeviceError without any."""
        needed = c_size_t()
        self.check("devices", driver.encode(), None, 0, byref(needed))
        text = ctypes.create_string_buffer(needed.value)
        self.check("devices", driver.encode(), text, len(text), byref(needed))
        return device_facts(text.value)

    def read_bandwidth(self, n_bytes: int = 256 << 20, n_threads: int = 0, reps: int = 10) -> float:
        """Bytes per second at which memory is read, the best of `reps` passes."""
        speed = c_double()
        self.check("read_bandwidth", n_bytes, n_threads, reps, byref(speed))
        return speed.value


def device_facts(text: bytes) -> list[dict[str, str]]:
    """Lines key=value; each device begins with its name."""
    found: list[dict[str, str]] = []
    for line in text.decode(errors="replace").splitlines():
        key, _, value = line.partition("=")
        if key == "name" or not found:
            found.append({})
        found[-1][key] = value
    return found


@dataclass(frozen=True)
class ModelInfo:
    """What a compiled model is. `n_steps` is by entry (DECODE, PREFILL, SCORE), 0 for one it does not have."""

    vocab_size: int
    chunk: int
    max_context: int
    n_steps: tuple[int, int, int]
    n_buffers: int
    file_bytes: int
    weights_bytes: int
    code_bytes: int
    state_bytes: int
    arena_bytes: int
    io_bytes: int
    session_bytes: int
    model_hash: str

    @classmethod
    def of(cls, info: InfoStruct) -> ModelInfo:
        """The same as `mossnet_info` holds it."""
        numbers = {field.name: getattr(info, field.name) for field in dataclasses.fields(cls)}
        return cls(**{**numbers, "n_steps": tuple(info.n_steps), "model_hash": bytes(info.model_hash).hex()})


class Owned:
    """Something outside of Python's memory; freed by `close`, at the end of a `with` or with the last reference."""

    _finalizer: weakref.finalize[..., Any]

    def _require_open(self) -> None:
        if not self._finalizer.alive:
            raise ValueError(f"the {type(self).__name__} is closed")

    def close(self) -> None:
        """Frees it; a second call does nothing."""
        self._finalizer()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Handle(Owned):
    """An object of the library."""

    _free: str

    def __init__(self, library: Library, pointer: c_void_p) -> None:
        self.library = library
        self._pointer = pointer
        self._finalizer = weakref.finalize(self, library.call, self._free, pointer)

    @property
    def pointer(self) -> c_void_p:
        self._require_open()
        return self._pointer


class CompiledModel(_Handle):
    """A model.moss, loaded. `allow_native` is the caller's consent to run its code on the processor.

    On GPUs `device` is a part of the device's name, `cache_dir` keeps built programs, `timeout_s` (0: 30) is the
    longest run. Of a file with several variants the first that runs is taken, of `driver`'s where that is given.

    Sessions that are left when it is closed go on, and keep what they need of it.
    """

    _free = "model_free"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        allow_native: bool = False,
        device: str = "",
        cache_dir: str | os.PathLike[str] = "",
        timeout_s: float = 0,
        driver: str = "",
        library: Library | None = None,
    ) -> None:
        library = library or Library.default()
        pointer = c_void_p()
        flags, timeout_ms = ALLOW_NATIVE if allow_native else 0, round(timeout_s * 1000)
        options = _Options(flags, timeout_ms, device.encode(), os.fsencode(cache_dir), driver.encode() or None)
        library.check("model_load", os.fsencode(path), byref(options), byref(pointer))
        super().__init__(library, pointer)
        self.info = self._info()

    def __enter__(self) -> CompiledModel:
        return self

    def _info(self) -> ModelInfo:
        info = InfoStruct()
        self.library.call("model_info", self.pointer, byref(info))
        return ModelInfo.of(info)

    def meta(self, key: str) -> str | None:
        """A value of META (`config`, `target`, ...)."""
        value: bytes | None = self.library.call("model_meta", self.pointer, key.encode())
        return None if value is None else value.decode()

    @property
    def tokenizer(self) -> bytes | None:
        """The `tokenizer.json` inside the file."""
        size = c_size_t()
        start = self.library.call("model_tokenizer", self.pointer, byref(size))
        return ctypes.string_at(start, size.value) if start else None

    def encode(self, text: str | bytes) -> npt.NDArray[np.int32]:
        """The ids of a text; bytes that are no UTF-8 count as U+FFFD. Raises ArtifactError for a file without TEXT."""
        content = text.encode("utf-8", "replace") if isinstance(text, str) else text
        n = c_size_t()
        self.library.check("model_encode", self.pointer, content, len(content), None, 0, byref(n))
        ids = np.empty(n.value, np.int32)
        self.library.check("model_encode", self.pointer, content, len(content), ids.ctypes.data, ids.size, byref(n))
        return ids

    def decoder(self) -> Decoder:
        """A decoder for one text. Raises ArtifactError for a file without TEXT."""
        pointer = c_void_p()
        self.library.check("decoder_new", self.pointer, byref(pointer))
        return Decoder(self.library, pointer)

    @property
    def device(self) -> dict[str, str]:
        """The device in use: `name` and what else mossnet.h says."""
        text = ctypes.create_string_buffer(self.library.call("model_device", self.pointer, None, 0))
        self.library.call("model_device", self.pointer, text, len(text))
        return device_facts(text.value)[0]

    def bandwidth(self, n_bytes: int = 256 << 20, reps: int = 10) -> float:
        """Bytes read and written per second when the device copies memory; on a cpu, bytes read."""
        speed = c_double()
        self.library.check("model_bandwidth", self.pointer, n_bytes, reps, byref(speed))
        return speed.value

    def session(self, n_threads: int = 0) -> Session:
        """A new session at position 0; `n_threads` 0 takes every CPU that this process may use."""
        if not 0 <= n_threads < 1 << 32:
            raise UsageError(f"{n_threads} threads, expected 0 or more")
        pointer = c_void_p()
        self.library.check("session_new", self.pointer, n_threads, byref(pointer))
        return Session(self, pointer)

    def sampler(self, params: SamplingParams | None = None) -> Sampler:
        """A sampler that picks where the model runs."""
        return Sampler(params, library=self.library)


class Session(_Handle):
    """One text being read and continued. Made by `CompiledModel.session` and `fork`.

    The logits that `prefill` and `decode` return are the library's own memory when `copy` is False: the next call on
    this session overwrites them, and closing it frees them.

    It belongs to one thread at a time: what another calls meanwhile, but `cancel`, raises UsageError.
    """

    _free = "session_free"

    def __init__(self, model: CompiledModel, pointer: c_void_p) -> None:
        super().__init__(model.library, pointer)
        self.model = model
        self._vocab_size = model.info.vocab_size
        self._views: dict[int, Logits] = {}

    def __enter__(self) -> Session:
        return self

    def _logits(self, pointer: c_void_p, copy: bool) -> Logits:
        address = pointer.value
        assert address is not None
        view = self._views.get(address)
        if view is None:
            view = np.frombuffer(memoryview((c_float * self._vocab_size).from_address(address)), np.float32)
            view.flags.writeable = False
            self._views[address] = view
        return view.copy() if copy else view

    def cancel(self) -> None:
        """Ends the call that another thread is in, or else the next one, with CancelledError; `position` says how far
        it came.
        """
        self.library.call("session_cancel", self.pointer)

    def prefill(self, ids: Ids, *, copy: bool = True) -> Logits:
        """Reads tokens; returns the logits [vocab_size] for the one after the last."""
        tokens, logits = token_array(ids), c_void_p()
        self.library.check("session_prefill", self.pointer, tokens.ctypes.data, len(tokens), byref(logits))
        return self._logits(logits, copy)

    def decode(self, token: int, *, copy: bool = True) -> Logits:
        """Reads one token; returns the logits [vocab_size] for the next."""
        if not -(1 << 31) <= token < 1 << 31:
            raise UsageError(f"token {token} is no int32")
        logits = c_void_p()
        self.library.check("session_decode", self.pointer, token, byref(logits))
        return self._logits(logits, copy)

    def generate(
        self,
        prompt: str | bytes,
        on_text: Callable[[str, int], bool | None],
        *,
        max_tokens: int = 0,
        sampler: Sampler | None = None,
    ) -> Generated:
        """Reads a text and continues it in C, up to the end of the text or `max_tokens` (0: no limit), the likeliest
        token each time without a `sampler`.

        `on_text(piece, id)` gets each token and the text that it completes, perhaps none; what is left at the end comes
        with the id -1. True stops. What it raises ends the call, and is raised. The session has read then all that
        `on_text` has seen: another call goes on behind it.
        """
        failure: BaseException | None = None

        def told(_: object, text: Any, size: int, token: int) -> int:
            nonlocal failure
            try:
                return bool(on_text(ctypes.string_at(text, size).decode(), token))
            except BaseException as e:  # it must not cross C
                failure = e
                return 1

        content = prompt.encode(errors="replace") if isinstance(prompt, str) else prompt
        wanted = _Generation(max_tokens, sampler.pointer if sampler else None, _OnText(told))
        found = _Generated()
        try:
            self.library.check("session_generate", self.pointer, content, len(content), byref(wanted), byref(found))
        except MossnetError:
            if failure is None:
                raise
        if failure is not None:
            raise failure
        return Generated(found.n_prompt, found.n_tokens, _ENDINGS[found.ending])

    def score(self, ids: Ids) -> Logits:
        """Reads tokens; returns the logits [len(ids), vocab_size] after each of them."""
        tokens = token_array(ids)
        out = np.empty((len(tokens), self._vocab_size), np.float32)
        self.library.check("session_score", self.pointer, tokens.ctypes.data, len(tokens), out.ctypes.data)
        return out

    def reset(self) -> None:
        """Back to position 0."""
        self.library.call("session_reset", self.pointer)

    def fork(self) -> Session:
        """A second session that continues from the same state."""
        pointer = c_void_p()
        self.library.check("session_fork", self.pointer, byref(pointer))
        return Session(self.model, pointer)

    def save(self) -> bytes:
        """The state and the position, for `restore`."""
        buffer = bytearray(self.library.call("session_state_bytes", self.pointer))
        used = c_size_t()
        memory = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        self.library.check("session_save", self.pointer, memory, len(buffer), byref(used))
        return bytes(buffer)

    def restore(self, state: bytes) -> None:
        """Continues from what a session of the same model saved; anything else is an `ArtifactError`."""
        self.library.check("session_restore", self.pointer, c_char_p(state), len(state))

    @property
    def position(self) -> int:
        """How many tokens the session has read."""
        return int(self.library.call("session_position", self.pointer))

    @property
    def n_threads(self) -> int:
        return int(self.library.call("session_threads", self.pointer))

    def run(self, entry: int, first_step: int, n_steps: int) -> None:
        """Runs some steps of an entry on the buffers as they stand; the position stays."""
        self.library.check("session_run", self.pointer, entry, first_step, n_steps)

    def read(self, buffer: int, out: npt.NDArray[Any]) -> None:
        """Fills a contiguous array from the start of a buffer of the file."""
        self.library.check("session_read", self.pointer, buffer, contiguous(out).ctypes.data, out.nbytes)

    def write(self, buffer: int, values: npt.NDArray[Any]) -> None:
        """Writes a contiguous array to the start of a buffer of the file."""
        self.library.check("session_write", self.pointer, buffer, contiguous(values).ctypes.data, values.nbytes)

    def profile(self, entry: int, reps: int = 20) -> npt.NDArray[np.float64]:
        """Median seconds of each step of an entry. Resets the session."""
        seconds = np.zeros(self.model.info.n_steps[entry])
        self.library.check("session_profile", self.pointer, entry, reps, seconds.ctypes.data)
        return seconds


def contiguous(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if not array.flags.c_contiguous:
        raise ValueError("the array is not contiguous")
    return array


def token_array(ids: Ids) -> npt.NDArray[np.int32]:
    array = np.asarray(ids)
    if array.ndim != 1 or not array.size:
        raise UsageError(f"token ids of shape {array.shape}, expected one dimension with at least one token")
    if array.dtype.kind not in "iu":
        raise UsageError(f"token ids are {array.dtype}, expected integers")
    if array.dtype != np.int32 and (array.min() < -(1 << 31) or array.max() >= 1 << 31):
        raise UsageError("a token id is no int32")
    return np.ascontiguousarray(array, np.int32)


@dataclass(frozen=True)
class Generated:
    """What `Session.generate` did; `ending` is "eos", "max_tokens" or "stop"."""

    n_prompt: int
    n_tokens: int
    ending: str


class Decoder(_Handle):
    """Decodes one id at a time, as `mossnet_tg.tokenizer.StreamDecoder`; made by `CompiledModel.decoder`."""

    _free = "decoder_free"

    def __enter__(self) -> Decoder:
        return self

    def push(self, token: int) -> str:
        """The text that `token` completes, perhaps none."""
        return self._text("decoder_push", token)

    def flush(self) -> str:
        """What was held back; the decoder begins anew."""
        return self._text("decoder_flush")

    def _text(self, name: str, *arguments: int) -> str:
        text, size = c_void_p(), c_size_t()
        self.library.check(name, self.pointer, *arguments, byref(text), byref(size))
        assert text.value is not None
        return ctypes.string_at(text.value, size.value).decode()


class Sampler(_Handle):
    """Picks tokens by `SamplingParams`; remembers those it is told of for the repetition penalty.

    The filters apply in this order, each to what the one before left: repetition penalty, top_k, top_p, min_p,
    temperature. The same seed, logits and calls give the same tokens on every machine.
    """

    _free = "sampler_free"

    def __init__(self, params: SamplingParams | None = None, *, library: Library | None = None) -> None:
        library = library or Library.default()
        sampling = SamplingStruct(**dataclasses.asdict(params or SamplingParams()))
        pointer = c_void_p()
        library.check("sampler_new", byref(sampling), byref(pointer))
        super().__init__(library, pointer)

    def __enter__(self) -> Sampler:
        return self

    def accept(self, token: int) -> None:
        """Adds a token to the history."""
        self.library.call("sampler_accept", self.pointer, token)

    def pick(self, logits: Logits) -> int:
        """Picks a token; does not accept it. Logits with NaN or +infinity are a `UsageError`."""
        array = np.ascontiguousarray(logits, np.float32)
        if array.ndim != 1:
            raise UsageError(f"logits of shape {array.shape}, expected one dimension")
        token = c_int32()
        self.library.check("sampler_pick", self.pointer, array.ctypes.data, array.size, byref(token))
        return token.value
