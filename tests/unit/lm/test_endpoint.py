"""A model at an endpoint: nothing lost, nothing doubled, the right bill, whatever a real server over HTTP does."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from endpoint import probability_of_a
from steersman.constitution.judges import JudgeQuestion, PromptedJudge, in_order, question_text
from steersman.errors import DataError, ModelError, RecipeError, RunError, UserError
from steersman.lm.endpoint import client as remote
from steersman.lm.endpoint.cache import AnswerCache
from steersman.lm.endpoint.client import RemoteConfig, RemoteModel
from steersman.lm.endpoint.replies import Reply, Usage, choice_of, seconds_in
from steersman.lm.language_model import LanguageModel
from steersman.lm.sampling import Request, SamplingConfig
from steersman.types import Message

ROOT = Path(__file__).resolve().parents[3]
KEY = "sk-secret-0123456789abcdef"


class Served:
    """A running endpoint."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, str(ROOT / "tests/fixtures/endpoint.py"), *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        self.url = f"{self.address}/v1"

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx2.get(f"{self.address}/stats", trust_env=False).json()
        return found

    def config(self, **fields: Any) -> RemoteConfig:
        return RemoteConfig(**{"base_url": self.url, "model": "judge", **fields})

    def close(self) -> None:
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    running: list[Served] = []

    def start(*arguments: str) -> Served:
        running.append(Served(*arguments))
        return running[-1]

    yield start
    for served in running:
        served.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BACKOFF_S", 0.01)


def questions(count: int) -> list[str]:
    return [f"Which answer to question {i} is better, A or B?" for i in range(count)]


# ── many, and trouble ────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_thousand_judgements_through_every_fault(serve: Callable[..., Served], tmp_path: Path) -> None:
    """None lost, none doubled, in order, never too many at once, and the bill is what the server charged.

    Ten thousand are asked in `benchmarks/remote.py`.
    """
    served = serve("--faults", "0.3")
    prices = {"usd_per_million_prompt_tokens": 2.0, "usd_per_million_completion_tokens": 8.0}
    model = RemoteModel(served.config(concurrency=24, **prices), tmp_path / "answers.jsonl")
    asked = questions(1000)
    expected = model.estimate(asked, choose=True)
    choices = model.choices(asked)
    stats = served.stats()

    assert [c.probabilities for c in choices] == [pytest.approx((p, 1 - p)) for p in map(probability_of_a, asked)]
    assert {(c.outcome, c.source) for c in choices} == {("chosen", "logprobs")}
    assert stats["served"] == dict.fromkeys(asked, 1)
    assert all(stats["by_kind"][fault] > 10 for fault in ("429", "500", "503", "malformed", "cut", "closed"))
    assert stats["most_in_flight"] <= 24

    bill = model.bill
    assert (bill.requests, bill.reused, bill.failed, bill.attempts) == (1000, 0, 0, stats["requests"])
    assert bill.usage == Usage(stats["prompt_tokens"], stats["completion_tokens"], stats["unstated"])
    assert bill.usage.prompt_tokens > sum(len(q.split()) for q in asked)  # attempts that were charged in vain
    assert bill.usd == pytest.approx((2 * stats["prompt_tokens"] + 8 * stats["completion_tokens"]) / 1e6)
    assert model.cache.paid == bill.usage
    assert (expected.requests, expected.reused, expected.usage.completion_tokens) == (1000, 0, 4000)

    again = RemoteModel(served.config(), tmp_path / "answers.jsonl")
    assert [c.probabilities for c in again.choices(asked)] == [c.probabilities for c in choices]
    assert served.stats()["requests"] == stats["requests"]
    assert (again.bill.reused, again.bill.attempts, again.bill.usage) == (1000, 0, Usage())
    assert again.estimate(asked, choose=True).reused == 1000
    assert again.estimate(asked).reused == 0  # free text is another question
    assert again.cache.paid == bill.usage


