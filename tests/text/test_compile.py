"""tokenizer.json becomes TEXT, or is refused with the reason."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken

from mossnet_tg.codegen.text import program
from mossnet_tg.codegen.text.tokenizer import UnsupportedTokenizerError, compile_tokenizer
from mossnet_tg.errors import MossnetError
from mossnet_tg.weights.checkpoint import DEMO
from tests.runtime.toy import ROOT
from tests.text.kinds import CL100K, END, tokenizer_json

LETTERS = {"type": "Split", "pattern": {"Regex": r"\p{L}+"}, "behavior": "Isolated", "invert": False}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
POSSESSIVE = CL100K.replace("{L}+", "{L}++")
TEXT, A = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": END, "type_id": 0}}


def sequence(*parts: Any) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": parts}


def template(*single: Any) -> dict[str, Any]:
    specials = {END: {"id": END, "ids": [0], "tokens": [END]}}
    return {"type": "TemplateProcessing", "single": single, "pair": [TEXT, TEXT], "special_tokens": specials}


# What is put in place of a part of GPT-2's, and the reason.
CHANGES: list[tuple[str, Any, str]] = [
    ("model.dropout", 0.5, "BPE with dropout 0.5"),
    ("model.end_of_word_suffix", "</w>", "BPE with end_of_word_suffix '</w>'"),
    ("decoder", None, "decoder None, expected ByteLevel"),
    ("decoder", {"type": "Fuse"}, "decoder Fuse, expected ByteLevel"),
    ("normalizer", {"type": "NFKC"}, "normalizer NFKC, expected NFC or none"),
    ("normalizer", {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
     "normalizer Lowercase and NFC, expected"),
    ("pre_tokenizer", None, "pre-tokenizer without ByteLevel"),
    ("pre_tokenizer", {"type": "Whitespace"}, "pre-tokenizer Whitespace, expected"),
    ("pre_tokenizer", sequence(LETTERS), "pre-tokenizer without ByteLevel"),
    ("pre_tokenizer", sequence(BYTES, LETTERS), "pre-tokenizer Split behind ByteLevel"),
    ("pre_tokenizer", sequence(LETTERS, {**BYTES, "add_prefix_space": True}), "add_prefix_space behind another"),
    ("pre_tokenizer", sequence({**LETTERS, "behavior": "MergedWithNext"}, BYTES), "Split MergedWithNext, expected"),
    ("pre_tokenizer", sequence({**LETTERS, "behavior": "Removed"}, BYTES), "Split Removed, expected Isolated"),
    ("pre_tokenizer", sequence({**LETTERS, "pattern": {"String": "a"}}, BYTES), "Split by a text, expected"),
    ("pre_tokenizer", sequence({**LETTERS, "pattern": {"Regex": "a*"}}, BYTES), "matches nothing as well"),
    ("pre_tokenizer", sequence({**LETTERS, "pattern": {"Regex": POSSESSIVE}}, BYTES), "lazy, possessive or"),
    ("pre_tokenizer", sequence(*[LETTERS] * 9, BYTES), "9 splits, at most 8"),
    ("post_processor", {"type": "BertProcessing", "sep": ["a", 0], "cls": ["b", 1]}, "post-processor BertProcessing"),
    ("post_processor", template(TEXT, TEXT), "a template with 2 texts, expected one"),
    ("post_processor", {"type": "Sequence", "processors": [template(A, TEXT)] * 2}, "expected one TemplateProcessing"),
]  # fmt: skip


def changed(path: str, value: Any) -> bytes:
    found = json.loads(tokenizer_json("gpt2"))
    *parents, last = path.split(".")
    part = found
    for name in parents:
        part = part[name]
    part[last] = value
    return json.dumps(found).encode()


def test_ways_to_say_the_same() -> None:
    """Merges as strings, steps in sequences of sequences, and what is left out, as other writers have it."""
    found = json.loads(tokenizer_json("gpt2"))
    expected = compile_tokenizer(tokenizer_json("gpt2"))
    found["model"]["merges"] = [" ".join(merge) for merge in found["model"]["merges"]]
    found["pre_tokenizer"] = sequence(sequence(found["pre_tokenizer"]))
    found["decoder"] = {"type": "Sequence", "decoders": [found["decoder"]]}
    found["normalizer"] = {"type": "Sequence", "normalizers": []}
    del found["model"]["ignore_merges"], found["post_processor"]
    assert compile_tokenizer(json.dumps(found).encode()) == expected
    found["post_processor"] = template(TEXT)
    assert compile_tokenizer(json.dumps(found).encode()) == expected
    found["post_processor"] = template(TEXT, A)
    assert compile_tokenizer(json.dumps(found).encode()) != expected


def test_the_same_bytes_again() -> None:
    """Nothing depends on an order that changes from process to process."""
    code = (
        "import hashlib, pathlib, sys; from mossnet_tg.codegen.text.tokenizer import compile_tokenizer as c;"
        "print(hashlib.sha256(c(pathlib.Path(sys.argv[1]).read_bytes())).hexdigest())"
    )
    demo = Path(DEMO) / "tokenizer.json"
    expected = hashlib.sha256(compile_tokenizer(demo.read_bytes())).hexdigest()
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    ran = subprocess.run([sys.executable, "-c", code, demo], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert ran.stdout == f"{expected}\n", ran.stderr


@pytest.mark.parametrize(("path", "value", "reason"), CHANGES, ids=[reason for _, _, reason in CHANGES])
def test_the_reason(path: str, value: Any, reason: str) -> None:
    content = changed(path, value)
    tokenizers.Tokenizer.from_str(content.decode())  # the library knows it
    with pytest.raises(MossnetError) as caught:
        compile_tokenizer(content)
    assert reason in str(caught.value)


def test_other_models() -> None:
    for model in (tokenizers.models.WordLevel({"a": 0}, "a"), tokenizers.models.Unigram([("a", 0.0)], 0, False)):
        with pytest.raises(UnsupportedTokenizerError, match=r"model (WordLevel|Unigram), expected BPE"):
            compile_tokenizer(tokenizers.Tokenizer(model).to_str().encode())


ADD: list[tuple[Callable[[tokenizers.Tokenizer], Any], str]] = [
    (lambda t: t.add_tokens([AddedToken("word", single_word=True)]), "added token 'word' with single_word"),
    (lambda t: t.add_tokens([AddedToken("\u212b"), AddedToken("\u00c5")]), "twice once it is normalized"),
]


@pytest.mark.parametrize(("add", "reason"), ADD)
def test_added_tokens(add: Callable[[tokenizers.Tokenizer], Any], reason: str) -> None:
    t = tokenizers.Tokenizer.from_str(tokenizer_json("qwen2").decode())
    add(t)
    with pytest.raises(UnsupportedTokenizerError, match=reason):
        compile_tokenizer(t.to_str().encode())


def test_bytes_that_become_another_token() -> None:
    found = json.loads(tokenizer_json("few bytes"))
    found["model"]["unk_token"] = "a"
    with pytest.raises(UnsupportedTokenizerError, match="bytes without a token of their own"):
        compile_tokenizer(json.dumps(found).encode())
    found["model"] |= {"vocab": {}, "merges": [], "unk_token": None}
    with pytest.raises(UnsupportedTokenizerError, match="0 ids, expected 1 to"):
        compile_tokenizer(json.dumps(found).encode())


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"model": {"type": "BPE"}}', b"[" * 100000])
def test_what_is_no_tokenizer(content: bytes) -> None:
    with pytest.raises(UnsupportedTokenizerError, match=r"^not a tokenizer: "):
        compile_tokenizer(content)


def test_damaged_files_raise_only_our_errors() -> None:
    """What is compiled all the same is a section that both readers take."""
    rng = random.Random(2)
    good = [tokenizer_json(kind) for kind in ("few bytes", "no words")]
    n_compiled = 0
    for _ in range(600):
        mutant = bytearray(rng.choice(good))
        for _ in range(rng.choice((1, 1, 3))):
            i = rng.randrange(len(mutant))
            mutant[i : i + rng.choice((0, 1, 4, 30))] = rng.choice((b"9", b"null", b"{}", b"-1", b'"', b"\xff", b"a"))
        try:
            section = compile_tokenizer(bytes(mutant))
        except MossnetError:
            continue
        program.check(section)
        n_compiled += 1
    assert n_compiled > 20
