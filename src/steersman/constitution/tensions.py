"""Outer alignment, checked: what the principles do to real pairs of answers, and what a change of them changes.

A constitution is only words until somebody judges by it. Every pair is judged by every principle, each by itself: two
principles **disagree** where they put the same pair in opposite orders; one is **redundant** beside another where they
never do and decide the same pairs; and one that **never decides** is idle. `changed` judges pairs by two versions of a
constitution and lists those whose order flips.

It says what this judge makes of the words. A judge that does not tell two principles apart makes them look redundant:
read its card first.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from steersman.constitution.document import Constitution, Principle
from steersman.constitution.judges import Judge, Question, all_of
from steersman.stats import wilson
from steersman.types import Text

ENOUGH = 20  # pairs that both principles decided, before two of them are called redundant
REDUNDANT = 0.95  # lower end of the interval of their agreement


class Pair(NamedTuple):
    """Two answers to a prompt."""

    prompt: Text
    first: str
    second: str


def leans(judge: Judge, pairs: Sequence[Pair], principles: Sequence[Principle | None]) -> list[list[int]]:
    """By pair and principle: 1 if the first answer is better, -1 if the second is, 0 if the judge does not say."""
    questions = [Question(*pair, principle) for pair in pairs for principle in principles]
    judgements = all_of(judge.judge(questions), len(questions))
    found = [0 if judgement is None else judgement.lean for judgement in judgements]
    width = len(principles)
    return [found[i * width : (i + 1) * width] for i in range(len(pairs))]


def tensions(judge: Judge, pairs: Sequence[Pair], constitution: Constitution) -> dict[str, Any]:
    """How the principles get on with each other on these pairs, as JSON values."""
    principles = constitution.principles
    table = leans(judge, pairs, principles)
    decided = {
        principle.id: wilson(sum(row[i] != 0 for row in table), len(table))._asdict()
        for i, principle in enumerate(principles)
    }
    between: list[tuple[int, dict[str, Any]]] = []
    for (i, one), (j, other) in itertools.combinations(enumerate(principles), 2):
        both = [(row[i], row[j]) for row in table if row[i] and row[j]]
        against = [place for place, row in enumerate(table) if row[i] * row[j] < 0]
        agree = wilson(len(both) - len(against), len(both))
        # Where one decides and the other does not, each adds something.
        alone = sum((row[i] != 0) != (row[j] != 0) for row in table)
        found = {
            "principles": [one.id, other.id],
            "agree": agree._asdict(),
            "one_decides_alone": alone,
            "redundant": len(both) >= ENOUGH and agree.low >= REDUNDANT and not alone,
            "settled": constitution.winner(one.id, other.id),
            "pairs_in_opposite_order": against,
        }
        between.append((len(against), found))
    between.sort(key=lambda pair: -pair[0])
    return {
        "pairs": len(pairs),
        "decided": decided,
        "idle": [id for id, share in decided.items() if share["value"] == 0],
        "between": [found for _, found in between],
    }


def differences(old: Constitution, new: Constitution) -> dict[str, list[str]]:
    """Ids of the principles that were added, removed, and that a judge reads otherwise: words, behaviours, examples."""
    before, after = ({p.id: (one.texts[p.id], p.behaviours, p.examples) for p in one.principles} for one in (old, new))
    return {
        "added": [id for id in after if id not in before],
        "removed": [id for id in before if id not in after],
        "changed": [id for id in after if id in before and before[id] != after[id]],
    }


class Flip(NamedTuple):
    """A pair whose order a new constitution turns round, by one principle or (None) all together."""

    pair: Pair
    principle: str | None
    before: int
    after: int


def changed(judge: Judge, pairs: Sequence[Pair], old: Constitution, new: Constitution) -> dict[str, Any]:
    """Judge pairs by two constitutions: by each principle that differs, and by the sum of a constitution's votes.

    A principle's vote is 1, 0 or -1, see `leans`. Only the principles that differ are judged twice.

    Returns:
        ``differences``, how many ``pairs``, and ``flips``: `Flip`, those by principle before those of the sum.
    """
    what = differences(old, new)
    before = leans(judge, pairs, old.principles)
    fresh = [principle for principle in new.principles if principle.id in (*what["added"], *what["changed"])]
    told = leans(judge, pairs, fresh)
    places = {principle.id: i for i, principle in enumerate(old.principles)}
    anew = {principle.id: i for i, principle in enumerate(fresh)}
    flips = []
    for id in what["changed"]:
        flips += _flips(pairs, id, [row[places[id]] for row in before], [row[anew[id]] for row in told])
    after = [
        sum(again[anew[id]] if id in anew else row[places[id]] for id in new.texts)
        for row, again in zip(before, told, strict=True)
    ]
    flips += _flips(pairs, None, [sum(row) for row in before], after)
    return {"differences": what, "pairs": len(pairs), "flips": flips}


def _flips(pairs: Sequence[Pair], principle: str | None, before: Sequence[int], after: Sequence[int]) -> list[Flip]:
    return [
        Flip(pair, principle, old, new) for pair, old, new in zip(pairs, before, after, strict=True) if old * new < 0
    ]
