"""Pooled Bradley-Terry: what one reward model for everybody learns, and why that is Borda's count.

    P(i above j) = sigmoid(s_i - s_j)        maximise   sum_ij W_ij log sigmoid(s_i - s_j) - ridge / 2 sum_i s_i^2

Zermelo 1929, Bradley & Terry 1952, by Newton's method. At the maximum

    sum_j W_ij = sum_j (W_ij + W_ji) sigmoid(s_i - s_j) + ridge s_i

for each i. If all pairs were compared equally often, the right side is the same increasing function of s_i for all, so
the order of the scores is that of the sums on the left: **Borda's count**, whoever the people are (Siththaranjan, &
Hadfield-Menell 2023, arXiv:2312.08358; here exact for any finite population, with the ridge too).
So the order that a pooled reward model learns can contradict both what the majority prefers and what is best on
average. It has a floor: an alternative that loses to every other by majority never comes first, whatever pairs were
asked, because then each sigmoid(s_i - s_j) on the right would be at least 1/2 and the left would be too small.

Where pairs were compared unequally often, or only some people were asked about some, the order depends on who was asked
what, and need not be Borda's.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, log_expit

from steersman.errors import DataError, RunError
from steersman.values.aggregate import Array, Choice, Pairwise, by_score

RIDGE = 0.01  # in votes: the weight of a prior that all alternatives are equal
STEPS = 100


def bradley_terry(pairwise: Pairwise, ridge: float = RIDGE) -> Choice:
    """Maximum likelihood scores, in nats of log-odds, with mean 0.

    Axioms, if all pairs were compared equally often: those of `elections.borda`. In general it fails Condorcet, Smith
    and clones, and even Pareto: if different people were asked about different pairs, what all like less may win.

    Args:
        ridge: 0 for plain maximum likelihood, which exists only if the alternatives cannot be split in two of which
            one never lost (Ford 1957).

    Raises:
        DataError: there is no maximum.
    """
    weights = pairwise.weights
    if ridge <= 0 and connected_components(weights > 0, directed=True, connection="strong")[0] > 1:
        raise DataError(
            "some alternatives never lost to the others: their scores are infinite",
            expected="a chain of votes from each alternative to each other one",
            do=f"give a ridge, for example {RIDGE}",
        )
    return by_score("bradley_terry", pairwise.alternatives, _scores(weights, ridge))


def log_likelihood(weights: Array, scores: Array) -> float:
    """In nats, of a matrix of wins [K, K] and scores [K]."""
    return float((weights * log_expit(scores[:, None] - scores[None])).sum())


def _scores(weights: Array, ridge: float) -> Array:
    """Newton's steps, halved where they would not climb."""
    total, scores = weights + weights.T, np.zeros(len(weights))

    def height(at: Array) -> float:
        return log_likelihood(weights, at) - ridge / 2 * float(at @ at)

    now = height(scores)
    for _ in range(STEPS):
        chance = expit(scores[:, None] - scores[None])
        slope = weights.sum(1) - (total * chance).sum(1) - ridge * scores
        curve = total * chance * (1 - chance)
        hessian = np.diag(curve.sum(1) + ridge) - curve + 1.0 / len(weights)  # the last term: scores of mean 0
        step = np.linalg.solve(hessian, slope)
        size = 1.0
        while size > 1e-10 and height(scores + size * step) < now - 1e-12 * abs(now):
            size /= 2
        scores = scores + size * step
        now = height(scores)
        if float(np.abs(size * step).max()) < 1e-10:
            return np.asarray(scores - scores.mean())
    raise RunError("Newton's method for Bradley-Terry did not converge", do="raise the ridge")
