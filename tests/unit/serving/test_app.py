"""The API over HTTP: OpenAI's shapes, streams that add up to the answer, and one error for each bad request."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from steersman.lm.language_model import LocalModel
from steersman.serving.app import MOST_BYTES, App
from steersman.serving.engine import Engine
from steersman.serving.service import Service
from steersman.types import Message

from .conftest import events

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
QUESTION = "How do I cook rice?"


def body(**more: Any) -> dict[str, Any]:
    return {"model": "raw", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 16, **more}


def text_body(**more: Any) -> dict[str, Any]:
    return {"model": "raw", "prompt": "How do I", "max_tokens": 12, **more}


def content(client: TestClient, **more: Any) -> str:
    response = client.post(CHAT, json=body(**more))
    assert response.status_code == 200, response.text
    found: str = response.json()["choices"][0]["message"]["content"]
    return found


# ── shapes ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_chat_answer(client: TestClient, local: LocalModel) -> None:
    answer = client.post(CHAT, json=body(temperature=0)).json()
    assert (answer["object"], answer["model"]) == ("chat.completion", "raw")
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == local.generate([QUESTION], max_new_tokens=16)[0]
    assert (choice["finish_reason"], choice["logprobs"]) == ("length", None)
    prompt = len(local.sampler.chat.prompt_ids(QUESTION))
    assert answer["usage"] == {"prompt_tokens": prompt, "completion_tokens": 16, "total_tokens": prompt + 16}


def test_the_publishers_text_precedes_the_clients_own_and_is_not_replaced_by_it(
    engine_of: Callable[..., Engine], local: LocalModel
) -> None:
    with TestClient(App(Service(engine_of(), {"raw": "Be brief."})).asgi, base_url="http://127.0.0.1") as client:
        for own, told in (([], "Be brief."), ([{"role": "system", "content": "Rhyme."}], "Be brief.\n\nRhyme.")):
            messages = [*own, {"role": "user", "content": QUESTION}]
            said = content(client, messages=messages, temperature=0)
            whole = (Message(role="system", content=told), Message(role="user", content=QUESTION))
            assert said == local.generate([whole], max_new_tokens=16)[0]


@pytest.mark.parametrize("more", [{"temperature": 0}, {"seed": 3}, {"seed": 3, "n": 3}], ids=str)
def test_a_stream_adds_up_to_the_answer(more: dict[str, Any], client: TestClient) -> None:
    whole = client.post(CHAT, json=body(**more)).json()
    response = client.post(CHAT, json=body(stream=True, stream_options={"include_usage": True}, **more))
    assert response.headers["content-type"].startswith("text/event-stream")
    chunks = events(response)
    assert len({(c["id"], c["created"], c["model"], c["object"]) for c in chunks}) == 1
    assert chunks[0]["object"] == "chat.completion.chunk"
    assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], whole["usage"])
    assert all(c["usage"] is None and len(c["choices"]) == 1 for c in chunks[:-1])
    for expected in whole["choices"]:
        own = [c["choices"][0] for c in chunks[:-1] if c["choices"][0]["index"] == expected["index"]]
        assert own[0]["delta"]["role"] == "assistant"
        assert all("role" not in one["delta"] for one in own[1:])
        assert "".join(one["delta"].get("content", "") for one in own) == expected["message"]["content"]
        assert [one["finish_reason"] for one in own] == [*[None] * (len(own) - 1), expected["finish_reason"]]
        assert own[-1]["delta"] == {}


def test_a_text_completion_keeps_its_spaces(client: TestClient, local: LocalModel) -> None:
    answer = client.post(TEXT, json=text_body(prompt=["How do I", "The bread"], n=2, seed=1, logprobs=2)).json()
    assert answer["object"] == "text_completion"
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    for choice in answer["choices"]:
        found = choice["logprobs"]
        assert len(found["tokens"]) == len(found["token_logprobs"]) == len(found["text_offset"]) <= 12
        assert all(len(top) <= 2 for top in found["top_logprobs"])
        assert found["text_offset"][0] == 0
    ids = local.sampler.chat.tokenizer("How do I", add_special_tokens=False)["input_ids"]
    bos = local.sampler.chat.tokenizer.bos_token_id
    by_ids = client.post(TEXT, json=text_body(prompt=[bos, *ids], seed=1)).json()
    assert by_ids["choices"][0]["text"] == answer["choices"][0]["text"]
    streamed = events(client.post(TEXT, json=text_body(seed=1, stream=True)))
    assert "".join(c["choices"][0]["text"] for c in streamed) == answer["choices"][0]["text"]


def test_log_probabilities_hold_the_bytes_of_the_text(client: TestClient) -> None:
    (choice,) = client.post(CHAT, json=body(seed=5, logprobs=True, top_logprobs=4)).json()["choices"]
    tokens = choice["logprobs"]["content"]
    spelled = bytes(byte for token in tokens for byte in token["bytes"]).decode("utf-8", errors="replace")
    assert spelled.strip() == choice["message"]["content"]
    assert all(len(token["top_logprobs"]) == 4 and token["logprob"] <= 0 for token in tokens)
    chunks = events(client.post(CHAT, json=body(seed=5, logprobs=True, top_logprobs=4, stream=True)))
    streamed = [one for c in chunks for one in (c["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert streamed == tokens


# ── stop strings ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_stop_strings_end_an_answer_and_never_leak(client: TestClient) -> None:
    """Every piece of an answer as a stop string, across tokens: the text before it, in streams too."""
    whole = content(client, seed=8, max_tokens=24)
    for start in range(1, len(whole) - 4, 3):
        for length in (1, 2, 4):
            stop = whole[start : start + length]
            if not stop.strip():
                continue
            expected = whole[: whole.index(stop)].strip()
            response = client.post(CHAT, json=body(seed=8, max_tokens=24, stop=[stop, "never there"])).json()
            (choice,) = response["choices"]
            assert (choice["message"]["content"], choice["finish_reason"]) == (expected, "stop"), stop
            chunks = events(client.post(CHAT, json=body(seed=8, max_tokens=24, stop=stop, stream=True)))
            sent = ""
            for chunk in chunks:
                sent += chunk["choices"][0]["delta"].get("content", "")
                assert expected.startswith(sent), (stop, sent)
            assert sent == expected


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_biases_and_penalties_change_the_draw(client: TestClient, local: LocalModel) -> None:
    """Favoured tokens are drawn, banned ones are not; penalties hold repetitions down; log-probs stay the model's."""

    def tokens(**more: Any) -> list[tuple[str, float]]:
        answer = client.post(CHAT, json=body(temperature=0, logprobs=True, **more)).json()
        return [(one["token"], one["logprob"]) for one in answer["choices"][0]["logprobs"]["content"]]

    tokenizer = local.sampler.chat.tokenizer
    egg = tokenizer("x", add_special_tokens=False)["input_ids"][0]
    assert {token for token, _ in tokens(logit_bias={str(egg): 100})} == {"x"}
    plain = tokens()
    first = next(i for i in range(len(tokenizer)) if tokenizer.decode([i]) == plain[0][0])
    assert tokens(logit_bias={str(first): -100})[0][0] != plain[0][0]
    assert len({token for token, _ in tokens(frequency_penalty=2)}) > len({token for token, _ in plain})
    assert len({token for token, _ in tokens(presence_penalty=2)}) > len({token for token, _ in plain})
    assert tokens(logit_bias={str(first): 50})[0] == (plain[0][0], pytest.approx(plain[0][1], abs=1e-4))


