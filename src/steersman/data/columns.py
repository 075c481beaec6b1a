"""The columns of other tools, mapped to those of our records: one function a tool. Our own rows pass unchanged.

    TRL              messages | prompt+completion [+label] | prompt+chosen+rejected [+margin] | chosen+rejected
    Alpaca           instruction [+input] [+history] [+system] + output
    ShareGPT         conversations: [{from, value}] [+system]
    LLaMA-Factory    Alpaca's with output: [best, ..., worst], or ShareGPT's, or messages, with chosen+rejected; kto_tag
    HH-RLHF          chosen+rejected, transcripts that begin with the same conversation
    OpenRLHF         prompt+chosen+rejected, whose messages may repeat the prompt's
    PKU-SafeRLHF     prompt+response_0+response_1+better_response_id+safer_response_id
    Argilla          fields+responses, as its records are exported to JSON
    Label Studio     data+annotations (JSON), or the task's fields with annotator+annotation_id (JSON-MIN)
    Self-Instruct    instruction+instances: [{input, output}]
    OpenAssistant    trees: prompt: {text, replies: [{text, rank, replies}]}; or history+chosen+rejected
    LMArena          winner+conversation_a+conversation_b, or prompt+response_a+response_b+winner_model_a+...

``tools`` (or ``functions``) beside any of these are what the assistant may call. Columns that nothing here knows are
left out and counted (`Ignored`), but for those that would change what a row means, such as pictures: these are refused.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from typing import Any

from steersman.data.trees import is_tree, tree
from steersman.data.turns import (
    CALLED,
    SPOKEN,
    UNREAD,
    Row,
    answer_text,
    as_object,
    as_objects,
    as_slot,
    as_turn,
    first_of,
    last_text,
    offering,
    refuse_unlearnt,
    tools_in,
)
from steersman.errors import DataError
from steersman.types import Comparison, Demonstration, Prompt, Record

Ignored = Counter[str]  # rows by the name of a column that was left out
DECISIVE = ("ranking", "choice", "expect")  # misspelt and left out, these would turn a row into another one
VERDICTS = ("label", "kto_tag", "tag", "desirable")  # whether the only answer of a row is a good one
ANSWERS = ("completion", "output", "messages")  # where that answer stands
TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
SAFETY = "safety"  # the key of `per_principle` under which PKU's safer_response_id is kept
PKU_NOTES = re.compile(r"response_[01]_(source|severity_level|harm_category|sha256)")
HH_TURN = re.compile(r"\n\n(Human|Assistant):(?: |(?=\n)|\Z)")
HH_ROLES = {"Human": "user", "Assistant": "assistant"}


def records_of(row: Any, record: type[Record], ignored: Ignored | None = None) -> list[Row]:
    """A row of any tool as rows of ours: one, or for Argilla and Label Studio one for each rater.

    Args:
        ignored: counts the columns that are left out.

    Raises:
        DataError: the row means something else, or contradicts itself.
    """
    if not isinstance(row, dict):
        raise DataError(f"a {type(row).__name__} where an object {{...}} was expected")
    row = {name: value for name, value in row.items() if value is not None}
    if found := [name for name in UNREAD if row.get(name)]:
        raise DataError(f"{found[0]!r} {UNREAD[found[0]]}")
    tools = tools_in(row)
    row = {name: value for name, value in row.items() if name not in ("tools", "functions")}
    rows = [_cleaned(mapped, tools) for mapped in _mapped(row, record)]
    unknown = {name for mapped in rows for name in mapped.keys() - record.model_fields.keys()}
    for name in unknown:
        if meant := difflib.get_close_matches(name, [field for field in DECISIVE if field not in row], 1, 0.85):
            raise DataError(f"unknown field {name!r}, did you mean {meant[0]}?")
    if ignored is not None:
        ignored.update(unknown)
    return [{name: value for name, value in mapped.items() if name not in unknown} for mapped in rows]


def _cleaned(row: Row, tools: list[Row]) -> Row:
    """The row with the tools, and with nothing but roles and texts, in the conversation of its prompt."""
    prompt, known = row.get("prompt"), {*SPOKEN, *CALLED}
    if isinstance(prompt, list) and all(isinstance(turn, dict) and turn.keys() & known for turn in prompt):
        return {**row, "prompt": offering(tools, [as_turn(turn) for turn in prompt])}
    return {**row, "prompt": offering(tools, prompt)} if isinstance(prompt, str) else row


def _mapped(row: Row, record: type[Record]) -> list[Row]:
    if record is Comparison:
        return _comparisons(row)
    if record is Demonstration and "instances" in row and "output" not in row:  # Self-Instruct
        rest = {name: value for name, value in row.items() if name != "instances"}
        instances = as_objects(row["instances"], "instances", "instances")
        return [own for instance in instances for own in _mapped({**rest, **instance}, record)]
    alpaca_demonstration = record is Demonstration and "instruction" in row and "output" in row
    row = alpaca(sharegpt(row))
    if record is Demonstration and (name := _verdict(row)):
        raise DataError(
            f"one answer with a {name!r}, good or bad: a comparison for KTO, where a demonstration is learnt from; "
            f"take the column out if it says something else"
        )
    if alpaca_demonstration:
        row["completion"] = row.pop("output")
    if record is Demonstration and "messages" in row and "completion" not in row:
        row.pop("prompt", None)  # UltraChat's first message, again
    if "messages" in row and "prompt" not in row:
        spoken = as_objects(row.pop("messages"), "messages")
        messages = [as_turn(turn) for turn in spoken]
        if record is Prompt:
            return [{"prompt": as_slot(messages), **row}]
        if record is Demonstration:
            refuse_unlearnt(spoken[_last_question(messages) + 1 :])
            return [{"prompt": as_slot(messages[:-1]), "completion": last_text(messages[-1:], "messages"), **row}]
    if record is Demonstration and isinstance(row.get("completion"), list):  # TRL's conversational form
        spoken = as_objects(row["completion"], "completion")
        refuse_unlearnt(spoken)
        *before, last = [as_turn(turn) for turn in spoken] or [{}]
        if any(turn["role"] == "user" for turn in before):
            raise DataError("'completion' must be text or one assistant message, perhaps after calls of tools")
        if before:
            row["prompt"] = [*_as_turns(row.get("prompt")), *before]
        row["completion"] = last_text([last], "completion")
    return [row]


def _last_question(messages: list[Row]) -> int:
    """The place of the last user message; what follows it is the answer, with the calls of tools that lead to it."""
    return max((i for i, message in enumerate(messages) if message["role"] == "user"), default=-1)


def _as_turns(prompt: Any) -> list[Row]:
    """A prompt as messages."""
    return (
        [as_turn(turn) for turn in as_objects(prompt, "prompt")]
        if isinstance(prompt, list)
        else ([{"role": "user", "content": prompt}])
    )


def _comparisons(row: Row) -> list[Row]:
    if is_tree(row):
        return tree(row)
    if "fields" in row:
        return argilla(row)
    if {"data", "annotations"} <= row.keys() or {"annotator", "annotation_id"} <= row.keys():
        return label_studio(row)
    if {"winner", "winner_model_a"} & row.keys():
        return [lmarena(row)]
    if "response_0" in row:
        return [pku(row)]
    if "options" in row:
        return [ranked(row)]
    row = alpaca(sharegpt(row))
    if name := _verdict(row):
        return [labelled(row, name)]
    if "output" in row:
        return [best_first(row)]
    if "completion" in row:
        raise DataError("one answer: a comparison needs two, or one with a 'label' that is true or false")
    if "messages" in row and "prompt" not in row:
        row["prompt"] = as_slot([as_turn(turn) for turn in as_objects(row.pop("messages"), "messages")])
    return [chosen_rejected(row)] if {"chosen", "rejected"} & row.keys() else [row]


# ── prompts ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def sharegpt(row: Row) -> Row:
    """ShareGPT's ``conversations`` of ``{from, value}``, and a ``system`` text beside them, as ``messages``."""
    if "conversations" not in row:
        return dict(row)
    rest = {name: value for name, value in row.items() if name not in ("conversations", "system")}
    turns = [as_turn(turn) for turn in as_objects(row["conversations"], "conversations")]
    return {**rest, "messages": [*_system(row), *turns]}


