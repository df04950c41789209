"""tokenizer.json becomes the section TEXT, where it is of a kind that libmossnet knows.

What the file says is read from its JSON; which id a token has, and what characters its patterns mean, from the
`tokenizers` library itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mossnet_tg.codegen.text.pattern import compile_pattern
from mossnet_tg.codegen.text.program import MAX_RECORDS, NONE, Added, Split, TextProgram, pack
from mossnet_tg.codegen.text.unicode import nfc
from mossnet_tg.errors import MossnetError
from mossnet_tg.tokenizer import byte_of_char, flat_steps

if TYPE_CHECKING:
    import tokenizers

# What byte-level tokenizers cut a text with unless they say otherwise.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class UnsupportedTokenizerError(MossnetError):
    """A tokenizer of another kind than libmossnet knows."""


def compile_tokenizer(content: bytes) -> bytes:
    """The section TEXT of a tokenizer.json that the library reads.

    Raises UnsupportedTokenizerError with the first thing in it that libmossnet does not know.
    """
    import tokenizers

    try:
        inner = tokenizers.Tokenizer.from_str(content.decode())
        found = json.loads(content)
    except Exception as e:  # the library raises plain Exception for a bad file
        raise UnsupportedTokenizerError(f"not a tokenizer: {e}") from None
    try:
        return pack(_program(inner, found))
    except KeyError as e:  # of an older writer
        raise UnsupportedTokenizerError(f"a tokenizer.json without the field {e}") from None


def _program(inner: tokenizers.Tokenizer, found: Mapping[str, Any]) -> TextProgram:
    model = found["model"]
    _require_byte_level(found, model)
    added = inner.get_added_tokens_decoder()
    n_tokens = 1 + max(inner.get_vocab(with_added_tokens=True).values(), default=-1)
    if not 1 <= n_tokens <= MAX_RECORDS:
        raise UnsupportedTokenizerError(f"{n_tokens} ids, expected 1 to {MAX_RECORDS}")
    tokens = [inner.id_to_token(i) or "" for i in range(n_tokens)]
    vocab = model["vocab"]
    byte_ids = {byte: vocab.get(char, NONE) for char, byte in byte_of_char().items()}
    if NONE in byte_ids.values() and (model.get("unk_token") is not None or model.get("byte_fallback")):
        raise UnsupportedTokenizerError("bytes without a token of their own, and another token for them")
    normalizers = {step["type"] for step in flat_steps(found.get("normalizer"), "normalizers")}
    if normalizers - {"NFC"}:
        raise UnsupportedTokenizerError(f"normalizer {' and '.join(sorted(normalizers))}, expected NFC or none")
    splits, prefix_space = _pre_tokenizer(found.get("pre_tokenizer"))
    before, after = _around(found.get("post_processor"))
    raw, normalized = _added(inner, added)
    return TextProgram(
        tokens=list(map(_bytes, tokens)),
        byte_ids=[byte_ids[b] for b in range(256)],
        merges=_merges(model),
        words=_words(model) if model.get("ignore_merges") else (),
        added=raw,
        added_normalized=normalized,
        before=before,
        after=after,
        splits=splits,
        nfc=nfc() if normalizers else None,
        prefix_space=prefix_space,
    )


def _require_byte_level(found: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    if model.get("type") != "BPE":
        raise UnsupportedTokenizerError(f"model {model.get('type')}, expected BPE")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise UnsupportedTokenizerError(f"BPE with {name} {model[name]!r}")
    kinds = [step.get("type") for step in flat_steps(found.get("decoder"), "decoders")]
    if kinds != ["ByteLevel"]:
        raise UnsupportedTokenizerError(f"decoder {' and '.join(map(str, kinds)) or None}, expected ByteLevel")


def _bytes(token: str) -> bytes:
    """What a token stands for: its characters each a byte, or, of an added token, the text itself."""
    of_char = byte_of_char()
    return bytes(of_char[c] for c in token) if of_char.keys() >= set(token) else token.encode()


def _merges(model: Mapping[str, Any]) -> dict[tuple[int, int], tuple[int, int]]:
    """(left, right): (rank, merged). Of a pair that is there twice the library takes the last."""
    vocab = model["vocab"]
    merges = {}
    for rank, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        merges[vocab[left], vocab[right]] = (rank, vocab[left + right])
    return merges


def _words(model: Mapping[str, Any]) -> list[int]:
    """Of the words that `ignore_merges` takes whole, those that merges would make something else of."""
    import tokenizers

    plain = {"version": "1.0", "added_tokens": [], "model": {**model, "ignore_merges": False}}
    by_merges = tokenizers.Tokenizer.from_str(json.dumps(plain))
    of_char = byte_of_char()
    words = {word: i for word, i in model["vocab"].items() if word and of_char.keys() >= set(word)}
    # One by one: a batch would start threads, and the library complains about a process that forks afterwards.
    return [i for word, i in words.items() if by_merges.encode(word).ids != [i]]


def _pre_tokenizer(pre_tokenizer: Any) -> tuple[list[Split], bool]:
    """The splits in their order, and whether a text begins with a space."""
    splits: list[Split] = []
    prefix_space = is_bytes = False
    for step in flat_steps(pre_tokenizer, "pretokenizers"):
        if is_bytes:
            raise UnsupportedTokenizerError(f"pre-tokenizer {step['type']} behind ByteLevel")
        if step["type"] == "Split":
            splits.append(_split(step))
        elif step["type"] == "Digits":
            splits.append(compile_pattern(r"\p{N}" if step["individual_digits"] else r"\p{N}+"))
        elif step["type"] == "ByteLevel":
            is_bytes = True
            prefix_space = step["add_prefix_space"]
            if prefix_space and splits:
                raise UnsupportedTokenizerError("pre-tokenizer ByteLevel with add_prefix_space behind another")
            splits += [compile_pattern(_GPT2)] if step.get("use_regex", True) else []
        else:
            raise UnsupportedTokenizerError(f"pre-tokenizer {step['type']}, expected ByteLevel, Split or Digits")
    if not is_bytes:
        raise UnsupportedTokenizerError("pre-tokenizer without ByteLevel")
    return splits, prefix_space


def _split(step: Mapping[str, Any]) -> Split:
    kind = (step["behavior"], step["invert"])
    if kind not in (("Isolated", False), ("Isolated", True), ("Removed", True)):
        raise UnsupportedTokenizerError(f"pre-tokenizer Split {step['behavior']}, expected Isolated")
    if "Regex" not in step["pattern"]:
        raise UnsupportedTokenizerError("pre-tokenizer Split by a text, expected a regular expression")
    return compile_pattern(step["pattern"]["Regex"], only_matches=kind == ("Removed", True))


def _around(post_processor: Any) -> tuple[list[int], list[int]]:
    """The ids that are put before a text and after it."""
    before: list[int] = []
    after: list[int] = []
    for step in flat_steps(post_processor, "processors"):
        if step["type"] == "ByteLevel":  # it changes offsets alone
            continue
        if step["type"] != "TemplateProcessing" or before or after:
            raise UnsupportedTokenizerError(f"post-processor {step['type']}, expected one TemplateProcessing or none")
        sides: Sequence[list[int]] = ([], [])
        n_texts = 0
        for piece in step["single"]:
            if "Sequence" in piece:
                n_texts += 1
            else:
                sides[n_texts > 0].extend(step["special_tokens"][piece["SpecialToken"]["id"]]["ids"])
        if n_texts != 1:
            raise UnsupportedTokenizerError(f"a template with {n_texts} texts, expected one")
        before, after = sides
    return before, after


def _added(inner: tokenizers.Tokenizer, added: Mapping[int, tokenizers.AddedToken]) -> tuple[list[Added], list[Added]]:
    """What is found in the text as it is, and what after its normalization, which these tokens go through as well."""
    found: tuple[dict[str, Added], dict[str, Added]] = ({}, {})
    for i, token in added.items():
        if token.single_word:
            raise UnsupportedTokenizerError(f"added token {token.content!r} with single_word")
        content = token.content
        if token.normalized and inner.normalizer is not None:
            content = inner.normalizer.normalize_str(content)
        if content in found[token.normalized]:
            raise UnsupportedTokenizerError(
                f"added token {token.content!r}, which is there twice once it is normalized"
            )
        if content:
            found[token.normalized][content] = Added(content.encode(), i, token.lstrip, token.rstrip)
    return list(found[False].values()), list(found[True].values())
