"""Broken model files: refused with a clear text or harmless, by libmossnet and by Python alike; never a crash."""

from __future__ import annotations

import random
import struct

import pytest

from mossnet_tg.codegen.moss_file import _read_variants, read
from mossnet_tg.engine import CompiledModel
from mossnet_tg.errors import ArtifactError
from tests.fuzz.harness import HERE, N_RANDOM, Harness, mutated, seeds
from tests.runtime.toy import sealed, toy, write_toy

LINKED = ("file", "crc", "session", "state", "inspect", "text", "text_program", "utf8", "error")


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory):
    return Harness(tmp_path_factory.mktemp("fuzz"), "file", LINKED, "mock_driver")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("fuzz") / "small.moss", toy())


@pytest.mark.parametrize("seed", seeds("moss"))
def test_seeds_are_read_and_cut_at_every_length(fuzz, seed):
    assert read(seed) and fuzz(seed, "cuts") == "2\n"


@pytest.mark.parametrize("seed", seeds("moss"))
def test_random_mutants(fuzz, seed):
    accepted, ran = map(int, fuzz(seed, "random", N_RANDOM // 2, 20260807).split())
    assert accepted > N_RANDOM // 100, "the mutants are too wild to reach what stands behind the validator"
    assert ran > accepted // 2


def test_random_states(fuzz):
    """Most are refused; those whose tokens or position alone were changed are states of another text."""
    seed = HERE / "seeds"
    state = (seed / "state" / "small.state").read_bytes()
    accepted = int(fuzz(seed / "moss" / "small.moss", "states", N_RANDOM, 20261122, stdin=state))
    assert N_RANDOM // 20 < accepted < N_RANDOM // 2


def patch(data, offset, value, width):
    """A field set to a value, as the harness takes it: 4-byte words of the file."""
    start = offset // 4 * 4
    words = bytearray(data[start : start + 12])
    words[offset - start : offset - start + width] = value.to_bytes(width, "little")
    return [(start + i, bytes(words[i : i + 4])) for i in (0, 4, 8)]


def judge_both(fuzz, small, mutants):
    """Verdicts of libmossnet and of Python."""
    seed, ours = small.read_bytes(), ""
    for mutant in mutants:
        data = mutated(seed, mutant)
        try:
            _read_variants(data, len(data))
            ours += "1"
        except ArtifactError as error:
            assert str(error)
            ours += "0"
    return fuzz.verdicts(small, mutants), ours


def sections(data):
    n = struct.unpack_from("<I", data, 12)[0]
    return {
        struct.unpack_from("<I", data, 64 + 32 * i)[0]: struct.unpack_from("<QQ", data, 72 + 32 * i) for i in range(n)
    }


def test_every_bit_outside_code_and_weights(fuzz, small):
    """Both validators judge each bit of each section, and alike; wherever a number stands, most bits are refused."""
    data = small.read_bytes()
    places = {0: (0, 64 + 32 * len(sections(data))), **sections(data)}
    mutants, owners = [], []
    for kind, (start, size) in places.items():
        if kind in (10, 12):
            continue
        for byte in range(start, start + size):
            for bit in range(8):
                mutants.append(patch(data, byte, data[byte] ^ 1 << bit, 1)[:1])
                owners.append(kind)
    theirs, ours = judge_both(fuzz, small, mutants)
    assert theirs == ours
    accepted = {kind: [v for v, k in zip(theirs, owners, strict=True) if k == kind] for kind in places}
    share = {kind: round(v.count("1") / max(len(v), 1), 2) for kind, v in accepted.items() if v}
    # Header: only the 256 bits of the model hash, and nothing else, may be anything. Text may be any text.
    assert accepted[0].count("1") >= 256
    for kind in (3, 4, 5, 6, 7, 8, 9):
        assert share[kind] < 0.35, share


def test_random_fields_are_judged_alike(fuzz, small):
    data = small.read_bytes()
    rng = random.Random(4)
    places = [
        (0, 64),
        (64, 32 * len(sections(data))),
        *(s for k, s in sections(data).items() if k not in (1, 10, 11, 12)),
    ]
    values = [0, 1, 2, 3, 4, 12, 23, 24, 25, 255, 256, 1 << 16, 1 << 20, (1 << 20) + 1, 1 << 24, (1 << 24) + 1]
    values += [1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, (1 << 40) + 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 256]
    mutants = []
    for _ in range(4000):
        mutant = []
        for _ in range(rng.choice((1, 1, 2))):
            start, size = rng.choice(places)
            width = rng.choice((4, 8))
            offset = start + rng.randrange(size // width) * width
            now = int.from_bytes(data[offset : offset + width], "little")
            value = rng.choice((rng.choice(values), now + 1, now - 1, now + 256, rng.randrange(40)))
            mutant += patch(data, offset, value % (1 << 8 * width), width)
        mutants.append(mutant)
    theirs, ours = judge_both(fuzz, small, mutants)
    different = [m for m, a, b in zip(mutants, theirs, ours, strict=True) if a != b]
    assert not different, different[:3]
    assert 200 < theirs.count("1") < 3800


# section, record, offset in the record, width, value, what the message says
FIELDS = [
    (3, 0, 0, 4, 0, "vocab_size 0"),
    (3, 0, 0, 4, 1 << 31, "vocab_size 2147483648"),
    (3, 0, 4, 4, 0, "chunk 0"),
    (3, 0, 4, 4, (1 << 20) + 1, "chunk 1048577, expected 1 to 1048576"),
    (3, 0, 12, 4, (1 << 20) + 1, "n_params 1048577"),
    (3, 0, 12, 4, 1, "n_params 1, expected 2"),
    (3, 0, 16, 8, (1 << 40) + 1, "at most 1099511627776"),
    (3, 0, 63, 1, 1, "MODEL: reserved"),
    (4, 1, 0, 4, 4, "BUFFER 1: region 4, expected 0 to 3"),
    (4, 1, 4, 4, 1 << 20, "BUFFER 1: its name lies beyond"),
    (4, 1, 8, 4, 9, "BUFFER 1: dtype 9, expected 0 to 8"),
    (4, 1, 12, 4, 1, "BUFFER 1: reserved"),
    (4, 1, 16, 8, 128, "BUFFER 1: offset 128, expected a multiple of 256"),
    (4, 1, 16, 8, (1 << 64) - 256, "BUFFER 1: 12 bytes at 18446744073709551360 do not fit into region 0"),
    (4, 1, 24, 8, (1 << 64) - 1, "BUFFER 1: 18446744073709551615 bytes at 256"),
    (5, 2, 4, 4, (1 << 32) - 1, "KERNEL 2: its parameters lie beyond"),
    (5, 2, 8, 4, 25, "KERNEL 2: 25 parameters, expected 1 to 24"),
    (5, 2, 8, 4, 0, "KERNEL 2: 0 parameters"),
    (5, 2, 12, 4, 1, "KERNEL 2: reserved"),
    (5, 2, 16, 8, 1 << 63, "KERNEL 2: .* do not fit into CODE"),
    (5, 2, 24, 8, 0, "KERNEL 2: 0 bytes of code"),
    (5, 2, 32, 4, 0, "KERNEL 2: .*block"),
    (5, 2, 40, 4, 1025, "KERNEL 2: .*block"),
    (5, 2, 32, 8, 64 | 32 << 32, "KERNEL 2: a block of"),
    (5, 2, 44, 4, (1 << 20) + 1, "KERNEL 2: 1048577 bytes of local memory"),
    (6, 3, 0, 8, 1 << 20, "STEP 0: argument 3 has 12804 bytes, its kernel needs 1048576"),
    (6, 3, 8, 4, 4, "PARAM 3: access 4, expected 0 to 3"),
    (6, 3, 12, 4, 1, "PARAM 3: reserved"),
    (6, 0, 8, 4, 3, "STEP 0: argument 0 would write into the weights"),
    (7, 1, 0, 4, 4, "STEP 1: kernel 4 of 4"),
    (7, 1, 4, 4, 99, "STEP 1: its arguments lie beyond"),
    (7, 1, 8, 4, 2, "STEP 1: 2 arguments, its kernel has 3 parameters"),
    (7, 1, 12, 4, 1 << 30, "STEP 1: its label lies beyond"),
    (7, 1, 16, 4, 0, r"STEP 1: grid\[0\] is 0"),
    (7, 1, 16, 4, (1 << 24) + 1, r"STEP 1: grid\[0\] is 16777217, expected 1 to 16777216"),
    (7, 1, 20, 4, 2, r"STEP 1: grid\[1\] and grid\[2\] are 2 and 1, expected 1 on a cpu"),
    (7, 1, 28, 4, 2, "STEP 1: reserved"),
    (7, 1, 44, 4, 1, "STEP 1: reserved"),
    (8, 5, 0, 4, 8, "ARG 5: buffer 8 of 8"),
    (9, 1, 4, 4, 3, "ENTRY 1: kind 3, expected 0 to 2"),
    (9, 1, 4, 4, 0, "ENTRY 1: kind 0 is there twice"),
    (9, 1, 8, 4, 99, "ENTRY 1: its steps lie beyond"),
    (9, 1, 16, 4, 5, "ENTRY 1: 5 tokens and 1 logits, expected 4 and 1"),
    (9, 1, 20, 4, 2, "ENTRY 1: 4 tokens and 2 logits, expected 4 and 1"),
    (9, 1, 24, 4, 8, "ENTRY 1: ids is buffer 8 of 8"),
    (9, 1, 24, 4, 0, "ENTRY 1: ids is in region 0"),
    (9, 1, 32, 4, 5, "ENTRY 1: logits is in region 3 with dtype 3, expected region 3 and dtype 0"),
    (9, 1, 28, 4, 7, "ENTRY 1: params is in region 3 with dtype 0"),
    (9, 1, 36, 4, 1, "ENTRY 1: reserved"),
    (9, 1, 4, 4, 2, "ENTRY 1: 4 tokens and 1 logits, expected 4 and 4"),
]


@pytest.mark.parametrize(("section", "record", "at", "width", "value", "match"), FIELDS)
def test_what_a_refusal_says(tmp_path, section, record, at, width, value, match):
    path = write_toy(tmp_path / "a.moss", toy())
    data = bytearray(path.read_bytes())
    size = {3: 64, 4: 32, 5: 48, 6: 16, 7: 48, 8: 4, 9: 48}[section]
    offset = sections(data)[section][0] + size * record + at
    data[offset : offset + width] = value.to_bytes(width, "little")
    path.write_bytes(sealed(data))
    with pytest.raises(ArtifactError, match=match):
        CompiledModel(path, allow_native=True)


def test_no_flipped_bit_of_the_code_is_run(tmp_path):
    """Damaged code could do anything: the checksum finds it, and every other damage outside the weights."""
    path = write_toy(tmp_path / "a.moss", toy())
    whole = path.read_bytes()
    rng = random.Random(5)
    for kind, (start, size) in sections(whole).items():
        if kind == 12:
            continue
        for at in range(start, start + size) if kind == 10 else rng.sample(range(start, start + size), min(size, 20)):
            data = bytearray(whole)
            data[at] ^= 1 << rng.randrange(8)
            path.write_bytes(data)
            with pytest.raises(ArtifactError):
                CompiledModel(path, allow_native=True)
            with pytest.raises(ArtifactError):
                read(path)


HEADER = [
    (0, b"GGUF", "does not start with"),
    (6, b"\n\n", "does not start with"),
    (8, b"\x01", "format version 1, this library reads version 2"),
    (12, b"\x00", "0 sections, expected 1 to 64"),
    (12, b"\x41", "65 sections, expected 1 to 64"),
    (16, b"\x00", "its header says .* damaged"),
    (24, b"\x48", "table at offset 72, expected 64"),
    (64, b"\x63", "section 0 is of type 99, which this library does not know but must"),
    (64 + 32 * 10, b"\x01", "section STR is there twice"),
    (68, b"\x03", "section 0: reserved bits"),
    (92, b"\x06", "section 0 is of variant 6, expected 0 to 5"),
    (88, b"\x01", "section 0 .STR. is damaged"),
    (72, b"\x01", "section 0 at offset .* multiple of 64"),
    (72, b"\x00\x00", "section 0 overlaps"),
    (80, b"\xff" * 8, "section 0 lies beyond the end"),
    (64 + 32 * 10 + 9, b"\x40", "section CODE at offset .* multiple of 65536"),
]


@pytest.mark.parametrize(("at", "value", "match"), HEADER)
def test_what_a_refusal_of_the_header_says(tmp_path, at, value, match):
    path = write_toy(tmp_path / "a.moss", toy())
    data = bytearray(path.read_bytes())
    data[at : at + len(value)] = value
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=match):
        CompiledModel(path, allow_native=True)


def test_unknown_sections_that_are_not_critical_are_skipped(tmp_path):
    path = write_toy(tmp_path / "a.moss", toy())
    data = bytearray(path.read_bytes())
    tokenizer = next(i for i in range(12) if data[64 + 32 * i] == 11)
    data[64 + 32 * tokenizer] = 77
    path.write_bytes(data)
    assert CompiledModel(path, allow_native=True).tokenizer is None
    data[64 + 32 * tokenizer + 4] = 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="type 77"):
        CompiledModel(path, allow_native=True)