SCRIPT = """
import sys
from pathlib import Path
from steersman.lm.endpoint import client as remote
remote.BACKOFF_S = 0.01
url, cache, count = sys.argv[1:]
model = remote.RemoteModel(remote.RemoteConfig(base_url=url, model="judge", concurrency=8), Path(cache))
asked = [f"Which answer to question {i} is better, A or B?" for i in range(int(count))]
for choice in model.choices(asked):
    print(choice.probabilities)
print("attempts", model.bill.attempts, "dropped", model.cache.dropped)
"""


def worker(served: Served, cache: Path, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, served.url, str(cache), str(count)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def lines_of(cache: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in cache.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def test_after_kill_9_nothing_that_was_answered_is_asked_again(serve: Callable[..., Served], tmp_path: Path) -> None:
    served, cache, asked = serve("--latency-ms", "20", "--faults", "0.2"), tmp_path / "answers.jsonl", questions(300)
    for answered in (60, 160):
        killed = worker(served, cache, 300)
        while not cache.exists() or sum("reply" in line for line in lines_of(cache)) < answered:
            assert killed.poll() is None, killed.communicate()[0]
            time.sleep(0.005)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
    with cache.open("ab") as file:  # the moment that is hard to hit: a line half-written
        file.write(b'{"key":"0123')
    model = RemoteModel(served.config(concurrency=8), cache)
    kept = {q for q in asked if model.estimate([q], choose=True).reused}
    before = served.stats()
    assert len(kept) >= 160
    assert model.cache.dropped == 1

    choices = model.choices(asked)
    after = served.stats()
    assert [c.probabilities for c in choices] == [pytest.approx((p, 1 - p)) for p in map(probability_of_a, asked)]
    assert {q: after["attempts"][q] for q in kept} == {q: before["attempts"][q] for q in kept}
    assert model.bill.reused == len(kept)
    assert max(after["served"].values()) <= 3  # on its way when a worker died, twice at worst
    assert sum(after["served"].values()) <= 300 + 2 * 8
    assert sum("reply" in line for line in lines_of(cache)) == 300


def test_two_processes_share_a_cache(serve: Callable[..., Served], tmp_path: Path) -> None:
    served, cache = serve("--latency-ms", "20", "--faults", "0.1"), tmp_path / "answers.jsonl"
    both = [worker(served, cache, 400) for _ in range(2)]
    said = [process.communicate()[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][:-1] == said[1][:-1]
    assert len(said[0]) == 401
    assert all(lines[-1].endswith("dropped 0") for lines in said)
    stats = served.stats()
    rows = lines_of(cache)
    assert sum("reply" in row for row in rows) == sum(stats["served"].values()) >= 400
    assert sum(row["usage"]["prompt_tokens"] for row in rows) == stats["prompt_tokens"]
    assert len({row["key"] for row in rows if "reply" in row}) == 400
    assert sum(stats["served"].values()) < 790  # they do see each other's answers


def test_equal_requests_are_asked_once_and_order_is_kept(serve: Callable[..., Served], tmp_path: Path) -> None:
    served = serve()
    model = RemoteModel(served.config(), tmp_path / "answers.jsonl")
    asked = [f"say {i % 7}" for i in range(50)]
    random.Random(0).shuffle(asked)
    heard: dict[int, str] = {}
    replies = model.complete(asked, on_reply=lambda place, reply: heard.update({place: reply.text}))
    assert [reply.text for reply in replies] == [f"Reply to {prompt}" for prompt in asked]
    assert heard == {place: reply.text for place, reply in enumerate(replies)}
    assert served.stats()["requests"] == model.bill.attempts == 7
    assert model.bill.reused == 43
    paid = sum((reply.usage for reply in replies if not reply.reused), Usage())
    assert paid == model.bill.usage == Usage(14, 7)


def test_what_affects_the_reply_is_asked_anew_and_what_does_not_is_not(
    serve: Callable[..., Served], tmp_path: Path
) -> None:
    served = serve()
    cache = tmp_path / "answers.jsonl"
    for number, fields in enumerate(
        ({}, {"seed": 1}, {"temperature": 0.5}, {"max_tokens": 9}, {"extra_body": {"n": 1}})
    ):
        RemoteModel(served.config(**fields), cache).complete(["hello there"])
        assert served.stats()["requests"] == number + 1
    slower = {"concurrency": 1, "timeout_s": 9.0, "retries": 0, "usd_per_million_prompt_tokens": 1.0}
    RemoteModel(served.config(**slower), cache).complete(["hello there"])
    assert served.stats()["requests"] == 5
    assert served.config(**slower).identity() == served.config().identity()


# ── outcomes ─────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("prompt", "outcome", "text"),
    [
        ("plain", "answered", "Reply to plain"),
        ("[length] one", "cut_off", "one two"),
        ("[blocked] one", "filtered", "Reply to [blocked] one"),
        ("[filter] one", "filtered", ""),
        ("[refusal] one", "filtered", "I will not judge this."),
        ("[empty] one", "empty", ""),
        ("[half emoji]", "answered", "Well ?"),
        ("half \ud83d an emoji", "answered", "Reply to half ? an emoji"),
    ],
)
def test_every_outcome_is_stated_and_stored(
    serve: Callable[..., Served], tmp_path: Path, prompt: str, outcome: str, text: str
) -> None:
    served = serve()
    for _ in range(2):
        (reply,) = RemoteModel(served.config(), tmp_path / "answers.jsonl").complete([prompt])
        assert (reply.outcome, reply.text) == (outcome, text)
    assert served.stats()["requests"] == 1


def test_choices_without_logprobs_are_hard_and_say_so(serve: Callable[..., Served], tmp_path: Path) -> None:
    model = RemoteModel(serve().config(), tmp_path / "answers.jsonl")
    prompts = ["[plain] one", "[prose] one", "[bracket] one", "[filter] one", "[empty] one"]
    plain, prose, bracket, blocked, empty = model.choices(prompts)
    assert (plain.source, plain.mass) == ("text", None)
    assert plain.probabilities == ((1.0, 0.0) if probability_of_a(prompts[0]) > 0.5 else (0.0, 1.0))
    assert (prose.outcome, prose.probabilities) == ("no_option", None)
    assert bracket.source == "logprobs"  # the token after the bracket is the one that decides
    assert bracket.probabilities == pytest.approx((p := probability_of_a(prompts[2]), 1 - p))
    assert (blocked.outcome, empty.outcome) == ("filtered", "empty")


def test_an_endpoint_that_refuses_logprobs_is_read_from_the_text(serve: Callable[..., Served], tmp_path: Path) -> None:
    served = serve()
    with pytest.raises(ModelError, match="no logprobs") as caught:
        RemoteModel(served.config(), tmp_path / "answers.jsonl").choices(["[400] which?"])
    assert "top_logprobs: 0" in str(caught.value)
    (choice,) = RemoteModel(served.config(top_logprobs=0), tmp_path / "answers.jsonl").choices(["[bracket] which?"])
    assert choice.source == "text"
    assert "logprobs" not in served.stats()["last_body"]


def reply_with(**logprobs: float) -> Reply:
    likely = {token.replace("_", " "): value for token, value in logprobs.items()}
    return Reply("", "answered", alternatives=((max(likely, key=lambda t: likely[t]), likely),))


@pytest.mark.parametrize(
    ("reply", "options", "probabilities", "mass"),
    [
        (reply_with(A=-0.5, B=-1.5), ("A", "B"), (0.7310586, 0.2689414), 0.8296608),
        (reply_with(A=-1.0, _A=-2.0, B=-1.5), ("A", "B"), (0.6928041, 0.3071959), 0.7263449),
        (reply_with(yes=-1.0, YES=-2.0, No=-1.5), ("Yes", "No"), (0.6928041, 0.3071959), 0.7263449),
        (
            reply_with(A=-0.5, a=-1.5),
            ("A", "B"),
            (0.7807365, 0.2192635),
            0.7768698,
        ),  # B gets what is left: "a" is an article
        (reply_with(A=-0.5, The=-2.5), ("A", "B"), (0.8807971, 0.1192029), 0.6886157),  # B gets as much as the last
        (reply_with(A=0.0, The=-9999.0), ("A", "B"), (1.0, 1e-9), 1.0),
        (reply_with(A=-9999.0, B=-0.001), ("B", "A"), (1.0, 1.0010005e-9), 0.9990005),
    ],
)
def test_spellings_add_up_and_no_probability_is_zero(
    reply: Reply, options: tuple[str, ...], probabilities: tuple[float, ...], mass: float
) -> None:
    choice = choice_of(reply, options)
    assert choice.probabilities == pytest.approx(probabilities, rel=1e-6)
    assert choice.probabilities is not None
    assert min(choice.probabilities) > 0
    assert choice.mass == pytest.approx(mass, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("A", 0), (" (B)", 1), ("**B**", 1), ("B.", 1), ("A: it is shorter", 0), ("B\nbecause", 1), ("A ", 0),
        ("A better answer is B", None), ("Apple", None), ("I would say B", None), ("", None), ("A-level", None),
    ],
)  # fmt: skip
def test_an_article_is_no_choice(text: str, named: int | None) -> None:
    choice = choice_of(Reply(text, "answered"), ("A", "B"))
    assert choice.probabilities == (None if named is None else (1.0 - named, float(named)))


def test_bad_options_and_bad_requests_are_errors(serve: Callable[..., Served], tmp_path: Path) -> None:
    model = RemoteModel(serve().config(), tmp_path / "answers.jsonl")
    for options in (("A",), ("A", "A"), ("yes", "Yes"), ("the first", "B")):
        with pytest.raises(DataError, match="cannot choose"):
            model.choices(["which?"], options)
    with pytest.raises(DataError, match="assistant message"):
        model.complete([(Message(role="assistant", content="Hi"),)])
    assert model.complete([]) == []


# ── faults, one at a time ────────────────────────────────────────────────────────────────────────────────────────────
def test_retry_after_is_waited_for_by_all(serve: Callable[..., Served], tmp_path: Path) -> None:
    served = serve()
    model = RemoteModel(served.config(concurrency=2), tmp_path / "answers.jsonl")
    replies = model.complete(["[wait once] a", *questions(200)])
    assert {reply.outcome for reply in replies} == {"answered"}
    stats = served.stats()
    assert stats["attempts"]["[wait once] a"] == 2
    assert stats["too_early"] <= 2  # what the other worker sent while the 429 was on its way


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


# ── the port, notebooks, the cache ───────────────────────────────────────────────────────────────────────────────────
def test_it_is_a_language_model(serve: Callable[..., Served], tmp_path: Path) -> None:
    served = serve()
    model: LanguageModel = RemoteModel(served.config(), tmp_path / "answers.jsonl")
    heard: dict[int, str] = {}
    prompts = ["a b c", "[length] a", "[filter] a", "a b c"]
    shot = (Message(role="system", content="Be brief."),)
    config = SamplingConfig(temperature=0.7, top_p=0.9, max_new_tokens=5)
    request = Request(prompts, config, shot, [4, 5, 6, 7], lambda i, text: heard.update({i: text}))
    found = list(model.answers(request))
    assert [(c.index, c.finish_reason, c.prompt_tokens) for c in found] == [
        (4, "stop", 5), (5, "length", 4), (6, "filtered", 0), (7, "stop", 5)
    ]  # fmt: skip
    assert heard == {c.index: c.text for c in found}
    stats = served.stats()
    assert stats["attempts"]["a b c"] == 2  # at a temperature, two draws for two indices
    body = stats["last_body"]
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.7, 0.9, 5)
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    greedy = list(model.answers(Request(["x y", "x y"], SamplingConfig())))
    assert [c.text for c in greedy] == ["Reply to x y"] * 2
    assert served.stats()["attempts"]["x y"] == 1
    with pytest.raises(RunError, match="1 of 1 prompts got no answer"):
        list(RemoteModel(served.config(retries=0), tmp_path / "answers.jsonl").answers(Request(["[500] a"], config)))


