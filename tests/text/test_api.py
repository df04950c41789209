"""Text in and out through mossnet.h: capacities, lifetimes, and files without TEXT."""

from __future__ import annotations

import ctypes
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mossnet_tg.codegen import moss_file
from mossnet_tg.engine import CompiledModel
from mossnet_tg.errors import ArtifactError, UsageError
from tests.runtime.toy import toy, write_toy
from tests.text.kinds import model_of


@pytest.fixture
def model(tmp_path: Path) -> CompiledModel:
    return model_of("demo", tmp_path)


def test_room_for_ids(model: CompiledModel) -> None:
    ids = model.encode("def f(x):\n    return x")
    out, n = np.full(len(ids) + 1, -7, np.int32), ctypes.c_size_t()
    arguments = (model.pointer, b"def f(x):\n    return x", 22, out.ctypes.data)
    model.library.check("model_encode", *arguments, len(ids), ctypes.byref(n))
    assert n.value == len(ids) and out.tolist() == [*ids.tolist(), -7]
    out[:] = -7
    with pytest.raises(UsageError, match=f"room for 3 ids, the text has {len(ids)}"):
        model.library.check("model_encode", *arguments, 3, ctypes.byref(n))
    assert n.value == len(ids) and out.tolist() == [*ids.tolist()[:3], *[-7] * (len(ids) - 2)]


def test_a_text_that_is_too_long_is_refused_before_it_is_read(model: CompiledModel) -> None:
    n = ctypes.c_size_t(9)
    with pytest.raises(UsageError, match="1073741825 bytes of text, at most 1073741824"):
        model.library.check("model_encode", model.pointer, b"", (1 << 30) + 1, None, 0, ctypes.byref(n))
    assert n.value == 0


def test_a_decoder_keeps_its_model(model: CompiledModel) -> None:
    ids = model.encode("moss").tolist()
    with model.decoder() as decoder:
        model.close()
        assert "".join(map(decoder.push, ids)) + decoder.flush() == "moss"


def test_a_decoder_begins_anew(model: CompiledModel) -> None:
    ids = model.encode("🌱").tolist()
    decoder = model.decoder()
    assert [decoder.push(i) for i in ids[:1]] == [""] and decoder.flush() == "\ufffd"
    assert decoder.flush() == "" and "".join(map(decoder.push, ids)) == "🌱"


def test_a_file_without_text(tmp_path: Path) -> None:
    model = CompiledModel(write_toy(tmp_path / "a.moss", toy()), allow_native=True)
    with pytest.raises(ArtifactError, match="the model file has no TEXT"):
        model.encode("a")
    with pytest.raises(ArtifactError, match="the model file has no TEXT"):
        model.decoder()


def test_the_section_is_read_back_and_checked(tmp_path: Path, model: CompiledModel) -> None:
    moss = moss_file.read(tmp_path / "text.moss")
    assert len(moss.text) > 1000
    damaged = dataclasses.replace(moss, text=moss.text[:-1])
    with pytest.raises(ArtifactError, match=r"TEXT: \d+ bytes, its header says"):
        write_toy(tmp_path / "b.moss", damaged)
    assert not (tmp_path / "b.moss").exists()
