"""The model behind the gateway: a seam (`Upstream`), and its implementation for any OpenAI-compatible address.

Whatever an upstream does, there is one error for it: no connection and a broken one are 502, silence is 504, its own
errors keep their status where the client can do something about it, and a reply that is no answer, or larger than
the limit, is 502. Redirects are not followed, and no reply is kept in memory beyond the limit.
"""

from __future__ import annotations

import asyncio
import json
import math
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import httpx2
from pydantic import Field

from steersman.errors import UserError
from steersman.guard.gateway.json_text import dumped
from steersman.lm.endpoint.settings import host_of, is_loopback, proxies_for
from steersman.types import Record

Path = Literal["chat/completions", "completions", "models"]
# Headers of the client that go on: who asks, and which request it is. No rail reads headers, so no others do: some
# servers take prompts, targets and other settings from them.
PASSED = {"authorization", "api-key", "x-api-key", "user-agent", "idempotency-key", "x-request-id"}
PASSED |= {"x-client-request-id", "traceparent", "tracestate", "openai-organization", "openai-project", "openai-beta"}
MOST_HEADER = 8192  # characters
KEPT_OF_REPLIES = ("openai-", "x-ratelimit-", "retry-after", "x-should-retry")
ACTIVATION = "steersman_activation"  # field of a choice: `Exchange.activation`, from a model in this process
MOST_MESSAGE = 1000  # characters of an error's message


class UpstreamLimits(Record):
    """How long the gateway waits for the upstream, and how much it takes."""

    connect_s: float = Field(default=10.0, gt=0, description="Until there is a connection.")
    silence_s: float = Field(default=120.0, gt=0, description="Between two pieces of a reply.")
    answer_s: float = Field(default=900.0, gt=0, description="For a whole reply.")
    reply_bytes: int = Field(default=16 * 2**20, ge=1024, description="Of a whole reply.")
    event_bytes: int = Field(default=4 * 2**20, ge=1024, description="Of one event of a stream.")


