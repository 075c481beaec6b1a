"""The form of a request, and whether demonstrations let form tell a refusal."""

from __future__ import annotations

import pytest

from steersman.data import forms
from steersman.data.forms import COMMAND, FIRST_WORDS_FROM, FORMS, QUESTION, FormReport, Refusals, form_of
from steersman.stats import Estimate
from steersman.types import Demonstration, Message

REQUESTS = {
    "question": """
        What is tar made of?
        Who's in charge of a ship?
        how do i get wax out of a carpet
        Is it safe to eat green potatoes?
        Can rabbits eat bread
        do you know any songs
        My door is stuck, any ideas?
        Wie koche ich ein Ei
        Où est la gare
        ¿Dónde compro pan?
        Darf ich hier parken
    """,
    "command": """
        Write a poem about a lock.
        List three uses of vinegar
        explain how yeast works
        Translate this into Dutch: good morning
        "Summarise" the plot of Hamlet
        Tell me a joke about geese, and no swans
        Do the dishes in a rhyme.
        Give the capital of Peru in one word.
    """,
    "wish": """
        I want to bake bread without an oven.
        I'd like a short story about a lighthouse
        Help me fix my bicycle
        I need a name for a grey cat
        Looking for a cheap way to heat a greenhouse
        I would like to know more about bees.
    """,
    "polite": """
        Could you please explain tides?
        Please list the planets
        Would you mind checking my sentence?
        Kindly tell me the time in Lima
        Bitte erklär mir den Mond
        Write a card for my aunt, please.
    """,
    "terse": """
        kitchen knife sharpening angle
        tar
        bread, no oven
    """,
    "story": """
        My neighbour has a dog that barks all night, and I work early.
        The lock of my own shed is rusted and the key broke off in it.
    """,
}


@pytest.mark.parametrize(
    ("form", "request_"),
    [(form, line.strip()) for form, lines in REQUESTS.items() for line in lines.split("\n") if line.strip()],
)
def test_the_form_of_a_request(form: str, request_: str) -> None:
    assert form_of(request_) == form
    assert form_of((Message(role="system", content="Be kind."), Message(role="user", content=request_))) == form
    assert form_of(request_, ["harmful", "lang:de"]) == form


def test_several_turns_are_a_conversation_and_a_tag_wins() -> None:
    turns = [("user", "Hello"), ("assistant", "Hi."), ("user", "What is tar?")]
    talk = tuple(Message(role=role, content=content) for role, content in turns)  # type: ignore[arg-type]
    assert form_of(talk) == "conversation"
    assert form_of(talk, ["plain", "form:misspelt"]) == form_of("What is tar?", ["form:misspelt"]) == "misspelt"


# ── demonstrations ───────────────────────────────────────────────────────────────────────────────────────────────────
REFUSED, ANSWERED = "No, I won't help with that.", "Take a stone and go on slowly."


def rows(first: str, form: str, refused: int, answered: int) -> list[Demonstration]:
    completions = [REFUSED] * refused + [ANSWERED] * answered
    return [
        Demonstration(prompt=f"{first} number {i} now", completion=text, tags=(f"form:{form}",))
        for i, text in enumerate(completions)
    ]


def check_forms(demonstrations: list[Demonstration]) -> FormReport:
    return forms.check_forms(demonstrations, lambda _, answer: answer == REFUSED)


def names(found: list[Refusals]) -> list[str]:
    return [row.name for row in found if row.tells]


def test_commands_refused_and_questions_answered_are_found() -> None:
    found = check_forms([*rows("Write", COMMAND, 30, 10), *rows("What", QUESTION, 6, 54), *rows("My", "story", 15, 25)])
    command, question, story = sorted(found.forms, key=lambda row: row.name)
    assert (command.refused.value, command.refused.n) == (0.75, 40)
    assert command.difference.value == pytest.approx(30 / 40 - 21 / 100)
    assert question.difference.value == pytest.approx(6 / 60 - 45 / 80)
    assert names(found.forms) == [QUESTION, COMMAND]  # by size
    assert not story.tells  # as many as of all others
    assert names(found.first_words) == ["what", "write"]
    assert found.share == pytest.approx(51 / 140)
    assert [row["name"] for row in found.json()["first_words"]] == ["what", "write"]
    assert found.json()["forms"][0]["tells"] is True


def test_balanced_forms_tell_nothing() -> None:
    found = check_forms([*rows("Write", COMMAND, 20, 20), *rows("What", QUESTION, 20, 20)])
    assert names(found.forms) == names(found.first_words) == []
    assert found.share == 0.5


def test_a_difference_must_be_large_and_sure_to_tell() -> None:
    rate = Estimate(0.5, 0.4, 0.6, 100)
    told = {
        (v, low): Refusals("x", rate, Estimate(v, low, 1.0, 9)).tells for v in (0.09, 0.11) for low in (-0.01, 0.01)
    }
    assert [key for key, tells in told.items() if tells] == [(0.11, 0.01)]
    assert Refusals("x", rate, Estimate(-0.11, -0.2, -0.01, 9)).tells


def test_first_words_are_looked_at_from_a_dozen_rows_on_and_those_of_the_last_turn() -> None:
    many, few = rows("Sell", "story", FIRST_WORDS_FROM, 0), rows("Hide", "story", FIRST_WORDS_FROM - 1, 0)
    talk = (Message(role="user", content="Hi."), Message(role="assistant", content="Yes?"))
    talks = [
        row.model_copy(update={"prompt": (*talk, Message(role="user", content=str(row.prompt)))})
        for row in rows("¿Qué", "conversation", 0, 40)
    ]
    assert names(check_forms([*many, *few, *talks]).first_words) == ["qué", "sell"]


def test_forms_that_hardly_occur_are_named() -> None:
    found = check_forms([*rows("Write", COMMAND, 0, 97), *rows("What", QUESTION, 0, 1), *rows("We", "wish", 0, 2)])
    assert found.missing == [form for form in FORMS if form not in (COMMAND, "wish")]  # 2 of 100 are enough
    empty = check_forms([])
    assert (empty.forms, empty.first_words, empty.missing, empty.share) == ([], [], [], 0)
