"""Intervals and tests against published tables, scipy, brute force and formulas worked by hand."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats as scipy_stats  # type: ignore[import-untyped]

from steersman.stats import (
    clustered_mean,
    independent_difference,
    mcnemar_exact,
    observations_for,
    paired_difference,
    ratio_of_perplexities,
    wilson,
)


def pairs(both: int, only_after: int, only_before: int, neither: int) -> tuple[list[bool], list[bool]]:
    """The pairs of a two-by-two table as (before, after)."""
    cells = [(True, True, both), (False, True, only_after), (True, False, only_before), (False, False, neither)]
    listed = [(before, after) for before, after, count in cells for _ in range(count)]
    return [before for before, _ in listed], [after for _, after in listed]


# ── one rate ─────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_limits_of_newcombe_s_table(successes: int, n: int, low: float, high: float) -> None:
    # Newcombe (1998), "Two-sided confidence intervals for the single proportion", Stat. Med. 17:857, table I.
    estimate = wilson(successes, n)
    assert (round(estimate.low, 4), round(estimate.high, 4)) == (low, high)
    assert (estimate.value, estimate.n) == (successes / n, n)


@pytest.mark.parametrize(("n", "confidence"), [(1, 0.95), (7, 0.9), (40, 0.95), (41, 0.999)])
def test_wilson_agrees_with_scipy_at_every_count(n: int, confidence: float) -> None:
    for k in range(n + 1):
        expected = scipy_stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
        estimate = wilson(k, n, confidence)
        assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high), rel=1e-12, abs=1e-15)


def test_wilson_limits_solve_the_score_equation() -> None:
    # By definition a limit p has |k/n - p| = z * sqrt(p (1 - p) / n), with z = 1.959964 for 95 %.
    for limit in wilson(3, 10)[1:3]:
        assert abs(0.3 - limit) == pytest.approx(1.959963984540054 * math.sqrt(limit * (1 - limit) / 10), rel=1e-12)


def test_no_observations_say_nothing_and_wrong_counts_are_refused() -> None:
    empty = wilson(0, 0)
    assert math.isnan(empty.value)
    assert (empty.low, empty.high, empty.percent()) == (0.0, 1.0, "no data")
    assert wilson(8, 10).percent() == "80 % [49, 94], n=10"
    for successes, n in ((-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="between 0 and n"):
            wilson(successes, n)


# ── two rates on the same items ──────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        # Newcombe (1998), "Improved confidence intervals for the difference between binomial proportions based on
        # paired data", Stat. Med. 17:2635, method 10.
        ((36, 12, 2, 0), 0.0569, 0.3404),
        # Fagerland, Lydersen, Laake (2014), Stat. Med. 33:2850: airway hyper-responsiveness in 21 children.
        ((1, 1, 7, 12), -0.507, -0.026),
    ],
)
def test_paired_difference_gives_published_limits(table: tuple[int, int, int, int], low: float, high: float) -> None:
    estimate = paired_difference(*pairs(*table))
    digits = len(str(high).split(".")[1])
    assert (round(estimate.low, digits), round(estimate.high, digits)) == (low, high)
    assert estimate.value == pytest.approx((table[1] - table[2]) / sum(table), rel=1e-12)


@pytest.mark.parametrize(
    ("before", "after", "low", "high"),
    [((48, 80), (56, 70), 0.0524, 0.3339), ((3, 10), (9, 10), 0.1705, 0.8090), ((0, 10), (10, 10), 0.6075, 1.0)],
)
def test_independent_difference_gives_published_limits(
    before: tuple[int, int], after: tuple[int, int], low: float, high: float
) -> None:
    """Newcombe (1998), table II, method 10."""
    estimate = independent_difference(wilson(*before), wilson(*after))
    assert (round(estimate.low, 4), round(estimate.high, 4)) == (low, high)
    assert estimate.n == min(before[1], after[1])


def test_no_observations_give_no_difference() -> None:
    estimate = independent_difference(wilson(0, 0), wilson(3, 10))
    assert math.isnan(estimate.value)
    assert estimate[1:] == (-1.0, 1.0, 0)


def test_paired_difference_by_hand_where_the_correction_bites() -> None:
    # both 8, only after 6, only before 1, neither 5: 14 of 20 after, 9 of 20 before.
    # phi: cross product 8*5 - 6*1 = 34, less n/2 = 10 leaves 24; margins 14 * 6 * 9 * 11 = 8316.
    phi = 24 / math.sqrt(8316)
    after, before = wilson(14, 20), wilson(9, 20)
    down, up = (0.7 - after.low, before.high - 0.45), (after.high - 0.7, 0.45 - before.low)
    low = 0.25 - math.sqrt(down[0] ** 2 - 2 * phi * down[0] * down[1] + down[1] ** 2)
    high = 0.25 + math.sqrt(up[0] ** 2 - 2 * phi * up[0] * up[1] + up[1] ** 2)
    assert paired_difference(*pairs(8, 6, 1, 5))[:3] == pytest.approx((0.25, low, high), rel=1e-12)


def test_a_cross_product_smaller_than_the_correction_counts_as_no_correlation() -> None:
    # 6*4 - 4*4 = 8 is below n/2 = 9: phi is 0 and the limits add like those of independent rates.
    after, before = wilson(10, 18), wilson(10, 18)
    low = -math.hypot(10 / 18 - after.low, before.high - 10 / 18)
    assert paired_difference(*pairs(6, 4, 4, 4)).low == pytest.approx(low, rel=1e-12)


def test_paired_difference_is_antisymmetric_bounded_and_holds_its_value() -> None:
    for table in product((0, 1, 5), repeat=4):
        if not any(table):
            continue
        before, after = pairs(*table)
        forward, backward = paired_difference(before, after), paired_difference(after, before)
        assert (forward.low, forward.high) == pytest.approx((-backward.high, -backward.low), abs=1e-12)
        assert -1 <= forward.low <= forward.value <= forward.high <= 1


def test_pairs_need_equal_lengths_and_none_say_nothing() -> None:
    assert paired_difference([], [])[1:] == (-1.0, 1.0, 0)
    for function in (paired_difference, mcnemar_exact):
        with pytest.raises(ValueError, match="equal lengths"):
            function([True], [])


@pytest.mark.parametrize("table", [(3, 9, 2, 4), (0, 0, 7, 0), (5, 1, 6, 2), (2, 4, 4, 0), (9, 1, 0, 9)])
def test_mcnemar_is_the_exact_binomial_test_of_the_discordant_pairs(table: tuple[int, int, int, int]) -> None:
    p = mcnemar_exact(*pairs(*table))
    expected = scipy_stats.binomtest(table[1], table[1] + table[2]).pvalue
    assert p == pytest.approx(expected, rel=1e-12)


def test_mcnemar_by_brute_force() -> None:
    # 5 gained, 1 lost: of the 2^6 ways that six fair coins fall, those at least as lopsided.
    lopsided = sum(sum(coins) in (0, 1, 5, 6) for coins in product((0, 1), repeat=6))
    assert mcnemar_exact(*pairs(10, 5, 1, 10)) == lopsided / 64 == 14 / 64
    assert mcnemar_exact(*pairs(4, 0, 0, 4)) == 1.0


# ── perplexities ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_ratio_is_weighted_by_tokens() -> None:
    # (11 + 30) - (10 + 20) = 11 nats more over 50 tokens.
    assert ratio_of_perplexities([10, 20], [11, 30], [10, 40]).value == pytest.approx(math.exp(11 / 50), rel=1e-12)


def test_equal_passages_leave_no_doubt_and_equal_models_no_difference() -> None:
    same = ratio_of_perplexities([10.0] * 8, [12.0] * 8, [5] * 8)
    assert same[:3] == pytest.approx((math.exp(0.4),) * 3, rel=1e-12)
    assert ratio_of_perplexities([3, 4, 5], [3, 4, 5], [1, 2, 3])[:3] == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("confidence", [0.9, 0.5, 0.2])
def test_the_interval_is_that_of_all_resamples(confidence: float) -> None:
    # Three passages have 27 equally likely resamples: the quantiles of their ratios, by enumeration.
    more, tokens = np.array([1.0, -2.0, 4.0]), np.array([10.0, 20.0, 5.0])
    all_ratios = sorted(math.exp(more[list(p)].sum() / tokens[list(p)].sum()) for p in product(range(3), repeat=3))
    estimate = ratio_of_perplexities([0, 2, 0], [1, 0, 4], [10, 20, 5], confidence, resamples=20_000)
    tails = [0.5 - confidence / 2, 0.5 + confidence / 2]
    expected = np.quantile(all_ratios, tails, method="inverted_cdf")
    assert estimate[1:3] == pytest.approx(tuple(expected), rel=1e-9)
    assert estimate.n == 3


def test_the_bootstrap_is_seeded_and_narrower_at_less_confidence() -> None:
    before, after, tokens = np.arange(30.0), np.arange(30.0) + np.sin(np.arange(30)), np.full(30, 7)
    wide = ratio_of_perplexities(before, after, tokens)  # type: ignore[arg-type]
    assert wide == ratio_of_perplexities(before, after, tokens)  # type: ignore[arg-type]
    narrow = ratio_of_perplexities(before, after, tokens, confidence=0.5)  # type: ignore[arg-type]
    assert wide.low < narrow.low < wide.value < narrow.high < wide.high


def test_passages_need_equal_lengths() -> None:
    for before, after, tokens in (([], [], []), ([1], [1, 2], [1, 2]), ([1, 2], [1, 2], [1])):
        with pytest.raises(ValueError, match="equal, non-zero lengths"):
            ratio_of_perplexities(before, after, tokens)


# ── observations that hang together ──────────────────────────────────────────────────────────────────────────────────
def test_the_clustered_variance_by_hand() -> None:
    """Two clusters of two, errors (1/2, 1/2) and (-1/2, -1/2): 2 / 1 * (1 + 1) / 16 = 1/4, three times that alone."""
    found = clustered_mean([1, 1, 0, 0], ["a", "a", "b", "b"])
    alone = 1 / 12
    assert found.design_effect == pytest.approx(0.25 / alone)
    assert found.quantile == pytest.approx(12.706, abs=1e-3)  # Student's with one degree of freedom
    assert found.estimate.high == pytest.approx(0.5 + 12.706 * 0.5, abs=1e-3)


def test_two_clusterings_add_and_their_intersection_does_not_count_twice() -> None:
    """Crossed one by one, each variance is 1/4 and that of the intersection 1/12; no single one's is gone below."""
    values, rows, columns = [1, 1, 0, 0], ["a", "a", "b", "b"], ["x", "y", "x", "y"]
    both = clustered_mean(values, rows, columns)
    assert both.design_effect == pytest.approx(0.25 * 12)  # the columns' sums cancel: 1/4 + 0 - 1/12 is less than 1/4
    assert clustered_mean(values, rows, ["x"] * 4).design_effect == both.design_effect  # one cluster tells nothing


def test_a_clustered_rate_stays_within_its_bounds() -> None:
    unanimous = clustered_mean([1.0] * 20, [i // 5 for i in range(20)], rate=True)
    assert unanimous.design_effect == 5.0
    assert unanimous.estimate.high == 1.0
    assert unanimous.estimate.low < wilson(4, 4).low  # four observations, and Student's quantile
    nothing = clustered_mean([], [], rate=True)
    assert nothing.estimate[1:] == (0.0, 1.0, 0)


def test_observations_for_a_margin() -> None:
    z = 1.959964
    n = observations_for(0.3, 0.05, z)
    low, high = wilson(round(0.3 * n), round(n))[1:3]
    assert (high - low) / 2 == pytest.approx(0.05, rel=5e-3)
    with pytest.raises(ValueError, match="margin in"):
        observations_for(0.3, 0.0, z)
