"""How well a model predicts a text: its negative log likelihood, and its distance from another model's predictions.

A text goes through one session from its beginning to its end, a slice of logits at a time, so that memory does not
grow with it. Logarithms and sums are float64.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from mossnet_tg.errors import MossnetError, UsageError
from mossnet_tg.generate import PREFILL_SLICE

if TYPE_CHECKING:
    from mossnet_tg.tokenizer import Tokenizer

Ids = npt.NDArray[np.int32]
Logits = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

# A text is encoded in pieces of so many characters: a tokenizer takes a hundred times the memory of what it is given.
_PIECE_CHARS = 1 << 18
# Of a slice's logits: those of a prefill chunk of 128 for a vocabulary of 200,000.
_SLICE_BYTES = 100 << 20
# Logits that are worked on in float64 at once: they stay in a cache.
_BLOCK = 1 << 18


class Scorer(Protocol):
    """One text being read, such as `mossnet_tg.engine.Session`."""

    def score(self, ids: Ids, /) -> Logits:
        """Append ids (at least one); the logits after each of them, float32 [n, vocab]."""

    def reset(self) -> None:
        """Back to the beginning of a text."""


class Decoder(Protocol):
    """One text being made, such as `mossnet_tg.engine.Session`."""

    def decode(self, token: int, /) -> Logits:
        """Append an id; the logits after it, float32 [vocab]."""

    def reset(self) -> None:
        """Back to the beginning of a text."""


class OneByOne:
    """Scores by decoding."""

    def __init__(self, session: Decoder) -> None:
        self.session = session

    def score(self, ids: Ids, /) -> Logits:
        return np.stack([self.session.decode(int(token)) for token in ids])

    def reset(self) -> None:
        self.session.reset()


@dataclass(frozen=True)
class Encoded:
    """A text as `ids` int32 [n]; ids[1:], which are to be predicted, stand for `n_bytes` bytes of its UTF-8."""

    ids: Ids
    n_bytes: int


@dataclass(frozen=True)
class Scores:
    """Consecutive tokens of a text: `nats` [n], the negative log likelihood of each.

    Beside a reference also `kl` [n], the Kullback-Leibler divergence of the predictions from its in nats, and
    `same_top` [n], whether the two find the same token the likeliest; else these are empty.
    """

    nats: Floats
    kl: Floats
    same_top: npt.NDArray[np.bool_]


@dataclass
class Total:
    """Sums over the tokens of a text that were scored so far."""

    n_tokens: int = 0
    nats: float = 0.0
    kl: float = 0.0
    n_same_top: int = 0

    def add(self, scores: Scores) -> None:
        self.n_tokens += len(scores.nats)
        self.nats += float(scores.nats.sum())
        self.kl += float(scores.kl.sum())
        self.n_same_top += int(scores.same_top.sum())

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.n_tokens

    @property
    def perplexity(self) -> float:
        """Infinite where it is no float64 any more."""
        return math.exp(self.nats_per_token) if self.nats_per_token < 700 else math.inf

    def bits_per_byte(self, n_bytes: int) -> float:
        """`n_bytes`: those of the text that was scored; infinite for none."""
        return self.nats / math.log(2) / n_bytes if n_bytes else math.inf


def encode(
    tokenizer: Tokenizer,
    text: str,
    eos_ids: Sequence[int] = (),
    max_tokens: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Encoded:
    """The text behind the first of `eos_ids`, as texts begin in training, and of it at most `max_tokens` to predict.

    Where there is no such id, or the tokenizer puts a token before a text itself, the first token is what the others
    are predicted from. A long text is encoded in pieces that end before the white space behind a word, where
    tokenizers part a text themselves.
    `progress(done, total)` is told characters. Raises UsageError for a text that leaves nothing to predict.
    """
    parts: list[Ids] = []
    n_ids = n_bytes = 0
    most = sys.maxsize if max_tokens is None else max_tokens + 1
    for start, stop in _pieces(text):
        begins = n_ids == 0
        ids, ends = tokenizer.encode_with_ends(text[start:stop], begins)
        if begins and eos_ids and ids and ids[0] not in eos_ids and ends[0] > 0:
            ids, ends = [eos_ids[0], *ids], [0, *ends]
        if n_ids + len(ids) > most:
            ids = ids[: most - n_ids]
            stop = start + ends[len(ids) - 1]
        if begins and ids:
            start += ends[0]
        n_bytes += len(text[start:stop].encode())
        parts.append(np.array(ids, np.int32))
        n_ids += len(ids)
        progress(stop, len(text))
        if n_ids == most:
            break
    if n_ids < 2:
        raise UsageError(f"the text has {n_ids} tokens, expected at least 2: one to begin with, one to predict")
    return Encoded(np.concatenate(parts), n_bytes)


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    """(start, stop) of pieces of a text, each ending with a word where there is one in it."""
    start = 0
    while start < len(text):
        stop = min(start + _PIECE_CHARS, len(text))
        if stop < len(text):
            ends = (i for i in range(stop, start, -1) if text[i].isspace() and text[i - 1].isalnum())
            stop = next(ends, stop)
        yield start, stop
        start = stop


def slice_tokens(vocab_size: int, chunk: int) -> int:
    """How many tokens to score at once: whole prefill chunks, as far as memory allows."""
    n = max(1, min(PREFILL_SLICE, _SLICE_BYTES // (4 * vocab_size)))
    return n - n % chunk if n > chunk else n


def score(
    session: Scorer,
    reference: Scorer | None = None,
    *,
    ids: Ids,
    context: int = 0,
    n_slice: int = PREFILL_SLICE,
) -> Iterator[Scores]:
    """Scores ids[1:], `n_slice` at a time; `reference` reads the same beside it.

    A session that holds a `context` only (0: no limit) begins anew when it is full, with the token that comes next in
    the text: each token is predicted once, from at most `context` before it.

    Raises MossnetError where predictions are no numbers, and what the sessions raise.
    """
    n_read = len(ids) - 1
    context = context or n_read
    for window in range(0, n_read, context):
        end = min(window + context, n_read)
        for reader in filter(None, (session, reference)):
            reader.reset()
        for start in range(window, end, n_slice):
            stop = min(start + n_slice, end)
            scores = _score_slice(session, reference, ids[start : stop + 1])
            if not np.isfinite(scores.nats).all() or not np.isfinite(scores.kl).all():
                raise MossnetError(
                    f"the logits for the tokens {start + 1} to {stop} of the text hold NaN or infinity,"
                    " expected finite numbers",
                    "mossnet-tg doctor checks the kernels, mossnet-tg inspect the weights",
                )
            yield scores


def _score_slice(session: Scorer, reference: Scorer | None, ids: Ids) -> Scores:
    # A function, so that one slice's logits are gone before there are the next one's.
    logits = session.score(ids[:-1])
    return compare(logits, ids[1:], None if reference is None else reference.score(ids[:-1]))


def compare(logits: Logits, targets: Ids, reference: Logits | None = None) -> Scores:
    """Scores of `targets` [n] by the logits [n, vocab] for each of them; `reference` has the same shape."""
    n, vocab = logits.shape
    step = max(1, _BLOCK // vocab)
    parts = [
        _compare_block(
            logits[i : i + step], targets[i : i + step], None if reference is None else reference[i : i + step]
        )
        for i in range(0, n, step)
    ]
    return Scores(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("nats", "kl", "same_top")))


def _compare_block(logits: Logits, targets: Ids, reference: Logits | None) -> Scores:
    log_p = log_softmax(logits)
    nats = -log_p[np.arange(len(targets)), targets]
    if reference is None:
        return Scores(nats, np.empty(0), np.empty(0, np.bool_))
    log_q = log_softmax(reference)
    np.subtract(log_q, log_p, out=log_p)
    kl = np.einsum("nv,nv->n", np.exp(log_q, out=log_q), log_p)
    return Scores(nats, kl, logits.argmax(1) == reference.argmax(1))


def log_softmax(logits: Logits) -> Floats:
    """The logarithm of the probabilities, float64, by rows; exact to rounding for logits of any size."""
    shifted = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinite logits: NaN, which `score` refuses
        shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted
