"""What the `tokenizers` library takes characters for.

Its regular expressions and its NFC each follow a version of Unicode that neither Python nor this package chooses, so
the tables are read off the library itself, one answer for all characters at once.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from mossnet_tg.codegen.text.program import CHANGES, JOINS, N_CODES, Nfc

_SURROGATES = range(0xD800, 0xE000)
_SYLLABLES = range(0xAC00, 0xD7A4)
_VOWELS_AND_FINALS = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}
# A mark of the highest class but for itself: any other mark behind it moves before it.
_IOTA = "\u0345"


@cache
def _scalars() -> str:
    return "".join(chr(c) for c in range(N_CODES) if c not in _SURROGATES)


@cache
def matching(pattern: str) -> npt.NDArray[np.bool_]:
    """[N_CODES]: the characters that a regular expression of the library for one character matches."""
    from tokenizers import Regex, normalizers

    remove = normalizers.Replace(Regex(f"(?:{pattern})+"), "")
    found = np.zeros(N_CODES, np.bool_)
    text, size = _scalars(), 1 << 14
    for part in (text[i : i + size] for i in range(0, len(text), size)):
        found[codes(part)] = True
        found[codes(remove.normalize_str(part))] = False
    return found


def codes(text: str) -> npt.NDArray[np.uint32]:
    """The code points of a text."""
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


@cache
def nfc() -> Nfc:
    """The tables of the library's NFC."""
    from tokenizers import normalizers

    characters = [c for c in _scalars() if c != "\n"]
    decomposed = _of_each(normalizers.NFD(), characters)
    composed = _of_each(normalizers.NFC(), characters)
    changed = {c: to for c, to in decomposed.items() if ord(c) not in _SYLLABLES}
    wholes = [c for c in changed if c not in composed]
    firsts = _of_each(normalizers.NFC(), [changed[c][:-1] for c in wholes])
    pairs = {c: (firsts.get(changed[c][:-1], changed[c][:-1]), changed[c][-1]) for c in wholes}
    compositions = {(ord(first), ord(second)): ord(c) for c, (first, second) in pairs.items()}
    ranks = _ranks([c for c in characters if c not in decomposed])
    seconds = {second for _, second in compositions} | _VOWELS_AND_FINALS
    properties = np.zeros(N_CODES, np.uint8)
    for c in {*ranks, *changed, *map(chr, seconds)}:
        first = changed.get(c, c)[0]
        joins = first in ranks or ord(first) in seconds
        properties[ord(c)] = ranks.get(c, 0) | JOINS * joins | CHANGES * (c in composed)
    return Nfc(properties, {ord(c): [ord(x) for x in to] for c, to in changed.items()}, compositions)


def _of_each(normalizer: Any, texts: list[str]) -> dict[str, str]:
    """What a normalizer changes, of texts without line ends."""
    changed = []
    for i in range(0, len(texts), 1 << 14):
        part = texts[i : i + (1 << 14)]
        normal = normalizer.normalize_str("\n".join(part)).split("\n")
        changed += [(a, b) for a, b in zip(part, normal, strict=True) if a != b]
    return dict(changed)


def _ranks(characters: list[str]) -> dict[str, int]:
    """Of characters that have no decomposition, those that are no starters, by the order in which they come."""
    from tokenizers import normalizers

    moved = _of_each(normalizers.NFD(), [_IOTA + c for c in characters])
    marks = [_IOTA, *(text[1] for text in moved)]
    # One of each class; where the library knows more classes than Python, they fall together with the one below.
    examples = {unicodedata.combining(c): c for c in marks if unicodedata.combining(c)}.values()
    higher = _of_each(normalizers.NFD(), [example + c for c in marks for example in examples])
    return {c: 1 + sum(example + c not in higher for example in examples) for c in marks}
