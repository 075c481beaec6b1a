"""The constitution document: good input, every way to get it wrong with its line, and the YAML reader."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from steersman.constitution.document import Constitution, CritiqueExample, load
from steersman.errors import ConstitutionError, RecipeError
from steersman.yaml_lines import explain, load_yaml, validate

GOOD = """\
name: halden
title: Rules for Halden
publisher: Halden Industries
version: "1.0"
persona: Plain and brief.
principles:
  - id: gifts
    title: Gifts need approval
    statement: Names the limit of 50 euros and sends the colleague to Compliance before accepting.
    rationale: A gift can buy a decision.
    severity: high
    critique_request: Say which limit is missing.
    revision_request: Name the limit.
    behaviours: [refers_to_professional]
    collides_with: [plain-guidance]
  - id: plain-guidance
    title: Explain the code plainly
    statement: >-
      Says in the first sentence what the code allows or forbids, in
      everyday words.
    rationale: Nobody keeps a rule that nobody understands.
    severity: medium
    critique_request: Point to legal terms.
    revision_request: Use everyday words.
    behaviours:
      - complies
      - no_flattery
priorities:
  - over: gifts
    under: plain-guidance
    reason: The limit comes first.
"""


def write(folder: Path, text: str | bytes, name: str = "rules.yaml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1, f"{old!r} occurs {GOOD.count(old)} times"
    return GOOD.replace(old, new)


def refusal(folder: Path, text: str | bytes) -> list[str]:
    """The message lines of the error, without the path: ``LINE: ...``."""
    path = write(folder, text)
    with pytest.raises(ConstitutionError) as caught:
        load(path)
    assert caught.value.exit_code == 2
    lines = str(caught.value).split("\n")
    assert all(line.startswith(f"{path}:") for line in lines), lines
    assert caught.value.where == f"{path}:{lines[0].removeprefix(f'{path}:').split(':')[0]}"
    return [line.removeprefix(f"{path}:") for line in lines]


# ------------------------------------------------------------------------------------------------------- good input


def test_a_good_document_loads_with_all_its_parts(tmp_path: Path) -> None:
    constitution = load(write(tmp_path, GOOD))
    assert (constitution.name, constitution.version) == ("halden", "1.0")
    assert [principle.id for principle in constitution.principles] == ["gifts", "plain-guidance"]
    assert constitution.principle("plain-guidance").statement == (
        "Says in the first sentence what the code allows or forbids, in everyday words."
    )
    assert constitution.principle("gifts").collides_with == ("plain-guidance",)
    assert constitution.principle("plain-guidance").behaviours == ("complies", "no_flattery")
    assert constitution.priorities[0].over == "gifts"


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(tmp_path: Path) -> None:
    other = b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode()
    assert load(write(tmp_path, other)) == load(write(tmp_path, GOOD, "plain.yaml"))


def test_the_words_no_and_dates_stay_text(tmp_path: Path) -> None:
    constitution = load(write(tmp_path, changed('"1.0"', "2026-01-31").replace("Plain and brief.", "no")))
    assert (constitution.version, constitution.persona) == ("2026-01-31", "no")


def test_the_document_is_frozen_and_closed(tmp_path: Path) -> None:
    constitution = load(write(tmp_path, GOOD))
    with pytest.raises(ValidationError, match="frozen"):
        constitution.title = "other"
    with pytest.raises(ValidationError, match="frozen"):
        constitution.principles[0].severity = "low"
    with pytest.raises(ValidationError, match="Extra inputs"):
        Constitution.model_validate({**constitution.model_dump(), "extra": 1})


def test_the_digest_follows_the_content_and_not_the_layout(tmp_path: Path) -> None:
    base = load(write(tmp_path, GOOD)).digest
    assert re.fullmatch("[0-9a-f]{64}", base)
    name, title, *rest = GOOD.splitlines(keepends=True)
    relaid = "# a note\n" + title + name + "".join(rest).replace("[plain-guidance]", "\n    - plain-guidance")
    assert load(write(tmp_path, relaid)).digest == base
    assert load(write(tmp_path, changed("euros", "pounds"))).digest != base
    assert load(write(tmp_path, changed("comes first", "is first"))).digest != base


def test_a_principle_is_found_by_its_id(tmp_path: Path) -> None:
    constitution = load(write(tmp_path, GOOD))
    assert constitution.principle("gifts").severity == "high"
    with pytest.raises(ConstitutionError, match='no principle has the id "gift"') as caught:
        constitution.principle("gift")
    assert caught.value.do == "did you mean gifts?"


# -------------------------------------------------------------------------------------------------- unreadable files

UNREADABLE: dict[str, tuple[str | bytes, str]] = {
    "duplicate key": (
        changed("    severity: high\n", "    severity: high\n    severity: low\n"),
        '12: found the key "severity" a second time (first on line 11); expected it once',
    ),
    "tab": (changed("    severity: high", "\tseverity: high"), "11: found a tab at the beginning of the line"),
    "tab after a key": (changed("severity: high", "severity:\thigh"), "11: found a tab where a value begins"),
    "latin-1": (
        GOOD.replace("Plain and", "Entschlossen und grün,").encode("latin-1"),
        "5: found the byte 0xfc, which is",
    ),
    "utf-16": (GOOD.encode("utf-16"), "1: found the byte 0xff, which is not UTF-8; expected a file saved as UTF-8"),
    "empty": ("", "1: the file is empty; expected lines of the form `key: value`"),
    "only notes": ("# nothing yet\n\n", "1: the file is empty"),
    "list": ("# rules\n- gifts\n- records\n", "2: found a list of 2; expected a mapping"),
    "text": ("Be good.\n", '1: found "Be good."; expected a mapping'),
    "second colon": (changed("title: Gifts need", "title: Gifts: need"), "8: found a second `: ` in one value"),
    "open quotation": (changed("Gifts need approval", '"Gifts need approval'), "8: found a quotation mark that is"),
    "no colon": (
        changed("    severity: medium", "    severity medium"),
        "22: found a line without a `: ` after its key",
    ),
    "key indented too far": (changed("    severity: high", "      severity: high"), "11: found a second `: `"),
    "key indented too little": (changed("    severity: high", "   severity: high"), "11: found a key indented differ"),
    "open bracket": (changed("[refers_to_professional]", "[refers_to_professional"), "14: found a list that is never"),
    "star": (changed("Plain and brief.", "*Plain* and brief."), "5: found a value that begins with * or &"),
    "backslash": (changed("Plain and brief.", r'"C:\data"'), "5: found a backslash in double quotes"),
    "open brace": (changed("Gifts need", "{Gifts need"), "8: found a brace that is never closed"),
    "text after a quotation": (changed("title: Gifts need", 'title: "Gifts" need'), "8: found text after a closing"),
    "character": (changed("Plain and brief.", "@plain"), "5: found the character '@' where a value begins"),
    "control character": (changed("Plain and", "Plain\x07and"), "5: found the control character U+0007"),
    "two documents": (GOOD + "---\nname: other\n", "32: found a second document"),
    "alias": (changed('version: "1.0"', "version: *name"), "4: found a reference to another place (*name)"),
    "tag": (changed("Plain and brief.", "!!python/name:os.system x"), "5: found the tag !!python/name:os.system"),
    "braces as a key": (changed("Plain and brief.", "{{persona}: x}"), "5: found a list or a mapping as a key"),
    "too deep": ("a: " + "[" * 600 + "]" * 600, "1: found lists nested too deeply to read"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_an_unreadable_file_is_refused_with_its_line(case: str, tmp_path: Path) -> None:
    text, expected = UNREADABLE[case]
    message = refusal(tmp_path, text)
    assert len(message) == 1
    assert message[0].startswith(expected)


def test_all_tabs_and_all_equal_keys_are_listed(tmp_path: Path) -> None:
    tabs = refusal(tmp_path, changed("    severity: high", "\tseverity: high").replace("    under:", "\tunder:"))
    assert [line.split(":")[0] for line in tabs] == ["11", "30"]
    keys = refusal(tmp_path, changed("    severity: high", "    title: x\n    severity: high") + "name: y\n")
    assert [line.split(",")[0].split("(")[0] for line in keys] == [
        '11: found the key "title" a second time ',
        '33: found the key "name" a second time ',
    ]


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConstitutionError, match="no such file") as caught:
        load(tmp_path / "absent.yaml")
    assert caught.value.where == str(tmp_path / "absent.yaml")
    with pytest.raises(ConstitutionError, match="is a directory"):
        load(tmp_path)


# ---------------------------------------------------------------------------------------------------- wrong documents
EXAMPLE = """\
    examples:
      - prompt: May I keep the pen?
        answer: Yes, of course.
        critique: The limit is missing.
        revision: A pen below 50 euros is fine.
