"""How far each rater is believed, and what the votes then say: signed-trust Bradley-Terry with a side bias.

    P(rater r puts i above j) = sigmoid(a_r (s_i - s_j) + d_r (place_i - place_j))
    s ~ N(0, 10)      a_r ~ N(gold_r, 2)      d_r ~ N(0, 1)

s is an answer's quality, a_r the rater's trust (1 the plain rater, 0 a coin, below 0 one who says the opposite:
TriTrust-PBRL, arXiv:2601.18751), d_r his bias towards what was shown on the left, in logits of a choice between two;
places run from 1/2 (first shown) to -1/2. The likeliest values of all three are found together by L-BFGS. Votes may be
about different pairs: unlike labels of items, they inform one another through the answers that they share.

Qualities and trusts that all change their sign explain the same votes. **Gold questions** decide: the share of right
answers centres a rater's prior (`data.votes.prior_trust`). An answer to a gold question is used there and not again in
the likelihood; the key itself counts as said by somebody who hardly errs. Without gold the majority is believed.

A tie is half a win for each (as FastChat has it), and K ranked answers count as K - 1 choices, as in Plackett-Luce.
Standard errors are the inverse Fisher information's (with the priors); for the qualities the trusts are taken as known.
`train/raters.py` has the same likelihood beside a reward model, whose scores take the place of s.
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

from steersman.data.votes import places, prior_trust, question, right_about_gold
from steersman.functional import minimise, preference_nll, rater_margins
from steersman.rating import agreement
from steersman.rating.response_times import hasty, pace
from steersman.stats import Estimate
from steersman.types import Comparison, Text

QUALITY_VARIANCE, TRUST_VARIANCE, BIAS_VARIANCE = 10.0, 2.0, 1.0  # of the priors
KEY_TRUST = 3.0  # of a gold question's key: all but sure, so that a wrong key bends the scores and does not break them
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(48)
SAME_QUALITY = 1e-6  # differences below it are the optimiser's rounding and no order
REPEATED = "arm:repeat"  # the tag of a vote on a question that its rater had answered before
LEAST_WEIGHT = 1e-3  # of a question in the export that nobody credible answered
Array = NDArray[np.float64]


class Belief(NamedTuple):
    """Of a rater; errors are standard errors, 0 where nothing was estimated."""

    trust: float = 1.0
    bias: float = 0.0
    trust_error: float = 0.0
    bias_error: float = 0.0


PLAIN = Belief()


class Block(NamedTuple):
    """The answers to one prompt: their places in ``mean`` [K] and ``covariance`` [K, K] of their qualities."""

    place: dict[str, int]
    mean: Array
    covariance: Array


class Fit(NamedTuple):
    """What votes say of the answers, by prompt, and what is believed of their raters, by name."""

    blocks: dict[Text, Block]
    beliefs: dict[str, Belief]

    @property
    def typical(self) -> float:
        """The median trust of raters who are believed at all; 1 if there are none."""
        trusts = [belief.trust for belief in self.beliefs.values() if belief.trust > 0]
        return float(np.median(trusts)) if trusts else 1.0

    def margin(self, prompt: Text, first: str, second: str) -> tuple[float, float]:
        """Mean and variance of the difference of two qualities; an answer that was in no vote is as its prior."""
        block = self.blocks.get(prompt)
        i, j = (block.place.get(text) if block else None for text in (first, second))
        mean = variance = 0.0
        for at, sign in ((i, 1), (j, -1)):
            mean += sign * float(block.mean[at]) if block and at is not None else 0.0
            variance += float(block.covariance[at, at]) if block and at is not None else QUALITY_VARIANCE
        if block and i is not None and j is not None:
            variance -= 2 * float(block.covariance[i, j])
        return mean, variance

    def probability(self, prompt: Text, first: str, second: str) -> float:
        """That a typical rater who sees no sides prefers the first one, averaged over what is not known of them."""
        mean, variance = self.margin(prompt, first, second)
        chances, _ = predictive(np.array([mean]), np.array([variance]), self.typical)
        return float(chances[0])


def predictive(mean: Array, variance: Array, trust: float = 1.0) -> tuple[Array, Array]:
    """Of differences that are normally distributed: how likely the first is preferred, and what asking would tell.

        p = E[sigmoid(trust * difference)]      information = H(p) - E[H(sigmoid(trust * difference))]

    The information is that of one vote about the difference, in nats: BALD, Houlsby et al. 2011 (arXiv:1112.5745).
    It is small both where the answer is known and where it is known to be a coin's. By Gauss-Hermite quadrature.

    Args:
        mean, variance: [P].

    Returns:
        ([P], [P]).
    """
    drawn = trust * (mean[:, None] + np.sqrt(variance)[:, None] * NODES)
    chances = 0.5 * (1 + np.tanh(drawn / 2))
    share = WEIGHTS / WEIGHTS.sum()
    p = chances @ share
    return p, np.maximum(0.0, _entropy(p) - _entropy(chances) @ share)


def _entropy(p: Array) -> Array:
    inside = np.clip(p, 1e-12, 1 - 1e-12)
    return np.asarray(-inside * np.log(inside) - (1 - inside) * np.log1p(-inside))


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────
class Pairs(NamedTuple):
    """What votes say of two answers each, as columns of P: answers and raters by number, and how much each counts.

    ``side`` is 1 if the first was shown first of two and -1 if last; ``label`` how surely the first is better.
    """

    first: Tensor
    second: Tensor
    who: Tensor
    side: Tensor
    label: Tensor
    weight: Tensor


class Read(NamedTuple):
    """``answers``: every text's number, by prompt. Raters' numbers are their places in ``names``; the two behind them
    are somebody unnamed and the key to gold questions."""

    pairs: Pairs
    answers: dict[Text, dict[str, int]]
    names: list[str]

    @property
    def total(self) -> int:
        """Of answers."""
        return sum(map(len, self.answers.values()))


def read(votes: Sequence[Comparison], names: Sequence[str]) -> Read:
    """Votes as columns.

    What raters answered to gold questions is left out: it is in their prior. So is what they answered a second time:
    it tells how consistent they are, and of the answers nothing that the first time did not.
    """
    number = {name: i for i, name in enumerate(names)}
    gold = {question(vote) for vote in votes if vote.gold}
    answers: dict[Text, dict[str, int]] = {}
    rows: list[tuple[float, ...]] = []
    total = 0
    for vote in votes:
        ranks = vote.ranks()
        if REPEATED in vote.tags or not ranks or (gold and not vote.gold and vote.rater and question(vote) in gold):
            continue
        texts = answers.setdefault(vote.prompt, {})
        for text in vote.options:
            if text not in texts:
                texts[text] = total
                total += 1
        who = len(names) + 1 if vote.gold else number.get(vote.rater, len(names))
        at, shown = [texts[text] for text in vote.options], places(vote)
        weight = vote.weight * 2 / len(at)
        for i, j in itertools.combinations(range(len(at)), 2):
            label = vote.soft_label if vote.soft_label is not None else 0.5 + 0.5 * _sign(ranks[j] - ranks[i])
            rows.append((at[i], at[j], who, shown[i] - shown[j], label, weight))
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6).T
    first, second, who_said = table[:3].long()
    return Read(Pairs(first, second, who_said, *table[3:]), answers, list(names))


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


# ── fitting ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def objective(pairs: Pairs, centre: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The negative log-posterior in nats, as a function of qualities [I], trusts [R] and biases [R]; ``centre`` [R]."""
    known, none = torch.tensor([1.0, KEY_TRUST], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)

    def loss(quality: Tensor, trust: Tensor, bias: Tensor) -> Tensor:
        everyone, leaning = torch.cat([trust, known])[pairs.who], torch.cat([bias, none])[pairs.who]
        margins = rater_margins(quality[pairs.first] - quality[pairs.second], everyone, pairs.side, leaning)
        spread = quality.square().sum() / QUALITY_VARIANCE + bias.square().sum() / BIAS_VARIANCE
        spread = spread + (trust - centre).square().sum() / TRUST_VARIANCE
        return torch.add(preference_nll(margins, pairs.label) @ pairs.weight, spread, alpha=0.5)

    return loss


