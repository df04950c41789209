"""`mossnet-tg perplexity`: its numbers on a compiled model, and everything that can go wrong."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mossnet_tg import Model
from mossnet_tg.config import Config
from mossnet_tg.weights.reference.model import MossNet
from tests.cli.conftest import Run, Start
from tests.devices import Row

TEXT = "the quick brown fox and the lazy dog\nnaïve fox\n" * 12


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def perplexity(run: Run, moss: Path) -> Run:
    """`perplexity` on the compiled tiny model."""
    return lambda *args, **options: run("perplexity", moss, "--allow-native", *args, **options)


@pytest.fixture(scope="module")
def other(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with one matrix that is not the same."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("other") / "other"
    shutil.copytree(tiny, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["norm_f.weight"] *= 1.1
    save_file(tensors, folder / "model.safetensors")
    return folder


def log_p(path: Path, ids: list[int]) -> np.ndarray:
    logits = Model.load(path, allow_native=True).logits(ids).astype(np.float64)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def test_the_numbers_of_a_text(perplexity: Run, moss: Path, text: Path) -> None:
    found = perplexity("-f", text, "--json")
    assert found.exit_code == 0 and found.stderr == ""
    facts = json.loads(found.stdout)
    ids = Model.load(moss, allow_native=True).tokenizer.encode(TEXT)
    nats = -log_p(moss, ids[:-1])[np.arange(len(ids) - 1), ids[1:]].mean()
    assert facts["n_tokens"] == len(ids) - 1
    assert facts["n_bytes"] == len(TEXT.encode()) - 3  # the first token, "the", is not predicted
    assert facts["nll"] == pytest.approx(nats, rel=1e-5)
    assert facts["perplexity"] == pytest.approx(math.exp(facts["nll"]))
    assert facts["bits_per_byte"] == pytest.approx(facts["nll"] * len(ids[1:]) / math.log(2) / facts["n_bytes"])
    assert facts["seconds"] > 0 and facts["tokens_per_s"] == pytest.approx(facts["n_tokens"] / facts["seconds"])
    assert (facts["model"], facts["weights"]) == ("tiny", "f32") and facts["target"].startswith("cpu:")
    assert not {"kl", "same_top", "against"} & facts.keys()


def test_a_table_for_people(perplexity: Run, text: Path) -> None:
    facts = json.loads(perplexity("-f", text, "--json").stdout)
    lines = perplexity("-f", text).stdout.splitlines()
    rows = {line[2:14].strip(): line[14:].strip() for line in lines}
    assert list(rows) == ["model", "target", "perplexity", "nats/token", "bits/byte", "text", "speed"]
    assert rows["perplexity"] == f"{facts['perplexity']:.4f}" and rows["model"] == "tiny, f32"
    assert rows["text"] == f"{facts['n_tokens']:,} tokens, {facts['n_bytes']:,} bytes"


def test_a_text_begins_behind_the_end_of_another(run: Run, with_meta: Callable[..., Path], text: Path) -> None:
    path = with_meta(eos="7,3")
    facts = json.loads(run("perplexity", path, "--allow-native", "-f", text, "--json").stdout)
    ids = [7, *Model.load(path, allow_native=True).tokenizer.encode(TEXT)]
    assert (facts["n_tokens"], facts["n_bytes"]) == (len(ids) - 1, len(TEXT.encode()))
    nats = -log_p(path, ids[:-1])[np.arange(len(ids) - 1), ids[1:]].mean()
    assert facts["nll"] == pytest.approx(nats, rel=1e-5)


def test_where_texts_come_from(perplexity: Run, text: Path) -> None:
    expected = json.loads(perplexity("-f", text, "--json").stdout)
    for content in (TEXT.encode(), b"\xef\xbb\xbf" + TEXT.encode()):
        found = json.loads(perplexity("-f", "-", "--json", stdin=content).stdout)
        assert (found["nll"], found["n_bytes"]) == (expected["nll"], expected["n_bytes"])
    longer = json.loads(perplexity("-f", "-", "--json", stdin=TEXT + "\n").stdout)
    assert longer["n_bytes"] == expected["n_bytes"] + 1  # nothing of the text is dropped


def test_a_limit_of_tokens(perplexity: Run, text: Path) -> None:
    whole = json.loads(perplexity("-f", text, "--json").stdout)
    few = json.loads(perplexity("-f", text, "-n", "9", "--json").stdout)
    assert few["n_tokens"] == 9 and 0 < few["n_bytes"] < whole["n_bytes"]
    assert json.loads(perplexity("-f", text, "--tokens", "100000", "--json").stdout)["nll"] == whole["nll"]


def test_beside_another_model(run: Run, tiny: Path, moss: Path, other: Path, text: Path) -> None:
    found = run("perplexity", other, "-f", text, "--against", tiny, "--json")
    assert found.exit_code == 0, found.stderr
    facts = json.loads(found.stdout)
    ids = Model.load(moss, allow_native=True).tokenizer.encode(TEXT)[:-1]
    p, q = log_p(other, ids), log_p(tiny, ids)
    assert facts["kl"] == pytest.approx((np.exp(q) * (q - p)).sum(1).mean(), rel=1e-3) and facts["kl"] > 0
    assert facts["same_top"] == pytest.approx((p.argmax(1) == q.argmax(1)).mean())
    assert (facts["against"], facts["against_weights"]) == ("tiny", "f32")
    rows = run("perplexity", other, "-f", text, "--against", tiny).stdout
    assert f"{facts['kl']:.3e} nats/token" in rows and f"{100 * facts['same_top']:.2f} %" in rows
    same = run("perplexity", tiny, "-f", text, "--against", moss, "--allow-native", "--chunk", "128", "--json")
    assert (json.loads(same.stdout)["kl"], json.loads(same.stdout)["same_top"]) == (0, 1)


def test_another_model_has_to_have_the_same_tokens(run: Run, tiny: Path, tmp_path: Path, text: Path) -> None:
    from mossnet_tg.weights.checkpoint import DEMO

    refused = run("perplexity", tiny, "-f", text, "--against", DEMO)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "a vocabulary of 2048 tokens, expected 300 as the model has" in refused.stderr
    folder = tmp_path / "words"
    shutil.copytree(tiny, folder)
    words = json.loads((folder / "tokenizer.json").read_text())
    words["model"]["merges"] = []
    (folder / "tokenizer.json").write_text(json.dumps(words))
    refused = run("perplexity", tiny, "-f", text, "--against", folder)
    assert (refused.exit_code, refused.stdout) == (2, "") and "other tokens of the text" in refused.stderr


@pytest.fixture(scope="module")
def attending(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose attention has no window, with the tiny one's tokenizer."""
    folder = tmp_path_factory.mktemp("attending") / "attending"
    swa = {"layers": [0], "window": None, "n_heads": 2, "n_kv_heads": 1, "head_dim": 4}
    config = {"model_type": "mossnet", "d_model": 16, "n_layer": 1, "vocab_size": 300, "ssm": {"d_state": 2}}
    MossNet(Config.from_dict({**config, "swa": swa})).save(folder)
    shutil.copy(tiny / "tokenizer.json", folder)
    return folder