def alpaca(row: Row) -> Row:
    """Alpaca's ``instruction`` and ``input`` as a prompt, after LLaMA-Factory's ``system`` and ``history``."""
    if "instruction" not in row or "prompt" in row:
        return dict(row)
    rest = {n: value for n, value in row.items() if n not in ("instruction", "input", "system", "history")}
    parts = [row["instruction"], row.get("input", "")]
    if not all(isinstance(part, str) for part in parts):
        raise DataError("'instruction' and 'input' must be text")
    history = row.get("history") or []
    if not (isinstance(history, list) and all(isinstance(turns, list) and len(turns) == 2 for turns in history)):
        raise DataError("'history' must be a list of [request, answer]")
    roles = ("user", "assistant")
    before = [{"role": role, "content": text} for turns in history for role, text in zip(roles, turns, strict=True)]
    request = {"role": "user", "content": "\n\n".join(part for part in parts if part)}
    return {**rest, "prompt": as_slot([*_system(row), *before, request])}


def _system(row: Row) -> list[Row]:
    if not isinstance(text := row.get("system") or "", str):
        raise DataError("'system' must be text")
    return [{"role": "system", "content": text}] if text else []


# ── comparisons ──────────────────────────────────────────────────────────────────────────────────────────────────────
def ranked(row: Row) -> Row:
    """Our own columns. ``choice``, the index of the best option, becomes a ranking with all others tied behind it."""
    if "choice" not in row:
        return row
    rest, options = {name: value for name, value in row.items() if name != "choice"}, row["options"]
    if "ranking" in row:
        raise DataError("'choice' and 'ranking' both say which option is best; keep one")
    return {**rest, "ranking": first_of(options, row["choice"], "choice")}


