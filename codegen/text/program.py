"""The section TEXT of a model.moss: a tokenizer as tables (docs/format.md), packed and checked.

`check` accepts exactly what libmossnet (targets/runtime/text_program.c) accepts; the tests hold the two against each
other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from mossnet_tg.errors import ArtifactError

VERSION = 1
NONE = 0xFFFFFFFF
N_CODES = 0x110000
BLOCK = 128
N_INDEX = N_CODES // BLOCK
STOP = 0x7FFF
ACCEPT = 0x8000
MAX_SPLITS = 8
MAX_RECORDS = 1 << 24
MAX_BYTES = 1 << 28
MAX_DECOMPOSITION = 4

# Bits of a character's property in NFC; below them its rank among the combining classes, 0 for a starter.
RANK, JOINS, CHANGES = 0x3F, 0x40, 0x80

_NFC, _PREFIX_SPACE = 1, 2
_LSTRIP, _RSTRIP = 1, 2
_ONLY_MATCHES = 1
_HEADER = struct.Struct("<20I")
_COUNTS = (
    "tokens", "token_bytes", "merges", "words", "added", "added_normalized", "added_bytes", "before", "after",
    "splits", "cells", "blocks", "decomposed", "decomposition", "composed",
)  # fmt: skip
_BYTE_COUNTS = ("token_bytes", "added_bytes")

Table = npt.NDArray[Any]


@dataclass(frozen=True)
class Added:
    """A token that is found in the text before anything else; `lstrip` and `rstrip`: with the white space there."""

    content: bytes
    id: int
    lstrip: bool = False
    rstrip: bool = False


@dataclass(frozen=True)
class Split:
    """A pattern as an automaton that cuts a text.

    classes: uint8 [N_CODES], the class of each character. cells: uint16 [n_states, n_classes + 1], the last column for
    the end of the text: the next state or STOP, with ACCEPT where a match may end before the character.
    """

    classes: Table
    cells: Table
    only_matches: bool = False


@dataclass(frozen=True)
class Nfc:
    """Unicode's tables for NFC. properties: uint8 [N_CODES]; Hangul syllables are composed without a table."""

    properties: Table
    decompositions: Mapping[int, Sequence[int]]
    compositions: Mapping[tuple[int, int], int]


@dataclass(frozen=True, kw_only=True)
class TextProgram:
    """A tokenizer.

    tokens: the bytes of each id, b"" for none. byte_ids: the id of each byte, NONE where there is none. merges: (left,
    right): (rank, merged). words: ids that a whole word becomes although merges do not make them. added and
    added_normalized: what is found in the text as it is, and after its normalization. before, after: ids around a text.
    """

    tokens: Sequence[bytes]
    byte_ids: Sequence[int]
    merges: Mapping[tuple[int, int], tuple[int, int]]
    words: Sequence[int] = ()
    added: Sequence[Added] = ()
    added_normalized: Sequence[Added] = ()
    before: Sequence[int] = ()
    after: Sequence[int] = ()
    splits: Sequence[Split] = ()
    nfc: Nfc | None = None
    prefix_space: bool = False


