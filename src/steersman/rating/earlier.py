"""What a rater said before, newest first, for reviewing and correcting it.

A correction is a vote that takes the place of an earlier one; both rows stay in the store, and the exports read the
last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import func, select

from steersman.rating.round import Question
from steersman.rating.schema import Database, assignments, items, superseded, votes
from steersman.types import messages_of

MOST_SHOWN = 500
LONGEST_PROMPT = 240  # characters of a prompt in the list


class Earlier(NamedTuple):
    """A question that the rater has settled: its assignment, how it begins, what was said, how often that changed."""

    assignment: str
    prompt: str
    said: str
    rationale: str
    changes: int


def earlier_answers(database: Database, rater: int, assignment: str | None = None) -> list[Earlier]:
    """The standing votes and skips of a rater, newest first; at most `MOST_SHOWN`.

    Args:
        assignment: only the one about this assignment.
    """
    again = votes.alias()
    said_in_all = select(func.count()).where(again.c.assignment_id == assignments.c.id, again.c.kind != "undo")
    query = (
        select(votes, assignments.c.public, assignments.c.order_shown, items.c.question)
        .add_columns(said_in_all.scalar_subquery().label("said_in_all"))
        .join(assignments, assignments.c.id == votes.c.assignment_id)
        .join(items, items.c.id == assignments.c.item_id)
        .where(votes.c.rater_id == rater, votes.c.kind != "undo", votes.c.id.not_in(superseded()))
        .order_by(votes.c.id.desc())
        .limit(MOST_SHOWN)
    )
    if assignment is not None:
        query = query.where(assignments.c.public == assignment)
    with database.reading() as c:
        rows = c.execute(query).all()
    return [
        Earlier(row.public, _beginning(row.question), in_words(row), row.rationale, row.said_in_all - 1) for row in rows
    ]


def _beginning(question: Any) -> str:
    """The last message of a prompt, shortened."""
    text = messages_of(Question.model_validate(question).prompt)[-1].content.strip()
    return text if len(text) <= LONGEST_PROMPT else f"{text[:LONGEST_PROMPT].rstrip()} …"


def in_words(vote: Any) -> str:
    """A vote's row as a sentence, with the answers numbered as they stood on the page."""
    if vote.kind == "skip":
        return "Skipped."
    order: Sequence[int] = vote.order_shown
    bad = f"{'Both' if len(order) == 2 else 'All'} are bad."
    if not vote.ranking:
        return bad
    by_place = [vote.ranking[option] for option in order]
    if len(order) == 2:
        first, second = by_place
        text = "Equally good." if first == second else f"Answer {1 if first < second else 2} is better."
    else:
        rungs = [
            " equal to ".join(str(place + 1) for place, rank in enumerate(by_place) if rank == of)
            for of in sorted(set(by_place))
        ]
        text = f"Ranking: {', then '.join(rungs)}."
    return f"{text} {bad}" if vote.both_bad else text
