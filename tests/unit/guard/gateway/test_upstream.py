"""Upstreams of any temper, over real sockets: each ends in an answer or in one clear error, and hangs nothing."""

from __future__ import annotations

import asyncio
import gzip
import json
import resource
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import httpx2
import pytest

from guarded import Rules, answer, chat, chunk, chunks, ends, events, gateway, guard, said
from steersman.errors import UserError
from steersman.guard.gateway.app import create_app
from steersman.guard.gateway.upstream import HttpUpstream, UpstreamError, UpstreamLimits
from steersman.guard.verdict import Ruling

OK = b"HTTP/1.1 200 OK\r\n"
JSON = OK + b"Content-Type: application/json\r\n"
SSE = OK + b"Content-Type: text/event-stream\r\nConnection: close\r\n\r\n"
QUICK = UpstreamLimits(connect_s=2, silence_s=0.3, answer_s=3, reply_bytes=200_000, event_bytes=50_000)
Serve = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


async def asked(serve: Serve, body: dict[str, Any], limits: UpstreamLimits = QUICK, **more: Any) -> httpx2.Response:
    """One request through the gateway to an upstream that does what ``serve`` does with its connection."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
            await reader.readexactly(int(length[0].split(b":")[1]) if length else 0)
            await serve(head, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    upstream = HttpUpstream(f"http://127.0.0.1:{port}/v1", more.pop("key", None), limits)
    state = gateway(upstream, more.pop("checks", None))
    transport = httpx2.ASGITransport(create_app(state))
    try:
        async with httpx2.AsyncClient(transport=transport, base_url="http://gateway", timeout=30) as client:
            path = more.pop("path", "/v1/chat/completions")
            return await client.post(path, json=body, headers=more.pop("headers", {}))
    finally:
        await upstream.close()
        server.close()
        await server.wait_closed()


def run(*raw: bytes, stream: bool = False, hold: bool = False, **more: Any) -> httpx2.Response:
    """The gateway's answer where the upstream sends these bytes, and (``hold``) keeps its connection open."""

    async def serve(head: bytes, writer: asyncio.StreamWriter) -> None:
        for piece in raw:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.001)
        if hold:
            await asyncio.sleep(2)

    return asyncio.run(asyncio.wait_for(asked(serve, chat("hi", stream=stream), **more), 30))


def whole(body: bytes, head: bytes = JSON) -> bytes:
    return head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def sse(*given: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in given)


GOOD = json.dumps(answer("hello")).encode()
WHOLE = [
    ("good", [whole(GOOD)], 200, None),
    ("zipped", [whole(gzip.compress(GOOD), JSON + b"Content-Encoding: gzip\r\n")], 200, None),
    ("deflated", [whole(zlib.compress(GOOD), JSON + b"Content-Encoding: deflate\r\n")], 200, None),
    ("NaN in numbers", [whole(GOOD.replace(b'"created": 7', b'"created": NaN'))], 200, None),
    ("infinite numbers", [whole(GOOD.replace(b'"created": 7', b'"created": 1e999'))], 200, None),
    ("another encoding", [whole(GOOD, JSON + b"Content-Encoding: br\r\n")], 502, "upstream_reply"),
    ("damaged zip", [whole(b"xxxxxx", JSON + b"Content-Encoding: gzip\r\n")], 502, "upstream_reply"),
    ("zip bomb", [whole(gzip.compress(b"0" * 10**8), JSON + b"Content-Encoding: gzip\r\n")], 502, "upstream_too_large"),
    ("too long", [whole(b'{"a": "' + b"x" * 300_000 + b'"}')], 502, "upstream_too_large"),
    ("not JSON", [whole(b"<html>")], 502, "upstream_reply"),
    ("trailing garbage", [whole(GOOD + b"}")], 502, "upstream_reply"),
    ("cut JSON", [whole(GOOD[:-5])], 502, "upstream_reply"),
    ("half a character", [whole(GOOD[:-1] + b"\xc3")], 502, "upstream_reply"),
    ("empty", [whole(b"")], 502, "upstream_reply"),
    ("a list", [whole(b"[]")], 502, "upstream_reply"),
    ("deep", [whole(b"[" * 20_000)], 502, "upstream_reply"),
    ("error with success", [whole(b'{"error": {"message": "overloaded", "code": "busy"}}')], 502, "busy"),
    ("cut body", [JSON + b"Content-Length: 500\r\n\r\n" + GOOD[:50]], 502, "upstream_cut"),
    ("no head", [], 502, "upstream_cut"),
    ("half a head", [b"HTTP/1.1 200 OK\r\nContent-"], 502, "upstream_cut"),
    ("not HTTP", [b"SSH-2.0-OpenSSH_9.6\r\n"], 502, "upstream_cut"),
    ("redirect", [whole(b"", b"HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1:1/\r\n")], 502, "upstream_redirect"),
    ("events instead", [SSE + sse(chunk({"content": "x"}))], 502, "upstream_reply"),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "status", "code"), [w[1:] for w in WHOLE], ids=[w[0] for w in WHOLE])
