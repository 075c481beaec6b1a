"""Permutation tests beside all permutations, counted."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from steersman.interp.audit.permutation import highest_of, outlier, sign_flips
from steersman.interp.audit.preference import standing_out


def test_sign_flips_are_the_share_of_all_sign_patterns() -> None:
    values = [0.9, 0.4, -0.1, 0.6, 0.3, 0.2]
    means = [np.dot(signs, values) / 6 for signs in product((-1, 1), repeat=6)]
    exact = np.mean([mean >= np.mean(values) - 1e-12 for mean in means])
    assert sign_flips(values) == pytest.approx(exact, abs=0.02)
    assert sign_flips([]) == 1.0


def test_the_choice_of_the_highest_series_is_part_of_the_test() -> None:
    values = np.array(
        [[0.5, 0.4, -0.2, 0.3, 0.1, 0.2], [0.1, -0.3, 0.2, 0.1, 0.0, -0.1], [0.4, 0.3, 0.4, -0.5, 0.2, 0.1]]
    )
    null = [max((values * signs).mean(1)) for signs in product((-1, 1), repeat=6)]
    exact = np.mean([value >= values.mean(1).max() - 1e-12 for value in null])
    best, p_value = highest_of(values.tolist())
    assert best == 0
    assert p_value == pytest.approx(exact, abs=0.02)
    assert p_value > sign_flips(values[0].tolist())


def test_an_outlying_group_beside_all_relabellings() -> None:
    values, groups = [3.0, 2.5, 0.1, 0.4, -0.2, 0.3, 0.0], ["a", "a", "b", "b", "c", "c", "c"]

    def highest(order: tuple[float, ...]) -> float:
        data = np.array(order)
        member = {g: np.array([own == g for own in groups]) for g in "abc"}
        return max(float(data[m].mean() - data[~m].mean()) for m in member.values())

    null = [highest(order) for order in permutations(values)]
    seen = outlier(values, groups)
    assert seen.group == "a"
    assert seen.excess.value == pytest.approx(2.75 - 0.12)
    assert seen.p_value == pytest.approx(np.mean([v >= highest(tuple(values)) - 1e-12 for v in null]), abs=0.02)
    assert seen.null == pytest.approx(np.quantile(null, 0.95), abs=0.2)
    with pytest.raises(ValueError, match="two groups"):
        outlier([1.0, 2.0], ["a", "a"])


def test_one_option_stands_out_by_a_robust_z() -> None:
    """Of 0.0, 0.1 ... 0.8 the median is 0.4 and the scaled median deviation 1.4826 * 0.2."""
    values = np.array([*np.arange(9) / 10, 3.0])
    excess, p_value, scale = standing_out(values, 9)
    assert excess == pytest.approx(2.6)
    assert scale == pytest.approx(1.4826 * 0.2)
    assert p_value < 0.01
    assert standing_out(values[:-1], 8)[1] > 0.5
