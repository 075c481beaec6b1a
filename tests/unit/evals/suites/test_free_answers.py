from __future__ import annotations

import json
from pathlib import Path

import pytest

from steersman.data.check import words
from steersman.data.sources import LIBRARY
from steersman.errors import DataError
from steersman.evals.suites import free_answers
from steersman.evals.suites.free_answers import LIBRARY as OURS
from steersman.evals.suites.free_answers import cut_pairs, outcome, rows_of, text_of
from steersman.evals.suites.suite import Question, Reply

ROWS = {"hallucination": 150, "false_claims": 120, "over_refusal": 150, "disinformation": 50, "political": 50}
ROWS |= {"cultures": 60, "cultures_swaps": 20}
RUN = 8  # words in a row that nobody writes twice by chance


def rows(name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (OURS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def texts(name: str) -> list[str]:
    told = {"id", "kind", "topic", "accept"}
    return [str(text) for row in rows(name) for field, text in row.items() if field not in told]


@pytest.mark.parametrize(("name", "least"), ROWS.items())
def test_our_sets_are_large_enough_and_ask_nothing_twice(name: str, least: int) -> None:
    found = rows(name)
    assert len(found) >= least
    assert len({row["id"] for row in found}) == len(found)
    said = [tuple(words(text)) for text in texts(name)]
    assert len(set(said)) == len(said)


def test_no_prompt_of_ours_is_trained_on() -> None:
    """Nor shares eight words in a row with a row of the shipped training data."""
    trained: set[tuple[str, ...]] = set()
    whole: set[tuple[str, ...]] = set()
    for folder in ("assistant", "assistant-forms", "assistant-development", "code-of-conduct"):
        for path in sorted((LIBRARY / folder).glob("*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                prompt = json.loads(line).get("prompt")
                if isinstance(prompt, str):
                    said = tuple(words(prompt))
                    whole.add(said)
                    trained.update(said[i : i + RUN] for i in range(len(said) - RUN + 1))
    copied = []
    for name in ROWS:
        for text in texts(name):
            said = tuple(words(text))
            if said in whole or any(said[i : i + RUN] in trained for i in range(len(said) - RUN + 1)):
                copied.append(text)
    assert copied == []


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("Lisbon lies on the Tagus, and the tram 28 climbs the hills.", "complied"),
        ("I'm sorry, but I can't help with that.", "refused"),
        ("I can't help with that. However, the tram 28 climbs to the castle, and the river is near.", "partial"),
        ("", "unclear"),
        ("the the the the the the the the the the the the", "unclear"),
    ],
)
def test_a_reply_has_one_outcome(reply: str, found: str) -> None:
    said = outcome(Question("Tell me how to see Lisbon in a day."), Reply(reply))
    assert said == {name: float(name == found) for name in free_answers.OUTCOMES}


def test_a_cut_keeps_pairs_whole_and_is_the_same_for_any_order_of_clusters() -> None:
    questions = [Question(f"{side} {pair}", cluster=f"pair-{pair}") for pair in range(10) for side in ("a", "b")]
    kept = cut_pairs(questions, 7)
    assert len(kept) == 6
    assert all(sum(q.cluster == other.cluster for other in kept) == 2 for q in kept)
    turned = cut_pairs([*questions[10:], *questions[:10]], 7)
    assert {q.prompt for q in turned} == {q.prompt for q in kept}
    assert cut_pairs(questions, None) == questions


def test_tables_and_lines_are_read_and_other_files_of_a_folder_are_not(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_text('goal,target\n"Do it, now",Sure\n', encoding="utf-8")
    (tmp_path / "set.txt").write_text("first\n\nsecond\n", encoding="utf-8")
    (tmp_path / "README.md").write_text("# nothing", encoding="utf-8")
    found = [(where.removeprefix(f"{tmp_path}/"), row) for _, where, row in rows_of(sorted(tmp_path.iterdir()))]
    assert found == [
        ("set.csv, row 1", {"goal": "Do it, now", "target": "Sure"}),
        ("set.txt, line 1", {"prompt": "first"}),
        ("set.txt, line 3", {"prompt": "second"}),
    ]
    assert [row for *_, row in rows_of(sorted(tmp_path.iterdir()), "other")] == []


def test_a_row_without_a_text_is_named() -> None:
    assert text_of({"a": " ", "b": "said"}, ("a", "b"), "x, row 3") == "said"
    with pytest.raises(DataError, match="x, row 3") as caught:
        text_of({"question": "?"}, ("prompt", "goal"), "x, row 3")
    assert "prompt, goal" in str(caught.value)
