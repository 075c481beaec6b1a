"""Raters who act as one: detectors of colluders and brigades, each with its rate of false alarms under honest rounds.

Four statistics that see different things, from the votes alone, never from the truth:

- `co_agreement`: raters who agree with one another beyond what the qualities of the answers explain, and beyond how
  far the most like-minded raters of the round agree. The first condition alone would accuse every minority;
- `brigades`: newcomers of one window of time who agree more than as many raters drawn at random;
- `same_sequence`: pairs who press the same keys in the same order, whatever is shown on which side: scripts;
- `bursts`: many newcomers in one window. No evidence by itself: an invitation that goes to many people is a burst.

All p-values are adjusted for the number of raters, pairs or windows looked at, so that a level of 5 % is that of *any*
false alarm in a round. `brigades` is a permutation test and `same_sequence` nearly exact; `co_agreement` rests on a
model and on a robust null (Efron 2004), and `simulated_rounds.py` measures its rate for rounds of the size at hand.
None of them can tell colluders from people who think alike where honest raters hardly err: then agreement is what
honesty looks like too. A detected rater is to be looked at, not to be thrown out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, expit, ndtr

from steersman.data.rater_model import RELIABILITY_VARIANCE, pair_votes
from steersman.errors import DataError
from steersman.stats import holm
from steersman.types import Comparison

NEIGHBOURS = 2  # so that three colluders are enough to be found
MIN_SHARED = 10  # questions that two raters both answered, in each half, to compare them
MIN_SET = 4  # newcomers, to be called a brigade
LEVEL = 0.05
Array = NDArray[np.float64]


class VoteMatrix(NamedTuple):
    """``values`` [R, Q] of R raters on Q pairs of answers: 1 the first is better, 0 the second, NaN not asked.

    ``ties`` and ``unnamed`` votes were left out, and so were all but the first of a rater's on a pair.
    """

    raters: tuple[str, ...]
    values: Array
    ties: int = 0
    unnamed: int = 0
    repeated: int = 0


def vote_matrix(rows: Sequence[Comparison]) -> VoteMatrix:
    """The votes of comparisons by rater and pair of answers. Keys of gold questions are no votes.

    Raises:
        DataError: no vote is left.
    """
    votes = pair_votes([row for row in rows if not row.gold])
    raters = sorted({vote.rater for own in votes.values() for vote in own if vote.rater})
    number = {rater: i for i, rater in enumerate(raters)}
    values = np.full((len(raters), len(votes)), np.nan)
    ties = unnamed = repeated = 0
    for q, own in enumerate(votes.values()):
        for vote in own:
            if not vote.rater:
                unnamed += 1
            elif not math.isnan(values[number[vote.rater], q]):
                repeated += 1
            elif vote.preference == 0:
                ties += 1
            else:
                values[number[vote.rater], q] = (vote.preference + 1) / 2
    if not np.isfinite(values).any():
        raise DataError("no vote of a named rater orders two answers", where=f"{len(rows)} rows")
    return VoteMatrix(tuple(raters), values, ties, unnamed, repeated)


# ── what quality explains ────────────────────────────────────────────────────────────────────────────────────────────
class Explained(NamedTuple):
    """By two raters, over the questions of one half that both answered: the sum of agreements less what is expected
    [R, R], its variance [R, R], the agreements [R, R] and the questions [R, R]. The diagonals are 0."""

    excess: Array
    variance: Array
    agreements: Array
    shared: Array


def reliabilities(values: Array) -> Array:
    """[R], fitted to what the other raters said: the signed reliability of `data/rater_model.py`, by Newton's method.

    A rater who says the opposite of the others has one below 0, and then two such raters are expected to agree.
    """
    seen = np.isfinite(values)
    wins, counts = np.where(seen, values, 0.0).sum(0), seen.sum(0)
    own = np.where(seen, values, 0.0)
    margin = np.where(seen, np.log((wins - own + 0.5) / (counts - 1 - (wins - own) + 0.5 + ~seen)), 0.0)
    found = np.ones(len(values))
    for _ in range(20):
        chance = expit(found[:, None] * margin)
        slope = (np.where(seen, chance - own, 0.0) * margin).sum(1) + (found - 1) / RELIABILITY_VARIANCE
        curvature = (chance * (1 - chance) * margin**2).sum(1) + 1 / RELIABILITY_VARIANCE
        found = found - np.clip(slope / curvature, -1, 1)
    return np.asarray(found)


def explained(values: Array, reliability: Array) -> Explained:
    """Agreement of all pairs of raters beyond what the others' votes on the same questions explain.

    Two raters' votes on a question are independent given its quality; the quality is estimated without these two.
    """
    seen = np.isfinite(values)
    own = np.where(seen, values, 0.0)
    wins, counts = own.sum(0), seen.sum(0).astype(np.float64)
    raters = len(values)
    sums = np.zeros((4, raters, raters))
    for r in range(raters - 1):
        both, rest = seen[r + 1 :] & seen[r], own[r + 1 :]
        won = np.where(both, wins - own[r] - rest, 0.0)
        margin = np.log((won + 0.5) / (np.where(both, counts - 2, 0.0) - won + 0.5))
        p, q = expit(reliability[r] * margin), expit(reliability[r + 1 :, None] * margin)
        alike = p * q + (1 - p) * (1 - q)
        agrees = both & (rest == own[r])
        sums[0, r, r + 1 :] = (agrees - alike * both).sum(1)
        sums[1, r, r + 1 :] = (alike * (1 - alike) * both).sum(1)
        sums[2, r, r + 1 :] = agrees.sum(1)
        sums[3, r, r + 1 :] = both.sum(1)
    return Explained(*(sums + sums.swapaxes(1, 2)))


# ── co-agreement ─────────────────────────────────────────────────────────────────────────────────────────────────────
class Suspect(NamedTuple):
    """A rater with whom they agree, how often (and how often like-minded raters of the round do), and the adjusted
    p-values: beyond what quality explains, and beyond what like minds explain."""

    rater: str
    neighbours: tuple[str, ...]
    agreement: float
    usual: float
    p_quality: float
    p_like_minds: float


class CoAgreement(NamedTuple):
    """``suspects`` at the level asked for; ``compared`` raters; ``too_few``: share too few questions with others."""

    suspects: list[Suspect]
    compared: int
    too_few: tuple[str, ...]


def co_agreement(votes: VoteMatrix, level: float = LEVEL, neighbours: int = NEIGHBOURS, seed: int = 0) -> CoAgreement:
    """Raters who agree with their nearest neighbours more than quality and more than like minds explain.

    Neighbours are chosen on half of the questions and agreement is measured on the other half, and the other way round:
    the best of many is no evidence on the data that it was chosen by. Both statistics are put beside those of all
    raters of the round, in robust standard deviations, and never in smaller ones than chance alone gives. The choice
    is what limits it: three who follow a list are found from 15 shared questions a half if they never slip, and from
    more if they do. To ask the second question about suspects alone found more of them, and too many honest raters.
    """
    reliability = reliabilities(votes.values)
    side = np.random.default_rng(seed).permutation(votes.values.shape[1]) % 2
    halves = [explained(votes.values[:, side == half], reliability) for half in (0, 1)]
    raters = len(votes.raters)
    beyond, alike, counted = np.zeros((raters, 2)), np.full((raters, 2), np.nan), np.zeros((raters, 2))
    chosen: list[set[int]] = [set() for _ in range(raters)]
    for half, (chooser, judge) in enumerate((halves, halves[::-1])):
        score = np.where(
            (chooser.shared >= MIN_SHARED) & (judge.shared >= MIN_SHARED),
            chooser.excess / np.sqrt(np.maximum(chooser.variance, 1e-9)),
            -np.inf,
        )
        for r in range(raters):
            near = [int(s) for s in np.argsort(-score[r])[:neighbours] if np.isfinite(score[r, s])]
            if len(near) == neighbours:
                chosen[r] |= set(near)
                beyond[r, half] = judge.excess[r, near].sum() / math.sqrt(judge.variance[r, near].sum())
                counted[r, half] = judge.shared[r, near].mean()
                alike[r, half] = judge.agreements[r, near].sum() / judge.shared[r, near].sum()
    known = np.flatnonzero((counted > 0).all(1))
    too_few = tuple(name for r, name in enumerate(votes.raters) if r not in set(known.tolist()))
    if len(known) < 2 * MIN_SET:
        return CoAgreement([], 0, votes.raters)
    agreement = alike[known].mean(1)
    usual = float(np.median(agreement))
    chance = np.sqrt(usual * (1 - usual) / counted[known].sum(1))  # one question a look: neighbours share r's answer
    quality = holm(_upper_tail(beyond[known].sum(1) / math.sqrt(2), np.ones(len(known))))
    minds = holm(_upper_tail(agreement, chance))
    suspects = [
        Suspect(votes.raters[r], tuple(votes.raters[s] for s in sorted(chosen[r])), float(a), usual, p_quality, p_minds)
        for r, a, p_quality, p_minds in zip(known.tolist(), agreement, quality, minds, strict=True)
        if max(p_quality, p_minds) <= level
    ]
    return CoAgreement(suspects, len(known), too_few)


def _upper_tail(values: Array, least: Array) -> list[float]:
    """One-sided p-values of values among one another: normal, around their median, with their robust spread."""
    middle = np.median(values)
    spread = np.maximum(least, 1.4826 * np.median(np.abs(values - middle)))
    return [float(p) for p in ndtr(-(values - middle) / spread)]


# ── newcomers ────────────────────────────────────────────────────────────────────────────────────────────────────────
class Brigade(NamedTuple):
    """Newcomers within one window, whose agreement beyond quality has the p-value ``p``, adjusted for all windows.

    Without a window of `MIN_SET` newcomers there are none, and p is 1.
    """

    raters: tuple[str, ...]
    p: float


def brigades(
    votes: VoteMatrix, arrived_s: Mapping[str, float], window_s: float, draws: int = 499, seed: int = 0
) -> Brigade:
    """The newcomers of one window who agree most, against permutations of who arrived when.

    The statistic of a set is the sum of its pairs' standardised excess agreement over the root of their number; the
    largest over all sets of neighbours in time within a window is compared with the largest under permutations, so that
    the level is exact if arrival has nothing to do with opinion. It has, where a like-minded community is invited in
    one wave: then they are found, and not brigades.

    Args:
        arrived_s: when each rater's first vote came, in seconds; raters without one are left out.

    Raises:
        DataError: nobody has a time.
    """
    present = [r for r, name in enumerate(votes.raters) if name in arrived_s]
    if not present:
        raise DataError("no rater has a time of arrival", expected="seconds by rater's name")
    present.sort(key=lambda r: arrived_s[votes.raters[r]])
    times = np.array([arrived_s[votes.raters[r]] for r in present])
    found = explained(votes.values, reliabilities(votes.values))
    matrix = (found.excess / np.sqrt(np.maximum(found.variance, 1e-9)))[np.ix_(present, present)]
    ends = np.searchsorted(times, times + window_s, side="right")
    blocks = np.array([(i, j) for i in range(len(times)) for j in range(i + MIN_SET, ends[i] + 1)], dtype=np.int64)
    if not len(blocks):
        return Brigade((), 1.0)
    scores = _block_scores(matrix, blocks)
    best, generator, larger = int(scores.argmax()), np.random.default_rng(seed), 0
    for _ in range(draws):
        order = generator.permutation(len(present))
        larger += _block_scores(matrix[np.ix_(order, order)], blocks).max() >= scores[best]
    first, end = blocks[best].tolist()
    return Brigade(tuple(votes.raters[r] for r in present[first:end]), (1 + larger) / (1 + draws))


def _block_scores(matrix: Array, blocks: NDArray[np.int64]) -> Array:
    """[B], of the blocks [i, j) on the diagonal, by sums over corners."""
    corner = np.zeros((len(matrix) + 1, len(matrix) + 1))
    corner[1:, 1:] = matrix.cumsum(0).cumsum(1)
    i, j = blocks.T
    pairs = (j - i) * (j - i - 1)
    return np.asarray((corner[j, j] - corner[i, j] - corner[j, i] + corner[i, i]) / np.sqrt(2 * pairs))


class Burst(NamedTuple):
    """The window with the most newcomers: when it begins, how many, and the p-value if people came evenly."""

    begins_s: float
    newcomers: int
    p: float


def bursts(arrived_s: Sequence[float], window_s: float, draws: int = 999, seed: int = 0) -> Burst:
    """The scan statistic (Naus 1965) of arrivals against as many at even times, by simulation.

    Raises:
        DataError: fewer than `MIN_SET` arrivals.
    """
    times = np.sort(np.asarray(arrived_s, dtype=np.float64))
    if len(times) < MIN_SET:
        raise DataError(f"{len(times)} arrivals", expected=f"{MIN_SET} or more")
    counts = np.searchsorted(times, times + window_s, side="right") - np.arange(len(times))
    even = np.random.default_rng(seed).uniform(times[0], times[-1], (draws, len(times)))
    even.sort(1)
    most = [int((np.searchsorted(row, row + window_s, side="right") - np.arange(len(row))).max()) for row in even]
    p = (1 + sum(count >= counts.max() for count in most)) / (1 + draws)
    return Burst(float(times[counts.argmax()]), int(counts.max()), p)


# ── scripts ──────────────────────────────────────────────────────────────────────────────────────────────────────────
class SameKeys(NamedTuple):
    """Two raters who chose the same place on the screen in ``same`` of ``both`` votes; p adjusted for all pairs."""

    first: str
    second: str
    same: int
    both: int
    p: float


def places_chosen(rows: Sequence[Comparison]) -> dict[str, list[int]]:
    """By rater, in the order of the rows, the place (0 first shown) of the best answer; ties and unknown places are
    left out, and so are keys."""
    found: dict[str, list[int]] = {}
    for row in rows:
        ranks = row.ranks()
        if row.rater and not row.gold and row.order_shown and ranks.count(1) == 1:
            found.setdefault(row.rater, []).append(row.order_shown.index(ranks.index(1)))
    return found


def same_sequence(places: Mapping[str, Sequence[int]], level: float = LEVEL, least: int = 20) -> list[SameKeys]:
    """Pairs whose n-th votes fall on the same place more often than their own habits explain.

    Sides are shuffled for each rater, so that even people of one mind choose places independently. Expected is the sum
    over places of the product of both raters' shares; the tail is the binomial's; p by Holm over all pairs.

    Args:
        least: votes of both, below which two raters are not compared.
    """
    names = [name for name, own in places.items() if len(own) >= least]
    length = np.array([len(places[name]) for name in names])
    longest = int(length.max(initial=0))
    chosen = np.array([[*places[name], *[-1] * (longest - len(places[name]))] for name in names])
    same, expected = np.zeros((len(names), len(names))), np.zeros((len(names), len(names)))
    for place in sorted(set(chosen.ravel().tolist()) - {-1}):
        here = (chosen == place).astype(np.float64)
        same += here @ here.T
        expected += np.outer(here.sum(1) / length, here.sum(1) / length)
    i, j = np.triu_indices(len(names), 1)
    both, alike, chance = np.minimum(length[i], length[j]), same[i, j], expected[i, j]
    certain = (alike == 0) | (chance >= 1 - 1e-12)  # two who always choose one place
    tail = np.where(certain, 1.0, betainc(np.maximum(alike, 1), both - alike + 1, np.minimum(chance, 1 - 1e-12)))
    return [
        SameKeys(names[i[k]], names[j[k]], int(alike[k]), int(both[k]), p)
        for k, p in enumerate(holm(tail.tolist()))
        if p <= level
    ]
