"""Argilla's records: what each means, and what it is refused for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steersman.data.formats import read
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
        ({"fields": FIELDS, "responses": {}}, "the row has no preference: no submitted response orders its answers (questions: none)"),
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
