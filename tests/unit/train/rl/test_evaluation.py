"""Labels that people write: which answers they label, and what the run says while it waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from steersman.errors import DataError, RunError
from steersman.store import read_jsonl, write_jsonl
from steersman.train.rl.evaluation import People
from steersman.types import Message, Prompt

ANSWERS = [
    (Prompt(prompt="Why?"), "Because."),
    (Prompt(prompt=(Message(role="user", content="And now?"),)), "Later."),
    (Prompt(prompt="Why?"), "Because."),
]


def write(file: Path, *labels: object) -> None:
    rows = read_jsonl(file)
    assert len(rows) == len(labels)
    write_jsonl(file, [{**row, "label": label} for row, label in zip(rows, labels, strict=True)])


def test_the_run_waits_until_every_answer_has_a_label(tmp_path: Path) -> None:
    people = People(tmp_path / "labels.jsonl")
    with pytest.raises(RunError, match=r"2 answer\(s\) wait for a person's label") as waits:
        people.labels(ANSWERS)
    assert waits.value.where == str(people.file)
    assert [(row["answer"], row["label"]) for row in read_jsonl(people.file)] == [("Because.", None), ("Later.", None)]
    write(people.file, 1, None)
    with pytest.raises(RunError, match=r"1 answer\(s\) wait"):
        people.labels(ANSWERS)
    write(people.file, 1, 0.25)
    assert people.labels(ANSWERS) == [1, 0.25, 1]


def test_an_answer_is_labelled_once_and_no_label_is_lost(tmp_path: Path) -> None:
    people = People(tmp_path / "labels.jsonl")
    with pytest.raises(RunError):
        people.labels(ANSWERS)
    write(people.file, 1, 0)
    with pytest.raises(RunError, match=r"1 answer\(s\) wait"):
        people.labels([ANSWERS[0], (ANSWERS[0][0], "No idea.")])
    assert [(row["answer"], row["label"]) for row in read_jsonl(people.file)] == [
        ("Because.", 1),
        ("Later.", 0),
        ("No idea.", None),
    ]


@pytest.mark.parametrize("label", [2, -0.1, "good", [1]])
def test_an_invalid_label_is_reported_with_its_line(tmp_path: Path, label: object) -> None:
    people = People(tmp_path / "labels.jsonl")
    with pytest.raises(RunError):
        people.labels(ANSWERS)
    write(people.file, 1, label)
    with pytest.raises(DataError, match="label") as wrong:
        people.labels(ANSWERS)
    assert str(wrong.value.where) == f"{people.file}:2"
