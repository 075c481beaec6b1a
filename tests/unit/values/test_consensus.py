"""Group-aware consensus: Polis' arithmetic by hand, and what a plain mean would have chosen."""

from __future__ import annotations

import numpy as np
import pytest

from steersman.errors import DataError
from steersman.values.aggregate import Ratings
from steersman.values.consensus import agreement, group_aware_consensus


def votes(*rows: list[float], groups: list[int]) -> Ratings:
    names = tuple(f"s{i}" for i in range(len(rows[0])))
    return Ratings(names, ("a", "b")[: max(groups) + 1], np.array(groups), np.array(rows), np.ones(len(rows)))


def test_by_hand() -> None:
    """Group a: 2 of 3 agree with s0, one passes; of s1 one has seen it and disagrees. Group b: 1 of 1, then nobody."""
    given = votes([1, -1], [1, np.nan], [0, np.nan], [1, np.nan], groups=[0, 0, 0, 1])
    assert agreement(given) == pytest.approx(np.array([[3 / 5, 1 / 3], [2 / 3, 1 / 2]]))
    assert group_aware_consensus(given).scores == pytest.approx([np.sqrt(2 / 5), np.sqrt(1 / 6)])


def test_what_both_groups_agree_with_is_above_what_the_large_one_does() -> None:
    """Of 100 people 90 are in one group: 90 agree with s0, 80 with s1, of whom 8 in the small group of 10."""
    large = [[1.0, 1.0]] * 72 + [[1.0, -1.0]] * 18
    small = [[-1.0, 1.0]] * 8 + [[-1.0, -1.0]] * 2
    given = votes(*large, *small, groups=[0] * 90 + [1] * 10)
    assert (given.values == 1).mean(0) == pytest.approx([0.9, 0.8])
    assert group_aware_consensus(given).order == ((1,), (0,))


def test_scores_do_not_depend_on_the_number_of_groups_or_on_other_statements() -> None:
    """The geometric mean of equal groups is that of one; the product, which Polis sorts by, would be its square."""
    one = votes([1.0, 0.0], [1.0, 1.0], groups=[0, 0])
    two = votes([1.0, 0.0], [1.0, 1.0], [1.0, 0.0], [1.0, 1.0], groups=[0, 0, 1, 1])
    assert group_aware_consensus(one).scores == pytest.approx(group_aware_consensus(two).scores)
    clone = two._replace(values=two.values[:, [0, 1, 1]], alternatives=("s0", "s1", "s2"))
    assert group_aware_consensus(clone).scores[:2] == pytest.approx(group_aware_consensus(two).scores)


def test_other_numbers_and_no_groups_are_refused() -> None:
    with pytest.raises(DataError, match="neither 1, 0 nor -1"):
        agreement(votes([0.5], groups=[0]))
    with pytest.raises(DataError, match="there are no groups"):
        agreement(votes([1.0], groups=[0])._replace(groups=()))
