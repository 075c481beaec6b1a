"""What an error response means: wait, leave this request out, or stop with one sentence that helps."""

from __future__ import annotations

import json
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import Any

import pytest

from endpoint import verdict_on
from served_endpoint import Served, questions
from steersman.errors import ModelError, RecipeError
from steersman.lm.endpoint import client as remote
from steersman.lm.endpoint.client import RemoteModel
from steersman.lm.endpoint.refusals import Refusal, WantsStream, outcome_of_error, seconds_to_wait, words_in
from steersman.lm.endpoint.replies import Reply, RetryableError, Usage, parsed, read_reply
from steersman.lm.endpoint.settings import RemoteConfig, chat_address, proxies_for

REASONED = {"completion_tokens_details": {"reasoning_tokens": 7}}
SECRET = "value-of-a-header-0123"
CONFIG = RemoteConfig(base_url="http://127.0.0.1:1/v1", model="judge", key_variable="JUDGE_KEY")
REQUEST = {
    "model": "judge", "messages": [], "max_tokens": 16, "temperature": 0, "seed": 0, "logprobs": True,
    "top_logprobs": 10, "response_format": {}, "top_k": 5,
}  # fmt: skip


def meaning(status: int, body: Any, headers: dict[str, str] | None = None) -> tuple[str, str]:
    """What becomes of it, and the words."""
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    try:
        reply = outcome_of_error(status, headers or {}, text, REQUEST, CONFIG)
    except RetryableError as error:
        return "retried", error.reason
    except Refusal as error:
        return "refused", error.reason
    except WantsStream:
        return "stream", ""
    except ModelError as error:
        return ("exhausted" if "exhausted" in error.found else "stops"), str(error)
    return reply.outcome, reply.detail


def said(message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, **fields}}


LONG = "This model's maximum context length is 4096 tokens. However, your request has 4242 input tokens."


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        *((status, said("busy"), "retried") for status in (408, 409, 425, 429, 500, 502, 503, 504, *range(520, 530))),
        (429, said("Rate limit reached on tokens per min (TPM): Limit 10000. Please try again in 6s."), "retried"),
        (429, said("You exceeded your current quota, see plan and billing. Requests per minute."), "retried"),
        (503, said("the request exceeded the time limit"), "retried"),
        (429, said("You exceeded your current quota, please check your plan and billing."), "exhausted"),
        (429, said("", code="insufficient_quota"), "exhausted"),
        (429, said("Your account is suspended", type="exceeded_current_quota_error"), "exhausted"),
        (429, said("余额不足或无可用资源包,请充值。", code="1113"), "exhausted"),
        (402, said("Insufficient Balance"), "exhausted"),
        (403, said("Key limit exceeded (total limit)"), "exhausted"),
        (400, said("Your credit balance is too low to access the API."), "exhausted"),
        (403, {"error": "Your team has used all available credits or reached its monthly limit."}, "exhausted"),
        (400, said("Access denied, is your account in good standing?", code="Arrearage"), "exhausted"),
        (429, said("Rate limit exceeded: free-models-per-day."), "exhausted"),
        (400, said(LONG), "too_long"),
        (400, said("x", code="context_length_exceeded"), "too_long"),
        (413, {"message": "Request Entity Too Large"}, "too_long"),
        (422, {"error": "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000"}, "too_long"),
        (400, said("prompt is too long: 210000 tokens > 200000 maximum"), "too_long"),
        (500, said("the prompt exceeds the context window of this model"), "too_long"),
        (429, said("Request too large for model in organization on tokens per min: Limit 30000"), "too_long"),
        (400, said("the request exceeds the available context size, try increasing it"), "too_long"),
        (400, said("The response was filtered", code="content_filter"), "filtered"),
        (400, said("x", code=None, innererror={"code": "ResponsibleAIPolicyViolation"}), "filtered"),
        (400, said("Output data may contain inappropriate content.", code="data_inspection_failed"), "filtered"),
        (403, said("Your input was flagged", metadata={"reasons": ["violence"]}), "filtered"),
        (403, {"error": "Content violates usage guidelines."}, "filtered"),
        (400, said("could not parse message content"), "refused"),
        (401, said("Incorrect API key provided"), "stops"),
        (404, {"detail": "Not Found"}, "stops"),
        (400, said("This model only support stream mode, please enable the stream parameter"), "stream"),
    ],
)  # fmt: skip
def test_what_an_error_means(status: int, body: Any, expected: str) -> None:
    assert meaning(status, body)[0] == expected


def test_a_wait_that_is_named_makes_a_quota_a_rate_limit() -> None:
    quota = said("You exceeded your current quota, please check your plan and billing details.")
    assert meaning(429, quota, {"retry-after": "3"})[0] == "retried"
    details = quota["error"] | {"details": [{"retryDelay": "35s"}]}
    assert meaning(429, {"error": details})[0] == "retried"
    assert seconds_to_wait({}, json.dumps(details)) == 35