def believe(votes: Sequence[Comparison]) -> Fit:
    """The likeliest trusts, biases and qualities. Rows with ``gold`` are the key; votes without a rater are plain."""
    prior = prior_trust(votes)
    found = read(votes, list(prior))
    centre = torch.tensor(list(prior.values()), dtype=torch.float64)
    loss = objective(found.pairs, centre)
    quality, bias = torch.zeros(found.total, dtype=torch.float64), torch.zeros_like(centre)
    trust = centre.clone()
    _descend(loss, quality, trust, bias)
    if float(trust @ centre) < 0:  # the likelihood is blind to it, the prior is not: over to the other side
        quality, trust = -quality, -trust
        _descend(loss, quality, trust, bias)
    blocks, inverse = _qualities(found, quality, trust, bias)
    errors = _errors(found, quality, trust, bias, inverse)
    known = zip(trust.tolist(), bias.tolist(), *errors, strict=True)
    return Fit(blocks, {name: Belief(*values) for name, values in zip(prior, known, strict=True)})


def _descend(loss: Callable[[Tensor, Tensor, Tensor], Tensor], *parameters: Tensor) -> None:
    for parameter in parameters:
        parameter.requires_grad_()
    minimise(parameters, lambda: loss(*parameters), steps=500)


def qualities(votes: Sequence[Comparison], beliefs: Mapping[str, Belief]) -> dict[Text, Block]:
    """What votes say of the answers if the raters are believed so far and no further; others are believed plainly."""
    names = sorted(beliefs)
    found = read(votes, names)
    trust, bias = (torch.tensor([beliefs[n][i] for n in names], dtype=torch.float64) for i in (0, 1))
    loss = objective(found.pairs, trust)
    quality = torch.zeros(found.total, dtype=torch.float64, requires_grad=True)
    minimise([quality], lambda: loss(quality, trust, bias))
    return _qualities(found, quality, trust, bias)[0]


