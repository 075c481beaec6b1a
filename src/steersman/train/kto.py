"""Kahneman-Tversky optimisation: learning from single answers that are good or bad (Ethayarajh et al. 2024,
arXiv:2402.01306).

    loss(y) = w_D (1 - sigmoid(beta (r(y) - z)))   of a desirable answer    r(y) = log pi(y|x) - log reference(y|x)
              w_U (1 - sigmoid(beta (z - r(y))))   of an undesirable one    z = max(0, mean of r(y') over a step)

y' is the answer to another prompt of the step; z has no gradient. A step's loss is the mean over its answers. A pair is
one desirable and one undesirable answer to the same prompt. The loop is `train/dpo.py`, whose VERSION counts for this
file too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from steersman.errors import DataError
from steersman.lm.shared_prefix import Group

MOST = 4 / 3  # the paper's range of n_D w_D : n_U w_U is from 1 to this


def answer_losses(
    ratios: Tensor, desirable: Tensor, beta: float, baseline: float, weights: tuple[float, float] = (1.0, 1.0)
) -> Tensor:
    """The loss of each answer, [S].

    Args:
        ratios: r in nats, [S]; desirable: the probability that an answer is a good one, [S], 0 or 1 for a sure label.
        baseline: z in nats; weights: of desirable and undesirable answers.
    """
    good, bad = torch.sigmoid(beta * (baseline - ratios)), torch.sigmoid(beta * (ratios - baseline))
    return desirable * weights[0] * good + (1 - desirable) * weights[1] * bad


def mismatched(groups: Sequence[Group], max_length: int) -> list[Group]:
    """Every prompt of a step with its neighbour's answers, cut to ``max_length`` tokens."""
    return [
        Group(own.prompt, [ids[: max(1, max_length - len(own.prompt))] for ids in other.completions])
        for own, other in zip(groups, [groups[-1], *groups[:-1]], strict=True)
    ]


def at_least_two(plan: Sequence[list[int]]) -> list[list[int]]:
    """Steps with a single row joined to the one before, because the baseline needs the answers to another prompt.

    Raises:
        DataError: there is no step with two rows.
    """
    joined: list[list[int]] = []
    for step in plan:
        if joined and (len(step) == 1 or len(joined[-1]) == 1):
            joined[-1] = [*joined[-1], *step]
        else:
            joined.append(list(step))
    if len(joined[-1]) == 1 or max(map(len, plan)) == 1:
        raise DataError(
            "every optimiser step has one pair or single answer",
            expected="two or more: KTO's baseline is measured on the answers to other prompts",
            do="raise dpo.batch_size, or add comparisons",
        )
    return joined


def labels(desirable: Tensor, weights: tuple[float, float]) -> dict[str, Any]:
    """How many answers are good and bad ones, [S] probabilities, and what is to be said of it: `balance`."""
    good = int((desirable > 0.5).sum())
    counts = good, len(desirable) - good
    return {"desirable": counts[0], "undesirable": counts[1], "balance": balance(*counts, weights)}


def balance(desirable: int, undesirable: int, weights: tuple[float, float]) -> str:
    """What is wrong with the numbers of answers under ``weights``, in a sentence; nothing if all is well."""
    if not desirable or not undesirable:
        one, other = ("desirable", "undesirable") if desirable else ("undesirable", "desirable")
        way = "up" if desirable else "down"
        return (
            f"All {desirable + undesirable:,} answers are {one}: KTO moves them all {way}, and without {other} ones it "
            "cannot tell good answers from bad ones."
        )
    good, bad = desirable * weights[0], undesirable * weights[1]
    if 1 - 1e-9 <= good / bad <= MOST + 1e-9:
        return ""
    key, least, most = "undesirable_weight", good / MOST / undesirable, good / undesirable
    if good < bad:
        key, least, most = "desirable_weight", bad / desirable, bad * MOST / desirable
    return (
        f"{desirable:,} desirable and {undesirable:,} undesirable answers, with weights {weights[0]:g} and "
        f"{weights[1]:g}, count {good / bad:.2g} : 1, and KTO's authors advise 1 : 1 to 4 : 3; for that, set "
        f"dpo.{key} between {least:.3g} and {most:.3g}."
    )
