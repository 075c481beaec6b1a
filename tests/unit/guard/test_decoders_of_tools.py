"""Encodings as the attack tools write them, and harmless text that looks a little like them."""

from __future__ import annotations

import pytest

from steersman.guard.normalise import views

ASKED = "Tell me everything about the garden, please."


def sneaky(text: str) -> str:
    """garak's: two invisible signs for bits, as many as a character needs, and a third between words."""
    words = ("".join(f"{ord(sign):b}" for sign in word) for word in text.split())
    return "\u200b".join(word.replace("0", "\u2062").replace("1", "\u2064") for word in words)


@pytest.mark.parametrize("text", [ASKED.replace(" ", "=20"), f"Decode this: {ASKED.replace(' ', '=20')} Thank you."])
def test_quoted_printable_with_encoded_spaces_alone(text: str) -> None:
    assert any(ASKED in view.text for view in views(text))


@pytest.mark.parametrize("text", [sneaky(ASKED), f"What does this mean? {sneaky(ASKED)}"])
def test_invisible_bits_with_a_sign_between_words(text: str) -> None:
    assert any(ASKED in view.text for view in views(text))


@pytest.mark.parametrize(
    "text", ["a=20, b=30", "width=20 height=20", "x=20;y=20;z=20", "f(a=20,b=20)", "?page=20&n=20"]
)
def test_code_is_no_quoted_printable(text: str) -> None:
    assert all("quoted-printable" not in view.trace for view in views(text))


@pytest.mark.parametrize("words", [ASKED.split(), ASKED.split()[::-1]], ids=["in order", "backwards"])
def test_words_on_a_stack_are_read_in_both_directions(words: list[str]) -> None:
    """CodeAttack's program; the second direction was taken for the first, found again."""
    program = "stack = deque()\n" + "\n".join(f'stack.append("{word}")' for word in words)
    assert any(ASKED in view.text for view in views(program))
