"""The audit: which look is taken from few and noisy labels, and when the present one is worse."""

from __future__ import annotations

import random

import pytest

from steersman.train.rl.selection import Look, audit, posterior

GOLD = [0.3, 0.5, 0.7, 0.8, 0.7, 0.4, 0.0, -0.5]  # rises and falls


def look(step: int, gold: list[float]) -> Look:
    """One of which nothing but labels is known."""
    return Look(step, [[] for _ in gold], list(gold))


def looks(count: int, labels: int, noise: float, seed: int = 0) -> list[Look]:
    """The same prompts, easy and hard ones, are answered at every look."""
    generator = random.Random(seed)
    ease = [generator.gauss(0, 1) for _ in range(labels)]
    return [look(10 * i, [mean + e + generator.gauss(0, noise) for e in ease]) for i, mean in enumerate(GOLD[:count])]


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
    """Of 100 noisy audits, those with neighbours lose less gold than those of the highest mean."""
    by_audit = by_mean = 0.0
    course = [0.0, 0.1, 0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.82, 0.83, 0.82, 0.8, 0.75, 0.7, 0.6, 0.4, 0.2]
    for seed in range(100):
        generator = random.Random(seed)
        found = [look(i, [generator.gauss(mean, 1.4) for _ in range(20)]) for i, mean in enumerate(course)]
        by_audit += course[audit(found).step]
        by_mean += course[max(found, key=lambda look: sum(look.gold)).step]
    assert by_audit > by_mean


def test_the_labels_of_a_prompt_are_compared_with_its_own() -> None:
    """Every prompt is answered a little worse: certain, though the prompts differ far more than that."""
    ease = [0.0, 5.0, -3.0, 9.0, 2.0, -7.0]
    then, now = look(0, ease), look(1, [e - 0.1 - 0.01 * i for i, e in enumerate(ease)])
    assert audit([then, now]).worse > 0.999
    unpaired = look(1, [e - 0.1 - 0.01 * i for i, e in enumerate(ease)][::-1])
    assert audit([then, unpaired]).worse < 0.9


def test_labels_that_all_agree() -> None:
    assert audit([look(i, [1.0] * 4) for i in range(5)]).worse == 0.5
    assert audit([look(0, [1.0] * 4), look(1, [1.0] * 4), look(2, [0.0] * 4)]).worse > 0.999


def test_what_is_counted_of_an_answer_tells_of_those_without_a_label() -> None:
    """Of 40 answers a look 6 have labels, which two features explain all but exactly; a third one tells nothing."""
    generator = random.Random(3)
    found = []
    for k, mean in enumerate(GOLD):
        features = [[generator.gauss(mean, 1), generator.gauss(0, 2), generator.gauss(5, 1)] for _ in range(40)]
        told = [2 * a - b + generator.gauss(0, 0.01) for a, b, _ in features]
        found.append((Look(k, features, [*told[:6], *[None] * 34]), sum(told) / 40, sum(told[:6]) / 6))
    means, covariance = posterior([look for look, *_ in found])
    for k, (_, over_all, _) in enumerate(found):
        assert means[k] == pytest.approx(over_all, abs=0.03)
        assert covariance[k, k] < 0.03**2
    assert max(abs(six - over_all) for _, over_all, six in found) > 1  # what six labels say by themselves


def test_features_that_tell_nothing_change_little() -> None:
    generator = random.Random(4)
    plain = looks(8, labels=40, noise=0.3)
    noisy = [Look(one.step, [[generator.gauss(0, 1), 7.0] for _ in one.gold], one.gold) for one in plain]
    (means, _), (with_noise, _) = posterior(plain), posterior(noisy)
    assert with_noise == pytest.approx(means, abs=0.03)
    assert audit(noisy).step == audit(plain).step


def test_units_change_nothing() -> None:
    generator = random.Random(5)
    found = [Look(k, [[generator.gauss(m, 1)] for _ in range(20)], [None] * 20) for k, m in enumerate(GOLD)]
    for one in found:
        one.gold[::3] = [row[0] + generator.gauss(0, 0.3) for row in one.features[::3]]
    metres = [Look(o.step, [[100 * x - 7] for (x,) in o.features], [g and 3 * g + 2 for g in o.gold]) for o in found]
    assert audit(metres).step == audit(found).step
    assert audit(metres).gold == pytest.approx(3 * audit(found).gold + 2, rel=1e-4)
    assert audit(metres).worse == pytest.approx(audit(found).worse, abs=1e-4)


def test_looks_that_labels_hardly_tell_apart_are_not_called_equal() -> None:
    """43, 44 and 43 good answers of 64, as on gemma: with a variance of 0 among looks rounding would choose."""
    generator = random.Random(6)
    found = []
    for k, good in enumerate((43, 44, 43)):
        labels = generator.sample([1.0] * good + [0.0] * (64 - good), 64)
        found.append(Look(16 * k, [[generator.gauss(0, 1)] for _ in labels], [*labels]))
    verdict = audit(found)
    assert verdict.step == 16
    assert 0.5 < verdict.worse < 0.6
