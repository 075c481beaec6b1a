"""How far raters are believed: places, gold questions, and planted trusts and biases that are found again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from steersman.lm.shared_prompt import Group
from steersman.train.raters import PLAIN, Raters, places, prior_trust
from steersman.train.reward_model import Ranked
from steersman.types import Comparison


def said(rater: str, better: str, worse: str, prompt: str = "q", **rest: Any) -> Comparison:
    return Comparison(prompt=prompt, options=(better, worse), ranking=(1, 2), rater=rater, **rest)


def test_places_run_from_the_first_shown_to_the_last() -> None:
    assert places(said("a", "x", "y")) == (0.0, 0.0)
    assert places(said("a", "x", "y", order_shown=(1, 0))) == (-0.5, 0.5)
    three = Comparison(prompt="q", options=("x", "y", "z"), ranking=(1, 2, 3), order_shown=(2, 0, 1))
    assert places(three) == (0.0, -0.5, 0.5)


def test_gold_questions_centre_the_trust() -> None:
    """One of two right, none of two right, and one who was never asked; the gold row's own author is not judged."""
    gold = [said("expert", "good", "bad", prompt=prompt, gold=True) for prompt in ("q", "r")]
    rows = [
        *gold,
        said("half", "good", "bad"),
        said("half", "bad", "good", prompt="r"),
        said("liar", "bad", "good"),
        said("liar", "bad", "good", prompt="r"),
        said("new", "anything", "else"),
    ]
    assert prior_trust(rows) == pytest.approx({"half": 0.0, "liar": 0.5 * math.log((1 / 4) / (3 / 4)), "new": 1.0})


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
