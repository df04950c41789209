"""Broken checkpoint files: refused with CheckpointError, or read as the format's own library reads them."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from mossnet_tg.weights.safetensors_file import CheckpointError, SafetensorsFile
from tests.fuzz.harness import N_RANDOM, seeds
from tests.weights.test_safetensors_file import library

PIECES = [b"0", b"1", b"8", b"16", b"-", b".", b"e", b'"', b"{", b"}", b"[", b"]", b",", b":", b" ", b"\\", b"\n",
          b"null", b"F32", b"F16", b"U8", b"a", b"b", b"9" * 20, b"\xff", b"\\u0061", b'"a":']  # fmt: skip


def mutant(seed: bytes, rng: random.Random) -> bytes:
    """The seed with its header changed in a few places, and nearly always of the length that it says."""
    end = 8 + int.from_bytes(seed[:8], "little")
    header, content = bytearray(seed[8:end]), seed[end:]
    for _ in range(rng.choice((1, 1, 2, 4))):
        i = rng.randrange(len(header))
        match rng.randrange(4):
            case 0:
                header[i : i + 1] = rng.choice(PIECES)
            case 1:
                header[i:i] = rng.choice(PIECES)
            case 2:
                del header[i : i + rng.randrange(1, 20)]
            case 3:
                j = rng.randrange(len(header))
                header[i:i] = header[j : j + rng.randrange(1, 40)]
    if rng.randrange(8) == 0:
        content = content[: rng.randrange(len(content) + 1)]
    n_bytes = len(header) + rng.choice((-1, 1, 1 << 40)) * (rng.randrange(50) == 0)
    return max(n_bytes, 0).to_bytes(8, "little") + header + content


@pytest.mark.parametrize("seed", seeds("safetensors"))
def test_random_mutants(tmp_path: Path, seed: Path) -> None:
    rng, whole, n_taken = random.Random(5), seed.read_bytes(), 0
    n = N_RANDOM // 48
    for i in range(n):
        content = mutant(whole, rng) if i else whole
        path = tmp_path / f"{i % 2}.safetensors"
        path.unlink(missing_ok=True)  # a new file: an earlier mapping stays valid
        path.write_bytes(content)
        try:
            file = SafetensorsFile.open(path)
        except CheckpointError as e:
            assert path.name in str(e) and i
            continue
        n_taken += 1
        theirs = library(content)
        ours = {name: (t.dtype.upper(), list(t.shape), t.content.tobytes()) for name, t in file.tensors.items()}
        assert ours == theirs
    assert n // 100 < n_taken < n // 2, os.fspath(seed)