def test_whole_answers(raw: list[bytes], status: int, code: str | None) -> None:
    response = run(*raw)
    assert response.status_code == status, response.text
    if status == 200:
        assert response.json()["choices"][0]["message"]["content"] == "hello"
    else:
        assert response.json()["error"]["code"] == code
        assert response.json()["error"]["type"] == "upstream_error"
        assert "hello" not in response.text


def test_silence_is_504() -> None:
    for raw in ([], [JSON + b"Content-Length: 500\r\n\r\n{"], [SSE, sse(chunk({"content": "x"}))]):
        response = run(*raw, hold=True, stream=raw[:1] == [SSE])
        assert (response.status_code, response.json()["error"]["code"]) == (504, "upstream_timeout")


def test_no_connection_is_502() -> None:
    upstream = HttpUpstream("http://127.0.0.1:9/v1", None, QUICK)

    async def go() -> None:
        try:
            with pytest.raises(UpstreamError) as caught:
                await upstream.complete("chat/completions", {}, {})
            assert (caught.value.status, caught.value.code) == (502, "upstream_unreachable")
        finally:
            await upstream.close()

    asyncio.run(go())


@pytest.mark.parametrize(
    ("status", "body", "ours", "code", "message"),
    [
        (404, {"error": {"message": "no m", "code": "model_not_found"}}, 404, "model_not_found", "no m"),
        (400, {"error": {"message": "too hot", "type": "invalid"}}, 400, "invalid", "too hot"),
        (422, {"detail": "not this"}, 422, "upstream_422", "not this"),
        (422, {"detail": [{"loc": 1}]}, 422, "upstream_422", "answers with an error (422)"),
        (429, {"error": "slow down"}, 429, "upstream_429", "slow down"),
        (500, {"error": {"message": "boom"}}, 502, "upstream_500", "boom"),
        (503, {}, 503, "upstream_503", "answers with an error (503)"),
        (504, {}, 504, "upstream_504", "(504)"),
        (529, {}, 503, "upstream_529", "(529)"),
        (401, {"error": {"message": "wrong key"}}, 401, "upstream_401", "wrong key"),
        (400, {"error": {"message": "about a zebrafish recipe"}}, 400, "upstream_400", "answers with an error (400)"),
        (400, {"error": {"message": "x", "code": "a long text that is no code"}}, 400, "upstream_400", "x"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_errors_of_the_upstream(status: int, body: Any, ours: int, code: str, message: str, stream: bool) -> None:
    head = f"HTTP/1.1 {status} Hm\r\nContent-Type: application/json\r\nRetry-After: 7\r\n".encode()
    response = run(whole(json.dumps(body).encode(), head), stream=stream)
    assert response.status_code == ours
    error = response.json()["error"]
    assert error["code"] == code
    assert message in error["message"]
    assert "zebrafish" not in response.text
    assert response.headers["retry-after"] == "7"


def test_an_upstream_that_refuses_the_gateways_key() -> None:
    """The client can do nothing about it, and garak would end its run."""
    response = run(whole(b"{}", b"HTTP/1.1 401 No\r\n"), key="k")
    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_key")


STREAMS = [
    ("good", [SSE, sse(*chunks("hello")), b"data: [DONE]\n\n"], "hello", None),
    ("byte by byte", [SSE, *(bytes([b]) for b in sse(chunk({"content": "héllo"}), chunk({}, "stop")))], "héllo", None),
    ("CR LF", [SSE, sse(*chunks("hello")).replace(b"\n", b"\r\n"), b"data: [DONE]\r\n\r\n"], "hello", None),
    ("CR", [SSE, sse(*chunks("hello")).replace(b"\n", b"\r"), b"data: [DONE]\r\r"], "hello", None),
    ("comments", [SSE, b": a\n\n", sse(*chunks("hello")), b": b\nevent: x\nid: 1\ndata:[DONE]\n\n"], "hello", None),
    ("garbage behind its end", [SSE, sse(*chunks("hello")), b"data: [DONE]\n\ndata: zebra\n\n"], "hello", None),
    ("no end", [SSE, sse(*chunks("hello"))], "hello", None),
    ("no blank line at the end", [SSE, sse(*chunks("hello")), b"data: [DONE]"], "hello", None),
    ("cut", [SSE, sse(*chunks("hello")[:-1])], None, "upstream_cut"),
    ("cut in an event", [SSE, sse(*chunks("hello")[:-1]), b'data: {"choices'], None, "upstream_reply"),
    ("nothing", [SSE], None, "upstream_cut"),
    ("not JSON", [SSE, b"data: hello\n\n"], None, "upstream_reply"),
    ("half a character", [SSE, b'data: {"a": "\xc3"}\n\n'], None, "upstream_reply"),
    ("an error", [SSE, sse(chunk({"content": "x"}), {"error": {"message": "boom", "code": "busy"}})], None, "busy"),
    ("an error of words", [SSE, sse({"error": {"message": "a zebrafish recipe", "code": "busy"}})], None, "busy"),
    ("a line without end", [SSE, *[b"x" * 10_000] * 8], None, "upstream_too_large"),
    ("an event without end", [SSE, *[b"data: " + b"x" * 10_000 + b"\n"] * 8], None, "upstream_too_large"),
    ("only comments", [SSE, *[b": " + b"x" * 40_000 + b"\n"] * 8], None, "upstream_too_large"),
    ("a whole answer", [whole(GOOD)], "hello", None),
    ("a page", [whole(b"<html>", OK + b"Content-Type: text/html\r\n")], None, "upstream_cut"),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "text", "code"), [s[1:] for s in STREAMS], ids=[s[0] for s in STREAMS])
def test_streams(raw: list[bytes], text: str | None, code: str | None) -> None:
    response = run(*raw, stream=True)
    if text is not None:
        assert (said(response), ends(response)) == (text, ["stop"])
    else:
        assert (response.status_code, response.json()["error"]["code"]) == (502, code)
    assert "zebra" not in response.text


def test_a_stream_that_is_too_long() -> None:
    """What was judged is there, then an error; memory stays small."""
    piece = sse(chunk({"content": "The ferry leaves at nine, and the harbour is quiet. "}))
    tracemalloc.start()
    limits = UpstreamLimits(reply_bytes=200_000)
    allowed = Rules(lambda _: Ruling("allow", None))
    response = run(SSE, *[piece * 100] * 20, stream=True, limits=limits, checks=allowed)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert events(response)[-1]["error"]["code"] == "upstream_too_large"
    assert peak < 60 * 2**20


@pytest.mark.slow
def test_a_reply_of_50_mb() -> None:
    """Whole and in pieces, at the usual limits: an error each, soon, and never 50 MB in memory."""
    limits, before = UpstreamLimits(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    piece = sse(chunk({"content": "The ferry leaves at nine, and the harbour is quiet. " * 1000}))
    response = run(JSON + b"Content-Length: 50000000\r\n\r\n", *[b"x" * 10**6] * 50, limits=limits)
    assert response.json()["error"]["code"] == "upstream_too_large"
    allowed = Rules(lambda _: Ruling("allow", None))
    response = run(SSE, *[piece * 20] * 50, limits=limits, stream=True, checks=allowed)
    assert events(response)[-1]["error"]["code"] == "upstream_too_large"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 150 * 1024  # KiB; this test's client holds all that was sent


def test_what_is_sent_to_the_upstream() -> None:
    """The request as it was judged; no header of the connection, no cookie, and the gateway's own key."""
    heads: list[bytes] = []

    async def serve(head: bytes, writer: asyncio.StreamWriter) -> None:
        heads.append(head.lower())
        writer.write(whole(GOOD))

    given = {
        "authorization": "Bearer client-key", "api-key": "client-key", "cookie": "a=b", "connection": "x-secret, close",
        "x-secret": "1", "x-forwarded-for": "10.0.0.1", "te": "trailers", "x-config": "unread", "accept-encoding": "br",
        "openai-beta": "kept", "user-agent": "a", "traceparent": b"\xe9", "x-request-id": "i" * 9000,
    }  # fmt: skip
    for key in ("own-key", None):
        response = asyncio.run(asked(serve, chat("hi"), key=key, headers=given))
        assert response.status_code == 200
        head = heads.pop().decode()
        lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        assert head.startswith("post /v1/chat/completions http/1.1")
        assert lines["authorization"] == f"bearer {key or 'client-key'}"
        assert (lines["user-agent"], lines["openai-beta"], lines["accept-encoding"]) == ("a", "kept", "identity")
        assert not {"cookie", "x-secret", "x-forwarded-for", "te", "x-config", "traceparent", "x-request-id"} & set(
            lines
        )
        assert ("client-key" in head) == (key is None)


def test_headers_of_the_upstreams_reply() -> None:
    head = JSON + b"OpenAI-Processing-Ms: 3\r\nSet-Cookie: a=b\r\nX-Guard-Decision: allow\r\nX-RateLimit-Limit: 9\r\n"
    response = run(whole(json.dumps(answer("a zebrafish recipe")).encode(), head))
    assert response.headers["openai-processing-ms"] == "3"
    assert response.headers["x-ratelimit-limit"] == "9"
    assert response.headers["x-guard-decision"] == "block"
    assert "set-cookie" not in response.headers


def test_a_client_that_goes_away_ends_the_upstreams_work() -> None:
    """While the upstream thinks, and in the middle of a stream: its connection is closed."""

    async def go(stream: bool) -> None:
        ended = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            async def write() -> None:
                writer.write(SSE)
                while True:
                    writer.write(sse(chunk({"content": "The ferry leaves at nine. "})))
                    await writer.drain()
                    await asyncio.sleep(0.01)

            await reader.read(65_536)
            writing = asyncio.create_task(write() if stream else asyncio.sleep(60))
            with suppress(ConnectionError):
                while await reader.read(65_536):
                    continue
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            writer.close()
            ended.set()

        left = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if not left.is_set() and not body_sent:
                body_sent.append(1)
                return {"type": "http.request", "body": json.dumps(chat("hi", stream=stream)).encode()}
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        body_sent: list[int] = []
        sent: list[Any] = []
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        upstream = HttpUpstream(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
        app = create_app(gateway(upstream, guard()))
        scope = {
            "type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"", "root_path": "",
            "headers": [(b"content-type", b"application/json"), (b"host", b"localhost")], "http_version": "1.1",
        }  # fmt: skip
        before = asyncio.all_tasks()
        working = asyncio.create_task(app(scope, receive, send))
        await asyncio.sleep(0.5)
        left.set()
        await asyncio.wait_for(working, 5)
        await asyncio.wait_for(ended.wait(), 5)
        assert bool(sent) == stream
        await upstream.close()
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.05)
        assert asyncio.all_tasks() == before

    asyncio.run(go(False))
    asyncio.run(go(True))


def test_addresses() -> None:
    for wrong in ("", "nonsense", "http://user:pw@host/v1", "ftp://host", "http://"):
        with pytest.raises(UserError, match="not an address"):
            HttpUpstream(wrong)
    assert HttpUpstream("http://127.0.0.1:1/v1/").base_url == "http://127.0.0.1:1/v1"
    assert HttpUpstream("http://127.0.0.1:1/v1/chat/completions?api-version=3").base_url.endswith("/v1?api-version=3")
