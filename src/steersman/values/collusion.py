"""Raters who collude: how many votes it takes to make an option win under a rule, and how far a rule moves.

Colluders add ballots to those of honest people. All cast the same one, the best for their target of three:

    bullet    the target on top, all others tied at the bottom
    bury      the target on top, the others upside down: the better an option did without them, the lower
    pass      the target on top, the others in the order that they had without them

and they say that they belong to the group that helps them most, if they may choose: under rules that hear each group, a
small group is a lever. `votes_to_move` is a search over the number of colluders by doubling and halving. Some rules are
not monotone, so it finds a number that suffices while one fewer does not, and no proof that none smaller would.

This is about the arithmetic of rules, where each colluder's ballot counts as anybody's. What recognising colluders
changes is in `brigading.py`, and what believing raters less does in `rating/raters.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steersman.errors import DataError
from steersman.values.aggregate import Choice, Ratings
from steersman.values.strategy import Rule, outcome

Array = NDArray[np.float64]


def ballots(before: Choice, target: int) -> dict[str, Array]:
    """The colluders' ballots [K] in [0, 1], by name, given the choice without them."""
    count = len(before.alternatives)
    place = np.array([before.place(name) for name in before.alternatives], dtype=np.float64)
    found = {"bullet": np.zeros(count), "bury": place / (count + 1), "pass": (count + 1 - place) / (count + 1)}
    for ballot in found.values():
        ballot[target] = 1.0
    return found


def joined(honest: Ratings, ballot: Array, colluders: int, group: int) -> Ratings:
    """Ratings with the ballots of so many colluders added, each with the mean weight of an honest person."""
    return honest._replace(
        group=np.append(honest.group, np.full(colluders, group)),
        values=np.vstack([honest.values, np.tile(ballot, (colluders, 1))]),
        weight=np.append(honest.weight, np.full(colluders, honest.weight.mean())),
    )


class Shift(NamedTuple):
    """What so many colluders do under a rule: the target's place (1 is best) and its chance to win before and after.

    ``moved`` is how far the target's score rose, in standard deviations of the scores of all options without them; NaN
    where these have none or it is not finite. ``loss`` is what honest people lose in mean utility of the outcome (above
    0 for a loss); ``ballot`` and ``group`` are what the colluders cast and claimed.
    """

    rule: str
    target: str
    colluders: int
    place_before: int
    place_after: int
    chance_before: float
    chance_after: float
    moved: float
    loss: float
    ballot: str
    group: str


def shift(rule: Rule, honest: Ratings, target: int, colluders: int, groups: Sequence[int] | None = None) -> Shift:
    """The best that so many colluders can do for ``target``: first its chance to win, then its place, then its score.

    Args:
        honest: utilities of honest people; they are also what is lost.
        groups: indices that the colluders may claim; every group, and none, unless given.

    Raises:
        DataError: no colluder, or no such option.
    """
    if colluders < 1 or not 0 <= target < len(honest.alternatives):
        raise DataError(f"{colluders} colluders for option {target}", expected="one or more, and an option's index")
    before = rule(honest)
    chance, name = outcome(before), honest.alternatives[target]
    spread = _spread(before.scores)
    found = []
    for group in range(-1, len(honest.groups)) if groups is None else groups:
        for ballot, cast in ballots(before, target).items():
            after = rule(joined(honest, cast, colluders, group))
            new = outcome(after)
            scores = float(before.scores[target]), float(after.scores[target])
            moved = (scores[1] - scores[0]) / spread if spread > 0 and np.isfinite(scores).all() else np.nan
            loss = float(np.nanmean(honest.values, axis=0) @ (chance - new))
            claimed = honest.groups[group] if group >= 0 else ""
            places = before.place(name), after.place(name), float(chance[target]), float(new[target])
            found.append(Shift(before.rule, name, colluders, *places, moved, loss, ballot, claimed))
    return max(found, key=lambda s: (s.chance_after, -s.place_after, np.nan_to_num(s.moved, nan=-np.inf)))


def _spread(scores: Array) -> float:
    """The standard deviation of the scores that are finite; 0 if there are none."""
    finite = scores[np.isfinite(scores)]
    return float(finite.std()) if len(finite) else 0.0


class VotesToMove(NamedTuple):
    """The colluders found to suffice, None if ``most`` do not, beside the number of honest people."""

    rule: str
    target: str
    votes: int | None
    honest: int
    most: int


def votes_to_move(
    rule: Rule, honest: Ratings, target: int, most: int | None = None, groups: Sequence[int] | None = None, top: int = 1
) -> VotesToMove:
    """How many colluders put ``target`` among the first ``top``, as more likely than not to win where that is 1.

    Args:
        most: where the search ends; as many as there are honest people, unless given.
    """
    most = len(honest.values) if most is None else most

    def suffice(count: int) -> bool:
        found = shift(rule, honest, target, count, groups)
        return found.chance_after > 0.5 if top == 1 else found.place_after <= top

    before = rule(honest)
    name = honest.alternatives[target]
    if outcome(before)[target] > 0.5 if top == 1 else before.place(name) <= top:
        return VotesToMove(before.rule, name, 0, len(honest.values), most)
    too_few, enough = 0, 1
    while not suffice(enough):
        if enough == most:
            return VotesToMove(before.rule, name, None, len(honest.values), most)
        too_few, enough = enough, min(most, 2 * enough)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if suffice(middle) else (middle, enough)
    return VotesToMove(before.rule, name, enough, len(honest.values), most)
