"""The columns of public preference data sets: each by the names that only it has.

HelpSteer2       prompt+response_1+response_2+preference_strength: -3 to 3, below 0 the first is better
HelpSteer3       context+response1+response2+overall_preference: the same
Nectar           prompt+answers: [{answer, rank, model}]
UltraFeedback    instruction+completions: [{response, overall_score}], the raw set
SHP              history+human_ref_A+human_ref_B+labels: 1 the first is better, 0 the second
RewardBench 2    prompt+chosen: [...]+rejected: [...], lists of texts: all chosen tie above all rejected
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from steersman.data.turns import Row, as_objects, as_slot, as_turn, transcript
from steersman.data.verdicts import ranks_of
from steersman.errors import DataError


def preference_set(row: Row) -> Row | None:
    """A row of one of these sets in our columns; None for any other row.

    Raises:
        DataError: a preference that is none of the set's values.
    """
    for names, read in SETS:
        if names <= row.keys():
            return read(row)
    both = [row.get(name) for name in ("chosen", "rejected")]
    if all(isinstance(own, list) and own and all(isinstance(text, str) for text in own) for own in both):
        return _best_of(row, *both)
    return None


def _rest(row: Row, *taken: str) -> Row:
    return {name: value for name, value in row.items() if name not in taken}


def _strength(value: Any, name: str) -> Row:
    """A preference from -3, the first is much better, to 3, the second is; 0 is a tie."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -3 <= value <= 3:
        raise DataError(f"{name!r} must be a number from -3 to 3, found {str(value)[:60]!r}")
    ranking = [1, 1] if value == 0 else [1, 2] if value < 0 else [2, 1]
    return {"ranking": ranking, "margin": abs(float(value))} if value else {"ranking": ranking}


def _helpsteer2(row: Row) -> Row:
    rest = _rest(row, "response_1", "response_2", "preference_strength", "preference_statement")
    words = {"rationale": row["preference_statement"]} if isinstance(row.get("preference_statement"), str) else {}
    options = [row["response_1"], row["response_2"]]
    return {**rest, "options": options, **_strength(row["preference_strength"], "preference_strength"), **words}


def _helpsteer3(row: Row) -> Row:
    rest = _rest(row, "context", "response1", "response2", "overall_preference")
    turns = row["context"] if isinstance(row["context"], list) else [{"role": "user", "content": row["context"]}]
    prompt = as_slot([as_turn(turn) for turn in as_objects(turns, "context")])
    order = _strength(row["overall_preference"], "overall_preference")
    return {**rest, "prompt": prompt, "options": [row["response1"], row["response2"]], **order}


def _nectar(row: Row) -> Row:
    answers = as_objects(row["answers"], "answers", "answers")
    prompt = row["prompt"]
    if isinstance(prompt, str) and prompt.lstrip("\n").startswith("Human:"):
        turns = transcript(prompt)
        prompt = as_slot(turns[:-1] if turns[-1]["role"] == "assistant" and not turns[-1]["content"].strip() else turns)
    ranks = [answer.get("rank") for answer in answers]
    return {**_rest(row, "answers"), "prompt": prompt, **_ranked([a.get("answer") for a in answers], ranks, "rank", 1)}


def _ultrafeedback(row: Row) -> Row:
    completions = as_objects(row["completions"], "completions", "completions")
    scores = [own.get("overall_score") for own in completions]
    order = _ranked([own.get("response") for own in completions], scores, "overall_score", -1)
    return {**_rest(row, "instruction", "completions"), "prompt": row["instruction"], **order}


def _ranked(options: list[Any], values: list[Any], name: str, sign: int) -> Row:
    """The options in the order of their values: the lowest first if ``sign`` is 1, the highest if it is -1."""
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise DataError(f"{name!r} of each answer must be a number, found {str(value)[:60]!r}")
    return {"options": options, "ranking": ranks_of([-sign * value for value in values])}


def _shp(row: Row) -> Row:
    if row["labels"] not in (0, 1) or isinstance(row["labels"], bool):
        raise DataError(f"'labels' must be 1 (the first is better) or 0, found {str(row['labels'])[:60]!r}")
    order = {"options": [row["human_ref_A"], row["human_ref_B"]], "ranking": [1, 2] if row["labels"] else [2, 1]}
    return {**_rest(row, "history", "human_ref_A", "human_ref_B", "labels"), "prompt": row["history"], **order}


def _best_of(row: Row, chosen: Any, rejected: Any) -> Row:
    ranking = [*[1] * len(chosen), *[2] * len(rejected)]
    return {**_rest(row, "chosen", "rejected"), "options": [*chosen, *rejected], "ranking": ranking}


SETS: tuple[tuple[set[str], Callable[[Row], Row]], ...] = (
    ({"response_1", "response_2", "preference_strength"}, _helpsteer2),
    ({"response1", "response2", "overall_preference"}, _helpsteer3),
    ({"prompt", "answers"}, _nectar),
    ({"instruction", "completions"}, _ultrafeedback),
    ({"history", "human_ref_A", "human_ref_B", "labels"}, _shp),
)