@pytest.mark.parametrize(
    ("status", "body", "do"),
    [
        (400, said("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
                   "instead.", param="max_tokens"), "max_completion_tokens: 4096"),
        (400, said("Unsupported value: 'temperature' does not support 0 with this model."), "{temperature: null}"),
        (422, {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}, "seed: null"),
        (403, said("You are not allowed to request logprobs from this model"), "top_logprobs: 0"),
        (400, said("Invalid 'top_logprobs': must be <= 5"), "the most that it names"),
        (400, said("logprobs is not supported by this model"), "read from the text"),
        (400, said("json_schema is not supported"), "structured: false"),
        (400, said("Unknown name \"top_k\": cannot find field"), "{top_k: null}"),
        (400, said("System role not supported"), "system message"),
        (400, said("max_tokens is too large: 16. This model supports at most 8 completion tokens"), "a smaller limit"),
        (401, said("No auth credentials found"), "set JUDGE_KEY"),
        (404, said("no such model"), "ends in /v1"),
        (307, "", "redirections are not followed"),
    ],
)  # fmt: skip
def test_the_setting_to_change_is_named(status: int, body: Any, do: str) -> None:
    outcome, shown = meaning(status, body)
    assert outcome in ("stops", "refused")
    if outcome == "stops":
        assert do in shown
    else:
        pytest.fail(f"{shown} names no setting")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (said("too big"), "too big"), ({"error": "too big"}, "too big"), ({"message": "too big"}, "too big"),
        ({"detail": "too big"}, "too big"), ([said("too big")], "too big"),
        ({"errors": [{"message": "too big"}]}, "too big"),
        ({"detail": [{"loc": ["body", "seed"], "msg": "too big"}]}, "seed: too big"),
        (said("Provider returned error", metadata={"raw": json.dumps(said("too big"))}), "too big"),
        ("<!DOCTYPE html><title>520: it &amp; died</title>", "520: it & died"), ("plain\nwords", "plain words"),
        ({"choices": [{"finish_reason": "error", "error": {"message": "Upstream died"}}]}, "Upstream died"),
    ],
)  # fmt: skip
def test_the_endpoints_own_words_are_found(body: Any, words: str) -> None:
    assert words in words_in(body if isinstance(body, str) else json.dumps(body))


@pytest.mark.parametrize(
    ("headers", "low", "high"),
    [
        ({"retry-after-ms": "1500"}, 1.5, 1.5), ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5, 1.5),
        ({"retry-after": "2s"}, 2, 2), ({"retry-after": "1.5"}, 1.5, 1.5), ({"retry-after": "inf"}, 0, 0),
        ({"retry-after-ms": "soon"}, 0, 0), ({}, 0, 0),
    ],
)  # fmt: skip
def test_how_long_to_wait(headers: dict[str, str], low: float, high: float) -> None:
    assert low <= seconds_to_wait(headers) <= high
    assert 20 < seconds_to_wait({"retry-after": formatdate(time() + 30, usegmt=True)}) < 31


# ── bodies ───────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 10.0, "completion_tokens": None}, Usage(10, 0)),
        ({"input_tokens": 10, "output_tokens": 3}, Usage(10, 3)),
        ({"prompt_tokens": 1, "completion_tokens": 9, **REASONED}, Usage(1, 9)),
        ({"prompt_tokens": 1, "completion_tokens": 2, **REASONED}, Usage(1, 9)),
        ({"prompt_tokens": 10, "completion_tokens": 8, "total_tokens": 25, "reasoning_tokens": 7}, Usage(10, 15)),
        ({"prompt_tokens": 10.5}, Usage(unstated=1)), (None, Usage(unstated=1)),
    ],
)  # fmt: skip
def test_reasoning_is_charged(usage: Any, expected: Usage) -> None:
    body = {"choices": [{"message": {"content": "A"}, "finish_reason": "stop"}], "usage": usage}
    assert read_reply(json.dumps(body)).usage == expected


@pytest.mark.parametrize(
    ("prefix", "suffix"), [("\ufeff", ""), (": PROCESSING\n\n: PROCESSING\n\n", ""), ("\n\n  \n", "\n"), ("[", "]")]
)
def test_what_gateways_put_around_json_is_skipped(prefix: str, suffix: str) -> None:
    body = json.dumps({"choices": [{"message": {"content": "A"}, "finish_reason": "STOP"}]})
    assert read_reply(prefix + body + suffix).text == "A"


