"""What is scanned is exactly what is forwarded: every role, part and field of a request, and redaction in it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from guarded import REFUSAL, WORD, FakeUpstream, answer, ask, chat, gateway, guard
from steersman.guard.gateway.chat_api import read_chat, read_completion

USER = {"role": "user", "content": "hi"}
KEY = "sk-proj-" + "Ab3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dF3gH5jK7m"
ARGUMENTS = json.dumps({"key": KEY, "n": 1})
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": json.dumps({"q": f"a {WORD}"})}}
QUIET = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}

HIDING_PLACES: list[tuple[str, dict[str, Any]]] = [
    ("system", {"messages": [{"role": "system", "content": WORD}, USER]}),
    ("developer", {"messages": [{"role": "developer", "content": WORD}, USER]}),
    ("user", {"messages": [{"role": "user", "content": f"a {WORD}."}]}),
    ("an earlier turn", {"messages": [{"role": "user", "content": WORD}, {"role": "assistant", "content": "k"}, USER]}),
    ("assistant", {"messages": [USER, {"role": "assistant", "content": WORD}]}),
    ("unknown role", {"messages": [{"role": "ipython", "content": WORD}, USER]}),
    ("tool result", {"messages": [USER, {"role": "tool", "tool_call_id": "c1", "content": WORD}]}),
    ("function result", {"messages": [USER, {"role": "function", "name": "f", "content": WORD}]}),
    ("tool result in parts", {"messages": [USER, {"role": "tool", "content": [{"type": "text", "text": WORD}]}]}),
    ("a part", {"messages": [{"role": "user", "content": [{"type": "text", "text": WORD}]}]}),
    (
        "over two parts",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": t} for t in ("a zebra", "fish recipe")]}]},
    ),
    ("refusal part", {"messages": [USER, {"role": "assistant", "content": [{"type": "refusal", "refusal": WORD}]}]}),
    ("refusal", {"messages": [USER, {"role": "assistant", "content": None, "refusal": WORD}, USER]}),
    ("reasoning", {"messages": [USER, {"role": "assistant", "content": "k", "reasoning_content": WORD}, USER]}),
    ("name", {"messages": [{**USER, "name": WORD}]}),
    ("call", {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}]}),
    (
        "escaped call",
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": None,
                    "function_call": {"name": "f", "arguments": '{"q": "zebra\\u0066ish recipe"}'},
                },
            ]
        },
    ),
    (
        "a call's first of two keys",
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"function": {"name": "f", "arguments": f'{{"q": "{WORD}", "q": "fine"}}'}}],
                },
            ]
        },
    ),
    ("unknown field of a message", {"messages": [{**USER, "content_blocks": [{"text": WORD}]}]}),
    (
        "unknown field of a part",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "b": WORD}]}]},
    ),
    ("tools", {"messages": [USER], "tools": [{"type": "function", "function": {"name": "f", "description": WORD}}]}),
    ("response format", {"messages": [USER], "response_format": {"json_schema": {"description": WORD}}}),
    ("prediction", {"messages": [USER], "prediction": {"type": "content", "content": WORD}}),
    ("stop", {"messages": [USER], "stop": [WORD]}),
    ("template", {"messages": [USER], "chat_template": WORD}),
    ("documents", {"messages": [USER], "documents": [{"title": "t", "text": WORD}]}),
    ("a key", {"messages": [USER], "metadata": {WORD: 1}}),
    ("an unknown field's name", {"messages": [USER], WORD: 1}),
    ("the name of an unknown field of a message", {"messages": [{**USER, WORD: True}]}),
    (
        "the name of an unknown field of a part",
        {"messages": [chat([{"type": "text", "text": "a", WORD: 1}])["messages"][0]]},
    ),
    ("a call's id", {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [{**QUIET, "id": WORD}]}]}),
    (
        "a call's type",
        {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [{**QUIET, "type": WORD}]}]},
    ),
    ("an effort", {"messages": [USER], "reasoning_effort": f"a {WORD}"}),
    ("a tier", {"messages": [USER], "service_tier": WORD}),
    ("a stream's options", {"messages": [USER], "stream_options": {"note": WORD}}),
    ("model's place", {"messages": [USER], "reasoning_effort": [WORD]}),
]


@pytest.mark.parametrize("body", [b for _, b in HIDING_PLACES], ids=[name for name, _ in HIDING_PLACES])
@pytest.mark.parametrize("streamed", [False, True])
def test_there_is_no_place_to_hide(body: dict[str, Any], streamed: bool) -> None:
    upstream = FakeUpstream(answer("x"))
    response = ask(gateway(upstream), {"model": "m", "stream": streamed, **body})
    assert response.status_code == 200
    assert not upstream.asked, "it reached the upstream"
    assert response.headers["x-guard-decision"] == "block"
    assert response.headers["x-guard-principle"] == "locked"
    assert REFUSAL in response.text


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "image_url", "image_url": "http://x/y.png"},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}},
        {"type": "hologram", "text": "hi"},
        {"type": "text", "text": "hi", "more": "data:text/plain,hello"},
        {"type": "text", "text": "hi", "more": "x" * 5000},
    ],
)
def test_what_no_rail_can_read_is_as_the_file_says(part: dict[str, Any]) -> None:
    body = chat([{"type": "text", "text": "What is this?"}, part])
    upstream = FakeUpstream(answer("A cat."))
    blocked = ask(gateway(upstream), body)
    assert blocked.headers["x-guard-principle"] == "unscannable"
    assert not upstream.asked
    passed = ask(gateway(upstream, guard(unscannable="allow")), body)
    assert passed.json()["choices"][0]["message"]["content"] == "A cat."
    assert upstream.asked == [body]


@pytest.mark.parametrize(
    "body",
    [
        chat("What is this?", prompt_token_ids=[1, 2]),
        chat("What is this?", multi_modal_data={"image": "AAAA"}),
        {"model": "m", "messages": [{**USER, "images": ["AAAA"]}]},
        {"model": "m", "messages": [{"role": "assistant", "content": "k", "audio": {"data": "AAAA"}}, USER]},
    ],
)
def test_what_no_rail_can_read_beside_the_texts(body: dict[str, Any]) -> None:
    upstream = FakeUpstream(answer("x"))
    assert ask(gateway(upstream), body).headers["x-guard-principle"] == "unscannable"
    assert not upstream.asked
    assert ask(gateway(upstream, guard(unscannable="allow")), body).headers["x-guard-decision"] == "allow"
    assert upstream.asked == [body]


def test_texts_beside_pictures_are_read_even_where_those_may_pass() -> None:
    upstream = FakeUpstream(answer("x"))
    body = {"model": "m", "messages": [{**USER, "images": [WORD]}]}
    assert ask(gateway(upstream, guard(unscannable="allow")), body).headers["x-guard-principle"] == "locked"


def test_the_path_of_an_unknown_field_does_not_repeat_it() -> None:
    response = ask(gateway(FakeUpstream(answer("x"))), chat("hi", **{WORD: 1}))
    assert response.headers["x-guard-decision"] == "block"
    assert WORD not in response.text


def test_a_secret_in_an_unknown_fields_name_is_replaced() -> None:
    upstream = FakeUpstream(answer("x"))
    assert ask(gateway(upstream), chat("hi", **{KEY: {"a": KEY}, "b": 1})).status_code == 200
    sent = json.dumps(upstream.asked[0])
    assert KEY not in sent
    assert upstream.asked[0]["b"] == 1
    assert len(upstream.asked[0]) == 4


def test_texts_of_unknown_parts_are_read_even_where_they_may_pass() -> None:
    upstream = FakeUpstream(answer("x"))
    body = chat([{"type": "hologram", "caption": WORD}])
    assert ask(gateway(upstream, guard(unscannable="allow")), body).headers["x-guard-principle"] == "locked"


def test_unknown_fields_pass_through_untouched() -> None:
    upstream = FakeUpstream(answer("x"))
    body = chat("hi", temperature=0.5, seed=3, made_up={"a": [1, None, "b", True, 2.5]}, logit_bias={"50": -100})
    assert ask(gateway(upstream), body).status_code == 200
    assert upstream.asked == [body]


def test_secrets_are_replaced_in_what_is_forwarded() -> None:
    """In a text, in a part and over parts, in arguments, and in a field that nobody knows."""
    upstream = FakeUpstream(answer("x"))
    half = len(KEY) // 2
    body = {
        "model": "m",
        "messages": [
            {"role": "user", "content": f"my key is {KEY} ok"},
            {"role": "user", "content": [{"type": "text", "text": t} for t in ("a " + KEY[:half], KEY[half:] + " b")]},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": ARGUMENTS}}
            ]},
            {"role": "user", "content": "go on"},
        ],
        "made_up": {"inner": [f"{KEY}"]},
    }  # fmt: skip
    response = ask(gateway(upstream), body)
    assert response.headers["x-guard-decision"] == "redact"
    assert response.json()["guardrail"]["side"] == "input"
    (sent,) = upstream.asked
    assert KEY not in json.dumps(sent)
    assert KEY[half:] not in json.dumps(sent)
    assert sent["messages"][0]["content"].startswith("my key is [")
    assert sent["messages"][0]["content"].endswith("] ok")
    assert json.loads(sent["messages"][2]["tool_calls"][0]["function"]["arguments"])["n"] == 1
    assert sent["messages"][3] == body["messages"][3]


def test_a_begun_turn_of_the_assistant_does_not_empty_the_window() -> None:
    """The user's text before it is judged as it always is, and its continuation together with it."""
    upstream = FakeUpstream(answer("recipe is this"))
    body = {"model": "m", "messages": [USER, {"role": "assistant", "content": "The zebrafish "}]}
    assert ask(gateway(upstream), body).json()["choices"][0]["finish_reason"] == "content_filter"
    request = read_chat(body)
    assert request.before == "The zebrafish "
    assert request.exchange.question == "hi"
    parts = [{"type": "text", "text": "The zebra"}, {"type": "text", "text": "fish "}]
    assert read_chat({**body, "messages": [USER, {"role": "assistant", "content": parts}]}).before == "The zebrafish "


