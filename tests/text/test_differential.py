"""Text to ids and back in C against the `tokenizers` library: the same ids, the same text.

MOSSNET_TEXTS says how many random texts each tokenizer gets, 400 unless it is set.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from mossnet_tg.engine import CompiledModel
from mossnet_tg.tokenizer import Tokenizer
from tests.text.kinds import END, KINDS, MIXED, library_sources, model_of, tokenizer_json

N_TEXTS = int(os.environ.get("MOSSNET_TEXTS", "400"))
SCALARS = [chr(c) for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]
MARKS = [c for c in SCALARS if unicodedata.combining(c)]
COMPOSED = [c for c in SCALARS if unicodedata.decomposition(c) and not unicodedata.decomposition(c).startswith("<")]
# Letters and marks that go together, and marks that get between them.
LETTERS = sorted({unicodedata.normalize("NFD", c)[0] for c in COMPOSED if ord(c) < 0x2000})
COMPOSING = sorted({unicodedata.normalize("NFD", c)[-1] for c in COMPOSED if ord(c) < 0x2000})
EMOJI = ["👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪", "🙂", "\ufe0f", "\u200d"]
PIECES = [
    END, "<|endof", "<|padding|>", "<|begin_of_text|>", "<|reserved_special_token_12|>", "<|reserved_special_token_1",
    "<l>", "<r>", "<b>", "<bb>", "e\u0301\u0301", "\u212b", "don't", "WE'LL", "'ſ", "12345", "١٢٣", "\r\n", " \t ",
    "   ", "\u00a0", "\u3000", "\u2028", "\x00", "\x1f", "\x85", " overflow", "qzqz", " übermut", "Übergröße", "苔は",
]  # fmt: skip


@dataclass
class Pair:
    """A tokenizer in C and the same in the library."""

    ours: CompiledModel
    theirs: Tokenizer

    def check(self, text: str) -> None:
        assert self.ours.encode(text).tolist() == self.theirs.encode(text), ascii(text[:300])


@pytest.fixture(scope="module", params=["demo", *KINDS])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with model_of(request.param, tmp_path_factory.mktemp("text")) as model:
        yield Pair(model, Tokenizer.from_json(tokenizer_json(request.param)))


def random_text(rng: random.Random) -> str:
    """Something of everything that tokenizers treat in different ways."""
    sources: list[Callable[[], str]] = [
        lambda: rng.choice(SCALARS),
        lambda: rng.choice(SCALARS[: rng.choice((0x80, 0x250, 0x3000, 0x10000))]),
        lambda: rng.choice(MARKS),
        lambda: rng.choice(COMPOSED),
        lambda: unicodedata.normalize("NFD", rng.choice(COMPOSED)),
        lambda: rng.choice(EMOJI),
        lambda: rng.choice(PIECES),
        lambda: rng.choice(" \t\n\r") * rng.randrange(1, 40),
        lambda: chr(rng.randrange(0x1100, 0x1200)),
        lambda: rng.choice(MIXED.split(" ")),
    ]
    favoured = rng.sample(sources, rng.randrange(1, 5))
    return "".join(rng.choice(favoured)() for _ in range(rng.randrange(60)))


def test_sources(pair: Pair) -> None:
    for path in library_sources(400)[12 : 12 + max(4, N_TEXTS // 100)]:
        pair.check(path.read_text(errors="replace"))
    pair.check(MIXED * 20)
    pair.check("")


def test_random_texts(pair: Pair) -> None:
    rng = random.Random(11)
    for _ in range(N_TEXTS):
        pair.check(random_text(rng))


def test_every_character(pair: Pair) -> None:
    size = 2048
    for between in ("", "a", " ", "\u0301", "1 ") if N_TEXTS > 400 else ("",):
        for start in range(0, len(SCALARS), size):
            pair.check(between.join(SCALARS[start : start + size]))


def test_marks_in_every_order(pair: Pair) -> None:
    rng = random.Random(5)
    for _ in range(N_TEXTS):
        marks = rng.choice((MARKS, COMPOSING, [*COMPOSING, "\u0310", "\u0353"], COMPOSING[:6]))
        bases = rng.choice((COMPOSED, LETTERS, "aeiou", [""]))
        runs = [(rng.choice(bases), *rng.choices(marks, k=rng.randrange(7))) for _ in range(4)]
        pair.check("".join(c for run in runs for c in run))


def test_bytes_that_are_no_text(pair: Pair) -> None:
    """Cut, doubled and changed bytes: as Python reads them with errors="replace"."""
    rng = random.Random(6)
    leads = [0x61, 0x80, 0xBF, 0xC0, 0xC3, 0xE0, 0xE2, 0xED, 0xF0, 0xF4, 0xF5, 0xFF, 0xA0, 0x9F, 0x90]
    for _ in range(N_TEXTS):
        data = bytearray(random_text(rng).encode()[: rng.randrange(200)])
        for _ in range(rng.randrange(6)):
            data.insert(rng.randrange(len(data) + 1), rng.choice(leads))
        expected = pair.theirs.encode(bytes(data).decode("utf-8", "replace"))
        assert pair.ours.encode(bytes(data)).tolist() == expected, bytes(data)


def test_any_ids_decode_alike(pair: Pair) -> None:
    """Random ids, also beyond the vocabulary: all pieces together are the library's text, and none comes later than
    Python's (it waits for a third byte behind ED A0, which can begin nothing)."""
    rng = random.Random(7)
    ours = pair.ours.decoder()
    n = pair.theirs.n_tokens
    for _ in range(N_TEXTS):
        top = rng.choice((n + 5, min(n, 270)))
        ids = [rng.randrange(top) for _ in range(rng.randrange(14))]
        theirs = pair.theirs.stream()
        pieces = [*map(ours.push, ids), ours.flush()]
        so_far = ("", "")
        for piece, other in zip(pieces, [*map(theirs.push, ids), theirs.flush()], strict=True):
            so_far = so_far[0] + piece, so_far[1] + other
            assert so_far[0].startswith(so_far[1]), ids
        assert "".join(pieces) == pair.theirs.decode(ids), ids
    assert [ours.push(i) for i in (-1, 1 << 30, -(1 << 31))] == ["", "", ""]


def test_long_runs(pair: Pair) -> None:
    for run in (" ", "a", "\n", "1", "é", "\u0301", "\u0323\u0301", "<", "<r> ", "\u1100\u1161"):
        pair.check(run * 3000)


@pytest.mark.parametrize("run", [" ", "a", "ab", "\n", "\u0301", "\u0323\u0301", "e\u0301", "<r> ", "<", "\xff"])
def test_time_grows_with_the_length(pair: Pair, run: str) -> None:
    """A quadratic step would take 100 times as long for 10 times the text."""

    def seconds(n: int) -> float:
        content = run.encode("latin-1") * n if run == "\xff" else run.encode() * n
        started = time.process_time()
        pair.ours.encode(content)
        return time.process_time() - started

    short = max(min(seconds(20_000) for _ in range(2)), 2e-3)
    assert min(seconds(200_000) for _ in range(2)) < 50 * short


def test_threads_share_a_model(pair: Pair) -> None:
    texts = [random_text(random.Random(i)) * 5 for i in range(24)]
    expected = [pair.theirs.encode(t) for t in texts]
    found: list[list[list[int]]] = []
    threads = [
        threading.Thread(target=lambda: found.append([pair.ours.encode(t).tolist() for t in texts])) for _ in "abcd"
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == [expected] * 4
