"""A chosen jury: who decides is the composition's choice."""

from __future__ import annotations

import numpy as np
import pytest

from steersman.errors import DataError
from steersman.values.aggregate import Ratings, by_score
from steersman.values.jury import flips, jury


def people(likes: int, dislikes: int) -> Ratings:
    """Group ``a`` likes the first alternative and group ``b`` the second; the third is 1/2 for all."""
    values = np.array([[1.0, 0.0, 0.5]] * likes + [[0.0, 1.0, 0.5]] * dislikes)
    return Ratings(("x", "y", "z"), ("a", "b"), np.array([0] * likes + [1] * dislikes), values, np.ones(len(values)))


def test_the_seats_decide_and_not_the_numbers() -> None:
    given = people(90, 10)
    assert jury(given, {"a": 9, "b": 3}).scores == pytest.approx([0.75, 0.25, 0.5])
    assert jury(given, {"a": 3, "b": 9}).scores == pytest.approx([0.25, 0.75, 0.5])
    assert jury(given, {"a": 3, "b": 9}, verdict="median").scores == pytest.approx([0, 1, 0.5])
    assert jury(given, {"b": 1}).winners == ("y",)


def test_it_is_the_median_over_juries_that_are_drawn() -> None:
    """One juror of two who disagree: the median over many juries is one of the two, and 1/2 only by chance."""
    given = Ratings(("x",), ("a",), np.zeros(3, dtype=int), np.array([[0.0], [0.0], [1.0]]), np.ones(3))
    assert jury(given, {"a": 1}).scores.tolist() == [0]
    assert jury(given, {"a": 3}).scores == pytest.approx([1 / 3])
    assert jury(given, {"a": 2}, seed=1).scores == jury(given, {"a": 2}, seed=1).scores


def test_decisions_that_flip_with_the_composition() -> None:
    given = people(9, 9)
    found = flips(jury(given, {"a": 6, "b": 2}), jury(given, {"a": 2, "b": 6}), threshold=0.5)
    assert found.value == pytest.approx(2 / 3)
    assert found.n == 3
    same = by_score("jury", ("x",), np.array([0.5]))
    assert flips(same, same, 0.5).value == 0


def test_seats_that_cannot_be_filled_are_refused() -> None:
    given = people(3, 2)
    given.values[0, 0] = np.nan
    with pytest.raises(DataError, match="3 jurors of group 'a' are wanted, and 2 "):
        jury(given, {"a": 3})
    with pytest.raises(DataError, match="1 jurors of group 'c'"):
        jury(given, {"c": 1})
    with pytest.raises(DataError, match="nobody has a seat"):
        jury(given, {"a": 0})
