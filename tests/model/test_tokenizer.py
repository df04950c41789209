"""The tokenizer, and its streaming decoder against the library's decoding of the whole."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from mossnet_tg.errors import MossnetError
from mossnet_tg.tokenizer import Tokenizer, TokenizerError

TEXT = (
    "The moss grows on the north side. Übergrößenträger, naïve café; 苔はゆっくり育つ。 🙂🌱👩‍👩‍👧 don't\n\n\tin  1\n"
    * 3
)
ADDED = ["<|endoftext|>", "  ", "   ", "⟨ü⟩"]  # GPT-NeoX has runs of spaces as added tokens: not in the byte alphabet


@cache
def byte_level_json() -> bytes:
    t = tokenizers.Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    t.train_from_iterator(
        [TEXT],
        trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=ADDED, show_progress=False),
    )
    return t.to_str().encode()


def sentence_piece_json(*, strip: bool) -> bytes:
    """A Llama-like tokenizer: pieces with U+2581 for the space, and 256 byte tokens."""
    pieces = [
        "<unk>",
        "<s>",
        *(f"<0x{b:02X}>" for b in range(256)),
        "▁",
        "▁the",
        "▁a",
        "moss",
        "é",
        "🌱",
        " ",
        "<0x4",
        "▁▁",
    ]
    t = tokenizers.Tokenizer(
        models.BPE({p: i for i, p in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True)
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    t.decoder = decoders.Sequence(steps if strip else steps[:3])
    return t.to_str().encode()


def word_piece_json() -> bytes:
    t = tokenizers.Tokenizer(
        models.WordPiece({w: i for i, w in enumerate(["[UNK]", "do", "not", "n't", "##ing", ".", "we"])})
    )
    t.decoder = decoders.WordPiece()
    return t.to_str().encode()


def without_decoder_json() -> bytes:
    t = tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1, "<unk>": 2}, unk_token="<unk>"))
    return t.to_str().encode()


KINDS: dict[str, Callable[[], bytes]] = {
    "byte level": byte_level_json,
    "byte fallback": lambda: sentence_piece_json(strip=True),
    "byte fallback without strip": lambda: sentence_piece_json(strip=False),
    "word piece": word_piece_json,
    "no decoder": without_decoder_json,
}


def streamed(t: Tokenizer, ids: list[int]) -> list[str]:
    s = t.stream()
    return [*map(s.push, ids), s.flush()]


def test_text_survives() -> None:
    t = Tokenizer.from_json(byte_level_json())
    ids = t.encode(TEXT)
    assert t.decode(ids) == TEXT and "".join(streamed(t, ids)) == TEXT
    assert t.n_tokens == len(json.loads(byte_level_json())["model"]["vocab"]) > max(ids)
    assert t.encode("") == [] and t.decode([]) == ""


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_are_the_whole(kind: str) -> None:
    """Random ids, most of them no valid UTF-8, some beyond the vocabulary; from all ids and from the byte tokens."""
    t = Tokenizer.from_json(KINDS[kind]())
    rng = random.Random(kind)
    for _ in range(4000):
        top = rng.choice((t.n_tokens + 5, min(t.n_tokens, 270)))
        ids = [rng.randrange(top) for _ in range(rng.randrange(14))]
        assert "".join(streamed(t, ids)) == t.decode(ids), ids


@pytest.mark.parametrize("kind", ["byte level", "byte fallback"])
def test_pieces_of_cut_characters(kind: str) -> None:
    """Every order of lead, continuation and plain bytes up to four: where decoders differ about U+FFFD."""
    t = Tokenizer.from_json(KINDS[kind]())
    of_byte = byte_ids(bytes(range(256))) if kind == "byte level" else range(2, 258)
    interesting = [0x61, 0x80, 0xBF, 0xC3, 0xE0, 0xE2, 0xED, 0xF0, 0xF4, 0xFF, 0xC0, 0xA0]
    rng = random.Random(1)
    for _ in range(6000):
        ids = [of_byte[rng.choice(interesting)] for _ in range(rng.randrange(1, 6))]
        assert "".join(streamed(t, ids)) == t.decode(ids), ids


def id_of(content: bytes, token: str) -> int:
    """The id of a token of a tokenizer.json, as the library has it."""
    found = tokenizers.Tokenizer.from_str(content.decode()).token_to_id(token)
    assert found is not None
    return found


def byte_ids(content: bytes) -> list[int]:
    """The byte-level ids of some bytes, one token each."""
    chars = dict(zip(*byte_alphabet(), strict=True))
    return [id_of(byte_level_json(), chars[b]) for b in content]


def byte_alphabet() -> tuple[list[int], list[str]]:
    """The byte-level alphabet as GPT-2 publishes it, written apart from ours."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    values, chars = shown[:], shown[:]
    for b in range(256):
        if b not in shown:
            chars.append(256 + len(values) - len(shown))
            values.append(b)
    return values, [chr(c) for c in chars]


