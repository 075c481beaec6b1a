"""Votes of Argilla, Label Studio and LMArena come in with every unusable row named; pairs and demonstrations go out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from steersman.data.formats import read
from steersman.errors import DataError
from steersman.rating.aggregation import aggregate
from steersman.rating.exchange import export_votes, import_votes
from steersman.types import Comparison, Demonstration

TASK = {
    "id": 7,
    "project": 83,
    "data": {"prompt": "Which?", "text1": "left one", "text2": "right one"},
    "annotations": [
        {
            "id": 1001,
            "completed_by": {"id": 10, "email": "someone@example.org"},
            "lead_time": 4.288,
            "was_cancelled": False,
            "ground_truth": False,
            "result": [
                {"from_name": "pw", "to_name": "text1,text2", "type": "pairwise", "value": {"selected": "right"}},
                {"from_name": "why", "to_name": "text1", "type": "textarea", "value": {"text": ["It is", "kinder."]}},
            ],
        },
        {"id": 1002, "completed_by": 11, "was_cancelled": True, "result": []},
        {
            "id": 1003,
            "completed_by": 12,
            "ground_truth": True,
            "result": [{"type": "pairwise", "value": {"selected": "left"}}],
        },
    ],
    "predictions": [],
}
RANKED = {
    "data": {
        "prompt": "Rank them.",
        "items": [
            {"id": "a", "title": "A", "body": "first text"},
            {"id": "b", "body": "second text"},
            {"id": "c", "html": "third"},
        ],
    },
    "annotations": [
        {"completed_by": 3, "result": [{"type": "ranker", "value": {"ranker": {"rank": ["c", "a", "b"]}}}]}
    ],
}
BATTLE = {
    "question_id": "58",
    "model_a": "vicuna-13b",
    "model_b": "alpaca-13b",
    "winner": "model_b",
    "judge": "arena_user_973",
    "conversation_a": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}],
    "conversation_b": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hey!"}],
    "turn": 1,
    "language": "English",
    "tstamp": 1682351591.1322,
}


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    return path


def in_one_list(path: Path, rows: list[Any]) -> Path:
    path.write_text(json.dumps(rows, indent=1), "utf-8")
    return path


def test_a_pairwise_task_of_label_studio(tmp_path: Path) -> None:
    """One row for each annotation that says something; the rater's address is nobody's business."""
    said, gold = import_votes(in_one_list(tmp_path / "export.json", [TASK])).votes
    assert (said.options, said.ranking, said.order_shown) == (("left one", "right one"), (2, 1), (0, 1))
    assert (said.rater, said.seconds, said.rationale) == ("10", 4.288, "It is\nkinder.")
    assert "example.org" not in said.model_dump_json()
    assert (gold.gold, gold.rater, gold.ranking) == (True, "", (1, 2))


def test_a_ranker_and_json_min_of_label_studio(tmp_path: Path) -> None:
    short = {
        "id": 7,
        "prompt": "Which?",
        "text1": "x",
        "text2": "y",
        "pw": "left",
        "annotator": 4,
        "annotation_id": 9,
        "lead_time": 2.5,
    }
    first, second = import_votes(written(tmp_path / "a.jsonl", [RANKED, short])).votes
    assert (first.options, first.ranking) == (("first text", "second text", "third"), (2, 3, 1))
    assert (second.options, second.ranking, second.rater, second.seconds) == (("x", "y"), (1, 2), "4", 2.5)


@pytest.mark.parametrize(
    ("winner", "ranking", "both_bad"),
    [
        ("model_a", (1, 2), False),
        ("model_b", (2, 1), False),
        ("tie", (1, 1), False),
        ("tie (bothbad)", None, True),
        ("both_bad", None, True),
    ],
)
def test_battles_of_the_arena(tmp_path: Path, winner: str, ranking: Any, both_bad: bool) -> None:
    (vote,) = import_votes(written(tmp_path / "a.jsonl", [{**BATTLE, "winner": winner}])).votes
    assert (vote.ranking, vote.both_bad, vote.prompt, vote.options) == (ranking, both_bad, "Hi?", ("Hello.", "Hey!"))
    assert (vote.rater, vote.order_shown) == ("arena_user_973", (0, 1))
    assert vote.tags == ("model_a:vicuna-13b", "model_b:alpaca-13b")


def test_the_arenas_other_editions(tmp_path: Path) -> None:
    """The 55k set writes turns as JSON in text and winners as numbers; the 140k set's turns are lists of parts."""
    old = {
        "id": 1,
        "model_a": "a",
        "model_b": "b",
        "prompt": '["One?", "Two?"]',
        "response_a": '["1", "2"]',
        "response_b": '["1", "two"]',
        "winner_model_a": 0,
        "winner_model_b": 0,
        "winner_tie": 1,
    }
    parts = {
        **BATTLE,
        **{
            f"conversation_{side}": [
                {"role": turn["role"], "content": [{"type": "text", "text": turn["content"], "image": None}]}
                for turn in BATTLE[f"conversation_{side}"]  # type: ignore[attr-defined]
            ]
            for side in "ab"
        },
    }
    first, second = import_votes(written(tmp_path / "a.jsonl", [old, parts])).votes
    assert [turn.content for turn in first.prompt] == ["One?", "1", "Two?"]  # type: ignore[union-attr]
    assert (first.options, first.ranking) == (("2", "two"), (1, 1))
    assert second.options == ("Hello.", "Hey!")


