"""Records: closed, frozen, and with an identity that leaves out what cannot change an output."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from steersman.types import (
    Comparison,
    Demonstration,
    Message,
    OrderedPair,
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


# ── comparisons ──────────────────────────────────────────────────────────────────────────────────────────────────────
def compared(*ranking: int, **fields: Any) -> Comparison:
    return Comparison(prompt="a", options=tuple("bcdefghij"[: len(ranking)]), ranking=ranking, **fields)


@pytest.mark.parametrize(
    ("ranking", "expected"),
    [
        ((1, 2), ["bc"]),
        ((2, 1), ["cb"]),
        ((1, 1), []),
        ((3, 1, 2), ["cb", "cd", "db"]),
        ((1, 1, 3), ["bd", "cd"]),
        ((1, 1, 2), ["bd", "cd"]),
        ((2, 1, 2, 1), ["cb", "cd", "eb", "ed"]),
    ],
)
def test_every_two_options_of_which_one_is_better_make_a_pair(ranking: tuple[int, ...], expected: list[str]) -> None:
    assert [pair.better + pair.worse for pair in compared(*ranking).pairs()] == expected
    assert compared(*ranking, both_bad=True).pairs() == compared(*ranking).pairs()  # the lesser evil is still better


def test_pairs_carry_the_row_s_margin_and_weight() -> None:
    assert compared(2, 1, margin=0.5, weight=3).pairs() == [OrderedPair("c", "b", 0.5, 3.0)]
    assert compared(1, 2).pairs() == [("b", "c", None, 1.0)]
    assert len(compared(*range(1, 10)).pairs()) == 36


@pytest.mark.parametrize(("label", "expected"), [(0.51, ["bc"]), (1, ["bc"]), (0.5, []), (0.49, ["cb"]), (0, ["cb"])])
def test_a_probability_alone_puts_the_likelier_option_first(label: float, expected: list[str]) -> None:
    row = Comparison(prompt="a", options=("b", "c"), soft_label=label)
    assert [pair.better + pair.worse for pair in row.pairs()] == expected


def test_without_a_ranking_that_both_are_bad_or_a_principle_says_nothing_of_the_order() -> None:
    assert Comparison(prompt="a", options=("b", "c"), both_bad=True).pairs() == []
    assert Comparison(prompt="a", options=("b", "c"), per_principle={"x": (1, 2)}).pairs() == []
    with pytest.raises(ValidationError, match="the row has no preference"):
        Comparison(prompt="a", options=("b", "c"))


@pytest.mark.parametrize(
    ("ranking", "label", "agree"),
    [
        ((1, 2), 0.9, True),
        ((1, 3), 0.9, True),
        ((2, 1), 0.1, True),
        ((1, 1), 0.5, True),
        ((1, 2), 0.1, False),
        ((1, 2), 0.5, False),
        ((2, 1), 0.6, False),
        ((1, 1), 0.6, False),
    ],
)
def test_a_probability_may_not_contradict_the_ranking(ranking: tuple[int, int], label: float, agree: bool) -> None:
    if agree:
        assert compared(*ranking, soft_label=label).soft_label == label
    else:
        with pytest.raises(ValidationError, match="contradicts 'ranking'"):
            compared(*ranking, soft_label=label)


@pytest.mark.parametrize("order", [(0,), (0, 0), (1, 2), (0, 1, 2), (-1, 0)])
def test_the_order_shown_holds_every_option_once(order: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="must hold each index from 0 to 1 once"):
        compared(1, 2, order_shown=order)
    assert compared(1, 2, order_shown=(1, 0)).order_shown == (1, 0)


def test_comparisons_with_rankings_by_principle_can_be_put_in_a_set() -> None:
    rows = [compared(1, 2, per_principle={"x": (1, 2), "y": (2, 1)}), compared(1, 2, per_principle={"y": (2, 1)})]
    same = compared(1, 2, per_principle={"y": (2, 1), "x": (1, 2)})
    assert len({*rows, same}) == 2


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
