"""How many colluders a rule withstands: numbers worked by hand, and a linear search as the reference."""

from __future__ import annotations

import numpy as np
import pytest

from steersman.errors import DataError
from steersman.values.aggregate import Choice, Ratings, by_score, group_utilities
from steersman.values.collusion import ballots, joined, shift, votes_to_move
from steersman.values.elections import borda, copeland, schulze
from steersman.values.strategy import Rule, by_pairs, outcome, two_camps
from steersman.values.welfare import max_min


def mean(given: Ratings) -> Choice:
    return by_score("mean", given.alternatives, given.weight @ given.values / given.weight.sum())


def plurality(given: Ratings) -> Choice:
    first = given.values == given.values.max(1, keepdims=True)
    return by_score("plurality", given.alternatives, given.weight @ first)


def honest(*rows: list[float], group: list[int] | None = None, groups: tuple[str, ...] = ("all",)) -> Ratings:
    values = np.array(rows, dtype=float)
    own = np.zeros(len(values), dtype=np.int64) if group is None else np.array(group)
    return Ratings(("A", "B", "C"), groups, own, values, np.ones(len(values)))


TEN = honest(*[[1.0, 0.6, 0.0]] * 10)


def test_plurality_takes_one_vote_more_than_the_winner_has() -> None:
    assert votes_to_move(plurality, TEN, 2, most=20).votes == 11
    assert votes_to_move(plurality, TEN, 2, most=10).votes is None
    assert votes_to_move(plurality, TEN, 0).votes == 0
    assert votes_to_move(plurality, TEN, 2, most=20).honest == 10
    assert votes_to_move(plurality, TEN, 1, top=2).votes == 0  # B and C tie on no votes, and share the second place


def test_the_mean_by_hand() -> None:
    """B is 0.4 behind A with each of ten: colluders who give A 0 win back 1 each, so 5 are enough and 4 make a draw."""
    assert votes_to_move(mean, TEN, 1).votes == 5
    found = shift(mean, TEN, 1, 4)
    assert (found.place_before, found.place_after) == (2, 1)
    assert (found.chance_before, found.chance_after) == (0, 0.5)
    assert found.loss == pytest.approx(0.5 * 0.4)
    assert found.moved == pytest.approx(((6 + 4) / 14 - 0.6) / np.std([1, 0.6, 0]))
    assert found.ballot in ("bullet", "bury")


def test_ballots_are_what_they_say() -> None:
    found = ballots(by_score("r", ("A", "B", "C", "D"), np.array([4.0, 3.0, 2.0, 1.0])), 2)
    assert found["bullet"].tolist() == [0, 0, 1, 0]
    assert np.argsort(-found["bury"]).tolist() == [2, 3, 1, 0]
    assert np.argsort(-found["pass"]).tolist() == [2, 0, 1, 3]


def test_colluders_weigh_what_honest_people_do() -> None:
    both = joined(TEN._replace(weight=np.full(10, 3.0)), np.array([0.0, 0.0, 1.0]), 2, -1)
    assert both.weight.tolist() == [3.0] * 12
    assert both.group.tolist() == [0] * 10 + [-1] * 2
    assert both.values[-1].tolist() == [0, 0, 1]


@pytest.mark.parametrize("rule", [by_pairs(borda), by_pairs(copeland), by_pairs(schulze), mean])
def test_the_search_finds_what_a_linear_search_finds(rule: Rule) -> None:
    for seed in range(2):
        people = two_camps(17, 4)(np.random.default_rng(seed))
        before = rule(people)
        target = int(np.argmin(before.scores))

        def wins(count: int, people: Ratings = people, before: Choice = before, target: int = target) -> bool:
            return any(
                outcome(rule(joined(people, ballot, count, 0)))[target] > 0.5
                for ballot in ballots(before, target).values()
            )

        expected = next(count for count in range(1, 60) if wins(count))
        assert votes_to_move(rule, people, target, most=60, groups=[0]).votes == expected


def test_where_groups_have_a_say_colluders_claim_the_small_one() -> None:
    """Of 45 people five are a minority whom B suits no less than A, so that max-min takes A. Five colluders who call
    themselves the minority halve what A is worth to it; as majority they would be 5 of 45."""
    people = honest(*[[1.0, 0.6, 0.0]] * 40, *[[0.6, 0.6, 0.0]] * 5, group=[0] * 40 + [1] * 5, groups=("many", "few"))

    def rule(given: Ratings) -> Choice:
        return max_min(group_utilities(given), standardise=False)

    assert rule(people).winners == ("A",)
    found = shift(rule, people, 1, 5)
    assert (found.group, found.chance_after) == ("few", 1.0)
    assert shift(rule, people, 1, 5, groups=[0]).chance_after == 0
    assert votes_to_move(rule, people, 1).votes < votes_to_move(rule, people, 1, groups=[0]).votes  # type: ignore[operator]


def test_scores_of_minus_infinity_do_not_move() -> None:
    """As Nash welfare has them for what is no gain for a group."""

    def rule(given: Ratings) -> Choice:
        scores = mean(given).scores
        return by_score("floor", given.alternatives, np.where(scores > 0.1, scores, -np.inf))

    assert np.isnan(shift(rule, TEN, 2, 5).moved)
    assert shift(rule, TEN, 1, 5).moved == pytest.approx((11 / 15 - 0.6) / np.std([1, 0.6]))


def test_what_is_no_option_is_refused() -> None:
    for target, count in ((3, 1), (0, 0)):
        with pytest.raises(DataError, match="colluders for option"):
            shift(mean, TEN, target, count)
