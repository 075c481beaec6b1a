"""Label Studio's exports: JSON, JSON-MIN and CSV.

None holds the labelling configuration: which field stood on the left is told by names, or by ``--columns`` (`sides`).
"""

from __future__ import annotations

from typing import Any

from steersman.data.turns import Row, as_object, as_objects
from steersman.data.verdicts import by_number, by_rating, sides, verdict, without_context
from steersman.errors import DataError
from steersman.store import sha256_text
from steersman.types import Comparison

PROMPTS = ("prompt", "instruction", "question")
ABOUT = ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement")  # of a flat row
NUMBERS = ("rating", "number")
ORDERS = ("pairwise", "ranker", "choices", *NUMBERS)


def label_studio(row: Row) -> list[Row]:
    """A task of Label Studio as one comparison for each of its annotations.

    The data field ``prompt``, ``instruction`` or ``question`` is the prompt. Two answers are the fields that the tag
    names as its objects, else those whose names say left and right (``answer_1`` and ``answer_2``). Their order is the
    one of Pairwise, else of one Choices whose label says which is better, else of a Rating or Number for each. Of a
    Ranker the items of the list are the options, by ``body``, ``html`` or ``title``. A text area is the rationale,
    ``completed_by`` the rater (by number; of an address a digest), ``lead_time`` the seconds, ``id`` the row's id.
    Annotations of the ground truth are gold. Cancelled annotations and predictions are left out; other fields and
    other tags too, and they are counted.

    Raises:
        DataError: no field is the prompt, left and right are not told, or no tag gives an order; names them.
    """
    flat = "annotation_id" in row
    data = {n: v for n, v in row.items() if n not in ABOUT} if flat else as_object(row["data"], "data")
    prompt = next((name for name in PROMPTS if name in data), None)
    if prompt is None:
        known = ", ".join(map(repr, PROMPTS))
        raise DataError(f"no field {known} among {', '.join(data) or 'none'}; name it by --columns prompt=FIELD")
    annotations = [_flat(row, data, prompt)] if flat else as_objects(row["annotations"], "annotations", "annotations")
    if flat:
        data = {name: value for name, value in data.items() if name not in annotations[0]["controls"]}
    without_context([name for name in data if name != prompt])
    shared: Row = {"prompt": data[prompt], "source": "label studio"}
    if (name := data.get("id", row.get("id"))) is not None:
        shared["id"] = name
    rows = []
    for annotation in annotations:
        results = as_objects(annotation.get("result") or [], "result", "results")
        if not annotation.get("was_cancelled") and results:
            rows.append({**shared, **_annotated(data, prompt, results), **_circumstances(annotation)})
    if not rows:
        raise DataError("no usable annotation: all are cancelled or empty")
    return rows


def _circumstances(annotation: Row) -> Row:
    """The rater, or that it is the ground truth, and the seconds."""
    who, about = annotation.get("completed_by"), Row()
    who = who.get("id") if isinstance(who, dict) else who
    if annotation.get("ground_truth"):
        about["gold"] = True
    elif who is not None:
        about["rater"] = f"rater-{sha256_text(str(who))[:12]}" if "@" in str(who) else str(who)
    if annotation.get("lead_time") is not None:
        about["seconds"] = annotation["lead_time"]
    return about


def _annotated(data: Row, prompt: str, results: list[Row]) -> Row:
    """One annotation's options and their order, its words, and the names of what is left out."""
    by_kind: dict[str, list[Row]] = {}
    for result in results:
        by_kind.setdefault(str(result.get("type")), []).append(result)
    if "ranker" in by_kind:
        lists = {name: value for name, value in data.items() if isinstance(value, list) and name != prompt}
        vote, used = _studio_ranks(_value(by_kind["ranker"][0], "ranker"), list(lists.values())), set(lists)
        taken = {"ranker"}
    else:
        fields = _fields(data, prompt, results)
        order, taken = _order(by_kind, fields)
        vote, used = {"options": [data[name] for name in fields], **order}, set(fields)
    words = [text for result in by_kind.get("textarea", []) if (text := _value(result, "text"))]
    if words:
        vote["rationale"] = "\n".join("\n".join(map(str, text)) if isinstance(text, list) else text for text in words)
    others = {name for name in data if name not in (prompt, "id", *used)}
    others |= {f"annotation {kind!r}" for kind in by_kind if kind not in (*taken, "textarea")}
    return {**{name: True for name in others if name not in Comparison.model_fields}, **vote}


def _value(result: Row, name: str) -> Any:
    return as_object(result.get("value") or {}, "value").get(name)


