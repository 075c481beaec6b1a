"""From replies to figures: columns, metrics with intervals, paired differences, nulls, and what got worse.

Questions made from one template are no independent observations, so the bootstrap draws clusters, not questions. One
set of draws serves every metric of a suite and every arm: a difference is paired because both arms are computed from
the same draw. A formula over means of columns is computed for all draws at once, from sums over clusters: with W draws
of C clusters, their counts [W, C] times the clusters' sums [C, K] of K columns.

A plain rate gets Wilson's interval with n over the design effect (`stats.clustered_mean`), which stays within 0 and 1
and does not collapse where all answers agree. Where all draws agree, the bootstrap knows of no spread, and its interval
would have no width. Then a rate is given the limits that follow from Wilson's of the means in its formula, the clusters
being the observations (`agreeing_limits`); a change of a rate the rule of three, 3 over the number of clusters times
what a cluster can change; both within what the figure can be. A figure that is no rate has no interval then. The
p-value of a change is the normal one of its interval, and no smaller than a sign test of the D clusters that changed
could be, 2^(1-D).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steersman.evals.suites.suite import Columns, Metric, OfMeans, Question, Reply, Suite, known_mean, mean
from steersman.stats import clustered_mean, holm, p_of_interval, score_limits

RESAMPLES = 2000
SLOW_RESAMPLES = 400  # for a formula that is not one over means
AT_ONCE = 250  # draws whose counts are held in memory
CONFIDENCE = 0.95
QUANTILE = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
ROUNDING = 1e-9  # draws that differ by no more agree
NULL_DRAWS = 10
LEVEL = 0.05

Floats = NDArray[np.float64]
Numbers = dict[str, Any]  # value, low, high, n
Limits = tuple[float, float]


class Observed(NamedTuple):
    """The columns of one arm, [Q] each, and the cluster of each question, [Q] from 0."""

    columns: Columns
    clusters: NDArray[np.int64]

    def where(self, kept: NDArray[np.bool_]) -> Observed:
        """Some of the questions, their clusters numbered anew."""
        columns = {name: column[kept] for name, column in self.columns.items()}
        return Observed(columns, np.unique(self.clusters[kept], return_inverse=True)[1])


def observe(suite: Suite, questions: Sequence[Question], replies: Sequence[Reply | None]) -> Observed:
    """The columns of an arm; a question without a reply says nothing."""
    rows = [
        {} if reply is None else suite.columns(question, reply)
        for question, reply in zip(questions, replies, strict=True)
    ]
    needed = {
        name
        for metric in suite.metrics.values()
        if isinstance(metric.formula, OfMeans)
        for name in metric.formula.names
    }
    names = sorted(needed.union(*rows))
    columns = {name: np.array([row.get(name, math.nan) for row in rows], dtype=np.float64) for name in names}
    return Observed(columns, clusters_of(questions))


def clusters_of(questions: Sequence[Question]) -> NDArray[np.int64]:
    """The number of each question's cluster; a question without a name for it is its own."""
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(q.cluster or i, len(numbers)) for i, q in enumerate(questions)], dtype=np.int64)


# ── the bootstrap ────────────────────────────────────────────────────────────────────────────────────────────────────
def draws(formulas: Mapping[str, Callable[[Columns], float]], observed: Observed, seed: int = 0) -> dict[str, Floats]:
    """The values of formulas over resampled clusters; the same clusters for the same number of them and seed."""
    count = int(observed.clusters.max()) + 1 if len(observed.clusters) else 0
    fast = {name: formula for name, formula in formulas.items() if isinstance(formula, OfMeans)}
    found: dict[str, list[Floats]] = {name: [] for name in formulas}
    needed = sorted({name for formula in fast.values() for name in formula.names})
    sums, known = _by_cluster(observed, needed, count)
    generator, done = np.random.default_rng(seed), 0
    while count and done < RESAMPLES:
        picks = generator.integers(0, count, size=(min(AT_ONCE, RESAMPLES - done), count))
        weights = np.stack([np.bincount(row, minlength=count) for row in picks]).astype(np.float64)  # [W, C]
        with np.errstate(invalid="ignore", divide="ignore"):
            means = (weights @ sums) / (weights @ known)  # [W, K]; NaN where a draw has no question
            for name, formula in fast.items():
                found[name].append(formula.function(*(means[:, needed.index(column)] for column in formula.names)))
        for name in formulas.keys() - fast.keys():
            rows = weights[: max(0, SLOW_RESAMPLES - done)].astype(np.int64)
            found[name].append(np.array([_once(formulas[name], observed, row) for row in rows], dtype=np.float64))
        done += len(picks)
    return {name: np.concatenate(parts) if parts else np.array([]) for name, parts in found.items()}


