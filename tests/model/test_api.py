"""`from mossnet_tg import Model`: what the documentation of the package promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mossnet_tg import ArtifactError, DeviceError, Model, MossnetError, UsageError
from mossnet_tg.engine import Library
from mossnet_tg.sampling import SamplingParams
from tests.codegen.random_models import compile_only, reference, tokens, worst


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as m:
        m.setenv("MOSSNET_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def demo():
    return Model.load(n_threads=2)


def test_generate_is_an_iterator_of_text(demo):
    pieces = list(demo.generate("def f(x):", max_tokens=20))
    assert len(pieces) > 3 and all(isinstance(p, str) and p for p in pieces)
    assert "".join(demo.generate("def f(x):", max_tokens=20)) == "".join(pieces)


def test_sampling_repeats_with_its_seed(demo):
    def text(seed: int) -> str:
        sampling = SamplingParams(temperature=0.9, top_p=0.95, seed=seed)
        return "".join(demo.generate("import ", max_tokens=30, sampling=sampling))

    assert text(1) == text(1) != text(2)


def test_stop_strings_end_the_text(demo):
    whole = "".join(demo.generate("def f(x):", max_tokens=60))
    stop = whole[20:23]
    assert "".join(demo.generate("def f(x):", max_tokens=60, stop=[stop])) == whole[: whole.index(stop)]


def test_logits_have_a_row_a_token(demo):
    logits = demo.logits([5, 6, 7])
    assert logits.shape == (3, demo.config.vocab_size) and logits.dtype == np.float32


def test_sessions_save_restore_and_fork(demo):
    session = demo.session()
    session.prefill(list(range(50)))
    saved, fork = session.save(), session.fork()
    expected = session.decode(7)
    assert np.array_equal(fork.decode(7), expected)
    fresh = demo.session()
    fresh.restore(saved)
    assert fresh.position == 50 and np.array_equal(fresh.decode(7), expected)
    session.reset()
    assert session.position == 0 and worst(session.prefill([5, 6]), demo.logits([5, 6])[-1]) < 1e-5


def test_a_state_of_another_model_is_refused(demo, tmp_path):
    other = Model.load(compile_only(reference("mamba"), tmp_path), allow_native=True)
    with pytest.raises(ArtifactError):
        other.session().restore(demo.session().save())


def test_a_model_file_needs_consent(tmp_path):
    path = compile_only(reference("mamba"), tmp_path)
    with pytest.raises(UsageError, match="with your rights"):
        Model.load(path)
    assert Model.load(path, allow_native=True).config.vocab_size == 97


def test_no_tokenizer_is_said_when_text_is_wanted(tmp_path):
    reference("mamba").save(tmp_path, dtype=torch.float32)
    model = Model.load(tmp_path)
    with pytest.raises(UsageError, match="tokenizer"):
        model.generate("x")
    assert model.logits([1]).shape == (1, 97)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(UsageError, match="not found"):
        Model.load(tmp_path / "nothing")
    with pytest.raises(UsageError, match="unknown target 'gpu'"):
        Model.load(target="gpu")
    with pytest.raises(UsageError, match=r"no .* processor that LLVM knows"):
        Model.load(target="cpu:mcpu=znver99")
    with pytest.raises(UsageError, match="chunk"):
        Model.load(chunk=1)
    with pytest.raises(DeviceError, match="no device NOSUCH"):
        Model.load(target="tinygrad:NOSUCH")


def test_a_second_load_compiles_nothing(tmp_path, monkeypatch):
    reference("mamba").save(tmp_path, dtype=torch.float32)
    Model.load(tmp_path)
    steps: list[str] = []
    Model.load(tmp_path, progress=steps.append)
    assert not steps
    Model.load(tmp_path, chunk=32, progress=steps.append)  # another option, another model file
    assert steps


def test_a_damaged_cache_entry_is_made_anew(tmp_path):
    reference("mamba").save(tmp_path, dtype=torch.float32)
    path = Model.load(tmp_path).path
    path.write_bytes(path.read_bytes()[:-10])
    assert Model.load(tmp_path).logits([1]).shape == (1, 97)


def test_the_cache_keeps_to_its_own_files(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "mine.moss").write_bytes(b"the user's own")
    monkeypatch.setenv("MOSSNET_CACHE_DIR", str(folder))
    monkeypatch.setenv("MOSSNET_CACHE_GIB", "0")
    reference("mamba").save(tmp_path / "a", dtype=torch.float32)
    reference("mamba", seed=1).save(tmp_path / "b", dtype=torch.float32)
    kept = [Model.load(tmp_path / name).path for name in "ab"]
    assert sorted(folder.iterdir()) == sorted([kept[1], folder / "mine.moss"])  # the newest is never removed
    monkeypatch.setenv("MOSSNET_CACHE_GIB", "lots")
    with pytest.raises(UsageError, match="MOSSNET_CACHE_GIB is 'lots'"):
        Model.load(tmp_path / "a")


def test_what_cannot_run_here_is_said_before_it_is_compiled(tmp_path):
    steps: list[str] = []
    with pytest.raises(ArtifactError, match="is for"):
        Model.load(
            target="cpu:arch=aarch64" if Library.default().cpu_arch == "x86_64" else "cpu:arch=x86_64",
            progress=steps.append,
        )
    for mcpu in ("x86-64", "core2", "pentium4"):
        with pytest.raises(UsageError, match=r"SSE4\.2|32-bit"):
            Model.load(target=f"cpu:arch=x86_64,mcpu={mcpu}", progress=steps.append)
    assert not steps


def test_an_edited_checkpoint_is_compiled_anew(tmp_path):
    reference("mamba", seed=0).save(tmp_path, dtype=torch.float32)
    first = Model.load(tmp_path).logits([1, 2])
    reference("mamba", seed=1).save(tmp_path, dtype=torch.float32)
    assert not np.allclose(Model.load(tmp_path).logits([1, 2]), first)


def test_plain_tinygrad_says_the_same(tmp_path):
    """The uncompiled graph on a device of tinygrad's, PYTHON, which every machine has."""
    model = reference("attention")
    model.save(tmp_path, dtype=torch.float32)
    ids = tokens(7)
    with torch.no_grad():
        expected = model(torch.from_numpy(ids[None]).long())[0][0].numpy()
    session = Model.load(tmp_path, "tinygrad:PYTHON").session()
    assert worst(session.score(ids[:6]), expected[:6]) < 2e-4
    assert worst(session.decode(int(ids[6])), expected[6]) < 2e-4


def test_every_error_is_a_mossnet_error():
    assert all(issubclass(e, MossnetError) for e in (ArtifactError, DeviceError, UsageError))
