"""What rules read: votes from comparisons, the pairwise matrix, and utilities of groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from steersman.errors import DataError
from steersman.types import Comparison
from steersman.values.aggregate import (
    Counted,
    Ratings,
    Votes,
    ballots,
    by_score,
    group_utilities,
    pairwise,
    pairwise_of_ratings,
    votes_of,
)


def row(ranking: tuple[int, ...] | None, rater: str = "", group: str = "", **more: Any) -> Comparison:
    options = ("x", "y", "z")[: len(ranking) if ranking else 2]
    return Comparison(prompt="q", options=options, ranking=ranking, rater=rater, group=group, **more)


def ratings(values: list[list[float]], groups: list[int], weight: list[float] | None = None) -> Ratings:
    names = tuple("xyz"[: len(values[0])])
    table = np.array(values, dtype=np.float64)
    mass = np.ones(len(values)) if weight is None else np.array(weight)
    return Ratings(names, ("a", "b"), np.array(groups), table, mass)


# ── votes ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_votes_of_comparisons() -> None:
    rows = [
        row((1, 2, 3), "r1", "a"),
        row((2, 1), "r2", "b", weight=3.0),
        row((1, 1), "r3"),
        row((1, 2)),
        row(None, "r1", "a", both_bad=True),
        row((1, 2), "r1", "a", gold=True),
        row(None, "r4", "a", soft_label=0.8),
    ]
    votes = votes_of(rows)
    assert votes.alternatives == ("x", "y", "z")
    assert votes.groups == ("a", "b")
    assert votes.group.tolist() == [0, 1, -1, -1, 0]
    assert votes.counted == Counted(rows=7, keys=1, no_order=1, unnamed=1, without_group=2)
    # x over y: r1 1, r3 1/2, unnamed 1, r4 0.8; y over x: r2 with weight 3, r3 1/2, r4 0.2.
    assert pairwise(votes).weights == pytest.approx(np.array([[0, 3.3, 1], [3.7, 0, 1], [0, 0, 0]]))
    assert pairwise(votes, "b").weights == pytest.approx(np.array([[0, 0, 0], [3, 0, 0], [0, 0, 0]]))


def test_a_person_has_one_vote_a_pair() -> None:
    """Who votes three times counts once, also if they contradict themselves and whichever is named first."""
    votes = [row((1, 2), "r"), row((1, 2), "r"), row((2, 1), "r"), row((1, 2), "s")]
    turned = Comparison(prompt="q", options=("y", "x"), ranking=(2, 1), rater="s")
    assert pairwise(votes_of([*votes, turned])).weights == pytest.approx(np.array([[0, 2 / 3 + 1], [1 / 3, 0]]))
    unnamed = pairwise(votes_of([row((1, 2)), row((1, 2))]))
    assert unnamed.weights[0, 1] == 2


def test_votes_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(DataError, match="two prompts") as refused:
        votes_of([row((1, 2)), Comparison(prompt="other", options=("x", "y"), ranking=(1, 2))])
    assert refused.value.where == "row 2"
    with pytest.raises(DataError, match="'r' is in group 'a' and in group 'b'"):
        votes_of([row((1, 2), "r", "a"), row((1, 2), "r", "b")])
    with pytest.raises(DataError, match="no vote"):
        votes_of([row(None, "r", both_bad=True)])
    with pytest.raises(DataError, match="no vote"):
        votes_of([])
    with pytest.raises(DataError, match="nobody is in group 'c'"):
        pairwise(votes_of([row((1, 2), "r", "a")]), "c")


def test_pairwise_is_the_plain_loop() -> None:
    generator = np.random.default_rng(0)
    count, people, alternatives = 500, 7, 4
    first = generator.integers(0, alternatives, count)
    second = (first + generator.integers(1, alternatives, count)) % alternatives
    rater, share = generator.integers(0, people, count), generator.choice([0.0, 0.5, 1.0], count)
    weight = generator.uniform(0.5, 2, count)
    votes = Votes(tuple("wxyz"), (), np.full(people, -1), rater, first, second, share, weight)
    plain = np.zeros((alternatives, alternatives))
    for r in range(people):
        for i in range(alternatives):
            for j in range(i + 1, alternatives):
                own = [n for n in range(count) if rater[n] == r and {first[n], second[n]} == {i, j}]
                for n in own:
                    up = share[n] if first[n] == i else 1 - share[n]
                    plain[i, j] += weight[n] * up / len(own)
                    plain[j, i] += weight[n] * (1 - up) / len(own)
    assert pairwise(votes).weights == pytest.approx(plain)


# ── ratings ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_group_utilities_are_weighted_means_of_those_who_rated() -> None:
    found = group_utilities(ratings([[1, 0], [3, np.nan], [0, 5], [9, 9]], [0, 0, 1, -1], [1, 3, 2, 1]), fewest=1)
    assert found.values == pytest.approx(np.array([[2.5, 0], [0, 5]]))
    assert found.people.tolist() == [4, 2]


def test_a_small_group_is_named_and_has_no_say() -> None:
    table = ratings([[1, 0], [3, 1], [0, 5]], [0, 0, 1])
    found = group_utilities(table, fewest=2)
    assert found.groups == ("a",)
    assert found.too_small == (("b", 1),)
    with pytest.raises(DataError, match="no group is large enough: 'a' has 2, 'b' has 1"):
        group_utilities(table)
    with pytest.raises(DataError, match="nobody in group 'a' rated 'y'"):
        group_utilities(ratings([[1, np.nan], [0, 1]], [0, 1]), fewest=1)


def test_ratings_as_ballots() -> None:
    found = pairwise_of_ratings(ratings([[5, 3, np.nan], [2, 2, 4]], [0, 1], [1, 2]))
    assert found.weights.tolist() == [[0, 2, 0], [1, 0, 0], [2, 2, 0]]
    assert found.unseen == 0
    assert ballots(["x", "y"], np.array([[1.0, 2.0]])).weights.tolist() == [[0, 1], [0, 0]]


# ── results ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_order_places_and_winners() -> None:
    choice = by_score("rule", ["w", "x", "y", "z"], np.array([1.0, 2.0, 2.0 + 1e-12, -np.inf]))
    assert choice.order == ((1, 2), (0,), (3,))
    assert choice.winners == ("x", "y")
    assert [choice.place(name) for name in "wxyz"] == [2, 1, 1, 3]
    assert by_score("rule", ["x", "y"], np.array([-np.inf, -np.inf])).order == ((0, 1),)
