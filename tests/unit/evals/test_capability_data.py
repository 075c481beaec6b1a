"""The shipped capability items: enough of them, fair to guess at, and not what the demonstrations teach."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import steersman
from steersman.data.check import five_grams, words

PACKAGE = Path(steersman.__file__).parent
LIBRARY = PACKAGE / "data" / "library"
DATA_SETS = (
    *(LIBRARY / name for name in ("assistant", "assistant-forms", "code-of-conduct")),
    PACKAGE / "cli" / "starter_project" / "data",
)
# Runs of five words that everyone uses and that give nothing away; looked at one by one.
EVERYDAY = {("put", "a", "bucket", "under", "the"), ("is", "the", "name", "of", "the")}


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


KNOWLEDGE = rows(LIBRARY / "capability" / "knowledge.jsonl")
QUESTIONS: list[str] = [item["question"] for item in KNOWLEDGE]
PASSAGES: list[str] = [row["text"] for row in rows(LIBRARY / "capability" / "neutral.jsonl")]


def texts(value: str | list[dict[str, str]]) -> list[str]:
    return [value] if isinstance(value, str) else [message["content"] for message in value]


def test_there_are_enough_items() -> None:
    assert len(KNOWLEDGE) >= 150
    assert len(PASSAGES) >= 40


def test_always_naming_the_same_place_scores_one_in_four() -> None:
    places = Counter(item["answer"] for item in KNOWLEDGE)
    assert set(places) == {0, 1, 2, 3}
    assert max(places.values()) - min(places.values()) <= 1


def test_four_different_options_each() -> None:
    for item in KNOWLEDGE:
        options = {tuple(words(option)) for option in item["options"]}
        assert len(item["options"]) == len(options) == 4, item["question"]
        assert all(options), item["question"]


@pytest.mark.parametrize("items", [QUESTIONS, PASSAGES], ids=["questions", "passages"])
def test_nothing_is_asked_or_measured_twice(items: list[str]) -> None:
    counted = Counter(tuple(words(text)) for text in items)
    assert [" ".join(text) for text, times in counted.items() if times > 1] == []


@pytest.mark.parametrize("folder", DATA_SETS, ids=["assistant", "assistant-forms", "code-of-conduct", "starter"])
def test_no_five_words_in_a_row_are_trained_on_or_asked_elsewhere(folder: Path) -> None:
    """Perplexity and knowledge would otherwise gain from the demonstrations, and alignment look free."""
    demonstrations, evaluation = rows(folder / "demonstrations.jsonl"), rows(folder / "evaluation.jsonl")
    assert demonstrations
    assert evaluation
    ours = [text for row in demonstrations for field in ("prompt", "completion") for text in texts(row[field])]
    ours += [text for row in evaluation for text in texts(row["prompt"])]
    taken = {gram for text in ours for gram in five_grams(text)}
    shared = {text: five_grams(text) & taken - EVERYDAY for text in [*QUESTIONS, *PASSAGES]}
    assert {text: grams for text, grams in shared.items() if grams} == {}