def test_it_can_be_called_where_a_loop_runs_already(serve: Callable[..., Served], tmp_path: Path) -> None:
    model = RemoteModel(serve().config(), tmp_path / "answers.jsonl")

    async def notebook() -> tuple[list[Reply], str]:
        replies = model.complete(["a"])
        with pytest.raises(ModelError) as caught:
            model.complete(["[400] a"])
        return replies, str(caught.value)

    (reply,), said = asyncio.run(notebook())
    assert reply.text == "Reply to a"
    assert "400" in said


def test_fields_of_the_endpoints_own_go_along(serve: Callable[..., Served], tmp_path: Path) -> None:
    served = serve()
    extra = {"max_tokens": None, "max_completion_tokens": 77, "reasoning": {"effort": "low"}}
    model = RemoteModel(served.config(extra_body=extra, seed=None), tmp_path / "answers.jsonl")
    assert model.estimate(["a"]).usage == Usage(5, 77)
    model.complete(["a"])
    body = served.stats()["last_body"]
    assert body["max_completion_tokens"] == 77
    assert body["reasoning"] == {"effort": "low"}
    assert not {"max_tokens", "seed"} & set(body)


def test_damaged_lines_are_counted_and_asked_again(serve: Callable[..., Served], tmp_path: Path) -> None:
    served, path = serve(), tmp_path / "answers.jsonl"
    RemoteModel(served.config(concurrency=1), path).complete(["a", "b", "c"])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\0" * 30 + b"\n" + b'{"key": 1}\n' + lines[2] + lines[1][:20])
    model = RemoteModel(served.config(), path)
    assert model.cache.dropped == 3
    assert [reply.reused for reply in model.complete(["a", "b", "c"])] == [True, False, True]
    assert AnswerCache(path).dropped == 2  # the torn tail was cut off
    assert served.stats()["requests"] == 4


