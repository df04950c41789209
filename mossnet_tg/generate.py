"""The token loop: a prompt goes in, ids or text come out, one at a time.

It runs on anything that can prefill and decode (`Session`) and choose (`Sampler`): libmossnet on a device, the
reference model, a stand-in of a test.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from mossnet_tg.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mossnet_tg.tokenizer import StreamDecoder

# Tokens of a prompt that are fed at once: between two slices Ctrl-C works and progress is told. A multiple of the
# compiled prefill chunks, so that only the last slice is padded.
PREFILL_SLICE = 512

StopReason = Literal["eos", "max_tokens", "stop"]


class Session(Protocol):
    """One sequence's state on a device. The logits are float32 [vocab] after the last id given."""

    def prefill(self, ids: Sequence[int], /) -> NDArray[np.float32]:
        """Append ids (at least one) and return the logits."""

    def decode(self, token: int, /) -> NDArray[np.float32]:
        """Append one id and return the logits."""


class Sampler(Protocol):
    """Chooses ids. It is told every id of the sequence with `accept`, those it picked too."""

    def accept(self, token: int, /) -> None:
        """Note an id of the sequence."""

    def pick(self, logits: NDArray[np.float32], /) -> int:
        """The next id, from logits float32 [vocab]."""


class TextCodec(Protocol):
    """What `generate_text` needs of a tokenizer."""

    def encode(self, text: str, /) -> list[int]:
        """The ids of a text."""

    def stream(self) -> StreamDecoder:
        """A decoder that is fed one id at a time."""


@dataclass
class Stats:
    """What happened so far; give a new one to each generation, it is filled while the tokens come.

    `n_generated` counts the ids given out (an end of text is not), `n_decoded` the decode steps behind `decode_s`.
    `first_token_s` is the time from the start to the first id. `stop_reason` None: not over, or left by the caller.
    """

    n_prompt: int = 0
    n_generated: int = 0
    n_decoded: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    first_token_s: float = 0.0
    stop_reason: StopReason | None = None

    @property
    def prefill_per_s(self) -> float:
        """Prompt tokens a second; 0 before there are any."""
        return self.n_prompt / self.prefill_s if self.prefill_s else 0.0

    @property
    def decode_per_s(self) -> float:
        """Decode steps a second, choosing included; 0 before there are any."""
        return self.n_decoded / self.decode_s if self.decode_s else 0.0


def generate_ids(
    session: Session,
    sampler: Sampler,
    prompt: Sequence[int],
    *,
    max_tokens: int | None = None,
    eos_ids: Sequence[int] = (),
    stats: Stats | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[int]:
    """Yield the ids that follow `prompt`, up to an end of text (not yielded) or `max_tokens` (None: no limit).

    An empty prompt begins with the first of `eos_ids`, as texts do in training. `progress(done, total)` is called after
    each slice of the prompt. The last id yielded is not in the session's state yet: feed it first to go on.

    Raises UsageError, at the call, for an empty prompt without `eos_ids` and for a negative `max_tokens`.
    """
    if max_tokens is not None and (type(max_tokens) is not int or max_tokens < 0):
        raise UsageError(f"max_tokens is {max_tokens!r}, expected an integer from 0 on, or None")
    if not prompt and not eos_ids:
        raise UsageError(
            "the prompt is empty, and this model names no end-of-text token to begin with", "give a prompt"
        )
    stats = Stats() if stats is None else stats
    return _loop(session, sampler, prompt or eos_ids[:1], max_tokens, frozenset(eos_ids), stats, progress)


def _loop(
    session: Session,
    sampler: Sampler,
    prompt: Sequence[int],
    max_tokens: int | None,
    eos_ids: frozenset[int],
    stats: Stats,
    progress: Callable[[int, int], None] | None,
) -> Iterator[int]:
    started = time.perf_counter()
    for i in range(0, len(prompt), PREFILL_SLICE):
        step = time.perf_counter()
        part = prompt[i : i + PREFILL_SLICE]
        logits = session.prefill(part)
        for token in part:
            sampler.accept(token)
        stats.n_prompt += len(part)
        stats.prefill_s += time.perf_counter() - step
        if progress is not None:
            progress(stats.n_prompt, len(prompt))
    for n_before in itertools.count():
        if n_before == max_tokens:
            stats.stop_reason = "max_tokens"
            return
        step = time.perf_counter()
        if n_before > 0:
            logits = session.decode(token)
        token = sampler.pick(logits)
        del logits  # nobody reads them again: those of another machine need not come here
        sampler.accept(token)
        now = time.perf_counter()
        if n_before > 0:
            stats.n_decoded += 1
            stats.decode_s += now - step
        else:
            stats.first_token_s = now - started
        if token in eos_ids:
            stats.stop_reason = "eos"
            return
        stats.n_generated += 1
        yield token


def generate_text(
    session: Session,
    sampler: Sampler,
    tokenizer: TextCodec,
    prompt: str | Sequence[int],
    *,
    max_tokens: int | None = None,
    eos_ids: Sequence[int] = (),
    stop: Sequence[str] = (),
    stats: Stats | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[str]:
    """Yield the text that follows `prompt` in pieces, none empty, none with half a character.

    The text ends where the first of the `stop` strings is complete, and from the beginning of that string on (the
    longest, where several end there) it is not yielded; text that could still become one is held back. Otherwise as
    `generate_ids`, which raises the same errors; UsageError also for an empty stop string.
    """
    if isinstance(stop, str):
        raise UsageError(f"stop is the text {stop!r}, expected a list of texts")
    if "" in stop:
        raise UsageError("a stop string is empty, expected at least one character")
    stats = Stats() if stats is None else stats
    prompt_ids = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
    ids = generate_ids(
        session, sampler, prompt_ids, max_tokens=max_tokens, eos_ids=eos_ids, stats=stats, progress=progress
    )
    return _text(ids, tokenizer.stream(), StopFilter(stop), stats)


def _text(ids: Iterator[int], decoder: StreamDecoder, stops: StopFilter, stats: Stats) -> Iterator[str]:
    for token in ids:
        if text := stops.push(decoder.push(token)):
            yield text
        if stops.stopped:
            stats.stop_reason = "stop"
            return
    text = stops.push(decoder.flush())
    if stops.stopped:
        stats.stop_reason = "stop"
    if text := text + stops.flush():
        yield text


class StopFilter:
    """Lets text through up to a stop string, wherever the pieces of the text are cut."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""  # ends with the longest beginning of a stop string that the text could still complete
        self.stopped = False

    def push(self, piece: str) -> str:
        """The text that `piece` decides; nothing after `stopped`."""
        if self.stopped:
            return ""
        text = self._held + piece
        found = [(i + len(s), i) for s in self._stops if (i := text.find(s)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)[1]]
        n_held = max((_overlap(text, s) for s in self._stops), default=0)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]

    def flush(self) -> str:
        """The text held back, when no more comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that is a beginning of `stop`, shorter than it."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