def chosen_rejected(row: Row) -> Row:
    """``chosen`` and ``rejected`` of TRL, OpenRLHF, HH-RLHF and LLaMA-Factory, with or without a prompt."""
    for absent in {"chosen", "rejected"} - row.keys():
        raise DataError(f"no {absent!r}")
    if clash := {"ranking", "choice"} & row.keys():
        raise DataError(f"'chosen' and 'rejected' rank their answers, and so does {min(clash)!r}; keep one")
    rest = {name: value for name, value in row.items() if name not in ("chosen", "rejected")}
    both = {name: row[name] for name in ("chosen", "rejected")}
    if "question" in rest and "prompt" not in rest:  # Orca's pairs
        question = {"role": "user", "content": rest.pop("question")}
        rest["prompt"] = as_slot([*_system(rest), question])
        rest.pop("system", None)
    turns = [value if isinstance(value, list) else [] for value in both.values()]
    if all(len(some) > 2 for some in turns) and isinstance(rest.get("prompt"), str):  # UltraFeedback's later turns
        before = [[as_turn(turn) for turn in as_objects(some, "chosen")][:-1] for some in turns]
        if before[0] == before[1] and before[0][-1] == {"role": "user", "content": rest["prompt"]}:
            rest["prompt"] = before[0]
    if "prompt" not in rest and isinstance(rest.get("history"), list):  # OpenAssistant's pairs
        rest["prompt"] = as_slot([as_turn(turn) for turn in as_objects(rest.pop("history"), "history")])
    if "prompt" not in rest:
        if all(isinstance(value, str) and value.lstrip("\n").startswith("Human:") for value in both.values()):
            both = {name: transcript(value) for name, value in both.items()}
        elif not all(isinstance(value, list) for value in both.values()):
            raise DataError("no 'prompt', neither by itself nor at the beginning of 'chosen' and 'rejected'")
        before = [[as_turn(turn) for turn in as_objects(value, name)][:-1] for name, value in both.items()]
        if before[0] != before[1]:
            raise DataError("'chosen' and 'rejected' differ already before their last answers")
        if not before[0]:
            raise DataError("no 'prompt', neither by itself nor at the beginning of 'chosen' and 'rejected'")
        rest["prompt"] = as_slot(before[0])
    elif all(len(some) > 1 for some in turns):  # the prompt, and perhaps what tools answered on the way to the end
        before = [[as_turn(turn) for turn in as_objects(some, "chosen")][:-1] for some in turns]
        prompt = _as_turns(rest["prompt"])
        if before[0] == before[1] and any(turn["role"] == "tool" for turn in before[0]):
            rest["prompt"] = before[0] if before[0][: len(prompt)] == prompt else [*prompt, *before[0]]
            both = {name: value[-1:] for name, value in both.items()}
    return {**rest, "options": [answer_text(both[name], name, rest["prompt"]) for name in both], "ranking": [1, 2]}


