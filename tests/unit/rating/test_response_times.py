"""Times of raters: outliers are those of log seconds, and a clock that jumps moves nobody else."""

from __future__ import annotations

import math
import random

import pytest

from steersman.rating.response_times import MIN_COUNT, hasty, response_times
from steersman.types import Comparison


def timed(rater: str, seconds: float | None, prompt: str = "q") -> Comparison:
    return Comparison(prompt=prompt, options=("x", "y"), ranking=(1, 2), rater=rater, seconds=seconds)


def habit(rater: str, median: float, count: int = 30) -> list[Comparison]:
    generator = random.Random(rater)
    return [timed(rater, median * math.exp(generator.gauss(0, 0.3))) for _ in range(count)]


def test_hasty_and_slow_votes_are_found_by_their_index() -> None:
    votes = [*habit("ann", 20), timed("ann", 0.4), timed("ann", 3600), timed("ann", 0), timed("ann", None)]
    found = response_times(votes)["ann"]
    assert (found.hasty, found.slow, found.votes) == ((30, 32), (31,), 33)
    assert 15 < found.median_s < 27
    assert hasty(votes) == {30, 32}
    assert found.against_others is None


def test_one_jump_of_the_clock_changes_nothing_for_others() -> None:
    votes = habit("ann", 20)
    before, after = response_times(votes)["ann"], response_times([*votes, timed("ann", 1e9)])["ann"]
    assert after.median_s == pytest.approx(before.median_s, rel=0.05)
    assert after.hasty == before.hasty == ()


def test_a_rater_who_races_is_unlike_the_others() -> None:
    """All votes of a rater are hasty though none is unlike the rest; with few raters nobody is unlike the others."""
    crowd = [vote for i in range(10) for vote in habit(f"r{i}", 15 + i)]
    votes = [*crowd, *habit("racer", 0.6)]
    found = response_times(votes)
    assert found["racer"].against_others is not None
    assert found["racer"].against_others < -3.5
    assert found["racer"].hasty == ()
    assert hasty(votes) == set(range(300, 330))
    assert hasty([*habit("ann", 20), *habit("racer", 0.6)]) == set()


def test_few_votes_are_no_habit_and_evenness_no_crime() -> None:
    assert response_times([timed("ann", 10)] * (MIN_COUNT - 2) + [timed("ann", 0.1)])["ann"].hasty == ()
    assert response_times([timed("ann", 10)] * 20 + [timed("ann", 9)])["ann"].hasty == ()
    gold = timed("ann", 10).model_copy(update={"gold": True})
    assert response_times([gold, timed("", 3)]) == {}
