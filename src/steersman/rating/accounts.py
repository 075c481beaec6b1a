"""The raters of a round: invitations, sessions, consent, and the administrator's queries about their answers.

A link's token and a cookie's value are 256 random bits; the store keeps their sha256, so that a reader of the store
cannot act as a rater. A link is its rater's for the whole round, in any browser: opening it changes nothing until the
rater agrees, so that mail scanners use nothing up. A new link ends the old one with all its sessions.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Select, delete, insert, select, update

from steersman.errors import UserError
from steersman.rating.schema import (
    Database,
    assignments,
    items,
    queries,
    raters,
    replies,
    sessions,
    superseded,
    votes,
)
from steersman.rating.statements import QUERIES_TO_RATER, RATER_OF_SESSION
from steersman.store import sha256_text

LONGEST_NAME = 100
MOST_SESSIONS = 20  # of one rater: the oldest ends when there are more


def hashed(secret: str) -> str:
    """The sha256 under which a token or cookie is stored."""
    return sha256_text(secret.encode("utf-8", "replace").decode())


def check_name(name: str, group: str = "") -> tuple[str, str]:
    """A rater's name and group, stripped.

    Raises:
        UserError: the name is empty, or either is too long.
    """
    name, group = name.strip(), group.strip()
    if not name or max(len(name), len(group)) > LONGEST_NAME:
        raise UserError(
            f"the rater {name[:20]!r} has a name of {len(name)} characters and a group of {len(group)}",
            expected=f"a name of 1 to {LONGEST_NAME} characters, and a group of at most as many",
        )
    return name, group


def parse_names(names: Sequence[str]) -> list[tuple[str, str]]:
    """Names and groups, from ``NAME:GROUP`` or ``NAME``; all are checked before the first link is made.

    Raises:
        UserError: a name is there twice, empty or too long.
    """
    parsed = [check_name(name, group) for name, _, group in (word.partition(":") for word in names)]
    twice = [name for name, n in Counter(name for name, _ in parsed).items() if n > 1]
    if twice:
        raise UserError(f"the rater {twice[0]!r} is named twice", where="--rater", do="give every rater another name")
    return parsed


class RaterAccount(NamedTuple):
    """An invited rater. ``name`` is shown on the administrator's page alone."""

    id: int
    name: str
    group: str
    joined: bool
    withdrawn: bool
    revoked: bool


class Query(NamedTuple):
    """The administrator's question to the raters who answered an item."""

    id: int
    item: int
    text: str


