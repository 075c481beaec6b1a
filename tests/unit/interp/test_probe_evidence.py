"""The arithmetic of a probe's evidence, against rows worked by hand, brute force and a fit by other means."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from steersman.errors import DataError
from steersman.interp import probe_evidence as measured
from steersman.stats import Estimate


def test_true_positives_at_one_percent_by_hand() -> None:
    """200 negatives 1 .. 200: two may lie above, so the threshold is 198; of the positives three of five are above."""
    negatives = list(range(1, 201))
    assert measured.threshold_at(negatives) == 198
    positives = [150, 198, 199, 500, 201]
    labels = [False] * 200 + [True] * 5
    assert measured.true_positives_at(negatives + positives, labels) == 3 / 5
    assert measured.threshold_at(range(99)) == 98  # too few for one above
    assert measured.threshold_at([1.0] * 150) == 1.0  # ties are not above
    with pytest.raises(DataError, match="no negatives"):
        measured.threshold_at([])


def test_auroc_counts_pairs_and_half_of_ties() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        scores, labels = generator.integers(0, 6, 24), generator.random(24) < 0.4
        labels[:2] = True, False
        pairs = [(p > n) + (p == n) / 2 for p, n in itertools.product(scores[labels], scores[~labels])]
        assert measured.auroc(scores, labels) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize(("rows", "columns"), [(40, 5), (12, 60)])
def test_logistic_is_the_minimum_that_another_optimiser_finds(rows: int, columns: int) -> None:
    generator = np.random.default_rng(1)
    x, y = generator.standard_normal((rows, columns)), generator.random(rows) < 0.5
    y[:2] = True, False

    def loss(w: np.ndarray) -> Any:
        scores = x @ w[:-1] + w[-1]
        chance = 1 / (1 + np.exp(-scores))
        gradient = np.append(x.T @ (chance - y) + 3 * w[:-1], (chance - y).sum())
        return np.logaddexp(0, scores).sum() - y @ scores + 1.5 * w[:-1] @ w[:-1], gradient

    best = minimize(loss, np.zeros(columns + 1), jac=True, tol=1e-12).x
    weight, bias = measured.logistic(x, y, l2=3.0)
    np.testing.assert_allclose(weight, best[:-1], atol=1e-5)
    assert bias == pytest.approx(best[-1], abs=1e-5)


def test_words_are_weighted_as_scikit_learn_does() -> None:
    """Numbers of scikit-learn 1.9.1: TfidfVectorizer with ``ngram_range=(1, 2)``, every word; LogisticRegression."""
    texts = ["The sky is blue.", "Grass is green, grass grows", "the sky is green", "Blue grass", "a sky", "is it so"]
    labels, others = [True, False, False, True, True, False], ["green sky", "unknown words", "the blue grass grows"]
    found = measured.text_scores(texts, labels, others)
    np.testing.assert_allclose(found, [-0.1024243840701226, 0.010950484519574413, 0.13920101071121294], atol=1e-6)


def test_intervals_draw_whole_groups_and_never_collapse() -> None:
    """Thirty copies of four rows know no more than the four: the interval stays wide."""
    scores, labels = [0.1, 0.4, 0.3, 0.9], [False, False, True, True]
    copied = measured.interval(
        measured.auroc, scores * 30, labels * 30, [group for _ in range(30) for group in range(4)]
    )
    apart = measured.interval(measured.auroc, scores * 30, labels * 30, range(120))
    assert copied.n == 4
    assert copied.high - copied.low > 3 * (apart.high - apart.low)
    perfect = measured.interval(measured.true_positives_at, [0, 1, 2, 3], labels, range(4))
    assert (perfect.value, perfect.high) == (1, 1)
    assert perfect.low < 0.5  # two groups of each class


def test_shuffling_keeps_pairs_together_and_the_number_of_positives_of_the_others() -> None:
    generator = np.random.default_rng(0)
    labels, groups = [True, False] * 5 + [True, True, False], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, "a", "b", "c"]
    seen = {tuple(measured.shuffled(labels, groups, generator)) for _ in range(200)}
    assert all(found[i] != found[i + 1] for found in seen for i in range(0, 10, 2))
    assert all(sum(found[10:]) == 2 for found in seen)
    assert len(seen) > 60


def test_the_best_random_direction_is_that_of_brute_force() -> None:
    generator = np.random.default_rng(3)
    x, labels = generator.standard_normal((16, 3)), [True, False] * 8
    found = measured.random_directions(x, labels, np.array([1.0, 5.0, 0.2]), own=0.7, count=1000, seed=4)
    directions = np.random.default_rng(4).standard_normal((3, 1000))
    directions[:, 500:] /= np.array([1.0, 5.0, 0.2])[:, None]
    each = [measured.auroc(x @ directions[:, i], labels) for i in range(1000)]
    both = [max(one, 1 - one) for one in each]
    assert found.best == pytest.approx(max(both))
    assert found.percentile == pytest.approx(np.mean([one < 0.7 for one in both]))


def evidence(**changes: Any) -> measured.Evidence:
    """Of a probe that is beyond reproach, but for the changes."""
    good = Estimate(0.99, 0.97, 1.0, 50)
    parts: dict[str, Any] = {
        "probe": "p",
        "splits": measured.Splits(rows={"fit": 9}, groups={"fit": 9}),
        "separation": measured.Separation(auroc=good, tpr=good, positives=200, negatives=200),
        "random_directions": measured.RandomDirections(count=1000, best=0.8, percentile=1.0),
        "shuffled_labels": measured.ShuffledLabels(repeats=20, mean=0.5, highest=0.6, p=1 / 21),
        "text_only": measured.TextOnly(auroc=0.6, tpr=0.1),
        "style_shift": measured.StyleShift(auroc=good, cost=0.03),
        "unrelated_chat": measured.UnrelatedChat(rate=Estimate(0.01, 0.0, 0.03, 400)),
        "causal": measured.Causal(
            plain=0, steered=2, steered_random=(0.1,) * 20, ablated=1, ablated_random=(0.1,) * 20
        ),
    }
    return measured.Evidence(**parts | changes)


@pytest.mark.parametrize("part", [name for name in measured.Evidence.model_fields if name != "probe"])
def test_a_missing_part_is_an_error_that_names_it(part: str) -> None:
    with pytest.raises(DataError, match=f"no AUROC: {part} not measured"):
        measured.report("truth", "site", evidence(**{part: None}))


def test_what_forbids_deployment() -> None:
    assert measured.report("truth", "site", evidence()).deployable
    good = Estimate(0.9, 0.8, 1.0, 50)
    faults: dict[str, measured.Evidence] = {
        "another style costs 0.031": evidence(style_shift=measured.StyleShift(auroc=good, cost=0.031)),
        "1.6 % of unrelated chat": evidence(unrelated_chat=measured.UnrelatedChat(rate=Estimate(0.016, 0, 0.05, 400))),
        "0.4 % of unrelated chat": evidence(unrelated_chat=measured.UnrelatedChat(rate=Estimate(0.004, 0, 0.05, 400))),
        "no better than random directions": evidence(
            random_directions=measured.RandomDirections(count=1000, best=0.99, percentile=0.98)
        ),
        "fits of shuffled labels": evidence(
            shuffled_labels=measured.ShuffledLabels(repeats=20, mean=0.5, highest=1, p=2 / 21)
        ),
    }
    for words, seen in faults.items():
        found = measured.report("truth", "site", seen)
        assert not found.deployable
        assert words in found.faults[0]
        assert "not deployable" in str(found)
        assert found.json()["label"] == "not deployable"
    noted = evidence(
        text_only=measured.TextOnly(auroc=0.98, tpr=0.9),
        causal=measured.Causal(plain=0, steered=1, steered_random=(2.0,) * 20, ablated=0, ablated_random=(0.1,) * 20),
    )
    notes = measured.report("truth", "site", noted).notes
    assert "words alone" in notes[0]
    assert "does not drive" in notes[1]


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="no number"):
        measured.separation([0.1, float("nan")], [True, False], [0, 1])
    with pytest.raises(DataError, match="one class"):
        measured.separation([0.1, 0.2], [True, True], [0, 1])
    with pytest.raises(DataError, match="nothing to fit"):
        measured.logistic(torch.ones(3, 2).numpy() * np.inf, [1, 0, 1])
