"""Typography, markup and reasoning are undone; what they were not meant to touch stays."""

from __future__ import annotations

import pytest

from steersman.reasoning import reply_alone
from steersman.typography import normalise


@pytest.mark.parametrize(
    "written",
    [
        "can’t",
        "canʼt",
        "can´t",
        "can`t",
        "can&#39;t",
        "can&rsquo;t",
        "c**an**'t",
        "ca\u200bn't",
        "c\u202dan't",
        "ｃａｎ＇ｔ",
        "ca\u00adn't",
    ],
)
def test_a_word_has_one_spelling(written: str) -> None:
    assert normalise(written) == "can't"


@pytest.mark.parametrize(
    "text", ["2 * 3 * 4", "* one\n* two", "snake_case", "2⁵ is not 25", "½", "北京。", "naïve", "5*6"]
)
def test_other_text_stays(text: str) -> None:
    assert normalise(text) == text


def test_letters_and_their_marks_are_put_together() -> None:
    assert normalise("ko\u0308nnen") == "können"


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("<think>a</think>b", "b"),
        ("Thinking: a\n\nFinal answer: b", "b"),
        ("a</think>b", "b"),
        ("<think>never closed", ""),
        ("<reasoning>a</reasoning>\n<answer>b</answer>", "b"),
        ("[THINK]a[/THINK]b", "b"),
        ("◁think▷a◁/think▷b", "b"),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b", "b"),
        ("b <think>a</think>c", "b c"),
        ("if x < 3: print(x)", "if x < 3: print(x)"),
    ],
)
def test_reasoning_is_cut_out(text: str, reply: str) -> None:
    assert reply_alone(text) == reply