class Seen(NamedTuple):
    """Of each pair: the trust of who said it, the difference that he saw, and the Fisher information of his logit."""

    trust: Tensor
    margin: Tensor
    information: Tensor


def _seen(found: Read, quality: Tensor, trust: Tensor, bias: Tensor) -> Seen:
    pairs, none = found.pairs, torch.zeros(2, dtype=torch.float64)
    believed = torch.cat([trust, torch.tensor([1.0, KEY_TRUST], dtype=torch.float64)])[pairs.who]
    margin = quality[pairs.first] - quality[pairs.second]
    chance = torch.sigmoid(rater_margins(margin, believed, pairs.side, torch.cat([bias, none])[pairs.who]))
    return Seen(believed, margin, pairs.weight * chance * (1 - chance))


def _qualities(
    found: Read, quality: Tensor, trust: Tensor, bias: Tensor
) -> tuple[dict[Text, Block], list[tuple[Tensor, Tensor]]]:
    """Laplace's approximation: the covariance of a prompt's answers, given the raters. Prompts do not touch.

    Returns:
        The blocks; and, for each number K of answers to a prompt, the answers' numbers [n, K] and the covariances
        [n, K, K] of the n prompts that have so many.
    """
    sizes = torch.tensor([len(texts) for texts in found.answers.values()], dtype=torch.long)
    starts = torch.cumsum(sizes**2, 0) - sizes**2  # of each prompt's matrix in one long row
    prompt, local = torch.zeros(found.total, dtype=torch.long), torch.zeros(found.total, dtype=torch.long)
    for b, texts in enumerate(found.answers.values()):
        own = list(texts.values())
        prompt[own], local[own] = b, torch.arange(len(own))
    seen = _seen(found, quality, trust, bias)
    curvature = seen.trust**2 * seen.information
    i, j = local[found.pairs.first], local[found.pairs.second]
    start, size = starts[prompt[found.pairs.first]], sizes[prompt[found.pairs.first]]
    long = torch.zeros(int((sizes**2).sum()), dtype=torch.float64)
    for row, column, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
        long.index_add_(0, start + row * size + column, sign * curvature)
    values, texts_of = quality.numpy(), list(found.answers.items())
    blocks: dict[Text, Block] = {}
    inverses: list[tuple[Tensor, Tensor]] = []
    for k in sorted(set(sizes.tolist())):
        chosen = (sizes == k).nonzero()[:, 0]
        precision = long[starts[chosen][:, None] + torch.arange(k * k)].reshape(-1, k, k)
        covariance = torch.linalg.inv(precision + torch.eye(k, dtype=torch.float64) / QUALITY_VARIANCE)
        numbers = torch.tensor([list(texts_of[b][1].values()) for b in chosen.tolist()])
        inverses.append((numbers, covariance))
        for b, matrix in zip(chosen.tolist(), covariance.numpy(), strict=True):
            text, answers = texts_of[b]
            blocks[text] = Block({t: n for n, t in enumerate(answers)}, values[list(answers.values())], matrix)
    return blocks, inverses


