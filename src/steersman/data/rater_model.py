"""The model of a human rater: signed reliability and a side bias, learnt from votes.

    P(rater r ranks i above j) = sigmoid(reliability_r (s_i - s_j) + side_bias_r (place_i - place_j))
    reliability_r ~ N(gold_r, 2)      side_bias_r ~ N(0, 1)

s is an answer's score: a latent quality (`rating/raters.py`), or what a reward model gives it while it is trained
(`train/reward_model.py`). A reliability of 1 is the plain Bradley-Terry rater, 0 a coin flip, below 0 a rater who says
the opposite (the trust of TriTrust-PBRL, arXiv:2601.18751). Places run from 1/2 (shown first) to -1/2 (shown last): of
two answers, the side bias is that of `functional.rater_margins`.

Scores and reliabilities that all change their sign explain the same votes. **Gold questions** decide: where a
comparison is ``gold``, a rater's answer to the same prompt and options is right or wrong, and the share of right
answers centres the prior of their reliability. Without any the centre is 1, which trusts the majority.

A vote is a `Comparison` with a ``rater``. Options are compared by their text, never by the place where they were
shown: a shuffled display would make agreement look like chance.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steersman.functional import minimise, preference_nll, rater_margins
from steersman.types import Comparison, Text

RELIABILITY_VARIANCE, SIDE_BIAS_VARIANCE = 2.0, 1.0  # of the priors
FIT_EVERY_STEPS = 5  # of the reward model's training


# ── votes ────────────────────────────────────────────────────────────────────────────────────────────────────────────
class AnswerPair(NamedTuple):
    """A prompt and two of its answers, in the order of their texts: the same for all raters."""

    prompt: Text
    first: str
    second: str


class PairVote(NamedTuple):
    """The vote of row ``row`` on an `AnswerPair`: 1 the first answer is better, -1 the second, 0 a tie."""

    row: int
    rater: str
    preference: int


def places(row: Comparison) -> tuple[float, ...]:
    """By option, 1/2 for the one shown first to -1/2 for the last; 0 if the order is unknown."""
    if row.order_shown is None:
        return (0.0,) * len(row.options)
    return tuple(0.5 - row.order_shown.index(i) / (len(row.options) - 1) for i in range(len(row.options)))


def pair_votes(rows: Sequence[Comparison]) -> dict[AnswerPair, list[PairVote]]:
    """The votes on every two answers, ties included; rows without an order contribute none."""
    votes: dict[AnswerPair, list[PairVote]] = defaultdict(list)
    for index, row in enumerate(rows):
        ranked = zip(row.ranks(), row.options, strict=False)  # no ranks, no pairs
        for (rank, text), (other_rank, other) in itertools.combinations(ranked, 2):
            preference = (other_rank > rank) - (other_rank < rank)
            pair = AnswerPair(row.prompt, text, other) if text < other else AnswerPair(row.prompt, other, text)
            votes[pair].append(PairVote(index, row.rater, preference if text < other else -preference))
    return dict(votes)


def question_key(row: Comparison) -> tuple[Text, frozenset[str]]:
    """Equal for votes on the same question, whatever the order of its options."""
    return row.prompt, frozenset(row.options)


def gold_scores(rows: Sequence[Comparison]) -> dict[str, list[float]]:
    """By rater, for each answered gold question the share of its ordered pairs that the rater put in the right order.

    Rows with ``gold`` are the key. A rater who answered no gold question has an empty list.
    """
    gold = {question_key(row): _ordered_pairs(row) for row in rows if row.gold}
    scores: dict[str, list[float]] = {row.rater: [] for row in rows if row.rater and not row.gold}
    for row in rows:
        key = gold.get(question_key(row))
        if key and not row.gold and row.rater:
            scores[row.rater].append(len(key & _ordered_pairs(row)) / len(key))
    return scores


def prior_reliability(rows: Sequence[Comparison]) -> dict[str, float]:
    """The centre of each rater's prior: half the logit of their smoothed share of right answers to gold questions.

    1 for a rater who answered none.
    """
    smoothed = {rater: (sum(right) + 1) / (len(right) + 2) for rater, right in gold_scores(rows).items() if right}
    raters = {row.rater for row in rows if row.rater and not row.gold}
    return {rater: 0.5 * math.log(s / (1 - s)) if (s := smoothed.get(rater)) else 1.0 for rater in sorted(raters)}


def _ordered_pairs(row: Comparison) -> set[tuple[str, str]]:
    return {(pair.better, pair.worse) for pair in row.pairs()}


# ── likelihood and prior ─────────────────────────────────────────────────────────────────────────────────────────────
class RaterParams(NamedTuple):
    """Parameters of a rater."""

    reliability: float = 1.0
    side_bias: float = 0.0


DEFAULT_RATER = RaterParams()


class PairColumns(NamedTuple):
    """Votes on pairs of answers as columns [P]: the rater's index, the difference of places, the probability that the
    first answer is better (0, 1, or a soft label), and the weight."""

    rater: Tensor
    side: Tensor
    label: Tensor
    weight: Tensor


def votes_nll(votes: PairColumns, margins: Tensor, reliability: Tensor, side_bias: Tensor) -> Tensor:
    """The weighed negative log-likelihood in nats of votes on pairs whose scores differ by ``margins`` [P].

    ``reliability`` and ``side_bias`` [R] are those of the raters.
    """
    logits = rater_margins(margins, reliability[votes.rater], votes.side, side_bias[votes.rater])
    return preference_nll(logits, votes.label) @ votes.weight


def prior_penalty(reliability: Tensor, side_bias: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Twice the negative log-prior in nats, of the side biases and of the reliabilities; all [R]."""
    return side_bias.square().sum() / SIDE_BIAS_VARIANCE, (reliability - centre).square().sum() / RELIABILITY_VARIANCE


