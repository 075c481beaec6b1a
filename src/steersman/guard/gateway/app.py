"""The gateway: an OpenAI-compatible server that stands before a model and enforces a constitution. Pure ASGI.

    POST /v1/chat/completions, /v1/completions   judged, passed on, and the answer judged; in pieces or whole
    GET  /v1/models, /v1/models/NAME             the upstream's models, or the configured names
    POST /v1/moderations, /v1/checks             answered here, without the upstream
    GET  /health, /health/live, /health/ready, /metrics

Every request ends in one way: an answer, a refusal, or one error in OpenAI's shape. Nothing that no rail has seen is
sent, to the upstream or to the client. A client that goes away ends the work that was done for it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Message, Receive, Scope, Send

from steersman.guard.gateway import blocks, local
from steersman.guard.gateway.answers import Answers
from steersman.guard.gateway.chat_api import ApiRequest, BadRequest, parse_body, read_chat, read_completion
from steersman.guard.gateway.json_text import dumped, is_name
from steersman.guard.gateway.limits import Refused
from steersman.guard.gateway.relay import Relay
from steersman.guard.gateway.state import Call, GatewayState
from steersman.guard.gateway.upstream import Reply, UpstreamError
from steersman.guard.refusals import refusal_of
from steersman.guard.streaming import ajudged, stricter
from steersman.guard.verdict import Exchange, Part, Ruling, Side

LOG = logging.getLogger("steersman.guard")
DRAINED = 8  # a body up to 8 times the limit is read to its end, so that the client sees the answer
_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(?::\d{1,5})?")
_CHARSET = re.compile(r"""charset\s*=\s*["']?([^"';,\s]*)""", re.IGNORECASE)
# Headers that decide who asks and how the body is read; given twice, two readers could take two values.
_ONCE = ("authorization", "api-key", "x-api-key", "content-type")


class ClientGone(Exception):
    """The client closed its connection before the answer was sent."""


class Sender:
    """The answer to one call: a whole one, or a stream of events."""

    def __init__(self, send: Send, call: Call) -> None:
        self._send, self._call = send, call
        self.started = self.ended = False

    async def json(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        """Send one JSON object."""
        await self.whole(status, dumped(body), {"content-type": "application/json", **headers})

    async def whole(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        """Send one body."""
        await self._start(status, {**headers, "content-length": str(len(content))})
        self.ended = True
        await self._send({"type": "http.response.body", "body": content})

    async def event(self, value: bytes, headers: Mapping[str, str]) -> None:
        """Send one event; the first one begins the stream."""
        if not self.started:
            kind = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
            await self._start(200, {**kind, "x-accel-buffering": "no", **headers})
        await self._send({"type": "http.response.body", "body": value, "more_body": True})

    async def end(self) -> None:
        """End the stream."""
        self.ended = True
        await self._send({"type": "http.response.body", "body": b""})

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        self.started, self._call.status = True, status
        self._call.sent_s = time.monotonic() - self._call.started
        every = {"x-request-id": self._call.id, **self._call.response_headers, **headers}
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in every.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})


Handle = Callable[["Incoming"], Coroutine[Any, Any, None]]


class Incoming:
    """One call, as its handler sees it."""

    def __init__(self, state: GatewayState, call: Call, receive: Receive, sender: Sender) -> None:
        self.state, self.call, self.sender, self._receive = state, call, sender, receive
        self.parts: tuple[Part, ...] = ()
        self.path_params: Mapping[str, Any] = {}

    async def body(self) -> dict[str, Any]:
        """The JSON object in the body.

        Raises:
            BadRequest: it is none, too long, or of another type. ClientGone.
        """
        headers = self.call.headers
        kind, _, more = headers.get("content-type", "").partition(";")
        if kind.strip().lower() != "application/json":
            await self._drained()
            raise BadRequest("the body must be application/json", code="unsupported_media_type", status=415)
        if not all(charset.lower() in ("utf-8", "utf8", "us-ascii") for charset in _CHARSET.findall(more)):
            raise BadRequest("the body must be UTF-8", code="unsupported_media_type", status=415)
        if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            await self._drained()
            raise BadRequest("the body must not be compressed", code="unsupported_media_type", status=415)
        try:
            async with asyncio.timeout(self.state.settings.body_s):
                raw = await self._read()
        except TimeoutError:
            raise BadRequest("the body did not arrive in time", code="request_timeout", status=408) from None
        return await asyncio.to_thread(parse_body, raw) if len(raw) > 100_000 else parse_body(raw)

    async def _read(self) -> bytes:
        limit, chunks, size = self.state.settings.body_bytes, list[bytes](), 0
        while True:
            message = await self._message()
            size += len(message.get("body", b""))
            if size <= limit:
                chunks.append(message.get("body", b""))
            elif size > limit * DRAINED:
                break
            if not message.get("more_body"):
                break
        if size > limit:
            raise BadRequest(f"the body is larger than {limit:,} bytes", code="request_too_large", status=413)
        return b"".join(chunks)

    async def _drained(self) -> None:
        with suppress(BadRequest, TimeoutError):
            async with asyncio.timeout(self.state.settings.body_s):
                await self._read()

    async def _message(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        return message

    async def gone(self) -> None:
        """Wait until the client closes its connection."""
        while (await self._receive())["type"] != "http.disconnect":
            continue


class Endpoint:
    """An ASGI application that handles one path: lets a call in, runs its handler, and answers for what it raises."""

    def __init__(self, state: GatewayState, path: str, handle: Handle, hosts: tuple[str, ...]) -> None:
        self._state, self._path, self._handle, self._hosts = state, path, handle, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = _headers_of(scope)
        given = headers.get("x-request-id", "")
        id = given if _ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        call = Call(id, self._path, headers, self._state.guard)
        sender = Sender(send, call)
        incoming = Incoming(self._state, call, receive, sender)
        incoming.path_params = scope.get("path_params", {})
        try:
            if not known_host(headers, self._hosts):
                raise BadRequest("this server is not known under that name", code="unknown_host", status=421)
            self._check_head(scope, call)
            async with self._state.hooks.admitted(call):
                await self._handle(incoming)
        except ClientGone:
            call.status = 499
        except Exception as error:
            await self._failed(incoming, error)
        finally:
            with suppress(Exception):
                await self._state.hooks.ended(call)

    @staticmethod
    def _check_head(scope: Scope, call: Call) -> None:
        """Refuse headers that two servers in a row could read in two ways."""
        names = [name.decode("latin-1").lower() for name, _ in scope["headers"]]
        if "content-length" in names and "transfer-encoding" in names:
            call.response_headers["connection"] = "close"  # RFC 9112, 6.1: what follows may be smuggled
            raise BadRequest("the request has both Content-Length and Transfer-Encoding", code="invalid_headers")
        for name in _ONCE:
            if names.count(name) > 1:
                raise BadRequest(f"the request has the header {name} more than once", code="invalid_headers")

    async def _failed(self, incoming: Incoming, error: Exception) -> None:
        """Answer with the one error that an exception stands for."""
        sender, call = incoming.sender, incoming.call
        headers: dict[str, str] = {}
        if isinstance(error, BadRequest):
            status, body = (
                error.status,
                blocks.error_body(error.status, error.message, code=error.code, param=error.param),
            )
        elif isinstance(error, Refused):
            status, body = error.status, blocks.error_body(error.status, error.message, code=error.code)
            headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
        elif isinstance(error, UpstreamError):
            status, headers, call.upstream_status = error.status, error.headers, error.code or "error"
            body = await _upstream_error(incoming, error)
        else:
            place = _place(error)
            LOG.error("request %s failed: %s at %s", call.id, type(error).__name__, place)
            status, body = 500, blocks.error_body(500, f"the gateway failed (request {call.id})", code="internal_error")
        call.error_code = str(body["error"]["code"] or "")
        if sender.ended:
            return
        with suppress(Exception):  # the client may be gone
            if sender.started:
                call.status = status
                await sender.event(blocks.event(body), {})
                await sender.event(blocks.DONE, {})
                await sender.end()
            else:
                await sender.json(status, body, headers)


async def _upstream_error(incoming: Incoming, error: UpstreamError) -> dict[str, Any]:
    """An upstream's error as ours; its own words pass only where no rail objects."""
    incoming.state.last_upstream_error = (error.code or "") if error.status >= 500 else ""
    message = error.message
    if error.said:
        ruling = await ajudged(incoming.call.guard, Exchange(incoming.parts, answer=message))
        message = f"the upstream answers with an error ({error.status})" if ruling.stops else message
    return blocks.error_body(error.status, message, code=error.code, param=error.param)


async def while_connected(incoming: Incoming, work: Coroutine[Any, Any, None]) -> None:
    """Do the work, and end it when the client goes away."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(incoming.gone())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


# ── completions ──────────────────────────────────────────────────────────────────────────────────────────────────────
class Completions:
    """Handles chat completions, or completions of text."""

    def __init__(self, kind: str) -> None:
        self._read = read_completion if kind == "completion" else None

    async def __call__(self, incoming: Incoming) -> None:
        """Judge, ask the upstream, judge, answer."""
        state, call = incoming.state, incoming.call
        body = await incoming.body()
        request = self._read(body) if self._read else read_chat(body, trust_system=state.settings.trust_system)
        call.model, call.streamed = request.model, request.stream
        incoming.parts = request.exchange.parts
        await while_connected(incoming, self._answer(incoming, request, body))

    async def _answer(self, incoming: Incoming, request: ApiRequest, body: Mapping[str, Any]) -> None:
        state = incoming.state
        await state.hooks.before(incoming.call, body, sum(len(part.text) for part in request.exchange.parts))
        ruling = await state.judge(incoming.call, request.exchange)
        if ruling.stops and not (ruling.decision == "redact" and request.redacted(ruling)):
            await self._blocked(incoming, request, ruling)
        elif request.stream:
            await self._stream(incoming, request, ruling)
        else:
            await self._whole(incoming, request, ruling)

    async def _blocked(self, incoming: Incoming, request: ApiRequest, ruling: Ruling) -> None:
        """The answer to a request that the upstream never sees."""
        call, settings = incoming.call, incoming.state.settings
        text = refusal_of(ruling, request.exchange, call.guard.constitution)
        headers = blocks.headers_of(ruling, call.id)
        told = blocks.guardrail(ruling, "input", settings.evidence)
        if settings.blocks == "error":
            await incoming.sender.json(400, blocks.blocked_error(text, told, "input"), headers)
        elif not request.stream:
            await incoming.sender.json(200, blocks.blocked_answer(request, text, told), headers)
        else:
            head = blocks.head_of(request, stream=True)
            pieces = [blocks.blocked_piece(request.kind, i, text, begun=False) for i in range(request.choices)]
            await incoming.sender.event(blocks.event({**head, "choices": pieces, "guardrail": told}), headers)
            if request.include_usage:
                await incoming.sender.event(blocks.event({**head, "choices": [], "usage": blocks.NO_USAGE}), headers)
            await incoming.sender.event(blocks.DONE, headers)
            await incoming.sender.end()

    async def _whole(self, incoming: Incoming, request: ApiRequest, ruling: Ruling) -> None:
        state, call = incoming.state, incoming.call
        reply = await state.upstream_of(call).complete(_path(request), request.body, call.headers)
        state.last_upstream_error, call.upstream_status = "", "ok"
        answer, output = await Answers(state, call, request).screened(reply.body)
        await self._send_whole(incoming, request, answer, ruling, output, reply)

    async def _send_whole(
        self,
        incoming: Incoming,
        request: ApiRequest,
        answer: dict[str, Any],
        ruling: Ruling,
        output: Ruling,
        reply: Reply,
    ) -> None:
        strictest, settings = stricter(ruling, output), incoming.state.settings
        headers = {**reply.headers, **blocks.headers_of(strictest, incoming.call.id)}
        side: Side = "input" if strictest is ruling else "output"
        if strictest.decision != "allow":
            answer["guardrail"] = blocks.guardrail(strictest, side, settings.evidence)
        choices = answer["choices"]
        if settings.blocks == "error" and output.stops and all(c["finish_reason"] == "content_filter" for c in choices):
            text = refusal_of(output, Exchange(request.exchange.parts, answer=""), incoming.call.guard.constitution)
            told = blocks.guardrail(output, "output", settings.evidence)
            await incoming.sender.json(400, blocks.blocked_error(text, told, "output"), headers)
        elif request.stream:  # the upstream answered a stream's request as a whole
            await incoming.sender.event(blocks.event(blocks.as_chunk(request, answer)), headers)
            await incoming.sender.event(blocks.DONE, headers)
            await incoming.sender.end()
        else:
            await incoming.sender.json(200, answer, headers)

    async def _stream(self, incoming: Incoming, request: ApiRequest, ruling: Ruling) -> None:
        state, call, sender = incoming.state, incoming.call, incoming.sender
        relay = Relay(state, call, request)
        async with state.upstream_of(call).stream(_path(request), request.body, call.headers) as reply:
            state.last_upstream_error, call.upstream_status = "", "ok"
            if reply.events is None:
                answer, output = await Answers(state, call, request).screened(reply.body)
                await self._send_whole(incoming, request, answer, ruling, output, reply)
                return
            async for event in relay.events(reply):
                headers = {**reply.headers, **blocks.headers_of(stricter(ruling, relay.ruling), call.id)}
                if not sender.started and state.settings.blocks == "error" and relay.stopped:
                    text = refusal_of(
                        relay.ruling, Exchange(request.exchange.parts, answer=""), call.guard.constitution
                    )
                    told = blocks.guardrail(relay.ruling, "output", state.settings.evidence)
                    await sender.json(400, blocks.blocked_error(text, told, "output"), headers)
                    return
                await sender.event(blocks.event(event), headers)
        await sender.event(blocks.DONE, blocks.headers_of(stricter(ruling, relay.ruling), call.id))
        await sender.end()


def _path(request: ApiRequest) -> Any:
    return "chat/completions" if request.kind == "chat" else "completions"


# ── the rest ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def answered_here(answer: Callable[[GatewayState, Call, dict[str, Any]], Awaitable[dict[str, Any]]]) -> Handle:
    """A handler that answers a body with an object."""

    async def handle(incoming: Incoming) -> None:
        body = await incoming.body()
        await while_connected(incoming, answered(incoming, body))

    async def answered(incoming: Incoming, body: dict[str, Any]) -> None:
        await incoming.state.hooks.before(incoming.call, body, 0)
        found = await answer(incoming.state, incoming.call, body)
        strictest = Ruling("allow", None)
        for _, ruling in incoming.call.rulings:
            strictest = stricter(strictest, ruling)
        await incoming.sender.json(200, found, blocks.headers_of(strictest, incoming.call.id))

    return handle


async def models(incoming: Incoming) -> None:
    """The list of models, or (with a name in the path) one of them."""
    state, call = incoming.state, incoming.call
    if state.settings.models:
        listed = [
            {"id": name, "object": "model", "created": 0, "owned_by": "steersman"} for name in state.settings.models
        ]
    else:
        reply = await state.upstream_of(call).complete("models", {}, call.headers)
        given = reply.body.get("data")
        listed = [
            {key: value for key, value in model.items() if is_name(key) and is_name(value)}
            for model in (given if isinstance(given, list) else ())
            if isinstance(model, dict) and isinstance(model.get("id"), str) and is_name(model["id"])
        ]
    listed = [model for model in listed if state.hooks.allows(call, str(model["id"]))]
    name = incoming.path_params.get("name")
    if name is None:
        await incoming.sender.json(200, {"object": "list", "data": listed}, {})
        return
    found = next((model for model in listed if model["id"] == name), None)
    if found is None:
        raise BadRequest("there is no model of that name", param="model", code="model_not_found", status=404)
    await incoming.sender.json(200, found, {})


def create_app(state: GatewayState, hosts: tuple[str, ...] = (), routes: tuple[BaseRoute, ...] = ()) -> Starlette:
    """The application.

    Args:
        hosts: names under which requests are accepted (a browser can be made to ask under others); empty: all.
        routes: further ones, of operation.
    """

    def post(path: str, handle: Handle) -> Route:
        return Route(path, Endpoint(state, path, handle, hosts), methods=["POST"])

    async def health(request: Request) -> Response:
        found = await asyncio.to_thread(local.health, state)
        headers = _headers_of(request.scope)
        if not (known_host(headers, hosts) and state.hooks.knows(headers)):
            found = {key: found[key] for key in ("status", "live", "ready")}
        ready = found["ready"] or not request.url.path.endswith("/ready")
        return JSONResponse(found, status_code=200 if ready else 503)

    async def metrics(request: Request) -> Response:
        headers = _headers_of(request.scope)
        if not known_host(headers, hosts):
            body = blocks.error_body(421, "this server is not known under that name", code="unknown_host")
            return JSONResponse(body, status_code=421)
        if not state.hooks.knows(headers):
            body = blocks.error_body(401, "the metrics need a key", code="invalid_api_key")
            return JSONResponse(body, status_code=401)
        return Response(state.hooks.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> Any:
        async with state.hooks.running():
            yield
        await state.upstream.close()

    app = Starlette(
        routes=[
            post("/v1/chat/completions", Completions("chat")),
            post("/v1/completions", Completions("completion")),
            post("/v1/moderations", answered_here(local.moderations)),
            post("/v1/checks", answered_here(local.checks)),
            Route("/v1/models", Endpoint(state, "/v1/models", models, hosts), methods=["GET"]),
            Route("/v1/models/{name:path}", Endpoint(state, "/v1/models", models, hosts), methods=["GET"]),
            *(Route(path, health, methods=["GET"]) for path in ("/health", "/health/live", "/health/ready")),
            Route("/metrics", metrics, methods=["GET"]),
            *routes,
        ],
        exception_handlers={HTTPException: _http_error},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {404: f"there is no {request.url.path[:100]} here", 405: f"{request.method[:20]} is not answered here"}
    code = {404: "unknown_path", 405: "method_not_allowed"}.get(error.status_code)
    body = blocks.error_body(error.status_code, messages.get(error.status_code, error.detail), code=code)
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


def _headers_of(scope: Scope) -> dict[str, str]:
    """Headers by their names in lower case; a name that comes twice has both values."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def known_host(headers: Mapping[str, str], hosts: tuple[str, ...]) -> bool:
    """Whether a request asks for this server under one of its names; ``hosts`` empty: any name will do."""
    found = _HOST.fullmatch(headers.get("host", ""))
    return not hosts or (found is not None and found[1].lower() in hosts)


def _place(error: BaseException) -> str:
    """File and line of the innermost frame; an error's words may quote a request."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "unknown" if trace is None else f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
