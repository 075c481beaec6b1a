"""Columns that no format names, mapped by the user; public files of other projects through the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steersman.data.column_mapping import column_mapping
from steersman.data.export import convert
from steersman.data.sources import load_file
from steersman.errors import DataError

PUBLIC = Path(__file__).parents[4] / "shared" / "data"
ROW = {"question": "Why?", "context": "It rains.", "a": "So.", "b": "No.", "label": 2, "id": 7}


@pytest.mark.parametrize(
    ("label", "ranking"),
    [
        (1, [1, 2]),
        (2.0, [2, 1]),
        ("model_2", [2, 1]),
        ("A", [1, 2]),
        (0, [1, 1]),
        ("tie", [1, 1]),
        (1.5, [1, 1]),
        (1.000004, [1, 2]),
        (1.93, [2, 1]),
    ],
)
def test_two_answers_and_which_is_better(label: Any, ranking: list[int]) -> None:
    mapped = column_mapping("prompt=question+context, first=a, second=b, better=label")({**ROW, "label": label})
    assert mapped == {"prompt": "Why?\n\nIt rains.", "options": ["So.", "No."], "ranking": ranking, "id": 7}


def test_an_empty_column_adds_no_blank_line() -> None:
    assert column_mapping("prompt=question+context")({**ROW, "context": ""})["prompt"] == "Why?"


def test_no_mapping_changes_nothing() -> None:
    assert column_mapping("")(ROW) == ROW


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("prompt", "'prompt' is not field=column"),
        ("promt=question", "no field is called 'promt'"),
        ("first=a,better=b", "'first' without 'second'"),
    ],
)
def test_a_mapping_that_cannot_be_meant_is_refused(text: str, found: str) -> None:
    with pytest.raises(DataError, match=found):
        column_mapping(text)


def test_two_sides_without_a_verdict_need_an_annotated_task() -> None:
    with pytest.raises(DataError, match="'first' and 'second' and not 'better', and the row is no annotated task"):
        column_mapping("prompt=question,first=a,second=b")({"question": "Why?", "a": "x", "b": "y"})


@pytest.mark.parametrize(
    ("label", "ranking"),
    [
        ("a-is-slightly-better", [1, 2]),
        ("B is better", [2, 1]),
        ("[[A]]", [1, 2]),
        ("B>>A", [2, 1]),
        ("A=B", [1, 1]),
        ("[[C]]", [1, 1]),
        ("Response 2", [2, 1]),
    ],
)
def test_a_verdict_in_words(label: str, ranking: list[int]) -> None:
    row = column_mapping("first=a,second=b,better=label")({"a": "x", "b": "y", "label": label})
    assert row["ranking"] == ranking


def test_a_row_without_the_column_or_with_an_odd_label_is_a_fault() -> None:
    with pytest.raises(DataError, match="no column 'questoin', did you mean question"):
        column_mapping("prompt=questoin")(ROW)
    with pytest.raises(DataError, match="which answer is better is not said by 'perhaps'"):
        column_mapping("first=a,second=b,better=label")({**ROW, "label": "perhaps"})


@pytest.mark.skipif(not PUBLIC.is_dir(), reason="needs shared/data")
@pytest.mark.parametrize(
    ("file", "columns", "kind", "rows"),
    [
        ("instruction_demos/alpaca_en_demo", "", "demonstrations", 999),
        ("instruction_demos/gsm8k_train", "prompt=question,completion=answer", "demonstrations", 7473),
        ("instruction_demos/oasst_en_prompts_250", "", "prompts", 250),
        ("preferences/dpo_en_demo", "", "comparisons", 300),
        ("preferences/kto_en_demo", "", "comparisons", 300),
        ("preferences/kto_mix_test", "prompt=instruction,completion=output,label=tag", "comparisons", 1092),
    ],
)
def test_public_files_are_told_apart(file: str, columns: str, kind: str, rows: int) -> None:
    assert len(getattr(load_file(PUBLIC / f"{file}.jsonl.gz", columns), kind)) == rows


@pytest.mark.skipif(not PUBLIC.is_dir(), reason="needs shared/data")
@pytest.mark.parametrize(
    ("file", "columns", "least"),
    [
        ("alpaca_eval_gpt4_pairs", "prompt=instruction,first=output_1,second=output_2,better=preference", 7000),
        ("pandalm_human_3raters", "prompt=instruction+input,first=response1,second=response2,better=annotator1", 700),
        ("llmbar_processed_faireval_llmeval2", "prompt=input,first=output_1,second=output_2,better=label", 150),
    ],
)
def test_public_comparisons_are_converted(file: str, columns: str, least: int, tmp_path: Path) -> None:
    lines = convert(PUBLIC / "preferences" / f"{file}.jsonl.gz", tmp_path / "out.jsonl", "trl", columns)
    assert int(lines[0].split(": ")[1].split()[0]) >= least, lines
