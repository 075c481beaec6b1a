"""The raters' application: a page that shows one question at a time, and takes what is said of it.

Pages are rendered here and a little JavaScript moves between them. A page knows its question by a random name; the
answers' authors, the item's number, the arm and the other raters stay on the server. Tokens travel in the part of a
link after ``#``, which browsers do not send, so that no log and no link preview ever holds one.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import make_url
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from steersman.rating.accounts import People, Rater
from steersman.rating.admin import Desk
from steersman.rating.pages import page
from steersman.rating.rater_stats import gold_score
from steersman.rating.round import Question, Submission
from steersman.rating.security import Defences
from steersman.rating.store import RatingStore, Refused
from steersman.store import sha256_text

COOKIE_S = 90 * 24 * 3600
NO_SESSION = "Your invitation is needed here. Open the link that you were given."
STATIC = Path(__file__).parent / "static"

Work = Callable[[Rater, Mapping[str, Any]], Response]


class RatingApp:
    """The handlers of a round.

    Args:
        store: an open store in which a round has begun.
        admin_token: opens the administrator's page; a new one each time the server starts.
        origin: by which browsers know the server where a proxy stands before it (`Address.origin`).
    """

    def __init__(self, store: RatingStore, admin_token: str, origin: str | None = None) -> None:
        self.store, self.people, self.origin = store, People(store.database), origin
        # Cookies know no ports: two rounds on one machine need two names.
        self.cookie = f"rater_{sha256_text(_place(store.where))[:8]}"
        # Of cookies; the scheme of a request may be that between proxy and server.
        self.secure = (origin or "").startswith("https://")
        desk_cookie = self.cookie.replace("rater", "desk")
        self.desk = Desk(store, self.people, admin_token, cookie=desk_cookie, secure=self.secure)

    def asgi(self, hosts: tuple[str, ...] = ("127.0.0.1", "localhost")) -> Starlette:
        """The application behind its defences. Requests under other host names are refused (DNS rebinding)."""
        routes = [
            Route("/", self.home),
            Route("/join", self.join_page),
            Route("/join", self.join, methods=["POST"]),
            Route("/rate", self.rate),
            Route("/task", self.task),
            Route("/vote", self.posted(self.vote), methods=["POST"]),
            Route("/undo", self.posted(self.undo), methods=["POST"]),
            Route("/questions", self.questions),
            Route("/reply", self.posted(self.reply), methods=["POST"]),
            Route("/withdraw", self.posted(self.withdraw), methods=["POST"]),
            *self.desk.routes(),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
        middleware = [
            Middleware(Defences, cookie=self.cookie, origin=self.origin),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
        ]
        return Starlette(routes=routes, middleware=middleware, exception_handlers={404: _not_found, 500: _broken})

    # coming in ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def rater(self, request: Request) -> Rater | None:
        """Whose session a request belongs to."""
        return self.people.of_session(request.cookies.get(self.cookie, ""))

    def home(self, request: Request) -> Response:
        """The question, for whoever has a session."""
        if self.rater(request):
            return RedirectResponse("/rate", status_code=303)
        return HTMLResponse(page("message.html", title="Rating", text=NO_SESSION))

    def join_page(self, request: Request) -> Response:
        """What a link leads to: what this is about, and the consent. The token is after the ``#``."""
        return HTMLResponse(page("join.html", round=self.store.round))

    async def join(self, request: Request) -> Response:
        """Use a link, once."""
        said = await _json(request)
        token, agreed = said.get("token"), said.get("consent")
        if not isinstance(token, str) or agreed is not True:
            return _refusal("The consent is needed.", 400)
        session = await run_in_threadpool(self.people.join, token, self.store.round.consent)
        if session is None:
            known = await run_in_threadpool(self.people.invited, token)
            used = known is not None and known.joined
            words = "This link was used before" if used else "This link is not known here"
            return _refusal(
                f"{words}. If it was you, go on in the browser where you began, or ask for a new link.", 403
            )
        response = JSONResponse({"next": "/rate"})
        secure = self.secure or request.url.scheme == "https"
        response.set_cookie(self.cookie, session, max_age=COOKIE_S, httponly=True, samesite="lax", secure=secure)
        return response

    # rating ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    def rate(self, request: Request) -> Response:
        """The page with the question that is on."""
        rater = self.rater(request)
        if rater is None:
            return HTMLResponse(page("message.html", title="Rating", text=NO_SESSION), status_code=401)
        return HTMLResponse(page("rate.html", **self.shown(rater)))

    def task(self, request: Request) -> Response:
        """The question that is on, as a part of the page."""
        rater = self.rater(request)
        return self.fragment(rater) if rater else _refusal(NO_SESSION, 401)

    def fragment(self, rater: Rater) -> Response:
        """The inside of the page; the script puts it in place."""
        return HTMLResponse(page("task.html", **self.shown(rater)))

    def shown(self, rater: Rater) -> dict[str, Any]:
        """What the page of a question shows."""
        task = self.store.next_task(rater.id)
        gold = None
        if task is None:  # the rater's own score comes after the work and not during it
            gold = gold_score(self.store.votes(rater.id))
        return {
            "round": self.store.round,
            "task": task,
            "progress": self.store.progress(rater.id),
            "gold": gold,
            "asked": len(self.people.asked_of(rater.id)),
        }

    def vote(self, rater: Rater, said: Mapping[str, Any]) -> Response:
        """Keep a vote, and show the next question."""
        self.store.submit(rater.id, Submission.model_validate(said))
        return self.fragment(rater)

    def undo(self, rater: Rater, said: Mapping[str, Any]) -> Response:
        """Take the last vote back, and show its question again."""
        name = said.get("submission")
        if not isinstance(name, str) or not 8 <= len(name) <= 64:
            raise Refused("An undo has a name of its own.", status=422)
        if not self.store.undo(rater.id, name):
            raise Refused("There is nothing to take back.")
        return self.fragment(rater)

    # questions about answers ────────────────────────────────────────────────────────────────────────────────────────
    def questions(self, request: Request) -> Response:
        """What the administrator asks of answers that this rater gave."""
        rater = self.rater(request)
        if rater is None:
            return HTMLResponse(page("message.html", title="Rating", text=NO_SESSION), status_code=401)
        asked = [(query, Question.model_validate(about)) for query, about in self.people.asked_of(rater.id)]
        return HTMLResponse(page("queries.html", round=self.store.round, asked=asked))

    def reply(self, rater: Rater, said: Mapping[str, Any]) -> Response:
        """Answer one."""
        number, text = said.get("query"), said.get("text")
        if not str(number).isdigit() or not isinstance(text, str) or len(text) > 4000:
            raise Refused("A reply is a text of at most 4,000 characters.", status=422)
        clean = text.encode("utf-8", "replace").decode().replace("\0", "")
        if not self.people.reply(rater.id, int(str(number)), clean):
            raise Refused("This question is not open to you.", status=404)
        return JSONResponse({"next": "/questions" if self.people.asked_of(rater.id) else "/rate"})

    def withdraw(self, rater: Rater, said: Mapping[str, Any]) -> Response:
        """Take the consent back."""
        self.people.withdraw(rater.id)
        response = JSONResponse({"next": "/"})
        response.delete_cookie(self.cookie)
        return response

    def posted(self, work: Work) -> Callable[[Request], Any]:
        """A handler of posts: reads the JSON, finds the rater, and says in plain words what is refused."""

        async def handler(request: Request) -> Response:
            said = await _json(request)
            return await run_in_threadpool(answered, request, said)

        def answered(request: Request, said: Mapping[str, Any]) -> Response:
            rater = self.rater(request)
            if rater is None:
                return _refusal(NO_SESSION, 401)
            try:
                return work(rater, said)
            except Refused as refused:
                return _refusal(refused.reason, refused.status)
            except ValidationError as error:
                detail = error.errors(include_url=False, include_input=False)[0]
                where = ".".join(str(part) for part in detail["loc"])
                return _refusal(f"{where}: {detail['msg']}" if where else str(detail["msg"]), 422)

        return handler


def _place(store: str) -> str:
    """A store by its place alone, however it was typed: raters keep their cookies when the server starts again."""
    if "://" not in store:
        return str(Path(store).resolve())
    return make_url(store)._replace(username=None, password=None).render_as_string()


async def _json(request: Request) -> Mapping[str, Any]:
    """The object that was posted; an empty one for anything else."""
    try:
        said = await request.json()
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _refusal(reason: str, status: int) -> JSONResponse:
    return JSONResponse({"error": reason}, status_code=status)


def _not_found(request: Request, error: Exception) -> Response:
    return HTMLResponse(page("message.html", title="Not found", text="There is no such page."), status_code=404)


def _broken(request: Request, error: Exception) -> Response:
    """Nothing of the error leaves the server; the page keeps the vote and sends it again."""
    return _refusal("The server met an error. What you said is kept on this page and will be sent again.", 500)


def new_token() -> str:
    """256 random bits for a link."""
    return secrets.token_urlsafe(32)
