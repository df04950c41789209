"""The sampler against a model in numpy: which tokens can come, how often, and the same ones everywhere."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from mossnet_tg.engine import Library, Sampler, SamplingStruct
from mossnet_tg.errors import UsageError
from mossnet_tg.sampling import SamplingParams


def allowed(logits, params, history=()):
    """Which tokens the filters leave, in double precision."""
    x = logits.astype(np.float64)
    if params.repetition_window:
        for token in set(history[-params.repetition_window :]):
            penalised = x[token] / params.repetition_penalty if x[token] > 0 else x[token] * params.repetition_penalty
            x[token] = np.float32(penalised)
    order = np.lexsort((np.arange(len(x)), -x))
    if params.top_k:
        order = order[: params.top_k]
    p = np.exp(x[order] - x[order[0]])
    if params.top_p < 1:
        below = np.cumsum(p)[:-1] < params.top_p * p.sum()
        order, p = order[: 1 + below.sum()], p[: 1 + below.sum()]
    keep = p >= params.min_p
    order = order[keep]
    weights = np.exp((x[order] - x[order[0]]) / params.temperature)
    return order, weights / weights.sum()


def picks(sampler, logits, n):
    return np.array([sampler.pick(logits) for _ in range(n)])


FLAT = 1e5  # a temperature at which each token that is left comes equally often: the set shows


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 5},
        {"top_k": 1},
        {"top_k": 39},
        {"top_k": 100},
        {"top_p": 0.5},
        {"top_p": 0.999},
        {"top_p": 1e-6},
        {"min_p": 0.2},
        {"min_p": 1.0},
        {"top_k": 12, "top_p": 0.9},
        {"top_k": 12, "top_p": 0.9, "min_p": 0.15},
        {"repetition_penalty": 2.0, "top_k": 6},
        {"repetition_penalty": 0.5, "top_p": 0.7},
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_filters_leave_exactly_the_right_tokens(options, seed):
    logits = np.random.default_rng(seed).normal(0, 2, 40).astype(np.float32)
    logits[7] = logits[8]  # a tie
    params = SamplingParams(temperature=FLAT, seed=seed, repetition_window=3, **options)
    sampler = Sampler(params)
    history = [1, 2, 3, 3, 30]
    for token in history:
        sampler.accept(token)
    before = logits.copy()
    expected, _ = allowed(logits, params, history if "repetition_penalty" in options else ())
    assert set(picks(sampler, logits, 40 * len(expected))) == set(expected)
    assert np.array_equal(logits, before)


@pytest.mark.parametrize("options", [{"top_p": 0.8}, {"top_k": 60}, {"top_k": 500, "top_p": 0.6}, {"min_p": 0.05}])
def test_filters_of_a_large_vocabulary(options):
    logits = np.random.default_rng(9).normal(0, 2, 5000).astype(np.float32)
    params = SamplingParams(temperature=FLAT, seed=1, **options)
    expected, _ = allowed(logits, params)
    assert 10 < len(expected) < 700
    assert set(picks(Sampler(params), logits, 20 * len(expected))) == set(expected)


def test_of_equals_the_lower_ids_stay():
    for options in ({"top_k": 4}, {"top_p": 0.5}):
        sampler = Sampler(SamplingParams(temperature=1, **options))
        assert set(picks(sampler, np.zeros(8, np.float32), 200)) == {0, 1, 2, 3}
        assert set(picks(sampler, np.array([0, 0, 0, -50, 5, 5, 5, 5], np.float32), 200)) <= {4, 5, 6, 7}


@pytest.mark.parametrize(
    "options", [{"temperature": 0.7}, {"temperature": 1.5, "top_p": 0.9}, {"temperature": 1, "top_k": 8}]
)
def test_frequencies(options):
    logits = np.random.default_rng(5).normal(0, 1.5, 20).astype(np.float32)
    params = SamplingParams(seed=11, **options)
    order, probabilities = allowed(logits, params)
    n = 40000
    counts = np.bincount(picks(Sampler(params), logits, n), minlength=20)[order]
    assert counts.sum() == n
    chi_squared = ((counts - n * probabilities) ** 2 / (n * probabilities)).sum()
    assert chi_squared < len(order) + 5 * np.sqrt(2 * len(order))  # five standard deviations


def test_greedy_takes_the_lowest_of_equals():
    logits = np.array([1, 5, 2, 5, 5], np.float32)
    sampler = Sampler(SamplingParams(temperature=0, top_k=1, top_p=0.1, min_p=0.5))
    assert set(picks(sampler, logits, 20)) == {1}
    assert Sampler().pick(-logits) == 0


def test_repetition_penalty_counts_each_recent_token_once():
    logits = np.array([4, 3.9, -1, -1.1], np.float32)
    sampler = Sampler(SamplingParams(repetition_penalty=1.05, repetition_window=2))
    assert sampler.pick(logits) == 0
    sampler.accept(0)
    sampler.accept(0)
    assert sampler.pick(logits) == 1  # 4 / 1.05 = 3.81; twice would be the same here
    sampler.accept(1)  # the window holds 0 and 1: 3.81 and 3.71
    assert sampler.pick(logits) == 0
    sampler.accept(1)  # 0 has left the window
    assert sampler.pick(logits) == 0
    sampler.accept(-5)
    sampler.accept(1 << 30)  # ids that no logit belongs to
    assert sampler.pick(logits) == 0
    once = Sampler(SamplingParams(repetition_penalty=1.5, repetition_window=8))
    for _ in range(5):
        once.accept(0)
    assert once.pick(np.array([4, 2.6], np.float32)) == 0  # 4 / 1.5 = 2.67, not 4 / 1.5^5
    assert once.pick(np.array([-1, -1.6], np.float32)) == 0  # -1 * 1.5 = -1.5


def test_same_seed_same_tokens():
    logits = np.random.default_rng(1).normal(0, 2, 1000).astype(np.float32)
    params = SamplingParams(temperature=0.9, top_p=0.95, seed=42)
    assert np.array_equal(picks(Sampler(params), logits, 50), picks(Sampler(params), logits, 50))
    other = SamplingParams(temperature=0.9, top_p=0.95, seed=43)
    assert not np.array_equal(picks(Sampler(params), logits, 50), picks(Sampler(other), logits, 50))


def test_known_tokens():
    """What every machine gives: the random numbers, exp and the sums' order are ours."""
    logits = (np.arange(100, dtype=np.float32) * np.float32(0.37)) % np.float32(5)
    assert picks(Sampler(SamplingParams(temperature=1, seed=7)), logits, 12).tolist() == [
        67,
        27,
        81,
        94,
        94,
        87,
        11,
        13,
        40,
        22,
        54,
        76,
    ]
    params = SamplingParams(temperature=0.8, top_k=40, top_p=0.9, min_p=0.05, seed=1 << 63)
    assert picks(Sampler(params), logits, 12).tolist() == [81, 13, 11, 93, 80, 81, 11, 27, 27, 81, 39, 64]


