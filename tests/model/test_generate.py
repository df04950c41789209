"""The token loop, the stop strings and the sampler's settings, on a session that says what a script tells it."""

from __future__ import annotations

import codecs
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mossnet_tg import generate
from mossnet_tg.errors import UsageError
from mossnet_tg.generate import Stats, StopFilter, generate_ids, generate_text
from mossnet_tg.sampling import SamplingParams

VOCAB = 256
EOS = 0


class Script:
    """A session whose likeliest ids are those of `ids`, whatever it is told; it keeps what it was told."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = list(ids)
        self.told: list[int | list[int]] = []

    def _logits(self) -> NDArray[np.float32]:
        n_decoded = sum(isinstance(t, int) for t in self.told)
        logits = np.zeros(VOCAB, np.float32)
        logits[self.ids[n_decoded] if n_decoded < len(self.ids) else EOS] = 1
        return logits

    def prefill(self, ids: Sequence[int]) -> NDArray[np.float32]:
        self.told.append(list(ids))
        return self._logits()

    def decode(self, token: int) -> NDArray[np.float32]:
        self.told.append(token)
        return self._logits()


class Greedy:
    def __init__(self) -> None:
        self.accepted: list[int] = []

    def accept(self, token: int) -> None:
        self.accepted.append(token)

    def pick(self, logits: NDArray[np.float32]) -> int:
        return int(logits.argmax())


class Bytes:
    """A tokenizer whose ids are bytes."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def stream(self) -> Bytes:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        return self

    def push(self, token: int) -> str:
        return self._utf8.decode(bytes([token]))

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


def ids(script: Script, prompt: Sequence[int] = (1,), **keys: Any) -> list[int]:
    return list(generate_ids(script, Greedy(), prompt, **keys))


def pieces(output: str | bytes, prompt: str | Sequence[int] = "x", **keys: Any) -> list[str]:
    content = output.encode() if isinstance(output, str) else output
    keys = {"eos_ids": [EOS], **keys}
    return list(generate_text(Script(content), Greedy(), Bytes(), prompt, **keys))


# ---- Ids ----


def test_the_loop() -> None:
    session, sampler, stats = Script([5, 6, 7]), Greedy(), Stats()
    out = list(generate_ids(session, sampler, [1, 2, 3], eos_ids=[9, EOS], max_tokens=10, stats=stats))
    assert out == [5, 6, 7]
    assert session.told == [[1, 2, 3], 5, 6, 7]
    assert sampler.accepted == [1, 2, 3, 5, 6, 7, EOS]
    assert (stats.n_prompt, stats.n_generated, stats.n_decoded, stats.stop_reason) == (3, 3, 3, "eos")


def test_max_tokens_spares_the_step_that_nobody_needs() -> None:
    session, stats = Script([5, 6, 7]), Stats()
    assert list(generate_ids(session, Greedy(), [1], max_tokens=2, stats=stats)) == [5, 6]
    assert session.told == [[1], 5]
    assert (stats.n_generated, stats.n_decoded, stats.stop_reason) == (2, 1, "max_tokens")
    session, stats = Script([5]), Stats()
    assert list(generate_ids(session, Greedy(), [1], max_tokens=0, stats=stats)) == []
    assert session.told == [[1]] and stats.stop_reason == "max_tokens"


def test_without_an_end_it_goes_on() -> None:
    it = generate_ids(Script([5] * 1000), Greedy(), [1])
    assert [next(it) for _ in range(700)] == [5] * 700


def test_an_end_at_once_and_an_end_at_the_limit() -> None:
    stats = Stats()
    assert list(generate_ids(Script([EOS]), Greedy(), [1], eos_ids=[EOS], stats=stats)) == []
    assert (stats.stop_reason, stats.n_generated, stats.n_decoded) == ("eos", 0, 0)
    assert stats.first_token_s > 0 and stats.decode_s == 0
    stats = Stats()
    list(generate_ids(Script([5, EOS]), Greedy(), [1], eos_ids=[EOS], max_tokens=1, stats=stats))
    assert stats.stop_reason == "max_tokens"


