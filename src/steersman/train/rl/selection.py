"""Which policy of a training was the best, from few labels of its answers, and whether the present one is worse.

Labels are dear (a person's) and noisy (one answer says little of a policy), but answers and what can be counted of them
are free. So all labels of all looks are explained together, by a Bayesian linear model:

    label[k, i] = mean + w · features[k, i] + u[k] + v[i] + noise

of look k and prompt i: what the features of an answer tell (its score, its length, its style), what they do not tell
of a look (u, a Gaussian process over the looks, because policies that lie near each other are alike), and how hard the
prompt is (v). The variances of the four are the likeliest ones (empirical Bayes: MacKay 1992, "Bayesian
interpolation"). A look's gold is then the mean over all its answers, labelled or not. Measured in the toy world, whose
truth is known: docs/decisions/0009.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NEAR = 3.0  # looks apart at which what the features do not tell has a correlation of exp(-1/2)
WIDE = 100.0  # prior variance of the mean, in units of the labels' own
# Least and largest logarithm of the other variances, in the same units: of features, looks, prompts, noise. Looks are
# never quite alike, or labels too few to tell them apart would leave the choice to rounding.
VARIANCES = ((-14.0, 4.0), (-3.0, 4.0), (-14.0, 4.0), (-14.0, 4.0))
Array = NDArray[np.float64]


class Look(NamedTuple):
    """A policy's answers to the watched prompts: the labels of some, and what is counted of all.

    ``features``: for each answer the same numbers, in the order of the prompts; ``gold``: its label, None without one.
    """

    step: int
    features: list[list[float]]
    gold: list[float | None]


class Verdict(NamedTuple):
    """The step to take, its gold, and how probable it is that the present look is worse."""

    step: int
    gold: float
    worse: float


def audit(looks: Sequence[Look]) -> Verdict:
    """Take the look whose gold is probably the highest, and compare the last one with it.

    Labels of other looks count for it as far as they are explained by features or by nearness.
    """
    means, covariance = posterior(looks)
    best, last = int(np.argmax(means)), len(looks) - 1
    variance = covariance[best, best] + covariance[last, last] - 2 * covariance[best, last]
    change, error = float(means[last] - means[best]), float(np.sqrt(max(variance, 0.0)))
    worse = NormalDist().cdf(-change / error) if error else 0.5 if change == 0 else float(change < 0)
    return Verdict(looks[best].step, float(means[best]), worse)


def posterior(looks: Sequence[Look]) -> tuple[Array, Array]:
    """Mean [K] and covariance [K, K] of the gold of each look."""
    count, gold = len(looks), np.array([look.gold for look in looks], dtype=np.float64)
    at, prompt = np.nonzero(np.isfinite(gold))
    labels = gold[at, prompt]
    mean, spread = labels.mean(), labels.std()
    if spread < 1e-12:  # all the same
        return np.full(count, mean), np.zeros((count, count))
    features = _scaled(np.array([look.features for look in looks], dtype=np.float64))
    apart = np.subtract.outer(np.arange(count), np.arange(count))
    nearness = np.linalg.cholesky(np.exp(-((apart / NEAR) ** 2) / 2) + 1e-9 * np.eye(count))
    _, own = np.unique(prompt, return_inverse=True)  # prompts without a label are as hard as the prior says
    prompts = np.eye(own.max() + 1)
    design = np.hstack([np.ones((len(labels), 1)), features[at, prompt], nearness[at], prompts[own]])
    groups = np.repeat([0, 1, 2, 3], [1, features.shape[2], count, len(prompts)])
    weights, uncertainty = _regression(design, (labels - mean) / spread, groups)
    over_prompts = np.full((count, len(prompts)), 1 / gold.shape[1])
    shown = np.hstack([np.ones((count, 1)), features.mean(1), nearness, over_prompts])
    return mean + spread * (shown @ weights), spread**2 * (shown @ uncertainty @ shown.T)


def _scaled(features: Array) -> Array:
    """Of mean 0; the squared lengths of all answers' rows average 1. Features that never differ are left out."""
    flat = features - features.mean((0, 1))
    spread = flat.std((0, 1))
    kept = spread > 1e-9
    found: Array = flat[..., kept] / spread[kept] / np.sqrt(max(1, kept.sum()))
    return found


def _regression(design: Array, labels: Array, groups: NDArray[np.int64]) -> tuple[Array, Array]:
    """Posterior mean and covariance of the weights, whose prior variances are the likeliest, one for each group.

    Args:
        groups: of each column of the design; those of group 0 have the variance `WIDE`.
    """
    from scipy.optimize import minimize

    gram, told, square, count = design.T @ design, design.T @ labels, float(labels @ labels), len(labels)
    sizes = np.bincount(groups)

    def solved(logarithms: Array) -> tuple[Array, Array, float]:
        """Mean and covariance of the weights, and the determinant's logarithm of the inverse covariance."""
        own = np.exp(np.r_[np.log(WIDE), logarithms[:-1]])[groups]
        root = np.linalg.cholesky(gram / np.exp(logarithms[-1]) + np.diag(1 / own))
        inverse = np.linalg.inv(root)
        covariance = inverse.T @ inverse
        return covariance @ told / np.exp(logarithms[-1]), covariance, 2 * float(np.log(np.diag(root)).sum())

    def surprise(logarithms: Array) -> tuple[float, Array]:
        """Negative log evidence of variances, and its gradient with respect to their logarithms."""
        weights, covariance, determinant = solved(logarithms)
        noise, own = np.exp(logarithms[-1]), np.exp(np.r_[np.log(WIDE), logarithms[:-1]])
        moments = np.bincount(groups, weights**2 + np.diag(covariance)) / own
        rest = square - 2 * weights @ told + weights @ gram @ weights  # squared distance to the labels
        left = np.log(noise) * count + (sizes * np.log(own)).sum() + determinant
        size = left + rest / noise + (np.bincount(groups, weights**2) / own).sum()
        around = (rest + (gram * covariance).sum()) / noise
        return float(size) / 2, np.r_[sizes - moments, count - around][1:] / 2

    start = np.array([-0.5, -2.0, -1.0, -1.0])
    found = minimize(surprise, start, jac=True, method="L-BFGS-B", bounds=VARIANCES).x
    return solved(found)[:2]