def test_a_stream_is_read_whole_or_not_at_all() -> None:
    def event(**delta: Any) -> str:
        return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta}]})}\r\n\r\n"

    start = (
        event(role="assistant", content="") + event(reasoning_content="Hm.") + event(content="(") + event(content="B)")
    )
    usage = 'data: {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 2}}\n\n'
    reply = read_reply(start + usage + "data: [DONE]\n\n")
    assert (reply.text, reply.usage, reply.outcome) == ("(B)", Usage(4, 2), "answered")
    assert parsed(start) is None
    with pytest.raises(RetryableError, match="only a part"):
        read_reply(start)


# ── over HTTP ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_one_request_that_can_never_succeed_is_its_own_outcome_and_the_rest_goes_on(
    serve: Callable[..., Served], tmp_path: Path
) -> None:
    served, path = serve(), tmp_path / "answers.jsonl"
    asked = ["[too long] a", "[odd] b", *questions(10), "[filter] c"]
    for attempts in (13, 14):  # what is too long or filtered stays so; the odd one is asked again
        model = RemoteModel(served.config(concurrency=2), path)
        replies = model.complete(asked)
        assert [reply.outcome for reply in replies[:2]] == ["too_long", "refused"]
        assert "maximum context length is 4096" in replies[0].detail
        assert replies[1].detail == "400: could not parse message content"
        assert (replies[-1].outcome, {r.outcome for r in replies[2:-1]}) == ("filtered", {"answered"})
        assert served.stats()["requests"] == attempts
    choices = RemoteModel(served.config(), path).choices(["[odd] first", *questions(5)])
    assert [choice.outcome for choice in choices] == ["refused", *["chosen"] * 5]


def test_what_every_request_is_refused_for_stops_the_work(serve: Callable[..., Served], tmp_path: Path) -> None:
    served = serve()
    with pytest.raises(ModelError, match="400: could not parse message content"):
        RemoteModel(served.config(concurrency=1), tmp_path / "answers.jsonl").complete(
            [f"[odd] {i}" for i in range(50)]
        )
    assert served.stats()["requests"] == 3


def test_an_exhausted_account_is_not_hammered(serve: Callable[..., Served], tmp_path: Path) -> None:
    served = serve()
    with pytest.raises(ModelError, match="the account at the endpoint is exhausted") as caught:
        RemoteModel(served.config(concurrency=1), tmp_path / "answers.jsonl").complete(["[quota] a", *questions(50)])
    assert "check your plan and billing details" in str(caught.value)
    assert served.stats()["requests"] == 1


