"""JSON read strictly: what two readers could understand differently is refused, not guessed at."""

from __future__ import annotations

import json
import math
from typing import Any

from mossnet_tg.errors import MossnetError


def loads(content: bytes, where: str, error: type[MossnetError]) -> Any:
    """The value of a JSON text, read strictly: no duplicate keys, no NaN, no number beyond 64 bits, no broken Unicode.

    Raises `error`, whose message begins with `where`.
    """

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(found)
        if len(out) < len(found):
            seen: set[str] = set()
            twice = next(k for k, _ in found if k in seen or seen.add(k))  # type: ignore[func-returns-value]
            raise error(f"{where}: key {show(twice)} stands there twice")
        return out

    def integer(text: str) -> int:
        if len(text) > 20 or text == "-0" or not -(1 << 63) <= int(text) < 1 << 63:
            raise error(f"{where}: number {text[:30]} is not a 64-bit integer")
        return int(text)

    def number(text: str) -> float:
        if not math.isfinite(value := float(text)):
            raise error(f"{where}: number {text[:30]} is not finite")
        return value

    def constant(text: str) -> Any:
        raise error(f"{where}: not JSON: {text} is not a number of JSON")

    try:
        text = content.decode("utf-8")
        found = json.loads(
            text, object_pairs_hook=pairs, parse_int=integer, parse_float=number, parse_constant=constant
        )
        if "\\u" in text:  # only an escape can bring in half a surrogate pair, which no file name or message can hold
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as e:
        raise error(f"{where}: not JSON: {e}") from None
    return found


def show(value: Any) -> str:
    """A value of a JSON file in an error: escaped, and cut where it is long (a damaged file can hold anything)."""
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