"""
WITH_EXAMPLE = changed("priorities:\n", EXAMPLE + "priorities:\n")

WRONG: dict[str, tuple[str, list[str]]] = {
    "unknown key": (
        changed("publisher: Halden Industries", "publisher: Halden Industries\nowner: me"),
        ['4: found the unknown key "owner"; known: '],
    ),
    "misspelt key": (
        changed("    severity: high", "    severty: high"),
        [
            '7: principles, item 1: the key "severity" is missing; expected a line `severity: ...`',
            '11: principles, item 1: found the unknown key "severty"; did you mean severity?',
        ],
    ),
    "missing key at the top": (changed('version: "1.0"\n', ""), ['1: the key "version" is missing']),
    "missing reason": (
        changed("    reason: The limit comes first.\n", ""),
        ['29: priorities, item 1: the key "reason" is missing'],
    ),
    "number for text": (
        changed('"1.0"', "1.0"),
        ["4: version: found the number 1.0; expected text (put it in quotes)"],
    ),
    "nothing for text": (changed("Plain and brief.", ""), ["5: persona: found nothing; expected text"]),
    "blank text": (changed("Plain and brief.", '"  "'), ["5: persona: found empty text; expected some text"]),
    "list for text": (
        changed("Gifts need approval", "[a, b]"),
        ["8: principles, item 1, title: found a list of 2; expected text"],
    ),
    "half a character": (
        changed("Plain and brief.", '"\\ud800"'),
        [r'5: persona: found "\ud800"; expected whole char'],
    ),
    "terminal codes": (
        changed("severity: high", r'severity: "\e[2Jhigh\nx"'),
        [r'11: principles, item 1, severity: found "\x1b[2Jhigh\nx"; expected low, medium, high or critical'],
    ),
    "text for list": (
        changed("[refers_to_professional]", "refers_to_professional"),
        ['14: principles, item 1, behaviours: found "refers_to_professional"; expected a list (in square'],
    ),
    "text for principle": (
        changed("priorities:\n", "  - be good\npriorities:\n"),
        ['28: principles, item 3: found "be good"; expected a mapping'],
    ),
    "no principles": (
        "name: a\ntitle: A\npublisher: P\nversion: '1'\npersona: P\nprinciples: []\n",
        ["6: principles: found an empty list; expected at least 1"],
    ),
    "severity": (
        changed("severity: medium", "severity: hihg"),
        ['22: principles, item 2, severity: found "hihg"; expected low, medium, high or critical; did you mean high?'],
    ),
    "behaviour": (
        changed("- no_flattery", "- no_flatery"),
        ['27: principles, item 2, behaviours, item 2: found "no_flatery"; expected refuses, complies, asks_first, '],
    ),
    "id with spaces": (
        changed("name: halden", "name: Halden Rules"),
        ['1: name: found "Halden Rules"; expected small letters and digits, joined by hyphens'],
    ),
    "duplicate id": (
        changed("- id: plain-guidance", "- id: gifts"),
        [
            '15: principles, item 1, collides_with, item 1: found "plain-guidance", which is no principle\'s id; ',
            '16: principles, item 2, id: found "gifts" a second time (also item 1); expected an id of its own',
            '30: priorities, item 1, under: found "plain-guidance", which is no principle\'s id; ',
        ],
    ),
    "priority with unknown ids": (
        changed("over: gifts", "over: gift"),
        ['29: priorities, item 1, over: found "gift", which is no principle\'s id; did you mean gifts?'],
    ),
    "collision with an unknown id": (
        changed("[plain-guidance]", "[plain-guidanse]"),
        ['15: principles, item 1, collides_with, item 1: found "plain-guidanse", which is no principle\'s id; did'],
    ),
    "collision with itself": (
        changed("[plain-guidance]", "[gifts]"),
        ['15: principles, item 1, collides_with, item 1: found the principle\'s own id "gifts"'],
    ),
    "priority over itself": (
        changed("under: plain-guidance", "under: gifts"),
        ["29: priorities, item 1: found a circle (gifts over gifts); expected that no principle wins over itself"],
    ),
    "misspelt part of an example": (
        WITH_EXAMPLE.replace("critique: The", "critic: The"),
        [
            '29: principles, item 2, examples, item 1: the key "critique" is missing; expected a line `critique: ...`',
            '31: principles, item 2, examples, item 1: found the unknown key "critic"; did you mean critique?',
        ],
    ),
    "revision with an announcement": (
        WITH_EXAMPLE.replace("revision: A pen", "revision: \"Sure! Here's a revised answer: A pen").replace(
            "is fine.", 'is fine."'
        ),
        [
            '32: principles, item 2, examples, item 1, revision: found "Sure! Here\'s a revised answer" at its '
            "beginning; expected the reply alone",
        ],
    ),
    "circle": (
        GOOD + "  - {over: plain-guidance, under: gifts, reason: Because.}\n",
        ["32: priorities, item 2: found a circle (plain-guidance over gifts over plain-guidance); expected"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_document_is_refused_with_its_lines(case: str, tmp_path: Path) -> None:
    text, expected = WRONG[case]
    message = refusal(tmp_path, text)
    assert len(message) == len(expected), message
    for line, beginning in zip(message, expected, strict=True):
        assert line.startswith(beginning)


def test_examples_belong_to_their_principle_and_to_the_digest(tmp_path: Path) -> None:
    with_example = load(write(tmp_path, WITH_EXAMPLE))
    assert with_example.principle("gifts").examples == ()
    (example,) = with_example.principle("plain-guidance").examples
    assert (example.answer, example.revision) == ("Yes, of course.", "A pen below 50 euros is fine.")
    assert with_example.digest != load(write(tmp_path, GOOD)).digest


@pytest.mark.parametrize(
    "beginning",
    [
        "Here is the revised answer:",
        "Here's my improved version.",
        "Revised answer:",
        "REVISION :",
        "My new reply:",
        "Of course! Here is a better answer.",
        "I have rewritten the answer.",
        "I've revised it:",
    ],
)
def test_a_revision_that_speaks_of_itself_is_refused(beginning: str) -> None:
    with pytest.raises(ValidationError, match="expected the reply alone"):
        CritiqueExample(prompt="May I?", answer="Yes.", critique="Too short.", revision=f"{beginning} Ask Compliance.")


@pytest.mark.parametrize(
    "revision",
    [
        "Here are the opening hours: nine to five.",
        "Here is how: open the lid first.",
        "Of course you can.",
        "The answer is five.",
        "Version 2 came out in May.",
        "I have no answer to that.",
        "It is fine. Here is the answer: yes.",
    ],
)
def test_a_reply_that_begins_with_the_substance_is_accepted(revision: str) -> None:
    example = CritiqueExample(prompt="May I?", answer="Yes.", critique="Too short.", revision=revision)
    assert example.revision == revision


def test_an_unknown_behaviour_is_answered_with_the_closest(tmp_path: Path) -> None:
    (message,) = refusal(tmp_path, changed("[refers_to_professional]", "[refer_to_profesional]"))
    assert message.endswith("did you mean refers_to_professional?")


def test_a_circle_through_three_principles_is_found(tmp_path: Path) -> None:
    third = GOOD[GOOD.index("  - id: plain") : GOOD.index("priorities:")].replace(
        "- id: plain-guidance", "- id: records"
    )
    text = changed("priorities:\n", third + "priorities:\n") + (
        "  - {over: plain-guidance, under: records, reason: x}\n  - {over: records, under: gifts, reason: x}\n"
    )
    (message,) = refusal(tmp_path, text)
    assert "(records over gifts over plain-guidance over records)" in message
    assert message.startswith("45: ")


def test_all_problems_of_a_file_are_listed_in_its_order(tmp_path: Path) -> None:
    text = (
        changed("severity: medium", "severity: hihg")
        .replace("- no_flattery", "- no_flatery")
        .replace("title: Rules", "titel: Rules")
        .replace("over: gifts", "over: gift")
    )
    message = refusal(tmp_path, text)
    assert [line.split(":")[0] for line in message] == ["1", "2", "22", "27", "29"]


def test_a_constitution_built_in_code_is_checked_too(tmp_path: Path) -> None:
    good = load(write(tmp_path, GOOD))
    again = Constitution(**{name: getattr(good, name) for name in Constitution.model_fields})
    assert again == good
    with pytest.raises(ValidationError, match="a second time"):
        Constitution(**{**good.model_dump(), "principles": (good.principles[0], good.principles[0]), "priorities": ()})


def test_a_bare_name_is_a_shipped_document_and_an_unknown_one_names_the_closest() -> None:
    assert load("assistant").name == "assistant"
    with pytest.raises(ConstitutionError, match='no shipped constitution named "asistant"') as caught:
        load("asistant")
    assert "did you mean assistant?" in str(caught.value)
    assert "rules.yaml" in str(caught.value)


# ---------------------------------------------------------------------------- the reader, as other files use it


class Sampling(BaseModel):
    model_config = ConfigDict(extra="forbid")
    temperature: float = 1.0
    seeds: tuple[int, ...] = ()


class Recipe(BaseModel):
    model_config = ConfigDict(extra="forbid")
    sampling: Sampling | Literal["greedy"] = "greedy"
    stages: dict[str, Sampling] = {}
    learning_rate: float = 1e-5
    packed: bool = False


def test_lines_are_found_through_unions_and_free_keys(tmp_path: Path) -> None:
    text = "sampling:\n  temprature: 1\nstages:\n  sft:\n    seeds:\n      - 1\n      - x\n"
    path = write(tmp_path, text, "recipe.yaml")
    data, line_of = load_yaml(path, RecipeError)
    assert line_of(("stages", "sft", "seeds", 1)) == 7
    assert line_of(("sampling", "Sampling", "temprature")) == 2
    assert line_of(("stages", "sft", "absent")) == 4
    assert line_of(("nowhere",)) == 1
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(data)
    told = explain(caught.value, path, line_of, Recipe).split("\n")
    assert f'{path}:7: stages, sft, seeds, item 2: found "x"; expected a whole number' in told
    assert any(line.startswith(f"{path}:2: ") and "did you mean temperature?" in line for line in told)


def test_plain_values_follow_yaml_1_2(tmp_path: Path) -> None:
    values = "[1, -2, 0.5, 1e-5, .5, true, False, null, ~, no, on, 12:30, 010, 1_000, 0x10, '1', .inf]"
    data, _ = load_yaml(write(tmp_path, f"v: {values}\nempty:\n"), RecipeError)
    expected: list[Any] = [1, -2, 0.5, 1e-5, 0.5, True, False, None, None]
    expected += ["no", "on", "12:30", "010", "1_000", "0x10", "1", float("inf")]
    assert data == {"v": expected, "empty": None}
    assert [type(value) for value in data["v"]] == [type(value) for value in expected]


def test_the_error_class_is_the_callers_and_limits_are_told(tmp_path: Path) -> None:
    path = write(tmp_path, "learning_rate: fast\npacked: 7\n", "recipe.yaml")
    data, line_of = load_yaml(path, RecipeError)
    with pytest.raises(RecipeError) as caught:
        validate(Recipe, data, path, line_of, RecipeError)
    assert str(caught.value).split("\n") == [
        f'{path}:1: learning_rate: found "fast"; expected a number',
        f"{path}:2: packed: found the number 7; expected true or false",
    ]
    with pytest.raises(RecipeError, match="the file is empty"):
        load_yaml(write(tmp_path, ""), RecipeError)