def test_an_error_inside_a_200_is_no_answer(
    serve: Callable[..., Served], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is retried, its cost is on the bill, and an endpoint that got well is asked again."""
    served = serve()
    model = RemoteModel(served.config(retries=1), tmp_path / "answers.jsonl")
    (reply,) = model.complete(["[error] a"])
    assert (reply.outcome, reply.detail) == ("failed", "500: overloaded (2 attempts)")
    assert RemoteModel(served.config(retries=0), tmp_path / "answers.jsonl").complete(["[error] a"])[0].reused is False


def test_an_endpoint_that_only_streams_is_read(serve: Callable[..., Served], tmp_path: Path) -> None:
    served = serve()
    model = RemoteModel(served.config(model="streams"), tmp_path / "answers.jsonl")
    choices = model.choices(questions(5))
    assert {choice.outcome for choice in choices} == {"chosen"}
    stats = served.stats()
    assert (stats["last_body"]["stream"], model.bill.attempts) == (True, 6)  # one to learn it
    assert model.bill.usage == Usage(stats["prompt_tokens"], stats["completion_tokens"], 0)
    assert all(choice.reused for choice in (c.reply for c in model.choices(questions(5))))


def test_headers_come_from_the_environment_and_are_nowhere_else(
    serve: Callable[..., Served], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    served = serve("--key", SECRET)
    monkeypatch.setenv("GATE", f"Bearer {SECRET}")
    config = served.config(header_variables={"Authorization": "GATE"})
    model = RemoteModel(config, tmp_path / "answers.jsonl")
    monkeypatch.setenv("GATE", f" Bearer {SECRET}\n")
    replies = model.complete([f"repeat Bearer {SECRET}", "a"])
    assert replies[0].text == "Reply to repeat [key]"
    shown = "".join(capfd.readouterr()) + repr(vars(model)) + (tmp_path / "answers.jsonl").read_text() + str(replies)
    assert SECRET not in shown
    monkeypatch.setenv("GATE", "Bearer wrong-value-of-a-header")
    with pytest.raises(ModelError, match="401") as caught:
        RemoteModel(config, tmp_path / "other.jsonl").complete(["b"])
    assert "wrong-value" not in str(caught.value)
    monkeypatch.delenv("GATE")
    with pytest.raises(ModelError, match="GATE is not set"):
        RemoteModel(config, tmp_path / "other.jsonl").complete(["b"])
    for wrong in ({"api key": "X"}, {"Host": "X"}, {"api-key": SECRET}):
        with pytest.raises(RecipeError) as refused:
            served.config(header_variables=wrong)
        assert SECRET not in str(refused.value)
    assert config.identity() == served.config().identity()


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        ("http://h/v1", "http://h/v1/chat/completions"), ("http://h/v1/", "http://h/v1/chat/completions"),
        ("http://h", "http://h/chat/completions"), ("http://h/v1/chat/completions/", "http://h/v1/chat/completions"),
        ("https://h/d/x?api-version=2024-06-01", "https://h/d/x/chat/completions?api-version=2024-06-01"),
        ("http://[::1]:8/v1//", "http://[::1]:8/v1/chat/completions"),
    ],
)  # fmt: skip
def test_where_completions_are_asked_for(address: str, asked: str) -> None:
    assert chat_address(RemoteConfig(base_url=address, model="m").base_url) == asked


@pytest.mark.parametrize(
    "query", ["key=1", "api_key=x", "code=x", "v=abcdefghijklmnopqrstuvwx", "sk-12", "v=sk-1", "token"]
)
def test_a_query_that_may_hold_a_key_is_refused(query: str) -> None:
    with pytest.raises(RecipeError, match="not an address"):
        RemoteConfig(base_url=f"https://h/v1?{query}", model="m")


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("ALL_PROXY", "socks5://me:pass-word@127.0.0.1:1", "SOCKS"),
        ("HTTP_PROXY", "ftp://me:pass-word@p", "HTTP_PROXY"),

        ("HTTP_PROXY", "http://me:pass-word@p:port", "HTTP_PROXY"),
        ("HTTP_PROXY", "http://me:pass-word@127.0.0.1:1", "through HTTP_PROXY"),
    ],
)  # fmt: skip
def test_an_odd_proxy_ends_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    monkeypatch.setattr(remote, "BACKOFF_S", 0.0)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv(variable, value)
    config = RemoteConfig(base_url="http://judge.test/v1", model="m", retries=1)
    with pytest.raises((ModelError, remote.RunError)) as caught:
        RemoteModel(config, tmp_path / "answers.jsonl").complete(["a"])
    assert words in str(caught.value)
    assert "pass-word" not in str(caught.value)
    assert proxies_for("http://judge.test/v1") == variable
    monkeypatch.setenv("NO_PROXY", "fd00::/8, .test")
    assert proxies_for("http://judge.test/v1") == ""


def test_certificates_that_are_not_there_end_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(ModelError, match="certificates cannot be read"):
        RemoteModel(RemoteConfig(base_url="https://127.0.0.1:1/v1", model="m"), tmp_path / "a.jsonl").complete(["a"])


@pytest.mark.slow
def test_thousands_of_judgements_through_all_faults_and_forms(serve: Callable[..., Served], tmp_path: Path) -> None:
    """None lost, doubled or inverted, and the bill is what the server charged.

    With 10,000 it passed on 2026-11-29; that takes three minutes on two busy cores.
    """
    many = 2_000
    served = serve("--faults", "0.2", "--latency-ms", "2")
    model = RemoteModel(served.config(model="mixed", concurrency=32), tmp_path / "answers.jsonl")
    asked = [*questions(many), *(f"[too long] {i}" for i in range(20)), *(f"[odd] {i}" for i in range(20))]
    choices = model.choices(asked)
    stats = served.stats()
    for question, choice in zip(asked, choices, strict=True):
        mark = question.partition(" ")[0]
        if mark in ("[too", "[odd]"):
            assert choice.outcome == ("refused" if mark == "[odd]" else "too_long")
            continue
        place = 0 if verdict_on(question)[0] == "A" else 1
        assert choice.probabilities is not None, (question, choice)
        assert choice.probabilities[place] > 0.5, (question, choice)
    assert stats["served"] == dict.fromkeys(questions(many), 1)
    assert all(stats["by_kind"][fault] > 10 for fault in ("408", "425", "529", "error in 200", "finish error", "page"))
    assert (model.bill.attempts, model.bill.failed) == (stats["requests"], 0)
    assert model.bill.usage == Usage(stats["prompt_tokens"], stats["completion_tokens"], stats["unstated"])
    assert model.cache.paid == model.bill.usage
    again = RemoteModel(served.config(model="mixed"), tmp_path / "answers.jsonl")
    assert [c.probabilities for c in again.choices(asked)] == [c.probabilities for c in choices]
    assert served.stats()["requests"] == stats["requests"] + 20  # the odd ones


def test_a_cached_reply_of_before_is_read_without_its_reasoning() -> None:
    row = {"text": "<think>A</think>B", "outcome": "answered", "alternatives": None, "detail": ""}
    assert Reply.from_json(row, Usage()).text == "B"
