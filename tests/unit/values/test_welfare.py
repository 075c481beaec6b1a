"""Rules on utilities: values by hand, invariances that hold and those that do not."""

from __future__ import annotations

import numpy as np
import pytest

from steersman.errors import DataError
from steersman.values.aggregate import GroupUtilities, Ratings, Votes
from steersman.values.welfare import (
    approval,
    max_min,
    mean_utility,
    nash_welfare,
    standardised,
    utilities_of_votes,
)


def utilities(*values: list[float], people: list[float] | None = None) -> GroupUtilities:
    groups = tuple("ghk"[: len(values)])
    mass = np.ones(len(values)) if people is None else np.array(people)
    return GroupUtilities(tuple("ABCD"[: len(values[0])]), groups, np.array(values, dtype=float), mass)


def rescaled(given: GroupUtilities, generator: np.random.Generator) -> GroupUtilities:
    """Each group's utilities times its own positive number, plus its own number."""
    groups = len(given.groups)
    return given._replace(
        values=given.values * np.exp(generator.normal(0, 2, (groups, 1))) + generator.normal(0, 9, (groups, 1))
    )


# ── by hand ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_standardised() -> None:
    assert standardised(np.array([1.0, 2.0, 3.0])) == pytest.approx([-np.sqrt(1.5), 0, np.sqrt(1.5)])
    assert standardised(np.array([[5.0, 5.0], [0.0, 2.0]])).tolist() == [[0, 0], [-1, 1]]
    assert standardised(np.full(3, 1e9)).tolist() == [0, 0, 0]


def test_approval() -> None:
    ratings = Ratings(
        ("A", "B"), (), np.full(3, -1), np.array([[1.0, 0.4], [0.2, np.nan], [0.5, 0.9]]), np.array([1.0, 2.0, 1.0])
    )
    assert approval(ratings, 0.5).scores == pytest.approx([2 / 4, 1 / 2])
    assert approval(ratings, 0.4).scores == pytest.approx([2 / 4, 1])
    with pytest.raises(DataError, match="nobody rated 'B'"):
        approval(ratings._replace(values=np.array([[1.0, np.nan]] * 3)), 0.5)


def test_mean_and_max_min_differ_where_groups_differ() -> None:
    """A majority of nine in ten likes A best; C is second for both."""
    given = utilities([2, 0, 1], [0, 2, 1.2], people=[90, 10])
    assert mean_utility(given, standardise=False).scores == pytest.approx([1.8, 0.2, 1.02])
    assert mean_utility(given).winners == ("A",)
    assert max_min(given, standardise=False).scores == pytest.approx([0, 0, 1])
    assert max_min(given).winners == ("C",)


def test_max_min_breaks_ties_by_the_next_worst_off() -> None:
    given = utilities([0, 0, 0, 1], [3, 2, 2, 0], [1, 5, 5, 9])
    found = max_min(given, standardise=False)
    assert found.scores.tolist() == [0, 0, 0, 0]
    assert found.order == ((1, 2), (3,), (0,))  # sorted: 0 2 5 and 0 2 5, then 0 1 9, then 0 1 3


def test_nash_welfare_by_hand() -> None:
    given = utilities([3, 2, 5], [1, 2, 0], people=[1, 1])
    found = nash_welfare(given, {"g": 1, "h": 0})
    assert found.scores == pytest.approx([np.log(2) / 2, np.log(2) / 2, -np.inf])
    assert found.order == ((0, 1), (2,))
    weighted = nash_welfare(given._replace(people=np.array([3.0, 1.0])), {"g": 1, "h": 0})
    assert weighted.winners == ("A",)
    with pytest.raises(DataError, match="'h' has no status quo"):
        nash_welfare(given, {"g": 0})
    with pytest.raises(DataError, match="no alternative leaves every group better off"):
        nash_welfare(given, {"g": 1, "h": 2})


