"""Patterns as automata against the library's own regular expressions: the same cuts."""

from __future__ import annotations

import os
import random

import pytest
from tokenizers import Regex, pre_tokenizers

from mossnet_tg.codegen.text.pattern import PatternError, compile_pattern
from mossnet_tg.codegen.text.program import ACCEPT, STOP, Split

N_PATTERNS = int(os.environ.get("MOSSNET_TEXTS", "400"))
ALPHABET = "aAbBsSſkK\u212arve'1२\u00b2 \t\r\n\u00a0é\u0301ǅʰ-]^.{苔🙂\x00\x85"


def cut(split: Split, text: str) -> list[str]:
    """What libmossnet does with the cells, in Python."""
    pieces, done, at = [], 0, 0
    while at < len(text):
        state, end, here = 0, at, at
        while True:
            column = split.classes[ord(text[here])] if here < len(text) else split.cells.shape[1] - 1
            cell = int(split.cells[state, column])
            end = here if cell & ACCEPT else end
            state = cell & STOP
            if here == len(text) or state == STOP:
                break
            here += 1
        if end > at:
            pieces += [text[done:at], text[at:end]]
            done = end
        at = max(end, at + 1)
    return [piece for piece in [*pieces, text[done:]] if piece]


def cut_by_library(pattern: str, text: str) -> list[str]:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return [piece for piece, _ in split.pre_tokenize_str(text)]


PATTERNS = [
    "a", "ab|a", "a|ab", "(?:a|ab)(?:b|bb)?", "a+b|a", "a*b", "a{2}", "a{1,3}", "a{2,}b?", "a{0,2}b", "(ab)+a",
    r"\p{L}+", r"\P{L}+", r"\p{Lu}\p{Ll}*", r"[^\s\p{L}]+", r"\s+(?!\S)|\s+", r"\s+(?=\S)", r"a(?![bs])|s(?=\s)",
    r"(?i:'s|'ve|k)+", r"(?i:[sk]a)", r"(?i:a1)", "[a-s]+", r"[-a]", r"[a\-]", r"[\]^]", r"[^\n-\r]+", ".+", r"\w+|\W",
    r"\d+|\D", r"\S+", r"\-?a", r"(?:a|b)*(?:s|a)+1?", r"a?a?a?aaa", r"[\p{L}\p{M}]+|\.",
    r"(?:(?:a|A)+1|a)+", r"\r\n|[\r\n]|\{", "苔+|🙂", r"(?:ab?){2,3}s", r"(?:a(?!b)|b)+",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_same_cuts(pattern: str) -> None:
    split, rng = compile_pattern(pattern), random.Random(pattern)
    for _ in range(600):
        letters = rng.sample(ALPHABET, rng.randrange(1, 7)) if rng.random() < 0.6 else "aAbs1 \r\n"
        text = "".join(rng.choices(letters, k=rng.randrange(14)))
        assert cut(split, text) == cut_by_library(pattern, text), ascii(text)


REFUSED = [
    ("a*", "matches nothing as well"), ("", "matches nothing as well"), ("(?!a)", "matches nothing as well"),
    ("(a?)*b", "repetition of what matches nothing"), ("a+?", "lazy, possessive or doubled"),
    ("a++", "lazy, possessive or doubled"), ("a{1,2}{3}", "lazy, possessive or doubled"), ("a{,3}", "a { that is no"),
    ("a{3,1}", "m above n"), ("a{x}", "a { that is no"), ("(a", "a ( without )"), ("a)", "a ) without ("),
    ("^a", "'^' at 0"), ("a$", "'$' at 1"), ("*a", "'*' at 0"), ("(?<n>a)", "unknown kind of bracket"),
    ("(?i)a", "unknown kind of bracket"), ("a(?!bc)", "more than one character"), (r"\bа", r"\b"), (r"a\1", r"\1"),
    (r"\p{Nonsense}", "Nonsense"), (r"\pL", r"\p without"), ("[]a]", "empty []"), ("[a", "does not end"),
    ("[a&&b]", "&&"), ("[b-a]", "range"), (r"[a-\d]", "range"), ("[[:alpha:]]", "holds ["), ("(?i:ss)", "folds to"),
    ("(?i:s(?:s))", "a bracket inside"),
    ("(?i:é)", "in (?i:)"), (r"(?i:\p{Lu})", "in (?i:)"), ("(?i:[a-z])", "a range"), ("a\\", "\\"),
    ("(" * 60 + "a" + ")" * 60, "too many brackets"), ("a" * 1001, "at most 1000"),
    ("(?:a{100}){999}", "more than 10000 places"), ("(?:a|b)*a(?:a|b){12}", "more than 4096 states"),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "message"), REFUSED, ids=[p[:20] for p, _ in REFUSED])
def test_what_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(PatternError) as caught:
        compile_pattern(pattern)
    assert message in str(caught.value)


def test_random_patterns() -> None:
    """Every pattern that is compiled cuts as the library does; most are."""
    rng, n_compiled = random.Random(3), 0

    def some(depth: int) -> str:
        match rng.randrange(9 if depth else 3):
            case 0 | 1:
                return rng.choice(["a", "b", "s", "1", " ", r"\s", r"\S", r"\p{L}", "[ab]", "[^a]", r"[\s1]", "."])
            case 2:
                return rng.choice(["(?!a)", r"(?!\S)", r"(?=\s)", "(?i:s)", "ab"])
            case 3 | 4:
                return some(depth - 1) + some(depth - 1)
            case 5 | 6:
                return f"(?:{some(depth - 1)}|{some(depth - 1)})"
            case _:
                return f"(?:{some(depth - 1)}){rng.choice(['?', '*', '+', '{2}', '{1,3}'])}"

    for _ in range(N_PATTERNS):
        pattern = some(4)
        try:
            pre_tokenizers.Split(Regex(pattern), "isolated")
        except Exception:  # it repeats no (?!...)
            continue
        try:
            split = compile_pattern(pattern)
        except PatternError:
            continue
        n_compiled += 1
        for _ in range(60):
            text = "".join(rng.choices("aAbs1 \n", k=rng.randrange(12)))
            assert cut(split, text) == cut_by_library(pattern, text), (pattern, text)
    assert n_compiled > N_PATTERNS // 4
