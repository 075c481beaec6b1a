"""How far raters are believed beside a reward model: planted trusts and biases that are found again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from steersman.lm.shared_prefix import Group
from steersman.train.raters import PLAIN, Raters
from steersman.train.reward_model import Ranked


def heard(trusts: Sequence[tuple[float, float]], each: int) -> tuple[list[Ranked], dict[int, list[float]]]:
    """Votes of raters 0, 1, ... with these trusts and biases on known scores, the better option first."""
    generator = torch.Generator().manual_seed(0)
    rows: list[Ranked] = []
    scores: dict[int, list[float]] = {}
    for rater, (trust, bias) in enumerate(trusts):
        for _ in range(each):
            first, second = torch.randn(2, generator=generator).tolist()
            side = 1 if torch.rand(1, generator=generator) < 0.5 else -1
            chance = torch.sigmoid(torch.tensor(trust * (first - second) + bias * side))
            if torch.rand(1, generator=generator) > chance:
                first, second, side = second, first, -side
            row = Ranked(
                Group([1], [[2], [3]]), (1, 2), [], number=len(rows), rater=str(rater), places=(side / 2, -side / 2)
            )
            scores[len(rows)] = [first, second]
            rows.append(row)
    return rows, scores


def test_trusts_and_biases_are_found_again() -> None:
    """After 600 votes each, within four standard errors of about 0.1."""
    planted = [(1.5, 0.0), (-1.0, 0.5), (0.0, -0.8)]
    rows, scores = heard(planted, 600)
    raters = Raters(rows, {str(i): 1.0 for i in range(3)})
    assert raters.of("1") == (1.0, 0.0)
    raters.hear(scores)
    raters.believe()
    for i, belief in enumerate(planted):
        assert raters.of(str(i)) == pytest.approx(belief, abs=0.4)
    assert raters.of("somebody else") == PLAIN
    again = Raters(rows, {str(i): 1.0 for i in range(3)})
    again.resume(raters.state())
    assert again.of("1") == raters.of("1")
    again.believe()
    assert again.of("1") == raters.of("1")


def test_nothing_heard_leaves_the_prior() -> None:
    raters = Raters([], {"a": -0.3})
    raters.believe()
    assert raters.of("a") == (-0.3, 0.0)


def test_pairs_of_a_ranking_share_its_weight() -> None:
    """Three answers in order are three pairs of a third each: so many as one pair, but for what they say."""
    many = Ranked(Group([1], [[2]] * 3), (1, 2, 3), [], rater="a", places=(0.0, 0.0, 0.0))
    alike = Raters([many], {"a": 1.0})
    alike.hear({0: [1.0, 0.5, 0.0]})
    alike.believe()
    pairs = [Ranked(Group([1], [[2]] * 2), (1, 2), [], 1 / 3, number=i, rater="a") for i in range(3)]
    apart = Raters(pairs, {"a": 1.0})
    apart.hear({0: [1.0, 0.5], 1: [1.0, 0.0], 2: [0.5, 0.0]})
    apart.believe()
    assert alike.of("a") == pytest.approx(apart.of("a"), abs=1e-6)
    assert alike.of("a").trust > 1.05
