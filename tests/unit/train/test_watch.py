"""The audit: Gao's curve found again in noisy labels, its peak taken, its fall noticed."""

from __future__ import annotations

import math
import random

import pytest

from steersman.train.watch import Look, audit

A, B = 2.0, 1.0  # the peak is at d = exp(A / B - 1) = e
DISTANCES = [0.0, 0.5, 1.0, 2.0, 2.7, 3.5, 4.5, 6.0]


def gold(d: float) -> float:
    return 1.0 + (d * (A - B * math.log(d)) if d else 0.0)


def looks(count: int, labels: int = 20, noise: float = 0.5, seed: int = 0) -> list[Look]:
    generator = random.Random(seed)
    return [
        Look(10 * i, d * d, [generator.gauss(gold(d), noise) for _ in range(labels)])
        for i, d in enumerate(DISTANCES[:count])
    ]


def test_the_peak_is_taken_and_the_fall_noticed() -> None:
    verdict = audit(looks(8))
    assert verdict.step == 40
    assert verdict.gold == pytest.approx(gold(2.7), abs=0.3)
    assert verdict.falling > 0.999


def test_while_gold_rises_nothing_falls() -> None:
    assert audit(looks(4, labels=200)).falling < 0.2


def test_the_curve_is_less_easily_fooled_than_the_highest_mean() -> None:
    """Of twenty noisy audits of 5 labels a look, the curve loses less gold than the highest mean does."""
    by_curve = by_mean = 0.0
    for seed in range(20):
        found = looks(8, labels=5, noise=2.0, seed=seed)
        by_curve += gold(DISTANCES[audit(found).step // 10])
        by_mean += gold(math.sqrt(max(found, key=lambda look: sum(look.gold)).kl))
    assert by_curve > by_mean
    assert by_curve / 20 > 0.95 * gold(2.7)


def test_few_looks_are_compared_as_they_are() -> None:
    found = looks(3)
    assert audit(found).step == 20
    assert audit(found).falling == 0.5
    assert audit(found[:1]).step == 0


def test_labels_that_all_agree_claim_no_certainty() -> None:
    """Passing everywhere is no proof that nothing falls."""
    verdict = audit([Look(i, i / 10, [1.0] * 4) for i in range(5)])
    assert 0.01 < verdict.falling < 0.99
