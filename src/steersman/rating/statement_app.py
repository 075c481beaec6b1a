"""The web application of a conversation: one statement at a time, statements that participants add, and its moderation.

It shares invitations, sessions and defences with the rating of answers (`membership`, `admin`), and the page's script
too. What people may not see stays on the server: authors, other people's votes, and statements that nobody accepted.
"""

from __future__ import annotations

import time
from threading import Lock
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from steersman.errors import UserError
from steersman.rating.accounts import RaterAccount, RaterAccounts
from steersman.rating.admin import Desk
from steersman.rating.earlier import Earlier
from steersman.rating.membership import Screen, Voting
from steersman.rating.pages import page
from steersman.rating.participants import SharedLink
from steersman.rating.requests import posted
from steersman.rating.statement_round import (
    LONGEST_STATEMENT,
    SAID,
    Analyse,
    Moderation,
    Opinions,
    Proposal,
    StatementVote,
)
from steersman.rating.statement_store import Ballots, StatementStore, StoredStatement

FEWEST_VOTES = 5  # of a group on a statement, below which no share is shown
REST_S, REST_FACTOR = 1.0, 20.0  # between two analyses: at least a second, and so that they take 5 % of the time
MOST_DIVIDING = 10  # statements in that list


class Analysed(NamedTuple):
    """The votes of a moment, and what they say."""

    ballots: Ballots
    opinions: Opinions


class Analyst:
    """Keeps the analysis of the votes up to date, without spending more than a twentieth of the time on it.

    Args:
        analyse: see `statement_round.Analyse`.
    """

    def __init__(self, store: StatementStore, analyse: Analyse) -> None:
        self.store, self.analyse = store, analyse
        self._lock = Lock()
        self._last: Analysed | None = None
        self._mark: tuple[float, ...] | None = None
        self._not_before = 0.0

    def latest(self, *, fresh: bool = False) -> Analysed | None:
        """The latest analysis; None if nobody has voted, or before the first one.

        Args:
            fresh: of the votes of this moment, whatever it costs. Without it nobody waits for an analysis of others.
        """
        if not self._lock.acquire(blocking=fresh):
            return self._last
        try:
            mark, now = self.store.last_change(), time.monotonic()
            if mark != self._mark and (fresh or now >= self._not_before):
                ballots, settings = self.store.ballots(), self.store.round
                found = None
                if len(ballots.raters) and len(ballots.statements):
                    opinions = self.analyse(ballots.votes, settings.min_votes, settings.seed)
                    found = Analysed(ballots, opinions)
                self._last, self._mark = found, mark
                took = time.monotonic() - now
                self._not_before = time.monotonic() + max(REST_S, REST_FACTOR * took)
            return self._last
        finally:
            self._lock.release()

    def weights(self) -> dict[int, float]:
        """The chance of each statement to be shown next, up to a factor; empty before the first vote."""
        found = self.latest()
        if found is None:
            return {}
        return {s.id: float(w) for s, w in zip(found.ballots.statements, found.opinions.priorities, strict=True)}


class StatementApp(Voting):
    """The handlers of a conversation.

    Args:
        store: an open store in which a conversation has begun.
        admin_token: opens the administrator's page; a new one each time the server starts.
        analyse: finds the opinion groups and the priorities.
        origin, prefix, shared: see `Membership`.
    """

    def __init__(
        self,
        store: StatementStore,
        admin_token: str,
        analyse: Analyse,
        origin: str | None = None,
        prefix: str = "",
        shared: SharedLink | None = None,
    ) -> None:
        super().__init__(store, origin, prefix, shared, Screen("statements.html", "statement.html", self.task_values))
        self.store, self.analyst = store, Analyst(store, analyse)
        self.admin = StatementDesk(
            store, self.analyst, self.accounts, admin_token, cookie=self.admin_cookie, secure=self.secure
        )

    def routes(self) -> list[Route]:
        """Statements, earlier votes, statements of one's own, and the administrator's pages."""
        return [
            *super().routes(),
            Route("/vote", posted(StatementVote, self.require_rater, self.vote), methods=["POST"]),
            Route("/answers", self.answers),
            Route("/change", self.change),
            Route("/propose", self.proposals),
            Route("/propose", posted(Proposal, self.require_rater, self.propose), methods=["POST"]),
            *self.admin.routes(),
        ]

    def task_values(self, rater: RaterAccount) -> dict[str, Any]:
        """The template's values."""
        task = self.store.next_statement(rater.id, self.analyst.weights())
        progress = self.store.progress(rater.id)
        finished = task is None and progress.answered > 0
        completion = self.participants.complete(rater.id) if finished else None
        return {"task": task, "progress": progress, "completion": completion}

    def vote(self, rater: RaterAccount, body: StatementVote) -> Response:
        """Store a vote, and show the next statement."""
        self.store.vote(rater.id, body)
        return self.fragment(rater)

    def answers(self, request: Request) -> Response:
        """What the participant said before, to be reviewed."""
        rater = self.rater(request)
        said = self.store.voted(rater.id) if rater else []
        earlier = [Earlier(shown.assignment, shown.text, SAID[vote], "", changes) for shown, vote, changes in said]
        return self.shown(rater, "answers.html", answers=earlier)

    def change(self, request: Request) -> Response:
        """An earlier statement again. The vote stands until another is sent, which takes its place."""
        rater, wanted = self.rater(request), request.query_params.get("of", "")
        said = self.store.voted(rater.id, wanted) if rater else []
        if rater is None or not said:
            return RedirectResponse("answers", status_code=303)
        ((task, vote, _),) = said
        values = {"task": task, "progress": self.store.progress(rater.id), "completion": None}
        return self.shown(rater, "statements.html", corrects=SAID[vote], **values)

    # statements of participants ─────────────────────────────────────────────────────────────────────────────────────
    def proposals(self, request: Request) -> Response:
        """The form for a statement, and what became of the participant's earlier ones."""
        rater = self.rater(request)
        own = self.store.statements(rater.id) if rater else []
        return self.shown(rater, "propose.html", own=own, longest=LONGEST_STATEMENT)

    def propose(self, rater: RaterAccount, body: Proposal) -> Response:
        """Add a statement, which waits for the moderator."""
        self.store.propose(rater.id, body.text)
        return JSONResponse({"next": "propose"})


