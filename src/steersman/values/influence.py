"""Which labels, and whose, carried what a reward model learnt: influence on a linear head over frozen features.

    minimise  sum_i c_i nll(w . d_i, y_i) + l2 / 2 |w|^2        H = sum_i c_i p_i (1 - p_i) d_i d_i' + l2 I

d_i is the difference of the features of the two answers of pair i. Koh & Liang 2017 (arXiv:1703.04730): without pair i
the weights move by about H^-1 g_i, g_i = c_i (p_i - y_i) d_i. The head is small and convex, so that nothing of what
makes influence fragile in deep models applies (Basu et al. 2021, arXiv:2006.14651): H is exact, there is one minimum,
and every claim can be held against a refit.

What differs from the paper:
- **a pair's own curvature** is taken out of H (Pregibon 1981): H^-1 g_i / (1 - leverage_i), a whole Newton step. For a
  set S of pairs it is (H - H_S)^-1 g_S; the sum of single effects understates a set that says the same many times
  (Koh et al. 2019, arXiv:1905.13289), and a rater is such a set;
- **a rater is held against the other raters.** Somebody is always the most harmful, and many honest raters are a little
  harmful on any held-out set. So an effect, over the root of the number of its pairs, stands beside its distance from
  the other raters' in robust standard deviations. It is an outlier only beyond what the lowest of as many normal
  numbers exceeds in one round of a hundred: effects have heavier tails.

The features are those of the model that is traced, for example the last hidden state of each answer: what a rater did
to the layers below is not seen. Held-out pairs decide what "harm" is: their labels have to be better than the rest,
from gold questions or from raters who are trusted. Without such labels a direction can be traced instead (`along`), for
example the mean difference of the features of long and short answers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from steersman.errors import DataError, RunError
from steersman.stats import Estimate, clustered_mean, paired_difference, wilson
from steersman.types import Comparison

LEVEL = 0.01  # of rounds in which the lowest of normal numbers is one; effects have heavier tails than these
MIN_RATERS = 8  # to hold one against
STEPS, TOLERANCE = 100, 1e-9  # of Newton's method, and of the gradient a pair
Array = NDArray[np.float64]


# ── pairs ────────────────────────────────────────────────────────────────────────────────────────────────────────────
class Pairs(NamedTuple):
    """P pairs of answers: feature differences [P, D], P(the first is better) [P], weights [P]; and by pair its row in
    the comparisons, its rater and the rater's group."""

    difference: Array
    label: Array
    weight: Array
    row: NDArray[np.int64]
    rater: tuple[str, ...]
    group: tuple[str, ...]

    def kept(self, mask: NDArray[np.bool_]) -> Pairs:
        """The pairs where ``mask`` [P] is true."""
        rater, group = (tuple(n for n, keep in zip(names, mask, strict=True) if keep) for names in self[4:])
        return Pairs(self.difference[mask], self.label[mask], self.weight[mask], self.row[mask], rater, group)


def pairs_of(rows: Sequence[Comparison], features: Sequence[Array]) -> Pairs:
    """All pairs of each comparison's answers; a ranking's pairs share the weight of its row, as in InstructGPT.

    Rows without an order, and ties of a ranking, give no pairs; a ``soft_label`` stays one, 0.5 included.

    Args:
        features: for each row, of its K answers, [K, D].

    Raises:
        DataError: features are missing, of another size, or not finite; or there is no pair.
    """
    if len(rows) != len(features):
        raise DataError(f"{len(rows)} comparisons and features of {len(features)}", expected="features of each row")
    found: list[tuple[Array, float, float, int]] = []
    for number, (row, own) in enumerate(zip(rows, features, strict=True)):
        if own.shape[:1] != (len(row.options),) or own.ndim != 2 or not np.isfinite(own).all():
            raise DataError(
                f"features of shape {list(own.shape)}" + ("" if np.isfinite(own).all() else ", not all finite"),
                where=f"comparison {number}",
                expected=f"[{len(row.options)}, D], one line for each answer, finite",
            )
        ranks = row.ranks()
        ordered = [
            (i, j) for i, j in combinations(range(len(ranks)), 2) if ranks[i] != ranks[j] or row.soft_label is not None
        ]
        for i, j in ordered:
            label = row.soft_label if row.soft_label is not None else float(ranks[i] < ranks[j])
            found.append((own[i] - own[j], label, row.weight / len(ordered), number))
    if not found:
        raise DataError("no comparison orders two answers", do="give rows with a ranking or a soft label")
    if len({len(difference) for difference, *_ in found}) > 1:
        raise DataError("features of different sizes", expected="one model's features")
    differences, labels, weights, number_of = zip(*found, strict=True)
    return Pairs(
        np.array(differences, dtype=np.float64),
        np.array(labels, dtype=np.float64),
        np.array(weights, dtype=np.float64),
        np.array(number_of),
        tuple(rows[n].rater for n in number_of),
        tuple(rows[n].group for n in number_of),
    )


