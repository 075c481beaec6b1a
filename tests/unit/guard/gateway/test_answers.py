"""Answers, whole and in pieces: every text in them is judged, and what may not pass is replaced in the right shape."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from guarded import (
    REFUSAL,
    WORD,
    FakeUpstream,
    Rules,
    answer,
    ask,
    chat,
    chunk,
    chunks,
    ends,
    events,
    failure,
    gateway,
    said,
)
from steersman.guard.gateway.limits import Refused
from steersman.guard.gateway.state import Call, Hooks
from steersman.guard.verdict import Ruling

MAIL = "jane.doe@example-mail.com"
FILLER = "The ferry leaves at nine, and the harbour is quiet. "
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": json.dumps({"q": f"a {WORD}"})}}

LEAKS: list[tuple[str, dict[str, Any]]] = [
    ("content", {"content": f"a {WORD}."}),
    ("parts", {"content": [{"type": "text", "text": WORD}]}),
    ("refusal", {"refusal": WORD}),
    ("reasoning", {"content": "ok", "reasoning_content": WORD}),
    ("reasoning of another server", {"content": "ok", "reasoning": WORD}),
    ("details", {"content": "ok", "reasoning_details": [{"type": "reasoning.text", "text": WORD}]}),
    ("call", {"content": None, "tool_calls": [CALL]}),
    ("name of a call", {"content": None, "tool_calls": [{"id": "c", "function": {"name": WORD, "arguments": "{}"}}]}),
    ("id that is none", {"content": None, "tool_calls": [{"id": WORD, "function": {"name": "f", "arguments": "{}"}}]}),
    ("function", {"content": None, "function_call": {"name": "f", "arguments": '{"a": "zebra\\u0066ish recipe"}'}}),
    ("annotation", {"content": "ok", "annotations": [{"url_citation": {"title": WORD}}]}),
    ("unknown", {"content": "ok", "thoughts": {"deep": [WORD]}}),
    ("a key", {"content": "ok", "thoughts": {WORD: 1}}),
    ("transcript", {"content": "ok", "audio": {"id": "a", "data": "AAAA", "transcript": "fine"}}),
    ("picture", {"content": "ok", "images": [{"image_url": {"url": "data:image/png;base64,AAAA"}}]}),
    ("another part", {"content": [{"type": "image", "image": "AAAA"}]}),
]


@pytest.mark.parametrize("message", [m for _, m in LEAKS], ids=[name for name, _ in LEAKS])
def test_no_place_of_an_answer_leaks(message: dict[str, Any]) -> None:
    response = ask(gateway(FakeUpstream(answer(**{"text": None, **_named(message)}))), chat("hi"))
    (choice,) = response.json()["choices"]
    assert choice["finish_reason"] == "content_filter"
    assert choice["message"]["content"] == choice["message"]["refusal"]
    assert WORD not in response.text
    assert "AAAA" not in response.text
    assert response.headers["x-guard-decision"] == "block"
    assert response.json()["guardrail"]["side"] == "output"


@pytest.mark.parametrize("cut", range(1, len(MAIL)))
def test_fields_that_nobody_knows_are_judged_whole_however_they_are_cut(cut: int) -> None:
    """`pii-leak-benchmark` found an unknown field whose pieces were judged one by one, and sent."""
    first, second = MAIL[:cut], MAIL[cut:]
    fields: list[tuple[Any, Any]] = [(first, second), ([{"text": first}], [{"text": second}])]
    for before, after in fields:
        deltas = [{"content": FILLER}, {"record": before, "kind": "note"}, {"record": after, "kind": "note"}]
        response = ask(gateway(FakeUpstream([*map(chunk, deltas), chunk({}, "stop")])), chat("hi", stream=True))
        sent = json.dumps([c["delta"].get("record") for event in events(response) for c in event["choices"]])
        assert first not in sent.replace("null", "") or len(first) < 3
        assert second not in sent.replace("null", "") or len(second) < 3
        assert said(response) == FILLER
        assert said(response, key="kind") == "notenote"


def test_a_word_in_pieces_of_an_unknown_field_stops_the_answer() -> None:
    deltas = [{"content": FILLER}, {"record": WORD[:6]}, {"record": WORD[6:]}]
    response = ask(gateway(FakeUpstream([*map(chunk, deltas), chunk({}, "stop")])), chat("hi", stream=True))
    assert ends(response) == ["content_filter"]
    assert WORD[6:] not in response.text


def _named(message: dict[str, Any]) -> dict[str, Any]:
    return {("text" if key == "content" else key): value for key, value in message.items()}


@pytest.mark.parametrize("message", [m for _, m in LEAKS], ids=[name for name, _ in LEAKS])
def test_no_place_of_a_stream_leaks(message: dict[str, Any]) -> None:
    """Each field arrives in two pieces, so that its halves are harmless."""
    deltas = [{"role": "assistant"}, {"content": FILLER}]
    for key, value in message.items():
        if isinstance(value, str) and key in ("content", "refusal", "reasoning_content", "reasoning"):
            deltas += [{key: value[:6]}, {key: value[6:]}]
        elif key == "tool_calls":
            for n, call in enumerate(value):
                arguments = call["function"]["arguments"]
                first = {**call, "function": {**call["function"], "arguments": arguments[:12]}}
                rest = {"arguments": arguments[12:]}
                deltas += [{key: [{"index": n, **first}]}, {key: [{"index": n, "function": rest}]}]
        else:
            deltas.append({key: value})
    upstream = FakeUpstream([*(chunk(delta) for delta in deltas), chunk({}, "stop")])
    response = ask(gateway(upstream), chat("hi", stream=True))
    assert ends(response) == ["content_filter"]
    assert WORD not in response.text
    assert "zebra" not in response.text
    assert "AAAA" not in response.text
    assert events(response)[-1]["guardrail"]["decision"] == "block"
    assert upstream.closed == 1


def test_a_whole_answer_passes_untouched() -> None:
    """Fields that nobody knows too, and log-probabilities beside the text that they spell."""
    given = answer("Good day", annotations=[], made_up={"a": [1, "b", None]}, tool_calls=[
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"q":1}'}}
    ])  # fmt: skip
    given["choices"][0] |= {"stop_reason": None, "extra": {"x": "y"}}
    tokens = [{"token": t, "logprob": -0.1, "bytes": None, "top_logprobs": []} for t in ("Good", " day")]
    given["choices"][0]["logprobs"] = {"content": tokens, "refusal": None}
    given |= {"system_fingerprint": "fp", "service_tier": None, "made_up": [{"c": "d"}]}
    response = ask(gateway(FakeUpstream(given)), chat("hi"))
    assert response.json() == given
    assert response.headers["x-guard-decision"] == "allow"


def test_personal_data_is_replaced_and_log_probabilities_are_dropped() -> None:
    given = answer(f"Write to {MAIL} now", reasoning_content=f"It is {MAIL}", token_ids=[1, 2])
    tokens = [{"token": f"Write to {MAIL} now", "logprob": -0.1}]
    given["choices"][0]["logprobs"] = {"content": tokens}
    response = ask(gateway(FakeUpstream(given)), chat("hi"))
    (choice,) = response.json()["choices"]
    assert choice["message"] == {
        "role": "assistant", "content": "Write to [EMAIL] now", "reasoning_content": "It is [EMAIL]"
    }  # fmt: skip
    assert choice["logprobs"] is None
    assert choice["finish_reason"] == "stop"
    assert response.headers["x-guard-decision"] == "redact"
    assert MAIL not in response.text


def test_log_probabilities_that_spell_another_text_are_dropped() -> None:
    given = answer("fine")
    given["choices"][0]["logprobs"] = {"content": [{"token": WORD, "logprob": -0.1}]}
    response = ask(gateway(FakeUpstream(given)), chat("hi"))
    assert response.json()["choices"][0]["logprobs"] is None
    assert WORD not in response.text


def test_a_rewritten_answer() -> None:
    upstream = FakeUpstream(answer("a grumpy walrus"), answer("a calm one"))
    response = ask(gateway(upstream), chat("hi", tools=[{"type": "function"}], seed=1))
    assert response.json()["choices"][0]["message"]["content"] == "a calm one"
    assert response.headers["x-guard-decision"] == "rewrite"
    again = upstream.asked[1]
    assert [m["role"] for m in again["messages"]] == ["user", "assistant", "user"]
    assert "keeps softened" in again["messages"][2]["content"]
    assert again["seed"] == 1
    assert "tools" not in again


@pytest.mark.parametrize(
    "second", [answer("the grumpy walrus again"), answer(f"a {WORD}"), answer(None), {"choices": []}, failure()]
)
def test_a_second_answer_that_is_no_better(second: Any) -> None:
    response = ask(gateway(FakeUpstream(answer("a grumpy walrus"), second)), chat("hi"))
    (choice,) = response.json()["choices"]
    assert choice["finish_reason"] == "content_filter"
    assert choice["message"]["content"] in ("Said mildly.", REFUSAL)


def test_a_streamed_answer_is_not_rewritten() -> None:
    upstream = FakeUpstream(chunks(FILLER * 8 + "a grumpy walrus. " + FILLER))
    response = ask(gateway(upstream), chat("hi", stream=True))
    assert said(response).endswith("\n\nSaid mildly.")
    assert said(response, key="refusal") == "Said mildly."
    assert ends(response) == ["content_filter"]
    assert len(upstream.asked) == 1


def test_several_choices_stand_for_themselves() -> None:
    given = answer("x")
    given["choices"] = [
        {"index": n, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for n, text in enumerate(("fine", WORD, f"see {MAIL}"))
    ]
    found = ask(gateway(FakeUpstream(given)), chat("hi", n=3)).json()["choices"]
    assert [choice["message"]["content"] for choice in found] == ["fine", REFUSAL, "see [EMAIL]"]
    assert [choice["finish_reason"] for choice in found] == ["stop", "content_filter", "stop"]
    pieces = [chunk({"content": piece}, index=n) for piece, n in zip("abcdef", [0, 1, 2] * 2, strict=True)]
    pieces += [chunk({"content": f" {WORD} {FILLER * 3}"}, index=1), chunk({"content": " go"}, index=0)]
    pieces += [chunk({"content": " never"}, index=1), *(chunk({}, "stop", index=n) for n in range(3))]
    response = ask(gateway(FakeUpstream(pieces)), chat("hi", n=3, stream=True))
    assert [said(response, n) for n in range(3)] == ["ad go", REFUSAL, "cf"]
    assert [ends(response, n) for n in range(3)] == [["stop"], ["content_filter"], ["stop"]]


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("size", [1, 2, 5, 50, 10_000])
def test_a_stream_delivers_the_same_however_it_is_cut(size: int) -> None:
    text = FILLER * 5 + f"Write to {MAIL} soon. " + FILLER * 5
    response = ask(gateway(FakeUpstream(chunks(text, size))), chat("hi", stream=True))
    assert said(response) == text.replace(MAIL, "[EMAIL]")
    assert ends(response) == ["stop"]
    assert len({(event["id"], event["created"], event["object"]) for event in events(response)}) == 1
    blocked = ask(gateway(FakeUpstream(chunks(f"{text}{WORD}. {FILLER}", size))), chat("hi", stream=True))
    assert (text.replace(MAIL, "[EMAIL]") + "\n\n").startswith(said(blocked).removesuffix(REFUSAL).rstrip())
    assert ends(blocked) == ["content_filter"]


def test_a_stopped_stream_ends_the_upstreams_work() -> None:
    taken = []

    def counted() -> list[dict[str, Any]]:
        return chunks(WORD + ". " + FILLER * 100)

    class Counting(FakeUpstream):
        async def _events(self, given: Any) -> Any:
            for item in given:
                taken.append(item)
                yield item

    response = ask(gateway(Counting(counted())), chat("hi", stream=True))
    assert said(response) == REFUSAL
    assert len(taken) < 60


def test_calls_of_tools_come_whole() -> None:
    first = {"index": 0, "id": "c1", "type": "function", "function": {"name": "mail", "arguments": ""}}
    more = [{"index": 0, "function": {"arguments": a}} for a in ('{"to": "jane.doe@exam', 'ple-mail.com"}')]
    second = {"index": 1, "id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}}
    pieces = [chunk({"role": "assistant", "content": None})]
    pieces += [*(chunk({"tool_calls": [call]}) for call in (first, *more, second)), chunk({}, "tool_calls")]
    response = ask(gateway(FakeUpstream(pieces)), chat("hi", stream=True))
    (calls,) = [c["delta"]["tool_calls"] for e in events(response) for c in e["choices"] if "tool_calls" in c["delta"]]
    assert [(call["index"], call["id"], call["function"]["name"]) for call in calls] == [
        (0, "c1", "mail"),
        (1, "c2", "g"),
    ]
    assert json.loads(calls[0]["function"]["arguments"]) == {"to": "[EMAIL]"}
    assert ends(response) == ["tool_calls"]


def test_log_probabilities_come_in_step_with_the_text() -> None:
    text = FILLER * 6
    pieces = [
        chunk({"content": text[i : i + 4]}, logprobs={"content": [{"token": text[i : i + 4], "logprob": -1.0}]})
        for i in range(0, len(text), 4)
    ]
    response = ask(gateway(FakeUpstream([*pieces, chunk({}, "stop")])), chat("hi", stream=True))
    seen = spelt = ""
    for event in events(response):
        for choice in event["choices"]:
            seen += choice["delta"].get("content") or ""
            spelt += "".join(item["token"] for item in (choice["logprobs"] or {"content": []})["content"])
            assert seen.startswith(spelt)
    assert seen == spelt == text
    wrong = [chunk({"content": "fine"}, logprobs={"content": [{"token": WORD, "logprob": -1.0}]}), chunk({}, "stop")]
    assert WORD not in ask(gateway(FakeUpstream(wrong)), chat("hi", stream=True)).text


def test_log_probabilities_of_stopped_text_do_not_come() -> None:
    text = FILLER * 4 + f"{WORD}. " + FILLER * 4
    pieces = [chunk({"content": t}, logprobs={"content": [{"token": t, "logprob": -1.0}]}) for t in text]
    response = ask(gateway(FakeUpstream(pieces)), chat("hi", stream=True))
    spelt = [c["logprobs"]["content"] for e in events(response) for c in e["choices"] if c["logprobs"]]
    assert text.startswith("".join(item["token"] for items in spelt for item in items))
    assert "zebra" not in "".join(item["token"] for items in spelt for item in items)


def test_usage_of_a_stream() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "details": {"cached": 0, "note": WORD}}
    last = {**chunk({}), "choices": [], "usage": usage}
    response = ask(
        gateway(FakeUpstream([*chunks("hello"), last])),
        chat("hi", stream=True, stream_options={"include_usage": True}),
    )
    assert events(response)[-1]["choices"] == []
    assert events(response)[-1]["usage"] == {**usage, "details": {"cached": 0}}
    inside = chunks("hello")
    inside[-1]["usage"] = usage
    response = ask(gateway(FakeUpstream(inside)), chat("hi", stream=True))
    assert all(event["choices"] for event in events(response))
    assert events(response)[-1]["usage"]["total_tokens"] == 3


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("n", [1, 2])
def test_usage_comes_after_a_block_in_mid_stream(told: bool, n: int) -> None:
    """As OpenAI sends it: a chunk without choices behind the last one. What the upstream cannot have told is estimated.

    Where one of two answers goes on, the upstream counts both.
    """
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    pieces = chunks(FILLER * 4 + f"{WORD}. " + FILLER * 4)
    if told:  # some servers tell it with every piece
        pieces = [{**piece, "usage": usage} for piece in pieces]
    if n == 2:
        fine = [{**p, "choices": [{**p["choices"][0], "index": 1}]} for p in chunks("fine")]
        pieces = [*pieces, *fine, {**chunk({}), "choices": [], "usage": usage}]
    options = {"stream_options": {"include_usage": True}}
    found = events(ask(gateway(FakeUpstream(pieces)), chat("hi" * 40, stream=True, n=n, **options)))
    assert [choice["finish_reason"] for event in found for choice in event["choices"]].count("content_filter") == 1
    assert found[-1]["choices"] == []
    assert all("usage" not in event for event in found[:-1])
    if told or n == 2:
        assert found[-1]["usage"] == usage
    else:
        counted = found[-1]["usage"]
        assert counted["estimated"] is True
        assert 15 < counted["prompt_tokens"] < 40
        assert len(FILLER * 4) / 8 < counted["completion_tokens"] < len(FILLER * 8)
        assert counted["total_tokens"] == counted["prompt_tokens"] + counted["completion_tokens"]
    unasked = events(ask(gateway(FakeUpstream(pieces)), chat("hi", stream=True, n=n)))
    assert all(event["choices"] for event in unasked)


def test_fields_beside_the_choices_of_a_stream_are_judged() -> None:
    pieces = chunks("hello")
    pieces[1]["citations"] = ["http://harbour.example"]
    response = ask(gateway(FakeUpstream(pieces)), chat("hi", stream=True))
    assert events(response)[-1]["citations"] == ["http://harbour.example"]
    pieces[1]["citations"] = [WORD]
    assert WORD not in ask(gateway(FakeUpstream(pieces)), chat("hi", stream=True)).text


@pytest.mark.parametrize("place", [0, 3, 200])
def test_a_stream_that_breaks(place: int) -> None:
    """Before anything was sent it is an error with its status; after that an error event, and nothing held back."""
    pieces: list[Any] = chunks(FILLER * 20)
    pieces[place:] = [failure()]
    response = ask(gateway(FakeUpstream(pieces)), chat("hi", stream=True))
    if place < 100:
        assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_cut")
    else:
        assert response.status_code == 200
        assert events(response)[-1]["error"]["code"] == "upstream_cut"
        assert (FILLER * 20).startswith(said(response))
        assert not ends(response)


def test_a_stream_without_its_last_line_is_whole_if_its_choices_are() -> None:
    response = ask(gateway(FakeUpstream([*chunks("hello"), failure()])), chat("hi", stream=True))
    assert (said(response), ends(response)) == ("hello", ["stop"])


def test_a_stream_without_a_reason_of_its_end() -> None:
    response = ask(gateway(FakeUpstream(chunks("hello")[:-1])), chat("hi", stream=True))
    assert (said(response), ends(response)) == ("hello", ["stop"])


@pytest.mark.parametrize(
    "wrong",
    [{"choices": "x"}, {"choices": ["x"]}, chunk({}, index=5), {"choices": [{"index": 0, "delta": "x"}]}],
)
def test_pieces_that_are_none(wrong: dict[str, Any]) -> None:
    response = ask(gateway(FakeUpstream([chunk({"content": "a"}), wrong])), chat("hi", stream=True))
    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_reply")


@pytest.mark.parametrize("wrong", [{}, {"choices": 3}, {"choices": [1]}, {"choices": [{"message": "x"}]}])
def test_answers_that_are_none(wrong: dict[str, Any]) -> None:
    response = ask(gateway(FakeUpstream(wrong)), chat("hi"))
    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_reply")


def test_an_upstream_that_answers_a_stream_as_a_whole() -> None:
    response = ask(gateway(FakeUpstream(answer(f"see {MAIL}"))), chat("hi", stream=True))
    assert (said(response), ends(response)) == ("see [EMAIL]", ["stop"])


def test_output_blocks_as_errors() -> None:
    for given in (answer(WORD), chunks(WORD)):
        response = ask(gateway(FakeUpstream(given), blocks="error"), chat("hi", stream=isinstance(given, list)))
        assert (response.status_code, response.json()["error"]["code"]) == (400, "content_filter")
    late = ask(gateway(FakeUpstream(chunks(FILLER * 8 + WORD)), blocks="error"), chat("hi", stream=True))
    assert ends(late) == ["content_filter"]


def test_completions_of_text() -> None:
    given = {"id": "u", "object": "text_completion", "model": "m", "created": 1, "choices": [
        {"index": 0, "text": f"see {MAIL}", "finish_reason": "stop", "logprobs": None}]}  # fmt: skip
    body = {"model": "m", "prompt": "hi"}
    response = ask(gateway(FakeUpstream(given)), body, "/v1/completions")
    assert response.json()["choices"][0] == {**given["choices"][0], "text": "see [EMAIL]"}
    pieces = [{**given, "choices": [{"index": 0, "text": t, "finish_reason": None}]} for t in (FILLER * 7, WORD)]
    response = ask(gateway(FakeUpstream(pieces)), {**body, "stream": True}, "/v1/completions")
    assert said(response, key="text").endswith(f"\n\n{REFUSAL}")
    assert WORD not in response.text
    assert ends(response) == ["content_filter"]


def test_a_guard_that_fails_stops_everything() -> None:
    def broken(_: Any) -> Ruling:
        raise RecursionError

    for given in (answer("x"), chunks("x")):
        upstream = FakeUpstream(given)
        response = ask(gateway(upstream, Rules(broken)), chat("hi", stream=isinstance(given, list)))
        assert response.headers["x-guard-decision"] == "block"
        assert not upstream.asked


def test_nothing_is_sent_that_cannot_be_written_down() -> None:
    class Full(Hooks):
        async def ruled(self, call: Call, side: Any, ruling: Ruling, text: str, ms: float) -> None:
            if side == "output":
                raise Refused(503, "audit", "the audit log cannot be written", retry_after_s=5)

    for given in (answer("hello there"), chunks("hello there")):
        response = ask(gateway(FakeUpstream(given), hooks=Full()), chat("hi", stream=isinstance(given, list)))
        assert (response.status_code, response.headers["retry-after"]) == (503, "5")
        assert "hello" not in response.text


def test_every_call_ends_once() -> None:
    seen: list[tuple[int, str, bool, int]] = []

    class Counting(Hooks):
        async def ended(self, call: Call) -> None:
            await asyncio.sleep(0)
            seen.append((call.status, call.model, call.streamed, len(call.rulings)))

    for given, body in ((answer("x"), chat("hi")), (chunks("x"), chat("hi", stream=True)), (answer("x"), chat(WORD))):
        ask(gateway(FakeUpstream(given), hooks=Counting()), body)
    ask(gateway(FakeUpstream(failure()), hooks=Counting()), chat("hi"))
    ask(gateway(FakeUpstream(answer("x")), hooks=Counting()), b"{")
    assert seen == [
        (200, "m", False, 2),
        (200, "m", True, 2),
        (200, "m", False, 1),
        (502, "m", False, 1),
        (400, "", False, 0),
    ]
