"""Raters who come by one shared link, each under the id that a recruiting service gave them (Prolific and others).

The id stands in the link's query, as PROLIFIC_PID with STUDY_ID and SESSION_ID, or as ``participant``. It is looked up
among the participants alone, so that no id opens the account of an invited rater. The same id goes on where it was. Ids
stay out of the exported votes; a separate file maps each id to its rater, for the payment.
"""

from __future__ import annotations

import csv
import io
import re
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pydantic import Field
from sqlalchemy import exists, func, insert, select, update
from starlette.datastructures import URL, QueryParams

from steersman.errors import UserError
from steersman.rating.accounts import begin_session, hashed
from steersman.rating.schema import Database, assignments, participants, raters, shared_links, statement_votes
from steersman.rating.store import Refused
from steersman.types import Record

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:+-]{0,99}")  # its first character starts no formula in a spreadsheet
IN_LINK = {
    "participant": ("PROLIFIC_PID", "participant"),
    "study": ("STUDY_ID", "study"),
    "session": ("SESSION_ID", "session"),
}
CODE = re.compile(r"[A-Za-z0-9_-]{1,64}")
COLUMNS = ("participant", "study", "session", "rater", "state", "answered", "skipped", "joined_at", "completed_at")


class Visitor(NamedTuple):
    """Who follows the shared link, in the words of the service that sent them."""

    participant: str
    study: str = ""
    session: str = ""


class Completion(NamedTuple):
    """What a participant gets at the end: a link back to the service, a code, or both."""

    url: str = ""
    code: str = ""


class SharedLink(Record):
    """The settings of the link that a recruiting service hands to its raters."""

    participants: int = Field(default=0, ge=0, description="Maximum number of raters by the shared link; 0: no link.")
    completion: str = Field(default="", description="Completion URL or code, shown to them at the end.")

    def parsed(self) -> Completion:
        """The completion, checked.

        Raises:
            UserError: neither a code nor a URL, or one without a link.
        """
        if self.completion and not self.participants:
            raise UserError(
                "a completion is for those who come by the shared link, and there is none",
                where="--completion",
                do="add --participants, the most raters who may come by it",
            )
        if not self.completion or CODE.fullmatch(self.completion):
            return Completion(code=self.completion)
        try:
            parts = URL(self.completion)
            good = parts.scheme in ("http", "https") and parts.hostname and re.fullmatch(r"[!-~]+", self.completion)
        except ValueError:
            good = False
        if not good:
            raise UserError(
                f"{self.completion[:60]!r} is neither a code nor a URL",
                where="--completion",
                expected="a code such as C1ABCDEF, or https://app.prolific.com/submissions/complete?cc=C1ABCDEF",
            )
        code = QueryParams(parts.query).get("cc", "")
        return Completion(self.completion, code if CODE.fullmatch(code) else "")


def visitor(query: Sequence[tuple[str, str]]) -> Visitor:
    """Who follows the link, from its query.

    Raises:
        Refused: no id, one that was not filled in, or two.
    """
    found: dict[str, str] = {}
    for name, spellings in IN_LINK.items():
        values = {value.strip() for key, value in query if key in spellings} - {""}
        if len(values) > 1:
            raise Refused(f"This link names more than one {name}. Follow it from the study's page again.", status=400)
        found[name] = next(iter(values), "")
    if not found["participant"]:
        raise Refused("This link lacks the participant's id. Follow it from the study's page again.", status=400)
    return checked(Visitor(**found))


def checked(who: Visitor) -> Visitor:
    """A visitor whose ids can be ids.

    Raises:
        Refused: they cannot, as where a service did not fill its placeholders in.
    """
    for name, value in who._asdict().items():
        if (value or name == "participant") and not ID.fullmatch(value):
            raise Refused(f"{value[:40]!r} is not a {name}'s id. Follow the link from the study's page.", status=400)
    return who


