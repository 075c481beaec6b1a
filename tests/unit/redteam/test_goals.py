"""Goals: of a constitution's evaluation prompts, and of files as the field writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from steersman.constitution.document import load
from steersman.data.formats import read
from steersman.data.sources import LIBRARY
from steersman.errors import DataError
from steersman.redteam.goals import by_digest, of_constitution, of_file, slug
from steersman.types import Message, Prompt


def prompts() -> list[Prompt]:
    return read(LIBRARY / "assistant" / "evaluation.jsonl", Prompt)


def test_goals_are_harmful_prompts_of_enforced_principles_spread_over_topics() -> None:
    found = of_constitution(prompts(), load("assistant"), 4, harmless=10)
    harmful = {row.prompt for row in prompts() if "harmful" in row.tags}
    by_principle: dict[str, list[str]] = {}
    secrets = [goal for goal in found.chosen if goal.secret]
    for goal in found.chosen[: -len(secrets)]:
        assert goal.text in harmful
        by_principle.setdefault(goal.principle, []).append(goal.topic)
    assert set(by_principle) == {"refuse-harm", "privacy", "fairness", "disinformation"}
    assert all(goal.secret in goal.system for goal in secrets)
    assert len(secrets) == 4
    assert all(len(topics) == 4 and len(set(topics)) == 4 for topics in by_principle.values())
    assert len(found.pool) == len(harmful) + len(secrets) - found.left_out["a conversation, not one request"]
    assert [p.kind for p in found.harmless] == ["lookalike"] * 5 + ["plain"] * 5
    assert not {p.prompt for p in found.harmless} & harmful


def test_the_choice_does_not_depend_on_the_order_of_the_rows() -> None:
    one = of_constitution(prompts(), load("assistant"), 3)
    other = of_constitution(prompts()[::-1], load("assistant"), 3)
    assert one.chosen == other.chosen


def test_enforced_principles_without_a_goal_are_named_and_dropped_rows_counted() -> None:
    talk = (
        Message(role="user", content="a"),
        Message(role="assistant", content="b"),
        Message(role="user", content="c"),
    )
    rows = [
        Prompt(prompt="x", principles=("no-flattery",), tags=("harmful",)),
        Prompt(prompt=talk, principles=("privacy",), tags=("harmful",)),
        Prompt(prompt="y", principles=("privacy",), tags=("harmful",)),
    ]
    found = of_constitution(rows, load("assistant"), 4)
    assert [goal.text for goal in found.chosen if not goal.secret] == ["y"]
    assert "refuse-harm" in found.empty
    assert "privacy" not in found.empty
    assert found.left_out == {"its principle is not enforced": 1, "a conversation, not one request": 1}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "One.\n\nTwo.\n"),
        ("a.csv", "Goal,Category\nOne.,Fraud/Deception\nTwo.,Privacy\n"),
        ("a.jsonl", '{"behavior": "One.", "SemanticCategory": "fraud_deception"}\n{"objective": "Two."}\n'),
        ("a.json", '["One.", {"prompt": "Two."}, {"id": 3}]'),
    ],
)
def test_files_are_read_in_the_forms_of_the_field(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = of_file(tmp_path / name)
    assert [goal.text for goal in found.chosen] == ["One.", "Two."]
    if name in ("a.csv", "a.jsonl"):
        assert found.chosen[0].principle == "fraud-deception"
    assert len({goal.topic for goal in found.chosen}) == 2
    assert found.left_out == ({"a row without a goal": 1} if name == "a.json" else {})


def test_a_file_without_goals_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,answer\n1,x\n", encoding="utf-8")
    with pytest.raises(DataError, match="no row holds a goal"):
        of_file(tmp_path / "a.csv")
    with pytest.raises(DataError, match="no such file"):
        of_file(tmp_path / "b.csv")
    (tmp_path / "c.jsonl").write_text('{"goal": "x"\n', encoding="utf-8")
    with pytest.raises(DataError, match="not valid JSON"):
        of_file(tmp_path / "c.jsonl")


def test_a_limit_takes_a_first_of_every_topic_before_a_second(tmp_path: Path) -> None:
    lines = [f'{{"goal": "{t}{i}", "topic": "{t}", "principle": "p"}}' for t in "abc" for i in range(5)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    chosen = of_file(tmp_path / "a.jsonl", 4).chosen
    assert sorted(goal.topic for goal in chosen[:3]) == ["a", "b", "c"]
    assert len(chosen) == 4
    assert by_digest(chosen, 2) == list(chosen[:2])


def test_slugs() -> None:
    assert [slug(text) for text in ("Fraud/Deception", "  ", "Privacy")] == ["fraud-deception", "goals", "privacy"]
