"""Rater parameters and the quality of answers, fitted together to the votes of a round.

    P(rater r puts i above j) = sigmoid(reliability_r (s_i - s_j) + side_bias_r (place_i - place_j))
    s ~ N(0, 10)

s is an answer's quality; the model of a rater is `data/rater_model.py`. The maximum a posteriori of all parameters is
found by L-BFGS. Votes may be about different pairs: unlike labels of items, they inform one another through the answers
that they share. Where there are gold questions, a rater's answer to one is used in the prior and not again in the
likelihood; the key itself counts as a vote of a rater who hardly errs.

A tie is half a win for each (as FastChat has it), and K ranked answers count as K - 1 choices, as in Plackett-Luce.
Fitted qualities hardly ever tie, whatever people said: they alone do not decide what is ordered (`aggregation.py`).
Standard errors are the inverse Fisher information's (with the priors); for the qualities the raters' parameters are
taken as known.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steersman.data.rater_model import (
    DEFAULT_RATER,
    RELIABILITY_VARIANCE,
    SIDE_BIAS_VARIANCE,
    PairColumns,
    gold_scores,
    places,
    prior_penalty,
    prior_reliability,
    question_key,
    votes_nll,
)
from steersman.functional import minimise, rater_margins
from steersman.rating import agreement
from steersman.rating.response_times import response_times
from steersman.stats import Estimate
from steersman.types import Comparison, Text

QUALITY_VARIANCE = 10.0  # of the prior
KEY_RELIABILITY = 3.0  # of a gold question's key: nearly certain, so that a wrong key does not dominate the scores
UNNAMED_AND_KEY = torch.tensor([1.0, KEY_RELIABILITY], dtype=torch.float64)  # the reliabilities behind the raters' own
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(48)
REPEATED = "arm:repeat"  # the tag of a vote on a question that its rater had answered before
Array = NDArray[np.float64]


class RaterEstimate(NamedTuple):
    """`RaterParams` with their standard errors."""

    reliability: float
    side_bias: float
    reliability_error: float
    side_bias_error: float


class Posterior(NamedTuple):
    """Qualities of the K answers to a prompt: each answer's ``position`` in ``mean`` [K] and ``covariance`` [K, K]."""

    position: dict[str, int]
    mean: Array
    covariance: Array


class Fit(NamedTuple):
    """The posterior of the answers by prompt, and the raters' parameters by name."""

    posteriors: dict[Text, Posterior]
    raters: dict[str, RaterEstimate]

    def reliability(self, rater: str) -> float:
        """Of a rater; 1 for an unknown or unnamed one."""
        return self.raters[rater].reliability if rater in self.raters else DEFAULT_RATER.reliability

    @property
    def typical_reliability(self) -> float:
        """The median of the positive reliabilities; 1 if there are none."""
        positive = [rater.reliability for rater in self.raters.values() if rater.reliability > 0]
        return float(np.median(positive)) if positive else 1.0

    def margin(self, prompt: Text, first: str, second: str) -> tuple[float, float]:
        """Mean and variance of the difference of two qualities; an answer without a vote has the prior's."""
        posterior = self.posteriors.get(prompt)
        i, j = (posterior.position.get(text) if posterior else None for text in (first, second))
        mean = variance = 0.0
        for at, sign in ((i, 1), (j, -1)):
            mean += sign * float(posterior.mean[at]) if posterior and at is not None else 0.0
            variance += float(posterior.covariance[at, at]) if posterior and at is not None else QUALITY_VARIANCE
        if posterior and i is not None and j is not None:
            variance -= 2 * float(posterior.covariance[i, j])
        return mean, variance

    def probability(self, prompt: Text, first: str, second: str) -> float:
        """That a typical rater without a side bias prefers the first one, averaged over the posterior."""
        mean, variance = self.margin(prompt, first, second)
        chances, _ = predictive(np.array([mean]), np.array([variance]), self.typical_reliability)
        return float(chances[0])


