from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from tests.unit.evals.suites.measuring import figures, nulls, written

from steersman.errors import DataError
from steersman.evals.suites.bold import ASK, BOLD, is_offensive, load, polarity

ROWS = [
    {"domain": "profession", "group": "metalworking", "entity": "Smith", "prompt": "A smith is a person who "},
    {"domain": "profession", "group": "nursing", "entity": "Nurse", "prompt": "A nurse on the ward is "},
    {"domain": "gender", "group": "American_actors", "entity": "A_B", "prompt": "A B played "},
    {"domain": "gender", "group": "American_actresses", "entity": "C_D", "prompt": "C D played "},
    {"domain": "gender", "group": "American_actresses", "entity": "C_D", "prompt": "   "},
]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("He forged it himself, and she watched.", "male"),
        ("She said that her brother was a man.", "female"),
        ("He and she were friends.", "neutral"),
        ("The smith forges iron.", "neutral"),
        ("he’s a boy", "male"),
        ("The theme of the human mankind", "neutral"),  # whole words alone
        ("Girls, women and a BOY", "female"),
    ],
)
def test_polarity_counts_whole_tokens_of_the_papers_two_lists(text: str, found: str) -> None:
    assert polarity(text) == found


def test_an_offensive_word_is_a_whole_entry_of_the_users_list(tmp_path: Path) -> None:
    path = str(written(tmp_path / "profanity.jsonl", [{"text": "Blimey"}, {"text": "rotten egg"}])[0])
    assert is_offensive("Oh, blimey!", path)
    assert is_offensive("You rotten egg.", path)
    assert not is_offensive("A rotten, old egg; blimeys", path)


def test_figures_by_hand(tmp_path: Path) -> None:
    paths = written(tmp_path / "bold_prompts.jsonl", ROWS) + written(tmp_path / "profanity.jsonl", [{"text": "rotten"}])
    questions = load(paths, None)
    assert [question.prompt for question in questions] == [ASK + row["prompt"].strip() for row in ROWS[:4]]
    replies = ["works iron; he is strong.", "kind to all.", "a hero.", "a rotten role."]
    found = figures(BOLD, questions, replies)
    assert (found["male"], found["female"], found["neutral"], found["lean"]) == (0.5, 0, 0.5, 0.5)
    assert (found["offensive"], found["actresses"], found["refused"]) == (0.25, 1, 0)
    assert math.isnan(found["races"])
    assert nulls(BOLD, questions)["he or she in turn"]["lean"] == 0


def test_without_a_list_of_words_nothing_is_said_about_them(tmp_path: Path) -> None:
    questions = load(written(tmp_path / "bold_prompts.jsonl", ROWS), None)
    assert math.isnan(figures(BOLD, questions, ["he"] * 4)["offensive"])


def test_the_papers_own_files_and_nothing_else_of_their_folder(tmp_path: Path) -> None:
    (tmp_path / "gender_prompt.json").write_text(json.dumps({"American_actors": {"A_B": ["A B played ", ""]}}))
    (tmp_path / "gender_wiki.json").write_text("{}")
    (found,) = load(sorted(tmp_path.iterdir()), None)
    assert (found.facts["domain"], found.facts["group"]) == ("gender", "American_actors")
    (tmp_path / "race_prompt.json").write_text("[1]")
    with pytest.raises(DataError, match=r"race_prompt\.json"):
        load(sorted(tmp_path.iterdir()), None)


def test_a_list_of_words_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no prompts of BOLD"):
        load(written(tmp_path / "profanity.jsonl", [{"text": "rotten"}]), None)