# ── invariances ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_max_min_and_the_mean_are_invariant_to_scales_only_after_standardisation() -> None:
    generator = np.random.default_rng(0)
    moved = dict.fromkeys((max_min, mean_utility), 0)
    for _ in range(50):
        given = utilities(*generator.normal(size=(3, 4)).tolist(), people=[5, 3, 2])
        other = rescaled(given, generator)
        for rule in moved:
            assert rule(other).order == rule(given).order, rule
            moved[rule] += rule(other, standardise=False).order != rule(given, standardise=False).order
    assert moved[max_min] >= 25
    assert moved[mean_utility] >= 25


def test_the_group_with_the_smallest_scale_decides_without_standardisation() -> None:
    given = utilities([0.0, 0.01], [9.0, -9.0])
    assert max_min(given, standardise=False).winners == ("A",)
    assert max_min(given._replace(values=given.values + np.array([[-50.0], [0.0]])), standardise=False).winners == (
        "B",
    )
    common = given._replace(values=np.exp(given.values))  # one increasing transformation for all: nothing moves
    assert max_min(common, standardise=False).order == max_min(given, standardise=False).order


def test_nash_welfare_is_invariant_to_scales_and_to_other_alternatives() -> None:
    generator = np.random.default_rng(1)
    for _ in range(20):
        values = generator.uniform(0.1, 2, (2, 4))
        given = utilities(*values.tolist(), people=[7, 3])
        factors = generator.uniform(0.1, 10, (2, 1))
        before = nash_welfare(given, {"g": 0, "h": 0})
        assert nash_welfare(given._replace(values=values * factors), {"g": 0, "h": 0}).order == before.order
        fewer = given._replace(values=values[:, :3], alternatives=given.alternatives[:3])
        assert nash_welfare(fewer, {"g": 0, "h": 0}).scores == pytest.approx(before.scores[:3])


def test_pareto_and_monotone() -> None:
    """What is better for all is above; and to rise for one group does not harm, with scales fixed."""
    generator = np.random.default_rng(2)
    for _ in range(30):
        values = generator.normal(size=(3, 4))
        values[:, 1] = values[:, 0] - generator.uniform(0.01, 1, 3)
        given = utilities(*values.tolist())
        for rule in (max_min, mean_utility):
            assert rule(given).place("A") < rule(given).place("B")
        raised = given._replace(values=values + 0.0)
        best = max_min(given, standardise=False).order[0][0]
        raised.values[int(generator.integers(3)), best] += 1
        assert best in max_min(raised, standardise=False).order[0]


def test_an_alternative_that_nobody_chooses_can_decide_through_the_standardisation() -> None:
    """The price of standardising: without D the mean's winner is A, with it B."""
    values = np.array([[1.0, 0.0, 0.4], [0.0, 0.6, 0.3]])
    without = utilities(*values.tolist(), people=[6, 4])
    far = np.hstack([values, [[-20.0], [0.1]]])
    with_it = utilities(*far.tolist(), people=[6, 4])
    assert mean_utility(without).winners == ("A",)
    assert mean_utility(with_it).winners == ("B",)


# ── from votes ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_utilities_of_votes() -> None:
    """Two groups with opposite tastes, and a person alone in a third."""
    first, second = np.array([0, 1, 0] * 11), np.array([1, 2, 2] * 11)
    rater = np.repeat(np.arange(11), 3)
    group = np.array([0] * 5 + [1] * 5 + [2])
    share = np.where(group[rater] == 0, 1.0, 0.0)
    votes = Votes(tuple("ABC"), ("a", "b", "c"), group, rater, first, second, share, np.ones(33))
    found = utilities_of_votes(votes)
    assert found.groups == ("a", "b")
    assert found.too_small == (("c", 1),)
    assert found.people.tolist() == [5, 5]
    assert found.values[0] == pytest.approx(-found.values[1])
    assert max_min(found).winners == ("B",)
    with pytest.raises(DataError, match="nobody in group 'a' compared 'D'"):
        utilities_of_votes(votes._replace(alternatives=tuple("ABCD")))
