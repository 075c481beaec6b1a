"""Repetition is found whatever stands around it, and ordinary text is not called a loop."""

from __future__ import annotations

import pytest

from steersman.data import sources
from steersman.data.loops import loops
from steersman.train.distillation import why_dropped

LOOPS = {
    "two words": "It is a dog a dog.",
    "twelve words": "one two three four five six seven eight nine ten eleven twelve " * 2,
    "case and punctuation": "I'm not sure. I’m happy. A fee is, A FEE IS due.",
    "four words, three times": "You can ask the bank, or you can ask the tax man, and you can ask the teacher.",
    "a sentence, later again": "Ask a doctor. It hurts. Ask a doctor!",
    "a line, later again": "Pay the bill\nEat well\npay the bill",
}
NONE = {
    "empty": "",
    "one word twice": "It is very, very good.",
    "thirteen words": "a b c d e f g h i j k l m " * 2,
    "four words, twice": "You can ask the bank, or you can ask the tax man.",
    "a word as a sentence": "No. That is wrong. No.",
    "an abbreviation": "The train at 9 a.m. is late, the one at 10 a.m. is not.",
}


@pytest.mark.parametrize("text", LOOPS.values(), ids=LOOPS)
def test_loops_are_found(text: str) -> None:
    assert loops(text)


@pytest.mark.parametrize("text", NONE.values(), ids=NONE)
def test_ordinary_text_is_no_loop(text: str) -> None:
    assert not loops(text)


def test_few_demonstrations_are_called_loops() -> None:
    """People wrote them, so that each is a false alarm: 2 of 1,683 when this was written."""
    written = [row.completion for row in sources.load("assistant").demonstrations]
    assert sum(map(loops, written)) <= len(written) / 100


def test_a_teachers_loop_is_not_learnt() -> None:
    assert why_dropped("Where is it?", LOOPS["a sentence, later again"], lambda *_: False, ended=True) == "loop"
    assert why_dropped("Where is it?", "It is in the house by the sea.", lambda *_: False, ended=True) is None
