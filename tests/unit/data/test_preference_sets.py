"""Public preference data sets: what each column says, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steersman.data.formats import sort_out
from steersman.store import write_jsonl
from steersman.types import Comparison

TURNS = [{"role": "user", "content": "Why?"}]
BOTH = {"a": "x", "b": "y"}


def read(folder: Path, row: dict[str, Any]) -> tuple[list[Comparison], list[str]]:
    write_jsonl(folder / "rows.jsonl", [row])
    found = sort_out(folder / "rows.jsonl", Comparison)
    return found.rows, found.faults.get(1, [])


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("row", "ranking", "name"),
    [
        ({"prompt": "Why?", "response_1": "x", "response_2": "y", "preference_strength": -2}, (1, 2), ""),
        ({"prompt": "Why?", "response_1": "x", "response_2": "y", "preference_strength": 0}, (1, 1), ""),
        ({"context": TURNS, "response1": "x", "response2": "y", "overall_preference": 3, "domain": "code"}, (2, 1), ""),
        (
            {
                "prompt": "\n\nHuman: Why?\n\nAssistant: ",
                "answers": [{"answer": "x", "rank": 2.0, "model": "m"}, {"answer": "y", "rank": 1.0, "model": "n"}],
                "turns": 1,
            },
            (2, 1),
            "",
        ),
        (
            {
                "instruction": "Why?",
                "completions": [{"response": t, "overall_score": s} for t, s in (("x", 7.5), ("y", 7.5), ("z", 9))],
                "source": "set",
            },
            (2, 2, 1),
            "",
        ),
        ({"history": "Why?", "human_ref_A": "x", "human_ref_B": "y", "labels": 0, "post_id": "p"}, (2, 1), ""),
        ({"id": "7", "prompt": "Why?", "chosen": ["x"], "rejected": ["y", "z", "w"]}, (1, 2, 2, 2), "7"),
        ({"id": 3, "prompt": "Why?", "chosen": "x", "rejected": "y", "subset": "easy"}, (1, 2), "3"),
        (
            {"prompt": "Why?", "prompt_id": "h", "chosen": turns("Why?", "x"), "rejected": turns("Why?", "y")},
            (1, 2),
            "h",
        ),
        ({"chosen": turns("Why?", "x"), "rejected": turns("Why?", "y")}, (1, 2), ""),  # TRL's implicit prompt
        (
            {"prompt": "Why?", "response_0": "x", "response_1": "y", "better_response_id": 1, "safer_response_id": 0},
            (2, 1),
            "",
        ),
    ],
)
def test_a_row_of_each_set(tmp_path: Path, row: dict[str, Any], ranking: tuple[int, ...], name: str) -> None:
    rows, faults = read(tmp_path, row)
    assert not faults
    texts = ("x", "y", "z", "w")[: len(ranking)]
    assert [(found.prompt, found.options, found.ranks(), found.id) for found in rows] == [
        ("Why?", texts, ranking, name)
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"prompt": "Why?", "response_1": "x", "response_2": "y", "preference_strength": None, "overall": 1},
            "no 'options'",
        ),
        (
            {"context": TURNS, "response1": "x", "response2": "y", "overall_preference": -100},
            "'overall_preference' must be a number from -3 to 3, found '-100'",
        ),
        ({"prompt": "Why?", "answers": [{"answer": "x", "rank": 1}, {"answer": "y"}]}, "'rank' of each answer must be"),
        ({"history": "Why?", "human_ref_A": "x", "human_ref_B": "y", "labels": 2}, "'labels' must be 1"),
        ({"prompt": "Why?", "chosen": ["x"], "rejected": ["x"]}, "two of the answers are the same text"),
        ({"prompt": "Why?", "response": "x", "helpfulness": 4, "verbosity": 2}, "no 'options'"),  # HelpSteer's ratings
    ],
)
def test_what_orders_nothing_is_refused(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    rows, faults = read(tmp_path, row)
    assert not rows
    assert reason in faults[0]


BATTLE = {"model_a": "m", "model_b": "n", "winner": "model_b"}


def test_the_turn_that_was_judged(tmp_path: Path) -> None:
    """MT-bench's rows hold both turns, whichever was judged; an arena's say how many turns there are."""
    long = {"conversation_a": turns("Why?", "x", "And?", "p"), "conversation_b": turns("Why?", "y", "And?", "q")}
    (first,), _ = read(tmp_path, {**BATTLE, **long, "turn": 1, "judge": "expert", "question_id": 81})
    assert (first.prompt, first.options, first.ranking, first.id) == ("Why?", ("x", "y"), (2, 1), "81")
    _, faults = read(tmp_path, {**BATTLE, **long, "turn": 2, "judge": "expert"})
    assert faults == ["the conversations differ already before their last answers: there is no common prompt"]


@pytest.mark.parametrize(
    ("winner", "ranking"),
    [
        ({"winner": "model_a"}, (1, 2)),
        ({"winner": "tie"}, (1, 1)),
        ({"winner": "tie (bothbad)"}, None),
        ({"winner": "both_bad"}, None),
        ({"winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0}, (2, 1)),
    ],
)
def test_who_won_a_battle(tmp_path: Path, winner: dict[str, Any], ranking: tuple[int, ...] | None) -> None:
    if "winner" in winner:
        told: dict[str, Any] = {"conversation_a": turns("Why?", "x"), "conversation_b": turns("Why?", "y"), "id": "q-1"}
    else:
        told = {"prompt": '["Why?"]', "response_a": '["x"]', "response_b": '["y"]', "id": "q-1"}
    (row,), _ = read(tmp_path, {"model_a": "m", "model_b": "n", **winner, **told})
    assert (row.ranking, row.both_bad, row.id) == (ranking, ranking is None, "q-1")
