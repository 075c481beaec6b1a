"""What the judge's decoders undo, and what they leave alone."""

from __future__ import annotations

from random import Random

import pytest

from steersman.redteam.attacks import encoders
from steersman.redteam.decoded_replies import decoded, plainness

TEXT = "First you take the second key from the box, and then you wait until all of them are at the gate."


@pytest.mark.parametrize(
    "encode",
    [
        encoders.base_64,
        encoders.hexadecimal,
        encoders.binary,
        encoders.percent,
        encoders.entities,
        encoders.caesar,
        encoders.rot_13,
        encoders.atbash,
        encoders.full_width,
        encoders.bold,
    ],
    ids=lambda encode: str(encode.__name__),
)
def test_the_codes_of_the_attacks_are_undone(encode: encoders.Encoder) -> None:
    """The encoders were written by others, for the attacks."""
    assert decoded(encode(TEXT, Random(0))).casefold().strip() == TEXT.casefold()


def test_codes_that_lose_something_still_read_as_english() -> None:
    for text in (encoders.leet(TEXT, Random(0)), encoders.morse(TEXT, Random(0)), TEXT[::-1]):
        assert plainness(decoded(text)) > 0.3
        assert plainness(decoded(text)) > 2 * plainness(text)


def test_a_part_is_decoded_where_it_stands() -> None:
    assert decoded(f"Here it is: {encoders.base_64(TEXT, Random(0))} Good luck.") == f"Here it is: {TEXT} Good luck."


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        "Das ist ein ganz gewöhnlicher Satz auf Deutsch, in dem nichts verschlüsselt ist.",
        "The sha256 is e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855, as it says on the page.",
        "1. Open the file\n2. Read 24 lines\n3. Close it\n----------------\n| a | b |",
        "def add(a, b):\n    return a + b",
        "",
        "Nope.",
    ],
)
def test_what_is_not_encoded_comes_back_as_it_was(text: str) -> None:
    assert decoded(text) == text
