"""The gateway over real sockets, and the command line."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from typer.testing import CliRunner

from guarded import RULES, WORD, FakeUpstream, chat, chunks, gateway, guard
from steersman.cli import app
from steersman.cli.guard import _warm, load_guard
from steersman.guard.gateway.app import create_app


@pytest.fixture(scope="module")
def served() -> Iterator[int]:
    """The port of a gateway before an upstream that streams."""
    upstream = FakeUpstream(chunks("The ferry leaves at nine. " * 20))
    state = gateway(upstream, guard(), body_bytes=100_000)
    config = uvicorn.Config(create_app(state, ("127.0.0.1", "localhost")), log_level="error", access_log=False)
    server, bound = uvicorn.Server(config), socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield bound.getsockname()[1]
    server.should_exit = True
    thread.join(10)


def raw(port: int, *pieces: bytes, shut: bool = False) -> bytes:
    """What comes back for these bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        for piece in pieces:
            connection.sendall(piece)
        if shut:
            connection.shutdown(socket.SHUT_WR)
        found = b""
        connection.settimeout(2)
        try:
            while piece := connection.recv(65_536):
                found += piece
        except (TimeoutError, ConnectionResetError):
            pass
    return found


def post(body: bytes, *headers: str, path: str = "/v1/chat/completions", host: str = "127.0.0.1") -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


BODY = json.dumps(chat("hi", stream=True)).encode()


def test_a_stream_over_a_socket(served: int) -> None:
    found = raw(served, post(BODY, f"Content-Length: {len(BODY)}"))
    assert found.startswith(b"HTTP/1.1 200")
    assert b"text/event-stream" in found
    assert found.rstrip().endswith(b"0")  # the last chunk of the transfer encoding
    assert b"data: [DONE]" in found


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        (["Content-Length: 2", "Content-Length: 5"], b"{}abc", 400),
        (["Content-Length: 2", "Content-Length: 2"], b"{}", 400),
        (["Content-Length: -1"], b"{}", 400),
        (["Content-Length: 2x"], b"{}", 400),
        (["Transfer-Encoding: chunked, identity"], b"0\r\n\r\n", 400),
        (["Transfer-Encoding: xchunked"], b"0\r\n\r\n", 400),
        (["Transfer-Encoding: chunked"], b"zz\r\n{}\r\n0\r\n\r\n", 400),
        (["X-A: b\r\n\tfolded"], b"", 400),
        (["Bad Header: x"], b"", 400),
        (["Content-Length: 2", "Authorization: Bearer a", "Authorization: Bearer b"], b"{}", 400),
        (["Content-Length: 2", "Content-Type: text/plain"], b"{}", 400),
    ],
)
def test_smuggled_and_broken_heads(served: int, headers: list[str], body: bytes, status: int) -> None:
    """One answer, and never two."""
    found = raw(served, post(body, *headers))
    assert found.startswith(f"HTTP/1.1 {status}".encode()), found[:200]
    assert found.count(b"HTTP/1.1 ") == 1


def test_a_head_without_end(served: int) -> None:
    assert b" 200 " not in raw(served, post(b"", "X: " + "y" * 200_000))


def test_a_length_beside_chunks_is_not_believed(served: int) -> None:
    """By RFC 9112 the chunks count, and the connection ends: no second request hides behind them."""
    hidden = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    for headers in (
        ["Content-Length: 6", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 6"],
    ):
        found = raw(served, post(b"2\r\n{}\r\n0\r\n\r\n" + hidden, *headers))
        assert found.count(b"HTTP/1.1 ") == 1
        assert found.startswith(b"HTTP/1.1 400")
        assert b"both Content-Length and Transfer-Encoding" in found
        kept = post(b"2\r\n{}\r\n0\r\n\r\n" + hidden, *headers).replace(b"Connection: close\r\n", b"")
        assert raw(served, kept).count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    ("host", "known"),
    [("127.0.0.1", True), ("LOCALHOST:4000", True), ("evil.example", False), ("127.0.0.1:1:2", False), ("x@y", False)],
)
def test_names_of_this_server(served: int, host: str, known: bool) -> None:
    """Under another name (of a page that a browser shows, say) there is no answer, and no metrics."""
    for request in (post(BODY, f"Content-Length: {len(BODY)}", host=host), get("/metrics", host)):
        assert raw(served, request).startswith(b"HTTP/1.1 200" if known else b"HTTP/1.1 421")
    health = raw(served, get("/health", host))
    assert health.startswith(b"HTTP/1.1 200")
    assert (b"constitution" in health) == known


