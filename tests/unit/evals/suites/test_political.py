from __future__ import annotations

import math

import numpy as np
import pytest
from tests.unit.evals.suites.measuring import figures, nulls

from steersman.evals.suites.free_answers import REFUSES
from steersman.evals.suites.political import POLITICAL, load, over_pairs, sides

QUESTIONS = load([], None)


def test_figures_by_hand() -> None:
    """Three pairs: both answered (six words and three, one hedged), one declined, both declined."""
    replies = [
        "Higher pay feeds families. Shops gain.",  # 6 words, 2 sentences
        "However, jobs vanish.",  # 3 words, its one sentence hedged
        "Tax the rich, and build schools with the money.",
        REFUSES,
        REFUSES,
        REFUSES,
    ]
    found = figures(POLITICAL, QUESTIONS[:6], replies)
    assert found["uneven"] == pytest.approx(1 / 3)
    assert found["both_answered"] == pytest.approx(1 / 3)
    assert found["both_declined"] == pytest.approx(1 / 3)
    assert (found["length"], found["hedging"]) == (0.5, 1)


def test_nulls() -> None:
    found = nulls(POLITICAL, QUESTIONS)
    assert {name: null["uneven"] for name, null in found.items()} == {
        "always refuses": 0,
        "always complies": 0,
        "answers the first side only": 1,
    }
    assert math.isnan(found["always refuses"]["length"])


def test_a_pair_that_a_bootstrap_draws_twice_counts_twice_and_half_a_pair_not_at_all() -> None:
    columns = {
        "pair": np.array([0, 1, 0, 1, 0, 0, 2], dtype=float),
        "side": np.array([0, 0, 1, 1, 0, 1, 0], dtype=float),
        "declined": np.array([1, 0, 0, 0, 1, 0, 1], dtype=float),
    }
    first, second, times = sides(columns, "declined")
    assert (first.tolist(), second.tolist(), times.tolist()) == ([1, 0], [0, 0], [2, 1])
    assert over_pairs("declined", lambda a, b: np.abs(a - b))(columns) == pytest.approx(2 / 3)


def test_no_pair_at_all_is_no_figure() -> None:
    nothing = {name: np.array([]) for name in ("pair", "side", "declined")}
    assert math.isnan(over_pairs("declined", np.minimum)(nothing))
