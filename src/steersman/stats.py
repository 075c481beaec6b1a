"""Intervals and tests for every figure of a report.

All intervals are two-sided at ``confidence`` (0.95 unless said otherwise).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

BINS = 5  # of a calibration table, between 0.5 and 1


class Estimate(NamedTuple):
    """A value with its interval and the number of observations behind it."""

    value: float
    low: float
    high: float
    n: int

    def percent(self) -> str:
        """For people: ``83 % [75, 89], n=120``."""
        if not self.n:
            return "no data"
        return f"{100 * self.value:.0f} % [{100 * self.low:.0f}, {100 * self.high:.0f}], n={self.n}"

    def json(self) -> dict[str, float | int | None]:
        """For a file: null for NaN and infinity, which JSON lacks."""
        value, low, high = (x if math.isfinite(x) else None for x in self[:3])
        return {"value": value, "low": low, "high": high, "n": self.n}

    def plain(self) -> str:
        """For people, a value that is not a rate: ``0.62 [0.51, 0.70], n=120``."""
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}], n={self.n}" if self.n else "no data"


def _z(confidence: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson(successes: int, n: int, confidence: float = 0.95) -> Estimate:
    """Wilson's score interval for a rate (Wilson 1927). With n = 0: value NaN and the interval [0, 1]."""
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie between 0 and n, got {successes} of {n}")
    if n == 0:
        return Estimate(math.nan, 0.0, 1.0, 0)
    return Estimate(successes / n, *score_limits(successes / n, n, _z(confidence)), n)


def score_limits(p: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's limits for a rate among n observations; n may be fractional."""
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(before: Sequence[bool], after: Sequence[bool], confidence: float = 0.95) -> Estimate:
    """Difference of two rates on the same items, after minus before, with Newcombe's hybrid score interval.

    Method 10 of Newcombe (1998), "Improved confidence intervals for the difference between binomial proportions
    based on paired data": Wilson limits of each rate, joined through the correlation of the pairs.
    """
    if len(before) != len(after):
        raise ValueError(f"pairs need equal lengths, got {len(before)} and {len(after)}")
    n = len(before)
    if n == 0:
        return Estimate(math.nan, -1.0, 1.0, 0)
    both = sum(1 for b, a in zip(before, after, strict=True) if b and a)
    only_after = sum(1 for b, a in zip(before, after, strict=True) if a and not b)
    only_before = sum(1 for b, a in zip(before, after, strict=True) if b and not a)
    neither = n - both - only_after - only_before
    p_after, low_after, high_after, _ = wilson(both + only_after, n, confidence)
    p_before, low_before, high_before, _ = wilson(both + only_before, n, confidence)
    margins = (both + only_after) * (only_before + neither) * (both + only_before) * (only_after + neither)
    phi = 0.0
    if margins > 0:
        cross = float(both * neither - only_after * only_before)
        cross = max(cross - n / 2, 0.0) if cross > 0 else cross  # Newcombe's continuity correction
        phi = cross / math.sqrt(margins)
    difference = p_after - p_before

    def half_width(d_after: float, d_before: float) -> float:
        return math.sqrt(max(0.0, d_after**2 - 2 * phi * d_after * d_before + d_before**2))

    low = difference - half_width(p_after - low_after, high_before - p_before)
    high = difference + half_width(high_after - p_after, p_before - low_before)
    return Estimate(difference, max(-1.0, low), min(1.0, high), n)


def independent_difference(before: Estimate, after: Estimate) -> Estimate:
    """Difference of two independent rates, after minus before, from their Wilson intervals.

    Method 10 of Newcombe (1998), "Interval estimation for the difference between independent proportions".
    """
    if not (before.n and after.n):
        return Estimate(math.nan, -1.0, 1.0, 0)
    difference = after.value - before.value
    low = difference - math.hypot(after.value - after.low, before.high - before.value)
    high = difference + math.hypot(after.high - after.value, before.value - before.low)
    return Estimate(difference, low, high, min(before.n, after.n))


def mcnemar_exact(before: Sequence[bool], after: Sequence[bool]) -> float:
    """Two-sided exact McNemar test: the p-value of the discordant pairs under a fair coin."""
    if len(before) != len(after):
        raise ValueError(f"pairs need equal lengths, got {len(before)} and {len(after)}")
    gained = sum(1 for b, a in zip(before, after, strict=True) if a and not b)
    lost = sum(1 for b, a in zip(before, after, strict=True) if b and not a)
    discordant = gained + lost
    tail: float = sum(math.comb(discordant, k) for k in range(min(gained, lost) + 1)) / 2**discordant
    return min(1.0, 2 * tail)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values: rejecting those below a level keeps the chance of any false rejection below it.

    No assumption about how the tests depend on one another.
    """
    adjusted, highest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def p_of_interval(distance: float, low: float, high: float, confidence: float = 0.95) -> float:
    """Two-sided p-value, by the normal distribution, of a distance from 0 of which only the interval is known.

    An interval of no width is that of a distance without error: p is 1 at 0, else 0.
    """
    error = (high - low) / (2 * _z(confidence))
    return math.erfc(abs(distance) / error / math.sqrt(2)) if error > 0 else float(distance == 0)


def mean_estimate(values: Sequence[float], confidence: float = 0.95, resamples: int = 4000, seed: int = 0) -> Estimate:
    """Mean with a percentile bootstrap interval. Without values: NaN and the whole line."""
    if not values:
        return Estimate(math.nan, -math.inf, math.inf, 0)
    data = np.asarray(values, dtype=np.float64)
    means = data[np.random.default_rng(seed).integers(0, len(data), size=(resamples, len(data)))].mean(1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(float(data.mean()), float(low), float(high), len(data))


class Clustered(NamedTuple):
    """A mean of clustered observations. ``design_effect``, 1 or more: the ratio of observations needed to independent
    ones; ``quantile``: the half width of the interval in standard errors."""

    estimate: Estimate
    design_effect: float
    quantile: float


def clustered_mean(
    values: Sequence[float] | NDArray[np.float64],
    *clusters: Sequence[Hashable] | NDArray[np.integer[Any]],
    confidence: float = 0.95,
    rate: bool = False,
) -> Clustered:
    """A mean whose observations share a prompt, a rater or both: the sandwich of Cameron, Gelbach & Miller (2011).

    The variance is the sum of each clustering's less that of their intersection, and no less than any single one's;
    Student's quantile has the degrees of freedom of the clustering with the fewest clusters. One with a single cluster
    is ignored: the data carry no information about other clusters.

    Args:
        values: the observations; clusters: for each clustering, the cluster of each observation.
        rate: values lie in [0, 1], and the limits are Wilson's with n over the design effect (Korn & Graubard 1998),
            which stay in [0, 1] and remain valid if all values are equal: then a cluster is one observation.
    """
    n = len(values)
    if n == 0:
        return Clustered(Estimate(math.nan, *((0.0, 1.0) if rate else (-math.inf, math.inf)), 0), 1.0, _z(confidence))
    data = np.asarray(values, dtype=np.float64)
    errors, mean = data - data.mean(), float(data.mean())
    ways = [codes for way in clusters if (codes := _codes(way)).max() > 0]
    variance, alone = _sandwich(errors, ways), float(errors @ errors) / max(1, n * (n - 1))
    effect = max(1.0, variance / alone if alone else n / min((int(way.max()) + 1 for way in ways), default=n))
    freedom = min((int(way.max()) for way in ways), default=n - 1)
    z = student_t(freedom, confidence) if freedom else _z(confidence)
    half = z * math.sqrt(alone * effect)
    limits = score_limits(mean, n / effect, z) if rate else (mean - half, mean + half)
    return Clustered(Estimate(mean, *limits, n), effect, z)


def _codes(way: Sequence[Hashable] | NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Clusters numbered from 0."""
    if isinstance(way, np.ndarray):
        numbered: NDArray[np.int64] = np.unique(way, return_inverse=True)[1].astype(np.int64)
        return numbered
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(cluster, len(known)) for cluster in way], dtype=np.int64)


