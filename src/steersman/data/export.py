"""Comparisons in the formats of other tools, for `steersman data convert`: the inverse of `data/columns.py`.

A row holds what its tool reads, and its id; only ``ranked``, our own format, holds everything. TRL, HH-RLHF and
OpenRLHF have pairs: a ranking becomes a row for each strictly ordered pair, and a tie none. A comparison that a format
cannot hold is returned with the reason.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from steersman.data.column_mapping import column_mapping, unnamed_columns
from steersman.data.columns import SAFETY
from steersman.data.formats import dump, left_out, sort_out, unread
from steersman.data.turns import Row, spoken, transcript
from steersman.errors import DataError
from steersman.store import write_jsonl
from steersman.types import Comparison, Message, OrderedPair, calls_of, messages_of, uses_tools

Style = Literal["trl", "hh", "pku", "openrlhf", "argilla", "ranked"]
HH_NAMES = {"user": "Human", "assistant": "Assistant"}


class Exported(NamedTuple):
    """The rows of a style, and the reasons of the comparisons without rows, by index."""

    rows: list[Row]
    refused: dict[int, str]


def export(comparisons: Sequence[Comparison], style: Style) -> Exported:
    """All comparisons in one tool's format, in their order."""
    rows: list[Row] = []
    refused: dict[int, str] = {}
    for index, comparison in enumerate(comparisons):
        try:
            if comparison.desirable is not None and style not in ("trl", "ranked"):
                raise DataError("one answer with a label, where this format has several answers")
            rows += STYLES[style](comparison)
        except DataError as error:
            refused[index] = error.found
    return Exported(rows, refused)


def convert(file: Path, out: Path, style: Style, columns: str = "") -> list[str]:
    """Convert the comparisons of ``file``, in any supported format, to ``out``; returns a summary as lines.

    Rows that cannot be read or held are skipped; the summary counts them by reason.

    Raises:
        DataError: ``file`` is no file of lines, ``out`` exists or is not named ``.jsonl``, or no row could be written.
    """
    if out.suffix != ".jsonl" or out.exists():
        found = "the file exists" if out.exists() else f"{out.name!r} does not end in .jsonl"
        raise DataError(found, where=str(out), expected="the name of a new .jsonl file", do="choose another name")
    comparisons, faults, ignored = sort_out(file, Comparison, column_mapping(columns))
    rows, refused = export(comparisons, style)
    skipped = [*left_out(file, ignored, Comparison), *unread(faults), *unwritten(refused)]
    if not rows:
        do = unnamed_columns(Comparison, ignored)
        raise DataError("\n  ".join(["no row to write", *skipped]), where=str(file), expected="comparisons", do=do)
    write_jsonl(out, rows)
    mixed = "the file has pairs and labelled answers: TRL reads one kind from a file"
    both = [mixed] if style == "trl" and len({"label" in row for row in rows}) > 1 else []
    return [f"{out}: {len(rows)} row(s) from {len(comparisons) - len(refused)} comparison(s)", *both, *skipped]


def unwritten(refused: Mapping[int, str]) -> list[str]:
    """Reasons of comparisons without a row, most common first, each with its count."""
    return [f"not written: {n} comparison(s): {reason}" for reason, n in Counter(refused.values()).most_common()]


def trl(comparison: Comparison) -> list[Row]:
    """``prompt``, ``chosen`` and ``rejected``: text for a text, lists of messages for a conversation; the margin.

    Of one answer alone: ``prompt``, ``completion`` and ``label``.
    """

    def side(text: str) -> Any:
        return text if isinstance(comparison.prompt, str) and not calls_of(text)[1] else [_message("assistant", text)]

    prompt, named = dump([comparison])[0]["prompt"], _id(comparison)
    offered, prompt = _offered(prompt) if isinstance(prompt, list) else ({}, prompt)
    if comparison.desirable is not None:
        return [
            {
                "prompt": prompt,
                "completion": side(comparison.options[0]),
                **offered,
                "label": comparison.desirable,
                **named,
            }
        ]
    return [
        {
            "prompt": prompt,
            "chosen": side(pair.better),
            "rejected": side(pair.worse),
            **offered,
            **_margin(pair.margin),
            **named,
        }
        for pair in _pairs(comparison)
    ]


def openrlhf(comparison: Comparison) -> list[Row]:
    """Lists of messages, as `--apply_chat_template` with `--prompt_key prompt` wants them, and the margin."""
    messages = messages_of(comparison.prompt)
    if uses_tools(messages) or any(calls_of(option)[1] for option in comparison.options):
        raise DataError("tools, which OpenRLHF's rows do not have")
    prompt = [_message(m.role, m.content) for m in messages]
    return [
        {
            "prompt": prompt,
            "chosen": [_message("assistant", pair.better)],
            "rejected": [_message("assistant", pair.worse)],
            **_margin(pair.margin),
            **_id(comparison),
        }
        for pair in _pairs(comparison)
    ]


