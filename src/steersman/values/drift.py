"""Raters who change while they rate: drift, fatigue and effects of order, from votes in the order in which they came.

**Drift.** Given the margins m of the answers (log-odds of a typical rater) and the difference of places s, the rater
model of `data/rater_model.py` says

    P(first) = sigmoid(reliability m + side_bias s)

If the parameters are constant, the scores (y - p) m and (y - p) s of votes in order wander about 0. The statistic is
how far their sums ever get, max_t |S_t - t / n S_n| / (sd sqrt n) (Page 1954; Zeileis & Hornik 2007): a lapse, a
change for good and a slow trend all show. It is compared with that of permutations of the rater's own votes, and the
p-values hold for all raters and both parameters at once, by the largest statistic of each permutation (Westfall & Young
1993): 5 % is the rate at which *anybody* in a round without drift is said to drift, if a rater's votes could have come
in any order. Often they could not: an active sampler asks hard questions last, and everybody seems to drift. So, with
`MIN_RATERS` or more, what the other raters do in the same tenth of their sessions is taken out first: drift is what one
does and the others do not, and what all do is in `fatigue`. Windows of equal numbers of votes, with the parameters in
each, show what changed.

**Fatigue** is agreement with the others, and seconds, against the position in the rater's session, the session being
all votes of a rater in the file. Slopes are within raters, with standard errors clustered by rater. Who becomes quicker
has learnt the page or tires; quicker and less in agreement is fatigue.

**Order.** With places drawn at random, an answer's place says nothing about its quality: how often the first shown wins
is the side bias, and for rankings the correlation of place and rank is primacy. `place_slope` is the same for
statements that people read one after another, given who saw which statement at which position.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, stdtr

from steersman.data.rater_model import RELIABILITY_VARIANCE, SIDE_BIAS_VARIANCE, pair_votes, places
from steersman.errors import DataError
from steersman.stats import Estimate, clustered_mean, p_of_interval, student_t
from steersman.types import Comparison

WINDOWS = 4
MIN_VOTES = 10  # of a window
MIN_RATERS, TENTHS = 8, 10  # to tell what all raters do, and the parts of a session in which they do it
MIN_S = 0.05  # a time of 0 has no logarithm
PER = 100  # votes, of a slope over a session
Array = NDArray[np.float64]


# ── votes in order ───────────────────────────────────────────────────────────────────────────────────────────────────
class Observed(NamedTuple):
    """By pair of answers of each vote [N]: its row, its rater's name, the position of the row in the rater's session
    (from 0), the margin of the first answer, the difference of places, P(first is better) as voted, and a weight."""

    row: NDArray[np.int64]
    rater: NDArray[np.str_]
    position: NDArray[np.int64]
    margin: Array
    side: Array
    label: Array
    weight: Array


def observed(rows: Sequence[Comparison], margins: Sequence[float] | None = None) -> Observed:
    """Votes of named raters. A ranking of K answers is K (K - 1) / 2 pairs, which weigh as K - 1 votes.

    Args:
        margins: for each row of two answers, the log-odds that the first is better. Unless given, those of the other
            raters' votes on the same pair, log((for + 1/2) / (against + 1/2)); 0 where nobody else voted.

    Raises:
        DataError: margins of another number, or of rows with more than two answers; or no vote.
    """
    if margins is not None and (len(margins) != len(rows) or any(len(row.options) > 2 for row in rows)):
        raise DataError(
            f"{len(margins)} margins for {len(rows)} rows", expected="one for each row, and rows of two answers"
        )
    positions: dict[str, int] = {}
    place_of, shown = {}, {}
    for number, row in enumerate(rows):
        if row.rater and not row.gold and row.ranks():
            place_of[number] = positions.setdefault(row.rater, 0)
            positions[row.rater] += 1
            shown[number] = places(row)
    found = []
    for pair, own in pair_votes(rows).items():
        counts = [sum(vote.preference == sign and not rows[vote.row].gold for vote in own) for sign in (1, -1)]
        by_rater: dict[str, list[int]] = {}
        for vote in own:
            if not rows[vote.row].gold:
                by_rater.setdefault(vote.rater, []).append(vote.preference)
        for vote in own:
            if vote.row not in place_of:
                continue
            row, mine = rows[vote.row], by_rater[vote.rater]
            i, j = row.options.index(pair.first), row.options.index(pair.second)
            others = [n - mine.count(sign) for n, sign in zip(counts, (1, -1), strict=True)]
            margin = math.log((others[0] + 0.5) / (others[1] + 0.5))
            if margins is not None:
                margin = margins[vote.row] * (1 if i == 0 else -1)
            side, label = shown[vote.row][i] - shown[vote.row][j], (vote.preference + 1) / 2
            found.append((vote.row, vote.rater, place_of[vote.row], margin, side, label, 2 / len(row.options)))
    if not found:
        raise DataError("no vote of a named rater orders two answers", where=f"{len(rows)} rows")
    row_of, rater, position, *rest = zip(*sorted(found), strict=True)
    return Observed(np.array(row_of), np.array(rater), np.array(position), *(np.array(x, dtype=float) for x in rest))


# ── drift ────────────────────────────────────────────────────────────────────────────────────────────────────────────
class Window(NamedTuple):
    """A rater's parameters in one window, with their standard errors; ``side_bias`` towards what is shown first."""

    votes: int
    reliability: float
    reliability_error: float
    side_bias: float
    side_bias_error: float