def _errors(
    found: Read, quality: Tensor, trust: Tensor, bias: Tensor, inverses: Sequence[tuple[Tensor, Tensor]]
) -> tuple[list[float], list[float]]:
    """Standard errors of trusts and biases: the inverse of their information, less what the qualities take of it."""
    raters, pairs, seen = len(found.names), found.pairs, _seen(found, quality, trust, bias)
    mine = pairs.who < raters
    who, side, margin, information = pairs.who[mine], pairs.side[mine], seen.margin[mine], seen.information[mine]
    own = torch.zeros(2 * raters, 2 * raters, dtype=torch.float64)
    shared = torch.zeros(2 * raters, found.total, dtype=torch.float64)
    for row, x in ((who, margin), (who + raters, side)):
        for column, y in ((who, margin), (who + raters, side)):
            own.index_put_((row, column), information * x * y, accumulate=True)
        for item, sign in ((pairs.first[mine], 1), (pairs.second[mine], -1)):
            shared.index_put_((row, item), sign * information * x * seen.trust[mine], accumulate=True)
    for numbers, covariance in inverses:
        part = shared[:, numbers]  # [2R, n, K]
        own -= torch.einsum("ank,nkl,bnl->ab", part, covariance, part)
    prior = torch.tensor([1 / TRUST_VARIANCE] * raters + [1 / BIAS_VARIANCE] * raters, dtype=torch.float64)
    errors = torch.linalg.inv(own + prior.diag()).diagonal().clamp(min=0).sqrt().tolist()
    return errors[:raters], errors[raters:]


# ── what comes out ───────────────────────────────────────────────────────────────────────────────────────────────────
def weigh(votes: Sequence[Comparison]) -> list[Comparison]:
    """One row for each question, to train on: what the raters say as far as each is believed.

    Of two answers the row has a ``soft_label``, the probability that a typical rater prefers the first; of more, their
    ranking by quality. ``weight`` counts the votes behind it, each as its rater's trust over the typical one, 1 at
    most: a liar's vote is evidence, for the opposite. Rankings by principle are ordered by the trusted mean of ranks,
    ``both_bad`` is what half of those say who are believed at all. Fields on which all votes of a question agree stay.
    Gold rows come first, as they are, and stand for all that was said of the same. Votes given in haste (`pace.hasty`)
    are not counted, nor are those on questions that came to their rater a second time.
    """
    return weighed(votes)[0]


