"""Argilla's records: what each means, and what it is refused for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steersman.data.formats import read, sort_out
from steersman.data.rating_tools import UNRANKED
from steersman.errors import DataError
from steersman.store import write_jsonl
from steersman.types import Comparison


def comparisons(folder: Path, *rows: Any) -> list[Comparison]:
    write_jsonl(folder / "rows.jsonl", rows)
    return read(folder / "rows.jsonl", Comparison)


FIELDS = {"instruction": "Why?", "response-1": "a", "response-2": "b", "response-3": "c"}


def ranks(*numbers: Any) -> list[dict[str, Any]]:
    return [{"value": f"response-{i}", "rank": rank} for i, rank in enumerate(numbers, start=1)]


def test_each_rater_of_a_record_makes_a_comparison(tmp_path: Path) -> None:
    row = {
        "id": "1",
        "fields": FIELDS,
        "metadata": {"source": "web", "group": "north", "words": 12, "topic": None},
        "suggestions": {"ranking": {"value": ranks(3, 2, 1)}},
        "responses": {
            "ranking": [{"value": ranks(1, 1, 2), "user_id": "u1"}, {"value": ranks(2, 3, 1), "user_id": "u2"}],
            "honest": [{"value": ranks(3, 1, 2), "user_id": "u1"}],
            "rationale": [{"value": "Short.", "user_id": "u2"}, {"value": None, "user_id": "u3"}],
            "labels": [{"value": ["x", "y"], "user_id": "u1"}],
        },
        "vectors": {},
        "_server_id": "2",
    }
    shared = {"prompt": "Why?", "options": ("a", "b", "c"), "source": "web", "group": "north", "id": "1"}
    assert comparisons(tmp_path, row) == [
        Comparison(**shared, ranking=(1, 1, 2), per_principle={"honest": (3, 1, 2)}, rater="u1"),
        Comparison(**shared, ranking=(2, 3, 1), rationale="Short.", rater="u2"),
    ]


@pytest.mark.parametrize("joint", ["-", "_"])
def test_ratings_are_made_into_a_ranking(tmp_path: Path, joint: str) -> None:
    rated = {f"response-{i}{joint}rating": [{"value": v}] for i, v in ((1, 2), (2, 5), (3, 2))}
    assert [row.ranking for row in comparisons(tmp_path, {"fields": FIELDS, "responses": rated})] == [(2, 1, 2)]
    both = rated | {"liked": [{"value": ranks(1, 2, 3)}]}
    assert [row.ranking for row in comparisons(tmp_path, {"fields": FIELDS, "responses": both})] == [(1, 2, 3)]


def test_drafts_and_discarded_responses_are_no_answers(tmp_path: Path) -> None:
    answers = [{"value": ranks(1, 2, 3), "user_id": status, "status": status} for status in ("draft", "submitted")]
    found = comparisons(tmp_path, {"fields": FIELDS, "responses": {"ranking": answers}})
    assert [row.rater for row in found] == ["submitted"]


@pytest.mark.parametrize(
    ("row", "found"),
    [
        (
            {"fields": FIELDS, "responses": {}},
            "the row has no preference: no submitted response orders its answers (questions: none)",
        ),
        ({"fields": FIELDS}, "the row has no preference"),
        ({"fields": {"question": "Why?", "a": "b"}}, "no field 'prompt' or 'instruction' among question, a"),
        ({"fields": "Why?"}, "'fields' must be an object {...}, found 'Why?'"),
        ({"fields": FIELDS, "responses": {"ranking": "a"}}, "'ranking' must be a list of responses {...}"),
        (
            {"fields": FIELDS, "responses": {"ranking": [{"value": ranks(1, 2)}]}},
            "'ranking' ranks response-1, response-2, but the answers are response-1, response-2, response-3",
        ),
        ({"fields": FIELDS, "responses": {"ranking": [{"value": ranks(1, 2, None)}]}}, "'ranking.2': input should be"),
        (
            {"fields": FIELDS, "responses": {"response-1-rating": [{"value": 3}]}},
            "the rating of 'response-2' must be a number, found 'None'",
        ),
        (
            {
                "fields": FIELDS,
                "responses": {"ranking": [{"value": ranks(1, 2, 3)}], "My Own": [{"value": ranks(1, 2, 3)}]},
            },
            "'per_principle.My Own.[key]': string should match pattern",
        ),
    ],
)
def test_argilla_records_that_cannot_be_read(tmp_path: Path, row: dict[str, Any], found: str) -> None:
    with pytest.raises(DataError) as error:
        comparisons(tmp_path, row)
    assert f"  line 1: {found}" in str(error.value)


WRITTEN = Path(__file__).parents[2] / "fixtures" / "rating_tools"
ANN, BOB = (f"00000000-0000-0000-0000-00000000000{n}" for n in (1, 2))


def test_files_of_argilla_s_own_writers() -> None:
    """`make_argilla.py` wrote them by `to_json` and by the flat form of `to_list`."""
    found = sort_out(WRITTEN / "argilla.json", Comparison)
    assert [(row.id, row.rater, row.ranking, row.both_bad) for row in found.rows] == [
        ("bird-1", ANN, (2, 1), False),  # names alone: the best first
        ("bird-1", BOB, (1, 2), False),
        ("bird-2", ANN, (1, 2), False),  # a label that is a field's name
        ("bird-2", BOB, (1, 1), False),
        ("bird-3", ANN, (2, 1), False),  # ratings
        ("bird-6", ANN, None, True),
    ]
    assert (found.rows[0].rationale, found.rows[0].source) == ("It sings.", "garden")
    assert found.faults[4][0].startswith("the question 'kinds' says")
    assert found.faults[5][0].startswith("the question 'marks' says")
    assert list(found.ignored) == [UNRANKED]
    flat = sort_out(WRITTEN / "argilla_flat.json", Comparison)
    assert flat.rows == found.rows[:5]


@pytest.mark.parametrize(
    ("responses", "reason"),
    [
        ({"ranking": [{"value": [{"value": "response-1"}, {"value": "response-2"}]}]}, "has names without ranks"),
        ({"ranking": [{"value": ["response-1"]}]}, "ranks response-1, but the answers are response-1, response-2"),
        ({"ranking": [{"value": ["response-1", "response-1"]}]}, "ranks response-1, but the answers are"),
        ({"quality": [{"value": 4}]}, "the question 'quality' says '4', which orders none of response-1, response-2"),
        ({"verdict": [{"value": "fluent"}]}, "the question 'verdict' says 'fluent'"),
        ({"a": [{"value": "tie"}], "b": [{"value": "response-1"}]}, "the labels 'a', 'b' all say"),
        ({"ranking": [{"value": ["response-1", "response-2"], "status": "draft"}]}, "no submitted response orders"),
    ],
)
def test_questions_of_argilla_that_order_nothing(tmp_path: Path, responses: dict[str, Any], reason: str) -> None:
    fields = {name: text for name, text in FIELDS.items() if name != "response-3"}
    with pytest.raises(DataError) as error:
        comparisons(tmp_path, {"fields": fields, "responses": responses})
    assert reason in str(error.value)


def test_other_fields_and_metadata_of_argilla(tmp_path: Path) -> None:
    about = {"fields": {**FIELDS, "lang": "en"}, "metadata": {"topic": "Not A Slug", "model": "m"}}
    row = {**about, "responses": {"ranking": [{"value": ranks(1, 2, 3)}], "kind": [{"value": ["short"]}]}}
    write_jsonl(tmp_path / "rows.jsonl", [row])
    found = sort_out(tmp_path / "rows.jsonl", Comparison)
    assert [(own.options, own.topic) for own in found.rows] == [(("a", "b", "c"), None)]
    assert found.ignored == {"lang": 1, "metadata.topic": 1, "question 'kind'": 1}
    row["fields"] = {**FIELDS, "context": "It rained."}
    with pytest.raises(DataError, match="the field 'context' is neither the prompt nor an answer"):
        comparisons(tmp_path, row)