def test_uniform_is_uniform():
    """The generator itself, through equal logits."""
    sampler = Sampler(SamplingParams(temperature=1, seed=3))
    n = 64000
    counts = np.bincount(picks(sampler, np.zeros(64, np.float32), n), minlength=64)
    assert ((counts - n / 64) ** 2 / (n / 64)).sum() < 63 + 5 * np.sqrt(2 * 63)


def test_infinities():
    logits = np.full(10, -np.inf, np.float32)
    logits[[3, 6]] = [1, 2]
    for options in ({}, {"top_k": 5}, {"top_p": 0.99999}, {"min_p": 0.01}):
        sampler = Sampler(SamplingParams(temperature=FLAT, **options))
        assert set(picks(sampler, logits, 60)) == {3, 6}, options
    assert Sampler().pick(logits) == 6
    single = np.full(10, -np.inf, np.float32)
    single[9] = -3e38
    assert Sampler(SamplingParams(temperature=1e-30)).pick(single) == 9


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("bad", "match"), [(np.nan, "token 2 is -?nan"), (np.inf, "token 2 is inf"), (-np.inf, "all logits are -infinity")]
)
def test_logits_that_say_nothing_are_refused(bad, match, temperature):
    logits = np.full(5, -np.inf, np.float32)
    logits[2] = bad
    with pytest.raises(UsageError, match=match):
        Sampler(SamplingParams(temperature=temperature)).pick(logits)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1},
        {"temperature": np.nan},
        {"temperature": np.inf},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_p": np.nan},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"repetition_penalty": 0},
        {"repetition_penalty": np.inf},
        {"repetition_window": (1 << 20) + 1},
    ],
)
def test_wrong_parameters_are_refused(options):
    """By the library itself; `SamplingParams` refuses them before it."""
    fields = {"top_p": 1, "repetition_penalty": 1, **options}
    with pytest.raises(UsageError, match=next(iter(options))):
        Library.default().check("sampler_new", ctypes.byref(SamplingStruct(**fields)), ctypes.byref(ctypes.c_void_p()))
    with pytest.raises(UsageError, match=next(iter(options))):
        SamplingParams(**options)


def test_sizes_may_change_from_pick_to_pick():
    sampler = Sampler(SamplingParams(temperature=1, top_p=0.9, seed=2))
    for n in (10, 5000, 3, 50000, 1):
        assert 0 <= sampler.pick(np.zeros(n, np.float32)) < n
    with pytest.raises(UsageError, match="0 logits"):
        sampler.pick(np.zeros(0, np.float32))
    with pytest.raises(UsageError, match="shape"):
        sampler.pick(np.zeros((2, 2), np.float32))


def test_picks_only_from_what_it_is_given():
    """Nothing beyond the array is read: the last one before the end of a page of its own would crash or be picked."""
    memory = np.full(4096, 100, np.float32)
    logits = memory[:3]
    logits[:] = [1, 2, 3]
    token = ctypes.c_int32()
    sampler = Sampler(SamplingParams(temperature=FLAT, top_p=0.9999))
    for _ in range(50):
        sampler.library.check("sampler_pick", sampler.pointer, logits.ctypes.data, 3, ctypes.byref(token))
        assert token.value < 3
