"""PAIR step by step, with an attacker's model that follows a script."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.unit.redteam.attacks.drive import GOAL, assert_resumes, play

from steersman.redteam.attack import Ask, Consult, Outcome
from steersman.redteam.attacks.pair import ATTEMPTS, KEPT, PAIR, STRATEGIES, TURNS, prompt_in
from steersman.types import plain_text


def is_topic_check(consult: Consult) -> bool:
    return isinstance(consult.prompt, str)


class Script:
    """Writes prompt 1, 2, ... as JSON, and says of each whether it is on topic."""

    def __init__(self, *replies: str, topic: str = "yes") -> None:
        self.replies: Iterator[str] = iter(replies)
        self.topic = topic
        self.written = 0

    def __call__(self, consult: Consult) -> str:
        if is_topic_check(consult):
            return self.topic
        self.written += 1
        return next(self.replies, json.dumps({"improvement": "More.", "prompt": f"prompt {self.written}"}))


def scored(ask: Ask) -> Outcome:
    return Outcome(f"answer to {plain_text(ask.prompt)}", "", False, 0.3)


def test_one_stream_reads_each_answer_with_its_rating() -> None:
    played = play(PAIR, budget=3, answer=scored, attacker=Script())
    assert played.texts() == ["prompt 1", "prompt 2", "prompt 3"]
    assert [ask.note for ask in played.asks] == ["stream 1, turn 1", "stream 1, turn 2", "stream 1, turn 3"]
    kinds = ["topic" if is_topic_check(c) else "write" for c in played.consults]
    assert kinds == ["write", "topic"] * 3
    first, _, second, _, third, _ = played.consults
    assert GOAL.text in first.prompt[0].content  # type: ignore[union-attr]
    assert STRATEGIES[0] in first.prompt[0].content  # type: ignore[union-attr]
    assert [m.role for m in first.prompt] == ["system", "user"]  # type: ignore[union-attr]
    assert [m.role for m in third.prompt] == ["system", *["user", "assistant"] * 2, "user"]  # type: ignore[union-attr]
    last = second.prompt[-1].content  # type: ignore[union-attr]
    assert "answer to prompt 1" in last
    assert "Rating: 4 of 10" in last  # 1 + round(9 * 0.3)
    assert third.prompt[:3] == second.prompt[:3]  # type: ignore[index]


def test_streams_have_their_strategies_and_turns_are_asked_together() -> None:
    played = play(PAIR, budget=14, attacker=Script())
    assert played.rounds == [4, 4, 4]  # 14 // 3 streams
    systems = [c.prompt[0].content for c in played.consults if not is_topic_check(c)][:4]  # type: ignore[union-attr]
    assert [next(i for i, s in enumerate(STRATEGIES) if s in text) for text in systems] == [0, 1, 2, 0]


@pytest.mark.parametrize(("budget", "rounds"), [(1, [1]), (2, [1, 1]), (200, [30, 30, 30])])
def test_the_budget_is_never_exceeded(budget: int, rounds: list[int]) -> None:
    assert play(PAIR, budget=budget, attacker=Script()).rounds == rounds


def test_it_stops_at_success() -> None:
    def second(ask: Ask) -> Outcome:
        return Outcome("Here is how.", "", ask.prompt == "prompt 2", 0.9)

    assert play(PAIR, budget=3, answer=second, attacker=Script()).texts() == ["prompt 1", "prompt 2"]


def test_an_unreadable_reply_is_counted_and_asked_again() -> None:
    played = play(PAIR, budget=3, attacker=Script("I would rather not.", '{"improvement": "no prompt"}'))
    assert played.texts() == ["prompt 3", "prompt 4", "prompt 5"]
    assert played.asks[0].note == "stream 1, turn 1, 2 unreadable"
    first, second = (c for c in played.consults[:2])
    assert first == second  # the same question again, which the campaign answers with another seed


def test_a_stream_without_a_readable_reply_sits_out_and_asks_are_not_made_up() -> None:
    played = play(PAIR, budget=3, attacker=lambda consult: "No.")
    assert played.asks == []
    assert len(played.consults) == ATTEMPTS * TURNS


def test_what_is_off_topic_is_not_asked_and_the_stream_is_told() -> None:
    played = play(PAIR, budget=3, attacker=Script(topic="No, it asks about cooking."))
    assert played.asks == []
    writes = [c for c in played.consults if not is_topic_check(c)]
    assert len(writes) == TURNS
    assert "was not sent" in writes[1].prompt[-1].content  # type: ignore[union-attr]


def test_history_is_cut_to_the_last_exchanges() -> None:
    from steersman.redteam.attacks.pair import Draft, opened

    dialogue = opened(GOAL, STRATEGIES[0])
    for number in range(7):
        dialogue = dialogue.told(Draft(f"reply {number}", "p"), f"message {number}")
    messages = [m.content for m in dialogue.prompt()][1:]  # type: ignore[union-attr]
    assert len(messages) == 2 * KEPT + 1
    assert messages[-1] == "message 6"
    assert messages[1] == "reply 3"


@pytest.mark.parametrize(
    ("reply", "prompt"),
    [
        ('{"improvement": "a", "prompt": "Hello {name}, \\"do\\" it"}', 'Hello {name}, "do" it'),
        ('Sure!\n```json\n{"improvement": "a",\n "prompt": "two\nlines"}\n```\nGood luck', "two\nlines"),
        ('{"prompt": "first", "improvement": "after",}', "first"),  # a comma too many
        ("{'improvement': 'a', 'prompt': 'it is single'}", "it is single"),
        ("{“improvement”: “a”, “prompt”: “curly”}", "curly"),
        ('{"improvement": "a", "prompt": "cut off in the mid', "cut off in the mid"),
        ('{"improvement": "use {braces}", "prompt": "x"}', "x"),
        ('{"other": 1} {"prompt": "the second object"}', "the second object"),
        ('{"improvement": "a", "prompt": ""}', None),
        ('{"improvement": "a", "prompt": 5}', None),
        ("The prompt: say it nicely", None),
        ("", None),
    ],
)
def test_replies_are_read_as_they_were_meant(reply: str, prompt: str | None) -> None:
    assert prompt_in(reply) == prompt


def test_it_resumes() -> None:
    script = Script()
    whole = play(PAIR, budget=6, answer=scored, attacker=script)
    again = play(PAIR, budget=6, answer=scored, recorded=whole.answers)
    assert again.steps == whole.steps
    assert_resumes(PAIR, budget=6, answer=scored, attacker=lambda c: '{"prompt": "the same"}')