@pytest.mark.parametrize("n", [1, 511, 512, 513, 1300])
def test_a_long_prompt_goes_in_slices(n: int) -> None:
    session, seen, stats = Script([5]), [], Stats()
    prompt = [i % 250 for i in range(n)]
    it = generate_ids(session, Greedy(), prompt, max_tokens=1, stats=stats, progress=lambda *p: seen.append(p))
    assert list(it) == [5]
    assert [t for part in session.told for t in (part if isinstance(part, list) else [])] == prompt
    assert all(isinstance(part, list) and 0 < len(part) <= generate.PREFILL_SLICE for part in session.told)
    assert [p[0] for p in seen] == [min(n, 512 * (i + 1)) for i in range(len(seen))]
    assert seen[-1] == (n, n) and len(seen) == -(-n // 512) and stats.n_prompt == n


def test_interrupting_a_long_prompt() -> None:
    def interrupt(done: int, total: int) -> None:
        if done >= 1024:
            raise KeyboardInterrupt

    session, stats = Script([5]), Stats()
    with pytest.raises(KeyboardInterrupt):
        list(generate_ids(session, Greedy(), [1] * 5000, stats=stats, progress=interrupt))
    assert len(session.told) == 2 and stats.n_prompt == 1024 and stats.stop_reason is None


def test_an_empty_prompt_begins_with_the_end_of_text() -> None:
    session = Script([5])
    assert ids(session, [], eos_ids=[9, EOS], max_tokens=1) == [5] and session.told == [[9]]
    session = Script(b"ab")
    assert "".join(generate_text(session, Greedy(), Bytes(), "", eos_ids=[EOS])) == "ab" and session.told[0] == [EOS]
    with pytest.raises(UsageError, match="the prompt is empty") as e:
        generate_ids(Script([5]), Greedy(), [])
    assert e.value.hint == "give a prompt"


def test_usage_errors_come_at_the_call() -> None:
    with pytest.raises(UsageError, match="max_tokens is -1, expected an integer from 0 on"):
        generate_ids(Script([]), Greedy(), [1], max_tokens=-1)
    with pytest.raises(UsageError, match="a stop string is empty"):
        generate_text(Script([]), Greedy(), Bytes(), "x", stop=["a", ""])


def test_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that stands still but for the device: each second is counted once, the reader's time nowhere."""
    now = 0.0

    class Slow(Script):
        def prefill(self, ids: Sequence[int]) -> NDArray[np.float32]:
            nonlocal now
            now += 10
            return super().prefill(ids)

        def decode(self, token: int) -> NDArray[np.float32]:
            nonlocal now
            now += 1
            return super().decode(token)

    def read(done: int, total: int) -> None:
        nonlocal now
        now += 500

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    stats = Stats()
    for _ in generate_ids(Slow([5, 6, 7]), Greedy(), [1] * 600, eos_ids=[EOS], stats=stats, progress=read):
        now += 100
    assert (stats.prefill_s, stats.decode_s, stats.first_token_s) == (20, 3, 1020)
    assert (stats.prefill_per_s, stats.decode_per_s) == (30, 1)
    assert (Stats().prefill_per_s, Stats().decode_per_s) == (0, 0)


# ---- Text ----


def test_text_streams_whole_characters() -> None:
    assert pieces("aé🌱b") == ["a", "é", "🌱", "b"]
    assert pieces(b"a\xf0\x9fb\xe2\x82") == ["a", "\ufffdb", "\ufffd"]
    assert pieces("abc", prompt=[1, 2]) == ["a", "b", "c"]
    assert pieces("") == []


@pytest.mark.parametrize(
    ("output", "stop", "text", "reason"),
    [
        ("hello world", ["wor"], "hello ", "stop"),
        ("hello world", ["xyz"], "hello world", "eos"),
        ("hello", ["hello"], "", "stop"),
        ("hell", ["hello"], "hell", "eos"),
        ("aaab", ["aab"], "a", "stop"),  # the match begins inside an earlier partial match
        ("ababac", ["abac"], "ab", "stop"),
        ("abcd", ["bc", "abcd"], "a", "stop"),  # "bc" is complete first
        ("abc", ["bc", "abc", "c"], "", "stop"),  # complete at once: from the longest on
        ("xéy🌱z", ["🌱"], "xéy", "stop"),
        ("one\n\ntwo", ["\n\n"], "one", "stop"),
        ("stop", ["s"], "", "stop"),
        ("ab", [], "ab", "eos"),
    ],
)
def test_stop_strings(output: str, stop: list[str], text: str, reason: str) -> None:
    stats = Stats()
    assert "".join(pieces(output, stop=stop, stats=stats)) == text
    assert stats.stop_reason == reason


def test_a_stop_ends_the_work_too() -> None:
    session, stats = Script(b"abSTOPcdef"), Stats()
    it = generate_text(session, Greedy(), Bytes(), "x", stop=["STOP"], stats=stats)
    assert list(it) == ["a", "b"]
    assert len(session.told) == 6 and stats.n_generated == 6


def test_partial_matches_are_held_until_decided() -> None:
    it = generate_text(Script(b"aSTxSTO"), Greedy(), Bytes(), "x", eos_ids=[EOS], stop=["STOP"])
    assert list(it) == ["a", "STx", "STO"]


def test_a_stop_string_of_the_replacement_character_at_the_end() -> None:
    stats = Stats()
    assert pieces(b"ab\xe2\x82", stop=["b\ufffd"], stats=stats) == ["a"] and stats.stop_reason == "stop"


def test_max_tokens_gives_out_what_was_held() -> None:
    assert pieces("abST", stop=["STOP"], max_tokens=4) == ["a", "b", "ST"]
    assert pieces("aé", max_tokens=2) == ["a", "\ufffd"]


def stopped_by_definition(text: str, stops: Sequence[str]) -> str:
    """Letter by letter: at the first place where a stop string is complete, cut the longest that is."""
    for end in range(1, len(text) + 1):
        if ending := [s for s in stops if text[:end].endswith(s)]:
            return text[: end - max(map(len, ending))]
    return text


def test_stop_strings_wherever_the_pieces_are_cut() -> None:
    rng = random.Random(4)

    def word(low: int, high: int) -> str:
        return "".join(rng.choice("ab") for _ in range(rng.randrange(low, high)))

    for _ in range(20000):
        text, stops = word(0, 14), [word(1, 6) for _ in range(rng.randrange(4))]
        f = StopFilter(stops)
        out, shown = "", 0
        for piece in cut(rng, text):
            out += f.push(piece)
            shown += len(piece)
            if not f.stopped:  # nothing is held that cannot become a stop string
                held = text[len(out) : shown]
                assert held == "" or any(s.startswith(held) and s != held for s in stops)
        assert out + f.flush() == stopped_by_definition(text, stops)
        assert f.stopped == (stopped_by_definition(text, stops) != text)
        assert not f.stopped or f.push("a") == f.flush() == ""


def cut(rng: random.Random, text: str) -> Iterator[str]:
    while text:
        n = rng.randrange(1, 5)
        yield text[:n]
        text = text[n:]


# ---- The sampler's settings ----


def test_defaults_are_greedy() -> None:
    assert SamplingParams().greedy and not SamplingParams(temperature=0.5).greedy
    assert SamplingParams() == SamplingParams(
        temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0, repetition_window=64, seed=0
    )


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("temperature", -0.1, "from 0"),
        ("temperature", float("nan"), "from 0"),
        ("temperature", float("inf"), "from 0"),
        ("temperature", "1", "a number"),
        ("temperature", True, "a number"),
        ("top_k", -1, "from 0"),
        ("top_k", 1.0, "an integer"),
        ("top_k", 1 << 31, "2^31 - 1"),
        ("top_p", 0, "from 1e-6 to 1"),
        ("top_p", 1.01, "from 1e-6 to 1"),
        ("min_p", 1.5, "from 0 (all) to 1"),
        ("repetition_penalty", 0.0, "from 1e-6"),
        ("repetition_window", -5, "from 0"),
        ("repetition_window", (1 << 20) + 1, "2^20"),
        ("seed", -1, "from 0"),
        ("seed", 1 << 64, "2^64 - 1"),
        ("seed", None, "an integer"),
    ],
)
def test_settings_out_of_range(name: str, value: Any, expected: str) -> None:
    with pytest.raises(UsageError) as e:
        SamplingParams(**{name: value})
    assert f"{name} is {value!r}, expected" in str(e.value) and expected in str(e.value)


def test_settings_at_their_limits() -> None:
    SamplingParams(temperature=1, top_k=(1 << 31) - 1, top_p=1, min_p=1, repetition_window=1 << 20, seed=(1 << 64) - 1)