# ── the head ─────────────────────────────────────────────────────────────────────────────────────────────────────────
class Head(NamedTuple):
    """Weights [D] at the minimum, and the Hessian [D, D] there."""

    weights: Array
    hessian: Array
    l2: float


def nll(weights: Array, pairs: Pairs) -> Array:
    """Negative log-likelihood of each pair in nats, [P], without its weight."""
    margin = pairs.difference @ weights
    return np.asarray(np.logaddexp(0, margin) - pairs.label * margin)


def _loss(weights: Array, pairs: Pairs, l2: float) -> float:
    return float(pairs.weight @ nll(weights, pairs) + l2 / 2 * weights @ weights)


def _gradients(weights: Array, pairs: Pairs) -> tuple[Array, Array]:
    """Of each pair: the gradient [P, D], and its weight times p (1 - p), [P]."""
    chance = expit(pairs.difference @ weights)
    return (pairs.weight * (chance - pairs.label))[:, None] * pairs.difference, pairs.weight * chance * (1 - chance)


def fit_head(pairs: Pairs, l2: float = 1.0, start: Array | None = None) -> Head:
    """The minimum, by Newton's method with halved steps.

    Raises:
        DataError: ``l2`` is not above 0, without which the minimum may lie at infinity.
    """
    if not l2 > 0:
        raise DataError(f"l2 is {l2}", expected="a number above 0")
    weights = np.zeros(pairs.difference.shape[1]) if start is None else start.copy()
    loss = _loss(weights, pairs, l2)
    for _ in range(STEPS):
        gradients, curvature = _gradients(weights, pairs)
        gradient = gradients.sum(0) + l2 * weights
        hessian = (pairs.difference * curvature[:, None]).T @ pairs.difference + l2 * np.eye(len(weights))
        if np.abs(gradient).max() <= TOLERANCE * max(1.0, float(pairs.weight.sum())):
            return Head(weights, hessian, l2)
        step, size = np.linalg.solve(hessian, gradient), 1.0
        while (new := _loss(weights - size * step, pairs, l2)) > loss and size > 1e-8:
            size /= 2
        weights, loss = weights - size * step, new
    raise RunError("the head did not converge", do="scale the features to a standard deviation of about 1")


# ── what removal does ────────────────────────────────────────────────────────────────────────────────────────────────
def along(head: Head, pairs: Pairs, direction: Array, *, corrected: bool = True) -> Array:
    """By how much direction . w moves when each pair alone is removed, [P].

    Args:
        direction: [D], a difference of features, or the gradient of a loss.
        corrected: by the leverage of the pair; otherwise Koh & Liang's H^-1 g.
    """
    gradients, curvature = _gradients(head.weights, pairs)
    effect = gradients @ np.linalg.solve(head.hessian, direction)
    if corrected:
        inverse = np.linalg.inv(head.hessian)
        leverage = curvature * np.einsum("pd,de,pe->p", pairs.difference, inverse, pairs.difference, optimize=True)
        effect = effect / (1 - leverage)  # l2 > 0 keeps it below 1
    return np.asarray(effect)


def on_held_out(head: Head, pairs: Pairs, held_out: Pairs, *, corrected: bool = True) -> Array:
    """The first-order change of the mean held-out nll when each pair alone is removed, [P], in nats.

    Below 0: the model is better without the pair.
    """
    gradients, _ = _gradients(head.weights, held_out)
    return along(head, pairs, gradients.sum(0) / held_out.weight.sum(), corrected=corrected)


def step_without(head: Head, pairs: Pairs, removed: NDArray[np.bool_]) -> Array:
    """How the weights [D] move without the pairs of ``removed`` [P]: one whole Newton step, (H - H_S)^-1 g_S."""
    own = pairs.kept(removed)
    gradients, curvature = _gradients(head.weights, own)
    left = head.hessian - (own.difference * curvature[:, None]).T @ own.difference
    return np.asarray(np.linalg.solve(left, gradients.sum(0)))


