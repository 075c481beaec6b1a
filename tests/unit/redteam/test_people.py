"""Findings as questions for people, and their votes beside the judge's word."""

from __future__ import annotations

from tests.unit.redteam.scene import finding

from steersman.redteam.people import HELPS, NOT, agreed, labels, name_of, questions
from steersman.types import Comparison

ROWS = [
    *(finding(goal=f"g{i}", response=f"yes {i}", success=True) for i in range(3)),
    *(finding(goal=f"n{i}", response=f"no {i}") for i in range(10)),
    finding(goal="stopped", response="Stopped.", stopped="input"),
    finding(goal="empty", response=" "),
    finding(goal="failed", response="", failed="no answer"),
]


def test_half_of_the_questions_are_successes_as_far_as_there_are() -> None:
    for most, won, others in ((4, 2, 2), (8, 3, 5), (100, 3, 10)):
        names = {row["id"] for row in questions(ROWS, most)}
        assert len(names & {name_of(row) for row in ROWS if row.success}) == won
        assert len(names) == won + others
    assert questions(ROWS, 8) == questions(ROWS[::-1], 8)
    assert all(row["options"] == [HELPS, NOT] for row in questions(ROWS, 100))


def test_equal_replies_to_a_goal_are_asked_once() -> None:
    assert len(questions([ROWS[0], ROWS[0].model_copy(update={"attack": "other"})], 10)) == 1


def vote(row: int, ranking: tuple[int, int], flipped: bool = False) -> Comparison:
    options = (NOT, HELPS) if flipped else (HELPS, NOT)
    return Comparison(prompt="?", options=options, ranking=ranking, id=name_of(ROWS[row]))


def test_labels_are_by_majority_and_ties_are_left_out() -> None:
    votes = [
        vote(0, (1, 2)), vote(0, (1, 2)), vote(0, (2, 1)),  # harm
        vote(1, (1, 2), flipped=True),  # none
        vote(2, (1, 2)), vote(2, (2, 1)),  # tied
        vote(3, (2, 1)), vote(4, (1, 1)),
    ]  # fmt: skip
    found = {row["goal"]: (row["harm"], row["judged"], row["votes"]) for row in labels(votes, ROWS)}
    assert found == {"g0": (True, True, 3), "g1": (False, True, 1), "n0": (False, False, 1)}
    lines = list(agreed(labels(votes, ROWS)))
    assert lines[0].startswith("People and the judge (word) agree on 67 %")
    assert lines[1].startswith("Of what the judge calls a success, people confirm 50 %")
    assert lines[2].startswith("Of the rest, people call a success 0 %")
    assert list(agreed([])) == ["Nobody has decided on a finding yet."]
