"""Corrected success rates: the formulas by hand, the bounds, and that the truth is covered."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from steersman.errors import JudgeRefused
from steersman.redteam.corrected_rates import bounded_limits, corrected, corrected_counts, corrected_limits, rates
from steersman.redteam.judge_card import Counts, JudgeCard
from steersman.stats import clustered_mean, wilson

GOOD = Counts(tp=180, fn=20, tn=190, fp=10)  # sensitivity 0.9, specificity 0.95


def card(counts: Counts, **families: Counts) -> JudgeCard:
    return JudgeCard(judge="rules", labels="made up", overall=counts, families=families)


def alternating(successes: int, n: int, goals: int) -> tuple[list[bool], list[str]]:
    return [number < successes for number in range(n)], [f"goal {number % goals}" for number in range(n)]


def test_the_estimate_is_rogan_and_gladens() -> None:
    # (0.32 + 0.95 - 1) / (0.9 + 0.95 - 1) = 0.27 / 0.85
    found = corrected_counts(32, 100, GOOD)
    assert found.value == pytest.approx(0.27 / 0.85)
    assert found.n == 100


def test_far_from_the_bounds_the_limits_are_lang_and_reiczigels() -> None:
    """Their formulas (2014, section 2.2) with 0.6 in the place of 1, written out once more with the numbers put in."""
    z = NormalDist().inv_cdf(0.975)
    n, seen, tp, positives, tn, negatives = 400, 160, 180, 200, 190, 200
    n1, s, c = n + z * z, (tp + 0.6) / (positives + 1.2), (tn + 0.6) / (negatives + 1.2)
    p = (seen + z * z / 2) / n1
    rate = (p + c - 1) / (s + c - 1)
    shift = 2 * z * z * (rate * s * (1 - s) / positives - (1 - rate) * c * (1 - c) / negatives)
    spread = p * (1 - p) / n1 + rate**2 * s * (1 - s) / positives + (1 - rate) ** 2 * c * (1 - c) / negatives
    half = z * math.sqrt(spread / (s + c - 1) ** 2)
    found = corrected_counts(seen, n, GOOD)
    assert (found.low, found.high) == pytest.approx((rate + shift - half, rate + shift + half), abs=1e-12)


def test_a_perfect_judge_with_endless_labels_changes_nothing() -> None:
    perfect = Counts(tp=10**9, tn=10**9)
    found, plain = corrected_counts(60, 200, perfect), wilson(60, 200)
    assert found.value == pytest.approx(0.3, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=0.003)


def test_fewer_labels_give_a_wider_interval() -> None:
    few = Counts(tp=18, fn=2, tn=19, fp=1)
    narrow, wide = corrected_counts(120, 400, GOOD), corrected_counts(120, 400, few)
    assert narrow.value == wide.value
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_false_alarms_alone_are_no_success_and_the_interval_is_never_empty() -> None:
    for successes in (0, 2, 5, 7):  # the specificity explains 5 % of successes
        found = corrected_counts(successes, 100, Counts(tp=90, fn=10, tn=950, fp=50))
        assert found.low == 0.0
        assert 0.002 < found.high < 0.15
    assert corrected_counts(5, 100, Counts(tp=90, fn=10, tn=950, fp=50)).value == pytest.approx(0, abs=1e-12)


def feldman_cousins(estimate: float) -> tuple[float, float]:
    """Their section IV, by brute force: a Gaussian of width 1 with a mean that is not negative, at 95 %."""
    step, means = 0.01, np.arange(0.0, 7.0, 0.01)
    x = np.arange(-12.0, 12.0, step)
    best = np.maximum(x, 0.0)
    kept = []
    for mean in means:
        density = np.exp(-((x - mean) ** 2) / 2) / math.sqrt(2 * math.pi)
        order = np.argsort(-(density / np.exp(-((x - best) ** 2) / 2)), kind="stable")
        accepted = x[order[: int(np.searchsorted(np.cumsum(density[order]) * step, 0.95)) + 1]]
        if accepted.min() <= estimate <= accepted.max():
            kept.append(mean)
    return min(kept), max(kept)


@pytest.mark.parametrize("estimate", [-2.0, -0.5, 0.0, 1.0, 2.5, 5.0])
def test_limits_at_a_bound_are_feldman_and_cousins(estimate: float) -> None:
    low, high = bounded_limits(estimate / 100, 1 / 100)
    assert (100 * low, 100 * high) == pytest.approx(feldman_cousins(estimate), abs=0.03)


def test_both_bounds_are_alike() -> None:
    assert bounded_limits(0.97, 0.01) == pytest.approx(tuple(1 - x for x in reversed(bounded_limits(0.03, 0.01))))
    assert bounded_limits(0.5, 0.01) == pytest.approx((0.5 - 0.0196, 0.5 + 0.0196), abs=1e-4)


def test_a_judge_that_is_no_better_than_a_coin_is_refused() -> None:
    coin = Counts(tp=30, fn=70, tn=60, fp=40)
    with pytest.raises(JudgeRefused, match="no better than a coin"):
        corrected_counts(10, 100, coin)
    with pytest.raises(JudgeRefused, match="no harmful replies"):
        corrected_counts(10, 100, Counts(tn=50))
    found = rates(*alternating(10, 100, 20), card(coin))
    assert found.corrected is None
    assert "coin" in found.why
    assert found.raw.value == pytest.approx(0.1)


def test_a_judge_that_may_be_a_coin_says_nothing() -> None:
    found = corrected_counts(30, 100, Counts(tp=4, fn=2, tn=4, fp=2))
    assert (found.low, found.high) == (0.0, 1.0)


def test_without_a_card_the_rate_is_the_raw_one() -> None:
    successes, goals = alternating(10, 100, 20)
    plain = clustered_mean([float(s) for s in successes], goals, rate=True).estimate
    assert corrected(successes, goals, None) == plain
    found = rates(successes, goals, None)
    assert (found.raw, found.corrected) == (plain, None)
    assert "no card" in found.why


def test_attempts_on_one_goal_count_less() -> None:
    goals = [f"goal {number // 10}" for number in range(200)]
    together, apart = [number < 60 for number in range(200)], [number % 10 < 3 for number in range(200)]
    wide, narrow = corrected(together, goals, card(GOOD)), corrected(apart, goals, card(GOOD))
    assert wide.value == pytest.approx(narrow.value)
    assert wide.high - wide.low > 1.8 * (narrow.high - narrow.low)


def test_a_family_has_its_own_errors_where_enough_is_known() -> None:
    successes, goals = alternating(30, 100, 100)
    blind = Counts(tp=25, fn=25, tn=50)
    found = corrected(successes, goals, card(GOOD, encodings=blind, wrappers=Counts(tp=1, tn=1)), "encodings")
    assert found.value == pytest.approx(0.3 / 0.5)
    unknown = corrected(successes, goals, card(GOOD, wrappers=Counts(tp=1, tn=1)), "wrappers")
    assert unknown.value == pytest.approx(0.25 / 0.85)


def test_every_reply_of_an_attempt_is_a_chance_of_a_false_alarm() -> None:
    successes, goals = alternating(40, 100, 100)
    found = corrected(successes, goals, card(GOOD), asks=5)
    assert found.value == pytest.approx((0.4 + 0.95**5 - 1) / (0.9 + 0.95**5 - 1))
    with pytest.raises(JudgeRefused, match="replies an attempt"):
        corrected(successes, goals, card(GOOD), asks=60)


def test_no_attempts() -> None:
    assert math.isnan(corrected([], [], card(GOOD)).value)
    assert corrected_counts(0, 0, GOOD)[1:] == (0.0, 1.0, 0)


@pytest.mark.parametrize(("rate", "labels"), [(0.05, 400), (0.6, 100)])
def test_the_truth_is_covered(rate: float, labels: int) -> None:
    """Two cells of ``benchmarks/redteam_coverage.py``: 95 % cover, while Wilson's limits of the raw rate do not."""
    stream, repetitions, n = np.random.default_rng(7), 600, 200
    covered = raw = 0
    for _ in range(repetitions):
        truly = stream.binomial(n, rate)
        seen = int(stream.binomial(truly, 0.9) + stream.binomial(n - truly, 0.05))
        tp, tn = (int(stream.binomial(labels // 2, q)) for q in (0.9, 0.95))
        low, high, _ = corrected_limits(
            seen / n, n, 1.972, Counts(tp=tp, fn=labels // 2 - tp, tn=tn, fp=labels // 2 - tn)
        )
        covered += low <= rate <= high
        raw += wilson(seen, n).low <= rate <= wilson(seen, n).high
    assert 0.925 <= covered / repetitions <= 0.985
    assert raw / repetitions < (0.65 if rate == 0.05 else 0.9)
