"""Records: closed, frozen, and with an identity that leaves out what cannot change an output."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from steersman.types import (
    Comparison,
    Demonstration,
    Message,
    Prompt,
    Record,
    messages_of,
    plain_text,
    transport,
)

TALK = (
    Message(role="user", content="Hi"),
    Message(role="assistant", content="Yes?"),
    Message(role="user", content="So"),
)


class Inner(Record):
    rank: int = 8
    workers: int = transport(2, ge=1)


class Outer(Record):
    inner: Inner = Inner()
    names: tuple[str, ...] = ("a",)
    every_steps: int = transport(10)


@pytest.mark.parametrize(
    "record",
    [
        Prompt(prompt="a"),
        Demonstration(prompt="a", completion="b"),
        Comparison(prompt="a", options=("b", "c"), ranking=(1, 2)),
        Message(role="user", content="a"),
        Outer(),
    ],
)
def test_records_are_frozen_and_closed(record: Record) -> None:
    name = next(iter(type(record).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(record, name, "other")
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        type(record).model_validate({**record.model_dump(), "unknown": 1})
    assert hash(record) == hash(record.model_copy())


def test_transport_fields_are_no_part_of_the_identity_at_any_depth() -> None:
    assert Outer().identity() == {"inner": {"rank": 8}, "names": ["a"]}
    assert Outer(every_steps=99, inner=Inner(workers=7)).identity() == Outer().identity()
    assert Outer(inner=Inner(rank=9)).identity() != Outer().identity()


def test_transport_fields_keep_their_limits() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Inner(workers=0)


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "\u00a0\u2003"])
def test_an_answer_of_spaces_is_no_answer(text: str) -> None:
    with pytest.raises(ValidationError):
        Demonstration(prompt="a", completion=text)
    with pytest.raises(ValidationError):
        Comparison(prompt="a", options=("b", text), ranking=(1, 2))
    assert Prompt(prompt=text).prompt == text  # people do send these; the model must cope


@pytest.mark.parametrize("prompt", [(), TALK[:2], (Message(role="system", content="Be brief."),)])
def test_a_conversation_ends_with_the_user(prompt: tuple[Message, ...]) -> None:
    with pytest.raises(ValidationError, match="a conversation must end with a user message"):
        Prompt(prompt=prompt)
    assert Prompt(prompt=TALK).prompt == TALK


@pytest.mark.parametrize("margin", [-0.1, float("inf"), float("nan")])
def test_a_margin_is_finite_and_not_negative(margin: float) -> None:
    with pytest.raises(ValidationError):
        Comparison(prompt="a", options=("b", "c"), ranking=(1, 2), margin=margin)
    assert Comparison(prompt="a", options=("b", "c"), ranking=(1, 2), margin=0).margin == 0


@pytest.mark.parametrize("slug", ["", "A", "a b", "-a", "a-", "a--b", "a/b", "ä", "a\n"])
def test_ids_are_slugs(slug: str) -> None:
    with pytest.raises(ValidationError):
        Prompt(prompt="a", principles=(slug,))
    assert Prompt(prompt="a", topic="finance.credit-cards_2").topic == "finance.credit-cards_2"


def test_a_text_slot_as_messages_and_as_text() -> None:
    assert messages_of("Hi") == (Message(role="user", content="Hi"),)
    assert messages_of(TALK) == TALK
    assert plain_text("Hi") == "Hi"
    assert plain_text(TALK) == "User: Hi\nAssistant: Yes?\nUser: So"