def _by_cluster(observed: Observed, names: Sequence[str], count: int) -> tuple[Floats, Floats]:
    """Of each cluster and column the sum and the number of what is known, both [C, K]."""
    sums, known = np.zeros((count, len(names))), np.zeros((count, len(names)))
    for place, name in enumerate(names):
        column = observed.columns[name]
        there = ~np.isnan(column)
        sums[:, place] = np.bincount(observed.clusters[there], column[there], minlength=count)
        known[:, place] = np.bincount(observed.clusters[there], minlength=count)
    return sums, known


def _once(formula: Callable[[Columns], float], observed: Observed, weights: NDArray[np.int64]) -> float:
    rows = np.repeat(np.arange(len(observed.clusters)), weights[observed.clusters])
    return formula({name: column[rows] for name, column in observed.columns.items()})


def interval(value: float, drawn: Floats, clusters: int, n: int, agreeing: Limits | None = None) -> Numbers:
    """A value with the percentile interval of its draws, as JSON values; no limits from fewer than two clusters.

    Args:
        agreeing: the limits where all draws agree; None: there are none then.
    """
    drawn = drawn[np.isfinite(drawn)]
    if not math.isfinite(value) or clusters < 2 or not len(drawn):
        return {"value": value if math.isfinite(value) else None, "low": None, "high": None, "n": n}
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = (float(limit) for limit in np.percentile(drawn, [tail, 100 - tail]))
    if high - low > ROUNDING:
        return {"value": value, "low": low, "high": high, "n": n}
    if agreeing is None:
        return {"value": value, "low": None, "high": None, "n": n, "why": "all resamples agree"}
    return {"value": value, "low": agreeing[0], "high": agreeing[1], "n": n}


def agreeing_limits(metric: Metric, seen: Observed, value: float, clusters: int) -> Limits | None:
    """Limits of a rate of which all draws agree; None for what is no rate, or whose columns are none.

    Every mean in the formula is moved to its Wilson limits, one after the other, with its clusters as observations;
    what this takes from the value and adds to it is summed in squares, down and up (MOVER: Zou & Donner 2008). So a
    mean has Wilson's limits, and a difference of two Newcombe's (1998, method 10 of independent proportions). A formula
    over whole columns is taken for a mean over clusters.
    """
    if not metric.is_rate or not math.isfinite(value):
        return None
    least, most = metric.bounds
    formula, moved = metric.formula, []
    if isinstance(formula, OfMeans):
        means = {name: known_mean(seen.columns[name]) for name in formula.names}
        for name, rate in means.items():
            known = ~np.isnan(seen.columns[name])
            if seen.columns[name][known].min() < 0 or seen.columns[name][known].max() > 1:
                return None
            limits = score_limits(rate, len(np.unique(seen.clusters[known])), QUANTILE)
            moved.append([float(formula.function(*{**means, name: limit}.values())) for limit in limits])
    elif (least, most) == (0.0, 1.0):
        moved.append(list(score_limits(value, clusters, QUANTILE)))
    else:
        return None
    down, up = (math.hypot(*(max(0.0, *(sign * (to - value) for to in ends)) for ends in moved)) for sign in (-1, 1))
    return max(least, value - down), min(most, value + up)


