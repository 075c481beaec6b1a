"""Drift, fatigue and order: planted changes found, rounds without any left in peace, and figures worked by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from steersman.errors import DataError
from steersman.types import Comparison
from steersman.values import drift as module
from steersman.values.drift import Observed, drift, fatigue, observed, order_effects, place_slope


def votes(seed: int, raters: int = 8, each: int = 60, **change: float) -> Observed:
    """Raters of reliability 1. Rater 0's reliability or side bias moves by so much in the session."""
    generator = np.random.default_rng(seed)
    columns = []
    for rater in range(raters):
        margin, side = 2 * generator.standard_normal(each), generator.choice([-1.0, 1.0], each)
        along = np.linspace(0, 1, each) * (rater == 0)
        bias = change.get("side", 0.0) * (along - 0.5) * (rater == 0)
        logit = (1 + change.get("reliability", 0.0) * along) * margin + bias * side
        label = (generator.random(each) < 1 / (1 + np.exp(-logit))).astype(float)
        rows = np.arange(each) + rater * each
        columns.append((rows, np.full(each, f"r{rater}"), np.arange(each), margin, side, label, np.ones(each)))
    return Observed(*(np.concatenate(parts) for parts in zip(*columns, strict=True)))


def row(rater: str, ranking: tuple[int, ...], prompt: str = "q", **rest: Any) -> Comparison:
    return Comparison(prompt=prompt, options=("x", "y", "z")[: len(ranking)], ranking=ranking, rater=rater, **rest)


# ── votes in order ───────────────────────────────────────────────────────────────────────────────────────────────────
def test_margins_are_the_other_raters_and_positions_the_raters_own() -> None:
    rows = [
        row("a", (1, 2), order_shown=(1, 0)),
        row("", (1, 2)),
        row("b", (1, 2), "p"),
        row("b", (2, 1)),
        row("a", (1, 1), "p"),
        row("a", (1, 2), gold=True),
    ]
    found = observed(rows)
    assert found.row.tolist() == [0, 2, 3, 4]
    assert found.rater.tolist() == ["a", "b", "b", "a"]
    assert found.position.tolist() == [0, 0, 1, 1]
    assert found.label.tolist() == [1, 1, 0, 0.5]
    assert found.side.tolist() == [-1, 0, 0, 0]
    # Of `a` on q: one unnamed for x, b for y. Of b on p: a tie is neither. Of b on q: a and one unnamed for x.
    assert found.margin == pytest.approx([0, 0, math.log(2.5 / 0.5), math.log(1.5 / 0.5)])


def test_given_margins_are_turned_to_the_order_of_the_texts() -> None:
    turned = Comparison(prompt="q", options=("y", "x"), ranking=(1, 2), rater="a")
    assert observed([turned, row("b", (1, 2))], margins=[0.7, 0.3]).margin.tolist() == [-0.7, 0.3]
    with pytest.raises(DataError, match="1 margins for 2 rows"):
        observed([turned, turned], margins=[0.1])
    with pytest.raises(DataError, match="no vote of a named rater"):
        observed([row("", (1, 2))])


def test_a_rankings_pairs_weigh_as_its_choices() -> None:
    found = observed([row("a", (1, 2, 3), order_shown=(2, 1, 0))])
    assert found.weight.sum() == pytest.approx(2)
    assert sorted(found.side.tolist()) == [-1, -0.5, -0.5]
    assert found.position.tolist() == [0, 0, 0]


# ── drift ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_who_becomes_careless_or_leans_to_a_side_is_found_with_the_windows() -> None:
    for seed in range(3):
        found = drift(votes(seed, each=160, reliability=-2.0), draws=199).raters[0]
        assert (found.rater, found.reliability_p <= 0.05) == ("r0", True)
        assert found.windows[0].reliability - found.windows[-1].reliability > 0.5
        found = drift(votes(seed, each=160, side=4.0), draws=199).raters[0]
        assert found.rater == "r0"
        assert found.side_p is not None
        assert found.side_p <= 0.05
        assert found.windows[-1].side_bias - found.windows[0].side_bias > 1
        assert [window.votes for window in found.windows] == [40] * 4


def test_without_drift_few_rounds_have_an_alarm() -> None:
    """Thirty rounds of six raters: at most 5 with any p of 5 % or less (1.5 expected)."""
    alarms = 0
    for seed in range(30):
        raters = drift(votes(seed, raters=6, each=40), draws=99, seed=seed).raters
        alarms += any(min(r.reliability_p, r.side_p or 0) <= 0.05 for r in raters)
    assert alarms <= 5


def test_what_all_raters_do_is_taken_out_of_each_by_hand() -> None:
    """Eight raters of 20 votes with scores of 1 in the first tenth; rater 0 has 2 there, and is left with 1."""
    scores = [np.zeros((2, 20)) for _ in range(module.MIN_RATERS)]
    for own in scores:
        own[0, :2] = 1
    scores[0][0, :2] = 2
    found = module._without_what_all_do(scores)
    assert found[0][0].tolist() == [1, 1, *[0] * 18]
    assert found[1][0, :2] == pytest.approx(-1 / 7)  # the mean of the seven others is 8/7
    assert module._without_what_all_do(scores[:3])[1][0, 0] == 1


def test_how_far_sums_wander_by_hand() -> None:
    """Scores 1 1 0 0: centred 1/2 1/2 -1/2 -1/2, so the sum gets to 1, over a deviation of 1/2 and the root of 4."""
    scores = np.array([[1.0, 1, 0, 0], [1, 0, 1, 0], [2, 2, 2, 2]])
    assert module._wandering(scores).tolist() == [1, 0.5, 0]


