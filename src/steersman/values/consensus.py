"""Group-aware consensus: statements that every opinion group agrees with, as in Polis.

    P_g(agree, c) = (1 + agrees of g) / (2 + people of g who saw c)        score_c = (prod_g P_g)^(1 / G)

Polis (Small et al. 2021, "Polis: Scaling deliberation by mapping high dimensional opinion spaces") ranks by the
product. The geometric mean has the same order and does not fall with the number of groups, so that scores of different
rounds can be compared. A pass is a vote that was seen. What a group has not seen counts as 1/2.

Axioms: monotone; Pareto (what each group agrees with more has the higher score); clones change nothing, since no
statement's score depends on another's. Groups' sizes do not matter but for the smoothing, so one large group cannot
outvote a small one: that is the point, and it fails Condorcet. Invariant to the number of people in a group at the same
shares, up to the smoothing. Found groups (k-means of the votes) are part of the outcome; people without a group do not
count.
"""

from __future__ import annotations

import numpy as np

from steersman.errors import DataError
from steersman.values.aggregate import Array, Choice, Ratings, by_score


def agreement(ratings: Ratings) -> Array:
    """[G, K], the smoothed share of each group that agrees with each statement.

    Args:
        ratings: votes of 1 (agree), 0 (pass) and -1 (disagree), NaN where one did not see it.

    Raises:
        DataError: there is no group, or a vote is another number.
    """
    votes = ratings.values
    if not (np.isnan(votes) | np.isin(votes, (-1.0, 0.0, 1.0))).all():
        raise DataError("a vote on a statement is neither 1, 0 nor -1", expected="agree 1, pass 0, disagree -1")
    if not ratings.groups:
        raise DataError("there are no groups", do="find them by the votes first (`values.opinion_groups`)")
    shares = []
    for index in range(len(ratings.groups)):
        mine = votes[ratings.group == index]
        shares.append((1 + (mine == 1).sum(0)) / (2 + (~np.isnan(mine)).sum(0)))
    return np.array(shares, dtype=np.float64)


def group_aware_consensus(ratings: Ratings) -> Choice:
    """The geometric mean over groups of `agreement`, in (0, 1)."""
    shares = agreement(ratings)
    return by_score("group_aware_consensus", ratings.alternatives, np.exp(np.log(shares).mean(0)))
