"""Broken TEXT sections: refused with a clear text or harmless, by libmossnet and by Python alike; never a crash."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from mossnet_tg.codegen.text import program
from mossnet_tg.engine import CompiledModel
from mossnet_tg.errors import ArtifactError
from tests.fuzz.harness import N_RANDOM, Harness, Mutant, mutated, seeds
from tests.runtime.toy import sealed
from tests.text import kinds

LINKED = ("encode", "decode", "merge", "normalize", "scratch", "text_program", "utf8", "error")


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    return Harness(tmp_path_factory.mktemp("fuzz"), "text", LINKED)


@pytest.fixture(params=seeds("text"))
def seed(request: pytest.FixtureRequest) -> Path:
    assert isinstance(request.param, Path)
    return request.param


@pytest.fixture
def section(seed: Path) -> bytes:
    return seed.read_bytes()


def test_seeds_are_read_and_cut(fuzz: Harness, seed: Path) -> None:
    assert verdict(seed.read_bytes()) == fuzz(seed, "cuts").strip() == "1"


def test_random_mutants(fuzz: Harness, seed: Path) -> None:
    n = N_RANDOM // 5
    accepted = int(fuzz(seed, "random", n, 20261122))
    assert n // 50 < accepted < n


def verdict(section: bytes) -> str:
    try:
        program.check(section)
    except ArtifactError as error:
        assert str(error).startswith("TEXT: ")
        return "0"
    return "1"


def judge_both(fuzz: Harness, seed: Path, mutants: list[Mutant]) -> tuple[str, str]:
    """Verdicts of libmossnet and of Python."""
    section = seed.read_bytes()
    return fuzz.verdicts(seed, mutants), "".join(verdict(mutated(section, mutant)) for mutant in mutants)


NAMES = (
    "header", "bytes", "tokens", "merges", "words", "added", "around", "splits", "decomposed", "decomposition",
    "composed", "index", "cells", "blocks", "token bytes", "added bytes",
)  # fmt: skip


def tables(section: bytes | bytearray) -> list[tuple[int, int]]:
    """Start and end of the header and of each table, in the order of NAMES."""
    _, flags, *n = struct.unpack_from("<17I", section)
    sizes = [80, 1024, 4 * n[0], 16 * n[2], 4 * n[3], 12 * (n[4] + n[5]), 4 * (n[7] + n[8]), 12 * n[9], 8 * n[12]]
    sizes += [4 * n[13], 12 * n[14], 2 * 8704 * (n[9] + (flags & 1)), 2 * n[10], 128 * n[11], n[1], n[6]]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    assert ends[-1] == len(section)
    return [(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def test_fields_are_judged_alike(fuzz: Harness, seed: Path, section: bytes) -> None:
    rng = random.Random(8)
    values = [0, 1, 2, 3, 255, 256, 0x7FFE, 0x7FFF, 0x8000, 0xD7FF, 0xD800, 0xDFFF, 0xE000, 0x10FFFF, 0x110000]
    values += [(1 << 24) - 1, 1 << 24, (1 << 24) + 1, 1 << 28, (1 << 28) + 1, 1 << 31, (1 << 32) - 1]
    places = [(start, end) for start, end in tables(section) if end - start >= 4]
    mutants = list[Mutant]()
    for _ in range(2000):
        mutant = []
        for _ in range(rng.choice((1, 1, 2))):
            start, end = rng.choice(places)
            offset = rng.randrange(start, end - 3)
            offset -= (offset - start) % rng.choice((1, 2, 4, 4))
            now = int.from_bytes(section[offset : offset + 4], "little")
            value = rng.choice((rng.choice(values), now + 1, now - 1, now ^ 1 << rng.randrange(32), rng.randrange(40)))
            mutant.append((offset, (value % (1 << 32)).to_bytes(4, "little")))
        mutants.append(mutant)
    theirs, ours = judge_both(fuzz, seed, mutants)
    different = [m for m, a, b in zip(mutants, theirs, ours, strict=True) if a != b]
    assert not different, different[:3]
    assert 100 < theirs.count("1") < 1900


def test_every_bit_of_the_header_and_the_small_tables(fuzz: Harness, seed: Path, section: bytes) -> None:
    small = [(start, end) for start, end in tables(section) if end - start < 300]
    mutants = list[Mutant]()
    for start, end in small:
        for at in range(start, end):
            offset = min(at, len(section) - 4)
            for bit in range(8):
                word = bytearray(section[offset : offset + 4])
                word[at - offset] ^= 1 << bit
                mutants.append([(offset, bytes(word))])
    theirs, ours = judge_both(fuzz, seed, mutants)
    assert theirs == ours
    # Of the header only the flag for a space before each text may be another.
    assert theirs[: 80 * 8].count("1") == 1


# table, offset in it (negative: from its end), u32, what both readers say
FIELDS = [
    ("header", 0, 2, "version 2, this .*reads version 1"),
    ("header", 4, 4, "reserved bits are set"),
    ("header", 76, 1, "reserved bits are set"),
    ("header", 8, 0, "no tokens"),
    ("header", 16, (1 << 24) + 1, "16777217, at most 16777216"),
    ("header", 12, (1 << 28) + 1, "268435457, at most 268435456"),
    ("header", 44, 9, "9 splits, at most 8"),
    ("header", 40, 0, "its header says"),
    ("bytes", 40, 1 << 20, "bytes: token 1048576 of"),
    ("tokens", 40, 1 << 20, "token"),
    ("tokens", -4, 1, "token"),
    ("merges", 0, 1 << 20, "merge"),
    ("merges", 12, 1 << 20, "merge"),
    ("merges", 0, 700, "merge.* not ascend"),
    ("words", 0, 1 << 20, "words: token 1048576 of"),
    ("words", 0, 5002, "not ascend"),
    ("added", 0, 1 << 20, "added token"),
    ("added", 4, 4, "added token.*reserved bits"),
    ("added", 8, 40, "added token"),
    ("around", 0, 1 << 20, "around.*1048576"),
    ("splits", 0, 0, "split 0: 0 states"),
    ("splits", 0, 1, "cells|state"),
    ("splits", 4, 257, "split 0: .* 257 classes"),
    ("splits", 8, 2, "split 0: .* flags 2"),
    ("splits", 0, 5000, "split 0: its cells lie beyond the table"),
    ("index", 0, 0x80008000, "block 32768 of"),
    ("cells", 0, 0x7FFE7FFE, "split 0: .*state"),
    ("cells", 0, 0xFFFFFFFF, "split 0: it matches nothing"),
    ("blocks", 0, 0xFFFFFFFF, "split 0: .*class"),
    ("decomposed", 0, 0xDFFF, "no character|character"),
    ("decomposed", 4, 9, "decomposition"),
    ("decomposed", 0, 0x10FFFF, "decomposition.* not ascend"),
    ("decomposition", 0, 0xD800, "composition.*|character"),
    ("composed", 0, 0x110000, "composition"),
    ("composed", 0, 0x10FFFF, "composition.* not ascend"),
    ("added bytes", 0, 0xFFFFFFFF, "added token"),
    ("added bytes", -4, 0x203C20FF, "added token.* no UTF-8"),
]


@pytest.mark.parametrize(("table", "at", "value", "match"), FIELDS)
def test_what_a_refusal_says(tmp_path: Path, table: str, at: int, value: int, match: str) -> None:
    kind = "llama3" if table in ("words", "blocks") else "stripping"
    begin, end = tables(kinds.section(kind))[NAMES.index(table)]
    refused_by_both(tmp_path, kind, (begin if at >= 0 else end) + at, value, match)


def test_a_decomposition_that_is_too_long(tmp_path: Path) -> None:
    """U+1F82 and U+1F83 have four characters each; the first is left one, and the second gets the rest."""
    begin, end = tables(kinds.section("stripping"))[NAMES.index("decomposed")]
    rows = list(struct.iter_unpack("<II", kinds.section("stripping")[begin:end]))
    i = next(i for i, (character, _) in enumerate(rows) if character == 0x1F82)
    refused_by_both(tmp_path, "stripping", begin + 8 * i + 4, rows[i - 1][1] + 1, "decomposition.* 1 to 4")


def refused_by_both(folder: Path, kind: str, at: int, value: int, match: str) -> None:
    """Puts a u32 into the section of a model file, which Python and libmossnet then refuse with such a text."""
    kinds.model_of(kind, folder).close()
    data = bytearray((folder / "text.moss").read_bytes())
    start, size = sections(data)[13]
    struct.pack_into("<I", data, start + at, value)
    with pytest.raises(ArtifactError, match=f"^TEXT: .*({match})"):
        program.check(bytes(data[start : start + size]))
    (folder / "broken.moss").write_bytes(sealed(data))
    with pytest.raises(ArtifactError, match=f"TEXT: .*({match})"):
        CompiledModel(folder / "broken.moss", allow_native=True)


def sections(data: bytes | bytearray) -> dict[int, tuple[int, int]]:
    """Offset and size of each section of a file, by type."""
    rows = (struct.unpack_from("<IIQQ", data, 64 + 32 * i) for i in range(struct.unpack_from("<I", data, 12)[0]))
    return {kind: (offset, size) for kind, _, offset, size in rows}
