"""Programs that break things at random, under sanitizers, and how long they do."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.toy import RUNTIME, build

HERE = Path(__file__).parent
# Executions of each fuzzer; MOSSNET_FUZZ makes them long.
N_RANDOM = int(os.environ.get("MOSSNET_FUZZ", "100000"))
_SANITIZE = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wall", "-Wextra", "-Werror")
# The freed is not kept long: a harness allocates hundreds of thousands of times.
_ENVIRONMENT = {"ASAN_OPTIONS": "quarantine_size_mb=2:thread_local_quarantine_size_kb=64"}

Mutant = Sequence[tuple[int, bytes]]  # places, and the four bytes that are put there


def seeds(kind: str) -> list[Any]:
    """The valid files of a kind that fuzzing begins with, as pytest's parameters."""
    found = sorted((HERE / "seeds" / kind).iterdir())
    assert found
    return [pytest.param(path, id=path.stem) for path in found]


class Harness:
    """One of this folder's C programs, built with so much of the library."""

    def __init__(self, folder: Path, name: str, linked: Sequence[str], *more: str) -> None:
        if not shutil.which("gcc"):
            pytest.skip("no gcc to build the harness with")
        sources = [HERE / f"{name}.c", *(HERE / f"{m}.c" for m in more), *(RUNTIME / f"{n}.c" for n in linked)]
        self.program = build(folder / name, sources, f"-I{HERE}", *_SANITIZE)

    def __call__(self, seed: Path, *arguments: Any, stdin: bytes | None = None, folder: Path | None = None) -> str:
        """What it prints."""
        command = [self.program, seed, *map(str, arguments)]
        environment = {**os.environ, **_ENVIRONMENT}
        done = subprocess.run(command, input=stdin, capture_output=True, env=environment, cwd=folder)
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
        return done.stdout.decode()

    def verdicts(self, seed: Path, mutants: Sequence[Mutant]) -> str:
        """1 for each mutant that is accepted, else 0."""
        stream = b"".join(
            struct.pack("<I", len(m)) + b"".join(struct.pack("<I", offset) + word for offset, word in m)
            for m in mutants
        )
        return self(seed, "patches", stdin=stream)


def mutated(seed: bytes, mutant: Mutant) -> bytes:
    """The seed with its places changed."""
    data = bytearray(seed)
    for offset, word in mutant:
        data[offset : offset + 4] = word
    return bytes(data)