def pack(program: TextProgram) -> bytes:
    """The section's bytes. Raises ArtifactError when no reader would accept them."""
    maps = [s.classes for s in program.splits] + ([program.nfc.properties] if program.nfc else [])
    blocks, index = _fold(maps)
    cells = _joined([s.cells.reshape(-1) for s in program.splits], np.uint16)
    merges = [(*pair, *made) for pair, made in sorted(program.merges.items())]
    added = [*sorted(program.added, key=_content), *sorted(program.added_normalized, key=_content)]
    ends = np.cumsum([len(a.content) for a in added], dtype=np.uint32)
    decomposed = sorted(program.nfc.decompositions.items()) if program.nfc else []
    decomposition_ends = np.cumsum([len(to) for _, to in decomposed], dtype=np.uint32)
    composed = [(*pair, to) for pair, to in sorted(program.nfc.compositions.items())] if program.nfc else []
    token_bytes, added_bytes = b"".join(program.tokens), b"".join(map(_content, added))
    counts = (
        len(program.tokens), len(token_bytes), len(merges), len(program.words), len(program.added),
        len(program.added_normalized), len(added_bytes), len(program.before), len(program.after), len(program.splits),
        len(cells), len(blocks), len(decomposed), sum(len(to) for _, to in decomposed), len(composed),
    )  # fmt: skip
    flags = _NFC * (program.nfc is not None) | _PREFIX_SPACE * program.prefix_space
    tables = (
        np.array(program.byte_ids, "<u4"),
        np.cumsum([len(t) for t in program.tokens], dtype="<u4"),
        np.array(merges, "<u4"),
        np.array(sorted(program.words, key=lambda word: program.tokens[word]), "<u4"),
        np.array([(a.id, _LSTRIP * a.lstrip | _RSTRIP * a.rstrip, e) for a, e in zip(added, ends, strict=True)], "<u4"),
        np.array([*program.before, *program.after], "<u4"),
        np.array([(len(s.cells), s.cells.shape[1] - 1, s.only_matches) for s in program.splits], "<u4"),
        np.array([(c, e) for (c, _), e in zip(decomposed, decomposition_ends, strict=True)], "<u4"),
        np.array([c for _, to in decomposed for c in to], "<u4"),
        np.array(composed, "<u4"),
        index.astype("<u2"),
        cells.astype("<u2"),
        blocks.astype("u1"),
    )
    header = _HEADER.pack(VERSION, flags, *counts, *bytes(_HEADER.size // 4 - 2 - len(counts)))
    data = b"".join([header, *(table.tobytes() for table in tables), token_bytes, added_bytes])
    check(data)
    return data


def _content(added: Added) -> bytes:
    return added.content


def _joined(parts: Sequence[Table], dtype: type) -> Table:
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def _fold(maps: Sequence[Table]) -> tuple[Table, Table]:
    """Maps of all characters as blocks, each once, and the index of each map's blocks."""
    if not maps:
        return np.empty((0, BLOCK), np.uint8), np.empty(0, np.uint16)
    blocks, index = np.unique(np.concatenate([m.reshape(-1, BLOCK) for m in maps]), axis=0, return_inverse=True)
    return blocks, index.reshape(-1)


def check(data: bytes | memoryview) -> None:
    """Raises ArtifactError for what libmossnet would refuse."""
    _Reader(memoryview(data)).read()


def _refuse(message: str) -> NoReturn:
    raise ArtifactError(f"TEXT: {message}")


class _Reader:
    """One reading of a section."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.n: dict[str, int] = {}
        self.flags = 0

    def read(self) -> None:
        self._header()
        tables = self._tables()
        self._tokens(tables)
        self._added(tables)
        self._splits(tables)
        self._nfc(tables)

    def _header(self) -> None:
        if len(self.data) < _HEADER.size:
            _refuse(f"{len(self.data)} bytes are too few (its header has {_HEADER.size})")
        version, self.flags, *counts = _HEADER.unpack_from(self.data)
        if version != VERSION:
            _refuse(f"version {version}, this reads version {VERSION}")
        if self.flags > (_NFC | _PREFIX_SPACE) or any(counts[len(_COUNTS) :]):
            _refuse("reserved bits are set")
        self.n = dict(zip(_COUNTS, counts, strict=False))
        for name, count in self.n.items():
            most = MAX_BYTES if name in _BYTE_COUNTS else MAX_RECORDS
            if count > most:
                _refuse(f"{name} {count}, at most {most} are allowed")
        if not self.n["tokens"]:
            _refuse("no tokens")
        if self.n["splits"] > MAX_SPLITS:
            _refuse(f"{self.n['splits']} splits, at most {MAX_SPLITS} are allowed")

    def _tables(self) -> dict[str, Table]:
        n = self.n
        n_maps = n["splits"] + (self.flags & _NFC)
        shapes = {
            "byte_ids": ("<u4", 256, 1), "token_ends": ("<u4", n["tokens"], 1), "merges": ("<u4", n["merges"], 4),
            "words": ("<u4", n["words"], 1), "added": ("<u4", n["added"] + n["added_normalized"], 3),
            "around": ("<u4", n["before"] + n["after"], 1), "splits": ("<u4", n["splits"], 3),
            "decomposed": ("<u4", n["decomposed"], 2), "decomposition": ("<u4", n["decomposition"], 1),
            "composed": ("<u4", n["composed"], 3), "index": ("<u2", n_maps, N_INDEX), "cells": ("<u2", n["cells"], 1),
            "blocks": ("u1", n["blocks"], BLOCK), "token_bytes": ("u1", n["token_bytes"], 1),
            "added_bytes": ("u1", n["added_bytes"], 1),
        }  # fmt: skip
        total = _HEADER.size + sum(np.dtype(kind).itemsize * rows * width for kind, rows, width in shapes.values())
        if total != len(self.data):
            _refuse(f"{len(self.data)} bytes, its header says {total}")
        tables, at = {}, _HEADER.size
        for name, (kind, rows, width) in shapes.items():
            flat = np.frombuffer(self.data, kind, rows * width, at)
            # Differences of unsigned numbers would wrap.
            tables[name] = flat if flat.itemsize < 4 else flat.astype(np.int64)
            if width > 1:
                tables[name] = tables[name].reshape(rows, width)
            at += flat.nbytes
        return tables

    def _ids(self, what: str, ids: Table) -> None:
        if ids.size and ids.max() >= self.n["tokens"]:
            _refuse(f"{what}: token {ids.max()} of {self.n['tokens']}")

    def _ends(self, what: str, ends: Table, size: int) -> None:
        if (np.diff(ends, prepend=0) < 0).any() or (int(ends[-1]) if len(ends) else 0) != size:
            _refuse(f"{what}: ends that do not ascend to {size}")

    def _tokens(self, tables: Mapping[str, Table]) -> None:
        self._ids("bytes", tables["byte_ids"][tables["byte_ids"] != NONE])
        self._ends("tokens", tables["token_ends"], self.n["token_bytes"])
        merges = tables["merges"]
        self._ids("merges", merges[:, [0, 1, 3]])
        if (np.diff(merges[:, 0] << 32 | merges[:, 1]) <= 0).any():
            _refuse("merges that do not ascend")
        self._ids("words", tables["words"])
        self._ids("around", tables["around"])
        starts = np.concatenate([[0], tables["token_ends"]])
        text = tables["token_bytes"].tobytes()
        _ascending("words", (text[starts[w] : starts[w + 1]] for w in tables["words"].tolist()))

    def _added(self, tables: Mapping[str, Table]) -> None:
        added = tables["added"]
        self._ids("added tokens", added[:, 0])
        if (added[:, 1] > (_LSTRIP | _RSTRIP)).any():
            _refuse("added tokens: reserved bits are set")
        self._ends("added tokens", added[:, 2], self.n["added_bytes"])
        starts = np.concatenate([[0], added[:, 2]]).tolist()
        text = tables["added_bytes"].tobytes()
        contents = [text[a:b] for a, b in pairwise(starts)]
        _ascending("added tokens", contents[: self.n["added"]])
        _ascending("added tokens", contents[self.n["added"] :])
        for content in contents:
            try:
                content.decode()
            except UnicodeDecodeError:
                _refuse("added tokens: one is no UTF-8")

    def _splits(self, tables: Mapping[str, Table]) -> None:
        index, most = tables["index"], tables["blocks"].max(axis=1, initial=0)
        if index.size and index.max() >= self.n["blocks"]:
            _refuse(f"block {index.max()} of {self.n['blocks']}")
        at = 0
        for i, (n_states, n_classes, flags) in enumerate(tables["splits"].tolist()):
            if not 1 <= n_states < STOP or not 1 <= n_classes <= 256 or flags > _ONLY_MATCHES:
                _refuse(f"split {i}: {n_states} states, {n_classes} classes, flags {flags}")
            width = n_classes + 1
            cells = tables["cells"][at : at + n_states * width]
            at += n_states * width
            if len(cells) < n_states * width:
                _refuse(f"split {i}: its cells lie beyond the table")
            following = cells & STOP
            if ((following >= n_states) & (following != STOP)).any():
                _refuse(f"split {i}: a state beyond its {n_states}")
            if (cells[:width] & ACCEPT).any():
                _refuse(f"split {i}: it matches nothing")
            if most[index[i]].max() >= n_classes:
                _refuse(f"split {i}: a class beyond its {n_classes}")
        if at != self.n["cells"]:
            _refuse(f"{self.n['cells']} cells, the splits have {at}")

    def _nfc(self, tables: Mapping[str, Table]) -> None:
        n = self.n
        if not self.flags & _NFC and (n["decomposed"] or n["decomposition"] or n["composed"]):
            _refuse("compositions without NFC")
        decomposed, composed = tables["decomposed"], tables["composed"]
        self._ends("decompositions", decomposed[:, 1], n["decomposition"])
        codes = np.concatenate([decomposed[:, 0], tables["decomposition"], composed.reshape(-1)])
        if (codes >= N_CODES).any() or (codes >> 11 == 0xD800 >> 11).any():
            _refuse("a composition of what is no character")
        lengths = np.diff(decomposed[:, 1], prepend=0)
        if (lengths < 1).any() or (lengths > MAX_DECOMPOSITION).any():
            _refuse(f"decompositions of other lengths than 1 to {MAX_DECOMPOSITION}")
        if (np.diff(decomposed[:, 0]) <= 0).any():
            _refuse("decompositions that do not ascend")
        if (np.diff(composed[:, 0] << 32 | composed[:, 1]) <= 0).any():
            _refuse("compositions that do not ascend")


def _ascending(what: str, contents: Iterable[bytes]) -> None:
    before = b""
    for content in contents:
        if content <= before:
            _refuse(f"{what} that are empty or do not ascend")
        before = content
