"""Bridging: the gradient, the optimum, and intercepts of what two camps like."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from steersman.errors import DataError
from steersman.values.aggregate import Ratings
from steersman.values.bridging import BridgingConfig, _Table, bridging, objective

FEW = BridgingConfig(fewest_of_rater=1, fewest_of_statement=1)


def ratings(values: np.ndarray) -> Ratings:
    names = tuple(f"s{i}" for i in range(values.shape[1]))
    return Ratings(names, (), np.full(len(values), -1), np.asarray(values, dtype=float), np.ones(len(values)))


def camps(seed: int = 0, people: int = 60, gaps: float = 0.3, left: float = 0.5) -> Ratings:
    """Camp L likes statements 0-7, camp R 8-15; both like 16 and 17, neither 18 and 19. One rating in ten is noise."""
    generator = np.random.default_rng(seed)
    side = np.arange(people) < left * people
    likes = np.zeros((people, 20))
    likes[side, :8], likes[~side, 8:16], likes[:, 16:18] = 1, 1, 1
    noise = generator.random(likes.shape) < 0.1
    values = np.where(noise, 1 - likes, likes)
    return ratings(np.where(generator.random(likes.shape) < gaps, np.nan, values))


def test_the_gradient_is_that_of_finite_differences() -> None:
    generator = np.random.default_rng(0)
    table = _Table(np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 0, 2]), generator.random(5), 3, 3)
    flat = generator.normal(size=13)
    loss, slope = objective(flat, table, FEW)
    numeric = approx_fprime(flat, lambda x: objective(x, table, FEW)[0], 1e-7)
    assert slope == pytest.approx(numeric, abs=1e-5)
    mean, i, j, f, g = table.unpack(flat)
    plain = sum((mean + i[u] + j[n] + f[u] * g[n] - r) ** 2 for u, n, r in zip(*table[:3], strict=True)) / 5
    plain += 0.15 * (mean**2 + (i**2).mean() + (j**2).mean()) + 0.03 * ((f**2).mean() + (g**2).mean())
    assert loss == pytest.approx(plain)


def test_one_person_and_one_statement_by_hand() -> None:
    """A rating of 1. Where the slope is 0, an error e has e = 0.15 m for each intercept, and e f = 0.03 f for the
    factors: so e = 0.03, the intercepts are 0.2 each, and the factors take up 1 - 0.03 - 0.6."""
    found = bridging(ratings(np.array([[1.0]])), FEW)
    assert found.intercepts == pytest.approx([0.2], abs=1e-5)
    assert (found.mean, found.person_intercepts[0]) == pytest.approx((0.2, 0.2), abs=1e-5)
    assert found.factors**2 == pytest.approx([0.37], abs=1e-4)
    assert found.squared_error == pytest.approx(0.03**2, abs=1e-6)


def test_what_both_camps_like_scores_above_what_one_does() -> None:
    for seed in range(3):
        found = bridging(camps(seed))
        assert min(found.intercepts[16:18]) > max(found.intercepts[:16]) + 0.2
        assert max(found.intercepts[18:]) < min(found.intercepts[:16]) - 0.2
        assert set(found.choice.order[0] + found.choice.order[1]) == {16, 17}
        assert np.abs(found.factors[:16]).min() > 2 * np.abs(found.factors[16:]).max()
        signs = np.sign(found.person_factors)
        assert np.nanmin(signs[:30]) == np.nanmax(signs[:30]) == -np.nanmin(signs[30:]) == -np.nanmax(signs[30:])
        assert (found.person_factors > 0).mean() <= 0.5


def test_a_camp_of_four_in_five_does_not_carry_its_statements() -> None:
    """By the mean rating 0.8 of all like statements 0-7, nearly as many as 16 and 17; the intercept knows better."""
    given = camps(0, people=100, left=0.8)
    means = np.nanmean(given.values, axis=0)
    found = bridging(given)
    gap_of_means = means[16:18].min() - means[:8].max()
    assert gap_of_means < 0.25
    assert found.intercepts[16:18].min() - found.intercepts[:8].max() > gap_of_means + 0.05


def test_statuses_by_the_published_thresholds() -> None:
    found = bridging(camps())
    values = np.array([0.40, 0.39, 0.40, -0.05, -0.12, -0.14, np.nan])
    factors = np.array([0.49, 0.0, 0.5, 0.0, 0.1, 0.1, np.nan])
    said = found._replace(intercepts=values, factors=factors).statuses()
    more = "needs more ratings"
    assert said == ["helpful", more, more, "not helpful", more, "not helpful", more]


def test_who_rates_little_is_left_out_and_counted() -> None:
    values = camps(0, gaps=0.0).values
    values[0, 9:], values[6:, 19] = np.nan, np.nan
    found = bridging(ratings(values))  # person 0 rated 9; then statement 19 has 5 raters left
    assert found.people_left_out == 1
    assert found.statements_left_out == 0
    assert np.isnan(found.person_intercepts[0])
    values[1, 9:] = np.nan  # now person 1 too, and statement 19 has four
    found = bridging(ratings(values))
    assert (found.people_left_out, found.statements_left_out) == (2, 1)
    assert np.isnan(found.intercepts[19])
    assert found.choice.scores[19] == -np.inf
    assert found.statuses()[19] == "needs more ratings"
    with pytest.raises(DataError, match="no person with 10 ratings"):
        bridging(ratings(np.ones((4, 4))))
    with pytest.raises(DataError, match=r"outside \[0, 1\]"):
        bridging(ratings(np.array([[-1.0]])), FEW)


def test_the_same_seed_gives_the_same_scores_and_others_the_same_optimum() -> None:
    given = camps(1)
    one, again, other = bridging(given), bridging(given), bridging(given, BridgingConfig(seed=5))
    assert (one.intercepts == again.intercepts).all()
    assert other.intercepts == pytest.approx(one.intercepts, abs=1e-3)
    assert other.loss == pytest.approx(one.loss, abs=1e-7)