def test_attention_without_a_window_begins_anew(run: Run, attending: Path, tiny: Path, text: Path) -> None:
    """As often as its context is full; of two models the shorter one counts."""
    args = ("perplexity", attending, "-f", text, "--json", "--chunk", "8")
    whole, cut = (json.loads(run(*args, "--context", n).stdout) for n in ("4096", "16"))
    n_tokens = whole["n_tokens"]
    assert n_tokens == cut["n_tokens"] > 100 and abs(whole["nll"] - cut["nll"]) > 1e-4
    ids = Model.load(attending).tokenizer.encode(TEXT)
    nats = 0.0
    for i in range(0, n_tokens, 16):
        window = ids[i : i + 17]
        nats -= log_p(attending, window[:-1])[np.arange(len(window) - 1), window[1:]].sum()
    assert cut["nll"] == pytest.approx(nats / n_tokens, rel=1e-4)
    beside = run("perplexity", tiny, "-f", text, "--json", "--chunk", "8", "--context", "16", "--against", attending)
    assert beside.exit_code == 0 and json.loads(beside.stdout)["n_tokens"] == n_tokens
    few = (*args[:5], "-n", "7", "--context", "3")
    plain, compiled = (run(*few, "--target", target) for target in ("tinygrad:PYTHON", "cpu"))
    assert plain.exit_code == compiled.exit_code == 0, plain.stderr
    assert json.loads(plain.stdout)["nll"] == pytest.approx(json.loads(compiled.stdout)["nll"], rel=1e-4)


