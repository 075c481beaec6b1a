"""How a round stands: pace, side, gold score and agreement of every rater, from the votes alone.

Plain counts with intervals, for the administrator to see who needs a word. They treat pairs as independent, which the
pairs of one ranking are not, so that the intervals are somewhat too narrow where many answers are ranked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from statistics import median
from typing import NamedTuple

from steersman.rating.votes import Vote
from steersman.stats import Estimate, wilson


class RaterStanding(NamedTuple):
    """Figures of one rater. Rates come as estimates; without anything to count they say "no data"."""

    rater: int
    votes: int
    skips: int
    both_bad: int
    median_s: float | None
    per_hour: float | None  # while working: of the time that was spent on questions
    first_shown: Estimate  # how often the answer that stood first won over the one that stood last; 50 % is unbiased
    gold: Estimate  # pairs of gold questions put in the right order
    agreement: Estimate  # pairs that this rater and another one put in the same order, or both tied


class Standing(NamedTuple):
    """Of a whole round. ``disputed`` are the items whose raters agree least: (item, share, pairs)."""

    raters: list[RaterStanding]
    agreement: Estimate
    disputed: list[tuple[int, float, int]]
    arms: dict[str, int]


def standing(votes: Sequence[Vote]) -> Standing:
    """The figures of a round."""
    ranked = [vote for vote in votes if vote.ranking]
    same: dict[int, list[bool]] = defaultdict(list)  # by rater
    by_item: dict[int, list[bool]] = defaultdict(list)
    together: dict[int, list[Vote]] = defaultdict(list)
    for vote in ranked:
        if vote.arm != "repeat":
            together[vote.item].append(vote)
    for item, mine in together.items():
        for one, other in combinations(mine, 2):
            alike = _alike(one, other)
            by_item[item] += alike
            same[one.rater] += alike
            same[other.rater] += alike
    everyone = [alike for found in by_item.values() for alike in found]
    disputed = [(item, sum(found) / len(found), len(found)) for item, found in by_item.items() if not all(found)]
    arms: dict[str, int] = defaultdict(int)
    for vote in votes:
        arms[vote.arm] += 1
    return Standing(
        [
            _of_rater(rater, [v for v in votes if v.rater == rater], same[rater])
            for rater in sorted({v.rater for v in votes})
        ],
        wilson(sum(everyone), len(everyone)),
        sorted(disputed, key=lambda found: (found[1], -found[2]))[:20],
        dict(arms),
    )


def gold_score(votes: Sequence[Vote]) -> Estimate:
    """How many pairs of gold questions were put in the right order; a tie is wrong where one answer is better."""
    right = [
        (vote.ranking[i] < vote.ranking[j]) == (known[i] < known[j]) and vote.ranking[i] != vote.ranking[j]
        for vote in votes
        if (known := vote.question.gold) and vote.ranking
        for i, j in combinations(range(len(known)), 2)
        if known[i] != known[j]
    ]
    return wilson(sum(right), len(right))


def _of_rater(rater: int, mine: Sequence[Vote], same: Sequence[bool]) -> RaterStanding:
    said = [vote for vote in mine if vote.kind == "vote"]
    spent = sum(vote.seconds for vote in said)
    sides = [_first_wins(vote) for vote in said if vote.ranking]
    decided = [first for first in sides if first is not None]
    return RaterStanding(
        rater=rater,
        votes=len(said),
        skips=len(mine) - len(said),
        both_bad=sum(vote.both_bad for vote in said),
        median_s=median(vote.seconds for vote in said) if said else None,
        per_hour=3600 * len(said) / spent if spent else None,
        first_shown=wilson(sum(decided), len(decided)),
        gold=gold_score(said),
        agreement=wilson(sum(same), len(same)),
    )


def _first_wins(vote: Vote) -> bool | None:
    assert vote.ranking is not None
    first, last = (vote.ranking[vote.order_shown[i]] for i in (0, -1))
    return None if first == last else first < last


def _alike(one: Vote, other: Vote) -> list[bool]:
    """By pair of answers, whether both say the same of it."""
    a, b = one.ranking, other.ranking
    assert a is not None
    assert b is not None
    return [(a[i] < a[j], a[i] == a[j]) == (b[i] < b[j], b[i] == b[j]) for i, j in combinations(range(len(a)), 2)]
