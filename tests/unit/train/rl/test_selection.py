"""Selection: which checkpoint is best by few and noisy labels, and when the last one is worse."""

from __future__ import annotations

import random

import pytest

from steersman.train.rl.selection import CheckpointEval, posterior, select

GOLD = [0.3, 0.5, 0.7, 0.8, 0.7, 0.4, 0.0, -0.5]  # rises and falls


def checkpoint(step: int, gold: list[float]) -> CheckpointEval:
    """One with labels and no features."""
    return CheckpointEval(step, [[] for _ in gold], list(gold))


def checkpoints(count: int, labels: int, noise: float, seed: int = 0) -> list[CheckpointEval]:
    """The same prompts, easy and hard ones, are answered at every evaluation."""
    generator = random.Random(seed)
    ease = [generator.gauss(0, 1) for _ in range(labels)]
    return [
        checkpoint(10 * i, [mean + e + generator.gauss(0, noise) for e in ease]) for i, mean in enumerate(GOLD[:count])
    ]


def test_the_peak_is_selected_and_the_fall_noticed() -> None:
    selection = select(checkpoints(8, labels=40, noise=0.3))
    assert selection.step == 30
    assert selection.gold == pytest.approx(0.75, abs=0.3)  # of its neighbours and itself; the prompts' ease is common
    assert selection.p_worse > 0.999


def test_while_gold_rises_nothing_is_worse() -> None:
    for count in (2, 3, 4):
        selection = select(checkpoints(count, labels=40, noise=0.3))
        assert selection.step == 10 * (count - 1)
        assert selection.p_worse == 0.5  # the last checkpoint is the best one


@pytest.mark.slow
def test_neighbours_keep_one_lucky_checkpoint_from_being_selected() -> None:
    """Of 100 noisy selections, those with neighbours lose less gold than those of the highest mean."""
    by_selection = by_mean = 0.0
    course = [0.0, 0.1, 0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.82, 0.83, 0.82, 0.8, 0.75, 0.7, 0.6, 0.4, 0.2]
    for seed in range(100):
        generator = random.Random(seed)
        found = [checkpoint(i, [generator.gauss(mean, 1.4) for _ in range(20)]) for i, mean in enumerate(course)]
        by_selection += course[select(found).step]
        by_mean += course[max(found, key=lambda row: sum(row.gold)).step]
    assert by_selection > by_mean


def test_the_labels_of_a_prompt_are_compared_with_its_own() -> None:
    """Every prompt is answered a little worse: certain, though the prompts differ far more than that."""
    ease = [0.0, 5.0, -3.0, 9.0, 2.0, -7.0]
    then, now = checkpoint(0, ease), checkpoint(1, [e - 0.1 - 0.01 * i for i, e in enumerate(ease)])
    assert select([then, now]).p_worse > 0.999
    unpaired = checkpoint(1, [e - 0.1 - 0.01 * i for i, e in enumerate(ease)][::-1])
    assert select([then, unpaired]).p_worse < 0.9


def test_labels_that_all_agree() -> None:
    assert select([checkpoint(i, [1.0] * 4) for i in range(5)]).p_worse == 0.5
    assert select([checkpoint(0, [1.0] * 4), checkpoint(1, [1.0] * 4), checkpoint(2, [0.0] * 4)]).p_worse > 0.999


def test_features_predict_the_gold_of_unlabelled_answers() -> None:
    """Of 40 answers per evaluation 6 have labels, which two features explain almost exactly; a third is noise."""
    generator = random.Random(3)
    found = []
    for k, mean in enumerate(GOLD):
        features = [[generator.gauss(mean, 1), generator.gauss(0, 2), generator.gauss(5, 1)] for _ in range(40)]
        labels = [2 * a - b + generator.gauss(0, 0.01) for a, b, _ in features]
        found.append((CheckpointEval(k, features, [*labels[:6], *[None] * 34]), sum(labels) / 40, sum(labels[:6]) / 6))
    means, covariance = posterior([row for row, *_ in found])
    for k, (_, over_all, _) in enumerate(found):
        assert means[k] == pytest.approx(over_all, abs=0.03)
        assert covariance[k, k] < 0.03**2
    assert max(abs(six - over_all) for _, over_all, six in found) > 1  # what six labels say by themselves


def test_uninformative_features_change_little() -> None:
    generator = random.Random(4)
    plain = checkpoints(8, labels=40, noise=0.3)
    noisy = [CheckpointEval(one.step, [[generator.gauss(0, 1), 7.0] for _ in one.gold], one.gold) for one in plain]
    (means, _), (with_noise, _) = posterior(plain), posterior(noisy)
    assert with_noise == pytest.approx(means, abs=0.03)
    assert select(noisy).step == select(plain).step


def test_units_change_nothing() -> None:
    generator = random.Random(5)
    found = [CheckpointEval(k, [[generator.gauss(m, 1)] for _ in range(20)], [None] * 20) for k, m in enumerate(GOLD)]
    for one in found:
        one.gold[::3] = [row[0] + generator.gauss(0, 0.3) for row in one.features[::3]]
    metres = [
        CheckpointEval(o.step, [[100 * x - 7] for (x,) in o.features], [g and 3 * g + 2 for g in o.gold]) for o in found
    ]
    assert select(metres).step == select(found).step
    assert select(metres).gold == pytest.approx(3 * select(found).gold + 2, rel=1e-4)
    assert select(metres).p_worse == pytest.approx(select(found).p_worse, abs=1e-4)


def test_checkpoints_that_labels_hardly_distinguish_are_not_called_equal() -> None:
    """43, 44 and 43 good answers of 64, as on gemma: with a variance of 0 among checkpoints rounding would choose."""
    generator = random.Random(6)
    found = []
    for k, good in enumerate((43, 44, 43)):
        labels = generator.sample([1.0] * good + [0.0] * (64 - good), 64)
        found.append(CheckpointEval(16 * k, [[generator.gauss(0, 1)] for _ in labels], [*labels]))
    selection = select(found)
    assert selection.step == 16
    assert 0.5 < selection.p_worse < 0.6
