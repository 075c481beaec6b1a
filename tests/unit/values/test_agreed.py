"""What all groups carry, and why the rest is not taken."""

from __future__ import annotations

import numpy as np

from steersman.values.agreed import verdicts
from steersman.values.opinion_groups import Tallies


def tallies(*statements: tuple[tuple[int, int, int], tuple[int, int, int]]) -> Tallies:
    """Of two groups, (agrees, disagrees, seen) by statement."""
    table = np.array(statements)  # [statements, groups, 3]
    return Tallies(*(table[:, :, column].T for column in range(3)))


def test_every_group_carries_what_is_taken() -> None:
    found = verdicts(
        tallies(
            ((90, 5, 100), (9, 1, 10)),  # both agree
            ((990, 5, 1000), (2, 8, 10)),  # 98 % of all votes, and one group against
            ((90, 5, 100), (4, 0, 4)),  # too few were asked
            ((90, 5, 100), (6, 4, 10)),  # no clear majority
            ((65, 30, 100), (70, 20, 100)),  # clear and not high
        ),
        ["A", "B"],
    )
    why = {one.statement: one.why for one in found}
    assert why == {
        0: "",
        1: "group B rejects it (8 of 10 disagree)",
        2: "group B has 4 vote(s) on it, fewer than 5",
        3: "group B does not clearly agree (6 of 10)",
        4: f"group-aware consensus {(66 / 102 * 71 / 102) ** 0.5:.2f}, below 0.75",
    }
    assert [one.consensus for one in found] == sorted((one.consensus for one in found), reverse=True)
    lower = {
        one.statement: one.why for one in verdicts(tallies(((65, 30, 100), (70, 20, 100))), ["A", "B"], consensus=0.6)
    }
    assert lower == {0: ""}
