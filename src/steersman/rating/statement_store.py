"""The state of a conversation on statements: the statements, what a participant is shown, and append-only votes.

An undone vote keeps its row, and a row without a vote names it; a corrected one keeps its row too. Statements and votes
of participants who withdrew stay in the store and are left out of everything that is read from it.
"""

from __future__ import annotations

import math
import random
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, Row, delete, exists, func, insert, or_, select, update

from steersman.errors import UserError
from steersman.rating.schema import (
    Database,
    conversations,
    open_database,
    raters,
    shown_statements,
    statement_votes,
    statements,
)
from steersman.rating.statement_round import Decision, StatementRound, StatementVote, tidy
from steersman.rating.store import RaterProgress, Refused, check_settings, check_version
from steersman.store import sha256_text

VERSION = 1


class ShownStatement(NamedTuple):
    """A statement as a participant may see it, without its author."""

    assignment: str
    text: str


class StoredStatement(NamedTuple):
    """A statement as the administrator sees it."""

    id: int
    public: str
    text: str
    author: int | None
    decision: Decision
    written_at: float


class StoredBallot(NamedTuple):
    """A vote that stands."""

    rater: int
    statement: int
    vote: int
    seconds: float | None
    voted_at: float


class Ballots(NamedTuple):
    """The standing votes on accepted statements: ``votes`` [raters, statements] of 1, -1, 0, and NaN for not seen."""

    raters: tuple[int, ...]
    statements: tuple[StoredStatement, ...]
    votes: NDArray[np.float64]