def test_what_changes_nothing_is_accepted(client: TestClient) -> None:
    more = {
        "user": "u",
        "store": False,
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "stop": None,
        "tools": None,
        "response_format": {"type": "text"},
        "top_p": 1,
        "n": 1,
        "logit_bias": {},
    }
    assert content(client, temperature=0, **more) == content(client, temperature=0)
    parts = [{"type": "text", "text": QUESTION[:5]}, {"type": "text", "text": QUESTION[5:]}]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts, "name": "Ann"}]
    system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    assert content(client, temperature=0, messages=messages) == content(client, temperature=0, messages=system)


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────
USER = {"role": "user", "content": "?"}
REFUSED: list[tuple[dict[str, Any], int, str | None, str]] = [
    ({"model": "gpt-9"}, 404, "model_not_found", "does not exist"),
    ({"model": "\ud800"}, 404, "model_not_found", "does not exist"),
    ({"model": None}, 400, "missing_required_parameter", "'model'"),
    ({"model": 3}, 400, "invalid_type", "'model'"),
    ({"messages": []}, 400, "invalid_value", "'messages'"),
    ({"messages": "hi"}, 400, "invalid_type", "'messages'"),
    ({"messages": [3]}, 400, "invalid_type", "'messages[0]'"),
    ({"messages": [{"role": "king", "content": "?"}]}, 400, "invalid_value", "messages[0].role"),
    ({"messages": [{"role": "user"}]}, 400, "missing_required_parameter", "'content'"),
    ({"messages": [{"role": "user", "content": 3}]}, 400, "invalid_type", "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "unsupported_content", "text alone"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, 400, "invalid_type", "messages[0].content[0]"),
    ({"messages": [{**USER, "colour": 1}]}, 400, "unknown_parameter", "messages[0].colour"),
    ({"messages": [USER, {"role": "assistant", "content": "x"}]}, 400, None, "'assistant'"),
    ({"messages": [USER, {"role": "tool", "content": "x"}]}, 400, None, "tool_call_id"),
    ({"temperature": "0"}, 400, "invalid_type", "'temperature'"),
    ({"temperature": True}, 400, "invalid_type", "'temperature'"),
    ({"temperature": 2.5}, 400, "invalid_value", "'temperature'"),
    ({"top_p": -1}, 400, "invalid_value", "'top_p'"),
    ({"n": 0}, 400, "invalid_value", "'n'"),
    ({"n": 10**6}, 400, "invalid_value", "'n'"),
    ({"max_tokens": 0}, 400, "invalid_value", "'max_tokens'"),
    ({"max_tokens": 10**6}, 400, "context_length_exceeded", "256"),
    ({"messages": [{"role": "user", "content": "egg " * 500}]}, 400, "context_length_exceeded", "256"),
    ({"max_completion_tokens": 3}, 400, None, "differ"),
    ({"stop": ["a", "b", "c", "d", "e"]}, 400, None, "'stop'"),
    ({"stop": ""}, 400, None, "'stop'"),
    ({"stop": [1]}, 400, "invalid_type", "stop[0]"),
    ({"stream": False, "stream_options": {"include_usage": True}}, 400, None, "stream_options"),
    ({"top_logprobs": 2}, 400, None, "'logprobs'"),
    ({"logprobs": True, "top_logprobs": 50}, 400, "invalid_value", "top_logprobs"),
    ({"logit_bias": {"x": 1}}, 400, None, "logit_bias"),
    ({"logit_bias": {"99999999": 1}}, 400, None, "logit_bias"),
    ({"logit_bias": {"3": 1e300}}, 400, "invalid_value", "logit_bias"),
    ({"response_format": {"type": "json_object"}}, 400, "unsupported_parameter", "json_object"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, 400, "unsupported_parameter", "json_schema"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, None, "no chat template"),
    ({"tools": [{"type": "web"}]}, 400, None, "A tool is"),
    ({"tool_choice": "required"}, 400, "unsupported_parameter", "tool_choice"),
    ({"reasoning_effort": "low"}, 400, "unsupported_parameter", "reasoning"),
    ({"functions": []}, 400, "unsupported_parameter", "tools"),
    ({"min_p": 0.1}, 400, "unknown_parameter", "'min_p'"),
]


@pytest.mark.parametrize(("more", "status", "code", "said"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_cannot_be_done_is_refused(
    more: dict[str, Any], status: int, code: str | None, said: str, client: TestClient
) -> None:
    for stream in (False, True):
        sent = json.dumps({**body(stream=stream), **more}).encode()
        response = client.post(CHAT, content=sent, headers={"content-type": "application/json"})
        assert response.status_code == status, response.text
        error = response.json()["error"]
        assert error["code"] == code, error
        assert said in error["message"], error
        assert error["type"] == "invalid_request_error"
        assert "Traceback" not in error["message"]


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        (b"", 400, "not valid JSON"),
        (b"{", 400, "not valid JSON"),
        (b"[]", 400, "array"),
        (b'{"model": NaN}', 400, "NaN"),
        (b'{"model": "raw", "messages": ' + b"[" * 100_000, 400, "deeply"),
        (b'{"model": "raw", "tools": ' + b"[" * 500 + b"]" * 500 + b', "messages": []}', 400, "'tools"),
        (b'{"n": ' + b"9" * 5000 + b"}", 400, "not valid JSON"),
        (b'\xff{"model": 1}', 400, "UTF-8"),
        (b'{"model": "' + b"x" * 10_000_000 + b'"}', 413, str(MOST_BYTES)),
    ],
    ids=lambda value: str(value)[:20],
)
def test_bodies_that_are_no_request(sent: bytes, status: int, said: str, client: TestClient) -> None:
    for path in (CHAT, TEXT):
        response = client.post(path, content=sent, headers={"content-type": "application/json"})
        assert response.status_code == status, response.text[:300]
        assert said in response.json()["error"]["message"]


def test_paths_methods_and_types(client: TestClient) -> None:
    assert client.get("/nowhere").json()["error"]["code"] == "unknown_url"
    wrong = client.get(CHAT)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    form = client.post(CHAT, content=b"{}", headers={"content-type": "text/plain"})
    assert (form.status_code, form.json()["error"]["code"]) == (415, "unsupported_media_type")
    models = client.get("/v1/models").json()
    assert [model["id"] for model in models["data"]] == ["raw"]
    assert client.get("/v1/models/raw").json() == models["data"][0]
    assert client.get("/v1/models/other").status_code == 404
    assert client.get("/health").json() == {"status": "ok"}
    assert "steersman_sampled_tokens_total" in client.get("/metrics").text


def test_keys_and_hosts(served: Any, engine_of: Callable[..., Engine]) -> None:
    app = App(Service(engine_of()), keys=["secret-1", "secret-2"], hosts=["127.0.0.1"])
    with TestClient(app.asgi, base_url="http://127.0.0.1:8000") as client:
        assert client.get("/health").status_code == 200
        for wrong in ({}, {"authorization": "Bearer no"}, {"authorization": "Basic secret-1"}):
            refused = client.get("/v1/models", headers=wrong)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        key = {"authorization": "Bearer secret-2"}
        assert client.get("/v1/models", headers=key).status_code == 200
        assert client.get("/v1/models", headers={**key, "host": "evil.example"}).status_code == 421


# ── clients that come and go ─────────────────────────────────────────────────────────────────────────────────────────
def test_a_full_queue_is_429(engine_of: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    engine, go_on = engine_of(rows=1, queue=1), threading.Event()
    step = engine._step  # held, so that the first answer cannot be over before the third request comes
    monkeypatch.setattr(engine, "_step", lambda lane: go_on.wait(60) and step(lane))
    with TestClient(App(Service(engine)).asgi, base_url="http://127.0.0.1") as client:
        asked = [threading.Thread(target=client.post, args=(CHAT,), kwargs={"json": body()}) for _ in range(2)]
        for number, thread in enumerate(asked):
            thread.start()
            deadline = time.monotonic() + 60
            while (engine.running, engine.queued) != (1, number) and time.monotonic() < deadline:
                time.sleep(0.005)
        refused = client.post(CHAT, json=body())
        go_on.set()
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert refused.headers["retry-after"] == "1"
        for thread in asked:
            thread.join(60)


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_is_sampled_for_a_client_that_has_gone(stream: bool, engine_of: Callable[..., Engine]) -> None:
    engine = engine_of()
    asyncio.run(asyncio.wait_for(_ask_and_go(App(Service(engine)).asgi, engine, stream), 60))
    assert (engine.running, engine.counters.cancelled) == (0, 1)
    assert engine.counters.sampled_tokens < 3000


async def _ask_and_go(app: Any, engine: Engine, stream: bool) -> None:
    gone = asyncio.Event()
    given = [{"type": "http.request", "body": json.dumps(body(max_tokens=3000, stream=stream)).encode()}]

    async def receive() -> Any:
        if given:
            return given.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        """Nobody reads it."""

    headers = [(b"content-type", b"application/json"), (b"host", b"127.0.0.1")]
    scope = {"type": "http", "method": "POST", "path": CHAT, "query_string": b"", "headers": headers}
    scope |= {"http_version": "1.1", "scheme": "http", "server": ("127.0.0.1", 80)}
    serving = asyncio.ensure_future(app(scope, receive, send))
    while not engine.running:
        await asyncio.sleep(0.005)
    gone.set()
    await serving
    while engine.running:
        await asyncio.sleep(0.005)