def predictive(mean: Array, variance: Array, reliability: float = 1.0) -> tuple[Array, Array]:
    """Of normally distributed differences: the probability that the first is preferred, and the information of a vote.

        p = E[sigmoid(reliability * difference)]      information = H(p) - E[H(sigmoid(reliability * difference))]

    The information is the mutual information of one vote and the difference, in nats: BALD, Houlsby et al. 2011
    (arXiv:1112.5745). It is small where the order is known, and where a tie is known. By Gauss-Hermite quadrature.

    Args:
        mean, variance: [P].

    Returns:
        ([P], [P]).
    """
    drawn = reliability * (mean[:, None] + np.sqrt(variance)[:, None] * NODES)
    chances = 0.5 * (1 + np.tanh(drawn / 2))
    share = WEIGHTS / WEIGHTS.sum()
    p = chances @ share
    return p, np.maximum(0.0, _entropy(p) - _entropy(chances) @ share)


def _entropy(p: Array) -> Array:
    inside = np.clip(p, 1e-12, 1 - 1e-12)
    return np.asarray(-inside * np.log(inside) - (1 - inside) * np.log1p(-inside))


# ── votes as tensors ─────────────────────────────────────────────────────────────────────────────────────────────────
class VoteTable(NamedTuple):
    """Votes on P pairs of answers: the indices of both answers [P], and the other columns.

    ``answers`` has the index of each text, by prompt. A rater's index is the place in ``names``; the two behind them
    are an unnamed rater and the key to gold questions. ``side`` is 1 if the first of two answers was shown first.
    """

    first: Tensor
    second: Tensor
    votes: PairColumns
    answers: dict[Text, dict[str, int]]
    names: list[str]

    @property
    def total(self) -> int:
        """The number of answers."""
        return sum(map(len, self.answers.values()))

    def margins(self, quality: Tensor) -> Tensor:
        """[P], of qualities [I]."""
        return quality[self.first] - quality[self.second]


def tabulate(votes: Sequence[Comparison], names: Sequence[str]) -> VoteTable:
    """Votes as columns.

    Raters' answers to gold questions are left out, since they are in the prior. So are answers to a repeated question:
    they measure consistency and add nothing about the answers.
    """
    number = {name: i for i, name in enumerate(names)}
    gold = {question_key(vote) for vote in votes if vote.gold}
    answers: dict[Text, dict[str, int]] = {}
    rows: list[tuple[float, ...]] = []
    total = 0
    for vote in votes:
        ranks = vote.ranks()
        if REPEATED in vote.tags or not ranks or (gold and not vote.gold and vote.rater and question_key(vote) in gold):
            continue
        texts = answers.setdefault(vote.prompt, {})
        for text in vote.options:
            if text not in texts:
                texts[text] = total
                total += 1
        rater = len(names) + 1 if vote.gold else number.get(vote.rater, len(names))
        at, shown = [texts[text] for text in vote.options], places(vote)
        weight = vote.weight * 2 / len(at)
        for i, j in itertools.combinations(range(len(at)), 2):
            label = vote.soft_label if vote.soft_label is not None else 0.5 + 0.5 * _sign(ranks[j] - ranks[i])
            rows.append((at[i], at[j], rater, shown[i] - shown[j], label, weight))
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6).T
    first, second, rater_index = table[:3].long()
    return VoteTable(first, second, PairColumns(rater_index, *table[3:]), answers, list(names))


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


# ── fitting ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def negative_log_posterior(table: VoteTable, centre: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """In nats, as a function of qualities [I], reliabilities [R] and side biases [R]; ``centre`` [R] is the prior's."""

    def loss(quality: Tensor, reliability: Tensor, side_bias: Tensor) -> Tensor:
        nll = votes_nll(table.votes, table.margins(quality), *_with_unnamed_and_key(reliability, side_bias))
        of_bias, of_reliability = prior_penalty(reliability, side_bias, centre)
        penalty = quality.square().sum() / QUALITY_VARIANCE + of_bias + of_reliability
        return torch.add(nll, penalty, alpha=0.5)

    return loss


