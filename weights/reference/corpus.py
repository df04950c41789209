"""The demo's text and tokenizer: the Python standard library that the running interpreter ships with.

Training text is the library without its test packages; held-out text is the test packages. The licence is CPython's
(PSF licence version 2).
"""

from __future__ import annotations

import fnmatch
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT = "<|endoftext|>"  # token 0, before each file
_HELD_OUT_FOLDERS = {"test", "tests", "idle_test"}
# Not Python that a person wrote: tables, a manual as one string, and the build's settings (which hold local paths).
_SKIPPED = (
    "site-packages/*",
    "dist-packages/*",
    "pydoc_data/topics.py",
    "html/entities.py",
    "msilib/schema.py",
    "stringprep.py",
    "_sysconfigdata*.py",
    "config-*/*",
)
_CHARMAP = "decoding_table = ("  # most of encodings/ is such tables of 256 lines


def texts(held_out: bool) -> Iterator[tuple[str, str]]:
    """(path below the library, text) of every file of one half, in the order of the paths."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if any(fnmatch.fnmatch(name, pattern) for pattern in _SKIPPED):
            continue
        if held_out != (not _HELD_OUT_FOLDERS.isdisjoint(name.split("/")[:-1])):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # some tests are in other encodings on purpose
        if text.strip() and _CHARMAP not in text:
            yield name, text


def train_tokenizer(vocab_size: int) -> Tokenizer:
    """A byte-level BPE of the training text: every string of bytes has tokens, and GPT-2's split into words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for _, text in texts(held_out=False)), trainer)
    return tokenizer


def tokens(tokenizer: Tokenizer, held_out: bool) -> np.ndarray[tuple[int], np.dtype[np.uint16]]:
    """All files of one half as one stream, END_OF_TEXT before each."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    encoded = tokenizer.encode_batch([text for _, text in texts(held_out)])
    return np.concatenate([np.array([end, *e.ids], dtype=np.uint16) for e in encoded])


def byte_lengths(tokenizer: Tokenizer) -> list[int]:
    """How many bytes of text each token stands for; byte-level BPE writes each byte as one character."""
    pieces = (tokenizer.id_to_token(i) or "" for i in range(tokenizer.get_vocab_size()))
    return [0 if piece == END_OF_TEXT else len(piece) for piece in pieces]
