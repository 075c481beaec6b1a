"""Agreement of raters, and the likely true label of an item that they label differently.

**Krippendorff's alpha** (1970; Content Analysis, 4th ed. 2019, ch. 12) is 1 - observed / expected disagreement: 1 for
raters who always agree, 0 for labels handed out by chance. Any number of raters, gaps allowed; an item with one label
says nothing and is left out. The interval resamples items (Zapf et al. 2016, doi:10.1186/s12874-016-0200-9).

**Dawid & Skene** (1979, Applied Statistics 28) explain categorical labels by an unknown true class of each item and a
confusion matrix of each rater, by expectation maximisation from the shares of votes. It needs about three labels an
item; for comparisons of answers, whose votes are about different pairs, there is `raters.py`.

Comparisons are turned into labels by `preferences`, in the order of the texts and never of the places.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import krippendorff
import numpy as np
from numpy.typing import NDArray

from steersman.data.rater_model import pair_votes
from steersman.errors import DataError
from steersman.stats import Estimate, mean_estimate, wilson
from steersman.types import Comparison

Level = Literal["nominal", "ordinal", "interval", "ratio"]
Label = float | str
Labels = Mapping[str, Label]  # of one item, by rater
RESAMPLES = 1000
TINY = np.finfo(float).tiny  # has a logarithm
SMOOTHING = 0.01  # of a vote, in each cell of a confusion matrix: a rater's first error stays possible


class Agreement(NamedTuple):
    """Alpha with its interval; ``n`` are the items with two labels or more. ``why`` it is no number, if it is none."""

    alpha: Estimate
    raters: int
    labels: int
    why: str = ""


def preferences(votes: Sequence[Comparison]) -> list[dict[str, Label]]:
    """Two answers to a prompt are an item; its labels are 1 the first is better, -1 the second, 0 a tie.

    Of a rater's repeated votes the first is taken, and each vote without a rater counts as a rater of its own. Gold
    rows are no votes.
    """
    items = []
    for own in pair_votes([vote for vote in votes if not vote.gold]).values():
        labels: dict[str, Label] = {}
        for vote in own:
            labels.setdefault(vote.rater or f"vote {vote.row}", vote.preference)
        items.append(labels)
    return items


def alpha(items: Sequence[Labels], level: Level = "nominal", confidence: float = 0.95, seed: int = 0) -> Agreement:
    """Krippendorff's alpha of the labels of items, with a bootstrap interval over items.

    Args:
        items: labels by rater; numbers, unless the level is nominal.
        level: how far apart two labels are: ``nominal`` different or not; ``ordinal`` by the labels between them;
            ``interval`` and ``ratio`` by their difference.

    Raises:
        DataError: labels are text and the level is not nominal, or one is NaN or infinite.
    """
    paired = [list(labels.values()) for labels in items if len(labels) > 1]
    raters, labels = len({rater for item in items for rater in item}), sum(map(len, items))
    nothing = Estimate(math.nan, -1.0, 1.0, len(paired))
    if not paired:
        return Agreement(nothing, raters, labels, "no item has two labels")
    distinct = {label for item in paired for label in item}
    if any(isinstance(label, float) and not math.isfinite(label) for label in distinct):
        raise DataError("a label is NaN or infinite", expected="numbers or text", do="leave it out: gaps are allowed")
    if level != "nominal" and any(isinstance(label, str) for label in distinct):
        raise DataError(f"labels are text at the level {level!r}", expected="numbers, or the level 'nominal'")
    domain = _sorted(distinct)
    if len(domain) == 1:
        return Agreement(nothing, raters, labels, f"every label is {domain[0]!r}: nothing could have been disagreed on")
    place = {label: i for i, label in enumerate(domain)}
    counts = np.zeros((len(paired), len(domain)), dtype=np.int64)
    for i, item in enumerate(paired):
        for label in item:
            counts[i, place[label]] += 1
    values = np.arange(len(domain)) if level == "nominal" else np.asarray(domain, dtype=np.float64)
    generator, drawn = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        picked = counts[generator.integers(0, len(counts), len(counts))]
        if (picked.sum(0) > 0).sum() > 1:  # a sample of one label alone has no alpha
            drawn.append(_alpha(picked, values, level))
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Agreement(Estimate(_alpha(counts, values, level), float(low), float(high), len(paired)), raters, labels)


def _sorted(labels: Iterable[Label]) -> list[Label]:
    """Numbers by size, then text."""
    return sorted(labels, key=lambda label: (isinstance(label, str), label))


def _alpha(counts: NDArray[np.int64], values: NDArray[np.generic], level: Level) -> float:
    return float(krippendorff.alpha(value_counts=counts, value_domain=values, level_of_measurement=level))


# ── Dawid & Skene ────────────────────────────────────────────────────────────────────────────────────────────────────
class Truth(NamedTuple):
    """``classes`` in the order of all columns; ``posterior`` [items, C]; ``prior`` [C]; ``confusion`` by rater, [C, C]:
    a row for each true class, with the probability of each label; ``log_likelihood`` in nats, after every round."""

    classes: list[Label]
    posterior: NDArray[np.float64]
    prior: NDArray[np.float64]
    confusion: dict[str, NDArray[np.float64]]
    log_likelihood: list[float]

    def accuracy(self, rater: str) -> float:
        """The probability that this rater labels an item rightly, over the classes as common as they are."""
        return float(self.prior @ np.diag(self.confusion[rater]))


def dawid_skene(
    items: Sequence[Mapping[str, Label | tuple[Label, ...]]],
    rounds: int = 200,
    tolerance: float = 1e-8,
    smoothing: float = SMOOTHING,
) -> Truth:
    """The likeliest class of every item, how common classes are, and how each rater errs.

    Args:
        items: labels by rater, one or more an item. A rater's repeated look is written as a tuple of labels.
        tolerance: the gain of the log-likelihood, in nats an item, below which the search ends.
        smoothing: of a vote, added to every cell; 0 is the paper's maximum likelihood.

    Raises:
        DataError: there is no label.
    """
    labelled = [{rater: own if isinstance(own, tuple) else (own,) for rater, own in item.items()} for item in items]
    classes = sorted(
        {label for item in labelled for own in item.values() for label in own}, key=lambda x: (str(type(x)), x)
    )
    raters = sorted({rater for item in labelled for rater in item})
    if not classes or not all(labelled):
        raise DataError("no item has a label" if not classes else "an item without a label", expected="labels by rater")
    row, column = {name: i for i, name in enumerate(raters)}, {label: i for i, label in enumerate(classes)}
    cells = [
        (i, row[rater], column[label]) for i, item in enumerate(labelled) for rater in item for label in item[rater]
    ]
    items_of, who, labels = np.array(cells).T
    posterior = np.zeros((len(labelled), len(classes)))
    np.add.at(posterior, (items_of, labels), 1.0)
    posterior /= posterior.sum(1, keepdims=True)
    likelihoods: list[float] = []
    for _ in range(rounds):
        prior = posterior.mean(0)
        errors = np.full((len(raters), len(classes), len(classes)), smoothing)  # by rater, label and true class
        np.add.at(errors, (who, labels), posterior[items_of])
        errors /= np.maximum(errors.sum(1, keepdims=True), TINY)
        joint = np.tile(np.log(np.maximum(prior, TINY)), (len(labelled), 1))
        np.add.at(joint, items_of, np.log(np.maximum(errors, TINY))[who, labels])
        posterior, likelihood = _normalised(joint)
        likelihoods.append(likelihood)
        if len(likelihoods) > 1 and likelihood - likelihoods[-2] < tolerance * len(labelled):
            break
    return Truth(classes, posterior, prior, {name: errors[i].T for name, i in row.items()}, likelihoods)


def _normalised(joint: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """P(class | labels) of every item, [items, C], from logs of P(class, labels); and the log-likelihood of all."""
    highest = joint.max(1, keepdims=True)
    weights = np.exp(joint - highest)
    total = weights.sum(1, keepdims=True)
    return weights / total, float((highest + np.log(total)).sum())


# ── consistency ──────────────────────────────────────────────────────────────────────────────────────────────────────
class Consistency(NamedTuple):
    """Of a rater: the mean share of other raters who gave the same label to a pair of answers, and the share of
    repeated pairs that the rater labelled the same again. n counts pairs."""

    with_others: Estimate
    with_self: Estimate


def consistency(votes: Sequence[Comparison]) -> dict[str, Consistency]:
    """Inter- and intra-rater consistency by rater. A tie agrees with a tie, of repeated votes the first are compared
    with the first, and gold rows are no votes."""
    votes = [vote for vote in votes if not vote.gold]
    others: dict[str, list[float]] = {vote.rater: [] for vote in votes if vote.rater}
    again: dict[str, list[bool]] = {rater: [] for rater in others}
    for of_pair in pair_votes(votes).values():
        by_rater: dict[str, list[int]] = {}
        for vote in of_pair:
            by_rater.setdefault(vote.rater or f"vote {vote.row}", []).append(vote.preference)
        for rater, own in by_rater.items():
            if rater not in others:
                continue
            elsewhere = [rest[0] for name, rest in by_rater.items() if name != rater]
            if elsewhere:
                others[rater].append(elsewhere.count(own[0]) / len(elsewhere))
            if len(own) > 1:
                again[rater].append(own[0] == own[1])
    return {
        rater: Consistency(
            mean_estimate(others[rater], resamples=RESAMPLES), wilson(sum(again[rater]), len(again[rater]))
        )
        for rater in sorted(others)
    }
