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
    HelpSteer2, 3, Nectar, UltraFeedback, SHP, RewardBench 2: `preference_sets.py`
    LMArena          winner+conversation_a+conversation_b, or prompt+response_a+response_b+winner_model_a+...

``tools`` (or ``functions``) beside any of these are what the assistant may call. Columns that nothing here knows are
left out and counted (`Ignored`), but for those that would change what a row means, such as pictures: these are refused.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from typing import Any

from steersman.data.label_studio import label_studio
from steersman.data.preference_sets import preference_set
from steersman.data.rating_tools import argilla, lmarena
from steersman.data.trees import is_tree, tree
from steersman.data.turns import (
    CALLED,
    SPOKEN,
    UNREAD,
    Row,
    answer_text,
    as_objects,
    as_slot,
    as_turn,
    first_of,
    last_text,
    offering,
    refuse_unlearnt,
    tools_in,
    transcript,
    up_to_learnt,
)
from steersman.errors import DataError
from steersman.types import Comparison, Demonstration, Prompt, Record

IDS = ("id", "prompt_id", "question_id", "row_id", "uid", "uuid", "_id")  # the first of them is the row's id
Ignored = Counter[str]  # rows by the name of a column that was left out
DECISIVE = ("ranking", "choice", "expect")  # misspelt and left out, these would turn a row into another one
VERDICTS = ("label", "kto_tag", "tag", "desirable")  # whether the only answer of a row is a good one
ANSWERS = ("completion", "output", "messages")  # where that answer stands
TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
SAFETY = "safety"  # the key of `per_principle` under which PKU's safer_response_id is kept
PKU_NOTES = re.compile(r"response_[01]_(source|severity_level|harm_category|sha256)")


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
    rows = [_named(_cleaned(mapped, tools), row) for mapped in _mapped(row, record)]
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


def _named(mapped: Row, row: Row) -> Row:
    """The row with its ``id`` as text: its own, or what another column of this purpose says."""
    name = next((own for own in IDS if isinstance(mapped.get(own, row.get(own)), str | int)), None)
    if name is None:
        return mapped
    rest = {column: value for column, value in mapped.items() if column not in ("id", name)}
    return {**rest, "id": str(mapped.get(name, row.get(name)))}


def _mapped(row: Row, record: type[Record]) -> list[Row]:
    if record is Comparison:
        return _comparisons(row)
    if record is Demonstration and "instances" in row and "output" not in row:  # Self-Instruct
        rest = {name: value for name, value in row.items() if name != "instances"}
        instances = as_objects(row["instances"], "instances", "instances")
        return [own for instance in instances for own in _mapped({**rest, **instance}, record)]
    if record is Demonstration and row.get("weight") not in (None, 1):
        raise DataError(f"a demonstration with the weight {str(row['weight'])[:60]}: only whole rows are learnt")
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
            messages = up_to_learnt(messages)
            refuse_unlearnt(spoken[_last_question(messages) + 1 : len(messages)])
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
    if "fields" in row or any(name.endswith(".responses") for name in row):
        return argilla(row)
    if {"data", "annotations"} <= row.keys() or "annotation_id" in row:
        return label_studio(row)
    if (found := preference_set(row)) is not None:
        return [found]
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