def best_first(row: Row) -> Row:
    """LLaMA-Factory's ``output``, a list of answers from the best to the worst."""
    rest, output = {name: value for name, value in row.items() if name != "output"}, row["output"]
    if not isinstance(output, list):
        raise DataError("'output' must be a list of answers, the best first: one answer is a demonstration")
    return {**rest, "options": output, "ranking": list(range(1, len(output) + 1))}


def labelled(row: Row, name: str) -> Row:
    """One answer and whether it is a good one: TRL's unpaired rows, and LLaMA-Factory's with ``kto_tag``."""
    answer = next(column for column in ANSWERS if column in row)
    rest = {column: value for column, value in row.items() if column not in (name, answer)}
    value = row[answer]
    if isinstance(value, list):
        refuse_unlearnt(as_objects(value, answer)[-1:])
    if answer == "messages":
        turns = [as_turn(turn) for turn in value]
        rest["prompt"], value = as_slot(turns[:-1]), turns[-1:]
    return {**rest, "options": [answer_text(value, answer, rest.get("prompt"))], "desirable": _truth(row[name])}


def _verdict(row: Row) -> str | None:
    """The column that says of a row's only answer whether it is a good one."""
    several = {"chosen", "rejected", "options"} & row.keys() or isinstance(row.get("output"), list)
    if several or not set(ANSWERS) & row.keys():
        return None
    return next((name for name in VERDICTS if _truth(row.get(name)) is not None), None)


def _truth(value: Any) -> bool | None:
    return TRUTH.get(str(value).strip().lower())


def transcript(text: str) -> list[Row]:
    """HH-RLHF's text as messages. Turns alternate, so a speaker's own mark within a turn is a part of its text."""
    text = "\n\n" + text.lstrip("\n")
    turns: list[re.Match[str]] = []
    for mark in HH_TURN.finditer(text):
        if not turns or turns[-1][1] != mark[1]:
            turns.append(mark)
    ends = [mark.start() for mark in turns[1:]] + [len(text)]
    return [
        {"role": HH_ROLES[mark[1]], "content": text[mark.end() : end]} for mark, end in zip(turns, ends, strict=True)
    ]


def pku(row: Row) -> Row:
    """PKU-SafeRLHF: ``better_response_id`` is the ranking, ``safer_response_id`` the ranking for `SAFETY`.

    ``is_response_0_safe`` becomes the tag ``safe:0`` or ``unsafe:0``, and ``prompt_source`` the source. Categories,
    severities, models and digests of single responses have no place in a comparison and are left out.
    """
    taken = ("response_0", "response_1", "better_response_id", "safer_response_id", "prompt_source")
    flags = {f"is_response_{i}_safe": i for i in (0, 1)}
    rest = {n: v for n, v in row.items() if n not in taken and n not in flags and not PKU_NOTES.fullmatch(n)}
    if "response_1" not in row:
        raise DataError("no 'response_1'")
    rest["options"] = [row["response_0"], row["response_1"]]
    if "better_response_id" in row:
        rest["ranking"] = first_of(rest["options"], row["better_response_id"], "better_response_id")
    if "safer_response_id" in row:
        ranks = first_of(rest["options"], row["safer_response_id"], "safer_response_id")
        rest["per_principle"] = {SAFETY: ranks}
    for name in flags.keys() & row.keys():
        if not isinstance(row[name], bool):
            raise DataError(f"{name!r} must be true or false, found {str(row[name])[:60]!r}")
    tags = [f"{'safe' if row[name] else 'unsafe'}:{i}" for name, i in flags.items() if name in row]
    if isinstance(own := row.get("tags", []), list):
        rest["tags"] = [*own, *tags]
    return {"source": row["prompt_source"], **rest} if "prompt_source" in row else rest


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
    """JSON-MIN, where results stand beside the data, as a task with one annotation."""
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
