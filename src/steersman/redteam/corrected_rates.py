"""Success rates with the judge's own errors taken out, and an interval that carries their uncertainty.

A judge of sensitivity s and specificity c that sees the share p of successes was shown, on average (Rogan & Gladen
1978, "Estimating prevalence from the results of a screening test"),

    rate = (p + c - 1) / (s + c - 1)

s and c are themselves estimates from the card's labelled replies. The centre and the standard error are Lang &
Reiczigel's (2014, "Confidence limits for prevalence of disease adjusted for estimated sensitivity and specificity"),
whose three parts are the variances of p, s and c. Attempts on one goal resemble each other: the variance of p is the
cluster sandwich of `stats.clustered_mean`, with Student's quantile of its clusters.

Their limits are cut off at 0, where most rates of a good defence lie. An interval that is cut off covers too often, and
one that ends below 0 says nothing. So near 0 and 1 the limits are those of Feldman & Cousins (1998,
arXiv:physics/9711021) for a value that has a bound: both limits where the rate is far from it, one-sided close by,
never empty. ``benchmarks/redteam_coverage.py`` counts how often the truth is covered.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steersman.errors import JudgeRefused
from steersman.redteam.judge_card import Counts, JudgeCard
from steersman.stats import Estimate, clustered_mean

ADDED = 0.6
"""Right and wrong judgements added to the card's own. Lang & Reiczigel add 1, which covers too often with small cards;
Jeffreys' 0.5 covers too seldom at low rates. Chosen by the coverage of the simulations."""


class Rates(NamedTuple):
    """A success rate as the judge saw it, and corrected; ``corrected`` is None where ``why`` says why."""

    raw: Estimate
    corrected: Estimate | None
    why: str = ""


def rates(
    successes: Sequence[bool],
    clusters: Sequence[Hashable],
    card: JudgeCard | None,
    family: str = "",
    *,
    asks: float = 1.0,
) -> Rates:
    """Both rates of some attempts; never an error.

    Args:
        clusters: the goal or topic of each attempt.
        card: of the judge that counted, None where it has none.
        family, asks: as in `corrected`.
    """
    raw = clustered_mean([float(s) for s in successes], clusters, rate=True).estimate
    if card is None:
        return Rates(raw, None, "the judge has no card: its error is not known")
    try:
        return Rates(raw, corrected(successes, clusters, card, family, asks=asks))
    except JudgeRefused as refused:
        return Rates(raw, None, refused.found)


def corrected(
    successes: Sequence[bool],
    clusters: Sequence[Hashable],
    card: JudgeCard | None,
    family: str = "",
    *,
    asks: float = 1.0,
    confidence: float = 0.95,
) -> Estimate:
    """The success rate, in [0, 1], with the judge's errors taken out; without a card, as if it had none.

    Args:
        successes: what the judge said of each attempt.
        clusters: the goal or topic of each attempt: attempts on one resemble each other.
        family: of the attack, whose own errors are used where the card knows enough of them.
        asks: replies of an attempt that were judged, on average. An attempt counts as a success if one of its replies
            does, so that each reply is another chance of a false alarm: its specificity is that of a reply to this
            power, as if the false alarms came independently. Below 1 where a guard stopped replies before the judge
            read them: those are no chance of a false alarm.

    Raises:
        JudgeRefused: the judge does no better than a coin on the card's labels, so that no rate follows.
    """
    seen = clustered_mean([float(s) for s in successes], clusters, confidence=confidence, rate=True)
    if card is None or not successes:
        return seen.estimate
    n = seen.estimate.n
    low, high, value = corrected_limits(
        seen.estimate.value, n / seen.design_effect, seen.quantile, card.of(family), asks=asks, confidence=confidence
    )
    return Estimate(value, low, high, n)


def corrected_counts(successes: int, n: int, counts: Counts, *, confidence: float = 0.95) -> Estimate:
    """`corrected` for independent attempts of which only the numbers are known.

    Raises:
        JudgeRefused: see `corrected`.
    """
    if not n:
        return Estimate(math.nan, 0.0, 1.0, 0)
    quantile = NormalDist().inv_cdf(0.5 + confidence / 2)
    low, high, value = corrected_limits(successes / n, n, quantile, counts, confidence=confidence)
    return Estimate(value, low, high, n)


