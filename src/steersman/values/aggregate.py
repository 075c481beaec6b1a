"""What a rule of social choice reads, and what it returns.

Three kinds of evidence, each with the people behind it:

- `Votes`: who put which of two alternatives above the other. `pairwise` counts them: the matrix that `elections.py`
  reads.
- `Ratings`: what each person thinks of each alternative, or of each statement: utilities, stars, or votes of 1 (agree),
  0 (pass) and -1 (disagree), NaN where they said nothing.
- `GroupUtilities`: what each group thinks, from either: what `welfare.py` reads.

Every rule returns a `Choice`. A rule decides one question: votes about another prompt do not belong to it. Nothing is
left out without a count (`Counted`), and a group with too few people is named and has no say of its own, because a rule
such as max-min would let its noise decide.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steersman.errors import DataError
from steersman.types import Comparison

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
TIE = 1e-9  # scores that differ by less, relative to their range, are equal
FEWEST = 5  # people of a group that has a say of its own


class Choice(NamedTuple):
    """What a rule says of K alternatives.

    ``scores`` [K]: higher is better, in the rule's own unit. ``order``: indices of the alternatives, the best first,
    those that tie together. ``probabilities`` [K]: of a lottery, else None.
    """

    rule: str
    alternatives: tuple[str, ...]
    scores: Array
    order: tuple[tuple[int, ...], ...]
    probabilities: Array | None = None

    @property
    def winners(self) -> tuple[str, ...]:
        """The best alternative, or all that tie for the first place."""
        return tuple(self.alternatives[i] for i in self.order[0])

    def place(self, alternative: str) -> int:
        """Of an alternative, 1 for the best; those that tie share a place."""
        index = self.alternatives.index(alternative)
        return 1 + next(place for place, tied in enumerate(self.order) if index in tied)


class Counted(NamedTuple):
    """What became of the rows that were read.

    ``keys`` are answers to gold questions and ``no_order`` rows that order nothing: neither is a vote. ``unnamed``
    votes have no rater, and each counts as a person. ``without_group`` are people without one: they count in what is
    pooled and in no group.
    """

    rows: int = 0
    keys: int = 0
    no_order: int = 0
    unnamed: int = 0
    without_group: int = 0


class Votes(NamedTuple):
    """N votes of R people on pairs of K alternatives.

    ``rater``, ``first`` and ``second`` [N] are indices; ``share`` [N] is 1 if the first is better, 0 if the second is,
    1/2 for a tie, and a probability where a vote is one; ``weight`` [N] is positive. ``group`` [R] is each person's
    place in ``groups``, -1 for none.
    """

    alternatives: tuple[str, ...]
    groups: tuple[str, ...]
    group: Ints
    rater: Ints
    first: Ints
    second: Ints
    share: Array
    weight: Array
    counted: Counted = Counted()


class Pairwise(NamedTuple):
    """``weights`` [K, K]: at [i, j] the weight of the people who prefer i to j; a tie is half for each."""

    alternatives: tuple[str, ...]
    weights: Array

    @property
    def margins(self) -> Array:
        """[K, K], antisymmetric: at [i, j] the weight for i above j, less that for j above i."""
        return self.weights - self.weights.T

    @property
    def unseen(self) -> int:
        """Pairs that nobody compared. Rules of majority treat them as tied."""
        total = self.weights + self.weights.T
        return int((total[np.triu_indices(len(total), 1)] <= 0).sum())


class Ratings(NamedTuple):
    """``values`` [R, K] of R people, NaN where one said nothing; ``group`` [R] as in `Votes`; ``weight`` [R]."""

    alternatives: tuple[str, ...]
    groups: tuple[str, ...]
    group: Ints
    values: Array
    weight: Array


class GroupUtilities(NamedTuple):
    """``values`` [G, K]; ``people`` [G] the weight of each group; ``too_small``: groups without a say, with how few."""

    alternatives: tuple[str, ...]
    groups: tuple[str, ...]
    values: Array
    people: Array
    too_small: tuple[tuple[str, int], ...] = ()


# ── results ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def by_score(
    rule: str, alternatives: Sequence[str], scores: Array, *, ties: float = TIE, probabilities: Array | None = None
) -> Choice:
    """A choice whose order is that of the scores; minus infinity is allowed.

    Args:
        scores: [K]; ties: two neighbours in the order tie if they differ by no more than this share of the range.
    """
    finite = scores[np.isfinite(scores)]
    near = ties * max(1e-300, float(np.ptp(finite))) if finite.size else 0.0
    order: list[list[int]] = []
    for i in np.argsort(-scores, kind="stable").tolist():
        above = scores[order[-1][0]] if order else np.inf
        if order and (above == scores[i] or above - scores[i] <= near):
            order[-1].append(i)
        else:
            order.append([i])
    return Choice(rule, tuple(alternatives), scores, tuple(tuple(sorted(tied)) for tied in order), probabilities)


# ── votes ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def votes_of(rows: Sequence[Comparison]) -> Votes:
    """The votes of comparisons that are all about one prompt; the alternatives are their options, as first met.

    A ranking of k options is a vote on each of its pairs. A ``soft_label`` is a vote of that share.

    Raises:
        DataError: there is no vote, rows are about different prompts, or a person has two groups.
    """
    texts: dict[str, int] = {}
    people: dict[str, tuple[int, str]] = {}
    columns: list[tuple[int, int, int, float, float]] = []
    keys = nothing = unnamed = 0
    prompt = rows[0].prompt if rows else ""
    for number, row in enumerate(rows, start=1):
        if row.prompt != prompt:
            raise DataError(
                "votes about two prompts",
                where=f"row {number}",
                expected="one question, as in row 1",
                do="split the rows by prompt and decide each question by itself",
            )
        if row.gold or not row.ranks():
            keys, nothing = keys + row.gold, nothing + (not row.gold)
            continue
        unnamed += not row.rater
        person, group = people.setdefault(row.rater or f"\0row {number}", (len(people), row.group))
        if group != row.group:
            raise DataError(
                f"rater {row.rater!r} is in group {group!r} and in group {row.group!r}",
                where=f"row {number}",
                expected="one group for each rater",
                do="make a group of its own for those who belong to both",
            )
        ranked = zip(row.ranks(), row.options, strict=True)
        for (rank, text), (other_rank, other) in itertools.combinations(ranked, 2):
            share = 0.5 + 0.5 * ((other_rank > rank) - (other_rank < rank))
            share = share if row.soft_label is None else row.soft_label
            i, j = (texts.setdefault(t, len(texts)) for t in (text, other))
            columns.append((person, i, j, share, row.weight))
    if not columns:
        raise DataError("no vote orders two alternatives", where=f"{len(rows)} rows", expected="at least one")
    groups = tuple(sorted({group for _, group in people.values()} - {""}))
    place = {group: index for index, group in enumerate(groups)}
    own = np.array([place.get(group, -1) for _, group in people.values()], dtype=np.int64)
    table = np.array(columns, dtype=np.float64)
    rater, first, second = table[:, :3].T.astype(np.int64)
    counted = Counted(len(rows), keys, nothing, unnamed, int((own < 0).sum()))
    return Votes(tuple(texts), groups, own, rater, first, second, table[:, 3], table[:, 4], counted)


def pairwise(votes: Votes, group: str | None = None) -> Pairwise:
    """Count the votes, of all people or of one group. Repeated votes of a person on a pair are averaged to one.

    Memory and time grow with the votes and with K x K, not with the people.

    Raises:
        DataError: nobody is in the group.
    """
    count = len(votes.alternatives)
    rater, first, second, share, weight = votes.rater, votes.first, votes.second, votes.share, votes.weight
    if group is not None:
        if group not in votes.groups:
            raise DataError(f"nobody is in group {group!r}", expected=f"one of {list(votes.groups)}")
        mine = votes.group[rater] == votes.groups.index(group)
        rater, first, second, share, weight = (x[mine] for x in (rater, first, second, share, weight))
    low, high = np.minimum(first, second), np.maximum(first, second)
    share = np.where(first <= second, share, 1 - share)
    cell = low * count + high
    _, place, times = np.unique(rater * count * count + cell, return_inverse=True, return_counts=True)
    once = weight / times[place]  # the person's weight on the pair, divided among its votes
    total = np.bincount(cell, weights=once, minlength=count * count).reshape(count, count)
    won = np.bincount(cell, weights=once * share, minlength=count * count).reshape(count, count)
    return Pairwise(votes.alternatives, won + (total - won).T)


def ballots(alternatives: Sequence[str], ranks: Array, weights: Array | None = None) -> Pairwise:
    """The pairwise matrix of full rankings.

    Args:
        ranks: [R, K], 1 for a person's best; equal ranks are ties; NaN: not ranked, and in no pair.
        weights: [R], how many people cast each ballot; 1 unless given.
    """
    weights = np.ones(len(ranks)) if weights is None else weights
    won = np.zeros((len(alternatives), len(alternatives)))
    for i in range(len(alternatives)):  # one row at a time: memory is [R, K], not [R, K, K]
        mine = ranks[:, [i]]
        won[i] = weights @ ((mine < ranks) + 0.5 * (mine == ranks))
    np.fill_diagonal(won, 0.0)
    return Pairwise(tuple(alternatives), won)


# ── ratings ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def pairwise_of_ratings(ratings: Ratings) -> Pairwise:
    """Who rates which alternative higher than which; whoever rated one of two alone has no vote on them."""
    return ballots(ratings.alternatives, -ratings.values, ratings.weight)


def group_utilities(ratings: Ratings, fewest: int = FEWEST) -> GroupUtilities:
    """The weighted mean rating of each group's people, over those who rated.

    Args:
        fewest: a group with fewer people than this is named in ``too_small`` and left out.

    Raises:
        DataError: no group is large enough, or nobody in a group rated one of the alternatives.
    """
    values, kept, weight, small = [], [], [], []
    for index, group in enumerate(ratings.groups):
        mine = ratings.group == index
        if int(mine.sum()) < fewest:
            small.append((group, int(mine.sum())))
            continue
        said = ~np.isnan(ratings.values[mine])
        mass = ratings.weight[mine] @ said
        if not mass.all():
            missing = ratings.alternatives[int(np.argmin(mass > 0))]
            raise DataError(
                f"nobody in group {group!r} rated {missing!r}",
                expected="each group rates each alternative",
                do="leave out the alternative, or join the group with another",
            )
        values.append(ratings.weight[mine] @ np.where(said, ratings.values[mine], 0.0) / mass)
        kept.append(group)
        weight.append(float(ratings.weight[mine].sum()))
    enough(kept, small, fewest)
    return GroupUtilities(ratings.alternatives, tuple(kept), np.array(values), np.array(weight), tuple(small))


def enough(kept: Sequence[str], small: Sequence[tuple[str, int]], fewest: int) -> None:
    """Raise a DataError if no group has enough people."""
    if not kept:
        found = ", ".join(f"{group!r} has {people}" for group, people in small) or "nobody has a group"
        raise DataError(
            f"no group is large enough: {found}",
            expected=f"a group of {fewest} people or more",
            do="use a rule for pooled votes, join groups, or find groups by `values.mixture`",
        )