def hh(comparison: Comparison) -> list[Row]:
    """Two transcripts. Text that would not survive a round trip is refused, such as an answer with a line 'Human: '."""
    before = messages_of(comparison.prompt)
    return [
        {"chosen": _hh(before, pair.better), "rejected": _hh(before, pair.worse), **_id(comparison)}
        for pair in _pairs(comparison)
    ]


def _hh(before: Sequence[Message], answer: str) -> str:
    turns = [*((m.role, m.content) for m in before), ("assistant", answer)]
    if any(role not in HH_NAMES for role, _ in turns) or any(calls_of(text)[1] for _, text in turns):
        raise DataError("a system message or tools, which HH-RLHF does not have")
    text = "".join(f"\n\n{HH_NAMES[role]}: {content}" for role, content in turns)
    if turns[0][0] != "user" or [(turn["role"], turn["content"]) for turn in transcript(text)] != turns:
        raise DataError("turns that HH-RLHF would split elsewhere: not in turn, or with a line 'Human: ' in an answer")
    return text


def pku(comparison: Comparison) -> list[Row]:
    """PKU-SafeRLHF: two options, the better one, and their safety where known."""
    messages = messages_of(comparison.prompt)
    if [message.role for message in messages] != ["user"]:
        raise DataError("a conversation as the prompt, where PKU-SafeRLHF has text")
    if len(comparison.options) != 2:
        raise DataError("more than two options, where PKU-SafeRLHF has two")
    row: Row = {"prompt": messages[0].content, **_id(comparison)}
    row |= {f"response_{i}": text for i, text in enumerate(comparison.options)}
    tags = {f"{word}:{i}": (i, word == "safe") for i in (0, 1) for word in ("safe", "unsafe")}
    row |= {f"is_response_{tags[tag][0]}_safe": tags[tag][1] for tag in comparison.tags if tag in tags}
    row["better_response_id"] = comparison.options.index(_pairs(comparison)[0].better)
    ranks = comparison.per_principle.get(SAFETY, (1, 1))
    return [row if ranks[0] == ranks[1] else {**row, "safer_response_id": ranks.index(min(ranks))}]


def argilla(comparison: Comparison) -> list[Row]:
    """A record with a field for each option, and questions for its rankings; everything else is metadata."""
    row = dump([comparison])[0]
    names = [f"response_{i}" for i in range(1, len(comparison.options) + 1)]
    fields = {"prompt": row.pop("prompt"), **dict(zip(names, row.pop("options"), strict=True))}
    rankings = row.pop("per_principle", {})
    if {"ranking", "rationale"} & rankings.keys() or (len(rankings) == 1 and "ranking" not in row):
        raise DataError("a ranking by principle that would be taken for the overall one among Argilla's questions")
    if "ranking" in row:
        rankings["ranking"] = row.pop("ranking")
    answers = {
        question: [{"value": name, "rank": rank} for name, rank in zip(names, ranks, strict=True)]
        for question, ranks in rankings.items()
    }
    if "rationale" in row:
        answers["rationale"] = row.pop("rationale")
    rater = row.pop("rater", None) if answers else None
    responses = {question: [{"value": value, "user_id": rater}] for question, value in answers.items()}
    named = {"id": row.pop("id")} if "id" in row else {}
    return [{**named, "fields": fields, "metadata": row, "responses": responses}]


def ranked(comparison: Comparison) -> list[Row]:
    """Our own columns: everything, without fields at their default."""
    return dump([comparison])


STYLES: Mapping[Style, Callable[[Comparison], list[Row]]] = {
    "trl": trl,
    "hh": hh,
    "pku": pku,
    "openrlhf": openrlhf,
    "argilla": argilla,
    "ranked": ranked,
}


def _pairs(comparison: Comparison) -> list[OrderedPair]:
    if pairs := comparison.pairs():
        return pairs
    if comparison.ranking is not None or comparison.soft_label is not None:
        raise DataError("a tie, where one answer must be better")
    raise DataError("no answer is acceptable (both_bad)" if comparison.both_bad else "no order of the options")


def _message(role: str, content: str) -> Row:
    return spoken({"role": role, "content": content})


def _offered(prompt: list[Row]) -> tuple[Row, list[Row]]:
    """TRL's column of tools, and the other messages."""
    tools = [tool for turn in prompt if turn["role"] == "tools" for tool in json.loads(turn["content"])]
    return ({"tools": tools} if tools else {}), [spoken(turn) for turn in prompt if turn["role"] != "tools"]


def _id(comparison: Comparison) -> Row:
    """The row's id, if it has one, as a column that the tool does not read."""
    return {"id": comparison.id} if comparison.id else {}


def _margin(margin: float | None) -> Row:
    return {} if margin is None else {"margin": margin}
