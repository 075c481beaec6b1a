"""Hidden groups of raters, found by what they prefer: a mixture of Bradley-Terry models in a space of features.

    P(votes of rater r) = sum_k pi_k prod_n sigmoid(w_k . (x_first - x_second))^p_n sigmoid(-...)^(1 - p_n)

The reward learning of MaxMin-RLHF (Chakraborty et al. 2024, arXiv:2402.08925, Algorithm 2) by expectation maximisation,
for rewards linear in features (answers' measures, or the last layer of a frozen model):

    E   responsibilities q_rk ~ pi_k P(votes of r | w_k)
    M   pi_k = mean_r q_rk,   w_k: logistic regression with ridge, each vote weighted by its rater's q_rk

What differs: the paper assigns each rater to its likeliest group (hard EM) and the groups all count alike; here the
responsibilities are soft and shares are learnt, so that a small group is not blown up by raters who fit neither. The
penalised likelihood never falls from step to step. It has local maxima: several short runs from random weights, the
best of which goes on (Biernacki, Celeux & Govaert 2003). An M step is one step of Newton's method, which suffices to
climb. The groups' names are arbitrary; the largest comes first.

A rater with few votes is hardly known: ``responsibilities`` says how well. The number of groups is an assumption.
Memory: beside the votes themselves, a few numbers a vote and group.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import expit, log_expit

from steersman.errors import DataError
from steersman.types import Record

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
BLOCK = 65536  # votes whose features are weighted at once
SCREENED = 100_000  # votes that the short runs read, of raters drawn at random


class MixtureConfig(Record):
    """Settings of the fit."""

    groups: int = Field(default=2, ge=1, description="The number of groups, which is an assumption.")
    ridge: float = Field(default=1.0, gt=0, description="Of each group's weights, in votes: ridge / 2 |w|^2.")
    starts: int = Field(default=8, ge=1, description="Short runs from random weights; the best goes on.")
    short: int = Field(default=8, ge=1, description="EM steps of a short run.")
    steps: int = Field(default=300, ge=1, description="EM steps of the long one, at most.")
    tolerance: float = Field(
        default=1e-7, gt=0, description="It ends if a step gains less, relative to the likelihood."
    )
    seed: int = Field(default=0, description="Of the random weights.")


class Mixture(NamedTuple):
    """G groups: ``weights`` [G, D], ``shares`` [G] of raters, ``responsibilities`` [R, G] of each rater's group.

    ``path``: the penalised log-likelihood in nats before each step of the long run and at its end, and ``converged``
    whether it had stopped to grow.
    """

    weights: Array
    shares: Array
    responsibilities: Array
    path: tuple[float, ...]
    converged: bool

    @property
    def assigned(self) -> Ints:
        """[R], each rater's likeliest group."""
        return np.asarray(self.responsibilities.argmax(1), dtype=np.int64)


class Preferences(NamedTuple):
    """N votes of R raters: the first answer's features less the second's [N, D], the rater's index [N], the share of
    the vote for the first [N] (1, or 1/2 for a tie), and a weight [N]."""

    differences: Array
    rater: Ints
    share: Array
    weight: Array


def preferences(
    differences: Array, rater: Ints, share: Array | None = None, weight: Array | None = None
) -> Preferences:
    """Check the columns of votes; a share and a weight are 1 unless given.

    Raises:
        DataError: there are no votes, the lengths differ, or something is not finite.
    """
    count = len(differences)
    share = np.ones(count) if share is None else share
    weight = np.ones(count) if weight is None else weight
    if not count or not len(rater) == len(share) == len(weight) == count:
        lengths = [count, len(rater), len(share), len(weight)]
        raise DataError(f"columns of votes with lengths {lengths}", expected="equal lengths of 1 or more")
    if not (np.isfinite(differences).all() and np.isfinite(weight).all() and ((share >= 0) & (share <= 1)).all()):
        raise DataError("a feature or weight is not finite, or a share lies outside [0, 1]")
    return Preferences(differences, rater, share, weight)


def fit_pooled(votes: Preferences, ridge: float = 1.0) -> Array:
    """The weights [D] of one Bradley-Terry model for all raters: `fit_mixture` with one group."""
    config = MixtureConfig(groups=1, ridge=ridge, starts=1, short=1)
    return np.asarray(fit_mixture(votes, config).weights[0])


