"""The model of a rater: places, votes on pairs however they were shown, gold questions, and planted raters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from steersman.data.rater_model import (
    DEFAULT_RATER,
    AnswerPair,
    PairVote,
    RankedVote,
    RaterModel,
    gold_scores,
    pair_votes,
    places,
    prior_reliability,
)
from steersman.types import Comparison


def said(rater: str, better: str, worse: str, prompt: str = "q", **rest: Any) -> Comparison:
    return Comparison(prompt=prompt, options=(better, worse), ranking=(1, 2), rater=rater, **rest)


def test_places_run_from_the_first_shown_to_the_last() -> None:
    assert places(said("a", "x", "y")) == (0.0, 0.0)
    assert places(said("a", "x", "y", order_shown=(1, 0))) == (-0.5, 0.5)
    three = Comparison(prompt="q", options=("x", "y", "z"), ranking=(1, 2, 3), order_shown=(2, 0, 1))
    assert places(three) == (0.0, -0.5, 0.5)


def test_orders_are_of_texts_and_not_of_places() -> None:
    rows = [
        said("ann", "x", "y"),
        said("bob", "y", "x", order_shown=(1, 0)),
        Comparison(prompt="q", options=("z", "y", "x"), ranking=(1, 2, 2), rater="eve"),
        Comparison(prompt="q", options=("x", "y"), both_bad=True, rater="joe"),
    ]
    assert pair_votes(rows) == {
        AnswerPair("q", "x", "y"): [PairVote(0, "ann", 1), PairVote(1, "bob", -1), PairVote(2, "eve", 0)],
        AnswerPair("q", "y", "z"): [PairVote(2, "eve", -1)],
        AnswerPair("q", "x", "z"): [PairVote(2, "eve", -1)],
    }


def test_gold_questions_centre_the_prior() -> None:
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
    assert gold_scores(rows) == {"half": [1.0, 0.0], "liar": [0.0, 0.0], "new": []}
    assert prior_reliability(rows) == pytest.approx(
        {"half": 0.0, "liar": 0.5 * math.log((1 / 4) / (3 / 4)), "new": 1.0}
    )


# ── beside a reward model ────────────────────────────────────────────────────────────────────────────────────────────
def ranked_votes(planted: Sequence[tuple[float, float]], each: int) -> tuple[list[RankedVote], dict[int, list[float]]]:
    """Votes of raters 0, 1, ... with these reliabilities and biases on known scores, the better option first."""
    generator = torch.Generator().manual_seed(0)
    rows: list[RankedVote] = []
    scores: dict[int, list[float]] = {}
    for rater, (reliability, bias) in enumerate(planted):
        for _ in range(each):
            first, second = torch.randn(2, generator=generator).tolist()
            side = 1 if torch.rand(1, generator=generator) < 0.5 else -1
            chance = torch.sigmoid(torch.tensor(reliability * (first - second) + bias * side))
            if torch.rand(1, generator=generator) > chance:
                first, second, side = second, first, -side
            scores[len(rows)] = [first, second]
            rows.append(RankedVote(str(rater), (1, 2), (side / 2, -side / 2)))
    return rows, scores


def test_reliabilities_and_side_biases_are_recovered() -> None:
    """After 600 votes each, within four standard errors of about 0.1."""
    planted = [(1.5, 0.0), (-1.0, 0.5), (0.0, -0.8)]
    rows, scores = ranked_votes(planted, 600)
    raters = RaterModel(rows, {str(i): 1.0 for i in range(3)})
    assert raters.params("1") == (1.0, 0.0)
    raters.observe(scores)
    raters.fit()
    for i, own in enumerate(planted):
        assert raters.params(str(i)) == pytest.approx(own, abs=0.4)
    assert raters.params("somebody else") == DEFAULT_RATER
    again = RaterModel(rows, {str(i): 1.0 for i in range(3)})
    again.resume(raters.state())
    assert again.params("1") == raters.params("1")
    again.fit()
    assert again.params("1") == raters.params("1")


def test_without_observations_the_prior_stays() -> None:
    raters = RaterModel([], {"a": -0.3})
    raters.fit()
    assert raters.params("a") == (-0.3, 0.0)


def test_pairs_of_a_ranking_share_its_weight() -> None:
    """Three answers in order are three pairs of a third each: together they weigh as much as one pair."""
    many = RankedVote("a", (1, 2, 3), (0.0, 0.0, 0.0))
    alike = RaterModel([many], {"a": 1.0})
    alike.observe({0: [1.0, 0.5, 0.0]})
    alike.fit()
    pairs = [RankedVote("a", (1, 2), (0.0, 0.0), 1 / 3)] * 3
    apart = RaterModel(pairs, {"a": 1.0})
    apart.observe({0: [1.0, 0.5], 1: [1.0, 0.0], 2: [0.5, 0.0]})
    apart.fit()
    assert alike.params("a") == pytest.approx(apart.params("a"), abs=1e-6)
    assert alike.params("a").reliability > 1.05
