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
from pathlib import Path
from typing import Any

from sqlalchemy import make_url
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from steersman import http_server
from steersman.errors import UserError
from steersman.http_server import Address
from steersman.rating.accounts import RaterAccount, RaterAccounts
from steersman.rating.admin import AdminPages
from steersman.rating.earlier import earlier_answers
from steersman.rating.pages import page
from steersman.rating.participants import Participants, SharedLink, Visitor, visitor
from steersman.rating.rater_stats import gold_score
from steersman.rating.requests import Empty, Join, JoinShared, Reply, Undo, posted, refusal
from steersman.rating.round import Question, Submission
from steersman.rating.security import PrefixMiddleware, SecurityMiddleware
from steersman.rating.store import RatingStore, Refused
from steersman.store import sha256_text

COOKIE_S = 90 * 24 * 3600
NO_SESSION = "Your invitation is needed here. Open the link that you were given."
NO_STUDY = "This study is not open here. Follow its link from the study's page again."
WITHDRAWN = (
    "Nothing that you said will be handed on from now on: it is left out of everything that is made of this round's "
    "answers. You can close this page."
)
AGREE = {"agree": True}  # the answer to a page that asks whether its reader may go on: not before agreeing
STATIC = Path(__file__).parent / "static"


class RatingApp:
    """The handlers of a round.

    Args:
        store: an open store in which a round has begun.
        admin_token: opens the administrator's page; a new one each time the server starts.
        origin, prefix: of the public URL, where the server is behind a proxy (`Address.origin`, `Address.prefix`).
        shared: the link of a recruiting service (Prolific); None: there is none.
    """

    def __init__(
        self,
        store: RatingStore,
        admin_token: str,
        origin: str | None = None,
        prefix: str = "",
        shared: SharedLink | None = None,
    ) -> None:
        self.store, self.accounts, self.origin, self.prefix = store, RaterAccounts(store.database), origin, prefix
        self.participants = Participants(store.database, shared or SharedLink())
        # Cookies ignore ports: two rounds on one machine need two names.
        self.cookie = f"rater_{sha256_text(_canonical_place(store.where))[:8]}"
        # Of cookies; a request's scheme may be that between proxy and server.
        self.secure = (origin or "").startswith("https://")
        admin_cookie = self.cookie.replace("rater", "desk")
        self.admin = AdminPages(store, self.accounts, admin_token, cookie=admin_cookie, secure=self.secure)

    def asgi(self, hosts: tuple[str, ...] = ("127.0.0.1", "localhost")) -> Starlette:
        """The application with its middleware. Requests under other host names are refused (DNS rebinding)."""

        def anyone(request: Request) -> Request:
            return request

        routes = [
            Route("/", self.home),
            Route("/join", self.join_page),
            Route("/join", posted(Join, anyone, self.join, invalid=400), methods=["POST"]),
            Route("/study", self.study_page),
            Route("/study", posted(JoinShared, anyone, self.join_shared, invalid=400), methods=["POST"]),
            Route("/rate", self.rate),
            Route("/task", self.task),
            Route("/vote", posted(Submission, self.require_rater, self.vote), methods=["POST"]),
            Route("/undo", posted(Undo, self.require_rater, self.undo), methods=["POST"]),
            Route("/answers", self.answers),
            Route("/change", self.change),
            Route("/questions", self.questions),
            Route("/reply", posted(Reply, self.require_rater, self.reply), methods=["POST"]),
            Route("/leave", self.leave),
            Route("/withdraw", posted(Empty, self.require_rater, self.withdraw), methods=["POST"]),
            Route("/left", self.left),
            *self.admin.routes(),
        ]
        paths = {route.path for route in routes}
        middleware = [
            Middleware(
                PrefixMiddleware, prefix=self.prefix, own=lambda path: path in paths or path.startswith("/static/")
            ),
            Middleware(SecurityMiddleware, cookie=self.cookie, origin=self.origin),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
        ]
        handlers = {404: _not_found, 500: _server_error, Refused: refusal, UserError: refusal}
        return Starlette(
            routes=[*routes, Mount("/static", StaticFiles(directory=STATIC))],
            middleware=middleware,
            exception_handlers=handlers,
            lifespan=self.lifespan,
        )

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """While the server runs, questions are scored in a process of their own."""
        if self.store.scoring and self.store.round.random_share < 1:
            self.store.scoring.start_process()
        yield
        if self.store.scoring:
            self.store.scoring.end_process()

    # sessions ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def rater(self, request: Request) -> RaterAccount | None:
        """The rater whose session a request belongs to."""
        return self.accounts.of_session(request.cookies.get(self.cookie, ""))

    def require_rater(self, request: Request) -> RaterAccount:
        """The rater of a request; refuses requests without a session."""
        rater = self.rater(request)
        if rater is None:
            raise Refused(NO_SESSION, status=401)
        return rater

    def home(self, request: Request) -> Response:
        """To the question, for raters with a session."""
        if self.rater(request):
            return RedirectResponse("rate", status_code=303)
        return HTMLResponse(page("message.html", title="Rating", text=NO_SESSION))

    def shown(self, rater: RaterAccount | None, template: str, **values: Any) -> Response:
        """A page of a rater with a session; for others, that their invitation is needed."""
        if rater is None:
            return HTMLResponse(page("message.html", title="Rating", text=NO_SESSION), status_code=401)
        return HTMLResponse(page(template, round=self.store.round, rater=self.browser_key(rater), **values))

    def browser_key(self, rater: RaterAccount) -> str:
        """A name under which a browser keeps what this rater has said and the server has not confirmed."""
        return f"{self.cookie}-{rater.id}"

    def join_page(self, request: Request) -> Response:
        """The page of an invitation's link: instructions and consent. The token is after the ``#``."""
        return HTMLResponse(page("join.html", round=self.store.round, going_on=self.rater(request) is not None))

    def join(self, request: Request, body: Join) -> Response:
        """Use a link, for the first time with a consent."""
        session = self.accounts.join(body.token, self.store.round.consent if body.consent else None)
        if session is None:
            invited = self.accounts.invited(body.token)
            if invited is None:
                raise Refused("This link is not known here. Copy the whole link, or ask for a new one.", status=403)
            if invited.withdrawn or invited.revoked:
                gone = (
                    "You withdrew from this round." if invited.withdrawn else "This link was ended: ask for a new one."
                )
                raise Refused(gone, status=403)
            return JSONResponse(AGREE)
        return self.begun(request, session)

    def begun(self, request: Request, session: str) -> Response:
        """To the questions, with a session's cookie. Without a path of its own it is for the pages beside this one."""
        response = JSONResponse({"next": "rate"})
        secure = self.secure or request.url.scheme == "https"
        cookie = {"httponly": True, "samesite": "lax", "secure": secure, "path": None}
        response.set_cookie(self.cookie, session, max_age=COOKIE_S, **cookie)  # type: ignore[arg-type]
        return response

    def study_page(self, request: Request) -> Response:
        """The page of the shared link, for the participant that its query names. Looking at it begins nothing."""
        key = request.query_params.get("key", "")
        try:
            who = visitor(request.query_params.multi_items())
        except Refused as refused:
            return HTMLResponse(page("message.html", title="Rating", text=refused.reason), status_code=refused.status)
        if not self.participants.open_to(key):
            return HTMLResponse(page("message.html", title="Rating", text=NO_STUDY), status_code=404)
        return HTMLResponse(page("join.html", round=self.store.round, going_on=False, visitor=who, key=key))

    def join_shared(self, request: Request, body: JoinShared) -> Response:
        """Begin or go on as a participant, for the first time with a consent."""
        if not self.participants.open_to(body.key):
            raise Refused(NO_STUDY, status=404)
        who = Visitor(body.participant, body.study, body.session)
        session = self.participants.join(who, self.store.round.consent if body.consent else None)
        return JSONResponse(AGREE) if session is None else self.begun(request, session)

    # rating ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    def rate(self, request: Request) -> Response:
        """The page with the rater's question."""
        rater = self.rater(request)
        return self.shown(rater, "rate.html", **(self.task_values(rater) if rater else {}))

    def task(self, request: Request) -> Response:
        """The rater's question as a fragment of the page."""
        return self.fragment(self.require_rater(request))

    def fragment(self, rater: RaterAccount) -> Response:
        """The inside of the page, which the script puts in place."""
        return HTMLResponse(page("task.html", round=self.store.round, **self.task_values(rater)))

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

    def undo(self, rater: RaterAccount, body: Undo) -> Response:
        """Undo the last vote, and show its question again."""
        if not self.store.undo(rater.id, body.submission):
            raise Refused("There is nothing to take back.")
        return self.fragment(rater)

    # earlier answers, and the end ───────────────────────────────────────────────────────────────────────────────────
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

    def leave(self, request: Request) -> Response:
        """What withdrawing means, and the button."""
        return self.shown(self.rater(request), "leave.html")

    def withdraw(self, rater: RaterAccount, _: Empty) -> Response:
        """Withdraw the consent."""
        self.accounts.withdraw(rater.id)
        response = JSONResponse({"next": "left"})
        response.set_cookie(self.cookie, "", max_age=0, path=None)
        return response

    def left(self, _: Request) -> Response:
        """After withdrawing."""
        return HTMLResponse(page("message.html", title="You have withdrawn", text=WITHDRAWN))

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


