"""Which checkpoint of a training was the best, from few gold labels of its answers, and whether the last one is worse.

Labels are expensive (a person's) and noisy (one answer says little about a policy), but answers, and features counted
in them, are free. So all labels of all evaluations are explained together, by a Bayesian linear model:

    label[k, i] = mean + w · features[k, i] + u[k] + v[i] + noise

of evaluation k and prompt i: features of the answer (score, length, style), an effect of the checkpoint (u, a Gaussian
process over the evaluations, because neighbouring policies are alike), and one of the prompt (v). The variances of the
four maximise the evidence (empirical Bayes: MacKay 1992, "Bayesian interpolation"). A checkpoint's gold is then the
mean over all its answers, labelled or not. Measured in the toy world, whose truth is known: docs/decisions/0009.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LENGTH_SCALE = 3.0  # evaluations apart at which the checkpoint effects have a correlation of exp(-1/2)
MEAN_VARIANCE = 100.0  # prior variance of the mean, in units of the labels' own
# Bounds of the logarithms of the other variances, in the same units: features, checkpoints, prompts, noise. Checkpoints
# always differ a little, or labels too few to tell them apart would leave the choice to rounding.
LOG_VARIANCE_BOUNDS = ((-14.0, 4.0), (-3.0, 4.0), (-14.0, 4.0), (-14.0, 4.0))
Array = NDArray[np.float64]


class CheckpointEval(NamedTuple):
    """A policy's answers to the held-out prompts: features of all, and gold labels of some.

    ``features``: the same numbers for each answer, in the order of the prompts; ``gold``: its label, or None.
    """

    step: int
    features: list[list[float]]
    gold: list[float | None]


class Selection(NamedTuple):
    """The step whose checkpoint is best, its gold, and the probability that the last checkpoint is worse."""

    step: int
    gold: float
    p_worse: float


def select(evaluations: Sequence[CheckpointEval]) -> Selection:
    """The checkpoint with the highest posterior mean of the gold, and the last one compared with it.

    Labels of other evaluations count as far as features or nearness explain them.
    """
    means, covariance = posterior(evaluations)
    best, last = int(np.argmax(means)), len(evaluations) - 1
    variance = covariance[best, best] + covariance[last, last] - 2 * covariance[best, last]
    change, error = float(means[last] - means[best]), float(np.sqrt(max(variance, 0.0)))
    p_worse = NormalDist().cdf(-change / error) if error else 0.5 if change == 0 else float(change < 0)
    return Selection(evaluations[best].step, float(means[best]), p_worse)


def posterior(evaluations: Sequence[CheckpointEval]) -> tuple[Array, Array]:
    """Mean [K] and covariance [K, K] of the gold of each checkpoint."""
    count, gold = len(evaluations), np.array([row.gold for row in evaluations], dtype=np.float64)
    at, prompt = np.nonzero(np.isfinite(gold))
    labels = gold[at, prompt]
    mean, spread = labels.mean(), labels.std()
    if spread < 1e-12:  # all labels are equal
        return np.full(count, mean), np.zeros((count, count))
    features = _scaled(np.array([row.features for row in evaluations], dtype=np.float64))
    apart = np.subtract.outer(np.arange(count), np.arange(count))
    nearness = np.linalg.cholesky(np.exp(-((apart / LENGTH_SCALE) ** 2) / 2) + 1e-9 * np.eye(count))
    _, own = np.unique(prompt, return_inverse=True)  # a prompt without labels keeps its prior
    prompts = np.eye(own.max() + 1)
    design = np.hstack([np.ones((len(labels), 1)), features[at, prompt], nearness[at], prompts[own]])
    groups = np.repeat([0, 1, 2, 3], [1, features.shape[2], count, len(prompts)])
    weights, uncertainty = _regression(design, (labels - mean) / spread, groups)
    over_prompts = np.full((count, len(prompts)), 1 / gold.shape[1])
    averages = np.hstack([np.ones((count, 1)), features.mean(1), nearness, over_prompts])
    return mean + spread * (averages @ weights), spread**2 * (averages @ uncertainty @ averages.T)


def _scaled(features: Array) -> Array:
    """Centred, and the mean squared norm of an answer's row is 1. Constant features are dropped."""
    flat = features - features.mean((0, 1))
    spread = flat.std((0, 1))
    kept = spread > 1e-9
    scaled: Array = flat[..., kept] / spread[kept] / np.sqrt(max(1, kept.sum()))
    return scaled


def _regression(design: Array, labels: Array, groups: NDArray[np.int64]) -> tuple[Array, Array]:
    """Posterior mean and covariance of the weights; prior variances, one per group, maximise the evidence.

    Args:
        groups: of each column of the design; those of group 0 have the variance `MEAN_VARIANCE`.
    """
    from scipy.optimize import minimize

    gram, moment, square, count = design.T @ design, design.T @ labels, float(labels @ labels), len(labels)
    sizes = np.bincount(groups)

    def solved(logarithms: Array) -> tuple[Array, Array, float]:
        """Mean and covariance of the weights, and the determinant's logarithm of the inverse covariance."""
        own = np.exp(np.r_[np.log(MEAN_VARIANCE), logarithms[:-1]])[groups]
        root = np.linalg.cholesky(gram / np.exp(logarithms[-1]) + np.diag(1 / own))
        inverse = np.linalg.inv(root)
        covariance = inverse.T @ inverse
        return covariance @ moment / np.exp(logarithms[-1]), covariance, 2 * float(np.log(np.diag(root)).sum())

    def negative_log_evidence(logarithms: Array) -> tuple[float, Array]:
        """Of the variances, and its gradient with respect to their logarithms."""
        weights, covariance, determinant = solved(logarithms)
        noise, own = np.exp(logarithms[-1]), np.exp(np.r_[np.log(MEAN_VARIANCE), logarithms[:-1]])
        moments = np.bincount(groups, weights**2 + np.diag(covariance)) / own
        rest = square - 2 * weights @ moment + weights @ gram @ weights  # squared distance to the labels
        left = np.log(noise) * count + (sizes * np.log(own)).sum() + determinant
        size = left + rest / noise + (np.bincount(groups, weights**2) / own).sum()
        around = (rest + (gram * covariance).sum()) / noise
        return float(size) / 2, np.r_[sizes - moments, count - around][1:] / 2

    start = np.array([-0.5, -2.0, -1.0, -1.0])
    best = minimize(negative_log_evidence, start, jac=True, method="L-BFGS-B", bounds=LOG_VARIANCE_BOUNDS).x
    return solved(best)[:2]