# ── the administrator ────────────────────────────────────────────────────────────────────────────────────────────────
class StatementDesk(Desk):
    """The administrator's handlers of a conversation."""

    def __init__(
        self,
        store: StatementStore,
        analyst: Analyst,
        accounts: RaterAccounts,
        token: str,
        *,
        cookie: str,
        secure: bool,
    ) -> None:
        super().__init__(accounts, token, cookie=cookie, secure=secure)
        self.store, self.analyst = store, analyst

    def routes(self) -> list[Route]:
        """All routes below /admin."""
        return [
            *super().routes(),
            Route("/admin", self.show),
            Route("/admin/live", self.live),
            Route("/admin/moderate", posted(Moderation, self.require_session, self.moderate), methods=["POST"]),
        ]

    def show(self, request: Request) -> Response:
        """The page, or the login form."""
        return self.shown(request, self.figures)

    def figures(self) -> str:
        """Statements that wait, the raters, and the live view."""
        own = {rater.id: rater.name for rater in self.accounts.all()}
        values = {"raters": self.accounts.all(), "names": own, "cast": _votes_by_rater(self.store)}
        return page("moderate.html", round=self.store.round, **values, **self.live_values())

    def live(self, request: Request) -> Response:
        """The live view as a fragment of the page."""
        self.require_session(request)
        return HTMLResponse(page("live.html", **self.live_values()))

    def live_values(self) -> dict[str, Any]:
        """The template's values: the groups, and the statements by consensus."""
        statements = self.store.statements()
        found = self.analyst.latest(fresh=True)
        rows = [] if found is None else _rows(found)
        divides = sorted((row for row in rows if row.divides is not None), key=lambda row: -(row.divides or 0))
        return {
            "waiting": [s for s in statements if s.decision == "waiting"],
            "accepted": sum(s.decision == "accepted" for s in statements),
            "rejected": [s for s in statements if s.decision == "rejected"],
            "groups": [] if found is None else _groups(found),
            "undecided": 0 if found is None else int((found.opinions.labels < 0).sum()),
            "silhouettes": {} if found is None else found.opinions.silhouettes,
            "votes": 0 if found is None else int((found.ballots.votes == found.ballots.votes).sum()),
            "people": 0 if found is None else len(found.ballots.raters),
            "rows": sorted(rows, key=lambda row: -row.consensus),
            "dividing": divides[:MOST_DIVIDING] if found is not None and len(_groups(found)) > 1 else [],
            "fewest": FEWEST_VOTES,
        }

    def moderate(self, _: None, body: Moderation) -> Response:
        """Accept or reject a statement."""
        if not self.store.moderate(body.statement, body.decision):
            raise UserError(f"there is no statement {body.statement}")
        return JSONResponse({"next": "admin"})


class StatementRow(NamedTuple):
    """A statement in the live view. ``shares``: of each group that agrees, smoothed; None where too few have voted."""

    statement: StoredStatement
    consensus: float
    divides: float | None
    votes: int
    shares: tuple[float | None, ...]


def _rows(found: Analysed) -> list[StatementRow]:
    tallies = found.opinions.tallies
    rows = []
    for place, statement in enumerate(found.ballots.statements):
        seen = [int(n) for n in tallies.seen[:, place]]
        shares = [float(p) if n >= FEWEST_VOTES else None for p, n in zip(tallies.p_agree[:, place], seen, strict=True)]
        divides = None if None in shares else float(tallies.divides[place])
        consensus = float(tallies.mean_consensus[place])
        rows.append(StatementRow(statement, consensus, divides, sum(seen), tuple(shares)))
    return rows


def _groups(found: Analysed) -> list[tuple[str, int]]:
    """The groups by letter, with their sizes."""
    count = len(found.opinions.tallies.seen)
    return [(chr(ord("A") + group), int((found.opinions.labels == group).sum())) for group in range(count)]


def _votes_by_rater(store: StatementStore) -> dict[int, int]:
    cast: dict[int, int] = {}
    for ballot in store.standing():
        cast[ballot.rater] = cast.get(ballot.rater, 0) + 1
    return cast