class UpstreamError(Exception):
    """An answer that the upstream did not give.

    Attributes:
        said: whether the message is the upstream's own words, which no rail has seen.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        said: bool = False,
    ) -> None:
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers, self.said = dict(headers or {}), said
        super().__init__(message)


@dataclass(frozen=True)
class Reply:
    """A whole answer, or (``events``) its pieces as they come, one JSON object each."""

    body: dict[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    events: AsyncIterator[dict[str, Any]] | None = None


class Upstream(Protocol):
    """A model that answers requests of the OpenAI API: an address, or an engine in this process."""

    async def complete(self, path: Path, body: Mapping[str, Any], headers: Mapping[str, str]) -> Reply:
        """A whole answer.

        Args:
            body: the request as JSON values; for ``models`` it is empty.
            headers: of the client's request, lower case.

        Raises:
            UpstreamError: there is none.
        """
        ...

    def stream(
        self, path: Path, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[Reply]:
        """An answer in pieces: a context in which they come; leaving it ends the upstream's work.

        The iterator ends with the upstream's ``[DONE]``, and raises `UpstreamError` where the stream breaks.
        """
        ...

    async def close(self) -> None:
        """End its connections."""
        ...


class HttpUpstream:
    """An OpenAI-compatible address.

    Args:
        base_url: what ``/chat/completions`` follows, such as ``http://127.0.0.1:8000/v1``.
        key: of the upstream; None: the client's own ``Authorization`` is passed on.
        transport: for tests: an application in this process.
    """

    def __init__(
        self,
        base_url: str,
        key: str | None = None,
        limits: UpstreamLimits | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.base_url, self._key, self.limits = _checked(base_url), key, limits or UpstreamLimits()
        waits = httpx2.Timeout(self.limits.silence_s, connect=self.limits.connect_s, pool=self.limits.connect_s)
        self._client = httpx2.AsyncClient(
            timeout=waits,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=4.0),
            trust_env=transport is None and bool(proxies_for(self.base_url)),
            transport=transport,
        )

    async def complete(self, path: Path, body: Mapping[str, Any], headers: Mapping[str, str]) -> Reply:
        """See `Upstream`."""
        async with self._opened(path, body, headers) as response:
            raw = await self._all(response)
            return Reply(_answer(raw), _kept(response))

    @asynccontextmanager
    async def stream(
        self, path: Path, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> AsyncGenerator[Reply, None]:
        """See `Upstream`."""
        async with self._opened(path, body, headers, accept="text/event-stream") as response:
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind == "application/json":
                yield Reply(_answer(await self._all(response)), _kept(response))
                return
            events = self._events(response)
            try:
                yield Reply({}, _kept(response), events)
            finally:
                await events.aclose()

    async def close(self) -> None:
        """See `Upstream`."""
        await self._client.aclose()

    # ── one request ──────────────────────────────────────────────────────────────────────────────────────────────────
    @asynccontextmanager
    async def _opened(
        self, path: Path, body: Mapping[str, Any], headers: Mapping[str, str], accept: str = "application/json"
    ) -> AsyncGenerator[httpx2.Response, None]:
        """A response with a status of success. What goes wrong until it is closed is an `UpstreamError`."""
        url, mark, query = self.base_url.partition("?")
        request = self._client.build_request(
            "GET" if path == "models" else "POST",
            f"{url}/{path}{mark}{query}",
            content=None if path == "models" else dumped(body),
            headers=self._headers(headers, accept),
        )
        try:
            async with asyncio.timeout(self.limits.answer_s):
                response = await self._client.send(request, stream=True)
                try:
                    if not response.is_success:
                        raise await self._error(response)
                    yield response
                finally:
                    with suppress(Exception):
                        await response.aclose()
        except TimeoutError:
            limit = f"{self.limits.answer_s:g} s"
            raise UpstreamError(504, f"the upstream did not finish within {limit}", "upstream_timeout") from None
        except httpx2.TimeoutException as error:
            waited = "answer" if not isinstance(error, httpx2.ConnectTimeout | httpx2.PoolTimeout) else "connect"
            raise UpstreamError(504, f"the upstream did not {waited} in time", "upstream_timeout") from None
        except httpx2.ConnectError:
            raise UpstreamError(502, "the upstream cannot be reached", "upstream_unreachable") from None
        except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL):
            raise UpstreamError(502, "the connection to the upstream broke", "upstream_cut") from None

    def _headers(self, headers: Mapping[str, str], accept: str) -> dict[str, str]:
        named = {name.strip().lower() for name in headers.get("connection", "").split(",")}
        dropped = named | ({"authorization", "api-key", "x-api-key"} if self._key else set())
        kept = {
            name: value
            for name, value in headers.items()
            if name in PASSED - dropped and value.isascii() and len(value) <= MOST_HEADER
        }
        own = {"content-type": "application/json", "accept": accept, "accept-encoding": "identity"}
        return kept | own | ({"authorization": f"Bearer {self._key}"} if self._key else {})

    async def _all(self, response: httpx2.Response) -> bytes:
        body = bytearray()
        async for chunk in self._decoded(response):
            body += chunk
        return bytes(body)

    async def _decoded(self, response: httpx2.Response) -> AsyncGenerator[bytes, None]:
        """The bytes of a reply, decompressed, within the limit."""
        unzip = _unzipper(response.headers.get("content-encoding", "identity"))
        size = 0
        async for raw in response.aiter_raw():
            for chunk in unzip(raw, self.limits.reply_bytes):
                size += len(chunk)
                if size > self.limits.reply_bytes:
                    raise UpstreamError(
                        502,
                        f"the upstream's reply is larger than {self.limits.reply_bytes:,} bytes",
                        "upstream_too_large",
                    )
                yield chunk

    async def _events(self, response: httpx2.Response) -> AsyncGenerator[dict[str, Any], None]:
        """The JSON objects of a stream of server-sent events, up to ``[DONE]``."""
        data, held = list[bytes](), bytearray()
        async for chunk in self._decoded(response):
            held += chunk
            if b"\n" not in chunk and b"\r" not in chunk:
                self._check_event(len(held))
                continue
            end = b"\r" if held.endswith(b"\r") else b""  # its line feed may come
            lines = bytes(held[: len(held) - len(end)]).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
            held = bytearray(lines.pop() + end)
            for line in lines:
                if line.startswith(b"data:"):
                    data.append(line[5:].removeprefix(b" "))
                    self._check_event(sum(map(len, data)))
                elif not line and data:
                    event, data = b"\n".join(data), []
                    if event.strip() == b"[DONE]":
                        return
                    yield _event(event)
                # comments, names, ids and pauses carry no text
        if data or held.startswith(b"data:"):  # the last event lacks its blank line
            last = b"\n".join([*data, *([bytes(held)[5:].strip()] if held.startswith(b"data:") else [])])
            if last.strip() == b"[DONE]":
                return
            yield _event(last)
        raise UpstreamError(502, "the upstream's stream ended before its answer did", "upstream_cut")

    def _check_event(self, size: int) -> None:
        if size > self.limits.event_bytes:
            limit = f"{self.limits.event_bytes:,} bytes"
            raise UpstreamError(502, f"an event of the upstream's stream is larger than {limit}", "upstream_too_large")

    async def _error(self, response: httpx2.Response) -> UpstreamError:
        """The upstream's own error, with a status that is true for our client."""
        status = response.status_code
        if status < 400:
            return UpstreamError(502, f"the upstream answers with a redirect ({status})", "upstream_redirect")
        try:
            raw = await self._all(response)
        except (UpstreamError, httpx2.HTTPError, zlib.error):
            raw = b""
        message, code, param = _error_of(raw)
        headers = _kept(response)
        if status in (401, 403) and self._key:  # the gateway's key, about which the client can do nothing
            return UpstreamError(502, f"the upstream refuses the gateway's key ({status})", "upstream_key")
        if status >= 500:
            status = status if status in (503, 504) else 503 if status == 529 else 502
        return UpstreamError(
            status,
            message or f"the upstream answers with an error ({response.status_code})",
            code or f"upstream_{response.status_code}",
            param=param,
            headers=headers,
            said=bool(message),
        )


