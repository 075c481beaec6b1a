"""The votes of a round, read from the store: all that were not undone, as rows for training and evaluation.

Raters are numbers here (``rater-3``); their names stay in the store. Votes of raters who withdrew are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import select

from steersman.rating.round import Arm, Question
from steersman.rating.schema import Database, assignments, items, raters, superseded, votes
from steersman.types import Comparison, Demonstration


class StoredVote(NamedTuple):
    """A vote that was not undone, with its question."""

    id: int
    item: int
    question: Question
    rater: int
    group: str
    arm: Arm
    order_shown: tuple[int, ...]
    kind: str  # vote or skip
    ranking: tuple[int, ...] | None
    both_bad: bool
    per_principle: dict[str, tuple[int, ...]]
    rationale: str
    edited_option: int | None
    edited_text: str | None
    seconds: float
    late: bool
    shown_at: float
    answered_at: float

    def comparison(self) -> Comparison | None:
        """As a training row; None for a skip."""
        if self.kind != "vote":
            return None
        return Comparison(
            prompt=self.question.prompt,
            options=self.question.options,
            ranking=self.ranking,
            both_bad=self.both_bad,
            order_shown=self.order_shown,
            rater=f"rater-{self.rater}",
            group=self.group,
            seconds=round(self.seconds, 2),
            per_principle=self.per_principle,
            rationale=self.rationale,
            principles=self.question.principles,
            topic=self.question.topic,
            id=self.question.id,
            tags=(f"arm:{self.arm}", *(("late",) if self.late else ())),
            source="human",
        )

    def demonstration(self) -> Demonstration | None:
        """The answer that the rater edited, if any."""
        if self.edited_text is None or self.kind != "vote":
            return None
        return Demonstration(
            prompt=self.question.prompt,
            completion=self.edited_text,
            principles=self.question.principles,
            topic=self.question.topic,
            id=self.question.id,
            author=f"rater-{self.rater}",
            source="human",
        )


def read_votes(database: Database, questions: dict[int, Question], rater: int | None = None) -> list[StoredVote]:
    """All votes and skips that were not undone, in the order in which they came.

    Args:
        questions: a cache by item, to which the questions of other items are added.
        rater: only this rater's votes.
    """
    query = (
        select(votes, assignments, items.c.question, raters.c.grp)
        .join(assignments, assignments.c.id == votes.c.assignment_id)
        .join(items, items.c.id == assignments.c.item_id)
        .join(raters, raters.c.id == votes.c.rater_id)
        .where(votes.c.kind != "undo", votes.c.id.not_in(superseded()), raters.c.withdrawn_at.is_(None))
        .order_by(votes.c.id)
    )
    if rater is not None:
        query = query.where(votes.c.rater_id == rater)
    with database.reading() as c:
        rows = c.execute(query).all()
    for row in rows:
        if row.item_id not in questions:
            questions[row.item_id] = Question.model_validate(row.question)
    return [
        StoredVote(
            id=row.id,
            item=row.item_id,
            question=questions[row.item_id],
            rater=row.rater_id,
            group=row.grp,
            arm=row.arm,
            order_shown=tuple(row.order_shown),
            kind=row.kind,
            ranking=tuple(row.ranking) if row.ranking else None,
            both_bad=row.both_bad,
            per_principle={name: tuple(ranks) for name, ranks in row.per_principle.items()},
            rationale=row.rationale,
            edited_option=row.edited_option,
            edited_text=row.edited_text,
            seconds=max(0.0, row.seconds),  # stores of earlier versions hold times below 0
            late=row.late,
            shown_at=row.shown_at,
            answered_at=row.answered_at,
        )
        for row in rows
    ]


def comparisons(votes: list[StoredVote]) -> list[Comparison]:
    """The votes as rows, after one ``gold`` row without a rater, the key, for every gold question answered."""
    gold = {vote.item: vote.question for vote in votes if vote.question.gold}
    keys = [
        Comparison(
            prompt=question.prompt,
            options=question.options,
            ranking=question.gold,
            gold=True,
            principles=question.principles,
            topic=question.topic,
            id=question.id,
            source="authored",
        )
        for question in gold.values()
    ]
    return keys + [row for vote in votes if (row := vote.comparison()) is not None]


def arms(rows: Sequence[Comparison]) -> list[str]:
    """The arm that chose each row's question, from its tags; empty for the key of a gold question."""
    return [next((tag[4:] for tag in row.tags if tag.startswith("arm:")), "") for row in rows]


def demonstrations(votes: list[StoredVote]) -> list[Demonstration]:
    """The answers that raters edited."""
    return [row for vote in votes if (row := vote.demonstration()) is not None]
