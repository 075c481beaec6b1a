"""The audit: which look is taken from noisy labels, and when the present one is worse."""

from __future__ import annotations

import random

import pytest

from steersman.train.watch import Look, audit

GOLD = [0.3, 0.5, 0.7, 0.8, 0.7, 0.4, 0.0, -0.5]  # rises and falls


def looks(count: int, labels: int, noise: float, seed: int = 0) -> list[Look]:
    """The same prompts, easy and hard ones, are answered at every look."""
    generator = random.Random(seed)
    ease = [generator.gauss(0, 1) for _ in range(labels)]
    return [Look(10 * i, [mean + e + generator.gauss(0, noise) for e in ease]) for i, mean in enumerate(GOLD[:count])]


def test_the_peak_is_taken_and_the_fall_noticed() -> None:
    verdict = audit(looks(8, labels=40, noise=0.3))
    assert verdict.step == 30
    assert verdict.gold == pytest.approx(0.75, abs=0.3)  # of its neighbours and itself; the prompts' ease is common
    assert verdict.worse > 0.999


def test_while_gold_rises_nothing_is_worse() -> None:
    for count in (2, 3, 4):
        verdict = audit(looks(count, labels=40, noise=0.3))
        assert verdict.step == 10 * (count - 1)
        assert verdict.worse == 0.5  # the present look is the best one


def test_neighbours_keep_one_lucky_look_from_being_taken() -> None:
    """Of 400 noisy audits, those with neighbours lose less gold than those of the highest mean."""
    by_audit = by_mean = 0.0
    course = [0.0, 0.1, 0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.82, 0.83, 0.82, 0.8, 0.75, 0.7, 0.6, 0.4, 0.2]
    for seed in range(400):
        generator = random.Random(seed)
        found = [Look(i, [generator.gauss(mean, 1.4) for _ in range(20)]) for i, mean in enumerate(course)]
        by_audit += course[audit(found).step]
        by_mean += course[max(found, key=lambda look: sum(look.gold)).step]
    assert by_audit > by_mean


def test_the_labels_of_a_prompt_are_compared_with_its_own() -> None:
    """Every prompt is answered a little worse: certain, though the prompts differ far more than that."""
    ease = [0.0, 5.0, -3.0, 9.0, 2.0, -7.0]
    then, now = Look(0, ease), Look(1, [e - 0.1 - 0.01 * i for i, e in enumerate(ease)])
    assert audit([then, now]).worse > 0.999
    unpaired = Look(1, list(reversed(now.gold)))
    assert audit([then, unpaired]).worse < 0.9


def test_labels_that_all_agree() -> None:
    assert audit([Look(i, [1.0] * 4) for i in range(5)]).worse == 0.5
    assert audit([Look(0, [1.0] * 4), Look(1, [1.0] * 4), Look(2, [0.0] * 4)]).worse == 1.0