def _sandwich(errors: NDArray[np.float64], ways: Sequence[NDArray[np.int64]]) -> float:
    """The variance of a mean by up to two clusterings."""

    def of(way: NDArray[np.int64]) -> float:
        sums = np.bincount(way, errors)
        return float(len(sums) / (len(sums) - 1) * (sums @ sums) / len(errors) ** 2)

    single = [of(way) for way in ways]
    both = sum(single) - of(_codes(ways[0] * (ways[1].max() + 1) + ways[1])) if len(ways) == 2 else 0.0
    return max([both, *single], default=0.0)


def student_t(freedom: int, confidence: float = 0.95) -> float:
    """Two-sided quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + confidence / 2))


def observations_for(rate: float, margin: float, quantile: float) -> float:
    """The number of independent observations, fractional, that gives Wilson's interval this half width.

    Args:
        rate: the expected one, in [0, 1]; margin: in (0, 0.5); quantile: as of `Clustered`.
    """
    if not (0 <= rate <= 1 and 0 < margin < 0.5):
        raise ValueError(f"a rate in [0, 1] and a margin in (0, 0.5) are needed, got {rate} and {margin}")
    few, many = 1e-6, 1e12
    for _ in range(200):  # the width falls as n grows
        n = math.sqrt(few * many)
        low, high = score_limits(rate, n, quantile)
        few, many = (n, many) if high - low > 2 * margin else (few, n)
    return many


def ratio_of_perplexities(
    before_nll_nats: Sequence[float],
    after_nll_nats: Sequence[float],
    tokens: Sequence[int],
    confidence: float = 0.95,
    resamples: int = 4000,
    seed: int = 0,
) -> Estimate:
    """exp(mean token NLL after - before) with a paired bootstrap interval over passages.

    Args:
        before_nll_nats, after_nll_nats: summed negative log-likelihood of each passage, in nats.
        tokens: number of scored tokens of each passage.
    """
    before, after, count = (np.asarray(x, dtype=np.float64) for x in (before_nll_nats, after_nll_nats, tokens))
    if not len(before) == len(after) == len(count) or len(count) == 0:
        raise ValueError("passages need equal, non-zero lengths")
    picks = np.random.default_rng(seed).integers(0, len(count), size=(resamples, len(count)))
    ratios = np.exp((after - before)[picks].sum(1) / count[picks].sum(1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    value = math.exp(float((after - before).sum() / count.sum()))
    return Estimate(value, float(low), float(high), len(count))


def calibration(margins: Sequence[float]) -> dict[str, Any]:
    """Calibration table (claimed against observed accuracy by confidence) and expected calibration error.

    Args:
        margins: the better answer's score minus the worse one's, in nats; sigmoid(|margin|) is the confidence.
    """
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for margin in margins:
        claimed = 1 / (1 + math.exp(-min(abs(margin), 50.0)))
        bins[min(BINS - 1, int((claimed - 0.5) * 2 * BINS))].append((claimed, margin > 0))
    rows, gap = [], 0.0
    for pairs in filter(None, bins):
        claimed, right = sum(c for c, _ in pairs) / len(pairs), wilson(sum(r for _, r in pairs), len(pairs))
        rows.append({"claimed": claimed, "right": right._asdict()})
        gap += right.n * abs(claimed - right.value)
    return {"bins": rows, "expected_error": gap / len(margins) if margins else None}
