"""Pure ASGI middleware: limits of request size, time and rate, the check of origins, security headers, the prefix."""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 512 * 1024  # bytes: the longest rationale and edited answer, in any script
BODY_S = 20.0  # until the whole body has arrived
RATE_PER_S, BURST = 10.0, 40.0  # requests of one session (of one address, where there is none)
LOGINS = ("/join", "/study", "/admin/enter")  # where tokens can be guessed
MAX_BUCKETS = 10_000  # sessions and addresses that are counted

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    # By this the pages tell an answer of this server from the login or error page of something before it.
    "X-Steersman": "rating",
}


class _Rejected(Exception):
    """A request that does not reach the application."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class SecurityMiddleware:
    """ASGI middleware around the whole application.

    Args:
        cookie: the name of the session's cookie, by which requests are counted.
        origin: of the application's pages, where a proxy makes it differ from the requests' host, such as
            https://rating.example.org.
        monotonic: a monotonic clock in seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        cookie: str,
        origin: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app, self._cookie, self._origin, self._monotonic = app, cookie, origin, monotonic
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens left, and when

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or reject it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            headers = Headers(scope=scope)
            self._count(scope, headers)
            if scope["method"] not in ("GET", "HEAD"):
                _same_origin(headers, self._origin)
                receive = await _read_body(headers, receive)
        except _Rejected as rejected:
            body = json.dumps({"error": rejected.reason}).encode()
            head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await sending({"type": "http.response.start", "status": rejected.status, "headers": head})
            await sending({"type": "http.response.body", "body": body})
            return
        await self._app(scope, receive, sending)

    def _count(self, scope: Scope, headers: Headers) -> None:
        """A token bucket for each session or address: `RATE_PER_S`, up to `BURST`."""
        if scope["path"].startswith("/static/"):
            return
        cookies = dict(part.strip().partition("=")[::2] for part in headers.get("cookie", "").split(";"))
        address, session = (scope.get("client") or ("",))[0], cookies.get(self._cookie)
        # Cookies can be forged, so attempts to log in are counted by address.
        by_address = scope["path"] in LOGINS or not session
        # Two name spaces, or a cookie that holds an address would use up that address's tokens.
        key = f"address {address}" if by_address else f"session {session}"
        now = self._monotonic()
        left, then = self._buckets.pop(key, (BURST, now))
        left = min(BURST, left + (now - then) * RATE_PER_S)
        # A rejected request takes no token, or frequent retries would never succeed.
        self._buckets[key] = (left - 1 if left >= 1 else left, now)
        while len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        if left < 1:
            raise _Rejected(429, "Too many requests. Wait a moment.")


class PrefixMiddleware:
    """Takes the public path's prefix off, where a proxy has left it on; links and cookies are relative to the page.

    Args:
        prefix: such as /user/ann/proxy/8642; empty for the root.
        own: whether a path without the prefix is one of the application's. A prefix may look like one of them.
    """

    def __init__(self, app: ASGIApp, *, prefix: str, own: Callable[[str], bool]) -> None:
        self._app, self._prefix, self._own = app, prefix, own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, under the application's own path."""
        path = scope["path"] if scope["type"] == "http" and self._prefix else ""
        rest = path[len(self._prefix) :] if path.startswith(f"{self._prefix}/") else ""
        if rest and self._own(rest):
            scope = {**scope, "path": rest}
        elif path and path == self._prefix and not self._own(path):  # without the slash, links would lead elsewhere
            await RedirectResponse(f"{self._prefix}/", status_code=307)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _same_origin(headers: Headers, public: str | None) -> None:
    """Only the application's own pages may post: a form of another site can send neither this type nor this origin."""
    if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise _Rejected(415, "Only JSON is read here.")
    origin = headers.get("origin")
    if origin not in (None, public) and origin.partition("://")[2] != headers.get("host"):
        raise _Rejected(403, "This came from another site.")


async def _read_body(headers: Headers, receive: Receive) -> Receive:
    """A receive channel with the whole body, after checking its size and time."""
    declared = headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > MAX_BODY:
        raise _Rejected(413, f"More than {MAX_BODY // 1024} KiB.")
    body, more = b"", True
    try:
        async with asyncio.timeout(BODY_S):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Rejected(400, "The connection ended before the message did.")
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > MAX_BODY:
                    raise _Rejected(413, f"More than {MAX_BODY // 1024} KiB.")
    except TimeoutError:
        raise _Rejected(408, f"The message took longer than {BODY_S:.0f} seconds.") from None
    sent = False

    async def again() -> dict[str, Any]:
        nonlocal sent
        if sent:
            return {"type": "http.disconnect"}
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