def test_too_few_votes_are_named_and_unknown_sides_have_no_test() -> None:
    own = votes(0, each=39)
    assert drift(own).too_few == {f"r{i}": 39 for i in range(8)}
    blind = votes(0, raters=2, each=40)
    found = drift(blind._replace(side=np.zeros(80)), draws=19)
    assert [rater.side_p for rater in found.raters] == [None, None]
    with pytest.raises(DataError, match="1 windows"):
        drift(own, windows=1)


# ── slopes ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_slope_within_people_is_that_of_least_squares_with_a_constant_for_each() -> None:
    generator = np.random.default_rng(0)
    people = np.repeat(np.arange(6), 10)
    items = np.concatenate([generator.permutation(10) for _ in range(6)])
    positions = np.tile(np.arange(10.0), 6)
    values = 0.3 * positions + people + 2.0 * items + generator.standard_normal(60)
    dummies = np.column_stack([positions, np.eye(6)[people], np.eye(10)[items]])
    expected = np.linalg.lstsq(dummies, values, rcond=None)[0][0]
    found = place_slope(values.tolist(), positions.tolist(), people.tolist(), items.tolist())
    assert found.estimate.value == pytest.approx(expected)
    assert found.estimate.low < 0.3 < found.estimate.high
    assert found.p < 0.05
    only = np.linalg.lstsq(dummies[:, :7], values, rcond=None)[0][0]
    assert place_slope(values.tolist(), positions.tolist(), people.tolist()).estimate.value == pytest.approx(only)


def test_what_cannot_be_told_apart_is_said_to_be_so() -> None:
    positions, people = list(range(5)) * 4, [p for p in range(4) for _ in range(5)]
    found = place_slope([1.0] * 20, positions, people, positions)
    assert math.isnan(found.estimate.value)
    assert "cannot be told from the items" in found.why
    assert "three people" in place_slope([1.0, 0.0], [0, 1], [0, 1]).why


def test_slopes_without_an_effect_are_rarely_significant() -> None:
    """200 rounds of 12 people with habits of their own: 5 % expected, at most 10 % here."""
    generator, alarms = np.random.default_rng(0), 0
    people = np.repeat(np.arange(12), 20)
    for _ in range(200):
        values = generator.standard_normal(12)[people] + generator.standard_normal(240)
        alarms += place_slope(values.tolist(), np.tile(np.arange(20.0), 12).tolist(), people.tolist()).p <= 0.05
    assert alarms <= 20


def test_who_tires_agrees_less_and_takes_less_time() -> None:
    """Agreement falls from 95 % to 55 % over 60 votes and times from 20 s to 5 s: the slopes are a hundred votes'."""
    generator = np.random.default_rng(1)
    rows, margins = [], []
    for at in range(60):
        for rater in range(10):
            right = generator.random() < 0.95 - 0.4 * at / 59
            seconds = 20 * math.exp(-math.log(4) * at / 59 + 0.1 * generator.standard_normal())
            rows.append(row(f"r{rater}", (1, 2) if right else (2, 1), f"q{at}", seconds=seconds))
            margins.append(3.0)
    found = fatigue(rows, observed(rows, margins))
    assert found.agreement.estimate.low < -0.4 * 100 / 59 < found.agreement.estimate.high < 0
    assert found.log_seconds is not None
    assert found.log_seconds.estimate.value == pytest.approx(-math.log(4) * 100 / 59, abs=0.1)
    assert (found.raters, found.timed) == (10, 600)
    without = [r.model_copy(update={"seconds": None}) for r in rows]
    assert fatigue(without, observed(without, margins)).log_seconds is None


# ── order on the page ────────────────────────────────────────────────────────────────────────────────────────────────
def test_side_bias_and_primacy_by_hand() -> None:
    rows = [
        *[row(f"r{i}", (1, 2), f"q{i}", order_shown=(0, 1)) for i in range(3)],
        row("r0", (1, 2), "q9", order_shown=(1, 0)),
        row("r1", (1, 1), order_shown=(1, 0)),
        row("r2", (1, 2)),
        row("r2", (1, 2), order_shown=(0, 1), gold=True),
        row("r0", (1, 2, 3), "q1", order_shown=(0, 1, 2)),  # place and rank agree on all three pairs
        row("r1", (1, 2, 2), "q2", order_shown=(1, 2, 0)),  # the best one last, the others tied: -2 of 3
    ]
    found = order_effects(rows)
    assert (found.first_wins.value, found.first_wins.n) == (0.75, 4)
    assert found.primacy.value == pytest.approx((1 - 2 / 3) / 2)
    assert (found.first_listed_first.value, found.first_listed_first.n) == (pytest.approx(4 / 7), 7)
    assert found.unknown_order == 1


def test_a_lean_to_the_first_is_found_and_its_absence_too() -> None:
    """Six rounds of 240 votes each: a lean of 65 % in all of them; without one at most two alarms (0.3 expected)."""
    generator = np.random.default_rng(0)
    alarms = {0.65: 0, 0.5: 0}
    for lean in alarms:
        for _ in range(6):
            rows = [
                row(f"r{i % 20}", (1, 2) if first == (shown == (0, 1)) else (2, 1), f"q{i % 31}", order_shown=shown)
                for i in range(240)
                for first in [generator.random() < lean]
                for shown in [(0, 1) if generator.random() < 0.5 else (1, 0)]
            ]
            found = order_effects(rows)
            alarms[lean] += found.first_wins_p < 0.05
    assert alarms[0.65] == 6
    assert alarms[0.5] <= 2
