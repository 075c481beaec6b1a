"""The columns of tools in which people compare answers: Argilla, Label Studio, LMArena."""

from __future__ import annotations

import json
from typing import Any

from steersman.data.turns import Row, as_object, as_objects, as_slot, last_text
from steersman.errors import DataError
from steersman.types import Comparison


# ── Argilla ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def argilla(row: Row) -> list[Row]:
    """A record of Argilla as one comparison for each of its raters.

    The field ``prompt`` or ``instruction`` is the prompt, and every other one an option. A ranking question ranks
    fields by name; the one called ``ranking``, or the only one, is the overall ranking, and others
    are rankings by principle. Without any, number questions called ``FIELD-rating`` or ``FIELD_rating`` are made into
    a ranking, the highest first. ``rationale`` is a text question. Metadata with our fields' names are those fields.
    Drafts and discarded responses, other questions and other metadata are left out.
    """
    fields, responses, metadata = (as_object(row.get(name) or {}, name) for name in ("fields", "responses", "metadata"))
    prompt = next((name for name in ("prompt", "instruction") if name in fields), None)
    if prompt is None:
        raise DataError(f"no field 'prompt' or 'instruction' among {', '.join(fields) or 'none'}")
    names = [name for name in fields if name != prompt]
    known = {name: value for name, value in metadata.items() if name in Comparison.model_fields and value is not None}
    shared = {**known, "prompt": fields[prompt], "options": [fields[name] for name in names]}
    by_rater: dict[str, Row] = {}
    for question, answers in responses.items():
        for answer in as_objects(answers, question, "responses"):
            if answer.get("status") not in ("draft", "discarded"):
                by_rater.setdefault(str(answer.get("user_id") or ""), {})[question] = answer.get("value")
    votes = {rater: _argilla_answers(names, answers) for rater, answers in by_rater.items()}
    return [
        {**shared, **answers, **({"rater": rater} if rater else {})} for rater, answers in votes.items() if answers
    ] or [shared]


def _argilla_answers(names: list[str], answers: Row) -> Row:
    """One rater's ``ranking``, ``per_principle`` and ``rationale``, as far as given."""
    columns: Row = {}
    rankings = {q: _argilla_ranks(q, value, names) for q, value in answers.items() if isinstance(value, list)}
    rankings = {question: ranks for question, ranks in rankings.items() if ranks}
    overall = "ranking" if "ranking" in rankings or len(rankings) != 1 else min(rankings)
    if overall in rankings:
        columns["ranking"] = rankings.pop(overall)
    if rankings:
        columns["per_principle"] = rankings
    ratings: list[Any] = [answers.get(f"{name}-rating", answers.get(f"{name}_rating")) for name in names]
    if "ranking" not in columns and any(rating is not None for rating in ratings):
        for name, rating in zip(names, ratings, strict=True):
            if not isinstance(rating, int | float):
                raise DataError(f"{f'{name}-rating'!r} must be a number, found {str(rating)[:60]!r}")
        columns["ranking"] = [1 + sum(other > rating for other in ratings) for rating in ratings]
    if isinstance(answers.get("rationale"), str):
        columns["rationale"] = answers["rationale"]
    return columns


def _argilla_ranks(question: str, value: list[Any], names: list[str]) -> list[Any]:
    """The ranks of the fields in their order; nothing for another kind of question, such as one of several labels."""
    if not (value and all(isinstance(item, dict) and {"value", "rank"} <= item.keys() for item in value)):
        return []
    ranks = {str(item["value"]): item["rank"] for item in value}
    if ranks.keys() != set(names):
        raise DataError(f"{question!r} ranks {', '.join(ranks)}, but the answers are {', '.join(names)}")
    return [ranks[name] for name in names]