def weighed(votes: Sequence[Comparison]) -> tuple[list[Comparison], Fit]:
    """The rows of `weigh`, and the fit behind them."""
    in_haste = hasty(votes)
    counted = [vote for i, vote in enumerate(votes) if i not in in_haste and REPEATED not in vote.tags]
    fit = believe(counted)
    known = {question(vote) for vote in counted if vote.gold}
    asked: dict[Any, list[Comparison]] = {}
    for vote in counted:
        if question(vote) not in known:
            asked.setdefault(question(vote), []).append(vote)
    return [vote for vote in counted if vote.gold] + [_answer(fit, own) for own in asked.values()], fit


def _answer(fit: Fit, votes: Sequence[Comparison]) -> Comparison:
    """The row of one question from its votes."""
    first = votes[0]
    trusts = [fit.beliefs.get(vote.rater, PLAIN).trust for vote in votes]
    ordered = [min(1.0, abs(t) / fit.typical) * v.weight for v, t in zip(votes, trusts, strict=True) if v.ranks()]
    credible = [(vote.both_bad, trust) for vote, trust in zip(votes, trusts, strict=True) if trust > 0]
    floor = sum(trust for bad, trust in credible if bad) > 0.5 * sum(trust for _, trust in credible)
    by_principle = _by_principle(first.options, votes, trusts)
    alike = ("group", "principles", "topic", "failure", "tags", "source")
    row: dict[str, Any] = {
        name: getattr(first, name) for name in alike if len({getattr(vote, name) for vote in votes}) == 1
    }
    if ordered and len(first.options) == 2:
        row["soft_label"] = fit.probability(first.prompt, *first.options)
    elif ordered:
        block = fit.blocks[first.prompt]
        own = [float(block.mean[block.place[text]]) for text in first.options]
        row["ranking"] = tuple(1 + sum(other > quality + SAME_QUALITY for other in own) for quality in own)
    return Comparison(
        prompt=first.prompt,
        options=first.options,
        both_bad=floor or not (ordered or by_principle),
        per_principle=by_principle,
        weight=max(LEAST_WEIGHT, sum(ordered)),
        author=f"{len({vote.rater for vote in votes})} raters",
        **row,
    )


def _by_principle(
    options: Sequence[str], votes: Sequence[Comparison], trusts: Sequence[float]
) -> dict[str, tuple[int, ...]]:
    said: dict[str, list[float]] = {}
    for vote, trust in zip(votes, trusts, strict=True):
        for principle, ranking in vote.per_principle.items():
            rank = dict(zip(vote.options, ranking, strict=True))
            sums = said.setdefault(principle, [0.0] * len(options))
            for i, text in enumerate(options):
                sums[i] += trust * rank[text]
    return {
        principle: tuple(1 + sum(other < own - 1e-9 for other in sums) for own in sums)
        for principle, sums in said.items()
    }


def card(votes: Sequence[Comparison]) -> dict[str, Any]:
    """What there is to know of the raters, as JSON values: agreement, and for each trust, bias, gold, pace and more.

    ``left_first`` is the trust's neighbour in plain words: how often of two equally good answers the rater takes the
    one shown first, sigmoid of the bias. Times are in seconds; figures that nobody can know yet are None.
    """
    fit, gold, times = believe(votes), right_about_gold(votes), pace(votes)
    alike, agreed = agreement.consistency(votes), agreement.alpha(agreement.preferences(votes))
    raters = {}
    for name, belief in fit.beliefs.items():
        own, time = alike[name], times.get(name)
        raters[name] = {
            **belief._asdict(),
            "left_first": 1 / (1 + math.exp(-belief.bias)),
            "votes": sum(vote.rater == name and not vote.gold for vote in votes),
            "gold": {"right": sum(gold[name]), "asked": len(gold[name])},
            "with_others": _figure(own.with_others),
            "with_himself": _figure(own.with_himself),
            "pace": time._asdict() if time else None,
        }
    return {
        "alpha": _figure(agreed.alpha),
        "why_no_alpha": agreed.why,
        "anchored_by_gold": any(gold.values()),
        "raters": raters,
    }


def _figure(estimate: Estimate) -> dict[str, float | int] | None:
    return estimate._asdict() if math.isfinite(estimate.value) else None
