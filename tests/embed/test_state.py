"""A session's state as a prompt cache: it moves between targets and sessions, and does not grow."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mossnet_tg import Model
from mossnet_tg.engine import CompiledModel, Session
from mossnet_tg.errors import ArtifactError
from tests.devices import ROWS, Row

PROMPT = "class Stack:\n    def push(self, item):\n"
N_FORKS, N_LONG = 100, 100_000


@pytest.fixture(scope="module")
def demo() -> Model:
    return Model.load(n_threads=1)


def greedy(session: Session, logits: np.ndarray, n: int) -> list[int]:
    ids = []
    for _ in range(n):
        ids.append(int(logits.argmax()))
        logits = session.decode(ids[-1])
    return ids


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_saved_here_restored_there(demo: Model, row: Row) -> None:
    """Half of a text on the processor, the other half on a device; and the other way round."""
    row.require()
    there = Model.load(target=row.target, device=row.device, n_threads=1)
    ids = demo.tokenizer.encode(PROMPT)
    with demo.session() as here:
        expected = greedy(here, here.prefill(ids), 40)
    for first, second in ((demo, there), (there, demo)):
        with first.session() as begun, second.session() as gone_on:
            half = greedy(begun, begun.prefill(ids), 20)
            # Logits are no state: the last token is left out, and read there.
            begun.reset()
            begun.prefill([*ids, *half[:-1]])
            gone_on.restore(begun.save())
            assert gone_on.position == len(ids) + 19
            assert half + greedy(gone_on, gone_on.decode(half[-1]), 20) == expected


def test_a_hundred_forks_of_one_prompt(demo: Model) -> None:
    """Each says what a session says that has read its whole text itself, bit for bit."""
    ids = demo.tokenizer.encode(PROMPT)
    with demo.session() as root, demo.session() as whole:
        root.prefill(ids)
        forks = [root.fork() for _ in range(N_FORKS)]
        for i, fork in enumerate(forks):
            own = [100 + i, 7 * i % 2048]
            found = [np.array(fork.decode(token)) for token in own]
            whole.reset()
            whole.prefill(ids)
            assert all(np.array_equal(a, whole.decode(token)) for a, token in zip(found, own, strict=True))
        for fork in forks:
            assert fork.position == len(ids) + 2
            fork.close()
        assert root.position == len(ids)


def test_a_state_of_something_else_is_refused(demo: Model, tmp_path: Path) -> None:
    with demo.session() as session:
        session.prefill([1, 2, 3])
        state = session.save()
        for offset, text in (
            (0, "no saved state"),
            (8, "version"),
            (16, "another model"),
            (48, "compiled in another way"),
        ):
            damaged = bytearray(state)
            damaged[offset] ^= 1
            with pytest.raises(ArtifactError, match=text):
                session.restore(bytes(damaged))
        with pytest.raises(ArtifactError, match="cut short"):
            session.restore(state[:-1])
        assert session.position == 3


def private_kib() -> int:
    """The memory of this process that no file backs."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(n) for n in re.findall(r"^Anonymous:\s+(\d+) kB", text, re.MULTILINE))


def test_a_long_context_takes_no_more(demo: Model) -> None:
    """100,000 tokens: the state, what a session takes and the process are as large as with an empty context."""
    assert isinstance(demo.engine, CompiledModel)
    n_bytes = demo.engine.library.call("session_bytes", demo.engine.pointer)
    with demo.session() as session:
        session.prefill(np.ones(1024, np.int32))
        state, before = len(session.save()), private_kib()
        piece = np.arange(1000, dtype=np.int32) % 2048
        while session.position < N_LONG:
            session.prefill(piece)
        assert private_kib() < before + 1024  # 100,000 tokens of a cache would be a hundred times that
        assert len(session.save()) == state
        assert demo.engine.library.call("session_bytes", demo.engine.pointer) == n_bytes
        assert np.isfinite(session.decode(1)).all()
    assert state < 2 << 20