class RaterDrift(NamedTuple):
    """A rater's windows in order, and p-values adjusted for all raters; of the side None if no order was shown."""

    rater: str
    windows: tuple[Window, ...]
    reliability_p: float
    side_p: float | None


class Drift(NamedTuple):
    """Raters, the likeliest to drift first; ``too_few``: raters with too few votes to say anything, with how many."""

    raters: list[RaterDrift]
    too_few: dict[str, int]


def drift(votes: Observed, windows: int = WINDOWS, draws: int = 999, seed: int = 0) -> Drift:
    """Windows and tests of every rater with `MIN_VOTES` votes in each window.

    Raises:
        DataError: fewer than two windows.
    """
    if windows < 2:
        raise DataError(f"{windows} windows", expected="2 or more")
    generator = np.random.default_rng(seed)
    statistics, drawn, kept = [], [], []
    scored: list[Array] = []
    too_few: dict[str, int] = {}
    for name in sorted(set(votes.rater.tolist())):
        own = Observed(*(column[votes.rater == name] for column in votes))
        count = int(own.position.max()) + 1
        if count < windows * MIN_VOTES:
            too_few[name] = count
            continue
        fitted = _fit(own)
        residual = own.weight * (own.label - expit(fitted.reliability * own.margin + fitted.side_bias * own.side))
        scored.append(np.stack([np.bincount(own.position, residual * x, count) for x in (own.margin, own.side)]))
        edges = np.linspace(0, count, windows + 1).round().astype(np.int64)
        parts = [(own.position >= low) & (own.position < high) for low, high in pairwise(edges)]
        fits = tuple(_fit(Observed(*(column[part] for column in own))) for part in parts)
        kept.append((name, fits, bool(own.side.any())))
    for scores in _without_what_all_do(scored):
        count = scores.shape[1]
        order = np.vstack([np.arange(count), generator.permuted(np.tile(np.arange(count), (draws, 1)), axis=1)])
        wandered = np.stack([_wandering(row[order]) for row in scores])  # [2, 1 + draws]
        # What was taken out is itself estimated from the others, which adds to the first and not to the permutations.
        statistics.append(wandered[:, 0] / (math.sqrt(1 + 1 / (len(kept) - 1)) if len(kept) >= MIN_RATERS else 1))
        drawn.append(wandered[:, 1:].max(0))
    largest = np.max(drawn, axis=0) if drawn else np.zeros(draws)
    raters = []
    for (name, fits, has_sides), own_statistics in zip(kept, statistics, strict=True):
        p = [float((1 + (largest >= value).sum()) / (1 + draws)) for value in own_statistics]
        raters.append(RaterDrift(name, fits, p[0], p[1] if has_sides else None))
    return Drift(sorted(raters, key=lambda r: min(r.reliability_p, 1.0 if r.side_p is None else r.side_p)), too_few)


