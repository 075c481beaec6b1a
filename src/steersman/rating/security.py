"""What stands between the network and the application: limits of size, time and rate, and headers for the browser."""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 512 * 1024  # bytes: a rationale and an edited answer of the longest kind, in any script
BODY_S = 20.0  # to send it
RATE_PER_S, BURST = 10.0, 40.0  # requests of one session (of one address, where there is none)
DOORS = ("/join", "/admin/enter")  # where tokens are tried
BUCKETS = 10_000  # sessions remembered

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class _Turned(Exception):
    """A request that goes no further."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Defences:
    """ASGI middleware around the whole application.

    Args:
        cookie: the name of the session's cookie, by which requests are counted.
        origin: of the application's pages where a proxy gives them another than the requests' host, such as
            https://rating.example.org.
        monotonic: seconds that never run backwards.
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
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is left, and when that was

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or turn it away."""
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
                receive = await _read(headers, receive)
        except _Turned as turned:
            body = json.dumps({"error": turned.reason}).encode()
            head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await sending({"type": "http.response.start", "status": turned.status, "headers": head})
            await sending({"type": "http.response.body", "body": body})
            return
        await self._app(scope, receive, sending)

    def _count(self, scope: Scope, headers: Headers) -> None:
        """A bucket that fills at `RATE_PER_S` up to `BURST`, for every session or address."""
        if scope["path"].startswith("/static/"):
            return
        cookies = dict(part.strip().partition("=")[::2] for part in headers.get("cookie", "").split(";"))
        address, session = (scope.get("client") or ("",))[0], cookies.get(self._cookie)
        # A cookie is what its sender says; whoever tries tokens is counted by address.
        by_address = scope["path"] in DOORS or not session
        # Apart, or a cookie with another's address in it would use up what that one has.
        who = f"address {address}" if by_address else f"session {session}"
        now = self._monotonic()
        left, then = self._buckets.pop(who, (BURST, now))
        left = min(BURST, left + (now - then) * RATE_PER_S)
        # What is refused takes nothing, or whoever tries again often enough would never get in.
        self._buckets[who] = (left - 1 if left >= 1 else left, now)
        while len(self._buckets) > BUCKETS:
            self._buckets.popitem(last=False)
        if left < 1:
            raise _Turned(429, "Too many requests. Wait a moment.")


def _same_origin(headers: Headers, outside: str | None) -> None:
    """Only the application's own pages may post: a form on another site can send neither this type nor this origin."""
    if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise _Turned(415, "Only JSON is read here.")
    origin = headers.get("origin")
    if origin not in (None, outside) and origin.partition("://")[2] != headers.get("host"):
        raise _Turned(403, "This came from another site.")


async def _read(headers: Headers, receive: Receive) -> Receive:
    """The whole body, if it is small and comes in time."""
    declared = headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > LARGEST_BODY:
        raise _Turned(413, f"More than {LARGEST_BODY // 1024} KiB.")
    body, more = b"", True
    try:
        async with asyncio.timeout(BODY_S):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Turned(400, "The connection ended before the message did.")
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > LARGEST_BODY:
                    raise _Turned(413, f"More than {LARGEST_BODY // 1024} KiB.")
    except TimeoutError:
        raise _Turned(408, f"The message took longer than {BODY_S:.0f} seconds.") from None
    sent = False

    async def again() -> dict[str, Any]:
        nonlocal sent
        if sent:
            return {"type": "http.disconnect"}
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
