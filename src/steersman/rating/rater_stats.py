"""Statistics of a round and of each rater: speed, side bias, gold score and agreement, counted from the votes.

Plain counts with intervals, for the administrator's page. They treat pairs as independent, which the pairs of one
ranking are not, so that the intervals are somewhat too narrow where many answers are ranked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from statistics import median
from typing import NamedTuple

from steersman.rating.votes import StoredVote
from steersman.stats import Estimate, wilson


class RaterStats(NamedTuple):
    """Of one rater. Rates are estimates; n = 0 where there is nothing to count."""

    rater: int
    votes: int
    skips: int
    both_bad: int
    median_s: float | None
    per_hour: float | None  # votes, of the time that was spent on questions
    first_shown: Estimate  # how often the answer shown first won over the one shown last; 50 % is unbiased
    gold: Estimate  # pairs of gold questions put in the right order
    agreement: Estimate  # pairs that this rater and another put in the same order, or both tied


class RoundStats(NamedTuple):
    """Of a whole round. ``disputed`` are the items whose raters agree least: (item, share of pairs alike, pairs)."""

    raters: list[RaterStats]
    agreement: Estimate
    disputed: list[tuple[int, float, int]]
    arms: dict[str, int]


def round_stats(votes: Sequence[StoredVote]) -> RoundStats:
    """The statistics of a round."""
    ranked = [vote for vote in votes if vote.ranking]
    same: dict[int, list[bool]] = defaultdict(list)  # by rater
    by_item: dict[int, list[bool]] = defaultdict(list)
    together: dict[int, list[StoredVote]] = defaultdict(list)
    for vote in ranked:
        if vote.arm != "repeat":
            together[vote.item].append(vote)
    for item, own in together.items():
        for one, other in combinations(own, 2):
            alike = _alike(one, other)
            by_item[item] += alike
            same[one.rater] += alike
            same[other.rater] += alike
    everyone = [alike for pairs in by_item.values() for alike in pairs]
    disputed = [(item, sum(pairs) / len(pairs), len(pairs)) for item, pairs in by_item.items() if not all(pairs)]
    arms: dict[str, int] = defaultdict(int)
    for vote in votes:
        arms[vote.arm] += 1
    return RoundStats(
        [
            _of_rater(rater, [v for v in votes if v.rater == rater], same[rater])
            for rater in sorted({v.rater for v in votes})
        ],
        wilson(sum(everyone), len(everyone)),
        sorted(disputed, key=lambda row: (row[1], -row[2]))[:20],
        dict(arms),
    )


def gold_score(votes: Sequence[StoredVote]) -> Estimate:
    """The share of pairs of gold questions in the right order; a tie is wrong where one answer is better."""
    right = [
        (vote.ranking[i] < vote.ranking[j]) == (known[i] < known[j]) and vote.ranking[i] != vote.ranking[j]
        for vote in votes
        if (known := vote.question.gold) and vote.ranking
        for i, j in combinations(range(len(known)), 2)
        if known[i] != known[j]
    ]
    return wilson(sum(right), len(right))


def _of_rater(rater: int, own: Sequence[StoredVote], same: Sequence[bool]) -> RaterStats:
    votes = [vote for vote in own if vote.kind == "vote"]
    spent = sum(vote.seconds for vote in votes)
    sides = [_first_wins(vote) for vote in votes if vote.ranking]
    decided = [first for first in sides if first is not None]
    return RaterStats(
        rater=rater,
        votes=len(votes),
        skips=len(own) - len(votes),
        both_bad=sum(vote.both_bad for vote in votes),
        median_s=median(vote.seconds for vote in votes) if votes else None,
        per_hour=3600 * len(votes) / spent if spent else None,
        first_shown=wilson(sum(decided), len(decided)),
        gold=gold_score(votes),
        agreement=wilson(sum(same), len(same)),
    )


def _first_wins(vote: StoredVote) -> bool | None:
    assert vote.ranking is not None
    first, last = (vote.ranking[vote.order_shown[i]] for i in (0, -1))
    return None if first == last else first < last


def _alike(one: StoredVote, other: StoredVote) -> list[bool]:
    """By pair of answers, whether both votes put it in the same order."""
    a, b = one.ranking, other.ranking
    assert a is not None
    assert b is not None
    return [(a[i] < a[j], a[i] == a[j]) == (b[i] < b[j], b[i] == b[j]) for i, j in combinations(range(len(a)), 2)]
