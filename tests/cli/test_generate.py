"""`mossnet-tg generate`: where prompts come from, what goes to stdout, and everything that can go wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import mossnet_tg
from mossnet_tg.codegen import moss_file
from mossnet_tg.sampling import SamplingParams
from mossnet_tg.targets.host import cpu_name
from tests.cli.conftest import Run

PROMPT = "the quick brown"


@pytest.fixture
def generate(run: Run, moss: Path) -> Run:
    """`generate` on the compiled tiny model."""
    return lambda *args, **options: run("generate", "-m", moss, "--allow-native", *args, **options)


def expected(moss: Path, prompt: str, n: int, **sampling: float) -> str:
    model = mossnet_tg.Model.load(moss, allow_native=True)
    return "".join(model.generate(prompt, max_tokens=n, sampling=SamplingParams(**sampling)))  # type: ignore[arg-type]


def test_stdout_is_the_continuation_and_nothing_else(generate: Run, moss: Path) -> None:
    found = generate(PROMPT, "-n", "20")
    assert found.exit_code == 0, found.stderr
    assert found.stdout == expected(moss, PROMPT, 20) != "" and found.stderr == ""
    assert generate(PROMPT, "-n", "20", "--echo").stdout == PROMPT + found.stdout
    assert generate(PROMPT, "-n", "0").stdout == ""


def test_a_checkpoint_is_compiled_once(run: Run, tiny: Path, moss: Path, cache: Path) -> None:
    before = sorted(cache.iterdir())
    found = run("generate", "-m", tiny, PROMPT, "-n", "20", "--stats")
    assert found.exit_code == 0 and found.stdout == expected(moss, PROMPT, 20)
    assert sorted(cache.iterdir()) == before and "(from the cache)" in found.stderr
    assert run("generate", "-m", tiny / "model.safetensors", PROMPT, "-n", "20").stdout == found.stdout


def test_the_demo_is_the_default(run: Run, tiny: Path, moss: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mossnet_tg.weights.checkpoint.DEMO", tiny)
    assert run("generate", PROMPT, "-n", "5").stdout == expected(moss, PROMPT, 5)


def test_where_prompts_come_from(generate: Run, tmp_path: Path) -> None:
    wanted = generate(PROMPT, "-n", "8").stdout
    file = tmp_path / "prompt.txt"
    for content in (PROMPT, PROMPT + "\n", PROMPT + "\r\n", "\ufeff" + PROMPT):
        file.write_bytes(content.encode())
        assert generate("-f", file, "-n", "8").stdout == wanted
        assert generate("-n", "8", stdin=content).stdout == wanted
        assert generate("-", "-n", "8", stdin=content).stdout == wanted
        assert generate("-f", "-", "-n", "8", stdin=content).stdout == wanted
    file.write_text(PROMPT + "\n\n")
    assert generate("-f", file, "-n", "8").stdout == generate(PROMPT + "\n", "-n", "8").stdout != wanted
    assert generate("--", "-n", "-n", "8").exit_code == 2
    assert generate("-n", "8", "--echo", "--", "-n").stdout.startswith("-n")


def test_prompts_that_are_none(generate: Run, tmp_path: Path) -> None:
    both = generate(PROMPT, "-f", tmp_path / "x")
    assert both.exit_code == 2 and "expected one of them" in both.stderr
    missing = generate("-f", tmp_path / "missing.txt")
    assert missing.exit_code == 2 and "missing.txt: the prompt cannot be read: No such file" in missing.stderr
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    latin = generate("-f", tmp_path / "latin")
    assert latin.exit_code == 2 and "byte 3 is 0xe9, expected UTF-8" in latin.stderr
    assert generate(stdin=b"\xff").exit_code == 2


def test_an_empty_prompt_begins_a_text(generate: Run, run: Run, with_meta: Callable[..., Path]) -> None:
    refused = generate("")
    assert refused.exit_code == 2 and "the prompt is empty" in refused.stderr and "hint: " in refused.stderr
    path = with_meta(eos="3")
    begun = run("generate", "-m", path, "--allow-native", "", "-n", "4")
    assert begun.exit_code == 0 and begun.stdout == run("generate", "-m", path, "--allow-native", "-n", "4").stdout


def test_a_seed_gives_the_same_text(generate: Run, moss: Path) -> None:
    sampled = ("-n", "30", "--temp", "1.5")
    first = generate(PROMPT, *sampled, "--seed", "7")
    assert first.exit_code == 0 and first.stdout == generate(PROMPT, *sampled, "--seed", "7", "-t", "1").stdout
    assert first.stdout == expected(moss, PROMPT, 30, temperature=1.5, seed=7)
    assert first.stdout != generate(PROMPT, *sampled, "--seed", "8").stdout
    assert generate(PROMPT, *sampled).stdout == generate(PROMPT, *sampled, "--seed", "0").stdout


def test_sampling_options_reach_the_sampler(generate: Run, moss: Path) -> None:
    spelled = ["--top-k", "9", "--top-p", "0.9", "--min-p", "0.01", "--repeat-penalty", "1.3"]
    options = {"top_k": 9, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.3, "repetition_window": 5}
    found = generate(PROMPT, "-n", "30", "--temperature", "1.2", "--repetition-window", "5", *spelled)
    assert found.stdout == expected(moss, PROMPT, 30, temperature=1.2, **options)
    refused = generate(PROMPT, "--top-p", "3")
    assert (refused.exit_code, refused.stdout) == (2, "") and "top_p is 3.0, expected a number from" in refused.stderr


def test_stop_strings(generate: Run) -> None:
    text = generate(PROMPT, "-n", "40").stdout
    for stop in (text[7:9], text[12:13]):
        found = generate(PROMPT, "-n", "40", "--stop", "never there", "--stop", stop, "--stats")
        assert found.stdout == text[: text.index(stop)] and "(ended by stop)" in found.stderr
    assert generate(PROMPT, "--stop", "").exit_code == 2


@pytest.mark.parametrize("args", [("-n", "-2"), ("-t", "-1"), ("-t", "5000"), ("-n", "many")])
def test_numbers_out_of_range(generate: Run, args: tuple[str, str]) -> None:
    found = generate(PROMPT, *args)
    assert (found.exit_code, found.stdout) == (2, "") and args[1] in found.stderr


def test_no_limit_ends_at_the_end_of_the_text(run: Run, moss: Path, with_meta: Callable[..., Path]) -> None:
    model = mossnet_tg.Model.load(moss, allow_native=True)
    session, ids = model.session(), []
    logits = session.prefill(model.tokenizer.encode(PROMPT))
    for _ in range(12):
        ids.append(int(logits.argmax()))
        logits = session.decode(ids[-1])
    found = run("generate", "-m", with_meta(eos=str(ids[-1])), "--allow-native", PROMPT, "-n", "-1", "--stats")
    assert found.exit_code == 0 and "(ended by eos)" in found.stderr
    assert found.stdout == expected(moss, PROMPT, ids.index(ids[-1])) != ""


def test_stats_are_for_people_and_on_stderr(generate: Run) -> None:
    found = generate(PROMPT, "-n", "5", "--stats")
    assert found.stdout == generate(PROMPT, "-n", "5").stdout
    lines = found.stderr.splitlines()
    assert [line.split()[0] for line in lines] == ["device", "load", "prompt", "first", "decode"]
    assert "(compiled before)" in lines[1] and "4 tokens" in lines[4] and "ended by max_tokens" in lines[4]
    assert re.search(r"\d+ tokens, \d+\.\d tok/s", lines[2]) and lines[0].split(None, 1)[1] == cpu_name()


def test_verbosity_says_what_was_loaded(generate: Run) -> None:
    said = [generate(PROMPT, "-n", "1", *v).stderr for v in ((), ("-v",), ("-vv",))]
    loaded = r"loaded tiny in \d+\.\d\d s \(compiled before\)\n"
    assert said[0] == "" and re.fullmatch(f"{loaded}device: {re.escape(cpu_name())}\n", said[1])
    assert re.search(r"\d+ steps a token, prefill chunk 128, .* per session\n", said[2])


def test_a_model_file_needs_consent(run: Run, moss: Path) -> None:
    found = run("generate", "-m", moss, PROMPT)
    assert (found.exit_code, found.stdout) == (2, "")
    assert "processor, with your rights" in found.stderr and "--allow-native" in found.stderr


@pytest.mark.parametrize("args", [("--chunk", "16"), ("--context", "64"), ("--target", "cpu")])
def test_what_is_compiled_stays(generate: Run, args: tuple[str, str]) -> None:
    found = generate(PROMPT, *args)
    assert found.exit_code == 2 and f"{args[0]} cannot be changed in a compiled model" in found.stderr


def test_a_model_file_that_is_cut(run: Run, moss: Path, tmp_path: Path) -> None:
    content = moss.read_bytes()
    for n in (0, 3, 40, 4096, len(content) - 1):
        cut = tmp_path / "cut.moss"
        cut.write_bytes(content[:n])
        found = run("generate", "-m", cut, "--allow-native", PROMPT)
        assert (found.exit_code, found.stdout) == (4, ""), (n, found.stderr)
        assert found.stderr.startswith("error: ") and "Traceback" not in found.stderr


def test_a_model_for_another_cpu(run: Run, with_meta: Callable[..., Path]) -> None:
    lacking = run("generate", "-m", with_meta(features="avx2,avx9000"), "--allow-native", PROMPT)
    assert (lacking.exit_code, lacking.stdout) == (4, "")
    assert "avx9000" in lacking.stderr and "hint: compile the model on this machine" in lacking.stderr
    other = {"x86_64": "aarch64", "aarch64": "x86_64"}[moss_file.read(with_meta()).meta["arch"]]
    elsewhere = run("generate", "-m", with_meta(arch=other), "--allow-native", PROMPT)
    assert elsewhere.exit_code == 4 and other in elsewhere.stderr


def test_models_that_are_not_there(run: Run, tmp_path: Path) -> None:
    missing = run("generate", "-m", tmp_path / "gone", PROMPT)
    assert missing.exit_code == 2 and "gone: not found" in missing.stderr and "hint: " in missing.stderr
    empty = run("generate", "-m", tmp_path, PROMPT)
    assert empty.exit_code == 2 and "config.json" in empty.stderr
    (tmp_path / "notes.txt").write_text("no model at all, " * 9)
    text = run("generate", "-m", tmp_path / "notes.txt", "--allow-native", PROMPT)
    assert text.exit_code == 4 and "no model.moss" in text.stderr


def test_a_model_without_a_tokenizer(run: Run, moss: Path, tmp_path: Path) -> None:
    import dataclasses

    path = tmp_path / "mute.moss"
    found = dataclasses.replace(moss_file.read(moss), tokenizer=b"")
    moss_file.write(path, found, [(0, moss_file.read_weights(moss))])
    mute = run("generate", "-m", path, "--allow-native", PROMPT)
    assert mute.exit_code == 2 and "no tokenizer" in mute.stderr


def test_damaged_weights_are_warned_of_at_every_load(run: Run, with_meta: Callable[..., Path]) -> None:
    path = with_meta(nan_tensors="layers.0.ssm.D,a,b,c,d")
    for _ in range(2):
        found = run("generate", "-m", path, "--allow-native", PROMPT, "-n", "2")
        assert found.exit_code == 0 and found.stdout
        assert found.stderr.startswith("warning: the weights hold NaN or infinity")
        assert "layers.0.ssm.D, a, b and 2 more" in found.stderr


def test_a_checkpoint_with_nan(run: Run, tiny: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "nan"
    shutil.copytree(tiny, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["norm_f.weight"][3] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    found = run("generate", "-m", folder, PROMPT, "-n", "2", "--chunk", "8")
    assert found.stderr.startswith("warning: the weights hold NaN") and "norm_f.weight" in found.stderr
    assert found.exit_code == 2 and "error: " in found.stderr and found.stdout == ""


def test_a_prompt_of_a_million_characters(generate: Run, tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text("the quick brown fox " * 50_000)
    found = generate("-f", file, "-n", "2", "--stats", "-v")
    assert found.exit_code == 0 and found.stdout
    steps = re.findall(r"prompt (\d+)/(\d+) tokens", found.stderr)
    assert len(steps) > 100 and steps[-1][0] == steps[-1][1]


def test_a_cache_that_cannot_be_written(run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOSSNET_CACHE_DIR", str(tmp_path / "file" / "cache"))
    found = run("generate", "-m", tiny, PROMPT)
    assert (found.exit_code, found.stdout) == (1, "")
    assert "the cache folder cannot be used" in found.stderr and "MOSSNET_CACHE_DIR" in found.stderr


def test_uncompiled_for_debugging(run: Run, tiny: Path, moss: Path) -> None:
    found = run("generate", "-m", tiny, "--target", "tinygrad:PYTHON", "the", "-n", "1")
    assert found.exit_code == 0 and found.stdout == expected(moss, "the", 1)
    missing = run("generate", "-m", tiny, "--target", "tinygrad:NOPE", "the")
    assert missing.exit_code == 3 and "NOPE" in missing.stderr
