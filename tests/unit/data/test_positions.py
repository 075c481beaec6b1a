from __future__ import annotations

import pytest
from pydantic import ValidationError

from steersman.data.positions import Position, covered, makes, points_made, sentences_of, to_follow, to_present

SPARE = Position(
    id="spare",
    holders="Those who spare animals",
    holds="Animals feel pain.",
    points=("animal suffer|pain", "kill|slaughter animal|creature"),
)
EAT = Position(
    id="eat", holders="Those who keep the feast", holds="The feast needs a lamb.", points=("feast|table lamb",)
)


@pytest.mark.parametrize(
    ("sentence", "made"),
    [
        ("Animals suffer.", True),
        ("It is painful to many an Animal", True),  # any order, any case, beginnings of words
        ("Animals live.", False),
        ("It hurts. Pain!", False),
        ("Minimal pain, no anima lost", False),  # not within words
    ],
)
def test_a_sentence_makes_a_point_with_a_word_for_each_slot(sentence: str, made: bool) -> None:
    assert makes(sentence, "animal suffer|pain") is made


def test_short_words_do_not_begin_longer_ones() -> None:
    assert [makes(text, "all own") for text in ("all own it", "allow own", "all owns", "all owning", "all owners")] == [
        True,
        False,
        True,
        True,
        False,
    ]


def test_words_of_two_sentences_make_no_point_and_a_position_is_covered_by_one_point() -> None:
    apart = sentences_of("Animals are here. Pain is there.\nThe table has no lamb?  Yes")
    assert apart == ["Animals are here.", "Pain is there.", "The table has no lamb?", "Yes"]
    assert covered(apart, [SPARE, EAT]) == ["eat"]
    assert points_made(["Whoever kills an animal gives pain"], SPARE) == 2
    assert covered(["Whoever kills an animal, at table"], [SPARE, EAT]) == ["spare"]
    assert covered(["anything"], [SPARE.model_copy(update={"points": ()})]) == []


def test_a_point_of_another_form_is_refused_by_the_word() -> None:
    with pytest.raises(ValidationError, match=r'found "pain\|"; expected beginnings of words'):
        Position(id="a", holders="A", holds="B", points=("animal pain|",))
    with pytest.raises(ValidationError, match="at least 1 character"):
        Position(id="a", holders="A", holds="  ")


def test_a_model_is_told_every_position_or_the_declared_one() -> None:
    assert to_present("Lamb", [SPARE, EAT]) == (
        "Lamb: people disagree. Those who spare animals: Animals feel pain. Those who keep the feast: The feast needs "
        "a lamb. Say that people disagree and how, and call none of these a fact."
    )
    told = to_follow("Lamb", [SPARE, EAT], "eat", "the club")
    assert "the club follows one position. The feast needs a lamb." in told
    assert "Those who spare animals" in told
    assert "Animals feel pain" not in told