def test_a_character_comes_whole_and_at_once() -> None:
    t = Tokenizer.from_json(byte_level_json())
    ids = byte_ids("a🌱b".encode())
    assert streamed(t, ids) == ["a", "", "", "", "🌱", "b", ""]
    assert streamed(t, ids[:3]) == ["a", "", "", "\ufffd"]
    assert streamed(t, [ids[1], ids[0]]) == ["", "\ufffda", ""]


def test_byte_runs_wait_and_the_first_space_goes() -> None:
    content = sentence_piece_json(strip=True)
    ids = [id_of(content, c) for c in ("▁the", "<0xC3>", "<0xA9>", "▁a", "<0x41>", "<0xFF>", "moss")]
    assert streamed(Tokenizer.from_json(content), ids) == ["the", "", "", "é a", "", "", "\ufffd\ufffdmoss", ""]


def test_a_flushed_stream_begins_anew() -> None:
    for kind in KINDS.values():
        t = Tokenizer.from_json(kind())
        s = t.stream()
        for _ in range(2):
            ids = list(range(t.n_tokens))[-9:]  # begins with spaces in the one that strips them
            assert "".join(map(s.push, ids)) + s.flush() == t.decode(ids)


def test_special_tokens_are_shown_and_found() -> None:
    t = Tokenizer.from_json(byte_level_json())
    assert t.encode("a<|endoftext|>") == [t.encode("a")[0], 0]
    assert t.decode([0]) == "<|endoftext|>" and streamed(t, [0])[0] == "<|endoftext|>"


def test_training_settings_do_not_cut_or_pad_a_prompt() -> None:
    found: dict[str, Any] = json.loads(byte_level_json())
    found["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    found["padding"] = {"strategy": {"Fixed": 900}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                        "pad_type_id": 0, "pad_token": "<|endoftext|>"}  # fmt: skip
    plain = Tokenizer.from_json(byte_level_json())
    assert Tokenizer.from_json(json.dumps(found).encode()).encode(TEXT) == plain.encode(TEXT)


def test_half_surrogates_of_a_command_line() -> None:
    t = Tokenizer.from_json(byte_level_json())
    assert t.decode(t.encode("a\udcffb")) == "a?b"


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"\xff", b'{"model": {"type": "BPE"}}', b"[" * 100000])
def test_what_is_no_tokenizer(content: bytes) -> None:
    with pytest.raises(TokenizerError, match=r"^some/tokenizer\.json: not a tokenizer: "):
        Tokenizer.from_json(content, "some/tokenizer.json")


def test_damaged_files_raise_only_our_errors() -> None:
    rng = random.Random(9)
    good = [kind() for kind in KINDS.values()]
    n_read = 0
    for _ in range(1500):
        mutant = bytearray(rng.choice(good))
        for _ in range(rng.choice((1, 1, 3))):
            i = rng.randrange(len(mutant))
            mutant[i : i + rng.choice((0, 1, 4, 30))] = rng.choice(
                (b"9", b"null", b"{}", b"-1", b'"', b"\xff", b"[]", b"a")
            )
        try:
            t = Tokenizer.from_json(bytes(mutant))
        except MossnetError:
            continue
        n_read += 1
        assert "".join(streamed(t, [1, 2, 1])) == t.decode([1, 2, 1])
    assert n_read > 20


def test_the_time_of_a_long_prompt_grows_with_its_length() -> None:
    """A library that is quadratic in the length of a line would take 100 times as long for 10 times the text."""
    t = Tokenizer.from_json(byte_level_json())

    def seconds(text: str) -> float:
        started = time.process_time()
        assert len(t.encode(text)) > 1000
        return time.process_time() - started

    for line in ("a", TEXT.replace("\n", " ")):
        n = 100_000 // len(line)
        short = max(seconds(line * n) for _ in range(2))
        assert seconds(line * 10 * n) < 50 * short


def test_the_library_is_imported_late() -> None:
    code = "import sys, mossnet_tg.tokenizer, mossnet_tg.generate; print({'tokenizers', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
