"""Influence on a linear head against refits, against finite differences, and against a rater who likes long answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from steersman.errors import DataError
from steersman.types import Comparison
from steersman.values import influence
from steersman.values.influence import Pairs, along, fit_head, nll, on_held_out, pairs_of, step_without, traces, without

QUALITY, LENGTH, SIZE = 0, 1, 5
RATERS, EACH = 12, 30


def votes(seed: int, planted: int, raters: int = RATERS, each: int = EACH) -> tuple[list[Comparison], list[NDArray]]:
    """Honest raters see quality; the first ``planted`` ones prefer the longer answer, which is no better."""
    generator = np.random.default_rng(seed)
    rows, features = [], []
    for rater in range(raters):
        for question in range(each):
            own = generator.standard_normal((2, SIZE))
            seen = 4.0 * own[:, LENGTH] if rater < planted else 2.0 * own[:, QUALITY]
            first = generator.random() < 1 / (1 + np.exp(seen[1] - seen[0]))
            rows.append(
                Comparison(
                    prompt=f"question {rater} {question}",
                    options=("one", "other"),
                    ranking=(1, 2) if first else (2, 1),
                    rater=f"rater-{rater:02}",
                    group="new" if rater < 4 else "old",
                )
            )
            features.append(own)
    return rows, features


def held_out(seed: int, count: int = 500) -> Pairs:
    generator = np.random.default_rng(1000 + seed)
    features = generator.standard_normal((count, 2, SIZE))
    better = features[:, 0, QUALITY] > features[:, 1, QUALITY]
    rows = [
        Comparison(prompt=f"held out {i}", options=("one", "other"), ranking=(1, 2) if first else (2, 1))
        for i, first in enumerate(better)
    ]
    return pairs_of(rows, list(features))


def mean_loss(weights: NDArray, pairs: Pairs) -> float:
    return float(nll(weights, pairs).mean())


# ── pairs ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_ranking_is_its_strict_pairs_and_they_share_its_weight() -> None:
    rows = [
        Comparison(prompt="q", options=("a", "b", "c"), ranking=(1, 2, 2), weight=3.0, rater="r"),
        Comparison(prompt="q", options=("a", "b"), soft_label=0.0),
        Comparison(prompt="q", options=("a", "b"), soft_label=0.5),
        Comparison(prompt="q", options=("a", "b"), both_bad=True),
        Comparison(prompt="q", options=("a", "b"), ranking=(1, 1)),
    ]
    pairs = pairs_of(rows, [np.arange(len(row.options) * 2, dtype=float).reshape(-1, 2) ** 2 for row in rows])
    assert pairs.row.tolist() == [0, 0, 1, 2]
    assert pairs.label.tolist() == [1, 1, 0, 0.5]
    assert pairs.weight.tolist() == [1.5, 1.5, 1, 1]
    assert pairs.difference[:2].tolist() == [[-4, -8], [-16, -24]]
    assert pairs.rater == ("r", "r", "", "")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([], "1 comparisons and features of 0"),
        ([np.zeros((3, 2))], r"shape \[3, 2\]"),
        ([np.full((2, 2), np.nan)], "not all finite"),
    ],
)
def test_wrong_features_are_refused(features: Sequence[NDArray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        pairs_of([Comparison(prompt="q", options=("a", "b"), ranking=(1, 2))], features)


def test_nothing_ordered_and_nobody_left_are_refused() -> None:
    with pytest.raises(DataError, match="no comparison orders"):
        pairs_of([Comparison(prompt="q", options=("a", "b"), both_bad=True)], [np.zeros((2, 2))])
    pairs = pairs_of(*votes(0, 0, raters=1, each=5))
    head = fit_head(pairs)
    with pytest.raises(DataError, match="no labels of nobody"):
        without(head, pairs, held_out(0, 10), ["nobody"])
    with pytest.raises(DataError, match="no label is left"):
        without(head, pairs, held_out(0, 10), ["rater-00"])
    with pytest.raises(DataError, match="above 0"):
        fit_head(pairs, l2=0.0)


# ── the head ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_head_is_a_minimum_and_its_hessian_that_of_finite_differences() -> None:
    pairs = pairs_of(*votes(0, 1))
    pairs = pairs._replace(weight=np.linspace(0.5, 2, len(pairs.weight)), label=np.clip(pairs.label, 0.1, 0.9))
    head = fit_head(pairs, l2=0.7)

    def loss(weights: NDArray) -> float:
        return float(pairs.weight @ nll(weights, pairs) + 0.35 * weights @ weights)

    e, h = np.eye(SIZE), 1e-4
    slope = [(loss(head.weights + h * d) - loss(head.weights - h * d)) / (2 * h) for d in e]
    assert slope == pytest.approx(np.zeros(SIZE), abs=1e-5)
    for a in e:
        for b in e:
            corners = [loss(head.weights + h * (s * a + t * b)) * s * t for s in (1, -1) for t in (1, -1)]
            assert sum(corners) / (4 * h * h) == pytest.approx(a @ head.hessian @ b, abs=1e-2, rel=1e-4)


# ── influence ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_influence_is_leave_one_out() -> None:
    """Of all 200 pairs, with a planted rater among ten, by refits.

    On the held-out loss, correlation and the largest error over the largest effect: measured 0.9996 and 4 % with the
    pair's own curvature taken out, 0.9991 and 7 % as Koh and Liang have it.
    """
    pairs, test = pairs_of(*votes(1, 1, raters=10, each=20)), held_out(1)
    head = fit_head(pairs)
    direction = np.arange(SIZE, dtype=float) - 1
    refits = [fit_head(pairs.kept(np.arange(len(pairs.label)) != i)).weights for i in range(len(pairs.label))]
    actual = np.array([mean_loss(w, test) for w in refits]) - mean_loss(head.weights, test)
    moved = np.array([direction @ (w - head.weights) for w in refits])
    for corrected in (True, False):
        found = on_held_out(head, pairs, test, corrected=corrected)
        assert np.corrcoef(found, actual)[0, 1] > 0.998
        assert np.abs(found - actual).max() < 0.1 * np.abs(actual).max()
        assert np.corrcoef(along(head, pairs, direction, corrected=corrected), moved)[0, 1] > 0.995


def test_one_pair_removed_is_newtons_step() -> None:
    """Sherman and Morrison's formula against the step that solves with the pair's curvature taken out."""
    pairs = pairs_of(*votes(3, 1, raters=4, each=10))
    head, direction = fit_head(pairs), np.linspace(-1, 1, SIZE)
    alone = np.eye(len(pairs.label), dtype=bool)
    steps = [direction @ step_without(head, pairs, one) for one in alone]
    assert along(head, pairs, direction) == pytest.approx(steps, rel=1e-9)


def test_what_raters_did_is_what_refits_without_them_say() -> None:
    """Twelve raters: the step without all pairs of one correlates with the refit above 0.99 (measured 0.9977), and is
    within a fifth of it for the planted one (16 %)."""
    pairs, test = pairs_of(*votes(1, 1)), held_out(1)
    head = fit_head(pairs)
    found = traces(head, pairs, test)
    refits = [without(head, pairs, test, [trace.name]) for trace in found]
    assert np.corrcoef([t.removed.value for t in found], [r.loss.value for r in refits])[0, 1] > 0.99
    assert found[0].name == "rater-00"
    assert found[0].removed.value == pytest.approx(refits[0].loss.value, rel=0.2)
    assert refits[0].loss.value == pytest.approx(
        mean_loss(refits[0].head.weights, test) - mean_loss(head.weights, test)
    )
    own = np.array(pairs.rater) == "rater-00"
    assert found[0].summed == pytest.approx(on_held_out(head, pairs, test)[own].sum())


def test_who_prefers_length_is_found_and_without_them_the_model_is_better() -> None:
    """Three of twelve, five seeds: they are the three most harmful; measured gain in accuracy 3 to 12 points."""
    gains = []
    for seed in range(5):
        pairs, test = pairs_of(*votes(seed, 3)), held_out(seed)
        head = fit_head(pairs)
        found = traces(head, pairs, test)
        assert {trace.name for trace in found[:3]} == {"rater-00", "rater-01", "rater-02"}
        assert all(trace.removed.high < 0 for trace in found[:3])
        refit = without(head, pairs, test, [trace.name for trace in found[:3]])
        assert refit.left_out == 3 * EACH
        assert refit.loss.high < 0
        assert refit.after.value > refit.before.value
        assert abs(refit.head.weights[LENGTH]) < abs(head.weights[LENGTH])
        gains.append(refit.difference.value)
    assert np.mean(gains) > 0.03


def test_one_planted_rater_is_an_outlier_and_honest_ones_are_not() -> None:
    """Five seeds with 60 votes each: the planted one each time but one, and no more than one honest rater of 55."""
    planted = honest = 0
    for seed in range(5):
        pairs = pairs_of(*votes(seed, 1, each=60))
        outliers = {trace.name for trace in traces(fit_head(pairs), pairs, held_out(seed, 200)) if trace.outlier}
        planted += "rater-00" in outliers
        honest += len(outliers - {"rater-00"})
    assert planted >= 4
    assert honest <= 1


def test_groups_are_traced_as_raters_are() -> None:
    pairs, test = pairs_of(*votes(0, 3)), held_out(0)
    found = traces(fit_head(pairs), pairs, test, pairs.group)
    assert [trace.name for trace in found] == ["new", "old"]
    assert [trace.pairs for trace in found] == [4 * EACH, 8 * EACH]
    assert found[0].removed.value < 0 < found[1].removed.value
    assert [trace.deviations for trace in found] == [None, None]  # two are too few to hold one against the other
    assert not any(trace.outlier for trace in found)
    assert influence.MIN_RATERS > 2
