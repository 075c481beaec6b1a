"""How far each rater is believed, learnt beside the reward model from who said what.

    P(rater puts i above j) = sigmoid(u_i - u_j)      u_i = trust * r_i + bias * place_i

A trust of 1 is the plain Bradley-Terry rater, 0 one who flips coins, below 0 one who says the opposite of what he sees
(TriTrust-PBRL, arXiv:2601.18751). place is 1/2 for the answer that was shown first, -1/2 for the last one: of two
answers, the bias is that of `functional.rater_margins`. The reward model learns r by gradients while trust and bias
stand still; every few steps these are set to what is likeliest given the r of all rows read so far.

Scores and trusts that all change their sign explain the same votes. **Gold questions** decide: where a comparison is
``gold``, what the raters said of the same prompt and answers is right or wrong, and their share of right answers is
the centre of the prior of their trust (`data/votes.py`). Without any the centre is 1, which believes the majority.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from steersman.functional import minimise, preference_nll, rater_margins

if TYPE_CHECKING:
    from steersman.train.reward_model import Ranked

EVERY = 5  # steps
TRUST_VARIANCE, BIAS_VARIANCE = 2.0, 1.0  # of the priors


class Belief(NamedTuple):
    """Of a rater."""

    trust: float = 1.0
    bias: float = 0.0


PLAIN = Belief()


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
