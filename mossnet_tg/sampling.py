"""How the next token is chosen, as values. The choosing itself is libmossnet's, in C, the same on every device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mossnet_tg.errors import UsageError

# What each setting may be; float32 and the integers of the C interface can hold all of it. NaN is in no range.
_RANGES: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    ("temperature", lambda v: 0 <= v <= 1e6, "a number from 0 (greedy) to 1e6"),
    ("top_k", lambda v: 0 <= v < 1 << 31, "an integer from 0 (all) to 2^31 - 1"),
    ("top_p", lambda v: 1e-6 <= v <= 1, "a number from 1e-6 to 1 (all)"),
    ("min_p", lambda v: 0 <= v <= 1, "a number from 0 (all) to 1"),
    ("repetition_penalty", lambda v: 1e-6 <= v <= 1e6, "a number from 1e-6 to 1e6, 1 for none"),
    ("repetition_window", lambda v: 0 <= v <= 1 << 20, "an integer from 0 (none) to 2^20"),
    ("seed", lambda v: 0 <= v < 1 << 64, "an integer from 0 to 2^64 - 1"),
)


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """A sampler's settings; the defaults are greedy. Raises UsageError, which names what was found and expected.

    `temperature` 0 takes the likeliest token. `top_k` keeps the k likeliest (0: all), `top_p` the fewest whose
    probabilities reach p, `min_p` those at least min_p times as likely as the likeliest. `repetition_penalty` divides
    the positive logits (and multiplies the negative) of tokens among the last `repetition_window` (0: none). `seed`
    makes a run repeatable.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repetition_window: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name, ok, wanted in _RANGES:
            value = getattr(self, name)
            kinds = (int, float) if isinstance(getattr(type(self), name), float) else (int,)
            if type(value) not in kinds or not ok(value):
                raise UsageError(f"{name} is {value!r}, expected {wanted}")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0
