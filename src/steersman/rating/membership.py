"""What every application for raters has: invitations, sessions, consent, withdrawing, and the middleware around it.

Tokens travel in the part of a link after ``#``, which browsers do not send, so that no log and no link preview ever
holds one. All pages lie side by side, and links, posts and cookies are relative to them: the application works at any
path, without being told which.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

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
from steersman.rating.pages import page
from steersman.rating.participants import Participants, SharedLink, Visitor, visitor
from steersman.rating.requests import Empty, Join, JoinShared, Undo, posted, refusal
from steersman.rating.schema import Database
from steersman.rating.security import PrefixMiddleware, SecurityMiddleware
from steersman.rating.store import Refused
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


class Welcoming(Protocol):
    """The settings that a joining rater reads."""

    @property
    def title(self) -> str:
        """Heading."""

    @property
    def instructions(self) -> str:
        """The task."""

    @property
    def consent(self) -> str:
        """What a rater agrees to."""


class Opened(Protocol):
    """A store in which a round has begun."""

    where: str
    database: Database

    @property
    def round(self) -> Welcoming:
        """Its settings."""


class Asking(Opened, Protocol):
    """A store whose votes can be taken back."""

    def undo(self, rater: int, submission: str) -> bool:
        """Undo the rater's last vote; False if there is none left."""


class Membership:
    """The handlers of coming, going on and withdrawing.

    Args:
        opened: a store in which a round has begun.
        origin, prefix: of the public URL, where the server is behind a proxy (`Address.origin`, `Address.prefix`).
        shared: the link of a recruiting service (Prolific); None: there is none.
    """

    def __init__(self, opened: Opened, origin: str | None, prefix: str, shared: SharedLink | None) -> None:
        self.opened, self.accounts, self.origin, self.prefix = opened, RaterAccounts(opened.database), origin, prefix
        self.participants = Participants(opened.database, shared or SharedLink())
        # Cookies ignore ports: two rounds on one machine need two names.
        self.cookie = f"rater_{sha256_text(_canonical_place(opened.where))[:8]}"
        # Of cookies; a request's scheme may be that between proxy and server.
        self.secure = (origin or "").startswith("https://")

    @property
    def admin_cookie(self) -> str:
        """The name of the administrator's cookie."""
        return self.cookie.replace("rater", "desk")

    def routes(self) -> list[Route]:
        """Coming, going on and withdrawing; an application adds its own."""

        def anyone(request: Request) -> Request:
            return request

        return [
            Route("/", self.home),
            Route("/join", self.join_page),
            Route("/join", posted(Join, anyone, self.join, invalid=400), methods=["POST"]),
            Route("/study", self.study_page),
            Route("/study", posted(JoinShared, anyone, self.join_shared, invalid=400), methods=["POST"]),
            Route("/leave", self.leave),
            Route("/withdraw", posted(Empty, self.require_rater, self.withdraw), methods=["POST"]),
            Route("/left", self.left),
        ]

    def asgi(self, hosts: tuple[str, ...] = ("127.0.0.1", "localhost")) -> Starlette:
        """The application with its middleware. Requests under other host names are refused (DNS rebinding)."""
        routes = self.routes()
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
        """What runs beside the server: nothing, unless an application says otherwise."""
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
            return RedirectResponse("rate", status_code=303)
        return HTMLResponse(page("message.html", title="Rating", text=NO_SESSION))

    def shown(self, rater: RaterAccount | None, template: str, **values: Any) -> Response:
        """A page of a rater with a session; for others, that their invitation is needed."""
        if rater is None:
            return HTMLResponse(page("message.html", title="Rating", text=NO_SESSION), status_code=401)
        return HTMLResponse(page(template, round=self.opened.round, rater=self.browser_key(rater), **values))

    def browser_key(self, rater: RaterAccount) -> str:
        """A name under which a browser keeps what this rater has said and the server has not confirmed."""
        return f"{self.cookie}-{rater.id}"

    def join_page(self, request: Request) -> Response:
        """The page of an invitation's link: instructions and consent. The token is after the ``#``."""
        return HTMLResponse(page("join.html", round=self.opened.round, going_on=self.rater(request) is not None))

    def join(self, request: Request, body: Join) -> Response:
        """Use a link, for the first time with a consent."""
        session = self.accounts.join(body.token, self.opened.round.consent if body.consent else None)
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
        return HTMLResponse(page("join.html", round=self.opened.round, going_on=False, visitor=who, key=key))

    def join_shared(self, request: Request, body: JoinShared) -> Response:
        """Begin or go on as a participant, for the first time with a consent."""
        if not self.participants.open_to(body.key):
            raise Refused(NO_STUDY, status=404)
        who = Visitor(body.participant, body.study, body.session)
        session = self.participants.join(who, self.opened.round.consent if body.consent else None)
        return JSONResponse(AGREE) if session is None else self.begun(request, session)

    # the end ────────────────────────────────────────────────────────────────────────────────────────────────────────
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


class Screen(NamedTuple):
    """What a rater sees: the templates of the page and of its inside, which the script puts in place, and their values.

    Attributes:
        values: of the rater's next question.
    """

    whole: str
    part: str
    values: Callable[[RaterAccount], dict[str, Any]]


class Voting(Membership):
    """The handlers of one question after another; the screen says which, the store keeps the votes.

    Args:
        asking: a store in which a round has begun.
        origin, prefix, shared: see `Membership`.
    """

    def __init__(
        self, asking: Asking, origin: str | None, prefix: str, shared: SharedLink | None, screen: Screen
    ) -> None:
        super().__init__(asking, origin, prefix, shared)
        self.asking, self.screen = asking, screen

    def routes(self) -> list[Route]:
        """The question, and taking the last vote back."""
        return [
            *super().routes(),
            Route("/rate", self.rate),
            Route("/task", self.task),
            Route("/undo", posted(Undo, self.require_rater, self.undo), methods=["POST"]),
        ]

    def rate(self, request: Request) -> Response:
        """The page with the rater's question."""
        rater = self.rater(request)
        return self.shown(rater, self.screen.whole, **(self.screen.values(rater) if rater else {}))

    def task(self, request: Request) -> Response:
        """The rater's question as a fragment of the page."""
        return self.fragment(self.require_rater(request))

    def fragment(self, rater: RaterAccount) -> Response:
        """The inside of the page."""
        return HTMLResponse(page(self.screen.part, round=self.opened.round, **self.screen.values(rater)))

    def undo(self, rater: RaterAccount, body: Undo) -> Response:
        """Undo the last vote, and show its question again."""
        if not self.asking.undo(rater.id, body.submission):
            raise Refused("There is nothing to take back.")
        return self.fragment(rater)


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
