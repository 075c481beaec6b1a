"""What comparisons say by one principle."""

from __future__ import annotations

import pytest

from steersman.data.by_principle import of_principles, with_principles
from steersman.errors import DataError
from steersman.types import Comparison, Message, judged_by

TEXTS = {"a": "Be an apple.", "b": "Be a pear.", "safety": "Be safe."}
WHOLE = Comparison(prompt="q", options=("x", "y"), ranking=(1, 2), margin=2.0, rater="r", principles=("a",))
SPLIT = WHOLE.model_copy(update={"per_principle": {"safety": (2, 1), "a": (1, 1)}})


def test_a_cost_model_learns_from_the_comparisons_of_its_principles() -> None:
    about = [("a",), ("b", "c"), ("c",), ()]
    rows = [Comparison(prompt="q", options=("x", "y"), ranking=(1, 2), principles=principles) for principles in about]
    assert of_principles(rows, ["a", "c"]) == rows[:3]
    with pytest.raises(DataError, match="no comparison is about the principle 'bb'"):
        of_principles(rows, ["a", "bb"])
    assert [row.ranking for row in of_principles([WHOLE, SPLIT], ["safety", "a"])] == [(1, 2), (2, 1), (1, 1)]


def test_what_is_said_by_a_principle_is_a_row_of_its_own() -> None:
    """The prompt holds the principle's text, and a ranking by it alone carries nothing over from the whole row."""
    rows = with_principles([WHOLE, SPLIT], TEXTS)
    assert rows[:2] == [WHOLE, SPLIT]
    assert rows[2] == WHOLE.model_copy(update={"prompt": judged_by("q", TEXTS["a"])})
    assert [(row.ranking, row.margin, row.rater, row.principles, row.prompt) for row in rows[3:]] == [
        ((1, 1), None, "r", ("a",), judged_by("q", TEXTS["a"])),
        ((2, 1), None, "r", ("safety",), judged_by("q", TEXTS["safety"])),
    ]
    told, asked = rows[2].prompt
    assert (told.role, told.content) == ("system", "Judge by this rule alone: Be an apple.")
    assert asked == Message(role="user", content="q")


def test_of_a_principle_without_a_text_nothing_is_made() -> None:
    assert with_principles([WHOLE, SPLIT], {"b": "Be a pear."}) == [WHOLE, SPLIT]


def test_contrasts_say_that_a_principle_which_a_pair_is_not_about_does_not_tell_it_apart() -> None:
    rows = [WHOLE.model_copy(update={"prompt": f"q{i}"}) for i in range(200)]
    made = with_principles(rows, TEXTS, contrasts=0.5)
    contrasts = [row for row in made if row.source == "contrast"]
    assert 70 < len(contrasts) < 130
    assert {row.principles for row in contrasts} == {("b",), ("safety",)}
    for row in contrasts:
        assert (row.soft_label, row.ranking, row.margin, row.options) == (0.5, None, None, ("x", "y"))
        assert row.prompt[0] == judged_by("q", TEXTS[row.principles[0]])[0]
    assert with_principles(rows, TEXTS, contrasts=0.5) == made
    assert with_principles(rows, TEXTS, contrasts=0.5, seed=1) != made
    alone = with_principles(rows, {"a": "Be an apple."}, contrasts=1.0)
    assert not [row for row in alone if row.source == "contrast"]  # there is no other principle