def test_of_two_answers_to_one_request_the_first_holds_for_both_and_both_are_paid(tmp_path: Path) -> None:
    one, two = AnswerCache(tmp_path / "answers.jsonl"), AnswerCache(tmp_path / "answers.jsonl")
    assert one.put("a", Reply("first", "answered", Usage(1, 2))).text == "first"
    assert two.put("a", Reply("second", "answered", Usage(3, 4))).text == "first"
    one.put("b", Reply("other", "answered"))
    found = two.get("b")
    assert found is not None
    assert (found.text, two.paid) == ("other", Usage(4, 6))


def test_a_line_that_another_process_is_writing_is_not_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    AnswerCache(path).put("one", Reply("one", "answered"))
    line = path.read_bytes().replace(b"one", b"two")
    opened: list[AnswerCache] = []
    with path.open("ab", buffering=0) as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        writer.write(line[:30])
        reader = threading.Thread(target=lambda: opened.append(AnswerCache(path)))
        reader.start()
        reader.join(0.3)
        assert reader.is_alive()  # it waits
        writer.write(line[30:])
    reader.join()
    assert opened[0].dropped == 0
    assert [reply and reply.text for reply in map(opened[0].get, ("one", "two", "three"))] == ["one", "two", None]


def test_a_cache_that_cannot_be_kept_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "file" / "answers.jsonl"):
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match="replies cannot be cached here"):
            AnswerCache(path)


def test_a_judge_at_an_endpoint_is_asked_in_both_orders_and_the_bill_is_said(
    serve: Callable[..., Served], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served = serve("--faults", "0.3")
    prices = {"usd_per_million_prompt_tokens": 1.0, "usd_per_million_completion_tokens": 2.0}
    model = RemoteModel(served.config(**prices), tmp_path / "answers.jsonl")
    asking = [JudgeQuestion(f"Which, number {i}?", "one", "two", None) for i in range(20)]
    for _ in range(2):  # the second time from the cache
        found = in_order(PromptedJudge(model).judge(asking), len(asking))
        for question, judgement in zip(asking, found, strict=True):
            shown, turned = (probability_of_a(question_text(order)) for order in (question, question.swapped()))
            assert judgement is not None
            assert judgement.probability == pytest.approx((shown + 1 - turned) / 2, abs=1e-6)
            assert judgement.position_bias == pytest.approx((shown + turned - 1) / 2, abs=1e-6)
    assert sum(served.stats()["served"].values()) == 40
    said = " ".join("".join(capsys.readouterr()).split())
    assert "the judge at the endpoint: 40 requests" in said
    assert "the bill: 40 requests, 0 of them reused" in said
    assert "the bill: 80 requests, 40 of them reused" in said
