"""Data sets: where they lie, how they are split, and what is refused before anything is trained."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from steersman.data import sources
from steersman.data.check import check, leaks
from steersman.data.formats import read
from steersman.data.sources import (
    DataConfig,
    DataSet,
    kind_of,
    load,
    load_file,
    locate,
    run,
    split_validation,
    spread,
    whole_contents,
    with_evaluation,
)
from steersman.errors import DataError
from steersman.store import StageFolder, read_json, write_jsonl
from steersman.types import Comparison, Demonstration, Prompt

DEMONSTRATIONS = [Demonstration(prompt=f"Question {i}?", completion=f"Answer {i}.") for i in range(200)]
EVALUATION = [Prompt(prompt=f"Held out {i}!", expect=("complies",), split="evaluation") for i in range(5)]

GRID = [
    Prompt(prompt=f"{form} about {topic}", topic=topic, split="evaluation")
    for topic in ("eggs", "locks", "tea")
    for form in ("question", "wish", "story", "command")
]


def data_set(folder: Path, **changes: Any) -> DataSet:
    return DataSet(folder, DEMONSTRATIONS, [], [], EVALUATION)._replace(**changes)


# ── finding and reading ──────────────────────────────────────────────────────────────────────────────────────────────
def test_a_shipped_name_and_a_folder_are_found(tmp_path: Path) -> None:
    assert sources.library() == ["assistant", "assistant-development", "assistant-forms", "code-of-conduct"]
    assert locate("assistant") == sources.LIBRARY / "assistant"
    assert locate(tmp_path) == tmp_path


def test_development_prompts_are_neither_trained_on_nor_evaluated() -> None:
    development, whole = load("assistant-development"), load("assistant-forms")
    assert development.demonstrations == whole.demonstrations
    assert development.forms == whole.development
    found = check(*development.rows)
    assert (found.leaks, found.shared_topics) == ([], [])
    assert leaks(development.evaluation, [*whole.evaluation, *whole.forms]) == []
    assert min(Counter(row.principles[0] for row in development.evaluation).values()) >= 10


def test_an_unknown_name_is_answered_with_the_closest() -> None:
    with pytest.raises(DataError, match="no data set 'asistant'") as error:
        locate("asistant")
    assert "did you mean assistant" in str(error.value)


def test_only_rows_to_train_on_are_required(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows to train on"):
        load(tmp_path)
    write_jsonl(tmp_path / "demonstrations.jsonl", [{"prompt": "a", "completion": "b"}])
    assert load(tmp_path) == DataSet(tmp_path, [Demonstration(prompt="a", completion="b")], [], [], [], [], [])


def test_each_file_is_read_as_its_own_record_also_when_packed(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "demonstrations.jsonl", [{"prompt": "a", "completion": "b"}])
    write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "c"}])
    write_jsonl(tmp_path / "evaluation.jsonl", [{"prompt": "d", "expect": ["refuses"]}])
    write_jsonl(tmp_path / "forms.jsonl", [{"prompt": "h"}])
    write_jsonl(tmp_path / "development.jsonl", [{"prompt": "i"}])
    packed = gzip.compress(json.dumps({"prompt": "e", "chosen": "f", "rejected": "g"}).encode())
    (tmp_path / "comparisons.jsonl.gz").write_bytes(packed)
    data = load(tmp_path)
    assert data.prompts == [Prompt(prompt="c")]
    assert data.evaluation == [Prompt(prompt="d", expect=("refuses",))]
    assert data.comparisons == [Comparison(prompt="e", options=("f", "g"), ranking=(1, 2))]
    assert (data.forms, data.development) == ([Prompt(prompt="h")], [Prompt(prompt="i")])
    assert data.measured_on == [*data.evaluation, Prompt(prompt="h"), Prompt(prompt="i")]


# ── splitting ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_split_is_a_partition_of_about_the_share() -> None:
    train, validation = split_validation(DEMONSTRATIONS, 0.2)
    assert sorted([*train, *validation], key=DEMONSTRATIONS.index) == DEMONSTRATIONS
    assert 30 <= len(validation) <= 50  # mean 40, standard deviation 5.7
    assert split_validation(DEMONSTRATIONS, 0)[1] == []


def test_adding_rows_moves_no_row_to_the_other_side() -> None:
    before, _ = split_validation(DEMONSTRATIONS[60:], 0.2)
    after, _ = split_validation(DEMONSTRATIONS, 0.2)
    assert before == [row for row in after if row in DEMONSTRATIONS[60:]]


def test_two_answers_to_one_prompt_lie_on_the_same_side() -> None:
    again = [row.model_copy(update={"completion": "Another."}) for row in DEMONSTRATIONS]
    _, validation = split_validation([*DEMONSTRATIONS, *again], 0.2)
    assert [row.prompt for row in validation[: len(validation) // 2]] == [
        row.prompt for row in validation[len(validation) // 2 :]
    ]


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, "abcdefg"), (9, "abcdefg"), (7, "abcdefg"), (3, "ace"), (1, "a")]
)
def test_a_limit_takes_rows_from_the_whole_file(limit: int | None, expected: str) -> None:
    rows = {letter: Prompt(prompt=letter) for letter in "abcdefg"}
    assert spread(list(rows.values()), limit) == [rows[letter] for letter in expected]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(None, ["eggs", "locks", "tea"]), (12, ["eggs", "locks", "tea"]), (11, ["eggs", "locks"]), (4, ["eggs"])],
)
def test_a_limited_grid_keeps_contents_with_all_their_forms(limit: int | None, expected: list[str]) -> None:
    assert whole_contents(GRID, limit) == [row for row in GRID if row.topic in expected]
    assert whole_contents(GRID, 1) == GRID[:4]
    assert whole_contents([], 3) == []


# ── the stage ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_stage_writes_its_files_and_their_counts(tmp_path: Path) -> None:
    events: list[dict[str, object]] = []
    config = DataConfig(validation_share=0.2, limit_demonstrations=50, limit_evaluation=3)
    comparison = Comparison(prompt="Why?", options=("a", "b", "c"), ranking=(2, 1, 2), per_principle={"x": (1, 1, 3)})
    data = data_set(tmp_path, comparisons=[comparison], forms=GRID)
    run(config, data, StageFolder(tmp_path, "data", lambda **row: events.append(row)))
    assert read(tmp_path / "comparisons.jsonl", Comparison) == [comparison]
    train, validation = split_validation(DEMONSTRATIONS[::4], 0.2)
    assert read(tmp_path / "train.jsonl", Demonstration) == train
    assert read(tmp_path / "validation.jsonl", Demonstration) == validation
    assert read(tmp_path / "forms.jsonl", Prompt) == GRID[:4]
    assert read(tmp_path / "development.jsonl", Prompt) == []
    assert read(tmp_path / "evaluation.jsonl", Prompt) == [EVALUATION[0], EVALUATION[1], EVALUATION[3]]
    sides = {"train": len(train), "validation": len(validation)}
    counts = {
        **sides,
        "comparisons": 1,
        "held_out_comparisons": 0,
        "prompts": 0,
        "held_out_prompts": 0,
        "evaluation": 3,
        "forms": 4,
        "development": 0,
    }
    assert read_json(tmp_path / "counts.json") == counts
    assert events == [{"event": "counts", **counts}]


@pytest.mark.parametrize(
    "copy",
    [
        {"demonstrations": [*DEMONSTRATIONS, Demonstration(prompt="held OUT 3", completion="x")]},
        {"comparisons": [Comparison(prompt="Held out 3.", options=("x", "y"), ranking=(1, 2))]},
        {"prompts": [Prompt(prompt="Held out, 3")]},
        {"evaluation": EVALUATION[:3], "forms": [EVALUATION[3]], "prompts": [Prompt(prompt="Held out, 3")]},
        {"evaluation": EVALUATION[:3], "development": [EVALUATION[3]], "prompts": [Prompt(prompt="Held out, 3")]},
    ],
)
def test_a_prompt_on_both_sides_stops_the_run_whatever_its_case_and_punctuation(
    tmp_path: Path, copy: dict[str, object]
) -> None:
    with pytest.raises(DataError, match=r"1 evaluation prompt.* also in the training data, the first is 'Held out 3!'"):
        run(DataConfig(), data_set(tmp_path, **copy), StageFolder(tmp_path, "data"))
    assert list(tmp_path.iterdir()) == []


def test_without_evaluation_prompts_a_tenth_is_held_out_and_not_trained_on(tmp_path: Path) -> None:
    rows = [{"prompt": f"Why {n}?", "chosen": "So.", "rejected": "No.", "topic": f"t.{n}"} for n in range(40)]
    write_jsonl(tmp_path / "comparisons.jsonl", rows)
    data = with_evaluation(load(tmp_path))
    asked, learnt = {row.prompt for row in data.evaluation}, {row.prompt for row in data.comparisons}
    assert (len(asked), len(learnt), asked & learnt) == (4, 36, set())
    assert all(row.topic and not row.expect for row in data.evaluation)
    assert with_evaluation(load(tmp_path)) == data


def test_one_file_is_a_data_set(tmp_path: Path) -> None:
    path = tmp_path / "prefs.csv"
    path.write_text("question,good,bad\nWhy?,So.,No.\nHow?,Thus.,No.\n")
    data = load(path, columns="prompt=question,chosen=good,rejected=bad")
    assert [row.options for row in data.comparisons] == [("So.", "No."), ("Thus.", "No.")]
    assert (data.demonstrations, data.evaluation, data.folder) == ([], [], path)


def test_comparisons_with_faulty_answers_are_no_prompts(tmp_path: Path) -> None:
    """Every row with a prompt can be read as a prompt; that is what a file holds only if nothing else is in it."""
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": "Why?", "chosen": "a", "rejected": text} for text in ("a", " a", "b")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert kind_of(path) is Comparison
    assert len(load_file(path).comparisons) == 1
    path.write_text(json.dumps({"prompt": "Why?", "id": 3}) + "\n")
    assert kind_of(path) is Prompt
