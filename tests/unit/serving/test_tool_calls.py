"""Calls of tools in what a model wrote, by the form of its chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from steersman.errors import DataError
from steersman.lm import tiny
from steersman.lm.chat_format import chat_format
from steersman.lm.pretrained import load_tokenizer
from steersman.serving import models
from steersman.serving.app import App
from steersman.serving.engine import Engine
from steersman.serving.replies import Choice
from steersman.serving.sequences import Delta
from steersman.serving.service import Service
from steersman.serving.tool_calls import CallForm, call_form, calls_in
from steersman.types import Message

from .conftest import TEXTS, events

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
OFFERED = Message(role="tools", content=json.dumps([TOOL]))
HEAD = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.content %}{{ m.content }}{% endif %}{% for call in m.tool_calls or [] %}"
)
TAIL = "{% endfor %}<eos>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
HERMES = (
    HEAD
    + '<tool_call>\n{"name": "{{ call.function.name }}", '
    + '"arguments": {{ call.function.arguments | tojson }}}\n</tool_call>'
    + TAIL
)
LLAMA = HEAD + '{"name": "{{ call.function.name }}", "parameters": {{ call.function.arguments | tojson }}}' + TAIL
ODD = HEAD + "CALL {{ call.function.name }} WITH {{ call.function.arguments | tojson }}" + TAIL
TAGS, BARE = CallForm("<tool_call>", "</tool_call>"), CallForm("", "")
CALL = '{"name": "weather", "arguments": {"city": "Köln"}}'


def chat_with(template: str) -> Any:
    tokenizer = tiny.tokenizer(TEXTS)
    tokenizer.chat_template = template
    return chat_format(tokenizer)


def test_a_template_says_how_calls_are_written() -> None:
    assert call_form(chat_with(HERMES), OFFERED) == TAGS
    assert call_form(chat_with(LLAMA), OFFERED) == BARE


def test_forms_that_cannot_be_read_back_are_refused() -> None:
    with pytest.raises(DataError, match="cannot read back"):
        call_form(chat_with(ODD), OFFERED)
    with pytest.raises(DataError, match="no chat template"):
        call_form(chat_format(tiny.tokenizer(TEXTS)), OFFERED)
    with pytest.raises(DataError, match="no tools"):
        call_form(chat_with("{% for m in messages %}{{ m.role }}: {{ m.content }}<eos>{% endfor %}"), OFFERED)


@pytest.mark.parametrize(
    ("form", "text", "content", "names"),
    [
        (TAGS, f"I look.\n<tool_call>\n{CALL}\n</tool_call>", "I look.", ["weather"]),
        (TAGS, f"<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>", "", ["weather", "weather"]),
        (TAGS, f"<tool_call>{CALL}", "", ["weather"]),
        (TAGS, f"<tool_call>{CALL}</tool_call> and more", None, []),
        (TAGS, '<tool_call>{"name": "weather"', None, []),
        (TAGS, f"no tag: {CALL}", None, []),
        (TAGS, "<tool_call>" * 3, None, []),
        (BARE, CALL.replace("arguments", "parameters"), "", ["weather"]),
        (BARE, f"[{CALL}, {CALL}]", "", ["weather", "weather"]),
        (BARE, f"text first {CALL}", None, []),
        (BARE, '{"a": 1}', None, []),
        (BARE, "[" * 100_000, None, []),
    ],
    ids=lambda value: str(value)[:30],
)
def test_calls_are_found_or_the_text_stays(form: CallForm, text: str, content: str | None, names: list[str]) -> None:
    """Also in a stream, cut at every place: the same calls, and no part of one as text."""
    expected = text if content is None else content
    said, calls = calls_in(form, text)
    assert (said, [call.name for call in calls]) == (expected, names)
    assert all(json.loads(call.arguments) == {"city": "Köln"} for call in calls)
    for cut in range(min(len(text), 80)):
        choice, sent = Choice(0), ""
        for piece, finish in ((text[:cut], None), (text[cut:], "stop")):
            sent += choice.add(Delta(0, piece, (), 1, finish), form)  # type: ignore[arg-type]
        assert (sent.strip(), len(choice.calls)) == (expected.strip(), len(names)), cut
        assert choice.finish == ("tool_calls" if names else "stop")


def test_a_model_with_tools_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model calls nothing, so what it says is replaced where it is decoded."""
    tiny.build(TEXTS, tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    tokenizer.chat_template = HERMES
    tokenizer.save_pretrained(tmp_path)
    served = models.load(tmp_path, {"m": None})
    wanted = f"Well.\n<tool_call>\n{CALL}\n</tool_call>"
    ids = served["m"].chat.tokenizer(wanted, add_special_tokens=False)["input_ids"] + [1]
    monkeypatch.setattr(
        "steersman.serving.engine.draw_each", lambda rows, *_: [(ids[len(row.tokens)], -1.0, ()) for row in rows]
    )
    body = {"model": "m", "messages": [{"role": "user", "content": "Weather?"}], "tools": [TOOL]}
    with TestClient(App(Service(Engine(served).start())).asgi, base_url="http://127.0.0.1") as client:
        (choice,) = client.post("/v1/chat/completions", json=body).json()["choices"]
        assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", "Well.")
        (call,) = choice["message"]["tool_calls"]
        assert (call["type"], call["function"]["name"]) == ("function", "weather")
        assert json.loads(call["function"]["arguments"]) == {"city": "Köln"}
        chunks = [c["choices"][0] for c in events(client.post("/v1/chat/completions", json={**body, "stream": True}))]
        assert "".join(c["delta"].get("content") or "" for c in chunks).strip() == "Well."
        assert [c["delta"]["tool_calls"][0]["function"]["name"] for c in chunks if "tool_calls" in c["delta"]] == [
            "weather"
        ]
        assert chunks[-1]["finish_reason"] == "tool_calls"
        answered = [
            *body["messages"],
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": "sunny"},
        ]
        again = client.post("/v1/chat/completions", json={**body, "messages": answered})
        assert again.status_code == 200, again.text
        without = client.post("/v1/chat/completions", json={**body, "tool_choice": "none"}).json()["choices"][0]
        assert without["message"]["content"] == wanted
