"""The regular expressions that cut a text into words, as automata.

Ordered alternatives and greedy quantifiers, as a backtracking matcher takes them, but one step a character: a state is
the list of places in the pattern that such a matcher would try, the first choice first. What comes behind a place where
the pattern can end is never tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from mossnet_tg.codegen.text.program import ACCEPT, N_CODES, STOP, Split
from mossnet_tg.codegen.text.unicode import codes, matching
from mossnet_tg.errors import MossnetError

_MAX_LENGTH = 1000
_MAX_STATES = 4096
_MAX_PLACES = 10_000
_MAX_DEPTH = 50
_MAX_CLASSES = 256
_SPECIAL = "()[]{}?*+|^$.\\"
_ESCAPED = {"r": "\r", "n": "\n", "t": "\t", "f": "\f", "v": "\v"}

_Mask = npt.NDArray[np.bool_]


class PatternError(MossnetError):
    """A regular expression of another kind than is compiled here."""


@dataclass(frozen=True)
class _Set:
    """One character of a set."""

    members: _Mask


@dataclass(frozen=True)
class _Look:
    """No character, if the next one is a member or, where `negative`, is not or there is none."""

    members: _Mask
    negative: bool


@dataclass(frozen=True)
class _Each:
    """One after the other."""

    parts: Sequence[Any]


@dataclass(frozen=True)
class _Either:
    """The first that leads to a match."""

    parts: Sequence[Any]


@dataclass(frozen=True)
class _Repeat:
    """As often as it can, `least` to `most` times; `most` None: without end."""

    part: Any
    least: int
    most: int | None


def compile_pattern(pattern: str, *, only_matches: bool = False) -> Split:
    """The automaton of a regular expression; raises PatternError for what it cannot be made of."""
    if len(pattern) > _MAX_LENGTH:
        raise PatternError(f"a pattern of {len(pattern)} characters, at most {_MAX_LENGTH}")
    tree = _Parser(pattern).parse()
    if _is_nullable(tree):
        raise PatternError(f"the pattern {pattern!r} matches nothing as well")
    program = _Places()
    start = program.add(tree, program.place("match"))
    classes, members = _classes(program.sets)
    return Split(classes, _automaton(program, start, members), only_matches)


class _Parser:
    """A pattern while it is read. `fold`: inside (?i:...)."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._depth = 0

    def parse(self) -> Any:
        tree = self._alternatives(fold=False)
        if self._at < len(self._pattern):
            self._refuse("a ) without (")
        return tree

    def _refuse(self, what: str) -> NoReturn:
        raise PatternError(f"{what} at {self._at} in the pattern {self._pattern!r}")

    def _next(self) -> str:
        """The next character, "" at the end."""
        return self._pattern[self._at : self._at + 1]

    def _take(self, text: str) -> bool:
        found = self._pattern.startswith(text, self._at)
        self._at += len(text) * found
        return found

    def _alternatives(self, fold: bool) -> Any:
        parts = [self._sequence(fold)]
        while self._take("|"):
            parts.append(self._sequence(fold))
        return parts[0] if len(parts) == 1 else _Either(parts)

    def _sequence(self, fold: bool) -> Any:
        parts, start = [], self._at
        while self._next() and self._next() not in "|)":
            parts.append(self._repeated(fold))
        if fold and any(several in self._pattern[start : self._at].casefold() for several in _folded_to_several()):
            self._refuse("letters in (?i:) that one character folds to")
        return parts[0] if len(parts) == 1 else _Each(parts)

    def _repeated(self, fold: bool) -> Any:
        part = self._one(fold)
        if (counts := self._counts()) is None:
            return part
        if self._next() and self._next() in "?*+{":
            self._refuse("a quantifier that is lazy, possessive or doubled")
        least, most = counts
        if most != 1 and _is_nullable(part):  # matchers differ about how often nothing is taken
            self._refuse("a repetition of what matches nothing as well")
        return _Repeat(part, least, most)

    def _counts(self) -> tuple[int, int | None] | None:
        for sign, counts in (("?", (0, 1)), ("*", (0, None)), ("+", (1, None))):
            if self._take(sign):
                return counts
        if not self._take("{"):
            return None
        inside, closed, _ = self._pattern[self._at :].partition("}")
        least, comma, most = inside.partition(",")
        if not closed or not least.isdecimal() or (most and not most.isdecimal()) or len(inside) > 9:
            self._refuse("a { that is no {m}, {m,} or {m,n}")
        self._at += len(inside) + 1
        at_most = int(most) if most else None if comma else int(least)
        if at_most is not None and at_most < int(least):
            self._refuse("a {m,n} with m above n")
        return int(least), at_most

    def _one(self, fold: bool) -> Any:
        if self._take("("):
            return self._group(fold)
        if self._next() == "[":
            return _Set(self._bracket(fold))
        if self._take("."):
            return _Set(matching("."))
        if self._next() == "\\":
            return _Set(self._escape(fold))
        if self._next() in _SPECIAL:
            self._refuse(f"{self._next()!r}")
        self._at += 1
        return _Set(self._literal(self._pattern[self._at - 1], fold))

    def _group(self, fold: bool) -> Any:
        self._depth += 1
        if fold:  # s(?:s) is ss, which one character folds to
            self._refuse("a bracket inside (?i:)")
        if self._depth > _MAX_DEPTH:
            self._refuse("too many brackets inside each other")
        look = next((sign for sign in ("?!", "?=") if self._take(sign)), None)
        if look is None and not self._take("?:"):
            fold = self._take("?i:")
            if self._next() == "?":
                self._refuse("an unknown kind of bracket")
        inside = self._alternatives(fold)
        if not self._take(")"):
            self._refuse("a ( without )")
        self._depth -= 1
        if look is None:
            return inside
        if not isinstance(inside, _Set):
            self._refuse("a look ahead to more than one character")
        return _Look(inside.members, look == "?!")

    def _literal(self, char: str, fold: bool) -> _Mask:
        if not fold:
            members = _none()
            members[codes(char)] = True
            return members
        if not char.isascii():
            self._refuse(f"{char!r} in (?i:)")
        return matching(f"(?i:{char})") if char.isalpha() else self._literal(char, False)

    def _escape(self, fold: bool) -> _Mask:
        """One of a kind of characters, or a character that would mean something else."""
        self._at += 1
        char = self._next()
        self._at += 1
        if char in "pP":
            inside, closed, _ = self._pattern[self._at :].partition("}")
            name = inside.removeprefix("{")
            if not closed or inside == name or not name.isalpha() or not name.isascii():
                self._refuse("a \\p without {name}")
            self._at += len(inside) + 1
            char += f"{{{name}}}"
        elif char not in tuple("sSdDwW"):
            if not char or (char.isalnum() and char not in _ESCAPED) or not char.isascii():
                self._refuse(f"\\{char}")
            return self._literal(_ESCAPED.get(char, char), fold)
        if fold:
            self._refuse(f"\\{char} in (?i:)")
        try:
            return matching(f"\\{char}")
        except Exception:  # the library raises plain Exception for a name that it does not know
            self._refuse(f"\\{char}")

    def _bracket(self, fold: bool) -> _Mask:
        """[...]"""
        self._at += 1
        negative, members = self._take("^"), _none()
        if self._next() == "]":
            self._refuse("an empty []")
        while not self._take("]"):
            if self._next() in ("", "[") or self._pattern.startswith("&&", self._at):
                self._refuse("a [ that does not end, or holds [ or &&")
            found = self._member(fold)
            if self._next() == "-" and self._pattern[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                if fold or self._next() in ("", "["):
                    self._refuse("a range")
                found = self._between(found, self._member(fold))
            members = members | found
        return ~members if negative else members

    def _member(self, fold: bool) -> _Mask:
        if self._next() == "\\":
            return self._escape(fold)
        self._at += 1
        return self._literal(self._pattern[self._at - 1], fold)

    def _between(self, low: _Mask, high: _Mask) -> _Mask:
        if low.sum() != 1 or high.sum() != 1 or low.argmax() > high.argmax():
            self._refuse("a range between what is no characters in order")
        members = _none()
        members[low.argmax() : high.argmax() + 1] = True
        return members


def _none() -> _Mask:
    return np.zeros(N_CODES, np.bool_)


@cache
def _folded_to_several() -> set[str]:
    """What single characters fold to, where that is more than one: (?i:ss) matches ß as well."""
    return {several for c in range(0x20000) if len(several := chr(c).casefold()) > 1}


def _is_nullable(node: Any) -> bool:
    if isinstance(node, _Set):
        return False
    if isinstance(node, _Each):
        return all(map(_is_nullable, node.parts))
    if isinstance(node, _Either):
        return any(map(_is_nullable, node.parts))
    return isinstance(node, _Look) or node.least == 0 or _is_nullable(node.part)


@dataclass
class _Places:
    """The pattern as places: ("set" or "look", index of the set, negative), then the next places in the order of their
    choice."""

    sets: list[_Mask] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)  # of the sets, by identity
    places: list[tuple[str, int, bool, list[int]]] = field(default_factory=list)

    def place(self, kind: str, members: _Mask | None = None, negative: bool = False, then: Sequence[int] = ()) -> int:
        if len(self.places) == _MAX_PLACES:
            raise PatternError(f"the pattern has more than {_MAX_PLACES} places")
        index = -1
        if members is not None:
            index = self.numbers.setdefault(id(members), len(self.sets))
            self.sets += [members] if index == len(self.sets) else []
        self.places.append((kind, index, negative, list(then)))
        return len(self.places) - 1

    def add(self, node: Any, then: int) -> int:
        """The place where `node` begins, `then` being what follows it."""
        if isinstance(node, _Set):
            return self.place("set", node.members, then=[then])
        if isinstance(node, _Look):
            return self.place("look", node.members, node.negative, [then])
        if isinstance(node, _Each):
            for part in reversed(node.parts):
                then = self.add(part, then)
            return then
        if isinstance(node, _Either):
            return self.place("choice", then=[self.add(part, then) for part in node.parts])
        return self._repeat(node, then)

    def _repeat(self, node: _Repeat, then: int) -> int:
        if node.most is None:
            loop = self.place("choice")
            self.places[loop][3].extend([self.add(node.part, loop), then])
            entry = loop
        else:
            entry = then
            for _ in range(node.most - node.least):
                entry = self.place("choice", then=[self.add(node.part, entry), then])
        for _ in range(node.least):
            entry = self.add(node.part, entry)
        return entry


