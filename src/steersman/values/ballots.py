"""Comparisons as ballots: who of which groups preferred which of two answers, in arrays.

Groups are what raters say of themselves. A rater may belong to several (``group: "rural; over 60"``): a vote counts for
each of them, and once for everybody. A row without a rater is a person of its own, so that intervals cannot know who
voted often; that is counted and said.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steersman.errors import DataError
from steersman.types import Comparison, Text

SEPARATOR = ";"  # between the groups of one rater
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Ballots:
    """Judgements of two answers each: N of them, by R raters in G groups, on Q questions with P pairs of answers.

    Attributes:
        prompts, options: of each question.
        raters, groups: their names.
        member: [R, G]: who belongs to which.
        pair: [N], the pair that was judged; rater: [N].
        preferred: [N]: 1 the pair's first answer, 0 its second, 1/2 neither.
        weight: [N]: 1 over the pairs of its row. `who_wins` does not read it: there a ranking of three is three votes.
        pair_question, first, second: [P]: the question of a pair, and its two options.
        dropped: reason -> rows that are not in it.
        nameless: rows without a rater.
    """

    prompts: tuple[Text, ...]
    options: tuple[tuple[str, ...], ...]
    raters: tuple[str, ...]
    groups: tuple[str, ...]
    member: Bools
    pair: Ints
    rater: Ints
    preferred: Floats
    weight: Floats
    pair_question: Ints
    first: Ints
    second: Ints
    dropped: dict[str, int]
    nameless: int

    @property
    def people(self) -> Ints:
        """Raters in each group, [G]."""
        counts: Ints = self.member.sum(0)
        return counts


def ballots(rows: Sequence[Comparison]) -> Ballots:
    """Read comparisons with raters and groups.

    Gold rows, and rows that order nothing and tie nothing, are left out and counted.

    Raises:
        DataError: no row has a group, or a rater names other groups in one row than in another.
    """
    reader = _Reader()
    for number, row in enumerate(rows):
        reader.add(number, row)
    if not any(reader.groups_of):
        raise DataError(
            "no comparison names a group of its rater",
            expected="a field 'group', for example \"rural; over 60\"",
            do="add it; of a file with another name for it: --columns group=NAME",
        )
    return reader.whole()


class _Reader:
    """Numbers questions, pairs and raters as they come."""

    def __init__(self) -> None:
        self.questions: dict[tuple[Text, frozenset[str]], int] = {}
        self.options: list[tuple[str, ...]] = []
        self.pairs: dict[tuple[int, int, int], int] = {}
        self.raters: dict[str, int] = {}
        self.groups_of: list[frozenset[str]] = []
        self.votes: list[tuple[int, int, float, float]] = []
        self.dropped: dict[str, int] = {}
        self.nameless = 0

    def add(self, number: int, row: Comparison) -> None:
        """Take a row's pairs, or count why not."""
        why = "gold" if row.gold else "one answer alone" if len(row.options) < 2 else "" if row.ranks() else "no order"
        if why:
            self.dropped[why] = self.dropped.get(why, 0) + 1
            return
        rater, question = self._rater(number, row), self._question(row)
        places = [self.options[question].index(option) for option in row.options]
        couples = list(itertools.combinations(range(len(places)), 2))
        ranks = row.ranks()
        for a, b in couples:
            (i, x), (j, y) = sorted(((places[a], ranks[a]), (places[b], ranks[b])))
            preferred = 0.5 if x == y else float(x < y)
            if row.soft_label is not None:
                preferred = row.soft_label if places[a] < places[b] else 1 - row.soft_label
            pair = self.pairs.setdefault((question, i, j), len(self.pairs))
            self.votes.append((pair, rater, preferred, 1 / len(couples)))

    def _question(self, row: Comparison) -> int:
        key = row.prompt, frozenset(row.options)
        if key not in self.questions:
            self.questions[key] = len(self.questions)
            self.options.append(row.options)
        return self.questions[key]

    def _rater(self, number: int, row: Comparison) -> int:
        groups = frozenset(name.strip() for name in row.group.split(SEPARATOR) if name.strip())
        self.nameless += not row.rater
        name = row.rater or f"row {number + 1}"
        if name not in self.raters:
            self.raters[name] = len(self.raters)
            self.groups_of.append(groups)
        known = self.groups_of[self.raters[name]]
        if known != groups:
            raise DataError(
                f"rater {name!r} is in {_named(known)} in one row and in {_named(groups)} in row {number + 1}",
                expected="the same groups in all rows of a rater",
                do=f"write all groups of a rater into every row, with {SEPARATOR!r} between them",
            )
        return self.raters[name]

    def whole(self) -> Ballots:
        """All that was read."""
        groups = sorted(set().union(*self.groups_of))
        pair, rater, preferred, weight = (np.array(column) for column in zip(*self.votes, strict=True))
        question, first, second = (np.array(column) for column in zip(*self.pairs, strict=True))
        return Ballots(
            prompts=tuple(prompt for prompt, _ in self.questions),
            options=tuple(self.options),
            raters=tuple(self.raters),
            groups=tuple(groups),
            member=np.array([[name in own for name in groups] for own in self.groups_of], dtype=bool),
            pair=pair.astype(np.int64),
            rater=rater.astype(np.int64),
            preferred=preferred.astype(np.float64),
            weight=weight.astype(np.float64),
            pair_question=question.astype(np.int64),
            first=first.astype(np.int64),
            second=second.astype(np.int64),
            dropped=self.dropped,
            nameless=self.nameless,
        )


def _named(groups: frozenset[str]) -> str:
    return f"{SEPARATOR} ".join(sorted(groups)) or "no group"