def _without_what_all_do(scored: Sequence[Array]) -> list[Array]:
    """Each rater's scores [2, N] less the mean of the other raters' in the same tenth of their sessions."""
    if len(scored) < MIN_RATERS:
        return list(scored)
    tenths = [np.arange(scores.shape[1]) * TENTHS // scores.shape[1] for scores in scored]
    means = np.stack(
        [
            np.stack([np.bincount(tenth, row, TENTHS) / np.bincount(tenth, minlength=TENTHS) for row in scores])
            for scores, tenth in zip(scored, tenths, strict=True)
        ]
    )  # [R, 2, 10]
    others = (means.sum(0) - means) / (len(scored) - 1)
    return [scores - own[:, tenth] for scores, own, tenth in zip(scored, others, tenths, strict=True)]


def _wandering(scores: Array) -> Array:
    """max_t |S_t - t / n S_n| / (sd sqrt n), of rows of scores [B, N] -> [B]; 0 where all scores are equal."""
    centred = scores - scores.mean(1, keepdims=True)
    spread = centred.std(1) * math.sqrt(scores.shape[1])
    furthest = np.abs(centred.cumsum(1)).max(1)
    return np.asarray(np.where(spread > 1e-9, furthest / np.maximum(spread, 1e-9), 0.0))


def _fit(own: Observed) -> Window:
    """The maximum a posteriori of one rater's parameters, by Newton's method; prior of `data/rater_model.py`."""
    design = np.stack([own.margin, own.side], 1)
    prior, centre = np.array([1 / RELIABILITY_VARIANCE, 1 / SIDE_BIAS_VARIANCE]), np.array([1.0, 0.0])
    found = centre.copy()
    for _ in range(25):
        chance = expit(design @ found)
        gradient = design.T @ (own.weight * (chance - own.label)) + prior * (found - centre)
        hessian = (design * (own.weight * chance * (1 - chance))[:, None]).T @ design + np.diag(prior)
        step = np.clip(np.linalg.solve(hessian, gradient), -1, 1)
        found = found - step
        if np.abs(step).max() < 1e-9:
            break
    errors = np.sqrt(np.diag(np.linalg.inv(hessian)))
    return Window(len(set(own.row.tolist())), float(found[0]), float(errors[0]), float(found[1]), float(errors[1]))


# ── slopes ───────────────────────────────────────────────────────────────────────────────────────────────────────────
class Slope(NamedTuple):
    """A change, its two-sided p-value against none, and why it is no number, if it is none; n counts observations."""

    estimate: Estimate
    p: float
    why: str = ""


def place_slope(
    values: Sequence[float],
    positions: Sequence[float],
    people: Sequence[Hashable],
    items: Sequence[Hashable] | None = None,
) -> Slope:
    """How values change for one position more, within people and, if given, within items.

    Least squares after people's means, and items', are taken out (Frisch & Waugh 1933); standard errors are clustered
    by person. For statements: values 1 for agree and 0 for not, so that the slope is primacy, below 0 where what comes
    first finds more agreement. If everybody reads all items in one order, place and item cannot be told apart: then
    ``why`` says so.
    """
    y, x = (np.asarray(v, dtype=np.float64) for v in (values, positions))
    nothing = Estimate(math.nan, -math.inf, math.inf, len(y))
    ways = [_numbers(people)] + ([_numbers(items)] if items is not None else [])
    if not len(y) or ways[0].max() < 2:
        return Slope(nothing, 1.0, "fewer than three people")
    y, x = (_without_means(v, ways) for v in (y, x))
    variation = float(x @ x)
    if variation < 1e-6 * len(x):
        return Slope(nothing, 1.0, "everybody has the same positions: they cannot be told from the items")
    slope = float(x @ y) / variation
    by_person = np.bincount(ways[0], x * (y - slope * x))
    count = len(by_person)
    error = math.sqrt(count / (count - 1) * float(by_person @ by_person)) / variation
    half = student_t(count - 1) * error
    p = float(2 * stdtr(count - 1, -abs(slope) / error)) if error > 0 else float(slope == 0)
    return Slope(Estimate(slope, slope - half, slope + half, len(y)), p)


def _numbers(names: Sequence[Hashable]) -> NDArray[np.int64]:
    number: dict[Hashable, int] = {}
    return np.array([number.setdefault(name, len(number)) for name in names], dtype=np.int64)


def _without_means(values: Array, ways: Sequence[NDArray[np.int64]]) -> Array:
    """Alternating projections until the means of all ways are 0."""
    for _ in range(1 if len(ways) == 1 else 200):
        before = values
        for way in ways:
            values = values - (np.bincount(way, values) / np.bincount(way))[way]
        if np.abs(values - before).max() < 1e-10:
            break
    return values


class Fatigue(NamedTuple):
    """Over sessions, for `PER` votes more: the change of agreement with the others beyond what their margins explain (a
    share), and of log seconds; None without times. ``raters`` have votes of their own; ``timed`` votes have seconds."""

    agreement: Slope
    log_seconds: Slope | None
    raters: int
    timed: int


def fatigue(rows: Sequence[Comparison], votes: Observed) -> Fatigue:
    """Agreement and seconds against the position in the session.

    A vote agrees with the margin's sign, half if it ties; votes without a margin say nothing about agreement.
    """
    known = np.abs(votes.margin) > 1e-9
    agrees = np.where(votes.margin > 0, votes.label, 1 - votes.label)
    beyond = (agrees - expit(np.abs(votes.margin)))[known]
    agreement = place_slope(beyond.tolist(), (votes.position[known] / PER).tolist(), votes.rater[known].tolist())
    _, first = np.unique(votes.row, return_index=True)  # a row's pairs share its seconds
    timed = [(i, s) for i in first.tolist() if (s := rows[int(votes.row[i])].seconds) is not None]
    seconds = None
    if timed:
        logs = [math.log(max(s, MIN_S)) for _, s in timed]
        at = [i for i, _ in timed]
        seconds = place_slope(logs, (votes.position[at] / PER).tolist(), votes.rater[at].tolist())
    return Fatigue(agreement, seconds, len(set(votes.rater.tolist())), len(timed))


# ── order on the page ────────────────────────────────────────────────────────────────────────────────────────────────
class OrderEffects(NamedTuple):
    """``first_wins``: how often, of two answers, the one shown first won, ties left out; ``primacy``: for rankings of
    three and more, the mean correlation (Kendall's) of place and rank, above 0 where first shown ranks better. Both
    with p-values against no effect. ``first_listed_first``: how often the first option of a row was shown first; if its
    interval leaves out a half, places were not drawn at random, and the other figures may be about the answers."""

    first_wins: Estimate
    first_wins_p: float
    primacy: Estimate
    primacy_p: float
    first_listed_first: Estimate
    unknown_order: int


def order_effects(rows: Sequence[Comparison]) -> OrderEffects:
    """Side bias and primacy over all raters; intervals respect raters and prompts. Keys are no votes."""
    wins: list[tuple[float, Comparison]] = []
    ranked: list[tuple[float, Comparison]] = []
    listed: list[tuple[float, Comparison]] = []
    unknown = 0
    for row in rows:
        ranks = row.ranks()
        if row.gold or not ranks:
            continue
        if row.order_shown is None:
            unknown += 1
            continue
        listed.append((float(row.order_shown.index(0) < row.order_shown.index(1)), row))
        shown = [ranks[i] for i in row.order_shown]
        pairs = [float(np.sign(later - earlier)) for earlier, later in combinations(shown, 2)]
        if len(shown) > 2:
            ranked.append((sum(pairs) / len(pairs), row))
        elif pairs[0]:
            wins.append((0.5 + 0.5 * pairs[0], row))
    first, primacy = _clustered(wins, rate=True), _clustered(ranked, rate=False)
    return OrderEffects(
        first,
        p_of_interval(first.value - 0.5, first.low, first.high) if first.n else 1.0,
        primacy,
        p_of_interval(primacy.value, primacy.low, primacy.high) if primacy.n else 1.0,
        _clustered(listed, rate=True),
        unknown,
    )


def _clustered(values: Sequence[tuple[float, Comparison]], *, rate: bool) -> Estimate:
    raters = [row.rater or f"\0{number}" for number, (_, row) in enumerate(values)]
    return clustered_mean([value for value, _ in values], raters, [row.prompt for _, row in values], rate=rate).estimate
