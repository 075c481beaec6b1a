"""Requests that are wrong: one status and one message each, in OpenAI's shape, and nothing reaches the upstream."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from guarded import FakeUpstream, answer, ask, chat, gateway
from steersman.guard.gateway.json_text import JsonText, NotStrict, parse_strict
from steersman.guard.spans import Span

USER = {"role": "user", "content": "hi"}


def messages(*given: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": list(given), **more}


BODIES: list[tuple[str, Any, int, str]] = [
    ("not JSON", b"{", 400, "not JSON"),
    ("empty", b"", 400, "not JSON"),
    ("trailing", b'{"model": "m"} x', 400, "not JSON"),
    ("a list", b"[]", 400, "an empty list, not an object"),
    ("a text", b'"x"', 400, "not an object"),
    ("null", b"null", 400, "not an object"),
    ("NaN", b'{"model": "m", "temperature": NaN}', 400, "NaN"),
    ("infinity", b'{"model": "m", "temperature": -Infinity}', 400, "Infinity"),
    ("too large", b'{"model": "m", "temperature": 1e999}', 400, "too large"),
    ("too many digits", b'{"model": "m", "n": ' + b"9" * 5000 + b"}", 400, "too long"),
    ("one key twice", b'{"model": "m", "messages": [], "messages": []}', 400, '"messages" appears twice'),
    ("deep", b"[" * 10_000 + b"]" * 10_000, 400, "nested deeper"),
    ("deep objects", b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 400, "nested deeper"),
    ("rather deep", json.dumps(chat("x", a=json.loads("[" * 150 + "]" * 150))).encode(), 400, "nested deeper"),
    ("not UTF-8", b'{"model": "\xff"}', 400, "not UTF-8"),
    ("UTF-16", json.dumps(chat("x")).encode("utf-16"), 400, "not UTF-8"),
    ("half a character", b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}', 400, "surrogate"),
    ("half in a key", b'{"model": "m", "\\udc00": 1}', 400, "surrogate"),
    ("no model", {"messages": [USER]}, 400, "'model' is null or missing"),
    ("model a number", {"model": 1, "messages": [USER]}, 400, "'model' is the number 1"),
    ("model of two words", {"model": "a b", "messages": [USER]}, 400, "'model' is too long, or has spaces"),
    ("model of two lines", {"model": "a\nb", "messages": [USER]}, 400, "'model' is too long, or has spaces"),
    ("a long model", {"model": "m" * 1000, "messages": [USER]}, 400, "'model' is too long, or has spaces"),
    ("byte-order mark", b"\xef\xbb\xbf" + json.dumps(chat("x")).encode(), 400, "byte-order mark"),
    ("most tokens a text", chat("x", max_tokens="5"), 400, "'max_tokens' is the text"),
    ("most tokens a fraction", chat("x", max_completion_tokens=1.5), 400, "'max_completion_tokens' is the number 1.5"),
    ("most tokens true", chat("x", max_tokens=True), 400, "'max_tokens' is true"),
    ("most tokens negative", chat("x", max_tokens=-5), 400, "'max_tokens' is the number -5"),
    ("no messages", {"model": "m"}, 400, "'messages' is null or missing"),
    ("messages a text", {"model": "m", "messages": "hi"}, 400, "'messages' is the text"),
    ("messages an object", {"model": "m", "messages": {}}, 400, "'messages' is an object"),
    ("no message", messages(), 400, "'messages' is empty"),
    ("message a text", messages("hi"), 400, "'messages[0]' is the text"),
    ("message null", messages(USER, None), 400, "'messages[1]' is null"),
    ("role a number", messages({"role": 3, "content": "x"}), 400, "'messages[0].role' is the number 3"),
    ("no role", messages({"content": "x"}), 400, "'messages[0].role'"),
    ("content a number", messages({"role": "user", "content": 3}), 400, "'messages[0].content' is the number 3"),
    ("content an object", messages({"role": "user", "content": {}}), 400, "'messages[0].content' is an object"),
    ("content null", messages({"role": "user", "content": None}), 400, "'messages[0].content' is null"),
    ("no content", messages({"role": "assistant"}), 400, "'messages[0].content' is null"),
    ("calls null", messages({"role": "assistant", "content": None, "tool_calls": []}), 400, "content' is null"),
    ("part a text", messages({"role": "user", "content": ["x"]}), 400, "'messages[0].content[0]'"),
    ("part without type", messages({"role": "user", "content": [{"text": "x"}]}), 400, "'messages[0].content[0]'"),
    ("no text", messages({"role": "user", "content": [{"type": "text"}]}), 400, "content[0].text' is null"),
    ("text a list", messages({"role": "user", "content": [{"type": "text", "text": []}]}), 400, "content[0].text'"),
    ("calls a text", messages({"role": "assistant", "content": "x", "tool_calls": "y"}), 400, "tool_calls"),
    ("a call a text", messages({"role": "assistant", "content": "x", "tool_calls": ["y"]}), 400, "tool_calls"),
    ("stream a text", chat("x", stream="yes"), 400, "'stream' is the text"),
    ("stream a number", chat("x", stream=1), 400, "'stream' is the number 1"),
    ("n negative", chat("x", n=-1), 400, "'n' is the number -1"),
    ("n zero", chat("x", n=0), 400, "'n' is the number 0"),
    ("n a fraction", chat("x", n=1.5), 400, "'n' is the number 1.5"),
    ("n true", chat("x", n=True), 400, "'n' is true"),
    ("n huge", chat("x", n=10_000), 400, "'n' is the number 10000"),
    ("options a text", chat("x", stream=True, stream_options="x"), 400, "'stream_options'"),
    ("usage a text", chat("x", stream=True, stream_options={"include_usage": "x"}), 400, "include_usage"),
]


@pytest.mark.parametrize(("body", "status", "message"), [b[1:] for b in BODIES], ids=[b[0] for b in BODIES])
def test_a_wrong_body_has_one_right_error(body: Any, status: int, message: str) -> None:
    upstream = FakeUpstream(answer("x"))
    response = ask(gateway(upstream), body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"
    assert "Traceback" not in response.text
    assert not upstream.asked


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"model": "m"}, "'prompt' is null or missing"),
        ({"model": "m", "prompt": []}, "'prompt' is an empty list"),
        ({"model": "m", "prompt": 3}, "'prompt' is the number 3"),
        ({"model": "m", "prompt": ["x", 3]}, "mixes"),
        ({"model": "m", "prompt": [[1], "x"]}, "mixes"),
        ({"model": "m", "prompt": [True]}, "mixes"),
    ],
)
def test_a_wrong_prompt(body: Any, message: str) -> None:
    response = ask(gateway(FakeUpstream(answer("x"))), body, "/v1/completions")
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/json; charset=latin-1"}, 415),
        ({"content-type": "application/json; Charset = 'utf-16'"}, 415),
        ({"content-type": "application/json; charset=utf-8; charset=utf-16"}, 415),
        ({"content-encoding": "gzip"}, 415),
        ({"content-type": "application/json; charset=UTF-8"}, 200),
        ({"content-encoding": "identity"}, 200),
    ],
)
def test_bodies_of_other_types(headers: dict[str, str], status: int) -> None:
    body = json.dumps(chat("x")).encode()
    zipped = gzip.compress(body) if headers.get("content-encoding") == "gzip" else body
    response = ask(gateway(FakeUpstream(answer("x"))), zipped, headers=headers)
    assert response.status_code == status
    if status != 200:
        assert response.json()["error"]["code"] == "unsupported_media_type"


def test_a_long_body_is_413() -> None:
    upstream = FakeUpstream(answer("x"))
    for size in (10_001, 50_000, 200_000):  # the last is not even read to its end
        response = ask(gateway(upstream, body_bytes=10_000), chat("x" * size))
        assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
    assert ask(gateway(upstream, body_bytes=10_000), chat("x y " * 2000)).status_code == 200
    assert ask(gateway(upstream), chat("a b " * 2_500_000)).status_code == 413


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/chat/completions", 405, "method_not_allowed"),
        ("POST", "/v1/chat", 404, "unknown_path"),
        ("POST", "/v1/chat/completions/", 404, "unknown_path"),
        ("GET", "/", 404, "unknown_path"),
        ("POST", "//v1/chat/completions", 404, "unknown_path"),
    ],
)
def test_other_paths_and_methods(method: str, path: str, status: int, code: str) -> None:
    response = ask(gateway(FakeUpstream(answer("x"))), b"{}", path, method=method)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_request_ids_are_kept_if_they_are_words() -> None:
    state = gateway(FakeUpstream(answer("x")))
    assert ask(state, chat("x"), headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    for wrong in ("a b", "x" * 200, "{}", ""):
        assert ask(state, chat("x"), headers={"x-request-id": wrong}).headers["x-request-id"].startswith("req_")


def test_most_tokens_of_servers_that_take_minus_one() -> None:
    upstream = FakeUpstream(answer("x"))
    assert ask(gateway(upstream), chat("x", max_tokens=-1)).status_code == 200
    assert upstream.asked[0]["max_tokens"] == -1


# ── JSON as text ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_strings_of_a_value_and_writing_them_back() -> None:
    value = {
        "function": {"name": "send", "arguments": '{"to": "ann\\u0040x.org", "to": "bob", "n": 12}'},
        "deep": [{"k": "text"}, 5, None, True],
    }
    text = JsonText(value)
    assert text.text.split("\n") == [
        *("function", "name", "send", "arguments", "to", "ann@x.org", "to", "bob", "n", "12"),
        *("deep", "k", "text", "5"),
    ]
    assert text.replaced([]) == {
        "function": {"name": "send", "arguments": '{"to": "bob", "n": 12}'},
        "deep": [{"k": "text"}, 5, None, True],
    }
    at = text.text.index("bob")
    spans = [Span(at, at + 3, "[NAME]"), Span(len(text.text) - 1, len(text.text), "[NUMBER]")]
    new = text.replaced(spans)
    assert json.loads(new["function"]["arguments"]) == {"to": "[NAME]", "n": 12}
    assert new["deep"][1] == "[NUMBER]"


def test_a_span_over_two_strings_is_replaced_in_both() -> None:
    text = JsonText(["abc", "def"])
    assert text.replaced([Span(2, 5, "X")]) == ["abX", "Xef"]


def test_arguments_that_are_no_json_are_read_as_they_are() -> None:
    for given in ('{"a": ', "5", "[" * 10_000, '"x"'):
        assert JsonText({"arguments": given}).text == f"arguments\n{given}"


def test_strict_reading() -> None:
    assert parse_strict('{"a": [1, 2.5, "ü"]}') == {"a": [1, 2.5, "ü"]}
    with pytest.raises(NotStrict, match="appears twice"):
        parse_strict('{"a": {"b": 1, "b": 1}}')
