"""The columns of tools in which people compare answers: Argilla and LMArena (Label Studio: `label_studio.py`)."""

from __future__ import annotations

import json
import re
from itertools import zip_longest
from typing import Any

from steersman.data.turns import Row, as_object, as_objects, as_slot, last_text
from steersman.data.verdicts import by_number, by_rating, verdict, without_context
from steersman.errors import DataError
from steersman.types import Comparison

# ── Argilla ──────────────────────────────────────────────────────────────────────────────────────────────────────────
UNRANKED = "ranks (Argilla's SDK wrote names alone, read as best first; ties of its pages are lost)"


def argilla(row: Row) -> list[Row]:
    """A record of Argilla as one comparison for each of its raters, from `to_json`, or flat as `to_datasets` has it.

    The field ``prompt`` or ``instruction`` is the prompt. The options are the fields that a ranking names, else those
    whose names are numbered (``response_1`` and ``response_2``), else every other one. A ranking question ranks fields
    by name; the one called ``ranking``, or the only one, is the overall ranking, and others are rankings by principle.
    Its value is a list of names and ranks, or, as the SDK of 2.x writes it, of names alone: these are the order, the
    best first. Without a ranking, a label question decides whose label says which answer is better (a field's name,
    ``tie``, ``both bad``), else rating questions, one for each field (``FIELD_rating``). ``rationale`` is a text
    question. Metadata with our fields' names are those fields, and ``id`` is the row's. Drafts and discarded
    responses, other questions and other metadata are left out; questions and fields are counted.

    Raises:
        DataError: no prompt, a ranking of other answers, or responses of which none gives an order; names them.
    """
    if "fields" not in row:
        row = _nested(row)
    fields, responses, metadata = (as_object(row.get(name) or {}, name) for name in ("fields", "responses", "metadata"))
    prompt = next((name for name in ("prompt", "instruction") if name in fields), None)
    if prompt is None:
        found = ", ".join(fields) or "none"
        raise DataError(f"no field 'prompt' or 'instruction' among {found}; name it by --columns prompt=FIELD")
    by_rater: dict[str, Row] = {}
    for question, answers in responses.items():
        for answer in as_objects(answers, question, "responses"):
            if answer.get("status") not in ("draft", "discarded") and answer.get("value") is not None:
                by_rater.setdefault(str(answer.get("user_id") or ""), {})[question] = answer["value"]
    names = _options([name for name in fields if name != prompt], by_rater)
    beside = [name for name in fields if name not in (prompt, *names)]
    without_context(beside)
    known_metadata = {name: value for name, value in metadata.items() if name in Comparison.model_fields}
    if not isinstance(topic := known_metadata.get("topic", ""), str) or not TOPIC.fullmatch(topic):
        known_metadata.pop("topic", None)  # a stranger's metadata, whose words are no id of ours
        beside += ["metadata.topic"] if topic else []
    if row.get("id") is not None:
        known_metadata.setdefault("id", row["id"])
    known = {name: value for name, value in known_metadata.items() if value is not None}
    left = {name: True for name in beside if name not in Comparison.model_fields}
    shared = {**left, **known, "prompt": fields[prompt], "options": [fields[name] for name in names]}
    votes = {rater: _argilla_answers(names, answers) for rater, answers in by_rater.items()}
    rows = [{**shared, **own, **({"rater": rater} if rater else {})} for rater, own in votes.items() if own]
    if not rows and not {"ranking", "per_principle", "both_bad", "soft_label"} & shared.keys():
        asked = ", ".join(map(repr, responses)) or "none"
        raise DataError(f"the row has no preference: no submitted response orders its answers (questions: {asked})")
    return rows or [shared]


TOPIC = re.compile(r"([a-z0-9]+([._-][a-z0-9]+)*)?")