def test_trusted_system_messages_are_not_read() -> None:
    upstream = FakeUpstream(answer("x"))
    body = {"model": "m", "messages": [{"role": "system", "content": f"Never say {WORD}."}, USER]}
    assert ask(gateway(upstream, trust_system=True), body).headers["x-guard-decision"] == "allow"
    assert upstream.asked == [body]
    body["messages"][0]["role"] = "user"
    assert ask(gateway(upstream, trust_system=True), body).headers["x-guard-decision"] == "block"


def test_escalated_requests_pass_and_are_marked() -> None:
    response = ask(gateway(FakeUpstream(answer("x"))), chat("a curious heron"))
    assert response.headers["x-guard-decision"] == "escalate"
    assert response.json()["guardrail"]["principle"] == "watched"
    assert response.json()["choices"][0]["message"]["content"] == "x"


def test_prompts_of_completions() -> None:
    request = read_completion({"model": "m", "prompt": ["a", "b"], "n": 2})
    assert request.choices == 4
    assert [request.parts_of(choice)[-1].text for choice in range(4)] == ["a", "a", "b", "b"]
    assert read_completion({"model": "m", "prompt": [1, 2]}).exchange.unscannable == ("prompt",)
    assert read_completion({"model": "m", "prompt": [[1], [2]]}).exchange.unscannable == ("prompt[0]", "prompt[1]")
    for prompt in (WORD, ["fine", WORD]):
        upstream = FakeUpstream(answer("x"))
        response = ask(gateway(upstream), {"model": "m", "prompt": prompt, "suffix": "x"}, "/v1/completions")
        assert {choice["text"] for choice in response.json()["choices"]} == {REFUSAL}
        assert not upstream.asked


def test_blocks_as_errors() -> None:
    for streamed in (False, True):
        response = ask(gateway(FakeUpstream(answer("x")), blocks="error"), chat(WORD, stream=streamed))
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "content_filter"
        assert response.json()["guardrail"]["principle"] == "locked"


def test_paths_are_unique() -> None:
    """Keys that look like a path of another text do not hide it."""
    body = {"model": "m", "messages": [{**USER, "content[0].text": "a"}], "messages[0].content": "b", "answer": "c"}
    parts = read_chat(body).exchange.parts
    assert len({part.where for part in parts}) == len(parts) == 4
    assert ask(gateway(FakeUpstream(answer("x"))), body).headers["x-guard-decision"] == "allow"