# ── one suite ────────────────────────────────────────────────────────────────────────────────────────────────────────
def figures(suite: Suite, questions: Sequence[Question], arms: Mapping[str, Sequence[Reply | None]]) -> Numbers:
    """Every metric of a suite by arm, its differences from the first arm, by group, and by null, as JSON values.

    Args:
        arms: replies to the questions by the arm's name, None where there was none; the first is what others are
            compared with.
    """
    observed = {arm: observe(suite, questions, replies) for arm, replies in arms.items()}
    nulls = null_values(suite, questions)
    formulas = {slug: metric.formula for slug, metric in suite.metrics.items()}
    drawn = {arm: draws(formulas, seen) for arm, seen in observed.items()}
    changed = {arm: _changes(suite, arms, observed, arm) for arm in [*arms][1:]}
    metrics = []
    for slug, metric in suite.metrics.items():
        row: Numbers = {"metric": slug, "title": metric.title, "better": metric.better, "is_rate": metric.is_rate}
        row["arms"] = {arm: estimate(metric, seen, drawn[arm][slug]) for arm, seen in observed.items()}
        row["changes"] = {arm: found[slug] for arm, found in changed.items()}
        row["nulls"] = {name: values[slug] for name, values in nulls.items()}
        metrics.append(row)
    return {"metrics": metrics, "groups": _groups(suite, questions, observed)}


def estimate(metric: Metric, seen: Observed, drawn: Floats) -> Numbers:
    """One metric of one arm with its interval."""
    formula, value = metric.formula, metric.formula(seen.columns)
    known = _known(metric, seen)
    n, clusters = int(known.sum()), len(np.unique(seen.clusters[known]))
    if metric.is_rate and n and isinstance(formula, OfMeans) and formula == mean(formula.names[0]):
        values = seen.columns[formula.names[0]][known]
        if values.min() >= 0 and values.max() <= 1:
            ways = [seen.clusters[known].tolist()] if clusters < n else []
            return clustered_mean(values.tolist(), *ways, rate=True, confidence=CONFIDENCE).estimate.json()
    return interval(value, drawn, clusters, n, agreeing_limits(metric, seen, value, clusters))


def _names(metric: Metric, seen: Observed) -> tuple[str, ...]:
    """The columns that a metric reads."""
    return metric.formula.names if isinstance(metric.formula, OfMeans) else tuple(seen.columns)


def _known(metric: Metric, seen: Observed) -> NDArray[np.bool_]:
    """The questions that a metric reads something of."""
    there = [~np.isnan(seen.columns[name]) for name in _names(metric, seen)]
    return np.any(there, axis=0) if there else np.zeros(len(seen.clusters), dtype=bool)


def _changes(
    suite: Suite, arms: Mapping[str, Sequence[Reply | None]], observed: Mapping[str, Observed], after: str
) -> dict[str, Numbers]:
    """What became of every metric since the first arm, on the questions that both arms answered."""
    before = next(iter(arms))
    kept = np.array(
        [a is not None and b is not None for a, b in zip(arms[before], arms[after], strict=True)], dtype=bool
    )
    pair = [observed[arm].where(kept) for arm in (before, after)]
    formulas = {slug: metric.formula for slug, metric in suite.metrics.items()}
    drawn = [draws(formulas, seen) for seen in pair]
    return {slug: change(metric, pair, [d[slug] for d in drawn]) for slug, metric in suite.metrics.items()}


def change(metric: Metric, pair: Sequence[Observed], drawn: Sequence[Floats]) -> Numbers:
    """What became of a metric: the same questions before and after, with draws of the same clusters.

    Returns:
        ``value``, ``low``, ``high``: of the difference, after less before; ``worsening``: of the change of what should
        be small (the metric's distance from where it should be), with its two-sided p-value ``p``.
    """
    values = [metric.formula(seen.columns) for seen in pair]
    n, read = len(pair[0].clusters), _known(metric, pair[0]) | _known(metric, pair[1])
    clusters = len(np.unique(pair[0].clusters[read]))
    bottom, top = metric.bounds
    changed = values[1] - values[0]
    limits = _rule_of_three(metric, changed, clusters, top - bottom)
    difference = interval(changed, drawn[1] - drawn[0], clusters, n, limits)
    losses = [loss(metric, np.array(value)) for value in values]
    lost = [loss(metric, some) for some in drawn]
    worse = float(losses[1] - losses[0])
    # From one bound to the other; of what should be near a value, from there to the bound that is further away.
    largest = {"zero": max(-bottom, top), "half": max(0.5 - bottom, top - 0.5)}.get(metric.better, top - bottom)
    worsening = interval(worse, lost[1] - lost[0], clusters, n, _rule_of_three(metric, worse, clusters, largest))
    known = worsening["low"] is not None
    p = p_of_interval(*(worsening[key] for key in ("value", "low", "high"))) if known else 1.0
    least = min(1.0, 2.0 ** (1 - min(_changed_clusters(metric, *pair), 60)))
    return {**difference, "worsening": worsening, "p": max(p, least)}