# ── small parts ──────────────────────────────────────────────────────────────────────────────────────────────────────
def _checked(base_url: str) -> str:
    """The address without the slash and the path of an endpoint at its end."""
    if not host_of(base_url):
        raise UserError(
            "not an address of an upstream, or one with a name or a password in it",
            where="--upstream",
            expected="an address such as http://127.0.0.1:8000/v1",
            do="put a key into an environment variable, and name that with --key-variable",
        )
    path, mark, query = base_url.partition("?")
    return path.rstrip("/").removesuffix("/chat/completions") + mark + query


def is_encrypted_or_local(base_url: str) -> bool:
    """Whether nobody between here and the address can read what is sent."""
    return base_url.startswith("https:") or is_loopback(host_of(base_url))


def _kept(response: httpx2.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith(KEPT_OF_REPLIES)}


def _unzipper(encoding: str) -> Any:
    """A function that decompresses pieces, each time at most so many bytes.

    Raises:
        UpstreamError: an encoding that was not asked for, and is not known.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return lambda raw, limit: (raw,)
    if name not in ("gzip", "x-gzip", "deflate"):
        raise UpstreamError(502, "the upstream's reply is compressed in a way that was not asked for", "upstream_reply")
    unzip = zlib.decompressobj(wbits=47)  # gzip or zlib, by its head

    def pieces(raw: bytes, limit: int) -> tuple[bytes, ...]:
        try:
            return (unzip.decompress(raw, limit + 1),)  # what is over the limit ends the reply
        except zlib.error:
            raise UpstreamError(502, "the upstream's reply does not decompress", "upstream_reply") from None

    return pieces


def _loads(raw: bytes) -> Any:
    """A JSON value; NaN and infinity, which are in the log-probabilities of some servers, become null."""

    def finite(digits: str) -> float | None:
        return number if math.isfinite(number := float(digits)) else None

    return json.loads(raw.decode("utf-8"), parse_constant=lambda _: None, parse_float=finite)


def _answer(raw: bytes) -> dict[str, Any]:
    with suppress(ValueError, RecursionError):
        if isinstance(body := _loads(raw), dict):
            if body.get("error"):  # with a status of success
                message, code, param = _error_of(raw)
                raise UpstreamError(502, message or "the upstream answers with an error", code, param=param, said=True)
            return body
    raise UpstreamError(502, "the upstream's reply is not a JSON object", "upstream_reply")


def _event(raw: bytes) -> dict[str, Any]:
    with suppress(ValueError, RecursionError):
        if isinstance(event := _loads(raw), dict):
            if event.get("error"):
                message, code, param = _error_of(raw)
                raise UpstreamError(502, message or "the upstream's stream has an error", code, param=param, said=True)
            return event
    raise UpstreamError(502, "an event of the upstream's stream is not a JSON object", "upstream_reply")


def _error_of(raw: bytes) -> tuple[str, str | None, str | None]:
    """Message, code and parameter of an error body in any of the usual shapes."""
    try:
        body = _loads(raw)
    except (ValueError, RecursionError):
        return "", None, None
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, str):
        return error[:MOST_MESSAGE], None, None
    if not isinstance(error, dict):
        return "", None, None
    message = next((error[key] for key in ("message", "detail") if isinstance(error.get(key), str)), "")
    code, param = (_word(error.get(key)) for key in ("code", "param"))
    return message[:MOST_MESSAGE], code or _word(error.get("type")), param


def _word(value: Any) -> str | None:
    """A value that is one word, as codes and names of parameters are; None for what may be a text."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return text if text and len(text) <= 64 and all(c.isalnum() or c in "_-.[]" for c in text) else None