# ── raters and groups ────────────────────────────────────────────────────────────────────────────────────────────────
class Trace(NamedTuple):
    """What a rater (or group) did to the held-out loss: changes of its mean in nats when their labels are removed.

    ``summed`` are the single effects added up, ``removed`` is after one Newton step without all their labels, with an
    interval over held-out comparisons. ``deviations``: how far that, over the root of the pairs, lies from the other
    raters' in robust standard deviations, below 0 for harm; None with fewer than `MIN_RATERS`. ``outlier``: below what
    chance gives the lowest of so many raters.
    """

    name: str
    pairs: int
    summed: float
    removed: Estimate
    deviations: float | None
    outlier: bool


def traces(head: Head, pairs: Pairs, held_out: Pairs, names: Sequence[str] | None = None) -> list[Trace]:
    """Of every rater, the most harmful first.

    Args:
        names: of each pair [P], in place of its rater: ``pairs.group`` for groups.
    """
    owner = np.array(pairs.rater if names is None else names)
    single, before = on_held_out(head, pairs, held_out), nll(head.weights, held_out)
    found = []
    for name in sorted(set(owner)):
        own = owner == name
        change = nll(head.weights + step_without(head, pairs, own), held_out) - before
        estimate = clustered_mean(change.tolist(), held_out.row.tolist()).estimate
        found.append((str(name), int(own.sum()), float(single[own].sum()), estimate))
    deviations = _deviations([removed.value / math.sqrt(count) for _, count, _, removed in found])
    ordered = [
        Trace(*own, z, z is not None and z < _lowest_by_chance(len(found)))
        for own, z in zip(found, deviations, strict=True)
    ]
    return sorted(ordered, key=lambda trace: trace.removed.value)


def _deviations(values: Sequence[float]) -> list[float | None]:
    if len(values) < MIN_RATERS:
        return [None] * len(values)
    return [float(z) for z in _robust(np.array(values))]


def _robust(values: Array) -> Array:
    """Distances from the median in robust standard deviations along the last axis; 0 where there is no spread."""
    away = values - np.median(values, axis=-1, keepdims=True)
    spread = 1.4826 * np.median(np.abs(away), axis=-1, keepdims=True)
    return np.asarray(np.where(spread > 0, away / np.where(spread > 0, spread, 1.0), 0.0))


@functools.cache
def _lowest_by_chance(raters: int) -> float:
    """The `LEVEL` quantile of the lowest robust deviation of so many normal numbers, simulated with a fixed seed."""
    drawn = np.random.default_rng(0).standard_normal((4000, raters))
    return float(np.quantile(_robust(drawn).min(1), LEVEL))


class Without(NamedTuple):
    """A refit without some raters: held-out accuracy with, without and their paired difference, the change of the mean
    held-out nll in nats, and how many pairs were left out."""

    before: Estimate
    after: Estimate
    difference: Estimate
    loss: Estimate
    left_out: int
    head: Head


def without(head: Head, pairs: Pairs, held_out: Pairs, raters: Collection[str]) -> Without:
    """What the model is without these raters, refitted and not approximated.

    A held-out tie is no observation of accuracy; a margin of 0 is wrong.

    Raises:
        DataError: a rater is unknown, or nobody is left.
    """
    unknown = sorted(set(raters) - set(pairs.rater))
    gone = np.array([rater in set(raters) for rater in pairs.rater])
    if unknown or gone.all():
        raise DataError(f"no labels of {', '.join(unknown)}" if unknown else "no label is left without these raters")
    refit = fit_head(pairs.kept(~gone), head.l2, head.weights)
    decided = held_out.kept(held_out.label != 0.5)
    before, after = (
        decided.difference @ weights * (decided.label - 0.5) > 0 for weights in (head.weights, refit.weights)
    )
    change = nll(refit.weights, held_out) - nll(head.weights, held_out)
    return Without(
        wilson(int(before.sum()), len(before)),
        wilson(int(after.sum()), len(after)),
        paired_difference(before.tolist(), after.tolist()),
        clustered_mean(change.tolist(), held_out.row.tolist()).estimate,
        int(gone.sum()),
        refit,
    )
