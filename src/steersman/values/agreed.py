"""Which statements all opinion groups carry, and why the others do not.

A statement is carried if, in every group, enough people voted on it and more than half agree (one-proportion z test at
90 %, as Polis tests it), and if the geometric mean of the groups' smoothed agreement reaches the threshold. The plain
share of all votes plays no part: a large group alone carries nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from steersman.values.opinion_groups import Z_90, Tallies, share_test

CONSENSUS = 0.75  # geometric mean of the groups' smoothed agreement
FEWEST_VOTES = 5  # of every group


class Verdict(NamedTuple):
    """What becomes of a statement; ``why`` it is not carried is empty if it is."""

    statement: int
    consensus: float
    why: str


def verdicts(
    tallies: Tallies, names: list[str], *, consensus: float = CONSENSUS, fewest: int = FEWEST_VOTES
) -> list[Verdict]:
    """A verdict on every statement, the highest consensus first.

    Args:
        names: of the groups.
        consensus: the least geometric mean of the groups' smoothed agreement.
        fewest: votes of every group.
    """
    mean, z = tallies.mean_consensus, share_test(tallies.agrees, tallies.seen)
    z_against = share_test(tallies.disagrees, tallies.seen)
    found = []
    for statement in np.argsort(-mean, kind="stable"):
        seen, agrees, against = (table[:, statement] for table in (tallies.seen, tallies.agrees, tallies.disagrees))
        why = []
        for group, name in enumerate(names):
            if seen[group] < fewest:
                why.append(f"group {name} has {seen[group]} vote(s) on it, fewer than {fewest}")
            elif z_against[group, statement] > Z_90:
                why.append(f"group {name} rejects it ({against[group]} of {seen[group]} disagree)")
            elif z[group, statement] <= Z_90:
                why.append(f"group {name} does not clearly agree ({agrees[group]} of {seen[group]})")
        if not why and mean[statement] < consensus:
            why.append(f"group-aware consensus {mean[statement]:.2f}, below {consensus:g}")
        found.append(Verdict(int(statement), float(mean[statement]), "; ".join(why)))
    return found
