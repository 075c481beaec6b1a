"""The raters' web application: pages that show one question at a time, and endpoints that store votes.

Pages are rendered here; a little JavaScript moves between them. A page knows its question by a random name; the
answers' authors, the item's number, the arm and the other raters stay on the server. Tokens travel in the part of a
link after ``#``, which browsers do not send, so that no log and no link preview ever holds one.

All pages lie side by side, and links, posts and cookies are relative to them: the application works at any path,
without being told which.
"""

from __future__ import annotations

import secrets
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from steersman import http_server
from steersman.http_server import Address
from steersman.rating.accounts import RaterAccount
from steersman.rating.admin import AdminPages
from steersman.rating.earlier import earlier_answers
from steersman.rating.membership import Membership, Screen, Voting
from steersman.rating.participants import SharedLink
from steersman.rating.rater_stats import gold_score
from steersman.rating.requests import Reply, posted
from steersman.rating.round import Question, Submission
from steersman.rating.store import RatingStore, Refused


class RatingApp(Voting):
    """The handlers of a round.

    Args:
        store: an open store in which a round has begun.
        admin_token: opens the administrator's page; a new one each time the server starts.
        origin, prefix, shared: see `Membership`.
    """

    def __init__(
        self,
        store: RatingStore,
        admin_token: str,
        origin: str | None = None,
        prefix: str = "",
        shared: SharedLink | None = None,
    ) -> None:
        super().__init__(store, origin, prefix, shared, Screen("rate.html", "task.html", self.task_values))
        self.store = store
        self.admin = AdminPages(store, self.accounts, admin_token, cookie=self.admin_cookie, secure=self.secure)

    def routes(self) -> list[Route]:
        """Questions, earlier answers, queries, and the administrator's pages."""
        return [
            *super().routes(),
            Route("/vote", posted(Submission, self.require_rater, self.vote), methods=["POST"]),
            Route("/answers", self.answers),
            Route("/change", self.change),
            Route("/questions", self.questions),
            Route("/reply", posted(Reply, self.require_rater, self.reply), methods=["POST"]),
            *self.admin.routes(),
        ]

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """While the server runs, questions are scored in a process of their own."""
        if self.store.scoring and self.store.round.random_share < 1:
            self.store.scoring.start_process()
        yield
        if self.store.scoring:
            self.store.scoring.end_process()

    # rating ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    def task_values(self, rater: RaterAccount) -> dict[str, Any]:
        """The template's values."""
        task, progress = self.store.next_task(rater.id), self.store.progress(rater.id)
        finished = task is None and progress.answered > 0
        return {
            "task": task,
            "progress": progress,
            "completion": self.participants.complete(rater.id) if finished else None,
            # The rater's own score comes after the work and not during it.
            "gold": gold_score(self.store.votes(rater.id)) if task is None else None,
            "queries": len(self.accounts.open_queries(rater.id)),
        }

    def vote(self, rater: RaterAccount, body: Submission) -> Response:
        """Store a vote, and show the next question."""
        self.store.submit(rater.id, body)
        return self.fragment(rater)

    # earlier answers ────────────────────────────────────────────────────────────────────────────────────────────────
    def answers(self, request: Request) -> Response:
        """What the rater said before, to be reviewed."""
        rater = self.rater(request)
        said = earlier_answers(self.store.database, rater.id) if rater else []
        return self.shown(rater, "answers.html", answers=said)

    def change(self, request: Request) -> Response:
        """An earlier question again. What was said stands until another answer is sent, which takes its place."""
        rater, wanted = self.rater(request), request.query_params.get("of", "")
        task = self.store.settled_task(rater.id, wanted) if rater else None
        if rater is None or task is None:
            return RedirectResponse("answers", status_code=303)
        said = [answer.said for answer in earlier_answers(self.store.database, rater.id, wanted)]
        more = {"progress": self.store.progress(rater.id), "completion": None, "gold": None, "queries": 0}
        return self.shown(rater, "rate.html", task=task, corrects=" ".join(said), **more)

    # queries about answers ──────────────────────────────────────────────────────────────────────────────────────────
    def questions(self, request: Request) -> Response:
        """The administrator's queries about this rater's answers."""
        rater = self.rater(request)
        asked = self.accounts.open_queries(rater.id) if rater else []
        queries = [(query, Question.model_validate(item)) for query, item in asked]
        return self.shown(rater, "queries.html", queries=queries)

    def reply(self, rater: RaterAccount, body: Reply) -> Response:
        """Answer a query."""
        if not self.accounts.reply(rater.id, body.query, body.text):
            raise Refused("This question is not open to you.", status=404)
        return JSONResponse({"next": "questions" if self.accounts.open_queries(rater.id) else "rate"})


def new_token() -> str:
    """256 random bits for a link."""
    return secrets.token_urlsafe(32)


def serve(app: Membership, address: Address, bound: socket.socket) -> None:
    """Answer requests until Ctrl-C or SIGTERM. Acknowledged votes are durable at any moment."""
    if text := http_server.warning(address, "Nobody rates or administers without a link's token"):
        print(f"warning: {text}", file=sys.stderr)
    ended = "Ended. Every acknowledged vote is stored; the same command goes on."
    http_server.serve(app.asgi(address.names()), bound, ended=ended)