def _classes(sets: Sequence[_Mask]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Characters that no set tells apart are one class: uint8 [N_CODES], and whether a set has a class
    [n_sets, n_classes + 1], the last column for the end of the text, which is in none.
    """
    table = np.stack(sets)
    # Neighbours are mostly alike: only where a set begins or ends is there anything to tell apart.
    starts = np.flatnonzero(np.append(True, (table[:, 1:] != table[:, :-1]).any(axis=0)))
    members, classes = np.unique(table[:, starts], axis=1, return_inverse=True)
    if members.shape[1] > _MAX_CLASSES:
        raise PatternError(f"the pattern tells {members.shape[1]} classes of characters apart, at most {_MAX_CLASSES}")
    lengths = np.diff(np.append(starts, N_CODES))
    return np.repeat(classes.reshape(-1).astype(np.uint8), lengths), np.pad(members, ((0, 0), (0, 1)))


def _automaton(program: _Places, start: int, members: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint16]:
    """The cells of `Split`: every list of places that a text can lead to is a state."""
    states: dict[tuple[int, ...], int] = {(start,): 0}
    queue, rows = list(states), []
    for state in queue:
        row = []
        for column in members.T.tolist():
            following, accepts = _step(program, state, column)
            if following and following not in states:
                if len(states) == _MAX_STATES:
                    raise PatternError(f"the pattern needs more than {_MAX_STATES} states")
                states[following] = len(states)
                queue.append(following)
            row.append((states[following] if following else STOP) | ACCEPT * accepts)
        rows.append(row)
    return np.array(rows, np.uint16)


def _step(program: _Places, state: tuple[int, ...], holds: Sequence[bool]) -> tuple[tuple[int, ...], bool]:
    """The places behind the next character, by which sets hold it, and whether a match can end before it."""
    following: dict[int, None] = {}
    seen: set[int] = set()
    waiting = list(reversed(state))
    while waiting:
        at = waiting.pop()
        if at in seen:
            continue
        seen.add(at)
        kind, index, negative, then = program.places[at]
        if kind == "match":
            return tuple(following), True
        if kind == "set":
            if holds[index]:
                following.setdefault(then[0])
        elif kind == "choice" or holds[index] != negative:
            waiting.extend(reversed(then))
    return tuple(following), False