class RaterAccounts:
    """The raters in a rating store's database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    # invitations ────────────────────────────────────────────────────────────────────────────────────────────────────
    def invite(self, name: str, group: str = "") -> str:
        """A new rater; returns the token of the link, which is stored nowhere.

        Raises:
            UserError: the name is empty, too long, or taken.
        """
        name, group = check_name(name, group)
        token = secrets.token_urlsafe(32)
        with self.database.writing() as c:
            if c.scalar(select(raters.c.id).where(raters.c.name == name)) is not None:
                raise UserError(f"there is a rater {name!r} already", do="choose another name, or give a new link")
            values = {"name": name, "grp": group, "invitation": sha256_text(token), "invited_at": time.time()}
            c.execute(insert(raters).values(**values))
        return token

    def invite_again(self, rater: int) -> str | None:
        """A new link for a rater, which ends the sessions and the old link; None if there is no such rater."""
        token = secrets.token_urlsafe(32)
        fresh = {"invitation": sha256_text(token), "session": None, "joined_at": None, "revoked_at": None}
        with self.database.writing() as c:
            allowed = update(raters).where(raters.c.id == rater, raters.c.withdrawn_at.is_(None))
            done = c.execute(allowed.values(**fresh))
            if done.rowcount == 1:
                end_sessions(c, rater)
        return token if done.rowcount == 1 else None

    def invited(self, token: str) -> RaterAccount | None:
        """The rater of a link, whether or not it may be used."""
        return self._account(select(raters).where(raters.c.invitation == hashed(token)))

    def join(self, token: str, consent: str | None) -> str | None:
        """Begin a session, at the first or any later use of a link; returns its secret.

        Args:
            consent: the text that the rater agreed to; None to go on after an earlier consent.

        Returns:
            None if there is no such link, if it was revoked or its rater withdrew, or if a consent is needed.
        """
        with self.database.writing() as c:
            row = c.execute(select(raters).where(raters.c.invitation == hashed(token))).first()
            return None if row is None else begin_session(c, row, consent)

    # sessions ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def of_session(self, session: str) -> RaterAccount | None:
        """The rater of a session's cookie."""
        return self._account(RATER_OF_SESSION, a_session=hashed(session)) if session else None

    def revoke(self, rater: int) -> None:
        """End a rater's sessions and link; the votes stay."""
        with self.database.writing() as c:
            c.execute(update(raters).where(raters.c.id == rater).values(session=None, revoked_at=time.time()))
            end_sessions(c, rater)

    def withdraw(self, rater: int) -> None:
        """Withdraw a rater's consent: the sessions end, and the votes are excluded from all reads.

        The rater's seats are freed, so that other raters get the same questions.
        """
        own = assignments.c.rater_id == rater
        seats = select(assignments.c.item_id).where(own, assignments.c.seated)  # at most one at an item
        with self.database.writing() as c:
            c.execute(update(raters).where(raters.c.id == rater).values(session=None, withdrawn_at=time.time()))
            end_sessions(c, rater)
            c.execute(update(items).where(items.c.id.in_(seats)).values(taken=items.c.taken - 1))
            c.execute(update(assignments).where(own, assignments.c.state == "open").values(state="returned"))
            c.execute(update(assignments).where(own).values(seated=False))

    def all(self) -> list[RaterAccount]:
        """All invited raters, in order."""
        with self.database.reading() as c:
            return [_account(row) for row in c.execute(select(raters).order_by(raters.c.id))]

    def _account(self, query: Select[Any], **values: str) -> RaterAccount | None:
        with self.database.reading() as c:
            row = c.execute(query, values).first()
        return None if row is None else _account(row)

    # queries about answers ──────────────────────────────────────────────────────────────────────────────────────────
    def ask(self, item: int, text: str) -> int:
        """Send a query to all raters who answered an item; returns their number.

        Raises:
            UserError: no such item, nobody answered it, or there is no text.
        """
        if not text.strip():
            raise UserError("there is no question to put to the raters", do="write one")
        with self.database.writing() as c:
            answered_by = c.scalars(self._answered(item)).all()
            if not answered_by:
                raise UserError(f"nobody has answered the question {item}", expected="the number of an answered one")
            c.execute(insert(queries).values(item_id=item, text=text.strip(), asked_at=time.time()))
        return len(answered_by)

    def open_queries(self, rater: int) -> list[tuple[Query, object]]:
        """The queries that this rater has not answered yet, each with the item's question as stored."""
        with self.database.reading() as c:
            return [
                (Query(row.id, row.item_id, row.text), row.question)
                for row in c.execute(QUERIES_TO_RATER, {"a_rater": rater})
            ]

    def reply(self, rater: int, query: int, text: str) -> bool:
        """Answer a query, once; False if it is not open to this rater."""
        if query not in {own.id for own, _ in self.open_queries(rater)} or not text.strip():
            return False
        with self.database.writing() as c:
            own_reply = (replies.c.query_id == query, replies.c.rater_id == rater)
            if c.scalar(select(replies.c.id).where(*own_reply)) is not None:
                return False
            c.execute(insert(replies).values(query_id=query, rater_id=rater, text=text.strip(), replied_at=time.time()))
        return True

    def replies(self) -> list[tuple[Query, str, str]]:
        """All replies: the query, the rater's name, the text."""
        query = (
            select(queries.c.id, queries.c.item_id, queries.c.text, raters.c.name, replies.c.text.label("reply"))
            .join(replies, replies.c.query_id == queries.c.id)
            .join(raters, raters.c.id == replies.c.rater_id)
            .where(raters.c.withdrawn_at.is_(None))
            .order_by(replies.c.id)
        )
        with self.database.reading() as c:
            return [(Query(row.id, row.item_id, row.text), row.name, row.reply) for row in c.execute(query)]

    def _answered(self, item: int) -> Select[tuple[int]]:
        return (
            select(votes.c.rater_id)
            .join(assignments, assignments.c.id == votes.c.assignment_id)
            .where(assignments.c.item_id == item, votes.c.kind == "vote", votes.c.id.not_in(superseded()))
            .distinct()
        )


def begin_session(c: Connection, rater: Row[Any], consent: str | None) -> str | None:
    """A new session of a rater beside the others; None if the rater may not go on, or has not agreed yet.

    Args:
        consent: as in `RaterAccounts.join`.
    """
    if rater.revoked_at is not None or rater.withdrawn_at is not None or (rater.joined_at is None and consent is None):
        return None
    now, secret = time.time(), secrets.token_urlsafe(32)
    if consent is not None and rater.joined_at is None:
        joined = {"joined_at": now, "consent": sha256_text(consent)}
        c.execute(update(raters).where(raters.c.id == rater.id).values(**joined))
    c.execute(insert(sessions).values(rater_id=rater.id, secret=sha256_text(secret), begun_at=now))
    own = select(sessions.c.id).where(sessions.c.rater_id == rater.id).order_by(sessions.c.id.desc())
    kept = list(c.scalars(own.limit(MOST_SESSIONS)))
    c.execute(delete(sessions).where(sessions.c.rater_id == rater.id, sessions.c.id.not_in(kept)))
    return secret


def end_sessions(c: Connection, rater: int) -> None:
    """Sign a rater out everywhere."""
    c.execute(delete(sessions).where(sessions.c.rater_id == rater))


def _account(row: Row[Any]) -> RaterAccount:
    joined, withdrawn, revoked = (
        getattr(row, name) is not None for name in ("joined_at", "withdrawn_at", "revoked_at")
    )
    return RaterAccount(row.id, row.name, row.grp, joined, withdrawn, revoked)
