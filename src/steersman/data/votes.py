"""Votes put side by side: where options were shown, who said what of the same two answers, who was right about gold.

A vote is a `Comparison` with a ``rater``. Options are compared by their text, never by the place where they were
shown: a shuffled display would make agreement look like chance.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from steersman.types import Comparison, Text


class Pair(NamedTuple):
    """A prompt and two of its answers, in the order of their texts: the same for everybody who judged them."""

    prompt: Text
    first: str
    second: str


class Order(NamedTuple):
    """What the row with this index says of a `Pair`: 1 the first answer is better, -1 the second, 0 a tie."""

    row: int
    rater: str
    said: int


def places(row: Comparison) -> tuple[float, ...]:
    """By option, 1/2 for the one shown first to -1/2 for the last; 0 where nobody knows."""
    if row.order_shown is None:
        return (0.0,) * len(row.options)
    return tuple(0.5 - row.order_shown.index(i) / (len(row.options) - 1) for i in range(len(row.options)))


def orders(rows: Sequence[Comparison]) -> dict[Pair, list[Order]]:
    """Everything that rows say of any two answers, ties too; rows that order nothing are in none."""
    found: dict[Pair, list[Order]] = defaultdict(list)
    for index, row in enumerate(rows):
        ranked = zip(row.ranks(), row.options, strict=False)  # no ranks, no pairs
        for (rank, text), (other_rank, other) in itertools.combinations(ranked, 2):
            said = (other_rank > rank) - (other_rank < rank)
            pair = Pair(row.prompt, text, other) if text < other else Pair(row.prompt, other, text)
            found[pair].append(Order(index, row.rater, said if text < other else -said))
    return dict(found)


def right_about_gold(rows: Sequence[Comparison]) -> dict[str, list[float]]:
    """By rater, of each answer to a gold question the share of the known pairs that it put in the right order.

    Rows with ``gold`` are the key; what raters say of the same prompt and options is measured by it. Raters who were
    asked no gold question have an empty list.
    """
    gold = {question(row): _pairs(row) for row in rows if row.gold}
    said: dict[str, list[float]] = {row.rater: [] for row in rows if row.rater and not row.gold}
    for row in rows:
        known = gold.get(question(row))
        if known and not row.gold and row.rater:
            said[row.rater].append(len(known & _pairs(row)) / len(known))
    return said


def prior_trust(rows: Sequence[Comparison]) -> dict[str, float]:
    """The centre of each rater's trust: half the logit of his smoothed share of right answers to gold questions.

    1 for a rater who was asked none, which believes him.
    """
    smoothed = {rater: (sum(right) + 1) / (len(right) + 2) for rater, right in right_about_gold(rows).items() if right}
    raters = {row.rater for row in rows if row.rater and not row.gold}
    return {rater: 0.5 * math.log(s / (1 - s)) if (s := smoothed.get(rater)) else 1.0 for rater in sorted(raters)}


def question(row: Comparison) -> tuple[Text, frozenset[str]]:
    """What was asked, however it was shown."""
    return row.prompt, frozenset(row.options)


def _pairs(row: Comparison) -> set[tuple[str, str]]:
    return {(pair.better, pair.worse) for pair in row.pairs()}
