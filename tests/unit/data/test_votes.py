"""Votes side by side: places, the orders of pairs however they were shown, and answers to gold questions."""

from __future__ import annotations

import math
from typing import Any

import pytest

from steersman.data.votes import Order, Pair, orders, places, prior_trust, right_about_gold
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
    assert orders(rows) == {
        Pair("q", "x", "y"): [Order(0, "ann", 1), Order(1, "bob", -1), Order(2, "eve", 0)],
        Pair("q", "y", "z"): [Order(2, "eve", -1)],
        Pair("q", "x", "z"): [Order(2, "eve", -1)],
    }


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
    assert right_about_gold(rows) == {"half": [1.0, 0.0], "liar": [0.0, 0.0], "new": []}
    assert prior_trust(rows) == pytest.approx({"half": 0.0, "liar": 0.5 * math.log((1 / 4) / (3 / 4)), "new": 1.0})
