"""Rules that read how much: approval, the mean of standardised utilities, max-min and Nash welfare.

`approval` reads what each person thinks, the others what each group does (`GroupUtilities`): its mean rating, or what
Bradley-Terry learns from its votes. A scale has no meaning across groups: one that uses the ends of a rating scale, or
whose votes are less noisy, has larger numbers and no larger stake. So the mean and max-min **standardise** each group's
utilities first (mean 0, deviation 1 over the alternatives), as one must where a reward model stands for a group
(MaxMin-RLHF, Chakraborty et al. 2024, arXiv:2402.08925, does not: there the smaller scale decides). What standardising
costs: it depends on the set of alternatives, so one that nobody would choose can change who wins, and a group that
hardly cares has as large a say as one that cares a lot.

Sen 1970, Collective Choice and Social Welfare; Moulin 2003, Fair Division and Collective Welfare, ch. 3.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from steersman.errors import DataError
from steersman.values.aggregate import (
    FEWEST,
    TIE,
    Array,
    Choice,
    GroupUtilities,
    Ratings,
    Votes,
    by_score,
    enough,
    pairwise,
)
from steersman.values.bradley_terry import RIDGE, bradley_terry


def utilities_of_votes(votes: Votes, ridge: float = RIDGE, fewest: int = FEWEST) -> GroupUtilities:
    """A Bradley-Terry score of each alternative for each group, in nats; ``people`` counts those who voted.

    Args:
        ridge: as of `bradley_terry`; fewest: a group with fewer people is named in ``too_small`` and left out.

    Raises:
        DataError: no group is large enough, or nobody in a group compared one of the alternatives.
    """
    values, kept, people, small = [], [], [], []
    for index, group in enumerate(votes.groups):
        mine = int((votes.group == index).sum())
        if mine < fewest:
            small.append((group, mine))
            continue
        own = pairwise(votes, group)
        seen = (own.weights + own.weights.T).sum(1) > 0
        if not seen.all():
            raise DataError(
                f"nobody in group {group!r} compared {own.alternatives[int(np.argmin(seen))]!r}",
                expected="each group compares each alternative",
                do="leave out the alternative, or join the group with another",
            )
        values.append(bradley_terry(own, ridge).scores)
        kept.append(group)
        people.append(float(mine))
    enough(kept, small, fewest)
    return GroupUtilities(votes.alternatives, tuple(kept), np.array(values), np.array(people), tuple(small))


def standardised(values: Array) -> Array:
    """Mean 0 and standard deviation 1 over the last axis; zeros where all are equal: who is indifferent has no say."""
    centred = values - values.mean(-1, keepdims=True)
    spread = centred.std(-1, keepdims=True)
    some = spread > TIE * np.abs(values).max(-1, keepdims=True, initial=0.0)
    return np.asarray(np.where(some, centred / np.where(some, spread, 1.0), 0.0))


def approval(ratings: Ratings, at_least: float) -> Choice:
    """The share of people, by weight, whose rating is ``at_least`` so much, of those who rated the alternative.

    Brams & Fishburn 1978. Meets monotone, clones (if clones are approved alike) and participation, and a weak Pareto:
    what everybody likes less may tie. Fails Condorcet: it does not see the order among the approved. The threshold is
    on everybody's own scale: to rescale one person's ratings may change who wins.

    Raises:
        DataError: nobody rated one of the alternatives.
    """
    said = ~np.isnan(ratings.values)
    mass = ratings.weight @ said
    if not mass.all():
        raise DataError(f"nobody rated {ratings.alternatives[int(np.argmin(mass > 0))]!r}", do="leave it out")
    yes = ratings.weight @ (np.where(said, ratings.values, -np.inf) >= at_least)
    return by_score("approval", ratings.alternatives, yes / mass)


def mean_utility(utilities: GroupUtilities, standardise: bool = True) -> Choice:
    """The mean of the groups' standardised utilities, each group with the weight of its people. Utilitarian.

    Meets monotone, Pareto and participation (of groups whose standardised utilities are known). Fails Condorcet: a
    minority that cares may outweigh a majority. Clones of an alternative change the standardisation and may change who
    wins. Invariant to each group's own positive affine rescaling; without ``standardise``, only to a shift of each
    group's and one common rescaling.
    """
    values = standardised(utilities.values) if standardise else utilities.values
    return by_score("mean_utility", utilities.alternatives, utilities.people @ values / utilities.people.sum())


def max_min(utilities: GroupUtilities, standardise: bool = True) -> Choice:
    """The alternative whose worst-off group is best off; ties by the next worst-off, and so on (leximin).

    Rawls 1971; the tie-break Sen 1970. The score is the worst group's utility; `Choice.order` has the tie-break. The
    sizes of groups do not count: many small groups have many vetoes, and so has whoever splits one.

    Meets Pareto (by the tie-break) and monotone; fails Condorcet and participation, and clones through the
    standardisation. Invariant to each group's own positive affine rescaling; without ``standardise`` the group with the
    smallest scale decides, and only one common increasing transformation changes nothing.
    """
    values = standardised(utilities.values) if standardise else utilities.values
    worst_first = np.sort(values, axis=0)  # [G, K]
    near = TIE * max(1e-300, float(np.ptp(values)))
    stages = np.round(worst_first / near) if near > 1e-300 else np.zeros_like(worst_first)
    order = np.lexsort(-stages[::-1])
    tied: list[list[int]] = []
    for i in order.tolist():
        if tied and (stages[:, tied[-1][0]] == stages[:, i]).all():
            tied[-1].append(i)
        else:
            tied.append([i])
    return Choice("max_min", utilities.alternatives, worst_first[0], tuple(tuple(sorted(t)) for t in tied))


def nash_welfare(utilities: GroupUtilities, status_quo: Mapping[str, float]) -> Choice:
    """The weighted mean of log gains over what each group has without agreement; minus infinity if one gains nothing.

    Nash 1950, weighted by people (Kalai 1977). Meets Pareto among the alternatives from which all gain, and is
    invariant to each group's own positive rescaling, if its status quo is rescaled too; no other alternative changes
    an alternative's score, so clones change nothing. Fails Condorcet. All depends on the status quo: for models it is
    the utility of the raw model's answers.

    Args:
        status_quo: each group's utility without agreement, on that group's scale.

    Raises:
        DataError: a group has none, or no alternative is a gain for all.
    """
    missing = [group for group in utilities.groups if group not in status_quo]
    if missing:
        raise DataError(f"group {missing[0]!r} has no status quo", expected="one for each group")
    gains = utilities.values - np.array([status_quo[group] for group in utilities.groups])[:, None]
    gainful = (gains > 0).all(0)
    if not gainful.any():
        raise DataError(
            "no alternative leaves every group better off than the status quo",
            do="use `max_min`, which needs no status quo, or lower what a group has without agreement",
        )
    logs = np.log(np.where(gains > 0, gains, 1.0))
    means = utilities.people @ logs / utilities.people.sum()
    return by_score("nash_welfare", utilities.alternatives, np.where(gainful, means, -np.inf))
