"""How far each rater is believed, learnt beside the reward model from who said what.

    P(rater puts i above j) = sigmoid(u_i - u_j)      u_i = trust * r_i + bias * place_i

A trust of 1 is the plain Bradley-Terry rater, 0 one who flips coins, below 0 one who says the opposite of what he sees
(TriTrust-PBRL, arXiv:2601.18751). place is 1/2 for the answer that was shown first, -1/2 for the last one: of two
answers, the bias is that of `functional.rater_margins`. The reward model learns r by gradients while trust and bias
stand still; every few steps these are set to what is likeliest given the r of all rows read so far.

Scores and trusts that all change their sign explain the same votes. **Gold questions** decide: where a comparison is
``gold``, what the raters said of the same prompt and answers is right or wrong, and their share of right answers is
the centre of the prior of their trust. Without any the centre is 1, which believes the majority.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from steersman.functional import preference_nll, rater_margins
from steersman.types import Comparison

if TYPE_CHECKING:
    from steersman.train.reward_model import Ranked

EVERY = 5  # steps
TRUST_VARIANCE, BIAS_VARIANCE = 2.0, 1.0  # of the priors


class Belief(NamedTuple):
    """Of a rater."""

    trust: float = 1.0
    bias: float = 0.0


PLAIN = Belief()


def places(row: Comparison) -> tuple[float, ...]:
    """By option, 1/2 for the one shown first to -1/2 for the last; 0 where nobody knows."""
    if row.order_shown is None:
        return (0.0,) * len(row.options)
    return tuple(0.5 - row.order_shown.index(i) / (len(row.options) - 1) for i in range(len(row.options)))


def prior_trust(rows: Sequence[Comparison]) -> dict[str, float]:
    """The centre of each rater's trust: half the logit of his smoothed share of right answers to gold questions."""
    gold = {_question(row): _order(row) for row in rows if row.gold}
    said: dict[str, list[float]] = {row.rater: [] for row in rows if row.rater and not row.gold}
    for row in rows:
        known = gold.get(_question(row))
        if known and not row.gold and row.rater:
            said[row.rater].append(len(known & _order(row)) / len(known))
    smoothed = {rater: (sum(right) + 1) / (len(right) + 2) for rater, right in said.items() if right}
    return {rater: 0.5 * math.log(s / (1 - s)) if (s := smoothed.get(rater)) else 1.0 for rater in said}


def _question(row: Comparison) -> tuple[Any, frozenset[str]]:
    return row.prompt, frozenset(row.options)


def _order(row: Comparison) -> set[tuple[str, str]]:
    return {(pair.better, pair.worse) for pair in row.pairs()}


class Raters:
    """What is believed of the raters of some rows. Those who are not in ``prior`` are `PLAIN` and stay so."""

    def __init__(self, rows: Sequence[Ranked], prior: Mapping[str, float]) -> None:
        self.rows, self.prior = rows, dict(prior)
        self.beliefs = {rater: Belief(trust) for rater, trust in prior.items()}
        self.heard: dict[int, list[float]] = {}

    def of(self, rater: str) -> Belief:
        """A row without a rater is believed plainly."""
        return self.beliefs.get(rater, PLAIN)

    def hear(self, scores: Mapping[int, list[float]]) -> None:
        """The scores that the reward model now gives to the answers of rows of these raters, by the rows' number."""
        self.heard.update(scores)

    def believe(self) -> None:
        """Set every trust and bias to the likeliest ones, given what was heard."""
        names = sorted(self.prior)
        place = {rater: i for i, rater in enumerate(names)}
        pairs = []
        for number, scores in sorted(self.heard.items()):
            row = self.rows[number]
            ordered = [(i, j) for i, j in itertools.permutations(range(len(scores)), 2) if row.ranks[i] < row.ranks[j]]
            for i, j in ordered:
                apart = scores[i] - scores[j], row.places[i] - row.places[j]
                pairs.append((place[row.rater], *apart, row.weight / len(ordered), row.certainty))
        if not pairs:
            return
        who = torch.tensor([pair[0] for pair in pairs])
        margin, side, weight, certainty = torch.tensor([pair[1:] for pair in pairs], dtype=torch.float64).T
        centre = torch.tensor([self.prior[rater] for rater in names], dtype=torch.float64)
        trust, bias = centre.clone().requires_grad_(), torch.zeros_like(centre).requires_grad_()

        def loss() -> Tensor:
            nll = preference_nll(rater_margins(margin, trust[who], side, bias[who]), certainty) @ weight
            spread = (trust - centre).square().sum() / TRUST_VARIANCE + bias.square().sum() / BIAS_VARIANCE
            return torch.add(nll, spread, alpha=0.5)

        minimise([trust, bias], loss)
        self.beliefs = {rater: Belief(float(trust[i]), float(bias[i])) for rater, i in place.items()}

    def state(self) -> dict[str, Any]:
        """What a resumed training needs."""
        return {"beliefs": {rater: list(of) for rater, of in self.beliefs.items()}, "heard": list(self.heard.items())}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Put `state` back."""
        self.beliefs = {rater: Belief(*values) for rater, values in state["beliefs"].items()}
        self.heard = {int(number): values for number, values in state["heard"]}


def minimise(parameters: Sequence[Tensor], loss: Callable[[], Tensor]) -> None:
    """Move a few parameters of a convex loss to its minimum."""
    optimiser = torch.optim.LBFGS(list(parameters), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimiser.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    for parameter in parameters:
        parameter.requires_grad_(False)