class Participants:
    """The raters of the shared link in a rating store's database.

    Args:
        link: its settings, which hold as long as the server runs.
    """

    def __init__(self, database: Database, link: SharedLink) -> None:
        self.database, self.limit, self.completion = database, link.participants, link.parsed()

    def key(self) -> str:
        """The link's key, the same at every start."""
        with self.database.writing() as c:
            known: str | None = c.scalar(select(shared_links.c.key))
            if known is None:
                known = secrets.token_urlsafe(16)
                c.execute(insert(shared_links).values(id=1, key=known))
        return known

    def open_to(self, key: str) -> bool:
        """Whether this key opens the link of a round that has one."""
        if not self.limit:
            return False
        with self.database.reading() as c:
            known = c.scalar(select(shared_links.c.key))
        return known is not None and secrets.compare_digest(hashed(known), hashed(key))

    def join(self, who: Visitor, consent: str | None) -> str | None:
        """Begin a session of a participant, a new one or one who goes on; returns its secret, None without a consent.

        Args:
            consent: as in `RaterAccounts.join`.

        Raises:
            Refused: there are enough participants, or this one withdrew or was sent away.
        """
        who = checked(who)
        own = select(raters).join(participants, participants.c.rater_id == raters.c.id)
        own = own.where(participants.c.participant == who.participant)
        with self.database.writing() as c:
            row = c.execute(own).first()
            if row is None and consent is None:
                return None
            if row is None:
                if (c.scalar(select(func.count()).select_from(participants)) or 0) >= self.limit:
                    raise Refused("There are enough participants already. Thank you for coming.", status=403)
                values = {"name": f"participant {who.participant}", "grp": "", "invited_at": time.time()}
                nobodys = hashed(secrets.token_urlsafe(32))  # a personal link, which nobody has
                c.execute(insert(raters).values(**values, invitation=nobodys))
                rater = c.scalar(select(raters.c.id).where(raters.c.invitation == nobodys))
                c.execute(insert(participants).values(rater_id=rater, **who._asdict()))
                row = c.execute(own).one()
            if row.withdrawn_at is not None or row.revoked_at is not None:
                gone = "You withdrew from this round." if row.withdrawn_at else "This id can rate here no longer."
                raise Refused(gone, status=403)
            session = begin_session(c, row, consent)
            if who.session:
                seen = {"study": who.study, "session": who.session}
                c.execute(update(participants).where(participants.c.rater_id == row.id).values(**seen))
        return session

    def complete(self, rater: int) -> Completion | None:
        """What a rater who has finished gets, if it is a participant; the first time is recorded."""
        if not self.completion.url and not self.completion.code:
            return None
        row = participants.c.rater_id == rater
        with self.database.reading() as c:
            known = c.execute(select(participants.c.completed_at).where(row)).first()
        if known is None:
            return None
        if known.completed_at is None:
            with self.database.writing() as c:
                c.execute(update(participants).where(row).values(completed_at=time.time()))
        return self.completion


def participants_table(database: Database) -> str:
    """The participants as CSV, one a line, those who withdrew too; empty if there are none.

    ``answered`` and ``skipped`` count questions or statements, and ``rater`` is the name of these votes in
    the exports.
    """

    def settled(state: str) -> Any:
        of_rater = select(func.count()).where(assignments.c.rater_id == raters.c.id, assignments.c.state == state)
        return of_rater.scalar_subquery()

    later = statement_votes.alias()
    standing = ~exists().where(later.c.supersedes == statement_votes.c.id)
    of_rater = select(func.count()).where(
        statement_votes.c.rater_id == raters.c.id, statement_votes.c.vote.is_not(None)
    )
    voted = of_rater.where(standing).scalar_subquery()  # a store has questions or statements, and none of the other
    counts = ((settled("answered") + voted).label("answered"), settled("skipped").label("skipped"))
    query = select(participants, raters.c.joined_at, raters.c.withdrawn_at, raters.c.revoked_at, *counts)
    with database.reading() as c:
        joined = query.join(raters, raters.c.id == participants.c.rater_id).order_by(participants.c.rater_id)
        rows = c.execute(joined).all()
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        stopped = "withdrawn" if row.withdrawn_at else "revoked" if row.revoked_at else ""
        state = stopped or ("completed" if row.completed_at else "rating")
        counted = (f"rater-{row.rater_id}", state, row.answered, row.skipped)
        writer.writerow(
            (row.participant, row.study, row.session, *counted, *map(_utc, (row.joined_at, row.completed_at)))
        )
    return text.getvalue()


def _utc(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
