"""Comparisons in other tools' columns: what each row looks like, what is refused, and the way there and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from typer.testing import CliRunner

from steersman.cli import app
from steersman.data.export import STYLES, Style, convert, export
from steersman.data.formats import read
from steersman.errors import DataError
from steersman.store import read_jsonl, write_jsonl
from steersman.types import Comparison, Message, messages_of

TALK = tuple(Message(role=r, content=t) for r, t in (("user", "Why: a?"), ("assistant", "So."), ("user", "¿Y?")))  # type: ignore[arg-type]
PAIR = Comparison(prompt="Why?", options=("No.", "Because 🙂."), ranking=(2, 1), margin=0.5)
THREE = Comparison(prompt=TALK, options=("a", "b", "c"), ranking=(2, 1, 2))
TIE = Comparison(prompt="Why?", options=("a", "b"), ranking=(1, 1))
ALONE = Comparison(prompt=TALK, options=("a",), desirable=False)
BAD = Comparison(prompt="Why?", options=("a", "b"), both_bad=True, rater="ana")
WHOLE = Comparison(
    prompt=TALK,
    options=("a", "b"),
    ranking=(1, 2),
    both_bad=True,
    order_shown=(1, 0),
    soft_label=0.8,
    margin=1,
    weight=2,
    rater="ana",
    group="north",
    seconds=3.5,
    per_principle={"be-plain": (1, 1), "safety": (2, 1)},
    rationale="Shorter.",
    gold=True,
    principles=("be-plain",),
    topic="a.b",
    failure="vague",
    tags=("safe:0", "unsafe:1"),
    author="us",
    source="human",
)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


MESSAGES = [user("Why: a?"), assistant("So."), user("¿Y?")]
TRANSCRIPT = "\n\nHuman: Why: a?\n\nAssistant: So.\n\nHuman: ¿Y?\n\nAssistant: "


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("style", "comparison", "rows"),
    [
        ("trl", PAIR, [{"prompt": "Why?", "chosen": "Because 🙂.", "rejected": "No.", "margin": 0.5}]),
        (
            "trl",
            THREE,
            [{"prompt": MESSAGES, "chosen": [assistant("b")], "rejected": [assistant(x)]} for x in ("a", "c")],
        ),
        (
            "openrlhf",
            PAIR,
            [
                {
                    "prompt": [user("Why?")],
                    "chosen": [assistant("Because 🙂.")],
                    "rejected": [assistant("No.")],
                    "margin": 0.5,
                }
            ],
        ),
        ("hh", THREE, [{"chosen": TRANSCRIPT + "b", "rejected": TRANSCRIPT + x} for x in ("a", "c")]),
        (
            "pku",
            PAIR,
            [{"prompt": "Why?", "response_0": "No.", "response_1": "Because 🙂.", "better_response_id": 1}],
        ),
        (
            "pku",
            WHOLE.model_copy(update={"prompt": (Message(role="user", content="Why?"),)}),
            [
                {
                    "prompt": "Why?",
                    "response_0": "a",
                    "response_1": "b",
                    "is_response_0_safe": True,
                    "is_response_1_safe": False,
                    "better_response_id": 0,
                    "safer_response_id": 1,
                }
            ],
        ),
        (
            "argilla",
            THREE.model_copy(update={"rater": "ana", "weight": 2.0}),
            [
                {
                    "fields": {"prompt": MESSAGES, "response_1": "a", "response_2": "b", "response_3": "c"},
                    "metadata": {"weight": 2.0},
                    "responses": {
                        "ranking": [
                            {
                                "value": [{"value": f"response_{i}", "rank": r} for i, r in ((1, 2), (2, 1), (3, 2))],
                                "user_id": "ana",
                            }
                        ]
                    },
                }
            ],
        ),
        ("ranked", TIE, [{"prompt": "Why?", "options": ["a", "b"], "ranking": [1, 1]}]),
        ("trl", ALONE, [{"prompt": MESSAGES, "completion": [{"role": "assistant", "content": "a"}], "label": False}]),
        ("ranked", ALONE, [{"prompt": MESSAGES, "options": ["a"], "desirable": False}]),
    ],
)
def test_rows_are_those_of_the_tool(style: Style, comparison: Comparison, rows: list[dict[str, Any]]) -> None:
    assert export([comparison], style) == (rows, {})


def spoken(*turns: tuple[str, str], options: tuple[str, str] = ("a", "b")) -> Comparison:
    prompt = tuple(Message(role=role, content=text) for role, text in turns)  # type: ignore[arg-type]
    return Comparison(prompt=prompt, options=options, ranking=(1, 2))


@pytest.mark.parametrize(
    ("style", "comparison", "reason"),
    [
        *((style, TIE, "a tie, where one answer must be better") for style in ("trl", "hh", "pku", "openrlhf")),
        *((style, ALONE, "one answer with a label") for style in ("hh", "pku", "openrlhf", "argilla")),
        *((style, BAD, "no answer is acceptable (both_bad)") for style in ("trl", "hh", "pku", "openrlhf")),
        ("trl", TIE.model_copy(update={"ranking": None, "soft_label": 0.5}), "a tie, where one answer must be better"),
        ("pku", THREE.model_copy(update={"prompt": "Why?"}), "more than two options, where PKU-SafeRLHF has two"),
        ("pku", WHOLE, "a conversation as the prompt, where PKU-SafeRLHF has text"),
        (
            "hh",
            spoken(("system", "Be brief."), ("user", "Why?")),
            "a system message or tools, which HH-RLHF does not have",
        ),
        ("hh", spoken(("user", "Why?"), options=("a", "b\n\nHuman: c")), "turns that HH-RLHF would split elsewhere"),
        ("hh", spoken(("user", "Why?\n\nAssistant: c")), "turns that HH-RLHF would split elsewhere"),
        ("hh", spoken(("user", "Why?"), ("user", "Well?")), "turns that HH-RLHF would split elsewhere"),
        ("hh", spoken(("assistant", "Hello."), ("user", "Well?")), "turns that HH-RLHF would split elsewhere"),
        (
            "argilla",
            BAD.model_copy(update={"per_principle": {"safety": (1, 2)}}),
            "a ranking by principle that would be taken for the overall one",
        ),
        (
            "argilla",
            PAIR.model_copy(update={"per_principle": {"ranking": (1, 2)}}),
            "a ranking by principle that would be taken for the overall one",
        ),
    ],
)
def test_what_a_tool_cannot_hold_is_returned_with_the_reason(style: Style, comparison: Comparison, reason: str) -> None:
    rows, refused = export([PAIR, comparison, PAIR], style)
    assert len(rows) == 2
    assert list(refused) == [1]
    assert refused[1].startswith(reason)


# ── there and back ───────────────────────────────────────────────────────────────────────────────────────────────────
AWKWARD = [
    Comparison(prompt=f" {text}", options=(f"{text}\n", f"\n\n {text}: "), ranking=(2, 1))
    for text in ("a: b", "Human: a\nAssistant: b", "\u2028ü\u00a0", "日本語 🙂", "\n\nHuman:x", "{}[]\"'\\")
]


@pytest.mark.parametrize("style", get_args(Style))
def test_what_is_written_reads_back(tmp_path: Path, style: Style) -> None:
    rows, refused = export([PAIR, WHOLE, THREE, *AWKWARD], style)
    assert set(refused) == ({1, 2} if style == "pku" else set())
    write_jsonl(tmp_path / "rows.jsonl", rows)
    back = read(tmp_path / "rows.jsonl", Comparison)

    def told(comparisons: list[Comparison]) -> list[Any]:
        margins = style not in ("hh", "pku")  # these have no such column
        return [
            (messages_of(row.prompt), pair.better, pair.worse, pair.margin if margins else None)
            for row in comparisons
            for pair in row.pairs()
        ]

    assert told(back) == told([row for i, row in enumerate([PAIR, WHOLE, THREE, *AWKWARD]) if i not in refused])


@pytest.mark.parametrize("style", ["ranked", "argilla"])
def test_our_rows_and_argilla_s_keep_everything(tmp_path: Path, style: Style) -> None:
    rows = [PAIR, THREE, TIE, BAD, WHOLE, *AWKWARD]
    write_jsonl(tmp_path / "rows.jsonl", export(rows, style).rows)
    assert read(tmp_path / "rows.jsonl", Comparison) == rows


def test_pku_s_safety_reads_back(tmp_path: Path) -> None:
    row = Comparison(
        prompt="Why?",
        options=("a", "b"),
        ranking=(1, 2),
        per_principle={"safety": (2, 1)},
        tags=("unsafe:0", "safe:1"),
    )
    write_jsonl(tmp_path / "rows.jsonl", export([row], "pku").rows)
    assert read(tmp_path / "rows.jsonl", Comparison) == [row]


# ── the verb ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_convert_writes_and_counts_every_row(tmp_path: Path) -> None:
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_jsonl(
        file, [{"prompt": "x"}, *export([PAIR, THREE, TIE, TIE, BAD], "ranked").rows, {"prompt": "y"}, {"a": 1}]
    )
    done = CliRunner().invoke(app, ["data", "convert", str(file), str(out), "--to", "trl"])
    assert done.exit_code == 0, done.output
    first, *rest = done.stdout.splitlines()
    assert first == f"{out}: 3 row(s) from 2 comparison(s)"
    assert rest[0].endswith("columns that are not read: 'a' (1 rows)")
    assert rest[1] == "not read: 2 row(s), the first in line 1: no 'options'"
    assert rest[2].startswith("not read: 1 row(s), the first in line 8: no 'prompt'; no 'options'")
    assert rest[3:] == [
        "not written: 2 comparison(s): a tie, where one answer must be better",
        "not written: 1 comparison(s): no answer is acceptable (both_bad)",
    ]
    assert read_jsonl(out) == export([PAIR, THREE], "trl").rows


def test_convert_overwrites_nothing_and_writes_no_empty_file(tmp_path: Path) -> None:
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_jsonl(file, export([TIE], "ranked").rows)
    with pytest.raises(DataError, match=r"no row to write\n  not written: 1 comparison\(s\): a tie"):
        convert(file, out, "trl")
    assert not out.exists()
    with pytest.raises(DataError, match="the file exists"):
        convert(file, file, "ranked")
    with pytest.raises(DataError, match=r"'out\.jsonl\.gz' does not end in \.jsonl"):
        convert(file, tmp_path / "out.jsonl.gz", "ranked")
    with pytest.raises(DataError, match="the file does not exist"):
        convert(tmp_path / "no.jsonl", out, "ranked")


def test_the_verb_knows_every_style() -> None:
    assert set(get_args(Style)) == set(STYLES)
    help_text = CliRunner().invoke(app, ["data", "convert", "--help"], terminal_width=200).output
    assert "|".join(get_args(Style)) in help_text
