"""model.moss, written and read back; what the writer promises about the disk."""

from __future__ import annotations

import dataclasses
import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest

from mossnet_tg.codegen import moss_file
from mossnet_tg.codegen.moss_file import PAGE_ALIGN, MossFile, read, read_weights, write
from mossnet_tg.engine import CompiledModel
from mossnet_tg.errors import ArtifactError, MossnetError
from tests.runtime.toy import toy, write_toy


def names(folder):
    return [path.name for path in folder.iterdir()]


def normal(moss):
    """Sequences as lists, so that what was written compares with what is read."""
    fields = {f.name: getattr(moss, f.name) for f in dataclasses.fields(MossFile)}
    return {k: list(v) if isinstance(v, list | tuple) else v for k, v in fields.items()}


@pytest.mark.parametrize(
    "options", [{}, {"with_score": False}, {"vocab_size": 1, "chunk": 1}, {"source": "Grüße, 世界"}, {"config": ""}]
)
def test_round_trip(tmp_path, options):
    moss = toy(**options)
    path = write_toy(tmp_path / "a.moss", moss)
    assert normal(read(path)) == normal(moss)
    weights = read_weights(path)
    assert weights.nbytes == moss.weights_bytes
    assert weights[256:268].view(np.int32).tolist() == [1, moss.chunk, moss.vocab_size]
    assert not weights[12:256].any()
    assert not weights.flags.writeable
    assert names(tmp_path) == ["a.moss"]


def test_no_tokenizer_and_no_meta(tmp_path):
    moss = dataclasses.replace(toy(), tokenizer=b"", meta={})
    assert normal(read(write_toy(tmp_path / "a.moss", moss))) == normal(moss)


def test_same_plan_same_bytes(tmp_path):
    first, second = (write_toy(tmp_path / name, toy()).read_bytes() for name in ("a", "b"))
    assert first == second


def test_layout(tmp_path):
    data = write_toy(tmp_path / "a.moss", toy()).read_bytes()
    table = np.frombuffer(data, "<u4,<u4,<u8,<u8,<u8", offset=64, count=int.from_bytes(data[12:16], "little"))
    kinds, offsets = table["f0"].tolist(), table["f2"]
    assert kinds == [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 10, 12]
    assert (np.diff(offsets.astype(np.int64)) > 0).all()
    assert not (offsets % 64).any()
    assert not (offsets[-2:] % PAGE_ALIGN).any()


def test_weights_of_any_kind_stream_in_order(tmp_path):
    moss = dataclasses.replace(toy(), weights_bytes=2048)
    array = np.arange(24, dtype=np.float16).reshape(4, 6)
    chunks = [(0, b"abc"), (256, memoryview(b"defg")), (512, array.T), (1024, np.float32(1.5).reshape(()))]
    write(tmp_path / "a.moss", moss, iter(chunks))
    weights = read_weights(tmp_path / "a.moss")
    assert bytes(weights[:3]) == b"abc"
    assert bytes(weights[256:260]) == b"defg"
    assert np.array_equal(weights[512:560].view(np.float16), array.T.ravel())
    assert weights[1024:1028].view(np.float32) == 1.5
    assert weights.nbytes == 2048


def test_a_file_is_written_a_large_page_at_a_time(tmp_path, monkeypatch):
    """So that the system keeps large pages of it."""
    page, written = 2 << 20, []

    class Raw(io.FileIO):
        def write(self, data):
            written.append(self.tell())
            return super().write(data)

    monkeypatch.setattr(Path, "open", lambda path, mode, buffering: io.BufferedWriter(Raw(path, mode), buffering))
    content = np.random.default_rng(0).integers(0, 256, 3 * page, np.uint8)
    parts = [(0, content[:1000]), (1000, content[1000 : page + 7]), (2 * page, content[2 * page :])]
    write(tmp_path / "a.moss", dataclasses.replace(toy(), weights_bytes=content.size), parts)
    content[page + 7 : 2 * page] = 0
    assert written == [i * page for i in range(4)]
    assert np.array_equal(read_weights(tmp_path / "a.moss"), content)


@pytest.mark.parametrize(
    "chunks", [[(256, b"a"), (0, b"b")], [(0, b"ab"), (1, b"c")], [(2048, b"a")], [(2040, bytes(9))]]
)
def test_weights_that_overlap_or_stick_out_are_a_defect(tmp_path, chunks):
    with pytest.raises(ValueError, match="bytes of weights at"):
        write(tmp_path / "a.moss", dataclasses.replace(toy(), weights_bytes=2048), chunks)
    assert names(tmp_path) == []


def test_a_plan_that_no_reader_would_accept_is_not_written(tmp_path):
    moss = toy()
    broken = dataclasses.replace(moss, entries=moss.entries[:1])
    with pytest.raises(ArtifactError, match="prefill is missing"):
        write_toy(tmp_path / "a.moss", broken)
    assert names(tmp_path) == []


def test_a_failure_keeps_the_old_file_and_leaves_nothing(tmp_path):
    path = write_toy(tmp_path / "a.moss", toy())
    before = path.read_bytes()

    def weights():
        yield 0, b"x"
        raise RuntimeError("the checkpoint ended early")

    with pytest.raises(RuntimeError, match="ended early"):
        write(path, toy(), weights())
    assert path.read_bytes() == before
    assert names(tmp_path) == ["a.moss"]


def test_a_full_disk_is_a_clear_error(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(moss_file.os, "fsync", full)
    with pytest.raises(MossnetError, match=r"a\.moss: the model cannot be written: No space left"):
        write_toy(tmp_path / "a.moss", toy())
    assert names(tmp_path) == []


def test_a_limit_on_the_file_size_is_met_like_a_full_disk(tmp_path):
    """The same through the system: a child process that may write 100 kB."""
    child = os.fork()
    if not child:
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            write_toy(tmp_path / "a.moss", toy())
        except MossnetError:
            os._exit(0 if not names(tmp_path) else 2)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_no_folder(tmp_path):
    with pytest.raises(MossnetError, match="No such file"):
        write_toy(tmp_path / "nothing" / "a.moss", toy())
    with pytest.raises(MossnetError, match="No such file"):
        read(tmp_path / "a.moss")


def test_a_model_in_use_survives_its_replacement(tmp_path):
    path = write_toy(tmp_path / "a.moss", toy())
    session = CompiledModel(path, allow_native=True).session(1)
    expected = session.prefill([1, 2, 3])
    write_toy(path, toy(vocab_size=7))
    session.reset()
    assert np.array_equal(session.prefill([1, 2, 3]), expected)
