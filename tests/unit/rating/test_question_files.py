"""Odd files of questions: each is read as it is meant, or refused with the row and the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steersman.errors import UserError
from steersman.rating.round import Question
from steersman.rating.session import Source, make_questions

OK = {"prompt": "A?", "options": ["x", "y"]}


def questions(folder: Path, text: str, name: str = "questions.jsonl") -> list[Question]:
    (folder / name).write_bytes(text.encode("utf-8"))

    def no_model(_: Any) -> Any:
        raise AssertionError("a file needs no model")

    return make_questions(folder / name, Source(), 0, no_model)


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("\ufeff" + lines(OK), "questions.jsonl"),
        (lines(OK).replace("\n", "\r\n"), "questions.jsonl"),
        ("\n" + lines(OK) + "\n\n", "questions.jsonl"),
        (json.dumps([OK]), "questions.json"),
        (json.dumps([OK], indent=1).replace("\n", "\r\n"), "questions.json"),
        (lines({**OK, "model_a": "m", "n": 3}), "questions.jsonl"),
        (lines({"prompt": "A?", "chosen": "x", "rejected": "y"}), "questions.jsonl"),
        ('prompt,options\nA?,"[""x"", ""y""]"\n', "questions.csv"),
    ],
)
def test_read_as_meant(tmp_path: Path, text: str, name: str) -> None:
    found = questions(tmp_path, text, name)
    assert [(question.prompt, question.options) for question in found] == [("A?", ("x", "y"))]


def test_ids_and_characters_stay(tmp_path: Path) -> None:
    (found,) = questions(tmp_path, lines({**OK, "options": ["\x1b[31mred\x1b[0m", "y\x07"], "id": 7}))
    assert (found.options, found.id) == (("\x1b[31mred\x1b[0m", "y\x07"), "7")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "B?", "options": ["same", "same "]}, "line 2: 'options': two of the answers are the same text"),
        (
            {"prompt": "B?", "options": [str(i) for i in range(10)]},
            "line 2: 'options': a comparison has 2 to 9 answers",
        ),
        ({"prompt": "B?", "options": ["   ", "b"]}, "line 2: 'options.0' is empty"),
        ({"prompt": "B?", "options": ["b"]}, "line 2: a comparison has 2 to 9 answers, not 1"),
        ({"prompt": "B?", "options": "x, y"}, "line 2: 'options' must be a list"),
        ({"prompt": "B?", "options": ["x", 3]}, "line 2: 'options.1'"),
        ({"prompt": "", "options": ["x", "y"]}, "line 2: 'prompt' is empty"),
        ({"prompt": "B\0?", "options": ["x", "y"]}, "line 2: 'prompt' has a NUL character"),
        ({"prompt": "B?", "options": ["x", "y\0"]}, "line 2: 'options.1' has a NUL character"),
        ({"prompt": "B?", "options": ["x", "y" * 60_001]}, "line 2: an answer has 60001 characters ('options.1')"),
        (
            {"prompt": "B?", "chosen": "x", "rejected": "y" * 60_001},
            "line 2: an answer has 60001 characters ('rejected')",
        ),
        ({"options": ["x", "y"]}, "line 2: no 'prompt'"),
        (["x", "y"], "line 2: a list where an object"),
    ],
)
def test_refused_with_row_and_field(tmp_path: Path, row: Any, reason: str) -> None:
    with pytest.raises(UserError) as error:
        questions(tmp_path, lines(OK, row))
    assert reason in str(error.value)


def test_answers_of_a_model_that_no_page_can_show_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model may write a NUL, or nothing; that ends no round."""
    answers = [("plain", "better"), ("with \0 inside", "better"), (" ", "better"), ("same", "same")]
    (tmp_path / "run.json").write_text("{}")
    for folder in ("raw_answers", "data"):
        (tmp_path / folder).mkdir()
    (tmp_path / "data" / "evaluation.jsonl").write_text(lines(*({"prompt": f"q{i}"} for i in range(4))))
    written = [
        {"condition": condition, "index": i, "answer": pair[side]}
        for i, pair in enumerate(answers)
        for side, condition in enumerate(("raw", "aligned"))
    ]
    (tmp_path / "raw_answers" / "answers.jsonl").write_text(lines(*written))
    found = make_questions(tmp_path, Source(compare=("raw", "aligned")), 0, lambda _: None)  # type: ignore[arg-type,return-value]
    assert [question.options for question in found] == [("plain", "better")]
    assert "left out: 3 prompt(s)" in capsys.readouterr().err
