"""Text to token ids and back, from a checkpoint's tokenizer.json.

The work is done by the `tokenizers` library, imported at the first use. What it lacks is here: a decoder that is fed
one id at a time and never shows half a character, although a character's bytes can be spread over several tokens.
"""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from mossnet_tg.errors import MossnetError

if TYPE_CHECKING:
    import tokenizers


_BYTE_TOKEN = re.compile("<0x[0-9A-Fa-f]{2}>")


class TokenizerError(MossnetError):
    """A tokenizer.json is not one that the `tokenizers` library reads."""


class StreamDecoder(Protocol):
    """Decodes one id at a time: all pieces joined, the last from `flush`, are the decoding of all ids at once."""

    def push(self, token: int) -> str:
        """The text that `token` completes, perhaps none."""

    def flush(self) -> str:
        """The text that was held back, as it stands; the decoder begins anew."""


class Tokenizer:
    """A tokenizer; make one with `Tokenizer.from_json`."""

    def __init__(self, inner: tokenizers.Tokenizer, decoder: Any) -> None:
        self._inner = inner
        self._decoder_json = decoder

    @classmethod
    def from_json(cls, content: bytes, where: str = "tokenizer.json") -> Tokenizer:
        """Read the bytes of a tokenizer.json; raises TokenizerError, which names `where`."""
        import tokenizers

        try:
            inner = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
            # A training setting that some files carry; a prompt is neither cut nor filled up.
            inner.no_truncation()
            inner.no_padding()
            return cls(inner, json.loads(content).get("decoder"))
        except Exception as e:  # the library raises plain Exception for a bad file
            raise TokenizerError(f"{where}: not a tokenizer: {e}") from None

    @property
    def n_tokens(self) -> int:
        """The number of tokens, added ones included; a model's vocabulary may be padded beyond it."""
        return self._inner.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, with the special tokens that tokenizer.json puts around one (mostly none)."""
        # Half surrogate pairs, which Python lets through from a command line, become "?": the library takes none.
        return self._inner.encode(text.encode("utf-8", "replace").decode("utf-8")).ids

    def encode_with_ends(self, text: str, begins: bool = True) -> tuple[list[int], list[int]]:
        """The ids of `text`, and how many of its characters each of them and those before it stand for.

        Without `begins` it is the continuation of a text, which gets no special tokens around it. Of tokens that share
        a character each counts it.
        """
        found = self._inner.encode(text, add_special_tokens=begins)
        return found.ids, list(itertools.accumulate((end for _, end in found.offsets), max))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, special tokens shown; invalid UTF-8 becomes U+FFFD, ids without a token nothing."""
        return self._inner.decode(list(ids), skip_special_tokens=False)

    def stream(self) -> StreamDecoder:
        """A new decoder for one text; it streams for the two decoders that language models use.

        These are ByteLevel and the SentencePiece imitation with byte fallback. Others may change text that they have
        already given (WordPiece joins "do not"), so all of it comes from `flush`.
        """
        steps = flat_steps(self._decoder_json, "decoders")
        match [step.get("type") for step in steps]:
            case ["ByteLevel"]:
                return _ByteLevelStream(self._inner)
            case ["Replace", "ByteFallback", "Fuse", *rest] if rest in ([], ["Strip"]):
                old, new = steps[0]["pattern"].get("String"), steps[0]["content"]
                strip: dict[str, Any] = steps[3] if rest else {"content": " ", "start": 0, "stop": 0}
                if old is not None and strip["stop"] == 0:
                    return _ByteFallbackStream(self._inner, old, new, strip["content"], strip["start"])
        return _WholeStream(self)


def flat_steps(part: Any, name: str) -> list[Any]:
    """A part of a tokenizer.json as a flat list of steps; its sequences keep theirs under `name`."""
    if isinstance(part, dict) and part.get("type") == "Sequence":
        return [step for inside in part[name] for step in flat_steps(inside, name)]
    return [part] if isinstance(part, dict) else []


@cache
def byte_of_char() -> dict[str, int]:
    """The alphabet of byte-level tokens (GPT-2's): printable Latin-1 stands for itself, the rest from U+0100 on."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in shown]
    return {**{chr(b): b for b in shown}, **{chr(0x100 + i): b for i, b in enumerate(hidden)}}


class _ByteLevelStream:
    """Tokens are bytes; the bytes of an unfinished character wait."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        self._token_of = inner.id_to_token
        self._byte_of_char = byte_of_char()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        chars = self._token_of(token) or ""
        try:
            content = bytes([self._byte_of_char[c] for c in chars])
        except KeyError:  # an added token is plain text
            content = chars.encode("utf-8")
        return self._utf8.decode(content)

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


class _ByteFallbackStream:
    """Tokens are text, some are one byte each; a run of byte tokens waits for its end.

    The library decodes a run as a whole: one invalid byte in it makes U+FFFD of each of its bytes.
    """

    def __init__(self, inner: tokenizers.Tokenizer, old: str, new: str, strip: str, n_strip: int) -> None:
        self._token_of = inner.id_to_token
        self._old, self._new = old, new
        self._strip, self._all_to_strip = strip, n_strip
        self._run = b""
        self._left_to_strip = n_strip

    def push(self, token: int) -> str:
        chars = self._token_of(token)
        if chars is None:
            return ""
        chars = chars.replace(self._old, self._new)
        if _BYTE_TOKEN.fullmatch(chars):
            self._run += bytes.fromhex(chars[3:5])
            return ""
        return self._stripped(self._end_run() + chars)

    def flush(self) -> str:
        rest = self._stripped(self._end_run())
        self._left_to_strip = self._all_to_strip
        return rest

    def _end_run(self) -> str:
        run, self._run = self._run, b""
        try:
            return run.decode("utf-8")
        except UnicodeDecodeError:
            return "\ufffd" * len(run)

    def _stripped(self, text: str) -> str:
        """`text` without what is still to strip at the beginning of the whole."""
        while self._left_to_strip and text:
            if not text.startswith(self._strip):
                self._left_to_strip = 0
            else:
                text = text[len(self._strip) :]
                self._left_to_strip -= 1
        return text


class _WholeStream:
    """All text comes at the end."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []

    def push(self, token: int) -> str:
        self._ids.append(token)
        return ""

    def flush(self) -> str:
        ids, self._ids = self._ids, []
        return self._tokenizer.decode(ids)