def _nested(row: Row) -> Row:
    """A flat record, with ``QUESTION.responses`` and ``QUESTION.responses.users``, as `to_json` has it."""
    responses: Row = {}
    for name in [name for name in row if name.endswith(".responses")]:
        users, statuses = (row.get(f"{name}.{what}") or [] for what in ("users", "status"))
        values = row[name] if isinstance(row[name], list) else []
        responses[name.removesuffix(".responses")] = [
            {"value": value, "user_id": user, "status": status}
            for value, user, status in zip_longest(values, users[: len(values)], statuses[: len(values)])
        ]
    plain = {name: value for name, value in row.items() if not ARGILLA_FLAT.search(name)}
    about = ("id", "status", "_server_id", *Comparison.model_fields.keys() - {"prompt"})
    return {
        "id": row.get("id"),
        "fields": {name: value for name, value in plain.items() if name not in about},
        "metadata": {name: value for name, value in plain.items() if name in about and name in Comparison.model_fields},
        "responses": responses,
    }


ARGILLA_FLAT = re.compile(r"\.(responses|suggestion)(\.(users|status|agent|score))?$")


def _options(names: list[str], by_rater: dict[str, Row]) -> list[str]:
    """The fields that are answers, among all but the prompt."""
    numbered = by_number(names)
    for answers in by_rater.values():
        for value in answers.values():
            ranked = [str(item.get("value")) if isinstance(item, dict) else item for item in _items(value)]
            if len(ranked) > 1 and set(ranked) <= set(names) and not set(ranked) < set(numbered):
                return [name for name in names if name in ranked]
    return numbered or names


def _items(value: Any) -> list[Any]:
    """What a list of names, or of names with ranks, holds; nothing for another value, such as spans."""
    if not isinstance(value, list):
        return []
    whole = all(isinstance(item, str) or (isinstance(item, dict) and "value" in item) for item in value)
    return value if whole else []


def _argilla_answers(names: list[str], answers: Row) -> Row:
    """One rater's order, ``per_principle`` and ``rationale``, as far as given; names of questions that are not read."""
    columns: Row = {}
    rankings = {q: _argilla_ranks(q, value, names) for q, value in answers.items()}
    rankings = {question: ranks for question, ranks in rankings.items() if ranks}
    read = {*rankings, "rationale"}
    if any(isinstance(item, str) for question in rankings for item in answers[question]):
        columns[UNRANKED] = True
    overall = "ranking" if "ranking" in rankings or len(rankings) != 1 else min(rankings)
    if overall in rankings:
        columns["ranking"] = rankings.pop(overall)
    if rankings:
        columns["per_principle"] = rankings
    if not {"ranking", "per_principle"} & columns.keys():
        labels = {q: said for q, value in answers.items() if isinstance(value, str) and q != "rationale"
                  and (said := verdict(value, names))}  # fmt: skip
        if len(labels) > 1:
            raise DataError(f"the labels {', '.join(map(repr, labels))} all say which answer is better; keep one")
        numbers = {q: value for q, value in answers.items() if isinstance(value, int | float)}
        if labels:
            read |= labels.keys()
            columns |= next(iter(labels.values()))
        elif rated := {q: v for q, v in numbers.items() if any(name in q for name in names)}:
            read |= rated.keys()
            columns["ranking"] = by_rating(rated, names)
        elif odd := {q: value for q, value in answers.items() if q != "rationale"}:
            question, value = next(iter(odd.items()))
            raise DataError(
                f"the question {question!r} says {str(value)[:60]!r}, which orders none of {', '.join(names)}: "
                "expected a ranking, a label that says which is better, or a rating for each (FIELD_rating)"
            )
    if isinstance(answers.get("rationale"), str) and columns:
        columns["rationale"] = answers["rationale"]
    return {**{f"question {name!r}": True for name in answers if name not in read}, **columns} if columns else {}


def _argilla_ranks(question: str, value: Any, names: list[str]) -> list[Any]:
    """The ranks of the fields in their order; nothing for another kind of question, such as one of several labels."""
    items = _items(value)
    if items and all(isinstance(item, dict) for item in items):
        if not all("rank" in item for item in items):
            raise DataError(f"{question!r} has names without ranks: {str(value)[:60]}")
        ranks = {str(item["value"]): item["rank"] for item in items}
    elif items and (question == "ranking" or set(items) & set(names)):
        ranks = {str(name): place for place, name in enumerate(items, start=1)}
    else:
        return []
    if ranks.keys() != set(names) or len(ranks) != len(items):
        raise DataError(f"{question!r} ranks {', '.join(ranks)}, but the answers are {', '.join(names)}")
    return [ranks[name] for name in names]


