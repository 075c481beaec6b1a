"""A model in this process as a target, and as the attacker's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from steersman.lm.language_model import LocalModel
from steersman.lm.sampling import SamplingConfig
from steersman.redteam.target import LateModel, LocalTarget, Query, Reply, sampled
from steersman.types import Message

SAMPLING = SamplingConfig(max_new_tokens=5, max_prompt_tokens=64)


class Loads:
    """It counts how often the weights are read."""

    def __init__(self, base: Path) -> None:
        self.base, self.count = base, 0

    def __call__(self) -> LocalModel:
        self.count += 1
        return LocalModel.load(self.base)


@pytest.fixture
def loads(tiny_base: Path) -> Loads:
    return Loads(tiny_base)


def answers(target: LocalTarget, *queries: Query) -> dict[int, Reply]:
    return {reply.number: reply for reply in target.answer(queries)}


def test_weights_are_read_late_and_let_go(loads: Loads) -> None:
    target = LocalTarget("raw", loads, SAMPLING)
    weights = target.weights
    assert loads.count == 0
    answers(target, Query(0, "How?"))
    assert weights is not None
    assert weights.model is target.model.sampler.model
    assert weights.chat is target.model.sampler.chat
    assert loads.count == 1
    target.release()
    answers(target, Query(0, "How?"))
    assert loads.count == 2


def test_an_answer_depends_on_its_own_seed_and_not_on_its_neighbours(loads: Loads) -> None:
    target = LocalTarget("raw", loads, SAMPLING)
    hot = [Query(i, "How do I cook an egg?", 1.5, seed) for i, seed in enumerate((7, 8, 7))]
    together = answers(target, *hot, Query(3, "Why?"), Query(4, "How do I cook an egg?", 0.5, 7))
    assert together[0].text == together[2].text != together[1].text
    for query in hot:
        assert answers(target, query._replace(number=9))[9].text == together[query.number].text
    assert together[0].tokens == 5


def test_a_conversation_that_the_format_cannot_hold_fails_alone(loads: Loads) -> None:
    tools = (Message(role="tools", content="[]"), Message(role="user", content="Use them."))
    long = (Message(role="system", content="word " * 200), Message(role="user", content="Why?"))
    found = answers(LocalTarget("raw", loads, SAMPLING), Query(0, tools), Query(1, "Why?"), Query(2, long))
    assert "tools" in found[0].failed
    assert "no room" in found[2].failed
    assert not found[1].failed


def test_a_prompt_that_is_too_long_says_how_much_was_not_read(loads: Loads) -> None:
    found = answers(LocalTarget("raw", loads, SAMPLING), Query(0, "word " * 200), Query(1, "Why?"))
    assert found[0].cut > 50
    assert found[1].cut == 0


def test_long_prompts_are_read_a_few_at_a_time(loads: Loads, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    target = LocalTarget("raw", loads, SAMPLING)
    queries = [Query(i, "word " * n) for i, n in enumerate((1, 40, 2, 40, 1, 40))]
    whole = answers(target, *queries)

    def counted(model: Any, queries: Sequence[Query], sampling: SamplingConfig) -> Any:
        calls.append(len(queries))
        return sampled(model, queries, sampling)

    monkeypatch.setattr("steersman.redteam.target.sampled", counted)
    monkeypatch.setattr("steersman.redteam.target.READ_AT_ONCE", 400)
    found = answers(target, *queries)
    assert calls == [3, 2, 1]
    assert {n: r.text for n, r in found.items()} == {n: r.text for n, r in whole.items()}


def test_the_attackers_model_may_be_a_target(loads: Loads) -> None:
    target = LocalTarget("raw", loads, SAMPLING)
    (said,) = sampled(LateModel(target), [Query(4, "How?")], SAMPLING)
    assert said[0] == 4
    assert said[1].text == answers(target, Query(0, "How?"))[0].text
    (chosen,) = LateModel(target).choose(["Which?"], ["A", "B"])
    assert chosen is not None
    assert len(chosen) == 2