BAD: list[tuple[Any, str]] = [
    ({**BATTLE, "winner": "nobody"}, "'winner' must be one of"),
    (
        {**BATTLE, "conversation_b": [{"role": "user", "content": "Ho?"}, *BATTLE["conversation_b"][1:]]},
        "differ already",
    ),  # type: ignore[index]
    (
        {
            **BATTLE,
            "conversation_b": [BATTLE["conversation_b"][0], {"role": "assistant", "content": [{"type": "image"}]}],
        },
        "not only text",
    ),  # type: ignore[index]
    ({**BATTLE, "conversation_a": BATTLE["conversation_b"]}, "the same text"),
    ({"winner_model_a": 1, "winner_model_b": 1, "prompt": "[]"}, "'winner' must be one of"),
    ({"winner_model_a": 1, "prompt": "no list", "response_a": "[]", "response_b": "[]"}, "'prompt' is no JSON list"),
    ({**TASK, "annotations": [{"was_cancelled": True}]}, "no usable annotation"),
    ({**TASK, "data": {"text": "x"}}, "no field 'prompt'"),
    (
        {**TASK, "annotations": [{"result": [{"type": "pairwise", "value": {"selected": "both"}}]}]},
        "must be 'left' or 'right'",
    ),
    (
        {**RANKED, "annotations": [{"result": [{"type": "ranker", "value": {"ranker": ["a", "b"]}}]}]},
        "orders ['a', 'b']",
    ),
    (
        {
            **RANKED,
            "annotations": [{"result": [{"type": "ranker", "value": {"ranker": {"x": ["a"], "y": ["b", "c"]}}}]}],
        },
        "2 buckets",
    ),
    ({"fields": {"text": "x"}}, "no field 'prompt' or 'instruction'"),
    ("a text", "a str where an object"),
]


def test_every_unusable_row_is_named_with_its_line(tmp_path: Path) -> None:
    found = import_votes(written(tmp_path / "a.jsonl", [BATTLE, *(row for row, _ in BAD)]))
    assert len(found.votes) == 1
    assert found.messages[0].endswith("1 vote(s) of 1 named rater(s)")
    for line, (_, words) in enumerate(BAD, start=2):
        if words == "'winner' must be one of":
            continue  # twice, with different words behind
        assert any(words in said and f"the first in line {line}:" in said for said in found.messages), (line, words)
    assert len(found.messages) == 1 + len(BAD)


def test_files_that_are_no_votes_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row that can be used"):
        import_votes(written(tmp_path / "a.jsonl", [{"prompt": "x"}]))
    (tmp_path / "one.json").write_text('{"prompt": "x"}', "utf-8")
    with pytest.raises(DataError, match="no list of rows"):
        import_votes(tmp_path / "one.json")
    (tmp_path / "torn.json").write_text(json.dumps([TASK, TASK])[:-20], "utf-8")
    with pytest.raises(DataError, match="not valid JSON"):
        import_votes(tmp_path / "torn.json")
    (tmp_path / "whole.json.gz").write_bytes(gzip.compress(json.dumps([TASK]).encode()))
    assert len(import_votes(tmp_path / "whole.json.gz").votes) == 2


# ── out ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
def votes() -> list[Comparison]:
    def vote(rater: str, prompt: str, ranking: tuple[int, int], **rest: Any) -> Comparison:
        return Comparison(prompt=prompt, options=("x", "y"), ranking=ranking, rater=rater, topic="tea", **rest)

    clear = [vote(f"r{i}", "clear", (1, 2)) for i in range(6)]
    split = [vote(f"r{i}", "split", (1, 2) if i % 2 else (2, 1)) for i in range(6)]
    bad = [vote(f"r{i}", "bad", (2, 1), both_bad=True) for i in range(6)]
    return clear + split + bad


