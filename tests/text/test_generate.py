"""A text in, its continuation out: the loop in C against the one in Python."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from mossnet_tg import Model
from mossnet_tg.engine import CompiledModel, Session
from mossnet_tg.errors import CancelledError, UsageError
from mossnet_tg.sampling import SamplingParams

PROMPT = "def fibonacci(n):"


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.load()


@pytest.fixture
def session(model: Model) -> Iterator[Session]:
    assert isinstance(model.engine, CompiledModel)
    with model.engine.session(1) as made:
        yield made


class Sink:
    """Takes pieces; stops after so many tokens."""

    def __init__(self, stop_after: int = 1 << 30) -> None:
        self.pieces: list[str] = []
        self.ids: list[int] = []
        self.stop_after = stop_after

    def __call__(self, text: str, token: int) -> bool:
        self.pieces.append(text)
        self.ids.append(token)
        return len(self.ids) >= self.stop_after

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@pytest.mark.parametrize(
    "params",
    [None, SamplingParams(temperature=0.9, top_p=0.9, repetition_penalty=1.2, repetition_window=32, seed=5)],
    ids=["greedy", "sampled"],
)
@pytest.mark.parametrize("prompt", [PROMPT, "", "na\u00efve \U0001f642 \u4f60\u597d"])
def test_it_says_what_python_says(model: Model, session: Session, params: SamplingParams | None, prompt: str) -> None:
    expected = "".join(model.generate(prompt, max_tokens=40, sampling=params))
    sink = Sink()
    sampler = model.engine.sampler(params) if params else None
    done = session.generate(prompt, sink, max_tokens=40, sampler=sampler)
    assert sink.text == expected and (done.n_tokens, done.ending) == (40, "max_tokens")
    ids = model.tokenizer.encode(prompt) or [model.eos_ids[0]]
    assert done.n_prompt == len(ids) and session.position == len(ids) + 40
    assert len([i for i in sink.ids if i >= 0]) == 40


def test_another_call_goes_on_behind_it(model: Model, session: Session) -> None:
    """In two calls as in one, where the second prompt is none of the first's."""
    first, second = Sink(), Sink()
    session.generate(PROMPT, first, max_tokens=7)
    done = session.generate(" x", second, max_tokens=9)
    with model.engine.session(1) as whole:
        ids = [*model.tokenizer.encode(PROMPT), *(i for i in first.ids if i >= 0), *model.tokenizer.encode(" x")]
        logits = whole.prefill(ids)
        expected = []
        for _ in range(9):
            expected.append(int(logits.argmax()))
            logits = whole.decode(expected[-1])
    assert [i for i in second.ids if i >= 0] == expected and done.n_prompt == len(model.tokenizer.encode(" x"))


def test_the_end_of_a_text(model: Model, session: Session) -> None:
    """A sampler that has seen the end of text before everything else is likely picks it at once."""
    eos, n = model.eos_ids[0], 0
    for seed in range(60):
        session.reset()
        sampler = model.engine.sampler(SamplingParams(temperature=3.0, seed=seed))
        sink = Sink()
        done = session.generate(PROMPT, sink, max_tokens=60, sampler=sampler)
        if done.ending == "eos":
            n += 1
            assert eos not in sink.ids and done.n_tokens == len([i for i in sink.ids if i >= 0]) < 60
    assert n


def test_it_is_stopped(session: Session) -> None:
    sink = Sink(stop_after=5)
    done = session.generate(PROMPT, sink)
    assert (done.n_tokens, done.ending, len(sink.ids)) == (5, "stop", 5)


def test_what_the_callback_raises(session: Session) -> None:
    def fails(text: str, token: int) -> bool:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        session.generate(PROMPT, fails)
    session.decode(1)  # it is free, and goes on


def test_cancelled(session: Session) -> None:
    seen = threading.Event()
    sink = Sink()

    def told(text: str, token: int) -> bool:
        seen.set()
        return sink(text, token)

    def cancel() -> None:
        seen.wait(10)
        session.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    started = time.monotonic()
    with pytest.raises(CancelledError, match="cancelled at position"):
        session.generate(PROMPT, told)
    thread.join()
    assert sink.ids and time.monotonic() - started < 10


def test_a_call_within_the_callback_is_refused(session: Session) -> None:
    """The session is busy; another one is not."""

    def nested(text: str, token: int) -> bool:
        session.decode(1)
        return False

    with pytest.raises(UsageError, match="in a call already"):
        session.generate(PROMPT, nested)