class StatementStore:
    """The statements and votes of one conversation; thread-safe.

    Args:
        where: a file, or a database URL.
    """

    def __init__(self, where: str | Path) -> None:
        self.database: Database = open_database(where)
        self.where = str(where)
        with self.database.reading() as c:
            known = c.execute(select(conversations)).first()
        if known is not None:
            do = "finish it with the Steersman that began it"
            check_version("the conversation", known.version, VERSION, self.where, do)
        self._round = StatementRound.model_validate(known.settings) if known is not None else None

    @property
    def round(self) -> StatementRound:
        """The settings.

        Raises:
            UserError: no conversation has begun.
        """
        if self._round is None:
            do = "steersman rate statements FILE --to FOLDER"
            raise UserError("no conversation has begun here", where=self.where.split("@")[-1], do=do)
        return self._round

    @property
    def begun(self) -> bool:
        """Whether a conversation has begun."""
        return self._round is not None

    def begin(self, settings: StatementRound, texts: Sequence[str]) -> int:
        """Begin the conversation, or continue it; returns the number of new statements, which are accepted at once.

        Raises:
            UserError: it was begun with other settings, or there is no statement.
        """
        do = "leave these settings out to go on, or begin another one in a folder of its own"
        check_settings("this conversation", self._round, settings, self.where, do)
        with self.database.writing() as c:
            if self._round is None:
                values = {"id": 1, "version": VERSION, "settings": settings.model_dump(mode="json")}
                c.execute(insert(conversations).values(**values, begun_at=time.time()))
            known = set(c.scalars(select(statements.c.digest)))
            fresh = {digest: text for text in map(tidy, texts) if (digest := _digest(text)) not in known}
            for digest, text in fresh.items():
                _add(c, digest, text, None, "accepted")
            if not known and not fresh:
                raise UserError("there is no statement to vote on", do="give a file with a statement a line")
        self._round = settings
        return len(fresh)

    # what is shown ──────────────────────────────────────────────────────────────────────────────────────────────────
    def next_statement(self, rater: int, weights: Mapping[int, float]) -> ShownStatement | None:
        """The statement that this participant has on the screen, else a new one; None when there is none left.

        Args:
            weights: the chance of each statement, up to a factor; the largest of them for those that are not there.
        """
        with self.database.writing(durable=False) as c:
            row = _on_screen(c, rater)
            if row is not None:
                return ShownStatement(row.public, row.text)
            said = select(statement_votes.c.statement_id).where(_standing(), statement_votes.c.rater_id == rater)
            query = (
                select(statements).where(_under_discussion(), statements.c.id.not_in(said)).order_by(statements.c.id)
            )
            left = c.execute(query).all()
            if not left:
                return None
            number = c.scalar(select(func.count()).where(statement_votes.c.rater_id == rater))
            draw = random.Random(f"statement {self.round.seed} {rater} {number}")
            otherwise = max(weights.values(), default=1.0)
            chosen = draw.choices(left, [max(weights.get(row.id, otherwise), 1e-12) for row in left])[0]
            _show(c, rater, chosen.id)
            return ShownStatement(chosen.public, chosen.text)

    def progress(self, rater: int) -> RaterProgress:
        """The numbers of statements that this participant has voted on and may still vote on."""
        own = select(statement_votes.c.statement_id).where(_standing(), statement_votes.c.rater_id == rater)
        open_ones = select(func.count()).select_from(statements).where(_under_discussion())
        with self.database.reading() as c:
            done = c.scalar(open_ones.where(statements.c.id.in_(own))) or 0
            return RaterProgress(done, (c.scalar(open_ones) or 0) - done)

    def voted(self, rater: int, public: str | None = None) -> list[tuple[ShownStatement, int, int]]:
        """What a participant said, newest first: the statement, the vote, and how often it was changed before."""
        query = (
            select(statements.c.id, statements.c.public, statements.c.text, statement_votes.c.vote)
            .join(statement_votes, statement_votes.c.statement_id == statements.c.id)
            .where(_standing(), _under_discussion(), statement_votes.c.rater_id == rater)
            .order_by(statement_votes.c.id.desc())
        )
        if public is not None:
            query = query.where(statements.c.public == public)
        times = (
            select(statement_votes.c.statement_id, func.count().label("number"))
            .where(statement_votes.c.rater_id == rater, statement_votes.c.vote.is_not(None))
            .group_by(statement_votes.c.statement_id)
        )
        with self.database.reading() as c:
            said = {row.statement_id: row.number for row in c.execute(times)}
            return [(ShownStatement(row.public, row.text), row.vote, said[row.id] - 1) for row in c.execute(query)]

    # votes ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    def vote(self, rater: int, body: StatementVote) -> bool:
        """Store a vote durably; returns False if the same submission was stored before.

        Raises:
            Refused: the statement is not on this participant's screen, or was voted on already.
        """
        with self.database.writing() as c:
            if self._is_duplicate(c, rater, body.submission, body.digest):
                return False
            wanted = select(statements).where(statements.c.public == body.assignment, _under_discussion())
            row = c.execute(wanted).first()
            if row is None:
                raise Refused("This statement is not under discussion.", status=404)
            own = (statement_votes.c.rater_id == rater, statement_votes.c.statement_id == row.id)
            before = c.scalar(select(statement_votes.c.id).where(*own, _standing()))
            if before is not None and not body.corrects:
                raise Refused("You have voted on this statement already, perhaps in another tab. That vote stands.")
            shown = _on_screen(c, rater)
            if before is None and (shown is None or shown.id != row.id):
                raise Refused("Another statement is on your screen now.")
            said = {"submission": body.submission, "digest": body.digest, "vote": body.vote, "seconds": body.visible_s}
            values = {**said, "rater_id": rater, "statement_id": row.id, "supersedes": before}
            c.execute(insert(statement_votes).values(**values, voted_at=time.time()))
            if before is None:
                c.execute(delete(shown_statements).where(shown_statements.c.rater_id == rater))
            return True

    def undo(self, rater: int, submission: str) -> bool:
        """Undo the participant's last vote and show its statement again; False if there is none left.

        Raises:
            Refused: this submission's name was used before.
        """
        with self.database.writing() as c:
            if self._is_duplicate(c, rater, submission, "undo"):
                return True
            own = select(statement_votes).where(statement_votes.c.rater_id == rater, _standing())
            last = c.execute(own.order_by(statement_votes.c.id.desc())).first()
            if last is None:
                return False
            values = {"submission": submission, "digest": "undo", "rater_id": rater, "statement_id": last.statement_id}
            c.execute(insert(statement_votes).values(**values, supersedes=last.id, voted_at=time.time()))
            _show(c, rater, last.statement_id)
            return True

    def _is_duplicate(self, c: Connection, rater: int, submission: str, digest: str) -> bool:
        own = (statement_votes.c.rater_id == rater, statement_votes.c.submission == submission)
        known = c.scalar(select(statement_votes.c.digest).where(*own))
        if known is not None and known != digest:
            raise Refused("This submission was sent before with another content. The first one stands.")
        return known is not None

    # statements ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def propose(self, rater: int, text: str) -> None:
        """Add a statement, which waits for the moderator.

        Raises:
            Refused: it is there already, or this participant has added enough.
        """
        digest = _digest(text)
        with self.database.writing() as c:
            if c.scalar(select(statements.c.id).where(statements.c.digest == digest)) is not None:
                raise Refused("This statement was written before.")
            written = c.scalar(select(func.count()).select_from(statements).where(statements.c.author_id == rater)) or 0
            if written >= self.round.proposals:
                raise Refused(f"You have added {written} statements, and more are not taken from one person.")
            _add(c, digest, text, rater, "waiting")

    def moderate(self, statement: int, decision: Decision) -> bool:
        """Accept or reject a statement; False if there is no such one. The votes on a rejected one stay, unread."""
        with self.database.writing() as c:
            chosen = update(statements).where(statements.c.id == statement)
            return c.execute(chosen.values(decision=decision, decided_at=time.time())).rowcount == 1

    def statements(self, rater: int | None = None) -> list[StoredStatement]:
        """All statements but those of participants who withdrew, or those that one participant added."""
        query = select(statements).where(_not_withdrawn()).order_by(statements.c.id)
        if rater is not None:
            query = query.where(statements.c.author_id == rater)
        with self.database.reading() as c:
            return [
                StoredStatement(row.id, row.public, row.text, row.author_id, row.decision, row.written_at)
                for row in c.execute(query)
            ]

    # reading ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def standing(self) -> list[StoredBallot]:
        """The standing votes on accepted statements, in the order in which they came."""
        query = (
            select(statement_votes)
            .join(statements, statements.c.id == statement_votes.c.statement_id)
            .join(raters, raters.c.id == statement_votes.c.rater_id)
            .where(_standing(), _under_discussion(), raters.c.withdrawn_at.is_(None))
            .order_by(statement_votes.c.id)
        )
        with self.database.reading() as c:
            rows = c.execute(query).all()
        return [StoredBallot(row.rater_id, row.statement_id, row.vote, row.seconds, row.voted_at) for row in rows]

    def ballots(self) -> Ballots:
        """The standing votes as a matrix; participants in the order of their first vote."""
        cast = self.standing()
        accepted = tuple(statement for statement in self.statements() if statement.decision == "accepted")
        row_of = {rater: place for place, rater in enumerate(dict.fromkeys(ballot.rater for ballot in cast))}
        column_of = {statement.id: place for place, statement in enumerate(accepted)}
        votes = np.full((len(row_of), len(column_of)), math.nan)
        for ballot in cast:
            if ballot.statement in column_of:  # it may have been rejected since
                votes[row_of[ballot.rater], column_of[ballot.statement]] = ballot.vote
        return Ballots(tuple(row_of), accepted, votes)

    def last_change(self) -> tuple[float, ...]:
        """A mark that changes with every vote, every decision about a statement, and whoever withdraws."""
        marks = (statement_votes.c.id, statements.c.decided_at, raters.c.withdrawn_at)
        with self.database.reading() as c:
            return tuple(c.scalar(select(func.max(mark))) or 0.0 for mark in marks)


