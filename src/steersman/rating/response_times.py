"""How long raters take, and which of their votes were given unlike their own habit.

Times are multiplied, not added: a rater is twice as quick, a text twice as long. So everything is about log seconds,
and robust: medians, and the median absolute deviation times 1.4826 for a standard deviation (Iglewicz & Hoaglin 1993).
A clock that jumps or a coffee break makes one outlier and does not move the rest.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from steersman.types import Comparison

OUTLYING = 3.5  # robust standard deviations
FEWEST = 8  # timed votes, below which a rater has no habit, and raters, below which nobody is unlike the others
SHORTEST_S = 0.05  # nobody is quicker; a time of 0 has no logarithm
NARROWEST = 0.1  # in log seconds: a machine's evenness must not make 5 % an outlier


class Pace(NamedTuple):
    """Of a rater: ``against_others`` is how unlike the other raters' medians his own is, in robust standard deviations,
    None if there are too few. ``hasty`` and ``slow`` are the indices of votes unlike his other ones."""

    votes: int
    median_s: float
    against_others: float | None
    hasty: tuple[int, ...]
    slow: tuple[int, ...]


def pace(votes: Sequence[Comparison]) -> dict[str, Pace]:
    """By rater; votes without a rater or a time are left out, and gold rows are no votes."""
    timed: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for index, vote in enumerate(votes):
        if vote.rater and vote.seconds is not None and not vote.gold:
            timed[vote.rater].append((index, math.log(max(vote.seconds, SHORTEST_S))))
    medians = {rater: statistics.median(log for _, log in own) for rater, own in timed.items()}
    among = _unlike(list(medians.values()))
    found = {}
    for (rater, own), against in zip(timed.items(), among, strict=True):
        unlike = _unlike([log for _, log in own])
        of_votes = [(index, z) for (index, _), z in zip(own, unlike, strict=True) if z is not None]
        hasty, slow = (tuple(i for i, z in of_votes if sign * z > OUTLYING) for sign in (-1, 1))
        found[rater] = Pace(len(own), math.exp(medians[rater]), against, hasty, slow)
    return dict(sorted(found.items()))


def hasty(votes: Sequence[Comparison]) -> set[int]:
    """The indices of votes that took their rater far less time than his others, or a rater far less than all others."""
    found = pace(votes)
    racing = {rater for rater, own in found.items() if (own.against_others or 0) < -OUTLYING}
    single = {index for own in found.values() for index in own.hasty}
    return single | {index for index, vote in enumerate(votes) if vote.rater in racing and not vote.gold}


def _unlike(logs: Sequence[float]) -> list[float | None]:
    if len(logs) < FEWEST:
        return [None] * len(logs)
    middle = statistics.median(logs)
    spread = max(NARROWEST, 1.4826 * statistics.median(abs(log - middle) for log in logs))
    return [(log - middle) / spread for log in logs]
