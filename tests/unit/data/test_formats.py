"""Reading rows: our columns and other tools', one message for all bad rows, nothing dropped in silence."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from steersman.data.formats import SHOWN_ROWS, dump, read
from steersman.errors import DataError
from steersman.train.sft import SftConfig, learnt_rows
from steersman.types import Comparison, Demonstration, Message, Prompt, Record

GOOD = {"prompt": "Hi?", "completion": "Hello."}


def write(folder: Path, *rows: Any, name: str = "rows.jsonl") -> Path:
    """A file of rows; strings are written as they are, everything else as JSON."""
    path = folder / name
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def refusal(path: Path, record: type[Record] = Demonstration) -> str:
    with pytest.raises(DataError) as error:
        read(path, record)
    return str(error.value)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


# ── other tools' columns ─────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Why?", "completion": "Because."},
        {"prompt": "Why?", "completion": [assistant("Because.")]},
        {"messages": [user("Why?"), assistant("Because.")]},
        {"instruction": "Why?", "input": "", "output": "Because."},
        {"instruction": "Why?", "output": "Because."},
        {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]},
    ],
)
def test_every_tool_s_columns_give_the_same_demonstration(tmp_path: Path, row: dict[str, Any]) -> None:
    assert read(write(tmp_path, row), Demonstration) == [Demonstration(prompt="Why?", completion="Because.")]


def test_a_longer_conversation_stays_one(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, user("Why?"), assistant("Because."), user("And?")]
    expected = tuple(Message.model_validate(message) for message in messages)
    rows = read(write(tmp_path, {"messages": [*messages, assistant("That is all.")]}), Demonstration)
    assert (rows[0].prompt, rows[0].completion) == (expected, "That is all.")
    assert read(write(tmp_path, {"messages": messages}), Prompt)[0].prompt == expected


def test_alpaca_input_follows_its_instruction(tmp_path: Path) -> None:
    rows = read(write(tmp_path, {"instruction": "Translate.", "input": "Hallo", "output": "Hello"}), Demonstration)
    assert rows[0].prompt == "Translate.\n\nHallo"


def test_alpaca_s_output_needs_its_instruction(tmp_path: Path) -> None:
    assert "line 1: no 'completion'" in refusal(write(tmp_path, {"prompt": "Why?", "output": "So."}))


def test_comparisons_as_text_and_as_messages(tmp_path: Path) -> None:
    texts = {"prompt": "Why?", "chosen": "Because.", "rejected": "No.", "margin": 0.5}
    messages = {"prompt": [user("Why?")], "chosen": [assistant("Because.")], "rejected": [assistant("No.")]}
    first, second = read(write(tmp_path, texts, messages), Comparison)
    assert first == Comparison(prompt="Why?", options=("Because.", "No."), ranking=(1, 2), margin=0.5)
    assert second == Comparison(
        prompt=(Message(role="user", content="Why?"),), options=("Because.", "No."), ranking=(1, 2)
    )


def test_what_is_dumped_reads_back_equal(tmp_path: Path) -> None:
    rows = [
        Demonstration(prompt="¿Qué?", completion="Nada\u2028más.", principles=("a-b",), topic="t.u", tags=("lang:es",)),
        Demonstration(prompt=(Message(role="user", content="x"),), completion="y"),
    ]
    assert read(write(tmp_path, *dump(rows)), Demonstration) == rows
    assert dump(rows)[1] == {"prompt": [user("x")], "completion": "y"}


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_gzip_blank_lines_windows_line_ends_and_a_byte_order_mark_are_no_trouble(tmp_path: Path) -> None:
    text = "\ufeff" + json.dumps(GOOD) + "\r\n\r\n  \n" + json.dumps(GOOD)
    plain, packed = tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"
    plain.write_bytes(text.encode())
    packed.write_bytes(gzip.compress(text.encode()))
    assert (
        read(plain, Demonstration)
        == read(packed, Demonstration)
        == [Demonstration(prompt="Hi?", completion="Hello.")] * 2
    )


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "missing.jsonl: the file does not exist" in refusal(tmp_path / "missing.jsonl")
    assert "Is a directory" in refusal(tmp_path)
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(json.dumps(GOOD).encode() + b'\n{"prompt": "caf\xe9"}\n')
    assert f"{latin}:2: not UTF-8 text" in refusal(latin)


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-12], lambda raw: b"plain text", lambda raw: raw[:10] + b"\xff" * 40]
)
def test_a_damaged_gzip_file_is_named(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(damage(gzip.compress(json.dumps(GOOD).encode())))
    assert f"{path}: not a whole gzip file" in refusal(path)


# ── bad rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"prompt": "Hi?"}, "no 'completion'"),
        ({"prompt": "Hi?", "completion": ""}, "'completion' is empty"),
        ({"prompt": "Hi?", "completion": " \n"}, "'completion' is empty"),
        ({**GOOD, "prompt": 5}, "'prompt' must be text or a list of messages, found '5'"),
        ({**GOOD, "prompt": []}, "'prompt': a conversation must end with a user message"),
        ({**GOOD, "prompt": [user("Hi?"), assistant("Yes?")]}, "'prompt': a conversation must end with a user message"),
        (
            {**GOOD, "prompt": [{"role": "usr", "content": "Hi?"}]},
            "a turn from 'usr', did you mean user?",
        ),
        ({**GOOD, "prompt": [{**user("Hi?"), "tool_calls": [{}]}]}, "a call without the 'name' of a tool"),
        ({**GOOD, "tools": "search"}, "'tools' is no JSON, found 'search'"),
        ({**GOOD, "chat_template_kwargs": {"a": 1}}, "'chat_template_kwargs' is not read row by row: write them into"),
        ({**GOOD, "principles": "a"}, "'principles' must be a list, found 'a'"),
        ({**GOOD, "principles": ["Not A Slug"]}, "'principles.0': string should match pattern"),
        ({**GOOD, "completion": [assistant("a"), user("b")]}, "'completion' must be text or one assistant message"),
        ({**GOOD, "completion": ["a"]}, "'completion' must be a list of messages"),
        ({"messages": [user("Hi?")]}, "'messages' must end with an assistant message"),
        ({"messages": "Hi?"}, "'messages' must be a list of messages"),
        (
            {"messages": [user("Hi?"), {"role": "assistant"}]},
            "'completion': input should be a valid string, found 'None'",
        ),
        ({"conversations": "Hi"}, "'conversations' must be a list of messages"),
        ('{"prompt": "Hi?", "completion": "a", "completion": "b"}', "'completion' occurs twice in one object"),
        ({"messages": [{**user("Hi?"), "images": ["a.png"]}, assistant("Yes.")]}, "a message with 'images': only text"),
        ({"conversations": [{"from": "bot", "value": "x"}]}, "a turn from 'bot', known: "),
        ({"instruction": "a", "input": 3, "output": "b"}, "'instruction' and 'input' must be text"),
        (["a"], "a list where an object {...} was expected"),
        ('{"prompt": "Hi?"', "not valid JSON (Expecting ',' delimiter at column 17)"),
        ('{"prompt": "\\ud83d", "completion": "x"}', "half a character"),
        ("[" * 100_000, "not readable JSON"),
        ('{"prompt": "x", "completion": 1' + "0" * 5000 + "}", "not readable JSON"),
    ],
)
def test_each_fault_is_named_once_with_its_line(tmp_path: Path, row: Any, fault: str) -> None:
    path = write(tmp_path, GOOD, row, GOOD)
    found, first, *rest = refusal(path).split("\n")
    assert found == f"{path}:2: 1 bad row(s)"
    assert first.startswith(f"  line 2: {fault}")
    assert rest[0].startswith("  expected: a demonstration a line: prompt, completion and optional fields")


def test_unknown_columns_are_left_out_counted_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = {**GOOD, "prompt": [{**user("Hi?"), "name": "x"}]}
    path = write(tmp_path, {**GOOD, "score_chosen": 9}, {**GOOD, "score_chosen": 8, "topics": "a"}, named)
    assert [row.completion for row in read(path, Demonstration)] == [GOOD["completion"]] * 3
    assert capsys.readouterr().err.strip() == (
        f"{path}: columns that are not read: 'score_chosen' (2 rows), 'topics' (1 rows; did you mean 'topic'?)"
    )


@pytest.mark.parametrize(
    ("last", "found"),
    [
        ({"weight": 0}, "every assistant message has the weight 0"),
        ({"reasoning_content": "Let me see."}, "the last message has its thoughts apart"),
        ({"content": [{"type": "image_url"}]}, "a message has a part that is no text"),
    ],
)
def test_what_would_change_an_answers_meaning_is_refused(tmp_path: Path, last: dict[str, Any], found: str) -> None:
    row = {"messages": [user("Hi?"), {**assistant("Yes?"), **last}]}
    assert found in refusal(write(tmp_path, row))


def test_text_parts_a_developer_and_a_weight_of_1_are_read(tmp_path: Path) -> None:
    said = [{"type": "text", "text": "Hi"}, {"type": "text", "text": "?"}]
    messages = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": said}]
    path = write(tmp_path, {"messages": [*messages, {**assistant("Yes?"), "weight": 1}]})
    (row,) = read(path, Demonstration)
    assert isinstance(row.prompt, tuple)
    assert [(m.role, m.content) for m in row.prompt] == [("system", "Be kind."), ("user", "Hi?")]


def test_messages_of_weight_0_are_not_learnt(tmp_path: Path) -> None:
    """A last one gives way to the last that is learnt, and what follows that is left out."""
    a, b, c = ({**assistant(text), "weight": weight} for text, weight in (("A", 0), ("B", 1), ("C", 0)))
    row = {"messages": [user("a?"), a, user("b?"), b, user("c?"), c]}
    (found,) = read(write(tmp_path, row), Demonstration)
    assert (found.completion, [(m.content, m.weight) for m in found.prompt]) == ("B", [("a?", 1), ("A", 0), ("b?", 1)])
    assert [turn.completion for turn in learnt_rows(SftConfig(loss_on="all"), [found])] == ["B"]
    kept = Demonstration.model_validate(dump([found])[0])
    assert kept == found
    assert '"weight":0' in found.model_dump_json()
    assert "weight" not in Message(role="user", content="b?").model_dump_json()
    for odd in ({**assistant("A"), "weight": 0.5}, {**assistant("A"), "weight": "high"}):
        assert "a message has the weight" in refusal(write(tmp_path, {"messages": [user("a?"), odd]}))
    assert "a demonstration with the weight 0" in refusal(write(tmp_path, {**GOOD, "weight": 0}))


@pytest.mark.parametrize("margin", ["NaN", "Infinity", "-1"])
def test_a_margin_is_a_finite_number_of_at_least_0(tmp_path: Path, margin: str) -> None:
    row = '{"prompt": "a", "chosen": "b", "rejected": "c", "margin": ' + margin + "}"
    assert "line 1: 'margin': input should be " in refusal(write(tmp_path, row), Comparison)


def test_all_bad_rows_are_counted_and_the_first_ones_shown(tmp_path: Path) -> None:
    text = refusal(write(tmp_path, GOOD, *[{"prompt": "Hi?", "extra": 1}] * (SHOWN_ROWS + 3)))
    assert f"{SHOWN_ROWS + 3} bad row(s)" in text
    assert f"line {SHOWN_ROWS + 1}: no 'completion'" in text
    assert f"line {SHOWN_ROWS + 2}:" not in text
    assert "and 3 more" in text


def test_an_evaluation_prompt_with_an_unknown_behaviour_is_refused(tmp_path: Path) -> None:
    text = refusal(write(tmp_path, {"prompt": "x", "expect": ["refuse"]}), Prompt)
    assert "'expect.0': input should be 'refuses', 'complies'" in text
    assert "found 'refuse'" in text