# ── Label Studio ─────────────────────────────────────────────────────────────────────────────────────────────────────
def label_studio(row: Row) -> list[Row]:
    """A task of Label Studio as one comparison for each of its annotations, from its JSON or its JSON-MIN export.

    The data field ``prompt``, ``instruction`` or ``question`` is the prompt. For Pairwise, the other text fields are
    the options, from left to right; for Ranker, the items of the list, by ``body``, ``html`` or ``title``. A text area
    is the rationale, ``completed_by`` the rater (by number, not by address), ``lead_time`` the seconds. Annotations of
    the ground truth are gold. Cancelled annotations, predictions and other fields are left out.
    """
    if "annotation_id" in row:
        row = _from_json_min(row)
    data, annotations = as_object(row["data"], "data"), as_objects(row["annotations"], "annotations", "annotations")
    prompt = next((name for name in ("prompt", "instruction", "question") if name in data), None)
    if prompt is None:
        raise DataError(f"no field 'prompt', 'instruction' or 'question' among {', '.join(data) or 'none'}")
    texts = [value for name, value in data.items() if name != prompt and isinstance(value, str)]
    lists = [value for value in data.values() if isinstance(value, list)]
    rows: list[Row] = []
    for annotation in annotations:
        results = as_objects(annotation.get("result") or [], "result", "results")
        if annotation.get("was_cancelled") or not results:
            continue
        vote: Row = {"prompt": data[prompt], "source": "label studio"}
        for result in results:
            kind, value = result.get("type"), as_object(result.get("value") or {}, "value")
            if kind == "pairwise":
                vote |= {
                    "options": texts,
                    "ranking": _left_or_right(value.get("selected")),
                    "order_shown": [0, 1],
                }
            elif kind == "ranker":
                vote |= _studio_ranks(value.get("ranker"), lists)
            elif kind == "textarea" and (words := value.get("text")):
                vote["rationale"] = "\n".join(words) if isinstance(words, list) else words
        who = annotation.get("completed_by")
        who = who.get("id") if isinstance(who, dict) else who
        if annotation.get("ground_truth"):
            vote["gold"] = True
        elif who is not None:
            vote["rater"] = str(who)
        if annotation.get("lead_time") is not None:
            vote["seconds"] = annotation["lead_time"]
        rows.append(vote)
    if not rows:
        raise DataError("no usable annotation: all are cancelled or empty")
    return rows


def _from_json_min(row: Row) -> Row:
    """A row of the JSON-MIN export, which has data and annotation in one flat object, as a task with one annotation."""
    about = ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time")
    results: list[Row] = []
    data: Row = {}
    for name, value in row.items():
        chosen = value.get("selected") if isinstance(value, dict) else value
        if name not in about and isinstance(chosen, str) and chosen in ("left", "right"):
            results.append({"type": "pairwise", "value": {"selected": chosen}})
        elif name not in about and isinstance(value, dict) and "ranker" in value:
            results.append({"type": "ranker", "value": value})
        elif name not in about:
            data[name] = value
    annotation = {"result": results, "completed_by": row["annotator"], "lead_time": row.get("lead_time")}
    return {"data": data, "annotations": [annotation]}


def _left_or_right(selected: Any) -> list[int]:
    if selected not in ("left", "right"):
        raise DataError(f"'selected' must be 'left' or 'right', found {str(selected)[:60]!r}")
    return [1, 2] if selected == "left" else [2, 1]


def _studio_ranks(order: Any, lists: list[list[Any]]) -> Row:
    """The items of the task's list as options, ranked by a list of their ids or by a single bucket with them."""
    if isinstance(order, dict):
        filled = [ids for ids in order.values() if ids]
        if len(filled) != 1:
            raise DataError(f"items sorted into {len(filled)} buckets, where one order was expected")
        order = filled[0]
    if len(lists) != 1:
        raise DataError(f"{len(lists)} lists of items, where the answers are one")
    items = as_objects(lists[0], "items", "items")
    ids = [str(item.get("id")) for item in items]
    if not isinstance(order, list) or sorted(map(str, order)) != sorted(ids):
        raise DataError(f"'ranker' orders {str(order)[:60]}, but the items are {', '.join(ids)[:60]}")
    place = {str(name): rank for rank, name in enumerate(order, start=1)}
    texts = [next((item[name] for name in ("body", "html", "title") if item.get(name)), None) for item in items]
    return {"options": texts, "ranking": [place[name] for name in ids], "order_shown": list(range(len(ids)))}


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
    if conversations[0][:-1] != conversations[1][:-1]:
        raise DataError("the conversations differ already before their last answers: there is no common prompt")
    vote: Row = {"both_bad": True} if winner in ARENA_BOTH_BAD else {"ranking": ARENA[winner]}
    tags = [f"{name}:{row[name]}" for name in ("model_a", "model_b") if isinstance(row.get(name), str)]
    judge = {"rater": str(row["judge"])} if row.get("judge") else {}
    options = [last_text(turns[-1:], f"conversation_{side}") for turns, side in zip(conversations, "ab", strict=True)]
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
