"""Outer alignment, checked: tensions between principles on real answer pairs, and the effect of changing principles.

Every pair is judged under every principle on its own. Two principles **disagree** where they put a pair in opposite
orders; they are **redundant** where they never do and decide the same pairs; one that never decides is **idle**.
`changed` judges pairs under two versions of a constitution and lists those whose order flips.

The results are those of one judge. A judge that cannot tell two principles apart makes them look redundant: read its
card first.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from steersman.constitution.document import Constitution, Principle
from steersman.constitution.judges import Judge, JudgeQuestion, in_order
from steersman.stats import wilson
from steersman.types import Text

MIN_PAIRS = 20  # that both principles decide, before they can be called redundant
REDUNDANT = 0.95  # least lower end of the interval of their agreement


class AnswerPair(NamedTuple):
    """Two answers to a prompt."""

    prompt: Text
    first: str
    second: str


def preferences(judge: Judge, pairs: Sequence[AnswerPair], principles: Sequence[Principle | None]) -> list[list[int]]:
    """By pair and principle: 1 if the first answer is better, -1 if the second is, 0 if the judge is undecided."""
    questions = [JudgeQuestion(*pair, principle) for pair in pairs for principle in principles]
    judgements = in_order(judge.judge(questions), len(questions))
    flat = [judgement.preference if judgement else 0 for judgement in judgements]
    width = len(principles)
    return [flat[i * width : (i + 1) * width] for i in range(len(pairs))]


def tensions(judge: Judge, pairs: Sequence[AnswerPair], constitution: Constitution) -> dict[str, Any]:
    """Disagreement, redundancy and idleness of the principles on these pairs, as JSON values."""
    principles = constitution.principles
    table = preferences(judge, pairs, principles)
    decided = {
        principle.id: wilson(sum(row[i] != 0 for row in table), len(table))._asdict()
        for i, principle in enumerate(principles)
    }
    between: list[tuple[int, dict[str, Any]]] = []
    for (i, one), (j, other) in itertools.combinations(enumerate(principles), 2):
        both = [(row[i], row[j]) for row in table if row[i] and row[j]]
        against = [place for place, row in enumerate(table) if row[i] * row[j] < 0]
        agree = wilson(len(both) - len(against), len(both))
        alone = sum((row[i] != 0) != (row[j] != 0) for row in table)
        entry = {
            "principles": [one.id, other.id],
            "agree": agree._asdict(),
            "one_decides_alone": alone,
            "redundant": len(both) >= MIN_PAIRS and agree.low >= REDUNDANT and not alone,
            "settled": constitution.winner(one.id, other.id),
            "pairs_in_opposite_order": against,
        }
        between.append((len(against), entry))
    between.sort(key=lambda pair: -pair[0])
    return {
        "pairs": len(pairs),
        "decided": decided,
        "idle": [id for id, share in decided.items() if share["value"] == 0],
        "between": [entry for _, entry in between],
    }


def differences(old: Constitution, new: Constitution) -> dict[str, list[str]]:
    """Ids of principles added, removed, and changed in what a judge reads: text, behaviours, examples."""
    before, after = ({p.id: (one.texts[p.id], p.behaviours, p.examples) for p in one.principles} for one in (old, new))
    return {
        "added": [id for id in after if id not in before],
        "removed": [id for id in before if id not in after],
        "changed": [id for id in after if id in before and before[id] != after[id]],
    }


class Flip(NamedTuple):
    """A pair whose order flips under a new constitution, under one principle or (None) under all together."""

    pair: AnswerPair
    principle: str | None
    before: int
    after: int


def changed(judge: Judge, pairs: Sequence[AnswerPair], old: Constitution, new: Constitution) -> dict[str, Any]:
    """Judge pairs under two constitutions: under each principle that differs, and by the sum of all principles' votes.

    A principle's vote is 1, 0 or -1, see `preferences`. Only principles that differ are judged twice.

    Returns:
        ``differences``, the number of ``pairs``, and ``flips``: `Flip`, those under single principles first.
    """
    ids = differences(old, new)
    before = preferences(judge, pairs, old.principles)
    fresh = [principle for principle in new.principles if principle.id in (*ids["added"], *ids["changed"])]
    anew = preferences(judge, pairs, fresh)
    column = {principle.id: i for i, principle in enumerate(old.principles)}
    column_anew = {principle.id: i for i, principle in enumerate(fresh)}
    flips = []
    for id in ids["changed"]:
        flips += _flips(pairs, id, [row[column[id]] for row in before], [row[column_anew[id]] for row in anew])
    after = [
        sum(fresh_row[column_anew[id]] if id in column_anew else row[column[id]] for id in new.texts)
        for row, fresh_row in zip(before, anew, strict=True)
    ]
    flips += _flips(pairs, None, [sum(row) for row in before], after)
    return {"differences": ids, "pairs": len(pairs), "flips": flips}


def _flips(
    pairs: Sequence[AnswerPair], principle: str | None, before: Sequence[int], after: Sequence[int]
) -> list[Flip]:
    return [
        Flip(pair, principle, old, new) for pair, old, new in zip(pairs, before, after, strict=True) if old * new < 0
    ]