def _digest(text: str) -> str:
    return sha256_text(text.casefold().rstrip(".!"))


def _add(c: Connection, digest: str, text: str, author: int | None, decision: Decision) -> None:
    now = time.time()
    values = {"public": secrets.token_urlsafe(12), "digest": digest, "text": text, "author_id": author}
    decided = None if decision == "waiting" else now
    c.execute(insert(statements).values(**values, decision=decision, written_at=now, decided_at=decided))


def _not_withdrawn() -> ColumnElement[bool]:
    gone = select(raters.c.id).where(raters.c.withdrawn_at.is_not(None))
    return or_(statements.c.author_id.is_(None), statements.c.author_id.not_in(gone))


def _under_discussion() -> ColumnElement[bool]:
    return (statements.c.decision == "accepted") & _not_withdrawn()


def _standing() -> ColumnElement[bool]:
    later = statement_votes.alias()
    return statement_votes.c.vote.is_not(None) & ~exists().where(later.c.supersedes == statement_votes.c.id)


def _on_screen(c: Connection, rater: int) -> Row[tuple[object, ...]] | None:
    """The statement that a participant was shown last and has not voted on, if it is still under discussion."""
    query = select(statements).join(shown_statements, shown_statements.c.statement_id == statements.c.id)
    return c.execute(query.where(shown_statements.c.rater_id == rater, _under_discussion())).first()


def _show(c: Connection, rater: int, statement: int) -> None:
    c.execute(delete(shown_statements).where(shown_statements.c.rater_id == rater))
    c.execute(insert(shown_statements).values(rater_id=rater, statement_id=statement, shown_at=time.time()))
