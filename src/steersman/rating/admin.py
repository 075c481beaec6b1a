"""The administrator's pages: invitations, statistics of the raters, disputed questions, and queries to raters.

The token is printed when the server starts; a session ends with the server. The texts of raters and models are escaped
here as everywhere.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from steersman.errors import UserError
from steersman.rating.accounts import RaterAccounts, hashed
from steersman.rating.pages import page
from steersman.rating.rater_stats import round_stats
from steersman.rating.requests import Ask, Enter, Invite, RaterRef, posted
from steersman.rating.store import RatingStore, Refused
from steersman.rating.votes import arms, comparisons
from steersman.stats import Estimate


class Desk:
    """The administrator's session, and the raters' links."""

    def __init__(self, accounts: RaterAccounts, token: str, *, cookie: str, secure: bool) -> None:
        self.accounts, self.cookie, self.secure = accounts, cookie, secure
        self._token = hashed(token)
        self._sessions: set[str] = set()

    def routes(self) -> list[Route]:
        """The routes below /admin that all applications have."""
        return [
            Route("/admin/enter", posted(Enter, lambda request: request, self.enter), methods=["POST"]),
            Route("/admin/invite", posted(Invite, self.require_session, self.invite), methods=["POST"]),
            Route("/admin/again", posted(RaterRef, self.require_session, self.invite_again), methods=["POST"]),
            Route("/admin/revoke", posted(RaterRef, self.require_session, self.revoke), methods=["POST"]),
        ]

    def has_session(self, request: Request) -> bool:
        """Whether the request comes from an administrator's session."""
        return hashed(request.cookies.get(self.cookie, "")) in self._sessions

    def require_session(self, request: Request) -> None:
        """Refuse all but the administrator."""
        if not self.has_session(request):
            raise Refused("The administrator's token is needed.", status=401)

    def shown(self, request: Request, figures: Callable[[], str]) -> Response:
        """A page of the administrator, or the login form."""
        return HTMLResponse(figures() if self.has_session(request) else page("enter.html", title="Administration"))

    def enter(self, request: Request, body: Enter) -> Response:
        """Exchange the token for a session."""
        if not secrets.compare_digest(hashed(body.token), self._token):
            raise Refused("This is not the token that the server printed.", status=403)
        session = secrets.token_urlsafe(32)
        self._sessions.add(hashed(session))
        response = JSONResponse({"next": "admin"})
        secure = self.secure or request.url.scheme == "https"
        # Without a path it is for what lies beside /admin/enter, at whatever path the browser sees that.
        response.set_cookie(self.cookie, session, path=None, httponly=True, samesite="strict", secure=secure)
        return response

    def invite(self, _: None, body: Invite) -> Response:
        """A link for a new rater; it is shown once."""
        return JSONResponse({"token": self.accounts.invite(body.name, body.group)})

    def invite_again(self, _: None, body: RaterRef) -> Response:
        """A new link for a rater who lost the session."""
        token = self.accounts.invite_again(body.rater)
        if token is None:
            raise UserError("there is no such rater, or the consent was withdrawn")
        return JSONResponse({"token": token})

    def revoke(self, _: None, body: RaterRef) -> Response:
        """End a rater's session."""
        self.accounts.revoke(body.rater)
        return JSONResponse({"next": "admin"})


class AdminPages(Desk):
    """The administrator's handlers of a round of questions."""

    def __init__(self, store: RatingStore, accounts: RaterAccounts, token: str, *, cookie: str, secure: bool) -> None:
        super().__init__(accounts, token, cookie=cookie, secure=secure)
        self.store = store

    def routes(self) -> list[Route]:
        """All routes below /admin."""
        return [
            *super().routes(),
            Route("/admin", self.show),
            Route("/admin/ask", posted(Ask, self.require_session, self.ask), methods=["POST"]),
        ]

    def show(self, request: Request) -> Response:
        """The page, or the login form."""
        return self.shown(request, self.figures)

    def figures(self) -> str:
        """Statistics of the raters, disputed questions, replies."""
        from steersman.rating.active import gain  # brings torch
        from steersman.rating.raters import card

        votes = self.store.votes()
        rows = comparisons(votes)
        stats, rated = round_stats(votes), card(rows)
        values = {
            "round": self.store.round,
            "raters": self.accounts.all(),
            "stats": stats,
            "stats_of": {one.rater: one for one in stats.raters},
            "card": rated,
            "first_of_equals": {name: _first_of_equals(one) for name, one in rated["raters"].items()},
            "gain": gain(rows, arms(rows)),
            "questions": dict(self.store.questions()),
            "answered": sum(vote.kind == "vote" for vote in votes),
            "replies": self.accounts.replies(),
        }
        return page("admin.html", **values)

    def ask(self, _: None, body: Ask) -> Response:
        """Send a query to the raters of an item."""
        count = self.accounts.ask(body.item, body.text)
        return JSONResponse({"told": f"Asked of {count} rater{'s' if count > 1 else ''}."})


def _first_of_equals(rater: Mapping[str, float]) -> Estimate:
    """How often a rater chooses the answer shown first of two equally good ones, from the side bias in logits."""
    bias, error = rater["side_bias"], 1.96 * rater["side_bias_error"]
    value, low, high = (1 / (1 + math.exp(-logits)) for logits in (bias, bias - error, bias + error))
    return Estimate(value, low, high, 0)
