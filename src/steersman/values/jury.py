"""A chosen jury: whose voices decide is said beforehand, by group. Jury learning, Gordon et al. 2022 (CHI).

A composition says how many jurors of which group. Many juries are drawn; each juror says what they think of each
alternative; a jury's verdict is their mean (or median), and the outcome is the median over juries, as in the paper
(100 juries of 12). What differs: the paper predicts each annotator's label by a model, from text and person; here a
juror's rating is what they said, or what a model of theirs says (`train/`), in the same matrix.

Axioms of the outcome for a given composition: those of a mean (or median) of ratings: monotone, Pareto for the mean; no
Condorcet. Groups' sizes in the data do not matter, only the seats. Not invariant to a rescaling of one person's
ratings: all speak on one scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from steersman.errors import DataError
from steersman.stats import Estimate, wilson
from steersman.values.aggregate import Choice, Ratings, by_score

JURIES = 100
Verdict = Literal["mean", "median"]


def jury(
    ratings: Ratings, seats: Mapping[str, int], verdict: Verdict = "mean", juries: int = JURIES, seed: int = 0
) -> Choice:
    """The median over ``juries`` drawn juries of their verdict on each alternative.

    Args:
        seats: jurors by group; nobody sits twice on a jury.
        verdict: what a jury says, over its jurors' ratings.

    Raises:
        DataError: a group is unknown or has fewer people who rated everything than seats, or nobody has a seat.
    """
    complete = ~np.isnan(ratings.values).any(1)
    drawn = []
    generator = np.random.default_rng(seed)
    for group, count in seats.items():
        index = ratings.groups.index(group) if group in ratings.groups else -2
        pool = np.flatnonzero((ratings.group == index) & complete)
        if count > len(pool):
            raise DataError(
                f"{count} jurors of group {group!r} are wanted, and {len(pool)} of its people rated every alternative",
                expected=f"groups of the ratings: {list(ratings.groups)}",
                do="give the group fewer seats, or fill gaps by a model of each rater",
            )
        places = generator.random((juries, len(pool))).argsort(1)[:, :count]
        drawn.append(pool[places])
    if not sum(seats.values()):
        raise DataError("nobody has a seat in the jury", expected="at least one juror")
    said = ratings.values[np.concatenate(drawn, axis=1)]  # [juries, seats, K]
    verdicts = said.mean(1) if verdict == "mean" else np.median(said, axis=1)
    return by_score("jury", ratings.alternatives, np.median(verdicts, axis=0))


def flips(one: Choice, other: Choice, threshold: float) -> Estimate:
    """The share of alternatives on which two juries decide differently: yes is a score of at least ``threshold``.

    Of items that are judged one by one, as in the paper, where juries of another composition changed 14 % of outcomes.
    """
    changed = (one.scores >= threshold) != (other.scores >= threshold)
    return wilson(int(changed.sum()), len(changed))