def test_pairs_for_trl_are_those_that_are_decided(tmp_path: Path) -> None:
    said = export_votes(votes(), "trl", tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert rows == [
        {"prompt": "clear", "chosen": "x", "rejected": "y"},
        {"prompt": "bad", "chosen": "y", "rejected": "x"},
    ]
    assert said[0].endswith("2 row(s) from 18 vote(s)")
    assert said[1].startswith("left out: 1 pair(s): not decided")


def test_the_best_answers_become_demonstrations_and_bad_ones_do_not(tmp_path: Path) -> None:
    edited = Demonstration(prompt="split", completion="a better one", author="r3")
    export_votes(votes(), "demonstrations", tmp_path / "out.jsonl", [edited])
    first, second = read(tmp_path / "out.jsonl", Demonstration)
    assert first == edited
    assert (second.prompt, second.completion, second.topic, second.author) == ("clear", "x", "tea", "chosen by raters")


def test_of_a_ranking_only_what_is_sure_is_handed_out(tmp_path: Path) -> None:
    """Everybody puts z last, and x and y are nearly a toss: pairs with z are facts, and there is no best answer."""

    def three(rater: str, *ranking: int, prompt: str = "toss") -> Comparison:
        return Comparison(prompt=prompt, options=("x", "y", "z"), ranking=ranking, rater=rater)

    toss = [three(f"r{i}", *((1, 2, 3) if i < 11 else (2, 1, 3))) for i in range(21)]
    said = export_votes(toss, "trl", tmp_path / "toss.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "toss.jsonl").read_text("utf-8").splitlines()]
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("x", "z"), ("y", "z")]
    assert said[1:] == ["left out: 1 pair(s): not decided: better with a probability below 0.6"]
    clear = [three(f"r{i}", 1, 2, 3, prompt="clear") for i in range(11)]
    said = export_votes([*toss, *clear], "demonstrations", tmp_path / "best.jsonl", min_probability=0.7)
    (best,) = read(tmp_path / "best.jsonl", Demonstration)
    assert (best.prompt, best.completion) == ("clear", "x")
    assert said[1].startswith("left out: 1 question(s): not decided")
    weighty = aggregate([three(f"r{i}", *ranking) for i, ranking in enumerate([(1, 2, 3), (2, 1, 3)] * 5)])
    assert [row.ranking for row in weighty] == [(1, 1, 3)]  # rounding makes no order


def test_a_key_is_sure_and_one_vote_is_not(tmp_path: Path) -> None:
    key = Comparison(prompt="known", options=("x", "y", "z"), ranking=(2, 1, 3), gold=True)
    doubted = Comparison(prompt="known", options=("x", "y", "z"), ranking=(1, 2, 3), rater="a")
    export_votes([key, doubted], "demonstrations", tmp_path / "best.jsonl", min_probability=0.99)
    assert [row.completion for row in read(tmp_path / "best.jsonl", Demonstration)] == ["y"]
    with pytest.raises(DataError, match=r"nothing to write\n  left out: 3 pair\(s\): not decided"):
        export_votes(
            [doubted.model_copy(update={"prompt": "other"})], "trl", tmp_path / "out.jsonl", min_probability=0.99
        )


def test_votes_and_weighed_rows_read_back(tmp_path: Path) -> None:
    export_votes(votes(), "votes", tmp_path / "votes.jsonl")
    assert import_votes(tmp_path / "votes.jsonl").votes == votes()
    export_votes(votes(), "ranked", tmp_path / "ranked.jsonl")
    clear, split, bad = import_votes(tmp_path / "ranked.jsonl").votes
    assert clear.soft_label is not None
    assert clear.soft_label > 0.8
    assert split.soft_label == pytest.approx(0.5, abs=0.1)
    assert (bad.both_bad, clear.weight) == (True, pytest.approx(6.0, rel=0.2))


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to write"):
        export_votes([], "trl", tmp_path / "out.jsonl")
    with pytest.raises(DataError, match=r"does not end in \.jsonl"):
        export_votes(votes(), "trl", tmp_path / "out.json")
    (tmp_path / "out.jsonl").touch()
    with pytest.raises(DataError, match="the file exists"):
        export_votes(votes(), "trl", tmp_path / "out.jsonl")
