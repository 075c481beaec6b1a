"""The raters' web application: pages that show one question at a time, and endpoints that store votes.

Pages are rendered here; a little JavaScript moves between them. A page knows its question by a random name; the
answers' authors, the item's number, the arm and the other raters stay on the server. Tokens travel in the part of a
link after ``#``, which browsers do not send, so that no log and no link preview ever holds one.
"""

from __future__ import annotations

import secrets
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

from steersman.errors import UserError
from steersman.rating.accounts import RaterAccount, RaterAccounts
from steersman.rating.admin import AdminPages
from steersman.rating.pages import page
from steersman.rating.rater_stats import gold_score
from steersman.rating.requests import Empty, Join, Reply, Undo, posted, refusal
from steersman.rating.round import Question, Submission
from steersman.rating.security import SecurityMiddleware
from steersman.rating.store import RatingStore, Refused
from steersman.store import sha256_text

COOKIE_S = 90 * 24 * 3600
NO_SESSION = "Your invitation is needed here. Open the link that you were given."
STATIC = Path(__file__).parent / "static"


class RatingApp:
    """The handlers of a round.

    Args:
        store: an open store in which a round has begun.
        admin_token: opens the administrator's page; a new one each time the server starts.
        origin: the public origin, where the server is behind a proxy (`Address.origin`).
    """

    def __init__(self, store: RatingStore, admin_token: str, origin: str | None = None) -> None:
        self.store, self.accounts, self.origin = store, RaterAccounts(store.database), origin
        # Cookies ignore ports: two rounds on one machine need two names.
        self.cookie = f"rater_{sha256_text(_canonical_place(store.where))[:8]}"
        # Of cookies; a request's scheme may be that between proxy and server.
        self.secure = (origin or "").startswith("https://")
        admin_cookie = self.cookie.replace("rater", "desk")
        self.admin = AdminPages(store, self.accounts, admin_token, cookie=admin_cookie, secure=self.secure)

    def asgi(self, hosts: tuple[str, ...] = ("127.0.0.1", "localhost")) -> Starlette:
        """The application with its middleware. Requests under other host names are refused (DNS rebinding)."""
        routes = [
            Route("/", self.home),
            Route("/join", self.join_page),
            Route("/join", posted(Join, lambda request: request, self.join, invalid=400), methods=["POST"]),
            Route("/rate", self.rate),
            Route("/task", self.task),
            Route("/vote", posted(Submission, self.require_rater, self.vote), methods=["POST"]),
            Route("/undo", posted(Undo, self.require_rater, self.undo), methods=["POST"]),
            Route("/questions", self.questions),
            Route("/reply", posted(Reply, self.require_rater, self.reply), methods=["POST"]),
            Route("/withdraw", posted(Empty, self.require_rater, self.withdraw), methods=["POST"]),
            *self.admin.routes(),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
        middleware = [
            Middleware(SecurityMiddleware, cookie=self.cookie, origin=self.origin),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
        ]
        handlers = {404: _not_found, 500: _server_error, Refused: refusal, UserError: refusal}
        return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers, lifespan=self.lifespan)

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """While the server runs, questions are scored in a process of their own."""
        if self.store.scoring and self.store.round.random_share < 1:
            self.store.scoring.start_process()
        yield

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
            return RedirectResponse("/rate", status_code=303)
        return HTMLResponse(page("message.html", title="Rating", text=NO_SESSION))

    def join_page(self, request: Request) -> Response:
        """The page of an invitation's link: instructions and consent. The token is after the ``#``."""
        return HTMLResponse(page("join.html", round=self.store.round))

    def join(self, request: Request, body: Join) -> Response:
        """Use a link, once."""
        if not body.consent:
            raise Refused("The consent is needed.", status=400)
        session = self.accounts.join(body.token, self.store.round.consent)
        if session is None:
            invited = self.accounts.invited(body.token)
            used = invited is not None and invited.joined
            problem = "This link was used before" if used else "This link is not known here"
            raise Refused(
                f"{problem}. If it was you, go on in the browser where you began, or ask for a new link.", status=403
            )
        response = JSONResponse({"next": "/rate"})
        secure = self.secure or request.url.scheme == "https"
        response.set_cookie(self.cookie, session, max_age=COOKIE_S, httponly=True, samesite="lax", secure=secure)
        return response

    # rating ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    def rate(self, request: Request) -> Response:
        """The page with the rater's question."""
        rater = self.rater(request)
        if rater is None:
            return HTMLResponse(page("message.html", title="Rating", text=NO_SESSION), status_code=401)
        return HTMLResponse(page("rate.html", **self.task_values(rater)))

    def task(self, request: Request) -> Response:
        """The rater's question as a fragment of the page."""
        return self.fragment(self.require_rater(request))

    def fragment(self, rater: RaterAccount) -> Response:
        """The inside of the page, which the script puts in place."""
        return HTMLResponse(page("task.html", **self.task_values(rater)))

    def task_values(self, rater: RaterAccount) -> dict[str, Any]:
        """The template's values."""
        task = self.store.next_task(rater.id)
        return {
            "round": self.store.round,
            "task": task,
            "progress": self.store.progress(rater.id),
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

    def withdraw(self, rater: RaterAccount, _: Empty) -> Response:
        """Withdraw the consent."""
        self.accounts.withdraw(rater.id)
        response = JSONResponse({"next": "/"})
        response.delete_cookie(self.cookie)
        return response

    # queries about answers ──────────────────────────────────────────────────────────────────────────────────────────
    def questions(self, request: Request) -> Response:
        """The administrator's queries about this rater's answers."""
        rater = self.rater(request)
        if rater is None:
            return HTMLResponse(page("message.html", title="Rating", text=NO_SESSION), status_code=401)
        queries = [(query, Question.model_validate(item)) for query, item in self.accounts.open_queries(rater.id)]
        return HTMLResponse(page("queries.html", round=self.store.round, queries=queries))

    def reply(self, rater: RaterAccount, body: Reply) -> Response:
        """Answer a query."""
        if not self.accounts.reply(rater.id, body.query, body.text):
            raise Refused("This question is not open to you.", status=404)
        return JSONResponse({"next": "/questions" if self.accounts.open_queries(rater.id) else "/rate"})


def _canonical_place(store: str) -> str:
    """A store's place, however it was typed, so that raters keep their cookies when the server starts again."""
    if "://" not in store:
        return str(Path(store).resolve())
    return make_url(store)._replace(username=None, password=None).render_as_string()


def _not_found(request: Request, error: Exception) -> Response:
    return HTMLResponse(page("message.html", title="Not found", text="There is no such page."), status_code=404)


def _server_error(request: Request, error: Exception) -> Response:
    """Nothing of the error leaves the server; the page keeps the vote and sends it again."""
    message = "The server met an error. What you said is kept on this page and will be sent again."
    return JSONResponse({"error": message}, status_code=500)


def new_token() -> str:
    """256 random bits for a link."""
    return secrets.token_urlsafe(32)