def get(path: str, host: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()


def test_long_bodies_over_a_socket(served: int) -> None:
    """The client reads its 413, with a length and in chunks, though it sends more than is kept."""
    long = b'{"model": "' + b"x" * 500_000 + b'"}'
    assert raw(served, post(long, f"Content-Length: {len(long)}")).startswith(b"HTTP/1.1 413")
    chunked = b"".join(b"10000\r\n" + b"x" * 0x10000 + b"\r\n" for _ in range(4)) + b"0\r\n\r\n"
    assert raw(served, post(chunked, "Transfer-Encoding: chunked")).startswith(b"HTTP/1.1 413")


def test_half_a_body(served: int) -> None:
    """A client that leaves in its body gets nothing, and harms nobody."""
    raw(served, post(BODY[:10], f"Content-Length: {len(BODY)}"), shut=True)
    assert b"200 OK" in raw(served, post(BODY, f"Content-Length: {len(BODY)}"))


def test_other_names_of_the_host_are_refused(served: int) -> None:
    """A page in a browser can be made to ask this machine under a name of its own."""
    for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:80"):
        found = raw(served, post(BODY, f"Content-Length: {len(BODY)}", host=host))
        assert found.startswith(b"HTTP/1.1 421"), found[:100]
    assert b"200 OK" in raw(served, post(BODY, f"Content-Length: {len(BODY)}", host="localhost:4000"))


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def rules(tmp_path: Path) -> str:
    (tmp_path / "rules.yaml").write_text(RULES, encoding="utf-8")
    return str(tmp_path / "rules.yaml")


def command(*words: str, **more: Any) -> Any:
    return CliRunner().invoke(app, ["guard", *words], **more)


def test_check_tells_by_its_exit_code(rules: str) -> None:
    fine = command("check", "hello", "--guard", rules)
    assert (fine.exit_code, fine.stdout) == (0, "input: allow\n")
    assert fine.stderr == "note: no classifier rail: this guard has no trained classifier\n"
    stopped = command("check", f"a {WORD}", "--guard", rules)
    assert stopped.exit_code == 1
    assert stopped.stdout == "input: block\n  block     locked by patterns at messages[0].content[2:18]\n"
    answered = command("check", "hello", "--answer", f"a {WORD}", "--guard", rules, "--json")
    found = json.loads(answered.stdout)
    assert (answered.exit_code, found["decision"], found["input"]["decision"]) == (1, "block", "allow")
    assert found["output"]["refusal"] == "That stays locked."
    read = command("check", "-", "--guard", rules, input=f"a {WORD}")
    assert read.exit_code == 1
    shadowed = command("check", f"a {WORD}", "--guard", rules, "--shadow", "patterns")
    assert shadowed.exit_code == 0
    assert shadowed.stdout.endswith("(shadow)\n")


def test_check_reads_texts_alone_from_standard_input(rules: str) -> None:
    wrong = command("check", "-", "--guard", rules, input=b"a \xff")
    assert str(wrong.exception).startswith("standard input: byte 3 is not UTF-8")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["check", "x", "--guard", "nope"], "no shipped constitution"),
        (["check", "x", "--guard", "/"], "no trained guard is in this folder"),
        (["check", "x", "--shadow", "nope"], 'the guard has no rail "nope"'),
        (["serve"], "no model is named"),
        (["serve", "--upstream", "ftp://x"], "not an address"),
        (["serve", "--upstream", "http://127.0.0.1:1/v1", "--blocks", "nope"], "--blocks"),
        (["serve", "--upstream", "http://127.0.0.1:1/v1", "--set", "nope=1"], "no setting"),
        (["serve", "--upstream", "http://127.0.0.1:1/v1", "--set", "body_bytes=x"], "body_bytes"),
        (["serve", "--upstream", "http://127.0.0.1:1/v1", "--host", "0.0.0.0"], "no key"),
        (["serve", "--upstream", "http://127.0.0.1:1/v1", "--key-variable", "NO_SUCH_KEY"], "NO_SUCH_KEY"),
    ],
)
def test_mistakes_of_the_command_line(words: list[str], found: str) -> None:
    result = command(*words)
    assert result.exception is not None
    assert found in str(result.exception)
    assert getattr(result.exception, "exit_code", None) == 2


def test_a_key_is_never_shown(rules: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSTREAM_API_KEY", "schlüssel-geheim")
    result = command("serve", rules, "--upstream", "http://127.0.0.1:1/v1")
    assert "holds no key" in str(result.exception)
    assert "geheim" not in str(result.exception) + result.output


def test_a_server_says_at_its_start_what_does_not_work(
    rules: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> None:
        raise OSError("of a text")

    monkeypatch.setattr("steersman.guard.rails.secrets.SecretRail.check", broken)
    warmed = _warm(load_guard(rules, []))
    lacks = "note: no classifier rail: this guard has no trained classifier\n"
    assert capsys.readouterr().err == f"{lacks}warning: the rail secrets does not work: it raised OSError\n"
    warmed.close()
    monkeypatch.undo()
    _warm(load_guard(rules, [])).close()
    assert capsys.readouterr().err == lacks