def _fields(data: Row, prompt: str, results: list[Row]) -> list[str]:
    """The names of the answers, from left to right."""
    names = [name for name, value in data.items() if name not in (prompt, "id") and isinstance(value, str)]
    for result in results:
        named = str(result.get("to_name") or "").split(",")
        if result.get("type") == "pairwise" and len(named) == 2 and set(named) <= set(names):
            return named
    numbered = by_number(names)
    rated = sum(result.get("type") in NUMBERS for result in results)
    return numbered if rated == len(numbered) > 2 else sides(names, prompt)


def _order(by_kind: dict[str, list[Row]], fields: list[str]) -> tuple[Row, set[str]]:
    """What an annotation says of the answers, and the kinds of tags that say it."""
    if chosen := by_kind.get("pairwise"):
        if len(chosen) > 1:
            raise DataError(f"{len(chosen)} pairwise tags, where one order was expected")
        selected = _value(chosen[0], "selected")
        if selected not in ("left", "right"):
            raise DataError(f"'selected' must be 'left' or 'right', found {str(selected)[:60]!r}")
        return {"ranking": [1, 2] if selected == "left" else [2, 1], "order_shown": [0, 1]}, {"pairwise"}
    labels = {str(result.get("from_name")): _value(result, "choices") for result in by_kind.get("choices", [])}
    said = {
        name: found
        for name, chosen in labels.items()
        if isinstance(chosen, list) and len(chosen) == 1 and (found := verdict(chosen[0], fields))
    }
    if len(said) > 1:
        raise DataError(f"the choices {', '.join(map(repr, said))} all say which answer is better; keep one")
    if said:
        return next(iter(said.values())), {"choices"}
    rated = [(result, kind) for kind in NUMBERS for result in by_kind.get(kind, [])]
    if rated:
        about = {str(result.get("to_name")): _value(result, kind) for result, kind in rated}
        if len(about) < len(rated) or (set(about) != set(fields) and len(by_number(list(about))) != len(fields)):
            about = {str(result.get("from_name")): _value(result, kind) for result, kind in rated}
        return {"ranking": by_rating(about, fields)}, {*NUMBERS}
    if labels:
        name, chosen = next(iter(labels.items()))
        raise DataError(
            f"the choices {name!r} say {str(chosen)[:60]}, which does not say which of {', '.join(fields)} is better: "
            "expected such as 'left', 'Answer 1 is better', 'tie' or 'both bad'"
        )
    raise DataError(f"annotations {', '.join(map(repr, by_kind))}, of which none orders answers: {', '.join(ORDERS)}")


def _flat(row: Row, data: Row, prompt: str) -> Row:
    """The annotation of a flat row (JSON-MIN, CSV), which has data and tags side by side; and the tags' names."""
    answers = [name for name, value in data.items() if isinstance(value, str) and name != prompt]
    fields = ["first", "second"] if {"first", "second"} <= data.keys() else by_number(answers)
    rest = {name: value for name, value in data.items() if name not in (prompt, "id", *fields)}
    results: list[Row] = []
    for name, value in rest.items():
        for region in value if isinstance(value, list) else [value]:
            if isinstance(region, dict) and (kind := next((k for k, key in _KEYS.items() if key in region), None)):
                results.append({"type": kind, "from_name": name, "value": region})
        if value in ("left", "right"):
            results.append({"type": "pairwise", "from_name": name, "value": {"selected": value}})
    if not results:
        said = [name for name, value in rest.items() if isinstance(value, str) and verdict(value, fields)]
        results = [{"type": "choices", "from_name": name, "value": {"choices": [rest[name]]}} for name in said]
    if not results:
        numbers = {n: float(v) for n, v in rest.items() if isinstance(v, int | float) or str(v).isdecimal()}
        rated = by_number(list(numbers))
        if set(fields) <= {name.removesuffix("_rating").removesuffix("-rating") for name in numbers}:
            rated = [name for name in numbers if name.removesuffix("_rating").removesuffix("-rating") in fields]
        results = [{"type": "rating", "from_name": name, "value": {"rating": numbers[name]}} for name in rated]
    if not results:
        raise DataError(f"none of {', '.join(map(repr, rest)) or 'its columns'} says which answer is better")
    for name in ("rationale", "reason", "comment", "why", "explanation"):
        if isinstance(rest.get(name), str):
            results.append({"type": "textarea", "from_name": name, "value": {"text": rest[name]}})
    about = {"completed_by": row.get("annotator"), "lead_time": row.get("lead_time")}
    return {"result": results, "controls": [result["from_name"] for result in results], **about}


_KEYS = {"pairwise": "selected", "ranker": "ranker", "choices": "choices", "rating": "rating", "number": "number"}


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
