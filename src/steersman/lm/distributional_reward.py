"""A distribution of utility for an answer instead of one score: it says where raters disagree, and can be cautious.

What hidden context (who rates, by which principle, in which mood) makes of one answer's utility is a distribution;
Siththaranjan et al. 2023, "Distributional preference learning" (arXiv:2312.08358). `train/distributional_reward.py`
trains it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from steersman.functional import categorical_nll, mean_variance_nll
from steersman.lm.reward_heads import Question, RewardHeads
from steersman.types import Text

Kind = Literal["mean_variance", "categorical"]
UNIT_SPREAD = math.log(math.expm1(math.sqrt(0.5)))  # its softplus is the deviation whose square is one half


class Utilities(NamedTuple):
    """Means and variances of the utilities of A answers, [A], and the raw outputs, [A, D]."""

    mean: Tensor
    variance: Tensor
    outputs: Tensor


def atoms(count: int) -> Tensor:
    """The utilities of a categorical model, evenly spaced on [0, 1], [K]."""
    return torch.linspace(0, 1, count)


def utilities(outputs: Tensor, kind: Kind) -> Utilities:
    """Moments of the distributions that a head's outputs stand for.

    Args:
        outputs: [A, D]: mean and spread (`mean_variance`: the deviation is softplus(spread + `UNIT_SPREAD`)), or the
            logits of the atoms (`categorical`).
    """
    if kind == "mean_variance":
        deviation = torch.nn.functional.softplus(outputs[:, 1] + UNIT_SPREAD)
        return Utilities(outputs[:, 0], deviation.square(), outputs)
    probabilities, values = outputs.softmax(-1), atoms(outputs.shape[1]).to(outputs)
    mean = probabilities @ values
    return Utilities(mean, (probabilities * (values - mean[:, None]).square()).sum(1), outputs)


def quantile(outputs: Tensor, kind: Kind, level: float) -> Tensor:
    """[A] the utility that an answer exceeds with probability 1 - ``level``: a score that is averse to risk.

    Of a categorical model each atom's mass is spread evenly over its K-th of [0, 1], as in the released code, so that
    the quantile moves continuously.

    Args:
        outputs: [A, D]; level: in (0, 1), such as 0.01 (the paper's) or 0.1.
    """
    if kind == "mean_variance":
        own = utilities(outputs, kind)
        low: Tensor = own.mean + torch.special.ndtri(torch.tensor(level)).to(outputs) * own.variance.sqrt()
        return low
    probabilities = outputs.softmax(-1)
    above = probabilities.cumsum(-1)
    index = (above >= level).int().argmax(-1, keepdim=True)
    mass = probabilities.gather(-1, index)
    inside = (level - above.gather(-1, index) + mass) / mass
    return ((index + inside) / outputs.shape[1])[:, 0]


def explained(means: Tensor, variances: Tensor) -> float:
    """r^2 = Var(m) / (Var(m) + E[v]): the share of the variance of utility that the answer explains.

    The rest is hidden context. Near 1, raters agree; the paper's models on mixed data have less than on either part.

    Args:
        means, variances: [N], of different answers to different prompts.
    """
    between = means.var(unbiased=False)
    return float(between / (between + variances.mean()))


@dataclass(frozen=True)
class DistributionalRewardModel:
    """Distributions of utility for answers.

    Attributes:
        level: of the low quantile that `score` is; None: the mean.
    """

    heads: RewardHeads
    kind: Kind
    level: float | None

    @classmethod
    def load(
        cls, base: Path, folder: Path, onto: tuple[Any, Any] | None = None, name: str = "distribution"
    ) -> DistributionalRewardModel:
        """Load what `train.distributional_reward.run` wrote; see `RewardHeads.load`."""
        heads = RewardHeads.load(base, folder, ("mean_variance", "categorical"), onto, name)
        return cls(heads, heads.about["kind"], heads.about["risk_quantile"])

    def utilities(self, prompt: Text, answers: Sequence[str]) -> Utilities:
        """Means and variances for some answers to one prompt; the scale of utility is arbitrary."""
        return utilities(self.heads.outputs(prompt, answers).T, self.kind)

    def score(self, prompt: Text, answers: Sequence[str]) -> list[float]:
        """The low quantile of each answer's utility, or its mean without one; not log-odds."""
        outputs = self.heads.outputs(prompt, answers).T
        found = utilities(outputs, self.kind).mean if self.level is None else quantile(outputs, self.kind, self.level)
        scores: list[float] = found.tolist()
        return scores

    def disagreement(self, prompt: Text, answers: Sequence[str]) -> float:
        """Twice the share of raters in the minority on the two answers where it is largest, between 0 and 1.

        1: raters split evenly on some two of the answers; 0: they all say the same of any two.
        """
        return self.disagreements([(prompt, answers)])[0]

    def disagreements(self, questions: Sequence[Question]) -> list[float]:
        """`disagreement` on the answers to each of some prompts, read in batches."""
        found = []
        for outputs in self.heads.outputs_to(questions):
            p = preferred(outputs.T[torch.combinations(torch.arange(outputs.shape[1]))], self.kind)
            found.append(float(2 * torch.minimum(p, 1 - p).max()))
        return found


def preferred(outputs: Tensor, kind: Kind) -> Tensor:
    """[P] the probability that a rater prefers the first of two answers.

    Args:
        outputs: [P, 2, D].
    """
    return torch.exp(-pair_nll(outputs, kind))


def pair_nll(outputs: Tensor, kind: Kind, labels: Tensor | None = None) -> Tensor:
    """[P] negative log-likelihood in nats that the first of two answers is preferred.

    Args:
        outputs: [P, 2, D]; labels: as in `functional.preference_nll`.
    """
    if kind == "categorical":
        return categorical_nll(outputs, labels)
    own = utilities(outputs.flatten(0, 1), kind)
    return mean_variance_nll(own.mean.view(-1, 2), own.variance.view(-1, 2), labels)