def _rule_of_three(metric: Metric, change: float, clusters: int, most: float) -> Limits | None:
    """Limits of a change of a rate that all draws agree on, within the ``most`` that it can be on either side."""
    if not metric.is_rate or not clusters:
        return None
    wide = 3 / clusters * most
    return max(-most, change - wide), min(most, change + wide)


def _changed_clusters(metric: Metric, before: Observed, after: Observed) -> int:
    """How many clusters hold a question of which a column that the metric reads is another than before."""
    changed = np.zeros(len(before.clusters), dtype=bool)
    for name in _names(metric, before):
        changed |= ~np.isclose(before.columns[name], after.columns[name], rtol=0, atol=0, equal_nan=True)
    return len(np.unique(before.clusters[changed]))


def loss(metric: Metric, values: Floats) -> Floats:
    """What of a metric should be small."""
    target = {"lower": values, "zero": np.abs(values), "half": np.abs(values - 0.5)}
    return target.get(metric.better, -values)


def null_values(suite: Suite, questions: Sequence[Question]) -> dict[str, dict[str, float | None]]:
    """Every metric of replies without a model: the mean over `NULL_DRAWS` draws, None where it is not defined."""
    found = {}
    for name, null in suite.nulls.items():
        drawn: dict[str, list[float]] = {slug: [] for slug in suite.metrics}
        for draw in range(NULL_DRAWS):
            start = draw * len(questions)
            seen = observe(suite, questions, [null(question, start + i) for i, question in enumerate(questions)])
            for slug, metric in suite.metrics.items():
                drawn[slug].append(metric.formula(seen.columns))
        means = {slug: float(np.mean(values)) for slug, values in drawn.items()}
        found[name] = {slug: value if math.isfinite(value) else None for slug, value in means.items()}
    return found


def _groups(suite: Suite, questions: Sequence[Question], observed: Mapping[str, Observed]) -> list[Numbers]:
    """Every metric for each value of the fact `Suite.by`, by arm."""
    if not suite.by:
        return []
    values = np.array([str(question.facts.get(suite.by, "")) for question in questions])
    formulas = {slug: metric.formula for slug, metric in suite.metrics.items()}
    rows = []
    for value in sorted(set(values.tolist())):
        some = {arm: seen.where(values == value) for arm, seen in observed.items()}
        drawn = {arm: draws(formulas, seen) for arm, seen in some.items()}
        found = {
            slug: {arm: estimate(metric, seen, drawn[arm][slug]) for arm, seen in some.items()}
            for slug, metric in suite.metrics.items()
        }
        rows.append({"group": value, "n": int((values == value).sum()), "metrics": found})
    return rows


# ── all suites ───────────────────────────────────────────────────────────────────────────────────────────────────────
def verdicts(suites: Sequence[Mapping[str, Any]], arm: str) -> list[dict[str, Any]]:
    """The changes of all metrics of an arm, those that got worse first, with Holm's correction over all of them.

    ``outcome`` is worse or better where the corrected p-value is below `LEVEL`, else unsure.
    """
    rows = [
        {"suite": suite["suite"], "suite_title": suite["title"], **row, "change": row["changes"][arm]}
        for suite in suites
        for row in suite["metrics"]
        if row["better"] != "none" and arm in row["changes"] and row["changes"][arm]["value"] is not None
    ]
    for row, p in zip(rows, holm([row["change"]["p"] for row in rows]), strict=True):
        worse = row["change"]["worsening"]["value"] > 0
        row["p_holm"], row["outcome"] = p, "unsure" if p >= LEVEL else "worse" if worse else "better"
    order = {"worse": 0, "unsure": 1, "better": 2}
    return sorted(rows, key=lambda row: (order[row["outcome"]], -_evidence(row["change"]), row["suite"]))


def _evidence(change: Mapping[str, Any]) -> float:
    """From 1, surely worse, to -1, surely better."""
    return math.copysign(1 - float(change["p"]), change["worsening"]["value"])
