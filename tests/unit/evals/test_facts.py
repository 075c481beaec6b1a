"""Facts: what counts as right, and that the shipped ones are new to the data and to the knowledge items."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import steersman
from steersman.data.check import LEAK_JACCARD, TWIN_JACCARD, five_grams, jaccard, words
from steersman.evals import facts
from steersman.evals.conditions import ALIGNED, FEW_SHOT, Condition
from steersman.evals.facts import Fact, ask, chosen, is_right
from steersman.lm.sampling import SamplingConfig
from steersman.lm.scripted import ScriptedModel
from steersman.store import StageFolder, read_jsonl
from steersman.types import Message

PACKAGE = Path(steersman.__file__).parent
LIBRARY = PACKAGE / "data" / "library"
DATA_SETS = (LIBRARY / "assistant", LIBRARY / "code-of-conduct", PACKAGE / "cli" / "starter_project" / "data")
SHIPPED = facts.load()
COMMON_WORDS = """
what which who is the of a an in on are do does did how many much there have has name give say tell me for that by
called
"""
LIMA = Fact(question="What is the capital of Peru?", accept=("lima",), form="question")
THOUSAND = Fact(question="Say how many grams a kilogram has.", accept=("1000", "thousand"), form="command")
CITY = Fact(question="Name a city in Argentina.", accept=("buenos aires",), form="command")


@pytest.mark.parametrize(
    ("fact", "answer"),
    [
        (LIMA, "Lima."),
        (LIMA, "The capital of Peru is LIMA, of course."),
        (LIMA, "Good question! It is Lima. Have a nice day."),
        (LIMA, "\n\nPeru\nLima\n"),
        (THOUSAND, "There are 1,000 grams."),
        (THOUSAND, "A thousand"),
        (CITY, "It is Buenos\nAires"),
    ],
)
def test_right_answers(fact: Fact, answer: str) -> None:
    assert is_right(fact, answer)


@pytest.mark.parametrize(
    ("fact", "answer"),
    [
        (LIMA, ""),
        (LIMA, "Limassol, or Kilimanjaro."),
        (LIMA, "It is Cusco. It is in Peru. No, it is Lima."),
        (THOUSAND, "10,000"),
        (THOUSAND, "1,000,000"),
        (CITY, "Buenos dias. Aires."),
    ],
)
def test_wrong_answers(fact: Fact, answer: str) -> None:
    assert not is_right(fact, answer)


def test_any_number_of_facts_has_both_forms() -> None:
    for limit in (2, 6, 7, 60, 120):
        found = chosen(SHIPPED, limit)
        forms = Counter(fact.form for fact in found)
        assert len(set(found)) == len(found) == limit
        assert 0 <= forms["question"] - forms["command"] <= 1
    assert len(chosen(SHIPPED, 500)) == 120


def test_both_conditions_share_a_transcript_and_a_second_call_asks_nothing(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    out, partial = StageFolder(tmp_path, "sense", lambda **event: events.append(event)), tmp_path / "partial.jsonl"
    sampling, preamble = SamplingConfig(max_new_tokens=48), (Message(role="system", content="Be plain."),)
    knows, knows_not = (
        ScriptedModel({LIMA.question: "Lima."}, "Rosario."),
        ScriptedModel({CITY.question: "I can't help with that."}, "Cusco."),
    )
    first = ask([LIMA, CITY], knows, Condition(FEW_SHOT, preamble), sampling, partial, out)
    second = ask([LIMA, CITY], knows_not, Condition(ALIGNED, None), sampling, partial, out)
    assert [row["right"] for row in first] == [True, False]
    assert [row["declined"] for row in (*first, *second)] == [False, False, False, True]
    assert [(row["condition"], row["index"], row["right"]) for row in second] == [
        (ALIGNED, 0, False),
        (ALIGNED, 1, False),
    ]
    assert [(event["condition"], event["asked"], event["right"]) for event in events] == [
        (FEW_SHOT, 2, 1),
        (ALIGNED, 2, 0),
    ]
    assert ask([LIMA, CITY], ScriptedModel({}), Condition(FEW_SHOT, preamble), sampling, partial, out) == first


# ── the shipped items ────────────────────────────────────────────────────────────────────────────────────────────────
def texts(value: str | list[dict[str, str]]) -> list[str]:
    return [value] if isinstance(value, str) else [message["content"] for message in value]


def test_there_are_as_many_questions_as_commands_and_none_twice() -> None:
    assert Counter(fact.form for fact in SHIPPED) == {"question": 60, "command": 60}
    assert len({tuple(words(fact.question)) for fact in SHIPPED}) == 120
    assert all(fact.question.endswith("?" if fact.form == "question" else ".") for fact in SHIPPED)


def test_no_question_holds_its_answer() -> None:
    """Else a model that repeats the question would be right."""
    assert [fact.question for fact in SHIPPED if is_right(fact, fact.question)] == []


def test_accepted_strings_are_written_as_they_are_compared() -> None:
    assert [fact.accept for fact in SHIPPED if any(" ".join(words(a)) != a for a in fact.accept)] == []


@pytest.mark.parametrize("folder", DATA_SETS, ids=["assistant", "code-of-conduct", "starter"])
def test_nothing_near_a_fact_is_trained_on_or_asked_elsewhere(folder: Path) -> None:
    """No five words in a row of any text, and no prompt with half of its words."""
    rows = [row for path in sorted(folder.glob("*.jsonl")) for row in read_jsonl(path)]
    prompts = [text for row in rows for text in texts(row["prompt"])]
    said = [text for row in rows for text in (*row.get("options", ()), row.get("completion", ""))]
    assert prompts
    taken = {gram for text in (*prompts, *said) for gram in five_grams(text)}
    asked = [(prompt, set(words(prompt))) for prompt in prompts]
    for fact in SHIPPED:
        assert five_grams(fact.question) & taken == set(), fact.question
        own = set(words(fact.question))
        assert [prompt for prompt, other in asked if jaccard(own, other) >= LEAK_JACCARD] == [], fact.question


def test_the_knowledge_items_are_others() -> None:
    """What both measure must not be the same facts: no twin, and no item with the same answer and the same subject."""
    few = set(words(COMMON_WORDS))
    for item in read_jsonl(LIBRARY / "capability" / "knowledge.jsonl"):
        own = set(words(item["question"]))
        for fact in SHIPPED:
            theirs = set(words(fact.question))
            assert jaccard(own, theirs) < TWIN_JACCARD, (item["question"], fact.question)
            if is_right(fact, item["options"][item["answer"]]):
                assert len((own & theirs) - few) < 2, (item["question"], fact.question)
