"""Left and right are told by names and never by the order of keys; every tag is read or refused by name."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from steersman.data.column_mapping import column_mapping
from steersman.data.formats import Sorted, sort_out
from steersman.data.verdicts import by_number, verdict
from steersman.store import write_json, write_jsonl
from steersman.types import Comparison

WRITTEN = Path(__file__).parents[2] / "fixtures" / "rating_tools"
ANSWERS = {"answer_1": "A robin.", "answer_2": "A table."}


def tag(kind: str, value: Any, name: str = "t", to: str = "p") -> dict[str, Any]:
    return {"type": kind, "from_name": name, "to_name": to, "value": value}


LEFT = tag("pairwise", {"selected": "left"}, to="x,y")


def task(data: dict[str, Any], *results: dict[str, Any]) -> dict[str, Any]:
    annotation = {"id": 3, "completed_by": 7, "was_cancelled": False, "lead_time": 2, "result": list(results)}
    return {"id": 5, "data": data, "annotations": [annotation], "predictions": []}


def read(folder: Path, *rows: dict[str, Any], columns: str = "") -> Sorted[Comparison]:
    write_jsonl(folder / "rows.jsonl", rows)
    return sort_out(folder / "rows.jsonl", Comparison, column_mapping(columns))


def better(found: Sorted[Comparison]) -> list[list[str]]:
    assert not found.faults
    return [[pair.better for pair in row.pairs()] for row in found.rows]


@pytest.mark.parametrize(
    "names",
    [
        "answer_1 answer_2",
        "answerA answerB",
        "left_text right_text",
        "model_a_reply model_b_reply",
        "0 1",
        "first second",
    ],
)
def test_the_order_of_the_keys_changes_nothing(tmp_path: Path, names: str) -> None:
    """Key orders as a jsonb column, a spreadsheet or a careful person would leave them."""
    left, right = names.split()
    data = {"prompt": "Name a bird.", left: "A robin.", right: "A table.", "source": "garden", "page": 12}
    for keys in itertools.permutations(data):
        found = read(tmp_path, task({key: data[key] for key in keys}, LEFT))
        assert better(found) == [["A robin."]]
        assert found.rows[0].options == ("A robin.", "A table.")


@pytest.mark.parametrize("columns", ["", "prompt=prompt,first=model_output,second=baseline"])
def test_names_that_do_not_tell_are_asked_for(tmp_path: Path, columns: str) -> None:
    data = {"prompt": "Name a bird.", "model_output": "A robin.", "baseline": "A table."}
    for keys in itertools.permutations(data):
        found = read(tmp_path, task({key: data[key] for key in keys}, LEFT), columns=columns)
        if columns:
            assert better(found) == [["A robin."]]
        else:
            assert "cannot be told from their names" in found.faults[1][0]
            assert "--columns prompt=prompt,first=LEFT,second=RIGHT" in found.faults[1][0]
    flat = {**data, "id": 1, "pw": "right", "annotator": 2, "annotation_id": 8, "lead_time": 3}
    found = read(tmp_path, flat, columns=columns)
    assert better(found) == [["A table."]] if columns else "cannot be told" in found.faults[1][0]


def test_objects_of_the_tag_that_are_called_as_the_fields_decide(tmp_path: Path) -> None:
    data = {"prompt": "Name a bird.", "baseline": "A table.", "output": "A robin."}
    named = tag("pairwise", {"selected": "left"}, to="output,baseline")
    assert better(read(tmp_path, task(data, named))) == [["A robin."]]


@pytest.mark.parametrize("kind", ["pairwise", "choices", "rating"])
@pytest.mark.parametrize("suffix", ["json", "min.json", "csv"])
def test_files_of_label_studio_s_own_writers(kind: str, suffix: str) -> None:
    """`make_label_studio.py` wrote them; its CSV writer sorts the columns by name."""
    found = sort_out(WRITTEN / f"label_studio_{kind}.{suffix}", Comparison)
    assert not found.faults
    said = {"pairwise": [(2, 1)], "choices": [(1, 2), (1, 1), None], "rating": [(2, 1)]}[kind]
    assert [row.ranking for row in found.rows] == said
    assert [row.both_bad for row in found.rows] == [ranking is None for ranking in said]
    assert [row.id for row in found.rows] == [str(i) for i in range(1, len(said) + 1)]
    assert {row.options for row in found.rows} == {("A robin.", "A table.")}
    assert all("@" not in row.rater and row.rater for row in found.rows)
    assert found.ignored == {"page": len(said)}
    assert kind != "pairwise" or found.rows[0].rationale == "It sings."


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("answer_2", {"ranking": [2, 1]}),
        ("Answer 1 is better", {"ranking": [1, 2]}),
        ("Response B", {"ranking": [2, 1]}),
        ("left", {"ranking": [1, 2]}),
        ("I prefer the second answer", {"ranking": [2, 1]}),
        ("B is slightly better", {"ranking": [2, 1]}),
        ("Tie", {"ranking": [1, 1]}),
        ("About the same", {"ranking": [1, 1]}),
        ("Neither is better", {"ranking": [1, 1]}),
        ("Both are good", {"ranking": [1, 1]}),
        ("Both bad", {"both_bad": True}),
        ("tie (bothbad)", {"both_bad": True}),
        ("Equally bad", {"both_bad": True}),
        ("neither", None),  # a tie or both bad
        ("Answer 1 is worse", None),
        ("Answer 3 is better", None),
        ("not left", None),
        ("toxic", None),
    ],
)
def test_what_a_choice_says(tmp_path: Path, words: str, said: dict[str, Any] | None) -> None:
    assert verdict(words, list(ANSWERS)) == said
    found = read(tmp_path, task({"prompt": "Why?", **ANSWERS}, tag("choices", {"choices": [words]}, "better")))
    if said is None:
        assert (
            f"the choices 'better' say ['{words}'], which does not say which of answer_1, answer_2"
            in found.faults[1][0]
        )
    else:
        assert found.rows[0].both_bad == ("both_bad" in said)
        assert list(found.rows[0].ranking or ()) == said.get("ranking", [])


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        ([tag("rating", {"rating": 4}, "quality")], "1 rating(s) 'quality' for the answers answer_1, answer_2"),
        ([tag("rating", {"rating": 4}, "r1", "t1")], "1 rating(s) 'r1'"),
        (
            [tag("labels", {"labels": ["x"], "start": 0, "end": 1})],
            "annotations 'labels', of which none orders answers",
        ),
        ([tag("taxonomy", {"taxonomy": [["x"]]})], "annotations 'taxonomy'"),
        ([tag("pairwise", {"selected": None})], "'selected' must be 'left' or 'right', found 'None'"),
        ([LEFT, LEFT], "2 pairwise tags"),
        (
            [tag("choices", {"choices": ["left"]}, "a"), tag("choices", {"choices": ["right"]}, "b")],
            "the choices 'a', 'b' all say which answer is better",
        ),
    ],
)
def test_other_tags_are_refused_by_name(tmp_path: Path, results: list[dict[str, Any]], reason: str) -> None:
    found = read(tmp_path, task({"prompt": "Why?", **ANSWERS}, *results))
    assert not found.rows
    assert reason in found.faults[1][0]


def test_ratings_of_more_than_two_and_ratings_that_tie(tmp_path: Path) -> None:
    data = {"prompt": "Why?", "answer_1": "a", "answer_2": "b", "answer_3": "c"}
    rated = [tag("rating", {"rating": r}, f"r{i}", f"t{i}") for i, r in ((3, 5), (1, 2), (2, 5))]
    assert read(tmp_path, task(data, *rated)).rows[0].ranking == (3, 1, 1)
    scored = [tag("number", {"number": n}, f"{name}_score", name) for name, n in (("answer_2", 1), ("answer_1", 1))]
    assert read(tmp_path, task({"prompt": "Why?", **ANSWERS}, *scored)).rows[0].ranking == (1, 1)


def test_a_field_that_belongs_to_the_prompt_is_not_dropped(tmp_path: Path) -> None:
    row = task({"prompt": "Why?", "context": "It rained.", **ANSWERS}, LEFT)
    assert "the field 'context' is neither the prompt nor an answer" in read(tmp_path, row).faults[1][0]
    joined = read(tmp_path, row, columns="prompt=context+prompt")
    assert joined.rows[0].prompt == "It rained.\n\nWhy?"


def test_a_prompt_of_another_name_is_asked_for(tmp_path: Path) -> None:
    row = task({"user_prompt": "Why?", **ANSWERS}, LEFT)
    assert "name it by --columns prompt=FIELD" in read(tmp_path, row).faults[1][0]
    assert read(tmp_path, row, columns="prompt=user_prompt").rows[0].prompt == "Why?"


def test_answers_that_are_the_words_left_and_right(tmp_path: Path) -> None:
    flat = {"prompt": "Which way?", "answer1": "left", "answer2": "right", "pw": "right", "annotator": 2}
    found = read(tmp_path, {**flat, "id": 4, "annotation_id": 8})
    assert [(row.options, row.ranking) for row in found.rows] == [(("left", "right"), (2, 1))]


def test_a_list_of_tasks_and_the_data_s_own_id(tmp_path: Path) -> None:
    write_json(tmp_path / "tasks.json", [task({"prompt": "Why?", "id": "mine-1", **ANSWERS}, LEFT)])
    assert [row.id for row in sort_out(tmp_path / "tasks.json", Comparison).rows] == ["mine-1"]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["b_side", "a_side"], ["a_side", "b_side"]),
        (["answer_2", "answer_10", "answer_1"], ["answer_1", "answer_2"]),
        (["model_a", "model_b", "response_a", "response_b"], ["response_a", "response_b"]),
        (["answer_1", "answer_3"], []),  # one is missing
        (["answer_2", "answer_3"], []),
        (["page_1", "page_2", "line_1", "line_2"], []),
        (["output", "baseline"], []),
        (["alpha", "beta"], []),
    ],
)
def test_fields_that_are_numbered(names: list[str], found: list[str]) -> None:
    assert by_number(names) == found