def test_texts_that_are_none(perplexity: Run, run: Run, tmp_path: Path) -> None:
    missing = perplexity("-f", tmp_path / "missing.txt")
    assert missing.exit_code == 2 and "missing.txt: the text cannot be read: No such file" in missing.stderr
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    latin = perplexity("-f", tmp_path / "latin")
    assert latin.exit_code == 2 and "byte 3 is 0xe9, expected UTF-8" in latin.stderr
    empty = perplexity("-f", "-", stdin="")
    assert empty.exit_code == 2 and "stdin: the text is empty, expected" in empty.stderr
    short = perplexity("-f", "-", stdin="t")
    assert (short.exit_code, short.stdout) == (2, "") and "has 1 tokens, expected at least 2" in short.stderr
    assert "Missing option '-f'" in perplexity().stderr
    # Before a model is looked for.
    assert "missing.txt" in run("perplexity", tmp_path / "no-model", "-f", tmp_path / "missing.txt").stderr


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("-n", "0"), "0 is not in the range"),
        (("-t", "-1"), "-1 is not in the range"),
        (("--chunk", "16"), "--chunk cannot be changed in a compiled model"),
        (("--against", "nowhere"), "nowhere: not found"),
    ],
)
def test_what_is_refused(perplexity: Run, args: tuple[str, str], text: str) -> None:
    found = perplexity("-f", "-", *args, stdin=TEXT)
    assert (found.exit_code, found.stdout) == (2, "") and text in found.stderr


def test_a_model_without_a_tokenizer(run: Run, tiny: Path, tmp_path: Path, text: Path) -> None:
    folder = tmp_path / "mute"
    shutil.copytree(tiny, folder)
    (folder / "tokenizer.json").unlink()
    for args in ((folder,), (tiny, "--against", folder)):
        found = run("perplexity", *args, "-f", text)
        assert (found.exit_code, found.stdout) == (2, "") and "no tokenizer.json" in found.stderr


def test_weights_that_are_no_numbers(run: Run, tiny: Path, tmp_path: Path, text: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "nan"
    shutil.copytree(tiny, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["norm_f.weight"][3] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    found = run("perplexity", folder, "-f", text)
    assert (found.exit_code, found.stdout) == (1, "") and "of the text hold NaN or infinity" in found.stderr


def test_progress_says_how_far_it_is(perplexity: Run, tmp_path: Path) -> None:
    (tmp_path / "long").write_text(TEXT * 20)
    found = perplexity("-f", tmp_path / "long", "-v")
    steps = re.findall(r"(\d+) % of (\d+) tokens, [\d.]+ tok/s, perplexity [\d.]+\n", found.stderr)
    assert len(steps) > 3 and steps[-1][0] == "100" and int(steps[0][0]) < 100


def test_ctrl_c_says_what_was_found(start: Start, moss: Path, tmp_path: Path) -> None:
    (tmp_path / "long").write_text(TEXT * 4000)
    process = start("-v", "perplexity", moss, "--allow-native", "-f", tmp_path / "long", "--json")
    assert process.stderr is not None
    while b"tok/s" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, b"") and b"Traceback" not in err
    assert re.search(rb"interrupted after \d+ % of \d+ tokens: perplexity [\d.]+\n$", err)


def test_on_a_gpu(run: Run, gpu: Row, gpu_moss: Path, moss: Path, text: Path) -> None:
    args = ("--allow-native", "-f", text, "--json")
    expected = json.loads(run("perplexity", moss, *args).stdout)
    found = run("perplexity", gpu_moss, *args, "--device", gpu.device, "-t", "3")
    assert found.exit_code == 0 and "--threads is for the processor" in found.stderr
    facts = json.loads(found.stdout)
    assert facts["nll"] == pytest.approx(expected["nll"], rel=1e-4) and facts["target"].startswith(gpu.name)


def test_uncompiled_for_debugging(run: Run, tiny: Path, moss: Path) -> None:
    args = ("-f", "-", "--json", "-n", "2")
    expected = json.loads(run("perplexity", tiny, *args, stdin=TEXT).stdout)
    facts = json.loads(run("perplexity", tiny, "--target", "tinygrad:PYTHON", *args, stdin=TEXT).stdout)
    assert facts["nll"] == pytest.approx(expected["nll"], rel=1e-4)
    assert (facts["model"], facts["target"], facts["weights"]) == (None, "tinygrad:PYTHON", None)


def test_converted_weights_and_decoding(run: Run, tiny: Path, text: Path) -> None:
    """The other model keeps its types; token by token is the same to the last digits where nothing is rounded."""
    found = [
        json.loads(run("perplexity", tiny, "-f", text, "-n", "60", "--chunk", "8", "--json", *more).stdout)
        for more in ((), ("--decode",), ("--weights", "f16", "--against", tiny))
    ]
    assert found[1]["nll"] == pytest.approx(found[0]["nll"], rel=1e-5) and found[1]["nll"] != found[0]["nll"]
    assert "f16" in found[2]["weights"] and found[2]["against_weights"] == found[0]["weights"]
    assert 0 < found[2]["kl"] < 1e-3
