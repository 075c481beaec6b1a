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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from endpoint import probability_of_a
from served_endpoint import Served, questions
from steersman.constitution.judges import JudgeQuestion, PromptedJudge, in_order, question_text
from steersman.errors import ModelError, RunError, UserError
from steersman.lm.endpoint.cache import AnswerCache
from steersman.lm.endpoint.client import RemoteModel
from steersman.lm.endpoint.replies import Reply, Usage
from steersman.lm.language_model import LanguageModel
from steersman.lm.sampling import Request, SamplingConfig
from steersman.types import Message

ROOT = Path(__file__).resolve().parents[3]


# ── many, and trouble ────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.slow
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
    assert (expected.requests, expected.reused, expected.usage.completion_tokens) == (1000, 0, 16000)

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


@pytest.mark.slow
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


@pytest.mark.slow
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
    with pytest.raises(ModelError, match="no_repeat_ngram"):
        list(model.answers(Request(["x y"], SamplingConfig(no_repeat_ngram=4))))


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
