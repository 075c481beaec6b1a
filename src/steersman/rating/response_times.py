"""Response times of raters, and votes that were much quicker or slower than their rater's habit.

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
MIN_COUNT = 8  # of timed votes to compare one with, and of raters to compare one with
MIN_S = 0.05  # a time of 0 has no logarithm
MIN_SPREAD = 0.1  # in log seconds, so that a very regular rater has no outliers of 5 %


class ResponseTimes(NamedTuple):
    """Of a rater: ``against_others`` is the deviation of their median from the other raters' in robust standard
    deviations, None if there are too few. ``hasty`` and ``slow`` are the indices of outlying votes."""

    votes: int
    median_s: float
    against_others: float | None
    hasty: tuple[int, ...]
    slow: tuple[int, ...]


def response_times(votes: Sequence[Comparison]) -> dict[str, ResponseTimes]:
    """By rater; votes without a rater or a time are left out, and gold rows are no votes."""
    timed: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for index, vote in enumerate(votes):
        if vote.rater and vote.seconds is not None and not vote.gold:
            timed[vote.rater].append((index, math.log(max(vote.seconds, MIN_S))))
    medians = {rater: statistics.median(log for _, log in own) for rater, own in timed.items()}
    deviations = _deviations(list(medians.values()))
    times = {}
    for (rater, own), against in zip(timed.items(), deviations, strict=True):
        within = _deviations([log for _, log in own])
        of_votes = [(index, z) for (index, _), z in zip(own, within, strict=True) if z is not None]
        hasty, slow = (tuple(i for i, z in of_votes if sign * z > OUTLYING) for sign in (-1, 1))
        times[rater] = ResponseTimes(len(own), math.exp(medians[rater]), against, hasty, slow)
    return dict(sorted(times.items()))


def hasty(votes: Sequence[Comparison]) -> set[int]:
    """Indices of votes far quicker than their rater's others, and of all votes of raters far quicker than others."""
    times = response_times(votes)
    racing = {rater for rater, own in times.items() if (own.against_others or 0) < -OUTLYING}
    single = {index for own in times.values() for index in own.hasty}
    return single | {index for index, vote in enumerate(votes) if vote.rater in racing and not vote.gold}


def _deviations(logs: Sequence[float]) -> list[float | None]:
    if len(logs) < MIN_COUNT:
        return [None] * len(logs)
    middle = statistics.median(logs)
    spread = max(MIN_SPREAD, 1.4826 * statistics.median(abs(log - middle) for log in logs))
    return [(log - middle) / spread for log in logs]