# ── LMArena ──────────────────────────────────────────────────────────────────────────────────────────────────────────
ARENA = {"model_a": [1, 2], "model_b": [2, 1], "tie": [1, 1]}
ARENA_BOTH_BAD = ("tie (bothbad)", "bothbad", "both_bad")


def lmarena(row: Row) -> Row:
    """A battle of the Chatbot Arena, from its conversations (33k, 100k, 140k) or the columns of its 55k set.

    Models become the tags ``model_a:NAME`` and ``model_b:NAME``, and ``judge`` the rater; A was shown on the left. A
    tie of two bad answers is ``both_bad`` and no order. Conversations that differ before their last answers are
    refused: there is no common prompt. Other columns (languages, times, moderation) are left out.
    """
    if "winner" in row:
        winner = row["winner"]
    else:
        winners = [name for name in ("model_a", "model_b", "tie") if row.get(f"winner_{name}") in (1, "1", True)]
        winner = winners[0] if len(winners) == 1 else None
    if not isinstance(winner, str) or winner not in (*ARENA, *ARENA_BOTH_BAD):
        raise DataError(f"'winner' must be one of {', '.join((*ARENA, ARENA_BOTH_BAD[0]))}, found {str(winner)[:60]!r}")
    conversations = [_arena_turns(row, side) for side in "ab"]
    if isinstance(turn := row.get("turn"), int) and not isinstance(turn, bool) and turn > 0:
        conversations = [_until(turns, turn) for turns in conversations]  # MT-bench: the turn that was judged
    if conversations[0][:-1] != conversations[1][:-1]:
        raise DataError("the conversations differ already before their last answers: there is no common prompt")
    vote: Row = {"both_bad": True} if winner in ARENA_BOTH_BAD else {"ranking": ARENA[winner]}
    tags = [f"{name}:{row[name]}" for name in ("model_a", "model_b") if isinstance(row.get(name), str)]
    judge = {"rater": str(row["judge"])} if row.get("judge") else {}
    options = [last_text(turns[-1:], f"conversation_{side}") for turns, side in zip(conversations, "ab", strict=True)]
    name = row.get("id", row.get("question_id"))
    judge |= {} if name is None else {"id": name}
    about = {"order_shown": [0, 1], "tags": tags, "source": "lmarena", **judge}
    return {"prompt": as_slot(conversations[0][:-1]), "options": options, **vote, **about}


def _arena_turns(row: Row, side: str) -> list[Row]:
    """One model's conversation as messages of text."""
    if f"conversation_{side}" in row:
        turns = as_objects(row[f"conversation_{side}"], f"conversation_{side}")
        return [{"role": turn.get("role"), "content": _arena_text(turn.get("content"))} for turn in turns]
    requests, replies = (_arena_list(row.get(name), name) for name in ("prompt", f"response_{side}"))
    if len(requests) != len(replies):
        raise DataError(f"{len(requests)} requests and {len(replies)} answers of model {side}")
    pairs = zip(requests, replies, strict=True)
    return [
        {"role": role, "content": text}
        for both in pairs
        for role, text in zip(("user", "assistant"), both, strict=True)
    ]


def _until(turns: list[Row], answers: int) -> list[Row]:
    """A conversation until its n-th answer."""
    at = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    return turns[: at[answers - 1] + 1] if answers <= len(at) else turns


def _arena_text(content: Any) -> Any:
    """Text, or a list of parts of which all are text."""
    if not isinstance(content, list):
        return content
    parts = as_objects(content, "content", "parts")
    if any(part.get("type") != "text" or part.get("image") for part in parts):
        raise DataError("a turn that is not only text")
    return "\n".join(str(part.get("text")) for part in parts)


def _arena_list(value: Any, name: str) -> list[Any]:
    """The 55k set's turns, a JSON list written as text."""
    try:
        turns = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raise DataError(f"{name!r} is no JSON list of turns") from None
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{name!r} must be a list of turns, found {str(value)[:60]!r}")
    return turns
