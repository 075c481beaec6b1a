"""Thresholds at a declared rate of false alarms, and probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from steersman.guard.calibration import LOOKALIKES, Platt, Reliability, Threshold, request_threshold


def test_the_declared_rate_holds_on_new_rows() -> None:
    """Over 300 draws of 500 negatives the mean rate on new rows is at most the declared one, and not far below it.

    The conformal quantile promises an expected rate in [0.01 - 1/501, 0.01]; the mean of 300 rates has a
    standard error of 0.0003.
    """
    random = np.random.default_rng(0)
    rates = []
    for _ in range(300):
        threshold = Threshold.choose(random.normal(size=500), 0.01)
        rates.append((random.normal(size=5000) > threshold.score).mean())
    assert 0.007 < np.mean(rates) < 0.011


def test_too_few_negatives_are_told_and_none_is_over() -> None:
    scores = np.linspace(-1, 1, 20)
    threshold = Threshold.choose(scores, 0.01)
    assert not threshold.enough
    assert threshold.false_alarms == 0
    assert threshold.score > 1
    assert threshold.measured.high > 0.1  # the interval of 0 in 20 is wide


def test_no_negatives_never_stop_anything() -> None:
    assert Threshold.choose(np.zeros(0), 0.01).score == np.inf


def test_ordinary_requests_and_look_alikes_have_rates_of_their_own() -> None:
    """The stricter of both thresholds counts; with few rows of a kind there is one for all."""
    random = np.random.default_rng(0)
    ordinary, lookalike = random.normal(size=2000), random.normal(2.0, 1.0, size=2000)
    scores, kind = np.concatenate([ordinary, lookalike]), np.repeat([False, True], 2000)
    threshold = request_threshold(scores, kind, 0.01)
    assert threshold.score == Threshold.choose(lookalike, LOOKALIKES * 0.01).score  # ordinary ones are far below it
    assert threshold.declared_rate == 0.01
    alike = request_threshold(np.concatenate([ordinary, ordinary]), kind, 0.01)
    assert alike.score == Threshold.choose(ordinary, 0.01).score  # where both are alike, the ordinary rate is stricter
    few = request_threshold(scores, np.arange(4000) >= 3990, 0.01)
    assert few.score == Threshold.choose(scores, 0.01).score


@pytest.mark.parametrize(("slope", "offset"), [(0.5, 1.0), (3.0, -2.0)])
def test_platt_finds_the_curve(slope: float, offset: float) -> None:
    random = np.random.default_rng(1)
    scores = random.normal(size=20_000)
    positive = random.random(20_000) < 1 / (1 + np.exp(-(slope * scores + offset)))
    found = Platt.fit(scores, positive)
    assert found.slope == pytest.approx(slope, abs=0.15)
    assert found.offset == pytest.approx(offset, abs=0.15)
    assert Reliability.of(found(scores), positive).expected_error < 0.01


def test_platt_of_separated_classes_is_finite() -> None:
    found = Platt.fit(np.array([-1.0, -1.0, 1.0, 1.0]), np.array([False, False, True, True]))
    assert 0.5 < float(found(1.0)) < 1.0