# ── beside a reward model ────────────────────────────────────────────────────────────────────────────────────────────
class RankedVote(NamedTuple):
    """A rater's ranking of answers (1 is best) with the places where they were shown.

    ``certainty`` is the probability that the better of two answers is better.
    """

    rater: str
    ranks: Sequence[int]
    places: Sequence[float]
    weight: float = 1.0
    certainty: float = 1.0


class RaterModel:
    """Rater parameters fitted to the scores that a reward model gives while it is trained.

    The reward model learns by gradients with these parameters held fixed; every few steps `fit` sets them to the
    maximum a posteriori, given the latest scores observed for each vote.

    Args:
        votes: of all raters; `observe` names them by index.
        prior: the centre of each rater's reliability. Raters who are not in it stay `DEFAULT_RATER`.
    """

    def __init__(self, votes: Sequence[RankedVote], prior: Mapping[str, float]) -> None:
        self.votes, self.prior = votes, dict(prior)
        self.raters = {rater: RaterParams(reliability) for rater, reliability in prior.items()}
        self.observed: dict[int, list[float]] = {}

    def params(self, rater: str) -> RaterParams:
        """Of a rater; `DEFAULT_RATER` for an unknown or unnamed one."""
        return self.raters.get(rater, DEFAULT_RATER)

    def observe(self, scores: Mapping[int, list[float]]) -> None:
        """Keep the scores that the reward model now gives to the answers of votes, by index."""
        self.observed.update(scores)

    def fit(self) -> None:
        """Set all parameters to the maximum a posteriori, given the observed scores."""
        names = sorted(self.prior)
        index = {rater: i for i, rater in enumerate(names)}
        pairs = []
        for number, scores in sorted(self.observed.items()):
            vote = self.votes[number]
            both_ways = itertools.permutations(range(len(scores)), 2)
            ordered = [(i, j) for i, j in both_ways if vote.ranks[i] < vote.ranks[j]]
            for i, j in ordered:
                margin, side = scores[i] - scores[j], vote.places[i] - vote.places[j]
                pairs.append((index[vote.rater], margin, side, vote.certainty, vote.weight / len(ordered)))
        if not pairs:
            return
        rater = torch.tensor([pair[0] for pair in pairs])
        margins, *columns = torch.tensor([pair[1:] for pair in pairs], dtype=torch.float64).T
        votes = PairColumns(rater, *columns)
        centre = torch.tensor([self.prior[name] for name in names], dtype=torch.float64)
        reliability, side_bias = centre.clone().requires_grad_(), torch.zeros_like(centre).requires_grad_()

        def loss() -> Tensor:
            of_bias, of_reliability = prior_penalty(reliability, side_bias, centre)
            nll = votes_nll(votes, margins, reliability, side_bias)
            return torch.add(nll, of_bias + of_reliability, alpha=0.5)

        minimise([reliability, side_bias], loss)
        self.raters = {name: RaterParams(float(reliability[i]), float(side_bias[i])) for name, i in index.items()}

    def state(self) -> dict[str, Any]:
        """The state of a checkpoint."""
        raters = {rater: list(params) for rater, params in self.raters.items()}
        return {"raters": raters, "observed": list(self.observed.items())}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Restore `state`."""
        self.raters = {rater: RaterParams(*values) for rater, values in state["raters"].items()}
        self.observed = {int(number): values for number, values in state["observed"]}
