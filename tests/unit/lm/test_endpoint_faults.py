"""Faults of an endpoint: each one alone, those that trying again does not mend, and keys that are never shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from served_endpoint import Served, questions
from steersman.errors import ModelError, RecipeError, RunError
from steersman.lm.endpoint.client import RemoteModel, _Workers
from steersman.lm.endpoint.refusals import seconds_in
from steersman.lm.endpoint.replies import Usage
from steersman.lm.endpoint.settings import RemoteConfig

KEY = "sk-secret-0123456789abcdef"


# ── faults, one at a time ────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.slow
def test_retry_after_is_waited_for_by_all(serve: Callable[..., Served], tmp_path: Path) -> None:
    served = serve()
    model = RemoteModel(served.config(concurrency=2), tmp_path / "answers.jsonl")
    replies = model.complete(["[wait once] a", *questions(200)])
    assert {reply.outcome for reply in replies} == {"answered"}
    stats = served.stats()
    assert stats["attempts"]["[wait once] a"] == 2
    assert stats["too_early"] <= 2  # what the other worker sent while the 429 was on its way


@pytest.mark.slow
def test_retry_after_can_be_a_date_or_nonsense(serve: Callable[..., Served], tmp_path: Path) -> None:
    served = serve()
    RemoteModel(served.config(), tmp_path / "answers.jsonl").complete(["[date once] a"])
    assert served.stats()["attempts"]["[date once] a"] == 2
    assert served.stats()["too_early"] == 0
    for nonsense in (None, "", "soon", "-3", "nan", "Wed, 21 Oct 2015 07:28:00 GMT"):
        assert seconds_in(nonsense) == 0.0


def test_a_wait_until_tomorrow_ends_the_run_and_says_so(serve: Callable[..., Served], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"1,440 minutes \(429: come back tomorrow"):
        RemoteModel(serve().config(), tmp_path / "answers.jsonl").complete(["[wait long] a"])


def test_timeouts_are_tried_again_and_counted_as_perhaps_charged(serve: Callable[..., Served], tmp_path: Path) -> None:
    model = RemoteModel(serve().config(timeout_s=0.5), tmp_path / "answers.jsonl")
    (reply,) = model.complete(["[slow once] a"])
    assert (reply.outcome, model.bill.attempts, model.bill.usage.unstated) == ("answered", 2, 1)
    assert "1 attempts may have been charged on top" in str(model.bill)


def test_what_is_charged_in_vain_or_not_stated_is_on_the_bill(serve: Callable[..., Served], tmp_path: Path) -> None:
    served = serve()
    model = RemoteModel(served.config(), tmp_path / "answers.jsonl")
    model.complete(["[charged 500 once] a", "[no usage] a b"])
    assert model.bill.usage == model.cache.paid == Usage(8, 2, 1)
    stats = served.stats()
    assert (stats["prompt_tokens"], stats["completion_tokens"], stats["unstated"]) == (8, 2, 1)


def test_one_request_that_always_fails_costs_nobody_else_an_answer(
    serve: Callable[..., Served], tmp_path: Path
) -> None:
    served = serve()
    asked = [*questions(20), "[500] a", *questions(40)[20:]]
    for attempts in (43, 46):  # never stored, so it is asked again; the others are not
        model = RemoteModel(served.config(retries=2, concurrency=4), tmp_path / "answers.jsonl")
        replies = model.complete(asked)
        assert [place for place, reply in enumerate(replies) if reply.outcome == "failed"] == [20]
        assert replies[20].detail == "500: always (3 attempts)"
        assert model.bill.failed == 1
        assert served.stats()["requests"] == attempts


def test_an_endpoint_that_is_down_ends_the_run_and_what_was_answered_is_kept(
    serve: Callable[..., Served], tmp_path: Path
) -> None:
    served = serve()
    config = served.config(retries=1, concurrency=4)
    model = RemoteModel(config, tmp_path / "answers.jsonl")
    with pytest.raises(RunError, match="no answer after 2 attempts: 500: always") as caught:
        model.complete([*questions(10), *(f"[500] {i}" for i in range(100))])
    assert "replies that arrived are kept" in str(caught.value)
    assert served.stats()["requests"] < 10 + 2 * 20
    served.close()
    assert all(reply.reused for reply in model.complete(questions(10)))
    with pytest.raises(RunError, match="no connection"):
        model.complete(["new"])


# ── what trying again does not mend ──────────────────────────────────────────────────────────────────────────────────
def test_a_wrong_key_ends_at_once_and_names_the_variable(
    serve: Callable[..., Served], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve("--key", "another")
    monkeypatch.setenv("JUDGE_KEY", KEY)
    model = RemoteModel(served.config(key_variable="JUDGE_KEY", concurrency=4), tmp_path / "answers.jsonl")
    with pytest.raises(ModelError, match="answers 401") as caught:
        model.choices(questions(100))
    assert "environment variable JUDGE_KEY" in str(caught.value)
    assert "[key]" in str(caught.value)  # the endpoint repeats it, and we do not
    assert served.stats()["requests"] <= 4
    assert KEY not in str(caught.value) + repr(caught.value) + repr(vars(model))


def test_the_key_is_in_no_file_and_no_message(
    serve: Callable[..., Served], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    served = serve("--key", KEY, "--faults", "0.3")
    monkeypatch.setenv("JUDGE_KEY", f" {KEY}\n")
    model = RemoteModel(served.config(key_variable="JUDGE_KEY"), tmp_path / "answers.jsonl")
    replies = model.complete([*questions(50), f"repeat {KEY}"])
    assert replies[-1].text == "Reply to repeat [key]"
    assert all(reply.outcome == "answered" for reply in replies)
    captured = capfd.readouterr()
    text = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert len(text.splitlines()) >= 51
    for place in (text, captured.out, captured.err, repr(model.bill), str(model.config), repr(replies)):
        assert KEY not in place
    assert (tmp_path / "answers.jsonl").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("value", [None, "", "two\nlines-of-a-key", "schlüssel-0123456789"])
def test_a_missing_or_impossible_key_is_an_error_before_anything_is_sent(
    serve: Callable[..., Served], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    served = serve()
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(ModelError, match="the environment variable JUDGE_KEY") as caught:
        RemoteModel(served.config(key_variable="JUDGE_KEY"), tmp_path / "answers.jsonl").complete(["a"])
    assert not value or value not in str(caught.value)
    assert served.stats()["requests"] == 0


@pytest.mark.parametrize(
    ("fields", "prompt", "found", "do"),
    [
        ({"model": "nobody"}, "a", "404: The model nobody does not exist", "base_url"),
        ({}, "[400] a", "400: this model has no logprobs", "top_logprobs"),
        ({}, "[moved] a", "307: nothing", "redirections are not followed"),
    ],
)
def test_a_refused_request_is_one_clear_message(
    serve: Callable[..., Served], tmp_path: Path, fields: dict[str, str], prompt: str, found: str, do: str
) -> None:
    served = serve()
    with pytest.raises(ModelError, match=found) as caught:
        RemoteModel(served.config(**fields), tmp_path / "answers.jsonl").complete([prompt])
    assert do in caught.value.do
    assert served.stats()["requests"] == 1


def test_answers_on_their_way_are_kept_when_the_run_ends(serve: Callable[..., Served], tmp_path: Path) -> None:
    served = serve("--latency-ms", "1000")  # the refusal comes after a quarter of it
    model = RemoteModel(served.config(concurrency=4), tmp_path / "answers.jsonl")
    with pytest.raises(ModelError, match="400"):
        model.complete(["[400] a", *questions(20)])
    kept = sum(model.estimate([q]).reused for q in questions(20))
    assert kept == sum(served.stats()["served"].values())
    assert 1 <= kept <= 3  # three, unless this machine took a quarter of a second to send them


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:8000/v1", "ftp://127.0.0.1/v1", f"http://me:{KEY}@127.0.0.1/v1", f"http://127.0.0.1/v1?k={KEY}"],
)
def test_an_address_that_is_none_or_holds_a_key_is_refused(address: str) -> None:
    with pytest.raises(RecipeError, match="not an address") as caught:
        RemoteConfig(base_url=address, model="judge")
    assert KEY not in str(caught.value)


def test_a_key_in_place_of_its_variables_name_is_refused_and_not_repeated() -> None:
    with pytest.raises(RecipeError, match="not the name of an environment variable") as caught:
        RemoteConfig(base_url="http://127.0.0.1:8000/v1", model="judge", key_variable=KEY)
    assert KEY not in str(caught.value)


def test_plain_http_to_another_machine_is_warned_about(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for address in (
        "http://127.0.0.1:8000/v1",
        "http://localhost:8000/v1",
        "http://[::1]:8000/v1",
        "https://judge.test/v1",
    ):
        RemoteModel(RemoteConfig(base_url=address, model="judge"), tmp_path / "answers.jsonl")
    assert capfd.readouterr().err == ""
    RemoteModel(RemoteConfig(base_url="http://judge.test/v1", model="judge"), tmp_path / "answers.jsonl")
    assert "warning: http://judge.test/v1 has no TLS" in " ".join(capfd.readouterr().err.split())


def test_a_cancellation_that_comes_with_the_end_of_the_work_is_not_lost() -> None:
    """`asyncio.wait_for` of Python 3.11 loses one that comes in the moment in which its event is set."""

    async def work() -> None:
        workers: Any = SimpleNamespace(stop=asyncio.Event(), not_before=0.0)
        waiting = asyncio.create_task(_Workers._wait(workers, 10))
        await asyncio.sleep(0.01)
        workers.stop.set()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(work())