def fit_mixture(votes: Preferences, config: MixtureConfig | None = None) -> Mixture:
    """Fit the groups. Raters are 0 to the largest index; one without a vote has the shares as responsibilities."""
    config = config or MixtureConfig()
    generator = np.random.default_rng(config.seed)
    features = votes.differences.shape[1]
    shares = np.full(config.groups, 1.0 / config.groups)
    some = _screened(votes, generator)
    pooled = _climb(some, np.ones(len(some.rater)), np.zeros(features), config.ridge, 20)
    length = float(np.linalg.norm(pooled)) or 1.0
    runs = []
    for start in range(config.starts):
        directions = generator.normal(size=(config.groups, features))
        weights = length * directions / np.linalg.norm(directions, axis=1, keepdims=True)
        if start == 0:  # one run begins near the pooled weights
            weights = pooled + 0.5 * weights
        runs.append(_expectation_maximisation(some, weights, shares, config, config.short))
    best = max(runs, key=lambda run: run.path[-1])
    found = _expectation_maximisation(votes, best.weights, best.shares, config, config.steps)
    order = np.argsort(-found.shares, kind="stable")
    return found._replace(
        weights=found.weights[order], shares=found.shares[order], responsibilities=found.responsibilities[:, order]
    )


def _screened(votes: Preferences, generator: np.random.Generator) -> Preferences:
    """The votes of so many raters that there are about `SCREENED`."""
    if len(votes.rater) <= SCREENED:
        return votes
    raters = int(votes.rater.max()) + 1
    kept = generator.permutation(raters)[: max(1, raters * SCREENED // len(votes.rater))]
    mine = np.isin(votes.rater, kept)
    rater = np.unique(votes.rater[mine], return_inverse=True)[1]
    return Preferences(votes.differences[mine], rater, votes.share[mine], votes.weight[mine])


def _expectation_maximisation(
    votes: Preferences, weights: Array, shares: Array, config: MixtureConfig, steps: int
) -> Mixture:
    path: list[float] = []
    for step in range(steps + 1):
        responsibilities, height = _expectation(votes, weights, shares, config.ridge)
        path.append(height)
        converged = step > 0 and path[-1] - path[-2] <= config.tolerance * abs(path[-1])
        if converged or step == steps:
            break
        shares = np.maximum(responsibilities.mean(0), 1e-12)
        shares = shares / shares.sum()
        weights = np.stack(
            [_climb(votes, responsibilities[votes.rater, k], weights[k], config.ridge, 1) for k in range(len(shares))]
        )
    return Mixture(weights, shares, responsibilities, tuple(path), converged)


def _expectation(votes: Preferences, weights: Array, shares: Array, ridge: float) -> tuple[Array, float]:
    """Responsibilities [R, G], and the penalised log-likelihood in nats."""
    raters = int(votes.rater.max()) + 1
    joint = np.empty((raters, len(shares)))
    for k, own in enumerate(weights):
        joint[:, k] = np.log(shares[k]) + np.bincount(votes.rater, _nats(votes, own), raters)
    evidence = np.logaddexp.reduce(joint, axis=1)
    return np.exp(joint - evidence[:, None]), float(evidence.sum() - ridge / 2 * (weights * weights).sum())


def _nats(votes: Preferences, weights: Array) -> Array:
    """[N], the log-likelihood of each vote, times its weight."""
    margins = votes.differences @ weights
    return np.asarray(votes.weight * (log_expit(margins) - (1 - votes.share) * margins))


def _climb(votes: Preferences, mass: Array, weights: Array, ridge: float, steps: int) -> Array:
    """Newton's steps of the ridge logistic regression, each vote weighted by ``mass`` [N]; none goes down."""

    def height(at: Array) -> float:
        return float(mass @ _nats(votes, at)) - ridge / 2 * float(at @ at)

    now = height(weights)
    for _ in range(steps):
        chance = expit(votes.differences @ weights)
        pull = mass * votes.weight
        slope = votes.differences.T @ (pull * (votes.share - chance)) - ridge * weights
        step = np.linalg.solve(_curvature(votes.differences, pull * chance * (1 - chance), ridge), slope)
        size = 1.0
        while size > 1e-6 and height(weights + size * step) < now:
            size /= 2
        if size <= 1e-6:
            break  # at the top, up to rounding
        weights = weights + size * step
        now = height(weights)
        if float(np.abs(size * step).max()) < 1e-9:
            break
    return weights


def _curvature(differences: Array, mass: Array, ridge: float) -> Array:
    """X^T diag(mass) X + ridge, block by block."""
    total = ridge * np.eye(differences.shape[1])
    for start in range(0, len(mass), BLOCK):
        block = differences[start : start + BLOCK]
        total += (block * mass[start : start + BLOCK, None]).T @ block
    return total
