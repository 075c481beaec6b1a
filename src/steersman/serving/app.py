"""The application over HTTP: OpenAI's paths, keys, limits, errors. Pure ASGI by Starlette."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from steersman.serving.api import decoded
from steersman.serving.errors import ApiError
from steersman.serving.service import Service

MOST_BYTES = 4 * 2**20  # of a request's body
STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class App:
    """Serves a `Service`.

    Args:
        keys: of which a client has to send one (``Authorization: Bearer KEY``); none: everybody is served.
        hosts: names under which requests are accepted, without ports, against pages of other sites that point their
            name at this machine; None: any.
    """

    def __init__(self, service: Service, keys: Sequence[str] = (), hosts: Sequence[str] | None = None) -> None:
        self.service = service
        self.hosts = None if hosts is None else {host.lower() for host in hosts}
        self._keys = [hashlib.sha256(key.encode()).digest() for key in keys]
        self.statuses: dict[int, int] = {}
        post, get = ["POST"], ["GET"]
        self.asgi = Starlette(
            routes=[
                Route("/v1/chat/completions", self._guarded(self._chat), methods=post),
                Route("/v1/completions", self._guarded(self._text), methods=post),
                Route("/v1/models", self._guarded(self._models), methods=get),
                Route("/v1/models/{name}", self._guarded(self._model), methods=get),
                Route("/health", self._guarded(self._health, keyless=True), methods=get),
                Route("/metrics", self._guarded(self._metrics), methods=get),
            ],
            exception_handlers={HTTPException: self._not_there, Exception: self._fault},
            lifespan=self._lifespan,
        )
        self.asgi.router.redirect_slashes = False  # a redirect would repeat the client's own host name

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.to_thread(self.service.engine.close)

    # ── every request ────────────────────────────────────────────────────────────────────────────────────────────────
    def _guarded(
        self, handle: Callable[[Request], Awaitable[Response]], *, keyless: bool = False
    ) -> Callable[[Request], Awaitable[Response]]:
        """The handler, for those who may, with errors in OpenAI's shape."""

        async def endpoint(request: Request) -> Response:
            try:
                self._check_host(request)
                if not keyless:
                    self._check_key(request)
                response = await handle(request)
            except ApiError as error:
                response = refusal(error)
            self.statuses[response.status_code] = self.statuses.get(response.status_code, 0) + 1
            return response

        return endpoint

    def _check_host(self, request: Request) -> None:
        host = request.headers.get("host", "").lower()
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        if self.hosts is not None and name not in self.hosts:
            raise ApiError(f"This server is not {name[:80]!r}.", status=421, code="wrong_host")

    def _check_key(self, request: Request) -> None:
        if not self._keys:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        given = hashlib.sha256(key.strip().encode()).digest()
        known = [hmac.compare_digest(given, mine) for mine in self._keys]  # all of them: time tells nothing
        if scheme.lower() != "bearer" or not any(known):
            found = "Incorrect API key provided" if key else "You did not provide an API key"
            raise ApiError(f"{found}: send 'Authorization: Bearer KEY'.", status=401, code="invalid_api_key")

    async def _body(self, request: Request) -> bytes:
        """The body of a POST, within the limit."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            found = f"The content type is {kind[:60]!r}" if kind else "There is no content type"
            raise ApiError(f"{found}; send application/json.", status=415, code="unsupported_media_type")
        too_large = ApiError(f"The body is larger than {MOST_BYTES} bytes.", status=413, code="request_too_large")
        length = request.headers.get("content-length", "0")
        if length.isdigit() and int(length[:20]) > MOST_BYTES:
            raise too_large
        parts, size = list[bytes](), 0
        async for part in request.stream():
            size += len(part)
            if size > MOST_BYTES:
                raise too_large
            parts.append(part)
        return b"".join(parts)

    # ── completions ──────────────────────────────────────────────────────────────────────────────────────────────────
    async def _chat(self, request: Request) -> Response:
        return await self._complete(request, chat=True)

    async def _text(self, request: Request) -> Response:
        return await self._complete(request, chat=False)

    async def _complete(self, request: Request, *, chat: bool) -> Response:
        try:
            body = decoded(await self._body(request))
        except ClientDisconnect:
            return Response(status_code=499)
        call = await self.service.prepare(body, chat=chat)
        if call.streams:
            chunks = self.service.chunks(call)
            await anext(chunks)  # a refusal has a status of its own
            return StreamingResponse(_events(chunks), media_type="text/event-stream", headers=STREAM_HEADERS)
        answered = asyncio.ensure_future(self.service.answer(call))
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait((answered, gone), return_when=asyncio.FIRST_COMPLETED)
            return sent(await answered) if answered.done() else Response(status_code=499)
        finally:
            for task in (answered, gone):
                task.cancel()

    # ── what is there ────────────────────────────────────────────────────────────────────────────────────────────────
    async def _models(self, request: Request) -> Response:
        return sent(self.service.listed())

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.service.models:
            raise ApiError(f"The model {name[:100]!r} does not exist here.", status=404, code="model_not_found")
        return sent(self.service.about(name))

    async def _health(self, request: Request) -> Response:
        alive = self.service.engine.alive
        return sent({"status": "ok" if alive else "ending"}, 200 if alive else 503)

    async def _metrics(self, request: Request) -> Response:
        engine, counters = self.service.engine, self.service.engine.counters
        lines = []
        for name, value in (("running", engine.running), ("waiting", engine.queued)):
            lines += [f"# TYPE steersman_sequences_{name} gauge", f"steersman_sequences_{name} {value}"]
        for name, value in vars(counters).items():
            metric = f"steersman_{name.removesuffix('_s')}{'_seconds' if name.endswith('_s') else ''}_total"
            lines += [f"# TYPE {metric} counter", f"{metric} {value}"]
        lines.append("# TYPE steersman_responses_total counter")
        lines += [f'steersman_responses_total{{status="{s}"}} {n}' for s, n in sorted(self.statuses.items())]
        return Response("\n".join([*lines, ""]), media_type="text/plain; version=0.0.4")

    # ── what is not there ────────────────────────────────────────────────────────────────────────────────────────────
    async def _not_there(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        what = {404: "There is nothing at this path", 405: f"{request.method} is not answered at this path"}
        said = what.get(error.status_code, "The request cannot be answered")
        path = request.url.path[:100]
        self.statuses[error.status_code] = self.statuses.get(error.status_code, 0) + 1
        return refusal(ApiError(f"{said}: {path}.", status=error.status_code, code="unknown_url"), error.headers)

    async def _fault(self, request: Request, error: Exception) -> Response:
        self.statuses[500] = self.statuses.get(500, 0) + 1
        return refusal(ApiError("The server made a mistake; its log says which.", status=500, code="internal_error"))


def encoded(value: Any) -> bytes:
    """JSON as it is sent; half a surrogate pair, which a client can send and nobody can encode, becomes a question
    mark."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", errors="replace")


def sent(value: Any, status: int = 200) -> Response:
    """A JSON response."""
    return Response(encoded(value), status, media_type="application/json")


def refusal(error: ApiError, headers: Any = None) -> Response:
    """An error in OpenAI's shape."""
    more = {"retry-after": "1"} if error.status in (429, 503) else {}
    more |= {"www-authenticate": "Bearer"} if error.status == 401 else {}
    return Response(
        encoded(error.body()), error.status, headers={**(headers or {}), **more}, media_type="application/json"
    )


async def _events(chunks: Any) -> AsyncIterator[bytes]:
    """Server-sent events: one for each chunk, then ``[DONE]``; after an error the stream ends without it."""
    try:
        async for chunk in chunks:
            yield b"data: " + encoded(chunk) + b"\n\n"
        yield b"data: [DONE]\n\n"
    except ApiError as error:
        yield b"data: " + encoded(error.body()) + b"\n\n"
    finally:
        await chunks.aclose()


async def _disconnected(request: Request) -> None:
    """Returns when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
