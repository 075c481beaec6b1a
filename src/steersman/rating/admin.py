"""The administrator's page: who was invited, how they work, where they disagree, and a word with them.

It has a token of its own, printed when the server starts; its session ends with the server. The texts of raters and
models are escaped here as everywhere.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from steersman.errors import UserError
from steersman.rating.accounts import People, hashed
from steersman.rating.pages import page
from steersman.rating.rater_stats import standing
from steersman.rating.store import RatingStore
from steersman.rating.votes import arms, comparisons

LONGEST_QUERY = 2_000


class Desk:
    """The administrator's handlers."""

    def __init__(self, store: RatingStore, people: People, token: str, *, cookie: str, secure: bool) -> None:
        self.store, self.people, self.cookie, self.secure = store, people, cookie, secure
        self._token = hashed(token)
        self._sessions: set[str] = set()

    def routes(self) -> list[Route]:
        """All below /admin."""
        return [
            Route("/admin", self.show),
            Route("/admin/enter", self.enter, methods=["POST"]),
            Route("/admin/invite", self.posted(self.invite), methods=["POST"]),
            Route("/admin/again", self.posted(self.again), methods=["POST"]),
            Route("/admin/revoke", self.posted(self.revoke), methods=["POST"]),
            Route("/admin/ask", self.posted(self.ask), methods=["POST"]),
        ]

    def known(self, request: Request) -> bool:
        """Whether the request comes from an administrator's session."""
        return hashed(request.cookies.get(self.cookie, "")) in self._sessions

    def show(self, request: Request) -> Response:
        """The page, or the door."""
        if not self.known(request):
            return HTMLResponse(page("enter.html", title="Administration"))
        from steersman.rating.active import gain  # brings torch
        from steersman.rating.raters import card

        votes = self.store.votes()
        rows = comparisons(votes)
        questions = dict(self.store.questions())
        figures = standing(votes)
        shown = {
            "round": self.store.round,
            "raters": self.people.all(),
            "figures": {one.rater: one for one in figures.raters},
            "standing": figures,
            "believed": card(rows),
            "gain": gain(rows, arms(rows)),
            "questions": questions,
            "answered": sum(vote.kind == "vote" for vote in votes),
            "replies": self.people.replies(),
        }
        return HTMLResponse(page("desk.html", **shown))

    async def enter(self, request: Request) -> Response:
        """Exchange the token for a session."""
        said = await _object(request)
        token = str(said.get("token", ""))
        if not secrets.compare_digest(hashed(token), self._token):
            return JSONResponse({"error": "This is not the token that the server printed."}, status_code=403)
        session = secrets.token_urlsafe(32)
        self._sessions.add(hashed(session))
        response = JSONResponse({"next": "/admin"})
        secure = self.secure or request.url.scheme == "https"
        response.set_cookie(self.cookie, session, path="/admin", httponly=True, samesite="strict", secure=secure)
        return response

    def invite(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """A link for a new rater; it is shown once."""
        return {"token": self.people.invite(str(said.get("name", "")), str(said.get("group", "")))}

    def again(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """A new link for one who lost the session."""
        token = self.people.invite_again(_number(said.get("rater")))
        if token is None:
            raise UserError("there is no such rater, or the consent was withdrawn")
        return {"token": token}

    def revoke(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """End a rater's session."""
        self.people.revoke(_number(said.get("rater")))
        return {"next": "/admin"}

    def ask(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """Put a question to the raters of an item."""
        text = str(said.get("text", ""))
        if len(text) > LONGEST_QUERY:
            raise UserError(f"a question has at most {LONGEST_QUERY} characters")
        count = self.people.ask(_number(said.get("item")), text)
        return {"told": f"Asked of {count} rater{'s' if count > 1 else ''}."}

    def posted(self, work: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Callable[[Request], Any]:
        """A handler of posts for the administrator alone."""

        async def handler(request: Request) -> Response:
            if not self.known(request):
                return JSONResponse({"error": "The administrator's token is needed."}, status_code=401)
            said = await _object(request)
            try:
                return JSONResponse(await run_in_threadpool(work, said))
            except UserError as error:
                return JSONResponse({"error": str(error)}, status_code=422)

        return handler


def _number(value: object) -> int:
    text = str(value)
    return int(text) if text.isdecimal() and len(text) < 16 else -1


async def _object(request: Request) -> Mapping[str, Any]:
    try:
        said = await request.json()
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