def _canonical_place(store: str) -> str:
    """A store's place, however it was typed, so that raters keep their cookies when the server starts again."""
    if "://" not in store:
        return str(Path(store).resolve())
    return make_url(store)._replace(username=None, password=None).render_as_string()


def _not_found(request: Request, error: Exception) -> Response:
    root = "../" * max(0, request.scope["path"].count("/") - 1)
    text = "There is no such page."
    return HTMLResponse(page("message.html", title="Not found", text=text, root=root), status_code=404)


def _server_error(request: Request, error: Exception) -> Response:
    """Nothing of the error leaves the server; the page keeps the vote and sends it again."""
    message = "The server met an error. What you said is kept on this page and will be sent again."
    return JSONResponse({"error": message}, status_code=500)


def new_token() -> str:
    """256 random bits for a link."""
    return secrets.token_urlsafe(32)


def serve(app: RatingApp, address: Address, bound: socket.socket) -> None:
    """Answer requests until Ctrl-C or SIGTERM. Acknowledged votes are durable at any moment."""
    if text := http_server.warning(address, "Nobody rates or administers without a link's token"):
        print(f"warning: {text}", file=sys.stderr)
    ended = "Ended. Every acknowledged vote is stored; the same command goes on."
    http_server.serve(app.asgi(address.names()), bound, ended=ended)