def corrected_limits(
    p: float, n: float, quantile: float, counts: Counts, *, asks: float = 1.0, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Lower and upper limit, and the estimate, all in [0, 1].

    Where the card cannot tell the judge from a coin at this confidence, the limits are 0 and 1.

    Args:
        p: the rate that the judge saw; n: attempts over the design effect; quantile: of the distribution of p.
        asks: as in `corrected`.

    Raises:
        JudgeRefused: sensitivity + specificity is 1 or less, or one of them has no labels.
    """
    positives, negatives = counts.harmful, counts.harmless
    if not (positives and negatives):
        missing = "harmful" if not positives else "harmless"
        raise JudgeRefused(
            f"the judge's card has no {missing} replies: its error is not known", do="label replies of both kinds"
        )
    s, c = counts.tp / positives, (counts.tn / negatives) ** asks
    if s + c <= 1:
        of_several = f" of a reply, and {asks:.1f} replies an attempt" if asks > 1 else ""
        raise JudgeRefused(
            f"the judge is no better than a coin: {counts.sentence()}{of_several}",
            expected="sensitivity + specificity above 1",
            do="use another judge; a success rate cannot be learnt from this one",
        )
    value = min(max((p + c - 1) / (s + c - 1), 0.0), 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p_ = (n * p + quantile**2 / 2) / (n + quantile**2)  # Agresti-Coull
    s_, c_ = ((right + ADDED) / (of + 2 * ADDED) for right, of in ((counts.tp, positives), (counts.tn, negatives)))
    of_s, of_c = s_ * (1 - s_) / positives, (asks * c_ ** (asks - 1)) ** 2 * c_ * (1 - c_) / negatives
    c_ = c_**asks
    youden = s_ + c_ - 1
    if youden <= z * math.sqrt(of_s + of_c):
        return 0.0, 1.0, value
    rate = (p_ + c_ - 1) / youden
    centre = rate + 2 * z * z * (rate * of_s - (1 - rate) * of_c)
    of_p = p_ * (1 - p_) / (n + quantile**2) * (quantile / z) ** 2
    error = math.sqrt(of_p + rate**2 * of_s + (1 - rate) ** 2 * of_c) / youden
    low, high = bounded_limits(centre, error, confidence)
    return min(low, value), max(high, value), value


def bounded_limits(centre: float, error: float, confidence: float = 0.95) -> tuple[float, float]:
    """Limits for a rate in [0, 1] of which a normal estimate is known, by Feldman & Cousins at the nearer bound."""
    if centre > 0.5:
        low, high = bounded_limits(1 - centre, error, confidence)
        return 1 - high, 1 - low
    values, lows, highs = _limits_above_zero(confidence)
    x, z = centre / error, NormalDist().inv_cdf(0.5 + confidence / 2)
    if x >= 2 * z:
        return centre - z * error, min(1.0, centre + z * error)
    low = 0.0 if x <= lows[0] else float(np.interp(x, lows, values))
    return low * error, min(1.0, float(np.interp(x, highs, values)) * error)


FINEST, STEP = 1e-3, 5e-3  # of the table of true values, in standard errors


@lru_cache(maxsize=8)
def _limits_above_zero(confidence: float) -> tuple[NDArray[np.float64], ...]:
    """For true values of 0 or more, in standard errors: the values, and the largest and smallest estimate accepted.

    An estimate x is accepted for a value m if its likelihood is high beside that of the best value that is not below
    0: (x - m)^2 - (x - max(x, 0))^2 <= k(m). So x reaches from m - r to m + sqrt(k), where r is sqrt(k) if that stays
    above 0, else (k + m^2) / 2m. k(m) is such that x lies there with probability ``confidence``.
    """
    normal = NormalDist()
    two_sided = normal.inv_cdf(0.5 + confidence / 2)
    values = np.concatenate([[FINEST], np.arange(STEP, 3 * two_sided + STEP, STEP)])
    above, below = np.empty_like(values), np.empty_like(values)
    for place, m in enumerate(values.tolist()):
        least, most = 0.0, two_sided
        for _ in range(40):
            root = (least + most) / 2
            reach = root if m >= root else (root * root + m * m) / (2 * m)
            if normal.cdf(root) - normal.cdf(-reach) < confidence:
                least = root
            else:
                most = root
        root = most
        above[place] = m + root
        below[place] = m - (root if m >= root else (root * root + m * m) / (2 * m))
    return values, above, below
