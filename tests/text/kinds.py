"""Tokenizers of every kind that libmossnet knows, trained on a little text, and a model file around one."""

from __future__ import annotations

import dataclasses
import sysconfig
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from mossnet_tg.codegen.text.tokenizer import compile_tokenizer
from mossnet_tg.engine import CompiledModel
from mossnet_tg.weights.checkpoint import DEMO
from tests.runtime.toy import toy, write_toy

CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = CL100K.replace("{1,3}", "")
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
)
END = "<|endoftext|>"
SPACES = [AddedToken(" " * n, normalized=True, special=False) for n in range(2, 25)]
MIXED = (
    "don't DON'T we'll I'VE ''s 's 'S 'ſ  naïve café Übergrößenträger 苔はゆっくり育つ。 12345 ١٢٣ Ⅷ ²³ "
    "🙂🌱👩‍👩‍👧 e\u0301 e\u0323\u0302 가나다 \u1100\u1161\u11a8 \u2126 \u212b q\u0307\u0323\r\n\r\n \t\n\n   x"
)


def library_sources(most: int) -> list[Path]:
    """Python's own sources, the short ones: text that is everywhere and always the same."""
    folder = Path(sysconfig.get_path("stdlib"))
    return [p for p in sorted(folder.glob("*.py")) if p.stat().st_size < 30_000][:most]


def _trained(vocab_size: int = 900, **parts: Any) -> tokenizers.Tokenizer:
    t = tokenizers.Tokenizer(models.BPE(ignore_merges=parts.pop("ignore_merges", False)))
    for name, part in parts.items():
        setattr(t, name, part)
    t.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, special_tokens=[END], show_progress=False
    )
    t.train_from_iterator([MIXED * 5, *(p.read_text() for p in library_sources(12))], trainer)
    return t


def _cut(*patterns: str) -> pre_tokenizers.PreTokenizer:
    splits = [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _gpt2(prefix: bool = False) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix)


def _neox() -> tokenizers.Tokenizer:
    t = _trained(normalizer=normalizers.NFC(), pre_tokenizer=_gpt2())
    t.add_tokens(SPACES)
    t.add_special_tokens(["<|padding|>"])
    return t


def _llama3() -> tokenizers.Tokenizer:
    t = _trained(pre_tokenizer=_cut(CL100K), ignore_merges=True)
    t.add_special_tokens(["<|begin_of_text|>", "<|reserved_special_token_1|>", "<|reserved_special_token_12|>"])
    first = ("<|begin_of_text|>", t.token_to_id("<|begin_of_text|>"))
    template = processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[first])
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    # Words that merges cannot make: with `ignore_merges` they are taken all the same.
    found = t.to_str().replace('"vocab":{', '"vocab":{"Ġoverflow":5000,"ĠÃ¼bermut":5001,"qzqz":5002,')
    return tokenizers.Tokenizer.from_str(found)


def _stripping() -> tokenizers.Tokenizer:
    t = _trained(normalizer=normalizers.NFC(), pre_tokenizer=_gpt2(prefix=True))
    t.add_special_tokens([AddedToken("<l>", lstrip=True), AddedToken("<r>", rstrip=True)])
    t.add_tokens([
        AddedToken("<b>", lstrip=True, rstrip=True, normalized=True), AddedToken("<bb", normalized=True),
        AddedToken("e\u0301\u0301", normalized=True), AddedToken(" ", rstrip=True, normalized=False),
        AddedToken("é", normalized=False), AddedToken("\u212b", normalized=True), AddedToken("<|", normalized=False),
    ])  # fmt: skip
    t.post_processor = processors.TemplateProcessing(
        single=f"{END} $A <l>:1 <r>:1", special_tokens=[(n, t.token_to_id(n)) for n in (END, "<l>", "<r>")]
    )
    return t


def _only_matches() -> tokenizers.Tokenizer:
    letters = pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}"), "removed", invert=True)
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return _trained(pre_tokenizer=pre_tokenizers.Sequence([letters, bytes_]))


def _digits(individual: bool) -> tokenizers.Tokenizer:
    return _trained(pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Digits(individual), _gpt2()]))


def _few_bytes() -> tokenizers.Tokenizer:
    """Most bytes have no token: they are dropped, and their neighbours merge."""
    vocab = {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "Ġa": 4, "aba": 9}
    t = tokenizers.Tokenizer(models.BPE(vocab, [("a", "b"), ("Ġ", "a"), ("ab", "a")]))
    t.pre_tokenizer, t.decoder = _gpt2(), decoders.ByteLevel()
    return t


KINDS: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "gpt2": lambda: _trained(pre_tokenizer=_gpt2()),
    "gpt2 with a space before": lambda: _trained(pre_tokenizer=_gpt2(prefix=True)),
    "gpt-neox": _neox,
    "llama3": _llama3,
    "qwen2": lambda: _trained(normalizer=normalizers.NFC(), pre_tokenizer=_cut(QWEN2)),
    "o200k": lambda: _trained(pre_tokenizer=_cut(O200K)),
    "deepseek": lambda: _trained(pre_tokenizer=_cut(*DEEPSEEK)),
    "stripping": _stripping,
    "only matches": _only_matches,
    "digits": lambda: _digits(True),
    "numbers": lambda: _digits(False),
    "few bytes": _few_bytes,
    "no words": lambda: _trained(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)),
}


@cache
def tokenizer_json(kind: str) -> bytes:
    """The tokenizer.json of a kind; "demo" is that of the bundled model."""
    return (Path(DEMO) / "tokenizer.json").read_bytes() if kind == "demo" else KINDS[kind]().to_str().encode()


@cache
def section(kind: str) -> bytes:
    """The section TEXT of a kind."""
    return compile_tokenizer(tokenizer_json(kind))


def model_of(kind: str, folder: Path) -> CompiledModel:
    """A toy model with the tokenizer of a kind."""
    moss = dataclasses.replace(toy(), tokenizer=tokenizer_json(kind), text=section(kind))
    return CompiledModel(write_toy(folder / "text.moss", moss), allow_native=True)
