"""Checkpoints: what transformers and the reference save is read as it is meant, what does not fit is named."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import MambaConfig, MambaForCausalLM

from mossnet_tg.config import Config, MlpConfig, SsmConfig, SwaConfig
from mossnet_tg.errors import MossnetError, UsageError
from mossnet_tg.tokenizer import Tokenizer
from mossnet_tg.weights.checkpoint import DEMO, Checkpoint, is_checkpoint
from mossnet_tg.weights.reference.model import MossNet
from mossnet_tg.weights.safetensors_file import CheckpointError

CONFIG = Config(
    d_model=16, n_layer=2, vocab_size=40,
    ssm=SsmConfig(d_state=4, n_experts=3, top_k=2), mlp=MlpConfig(d_ff=8, n_experts=2, top_k=1),
    swa=SwaConfig(layers=(1,), n_heads=2, n_kv_heads=1, head_dim=4, window=8),
)  # fmt: skip
TOKENIZER = b'{"added_tokens": [{"id": 3, "content": "<|pad|>"}, {"id": 7, "content": "<|endoftext|>"}]}'


def write(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(tensors, folder / "model.safetensors")


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """A folder with a small reference checkpoint."""
    torch.manual_seed(1)
    folder = tmp_path / "tiny"
    folder.mkdir()
    write(folder, CONFIG.to_dict(), dict(MossNet(CONFIG).state_dict()))
    return folder


def mamba_folder(folder: Path, *, tie: bool = True, dtype: torch.dtype = torch.float32, shard: str = "5GB") -> Path:
    torch.manual_seed(2)
    model: Any = MambaForCausalLM(
        MambaConfig(vocab_size=96, hidden_size=32, num_hidden_layers=3, state_size=4, eos_token_id=5,
                    tie_word_embeddings=tie)
    )  # fmt: skip
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    return folder


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = safetensors.torch.load_file(folder / "model.safetensors")
    return found


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = tensors_of(folder)
    edit(tensors)
    safetensors.torch.save_file(tensors, folder / "model.safetensors")


def change_config(folder: Path, **keys: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def refusal(path: Path, kind: type[MossnetError] = CheckpointError) -> str:
    with pytest.raises(kind) as e:
        Checkpoint.open(path)
    return f"{e.value}\n{e.value.hint}"


def test_reference_checkpoint(reference: Path) -> None:
    c = Checkpoint.open(reference)
    theirs = tensors_of(reference)
    assert c.config == CONFIG and c.name == "tiny" and c.tokenizer_json is None and c.eos_ids == ()
    assert set(c.tensors) == set(theirs)
    for name, t in theirs.items():
        assert c.tensors[name].name == name
        np.testing.assert_array_equal(c.tensors[name].f32(), t.numpy())
    assert c.n_params == sum(t.numel() for t in theirs.values()) and c.weights_bytes == 4 * c.n_params


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("shard", ["5GB", "12KB"])
def test_mamba_of_transformers_computes_the_same(tmp_path: Path, dtype: torch.dtype, tie: bool, shard: str) -> None:
    """The names mean what we think: the reference model with these tensors gives transformers' logits."""
    folder = mamba_folder(tmp_path / "mamba", tie=tie, dtype=dtype, shard=shard)
    assert (folder / "model.safetensors.index.json").exists() == (shard == "12KB")
    c = Checkpoint.open(folder)
    assert len(c.files) == len(list(folder.glob("*.safetensors")))
    assert c.eos_ids == (5,) and ("lm_head.weight" in c.tensors) == (not tie)
    assert {t.dtype for t in c.tensors.values()} == {str(dtype).replace("torch.", "").replace("loat", "")}
    ours = MossNet(c.config)
    ours.load_state_dict({name: torch.tensor(t.f32()) for name, t in c.tensors.items()})
    ids = torch.randint(0, 96, (1, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = MambaForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
        hidden, _ = ours(ids)
        logits = hidden if hidden.shape[-1] == 96 else ours.logits(hidden)
    torch.testing.assert_close(logits, theirs, rtol=1e-4, atol=1e-5)


def test_the_bundled_demo() -> None:
    c = Checkpoint.open(DEMO)
    assert c.name == "demo" and c.nan_tensors() == [] and c.eos_ids
    assert c.tokenizer_json is not None
    assert Tokenizer.from_json(c.tokenizer_json).n_tokens <= c.config.vocab_size


def test_one_model_in_many_spellings_has_one_hash(tmp_path: Path) -> None:
    whole = mamba_folder(tmp_path / "whole")
    sharded = mamba_folder(tmp_path / "sharded", shard="12KB")
    original = tmp_path / "original"
    shutil.copytree(whole, original)

    def respell(t: dict[str, torch.Tensor]) -> None:
        t["backbone.embedding.weight"] = t.pop("backbone.embeddings.weight")
        t["lm_head.weight"] = t["backbone.embedding.weight"].clone()

    change(original, respell)
    ours = tmp_path / "ours"
    ours.mkdir()
    c = Checkpoint.open(whole)
    write(ours, c.config.to_dict(), {name: torch.tensor(t.f32()) for name, t in c.tensors.items()})
    auto = tmp_path / "auto"
    shutil.copytree(whole, auto)
    change_config(auto, time_step_rank="auto")
    hashes = {Checkpoint.open(p).model_hash() for p in (whole, sharded, original, ours, auto)}
    assert len(hashes) == 1 and len(hashes.pop()) == 32


def test_the_hashes_see_every_change(reference: Path) -> None:
    def both() -> tuple[bytes, str]:
        c = Checkpoint.open(reference)
        return c.model_hash(), c.fingerprint()

    first = both()
    assert both() == first
    seen = [first]
    change(reference, lambda t: t["norm_f.weight"].view(-1)[3].add_(1))
    seen.append(both())
    change_config(reference, norm_eps=1e-6)
    seen.append(both())

    def swap(t: dict[str, torch.Tensor]) -> None:
        t["layers.0.ssm.D"], t["layers.1.ssm.D"] = t["layers.1.ssm.D"], t["layers.0.ssm.D"] + 1

    change(reference, swap)
    seen.append(both())
    change(reference, lambda t: t.update({"layers.0.ssm.D": t["layers.0.ssm.D"].half()}))
    seen.append(both())
    for column in zip(*seen, strict=True):
        assert len(set(column)) == len(seen)


def test_the_fingerprint_also_sees_tokenizer_and_time(reference: Path) -> None:
    weights, tokenizer, generation = (
        reference / name for name in ("model.safetensors", "tokenizer.json", "generation_config.json")
    )
    seen = [Checkpoint.open(reference)]
    for change_one in (
        lambda: tokenizer.write_bytes(b"{}"),
        lambda: tokenizer.write_bytes(TOKENIZER.replace(b"endoftext", b"end")),
        lambda: generation.write_text('{"eos_token_id": 2}'),
        lambda: os.utime(weights, ns=(1, 1)),
    ):
        change_one()
        seen.append(Checkpoint.open(reference))
    assert len({c.fingerprint() for c in seen}) == len(seen)
    assert len({c.model_hash() for c in seen}) == 1
    assert len(seen[0].fingerprint()) == 64 and int(seen[0].fingerprint(), 16)


@pytest.mark.parametrize("at", [0, 0.5, 1])
def test_the_fingerprint_samples_the_contents(tmp_path: Path, at: float) -> None:
    """Header, size and time unchanged: only the bytes tell, at the ends and in the middle of a large tensor."""
    config = Config(d_model=16, n_layer=1, vocab_size=4000)
    write(tmp_path, config.to_dict(), dict(MossNet(config).state_dict()))
    path = tmp_path / "model.safetensors"
    os.utime(path, ns=(1, 1))
    first = Checkpoint.open(tmp_path)
    before, n = first.fingerprint(), first.tensors["embed.weight"].content.size
    content = bytearray(path.read_bytes())
    start = content.index(first.tensors["embed.weight"].content.tobytes())
    content[start + round(at * (n - 1))] ^= 1
    path.unlink()
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    assert Checkpoint.open(tmp_path).fingerprint() != before


def test_a_dtype_is_part_of_the_model(tmp_path: Path) -> None:
    """The same bytes as float16 and as bfloat16 are other numbers."""
    folder = mamba_folder(tmp_path / "m", dtype=torch.float16)
    first = Checkpoint.open(folder).model_hash()
    name = "backbone.embeddings.weight"
    change(folder, lambda t: t.update({name: t[name].view(torch.bfloat16)}))
    assert Checkpoint.open(folder).model_hash() != first
    change(folder, lambda t: t.update({"lm_head.weight": t[name].view(torch.float16).clone()}))
    assert "'lm_head.weight' differs from embed.weight" in refusal(folder)


def test_shared_a_log_keeps_its_shape(reference: Path) -> None:
    change(reference, lambda t: t.update({k: v[:1].clone() for k, v in t.items() if k.endswith("A_log")}))
    assert Checkpoint.open(reference).tensors["layers.0.ssm.A_log"].shape == (1, 32, 4)


# ---- What does not fit ----


def test_wrong_shape_names_found_expected_and_why(reference: Path) -> None:
    change(reference, lambda t: t.update({"layers.1.ssm.in_proj.weight": torch.zeros(64, 15)}))
    message = refusal(reference)
    assert "'layers.1.ssm.in_proj.weight' is [64, 15], expected [64, 16]" in message
    assert "X = 32 (ssm.expand, d_model), D = 16 (d_model) in config.json" in message
    assert str(reference / "model.safetensors") in message


def test_wrong_shape_in_mamba_names_its_keys(tmp_path: Path) -> None:
    folder = mamba_folder(tmp_path / "m")
    change(folder, lambda t: t.update({"backbone.layers.1.mixer.conv1d.weight": torch.zeros(64, 4)}))
    message = refusal(folder)
    assert "'backbone.layers.1.mixer.conv1d.weight' is [64, 4], expected [64, 1, 4]" in message
    assert "X = 64 (expand, hidden_size), W = 4 (conv_kernel)" in message


def test_all_problems_in_one_error(reference: Path) -> None:
    def edit(t: dict[str, torch.Tensor]) -> None:
        t["layers.0.ssm.norm.wieght"] = t.pop("layers.0.ssm.norm.weight")
        t["embed.weight"] = torch.zeros(41, 16)
        t["layers.0.ssm.D"] = t["layers.0.ssm.D"].double()
        t["layers.2.ssm.D"] = torch.zeros(32)

    change(reference, edit)
    message = refusal(reference)
    assert "5 problems" in message
    assert "'layers.0.ssm.norm.weight' is missing, expected [16]" in message
    assert "did you mean 'layers.0.ssm.norm.wieght'?" in message
    assert "'embed.weight' is [41, 16], expected [40, 16]" in message
    assert "'layers.0.ssm.D' is f64, expected f32, f16, bf16" in message
    assert "'layers.2.ssm.D' [32] has no place" in message


def test_many_problems_are_counted(reference: Path) -> None:
    change(reference, lambda t: [t.update({f"model.{k}": t.pop(k)}) for k in list(t)])
    lines = refusal(reference).splitlines()
    n = 2 * len(tensors_of(reference))
    assert f"{n} problems" in lines[0] and lines[11].strip() == f"... and {n - 10} more" and len(lines) == 13


@pytest.mark.parametrize("name", ["embed.weight", "layers.1.swa.q_proj.weight", "layers.0.mlp.router.weight"])
def test_each_missing_tensor_is_named(reference: Path, name: str) -> None:
    change(reference, lambda t: t.pop(name))
    assert f"tensor '{name}' is missing" in refusal(reference)


def test_a_config_of_too_many_layers_is_refused_at_once(reference: Path) -> None:
    change_config(reference, n_layer=1 << 24)
    assert "16777216 layers" in refusal(reference)


def test_head_of_a_tied_model(reference: Path) -> None:
    embed = tensors_of(reference)["embed.weight"]
    change(reference, lambda t: t.update({"lm_head.weight": embed.clone()}))
    assert "lm_head.weight" not in Checkpoint.open(reference).tensors
    change(reference, lambda t: t["lm_head.weight"].view(-1)[0].add_(1))
    assert "'lm_head.weight' differs from embed.weight though config.json ties them" in refusal(reference)
    change(reference, lambda t: t.update({"lm_head.weight": embed.half()}))
    assert "'lm_head.weight' differs from embed.weight" in refusal(reference)


def test_both_spellings_of_the_embedding(tmp_path: Path) -> None:
    folder = mamba_folder(tmp_path / "m")
    change(folder, lambda t: t.update({"backbone.embedding.weight": t["backbone.embeddings.weight"].clone()}))
    Checkpoint.open(folder)
    change(folder, lambda t: t["backbone.embedding.weight"].view(-1)[7].add_(1))
    assert "'backbone.embedding.weight' differs from embed.weight" in refusal(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_found(tmp_path: Path, dtype: torch.dtype, value: float) -> None:
    folder = mamba_folder(tmp_path / "m", dtype=dtype)
    top = torch.finfo(dtype).max
    change(folder, lambda t: t["backbone.layers.0.mixer.D"].fill_(top))
    assert Checkpoint.open(folder).nan_tensors() == []
    change(folder, lambda t: t["backbone.layers.1.mixer.dt_proj.weight"].view(-1)[-1].fill_(value))
    assert Checkpoint.open(folder).nan_tensors() == ["layers.1.ssm.dt_proj.weight"]


# ---- Ends of text ----


@pytest.mark.parametrize(
    ("config", "generation", "tokenizer", "ids"),
    [
        (5, None, None, (5,)),
        ([9, 5, 9], None, TOKENIZER, (9, 5)),
        (5, {"eos_token_id": [6]}, TOKENIZER, (6,)),
        (5, {"eos_token_id": None, "top_k": 50}, None, (5,)),
        (None, {}, TOKENIZER, (7,)),
        (None, None, b'{"model": {}}', ()),
        (None, None, None, ()),
    ],
)
def test_ends_of_text(tmp_path: Path, config: Any, generation: Any, tokenizer: bytes | None, ids: tuple[int]) -> None:
    folder = mamba_folder(tmp_path / "m")
    (folder / "generation_config.json").unlink()
    change_config(folder, eos_token_id=config)
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    if tokenizer is not None:
        (folder / "tokenizer.json").write_bytes(tokenizer)
    c = Checkpoint.open(folder)
    assert c.eos_ids == ids and c.tokenizer_json == tokenizer


@pytest.mark.parametrize("value", [96, -1, "0", [0, 1.5], True, {}])
def test_ends_of_text_that_are_none(tmp_path: Path, value: Any) -> None:
    folder = mamba_folder(tmp_path / "m")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    message = refusal(folder)
    assert "generation_config.json: eos_token_id is" in message and "vocab_size = 96" in message


# ---- Shards ----


def sharded(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    folder = mamba_folder(tmp_path / "m", shard="12KB")
    return folder, json.loads((folder / "model.safetensors.index.json").read_text())


def test_broken_indexes(tmp_path: Path) -> None:
    folder, index = sharded(tmp_path)
    path = folder / "model.safetensors.index.json"
    names = index["weight_map"]
    norm = "backbone.norm_f.weight"
    shards = sorted(set(names.values()))
    other = next(s for s in shards if s != names[norm])
    (folder.parent / "secret.safetensors").write_bytes(b"x")
    cases: list[tuple[Any, str]] = [
        ([], "no weight_map"),
        ({"weight_map": {}}, "no weight_map"),
        ({"weight_map": {"a": 1}}, "no weight_map"),
        ({"weight_map": {**names, norm: "../secret.safetensors"}}, "'../secret.safetensors' is not a file beside it"),
        ({"weight_map": {**names, norm: "/etc/passwd"}}, "is not a file beside it"),
        ({"weight_map": {**names, norm: ".."}}, "is not a file beside it"),
        ({"weight_map": {**names, norm: "gone.safetensors"}}, "shard 'gone.safetensors' is not a file beside it"),
        ({"weight_map": {**names, norm: other}}, f"tensor '{norm}' is in {names[norm]}, the index says '{other}'"),
        ({"weight_map": {**names, "more": other}}, f"tensor 'more' is in no shard, the index says '{other}'"),
        ({"weight_map": {k: v for k, v in names.items() if k != norm}}, "the index says null"),
        ("", "no weight_map"),
    ]
    for found, part in cases:
        path.write_text(json.dumps(found))
        assert part in refusal(folder), part
    path.write_text('{"weight_map": {"a": "b", "a": "c"}}')
    assert "'a' stands there twice" in refusal(folder)


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    folder, index = sharded(tmp_path)
    first, last = (
        folder / s for s in sorted(set(index["weight_map"].values()))[:: len(list(folder.glob("*.safetensors"))) - 1]
    )
    name = next(iter(safetensors.torch.load_file(first)))
    safetensors.torch.save_file({**safetensors.torch.load_file(last), name: torch.zeros(1)}, last)
    message = refusal(folder)
    assert name in message and first.name in message and last.name in message


def test_a_missing_shard(tmp_path: Path) -> None:
    folder, index = sharded(tmp_path)
    shard = sorted(set(index["weight_map"].values()))[1]
    (folder / shard).unlink()
    assert f"shard '{shard}' is not a file beside it" in refusal(folder)


# ---- Paths ----


def test_one_file(reference: Path) -> None:
    (reference / "model.safetensors").rename(reference / "best.safetensors")
    c = Checkpoint.open(reference / "best.safetensors")
    assert c.name == "best" and len(c.tensors) > 10
    (reference / "best.safetensors").rename(reference / "model.safetensors")
    assert Checkpoint.open(str(reference / "model.safetensors")).name == "tiny"


def test_an_index_is_named_as_its_folder(tmp_path: Path) -> None:
    folder, _ = sharded(tmp_path)
    whole, by_index = Checkpoint.open(folder), Checkpoint.open(folder / "model.safetensors.index.json")
    assert by_index.name == whole.name == "m" and by_index.model_hash() == whole.model_hash()


def test_names_come_from_the_folder(reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(reference)
    assert Checkpoint.open(".").name == "tiny"
    reference.rename(reference.parent / "v1.safetensors-copy.2")
    assert Checkpoint.open(reference.parent / "v1.safetensors-copy.2").name == "v1.safetensors-copy.2"


def test_places_without_a_checkpoint(tmp_path: Path, reference: Path) -> None:
    def told(path: Path, *parts: str) -> None:
        message = refusal(path, UsageError)
        assert [p for p in (str(path), "config.json and model.safetensors", *parts) if p not in message] == [], message

    told(tmp_path / "nowhere", "not found")
    (tmp_path / "empty").mkdir()
    told(tmp_path / "empty", "no config.json and model.safetensors", "the folder is empty")
    (tmp_path / "empty" / "pytorch_model.bin").touch()
    told(tmp_path / "empty", "found pytorch_model.bin")
    (tmp_path / "empty" / "config.json").touch()
    told(tmp_path / "empty", "no model.safetensors:", "found config.json, pytorch_model.bin")
    (reference / "config.json").unlink()
    told(reference, "no config.json:")
    told(reference / "model.safetensors", "no config.json beside it")
    told(tmp_path / ("x" * 300))
    told(reference / "model.safetensors" / "deeper", "not found")


def test_a_file_that_is_no_checkpoint(reference: Path) -> None:
    (reference / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    assert "header" in refusal(reference / "model.gguf")
    (reference / "model.bin").write_bytes(b"PK\3\4 and more of it")
    assert "another kind" in refusal(reference / "model.bin")


def test_sniffing(tmp_path: Path, reference: Path) -> None:
    assert is_checkpoint(reference) and is_checkpoint(str(reference / "model.safetensors"))
    (tmp_path / "a.moss").write_bytes(b"MOSSTG\r\n" + bytes(56))
    (tmp_path / "none").touch()
    os.mkfifo(tmp_path / "pipe")
    for name in ("a.moss", "none", "missing", "pipe", "x" * 300, "\0"):
        assert not is_checkpoint(tmp_path / name)


# ---- Hostile ----


def test_damaged_small_files_raise_only_our_errors(tmp_path: Path) -> None:
    folder, _ = sharded(tmp_path)
    (folder / "tokenizer.json").write_bytes(TOKENIZER)
    change_config(folder, eos_token_id=None)
    (folder / "generation_config.json").write_text('{"eos_token_id": null, "top_k": 3}')
    rng = random.Random(3)
    pieces = [b"0", b"-1", b"1e999", b"9" * 30, b"9" * 5000, b"null", b"NaN", b"{}", b"[]", b"[" * 3000, b'"', b"\xff",
              b"\\ud800", b"true", b"1.5", b"\0", b",", b'"model_type":"mossnet",']  # fmt: skip
    n_opened = 0
    for name in ("config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer.json"):
        path = folder / name
        good = path.read_bytes()
        values = [i for i, c in enumerate(good) if c in b":,["]
        for _ in range(250):
            mutant = bytearray(good)
            i = rng.choice(values) + 1 if rng.random() < 0.5 else rng.randrange(len(good))
            mutant[i : i + rng.choice((0, 1, 2, 5, 20))] = rng.choice(pieces)
            path.write_bytes(mutant[: rng.randrange(len(mutant))] if rng.random() < 0.1 else mutant)
            try:
                Checkpoint.open(folder).fingerprint()
                n_opened += 1
            except MossnetError as e:
                str(e).encode()  # the command line can print it
                assert len(str(e)) < 4000
        path.write_bytes(good)
    assert n_opened > 10


def test_sizes_that_no_checkpoint_has(reference: Path) -> None:
    good = CONFIG.to_dict()
    for key, value in (("d_model", 1 << 24), ("vocab_size", 1 << 24), ("n_layer", 10**30), ("norm_eps", 10**400)):
        (reference / "config.json").write_text(json.dumps({**good, key: value}))
        refusal(reference, MossnetError)


def test_reading_another_config_of_the_same_tensors(reference: Path) -> None:
    """mode and rule change what is computed, not the tensors: the hash tells the models apart."""
    first = Checkpoint.open(reference).model_hash()
    other = replace(CONFIG, ssm=replace(CONFIG.ssm, state_update="all"))
    (reference / "config.json").write_text(json.dumps(other.to_dict()))
    assert Checkpoint.open(reference).model_hash() != first