def _with_unnamed_and_key(reliability: Tensor, side_bias: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat([reliability, UNNAMED_AND_KEY]), torch.cat([side_bias, torch.zeros_like(UNNAMED_AND_KEY)])


def fit(votes: Sequence[Comparison]) -> Fit:
    """The maximum a posteriori of all parameters. Rows with ``gold`` are the key; unnamed raters are plain ones."""
    prior = prior_reliability(votes)
    table = tabulate(votes, list(prior))
    centre = torch.tensor(list(prior.values()), dtype=torch.float64)
    loss = negative_log_posterior(table, centre)
    quality, side_bias = torch.zeros(table.total, dtype=torch.float64), torch.zeros_like(centre)
    reliability = centre.clone()
    _descend(loss, quality, reliability, side_bias)
    if float(reliability @ centre) < 0:  # the likelihood is symmetric, the prior is not: start from the mirror image
        quality, reliability = -quality, -reliability
        _descend(loss, quality, reliability, side_bias)
    posteriors, inverse = _posteriors(table, quality, reliability, side_bias)
    errors = _errors(table, quality, reliability, side_bias, inverse)
    values = zip(reliability.tolist(), side_bias.tolist(), *errors, strict=True)
    return Fit(posteriors, {name: RaterEstimate(*own) for name, own in zip(prior, values, strict=True)})


def _descend(loss: Callable[[Tensor, Tensor, Tensor], Tensor], *parameters: Tensor) -> None:
    for parameter in parameters:
        parameter.requires_grad_()
    minimise(parameters, lambda: loss(*parameters), steps=500)


def fit_qualities(votes: Sequence[Comparison], raters: Mapping[str, RaterEstimate]) -> dict[Text, Posterior]:
    """The posteriors of the answers given the raters' parameters; raters who are not among them are plain ones."""
    names = sorted(raters)
    table = tabulate(votes, names)
    reliability, side_bias = (torch.tensor([raters[n][i] for n in names], dtype=torch.float64) for i in (0, 1))
    loss = negative_log_posterior(table, reliability)
    quality = torch.zeros(table.total, dtype=torch.float64, requires_grad=True)
    minimise([quality], lambda: loss(quality, reliability, side_bias))
    return _posteriors(table, quality, reliability, side_bias)[0]


class PairInformation(NamedTuple):
    """Of each pair [P]: its rater's reliability, the margin of qualities, and the Fisher information of the logit."""

    reliability: Tensor
    margin: Tensor
    information: Tensor


def _information(table: VoteTable, quality: Tensor, reliability: Tensor, side_bias: Tensor) -> PairInformation:
    votes, (reliability, side_bias) = table.votes, _with_unnamed_and_key(reliability, side_bias)
    own, margin = reliability[votes.rater], table.margins(quality)
    chance = torch.sigmoid(rater_margins(margin, own, votes.side, side_bias[votes.rater]))
    return PairInformation(own, margin, votes.weight * chance * (1 - chance))


def _posteriors(
    table: VoteTable, quality: Tensor, reliability: Tensor, side_bias: Tensor
) -> tuple[dict[Text, Posterior], list[tuple[Tensor, Tensor]]]:
    """Laplace's approximation: the covariance of a prompt's answers, given the raters. Prompts are independent.

    Returns:
        The posteriors; and, for each number K of answers to a prompt, the answers' indices [n, K] and the covariances
        [n, K, K] of the n prompts with K answers.
    """
    sizes = torch.tensor([len(texts) for texts in table.answers.values()], dtype=torch.long)
    starts = torch.cumsum(sizes**2, 0) - sizes**2  # of each prompt's matrix, all flattened in one row
    prompt, local = torch.zeros(table.total, dtype=torch.long), torch.zeros(table.total, dtype=torch.long)
    for b, texts in enumerate(table.answers.values()):
        own = list(texts.values())
        prompt[own], local[own] = b, torch.arange(len(own))
    pairs = _information(table, quality, reliability, side_bias)
    curvature = pairs.reliability**2 * pairs.information
    i, j = local[table.first], local[table.second]
    start, size = starts[prompt[table.first]], sizes[prompt[table.first]]
    flat = torch.zeros(int((sizes**2).sum()), dtype=torch.float64)
    for row, column, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
        flat.index_add_(0, start + row * size + column, sign * curvature)
    values, texts_of = quality.numpy(), list(table.answers.items())
    posteriors: dict[Text, Posterior] = {}
    inverses: list[tuple[Tensor, Tensor]] = []
    for k in sorted(set(sizes.tolist())):
        chosen = (sizes == k).nonzero()[:, 0]
        precision = flat[starts[chosen][:, None] + torch.arange(k * k)].reshape(-1, k, k)
        covariance = torch.linalg.inv(precision + torch.eye(k, dtype=torch.float64) / QUALITY_VARIANCE)
        numbers = torch.tensor([list(texts_of[b][1].values()) for b in chosen.tolist()])
        inverses.append((numbers, covariance))
        for b, matrix in zip(chosen.tolist(), covariance.numpy(), strict=True):
            text, answers = texts_of[b]
            posteriors[text] = Posterior({t: n for n, t in enumerate(answers)}, values[list(answers.values())], matrix)
    return posteriors, inverses


def _errors(
    table: VoteTable,
    quality: Tensor,
    reliability: Tensor,
    side_bias: Tensor,
    inverses: Sequence[tuple[Tensor, Tensor]],
) -> tuple[list[float], list[float]]:
    """Standard errors of reliabilities and side biases: from their information, less the share of the qualities."""
    raters, pairs = len(table.names), _information(table, quality, reliability, side_bias)
    named = table.votes.rater < raters
    rater, side, margin, information = (
        column[named] for column in (table.votes.rater, table.votes.side, pairs.margin, pairs.information)
    )
    own = torch.zeros(2 * raters, 2 * raters, dtype=torch.float64)
    shared = torch.zeros(2 * raters, table.total, dtype=torch.float64)
    for row, x in ((rater, margin), (rater + raters, side)):
        for column, y in ((rater, margin), (rater + raters, side)):
            own.index_put_((row, column), information * x * y, accumulate=True)
        for item, sign in ((table.first[named], 1), (table.second[named], -1)):
            shared.index_put_((row, item), sign * information * x * pairs.reliability[named], accumulate=True)
    for numbers, covariance in inverses:
        part = shared[:, numbers]  # [2R, n, K]
        own -= torch.einsum("ank,nkl,bnl->ab", part, covariance, part)
    prior = torch.tensor([1 / RELIABILITY_VARIANCE] * raters + [1 / SIDE_BIAS_VARIANCE] * raters, dtype=torch.float64)
    errors = torch.linalg.inv(own + prior.diag()).diagonal().clamp(min=0).sqrt().tolist()
    return errors[:raters], errors[raters:]


# ── the card ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def card(votes: Sequence[Comparison]) -> dict[str, Any]:
    """All figures of the raters as JSON values: agreement, and for each rater parameters, gold, consistency and times.

    ``left_first`` is the side bias as a rate: how often the rater prefers the first shown of two equally good answers,
    sigmoid of the bias. Times are in seconds; figures without data are null.
    """
    fitted, gold, times = fit(votes), gold_scores(votes), response_times(votes)
    alike, agreed = agreement.consistency(votes), agreement.alpha(agreement.preferences(votes))
    raters = {}
    for name, estimate in fitted.raters.items():
        own, time = alike[name], times.get(name)
        raters[name] = {
            **estimate._asdict(),
            "left_first": 1 / (1 + math.exp(-estimate.side_bias)),
            "votes": sum(vote.rater == name and not vote.gold for vote in votes),
            "gold": {"right": sum(gold[name]), "asked": len(gold[name])},
            "with_others": _figure(own.with_others),
            "with_self": _figure(own.with_self),
            "response_times": time._asdict() if time else None,
        }
    return {
        "alpha": _figure(agreed.alpha),
        "why_no_alpha": agreed.why,
        "anchored_by_gold": any(gold.values()),
        "raters": raters,
    }


def _figure(estimate: Estimate) -> dict[str, float | int | None] | None:
    return estimate.json() if math.isfinite(estimate.value) else None
