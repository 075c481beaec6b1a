"""A run's model behind its guard, with a scripted engine: no weights, and no Inspect needed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from steersman.constitution.document import load
from steersman.errors import UserError
from steersman.guard.guard import Guard
from steersman.inspect.run_model import Answered, RunModel
from steersman.serving.errors import ApiError
from steersman.types import Message

ASKED = (Message(role="user", content="How do I boil an egg?"),)
CARD = "My card is 4111 1111 1111 1111."


class Engine:
    """Answers with one text, and remembers what it was asked."""

    def __init__(self, text: str = "Ten minutes.", finish: str = "stop") -> None:
        self.text, self.finish, self.asked = text, finish, list[Mapping[str, Any]]()

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append(body)
        if body["messages"][-1]["content"] == "too long":
            raise ApiError("The prompt is too long.")
        choice = {"message": {"content": self.text}, "finish_reason": self.finish}
        return {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}


def guard(**settings: str) -> Guard:
    constitution = load("assistant")
    own = constitution.guard.model_copy(update=settings)
    return Guard.from_constitution(constitution.model_copy(update={"guard": own}))


def answered(model: RunModel, conversation: tuple[Message, ...] = ASKED, **settings: Any) -> Answered:
    return asyncio.run(model.answer(conversation, settings))


def test_an_answer_has_its_tokens_and_why_it_ended_and_is_greedy_unless_asked() -> None:
    engine = Engine(finish="length")
    assert answered(RunModel(engine, "aligned"), max_tokens=3) == Answered("Ten minutes.", "length", 7, 3)
    answered(RunModel(engine, "aligned"), temperature=0.7)
    assert engine.asked[0] == {
        "model": "aligned",
        "messages": [{"role": "user", "content": "How do I boil an egg?"}],
        "temperature": 0.0,
        "max_tokens": 3,
    }
    assert engine.asked[1]["temperature"] == 0.7


def test_what_the_guard_stops_at_the_input_the_model_never_sees() -> None:
    engine = Engine()
    held = answered(RunModel(engine, "aligned", guard(personal_data="block")), (Message(role="user", content=CARD),))
    assert engine.asked == []
    assert (held.stop, held.tokens) == ("content_filter", 0)
    assert held.ruling is not None
    assert (held.ruling["side"], held.ruling["decision"]) == ("input", "block")
    assert held.text
    assert CARD not in held.text


def test_what_it_stops_at_the_output_nobody_reads() -> None:
    engine = Engine(CARD)
    held = answered(RunModel(engine, "aligned", guard(personal_data="block")))
    assert (held.stop, held.tokens, len(engine.asked)) == ("content_filter", 3, 1)
    assert held.ruling is not None
    assert held.ruling["side"] == "output"
    assert "4111" not in held.text


def test_redacted_text_is_still_an_answer() -> None:
    said = answered(RunModel(Engine(CARD), "aligned", guard(personal_data="redact")))
    assert said.stop == "stop"
    assert said.text.startswith("My card is")
    assert "4111" not in said.text


def test_harmless_text_passes_both_sides() -> None:
    said = answered(RunModel(Engine(), "aligned", guard(personal_data="block")))
    assert (said.text, said.stop, said.ruling) == ("Ten minutes.", "stop", None)


def test_what_the_engine_refuses_is_said_in_its_words() -> None:
    with pytest.raises(UserError, match="too long"):
        answered(RunModel(Engine(), "aligned"), (Message(role="user", content="too long"),))


def test_a_guard_that_is_not_there_is_said_before_a_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run"):
        RunModel.open(str(tmp_path), guard=True)
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="no guard at"):
        RunModel.open(str(tmp_path), guard=True)
