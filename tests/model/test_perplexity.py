"""How well a text is predicted: against values by hand, against PyTorch, and against itself cut in other places."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional

from mossnet_tg import perplexity
from mossnet_tg.errors import MossnetError, UsageError
from mossnet_tg.perplexity import Scores, Total, compare, encode, log_softmax, score, slice_tokens
from mossnet_tg.tokenizer import Tokenizer
from mossnet_tg.weights.checkpoint import DEMO
from mossnet_tg.weights.reference import corpus
from tests.codegen.random_models import CHUNK, compiled, reference, tokens
from tests.held_out import held_out

VOCAB = 11


class Recurrent:
    """A session whose logits depend on every token since the last reset; it keeps what it read, and in which parts."""

    def __init__(self, seed: int = 0, bad_at: int = -1) -> None:
        self.matrix = np.random.default_rng(seed).normal(0, 3, (VOCAB, VOCAB)).astype(np.float32)
        self.texts: list[list[int]] = []
        self.parts: list[int] = []
        self.bad_at = bad_at

    def reset(self) -> None:
        self.state = np.zeros(VOCAB, np.float32)
        self.texts.append([])

    def score(self, ids: Any) -> npt.NDArray[np.float32]:
        rows = []
        for token in ids.tolist():
            self.state = np.float32(0.5) * self.state + self.matrix[token]
            self.texts[-1].append(token)
            rows.append(self.state * np.float32(math.nan if len(self.texts[-1]) == self.bad_at else 1))
        self.parts.append(len(rows))
        return np.stack(rows)


def total(*sessions: Any, **options: Any) -> Total:
    found = Total()
    for part in score(*sessions, **options):
        found.add(part)
    return found


def test_values_by_hand() -> None:
    """Probabilities of 1/2, 1/4, 1/4 beside 1/4, 1/4, 1/2: ln 2 / 4 nats away."""
    p = np.log(np.array([[2, 1, 1]], np.float32)) + np.float32(7)
    q = np.log(np.array([[1, 1, 2]], np.float32)) - np.float32(3)
    found = compare(p, np.array([1], np.int32), q)
    assert found.nats[0] == pytest.approx(math.log(4), rel=1e-6)
    assert found.kl[0] == pytest.approx(math.log(2) / 4, rel=1e-6) and not found.same_top[0]
    # 3/4, 1/4 from 1/2, 1/2; the other way round it is another number.
    p, q = np.log(np.array([[3, 1]], np.float32)), np.zeros((1, 2), np.float32)
    found = compare(p, np.array([0], np.int32), q)
    assert found.kl[0] == pytest.approx((math.log(2 / 3) + math.log(2)) / 2, rel=1e-6) and found.same_top[0]


def test_sums_by_hand() -> None:
    summed = Total()
    summed.add(Scores(np.array([math.log(2), math.log(8)]), np.array([0.25, 0.5]), np.array([True, False])))
    summed.add(Scores(np.array([math.log(4)]), np.array([0.0]), np.array([True])))
    assert (summed.n_tokens, summed.kl, summed.n_same_top) == (3, 0.75, 2)
    assert summed.perplexity == pytest.approx(4) and summed.bits_per_byte(12) == pytest.approx(0.5)
    assert summed.bits_per_byte(0) == math.inf and Total(1, 1e4).perplexity == math.inf


def test_logits_of_any_size_are_exact() -> None:
    """Where a softmax in float32 gives 0, infinity or fewer digits."""
    assert log_softmax(np.array([[3e38, -3e38]], np.float32))[0, 0] == 0
    less = -math.log1p(math.exp(-1))
    assert log_softmax(np.array([[1e4, 1e4 - 1]], np.float32))[0].tolist() == pytest.approx([less, less - 1], rel=1e-14)
    flat = np.zeros((3, 200_000), np.float32)
    found = compare(flat, np.array([0, 7, 199_999]), flat)
    assert found.nats.tolist() == pytest.approx([math.log(200_000)] * 3, rel=1e-13)
    assert found.kl.tolist() == [0, 0, 0] and found.same_top.all()


def test_rows_are_compared_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    p, q = (rng.normal(0, 3, (29, VOCAB)).astype(np.float32) for _ in range(2))
    targets = tokens(29, VOCAB)
    whole = compare(p, targets, q)
    exact = functional.cross_entropy(torch.tensor(p).double(), torch.tensor(targets).long(), reduction="none")
    assert whole.nats.tolist() == pytest.approx(exact.tolist(), rel=1e-12)
    log_p, log_q = (functional.log_softmax(torch.tensor(x).double(), 1) for x in (p, q))
    exact = functional.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)
    assert whole.kl.tolist() == pytest.approx(exact.tolist(), rel=1e-12)
    for block in (1, 3 * VOCAB, 28 * VOCAB + 1):
        monkeypatch.setattr(perplexity, "_BLOCK", block)
        cut = compare(p, targets, q)
        assert all(np.array_equal(getattr(cut, name), getattr(whole, name)) for name in ("nats", "kl", "same_top"))


@pytest.mark.parametrize("mode", ["selected", "attention"])
def test_as_pytorch_says(mode: str, tmp_path: Path) -> None:
    model, other = reference(mode), reference(mode, seed=1)
    ids = tokens(3 * CHUNK + 7)
    with torch.no_grad():
        log_p, log_q = (functional.log_softmax(m(torch.tensor(ids[None, :-1]).long())[0][0], 1) for m in (model, other))
    nats = -log_p[torch.arange(len(ids) - 1), torch.tensor(ids[1:]).long()].mean()
    kl = (log_q.exp() * (log_q - log_p)).sum(1).mean()
    with compiled(model, tmp_path / "a") as p, compiled(other, tmp_path / "b") as q:
        for n_slice in (CHUNK, 7, 1000):
            found = total(p.session(), q.session(), ids=ids, n_slice=n_slice)
            assert found.n_tokens == len(ids) - 1
            assert found.nats_per_token == pytest.approx(float(nats), rel=1e-5)
            assert found.kl / found.n_tokens == pytest.approx(float(kl), rel=1e-4)
            assert found.n_same_top == int((log_p.argmax(1) == log_q.argmax(1)).sum())


def test_slices_of_odd_sizes_give_the_same() -> None:
    ids = tokens(100, VOCAB)
    whole = total(Recurrent(0), Recurrent(1), ids=ids, n_slice=1000)
    for n_slice in (1, 2, 7, 98, 99, 100):
        p, q = Recurrent(0), Recurrent(1)
        found = total(p, q, ids=ids, n_slice=n_slice)
        assert (found.n_tokens, found.n_same_top) == (whole.n_tokens, whole.n_same_top) == (99, whole.n_same_top)
        assert found.nats == pytest.approx(whole.nats, rel=1e-13) and found.kl == pytest.approx(whole.kl, rel=1e-13)
        assert p.texts == q.texts == [ids[:-1].tolist()]
        assert max(p.parts) == min(n_slice, 99) and p.parts == q.parts


def test_a_context_that_ends_begins_anew() -> None:
    """Every token is predicted once, and no session is told more than it holds."""
    ids = tokens(100, VOCAB)
    for context, n_slice in ((10, 4), (10, 10), (33, 100), (98, 7), (99, 7), (1000, 7)):
        p, q = Recurrent(0), Recurrent(1)
        found = total(p, q, ids=ids, context=context, n_slice=n_slice)
        assert found.n_tokens == 99 and [i for t in p.texts for i in t] == ids[:-1].tolist() and p.texts == q.texts
        assert [len(t) for t in p.texts[:-1]] == [context] * (len(p.texts) - 1) and len(p.texts[-1]) <= context
        parts = [total(Recurrent(0), ids=ids[i : i + context + 1]).nats for i in range(0, 99, context)]
        assert found.nats == pytest.approx(sum(parts), rel=1e-13)


def test_attention_without_a_window_is_cut_at_its_context(tmp_path: Path) -> None:
    ids = tokens(3 * 4 * CHUNK)
    with compiled(reference("attention_to_all"), tmp_path) as model:
        context = model.info.max_context
        assert context == 4 * CHUNK
        assert total(model.session(), ids=ids, context=context, n_slice=CHUNK).n_tokens == len(ids) - 1
        with pytest.raises(UsageError, match="context"):
            total(model.session(), ids=ids)


def test_what_is_no_number_is_refused() -> None:
    ids = tokens(20, VOCAB)
    with pytest.raises(MossnetError, match="tokens 9 to 12 of the text hold NaN or infinity, expected finite") as e:
        total(Recurrent(bad_at=10), ids=ids, n_slice=4)
    assert "doctor" in str(e.value.hint)
    with pytest.raises(MossnetError, match="NaN"):
        total(Recurrent(), Recurrent(bad_at=3), ids=ids)


@pytest.mark.parametrize(("vocab", "chunk"), [(97, 16), (2048, 128), (50_280, 128), (200_000, 128), (1 << 30, 1)])
def test_slices_are_whole_chunks_and_small(vocab: int, chunk: int) -> None:
    n = slice_tokens(vocab, chunk)
    assert 1 <= n <= 512 and n % chunk == 0 and (n == 1 or 4 * n * vocab <= 100 << 20)
    assert slice_tokens(200_000, 256) == 131


# ---- text


def bpe(special: tuple[str, ...] = ("<end>",), **template: Any) -> Tokenizer:
    t = tokenizers.Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    t.train_from_iterator([TEXT], trainer)
    if template:
        t.post_processor = processors.TemplateProcessing(**template)
    return Tokenizer.from_json(t.to_str().encode())


TEXT = "the moss grows on the north side\nnaïve café 苔 🌱\n" * 40


def test_a_text_begins_behind_the_end_of_another() -> None:
    t = bpe()
    found = encode(t, TEXT, (0, 5))
    assert found.ids.tolist() == [0, *t.encode(TEXT)] and found.n_bytes == len(TEXT.encode())
    assert found.ids.dtype == np.int32
    own = encode(t, "<end>" + TEXT, (0,))
    assert own.ids.tolist() == found.ids.tolist() and own.n_bytes == found.n_bytes


def test_without_such_a_token_the_first_is_not_predicted() -> None:
    t = bpe()
    first = t.decode(t.encode(TEXT)[:1])
    found = encode(t, TEXT)
    assert found.ids.tolist() == t.encode(TEXT) and found.n_bytes == len(TEXT.encode()) - len(first.encode()) > 0


def test_a_tokenizer_may_begin_a_text_itself() -> None:
    t = bpe(("<end>", "<s>"), single="<s> $A", special_tokens=[("<s>", 1)])
    found = encode(t, TEXT, (0,))
    assert found.ids[0] == 1 and found.ids.tolist() == t.encode(TEXT) and found.n_bytes == len(TEXT.encode())


def test_a_limit_of_tokens() -> None:
    t = bpe()
    ids = t.encode(TEXT)
    for n in (1, 2, 30, len(ids) - 1, len(ids), len(ids) + 9):
        found = encode(t, TEXT, (0,), n)
        assert found.ids.tolist() == [0, *ids[:n]]
        whole = t.decode(ids[:n]).rstrip("\ufffd")  # a character of which a part is there counts
        assert TEXT.startswith(whole) and 0 <= found.n_bytes - len(whole.encode()) <= 4
    assert found.n_bytes == len(TEXT.encode())


def test_long_texts_are_encoded_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    t, told = bpe(), list[tuple[int, int]]()
    whole = encode(t, TEXT, (0,))
    monkeypatch.setattr(perplexity, "_PIECE_CHARS", 101)
    cut = encode(t, TEXT, (0,), progress=lambda done, n_chars: told.append((done, n_chars)))
    assert cut.ids.tolist() == whole.ids.tolist() and cut.n_bytes == whole.n_bytes
    assert len(told) > 5 and told[-1] == (len(TEXT), len(TEXT))
    line = "moss" * 100  # no word ends
    assert t.decode(encode(t, line, (0,)).ids[1:]) == line
    for n in (3, 60, 150):
        short = encode(t, TEXT, (), n)
        assert short.ids.tolist() == whole.ids[1 : n + 2].tolist()
        assert short.n_bytes == encode(t, TEXT[: len(t.decode(short.ids))]).n_bytes


def test_the_demos_held_out_text() -> None:
    """What tests/held_out.py writes is the stream of tokens that training measured itself by."""
    files = [text for _, text in corpus.texts(held_out=True)][::150]
    if not files:
        pytest.skip("this Python has no test packages in its standard library")
    t = Tokenizer.from_json((DEMO / "tokenizer.json").read_bytes())
    text = held_out(150)
    expected = [i for file in files for i in (0, *t.encode(file))]
    assert encode(t, text, (0,)).ids.tolist() == expected and expected.count(0) == len(files)


def test_a_text_that_leaves_nothing_to_predict() -> None:
    t = bpe()
    with pytest.raises(UsageError, match="has 1 tokens, expected at least 2"):
        encode(t, "t")
    assert len(encode(t, "t", (0,)).ids) == 2
    with pytest.raises(UsageError, match="has 0 tokens"):
        encode(Tokenizer.from_json(b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}'), "?", (0,))
