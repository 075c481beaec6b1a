"""From a classifier's score to a probability, and from a rate of false alarms to a threshold.

Scores become probabilities by Platt's scaling (Platt 1999). A threshold is a conformal quantile of the scores of
harmless rows (Vovk et al. 2005): a new harmless row, drawn like those, is over it with at most the declared
probability. Where there are too few rows for that rate, the threshold stands above all of them, and the card says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steersman.stats import Estimate, wilson
from steersman.types import Record

Scores = NDArray[np.floating[Any]]
LOOKALIKES = 3  # by how much more often a harmless look-alike of a harmful request may be stopped than an ordinary one
STEPS = 60  # of Newton's method; it converges in ten


class Platt(Record):
    """Probability = sigmoid(slope * score + offset)."""

    slope: float = 1.0
    offset: float = 0.0

    def __call__(self, scores: Scores | float) -> NDArray[np.float64]:
        """Probabilities in the scores' shape."""
        return _sigmoid(self.slope * np.asarray(scores, np.float64) + self.offset)

    @classmethod
    def fit(cls, scores: Scores, positive: NDArray[np.bool_]) -> Platt:
        """Maximum likelihood with Platt's smoothed targets; the identity where one of the classes is missing."""
        high, low = int(positive.sum()), int((~positive).sum())
        if not high or not low:
            return cls()
        targets = np.where(positive, (high + 1) / (high + 2), 1 / (low + 2))
        centre, width = float(np.mean(scores)), float(np.std(scores)) or 1.0
        x = np.stack([(np.asarray(scores, np.float64) - centre) / width, np.ones(len(scores))], 1)
        weights = np.zeros(2)
        for _ in range(STEPS):
            chances = _sigmoid(x @ weights)
            hessian = (x * (chances * (1 - chances))[:, None]).T @ x + 1e-6 * np.eye(2)
            weights = weights - np.linalg.solve(hessian, x.T @ (chances - targets) + 1e-6 * weights)
        slope = float(weights[0]) / width
        return cls(slope=slope, offset=float(weights[1]) - slope * centre)


class Threshold(Record):
    """Where a score counts as broken, and what stands behind that.

    ``measured``: false alarms among the calibration's negatives with Wilson's interval. ``enough``: whether there were
    negatives enough for the declared rate. ``tail``: by how much the highest tenth of the negatives' scores exceeds its
    lowest one on average; if that tail falls exponentially, the maximum of n scores is higher by tail * log(n).
    """

    score: float
    declared_rate: float
    negatives: int
    false_alarms: int
    enough: bool
    tail: float = 0.0

    @property
    def measured(self) -> Estimate:
        """The rate of false alarms among the rows that the threshold was chosen on."""
        return wilson(self.false_alarms, self.negatives)

    @classmethod
    def choose(cls, negatives: Scores, rate: float) -> Threshold:
        """The lowest threshold that keeps the declared rate of false alarms; a score above it is one.

        Args:
            negatives: scores of harmless rows, none of them of training, and no positive among them.
        """
        ordered = np.sort(np.asarray(negatives, np.float64))[::-1]
        if not len(ordered):
            return cls(score=math.inf, declared_rate=rate, negatives=0, false_alarms=0, enough=False)
        allowed = math.floor(rate * (len(ordered) + 1)) - 1
        if allowed >= 0:
            score = float(ordered[allowed])
        else:  # above the highest by as much as the highest tenth is wide
            score = float(ordered[0] + (ordered[0] - ordered[len(ordered) // 10]) / 2 + 1e-6)
        return cls(
            score=score,
            declared_rate=rate,
            negatives=len(ordered),
            false_alarms=int((ordered > score).sum()),
            enough=allowed >= 0,
            tail=float(np.mean(ordered[: len(ordered) // 10 + 1]) - ordered[len(ordered) // 10]),
        )


def request_threshold(negatives: Scores, lookalike: NDArray[np.bool_], rate: float) -> Threshold:
    """The threshold of requests: ordinary ones are stopped at the declared rate at most, look-alikes at thrice that.

    Traffic is ordinary, and a data set that teaches harm from its likeness is mostly look-alikes: one rate for both
    would be set by the look-alikes alone. Where one kind has too few rows for its rate, both are taken together.

    Args:
        negatives: scores of harmless requests. lookalike: which of them only resemble harmful ones.
    """
    ordinary = Threshold.choose(negatives[~lookalike], rate)
    resembling = Threshold.choose(negatives[lookalike], LOOKALIKES * rate)
    if not (ordinary.enough and resembling.enough):
        return Threshold.choose(negatives, rate)
    stricter = max(ordinary, resembling, key=lambda threshold: threshold.score)
    return stricter.model_copy(update={"declared_rate": rate})


class Reliability(NamedTuple):
    """Calibration of probabilities: the expected error, and bins of (mean probability, share of positives, rows)."""

    expected_error: float
    bins: Sequence[tuple[float, float, int]]

    @classmethod
    def of(cls, chances: Scores, positive: NDArray[np.bool_], bins: int = 10) -> Reliability:
        """Bins of equal width (Guo et al. 2017, arXiv:1706.04599); NaN without rows."""
        place = np.minimum((np.asarray(chances) * bins).astype(int), bins - 1)
        found = [
            (float(chances[own].mean()), float(positive[own].mean()), int(own.sum()))
            for own in (place == b for b in range(bins))
            if own.any()
        ]
        rows = len(chances)
        error = sum(abs(mean - share) * n for mean, share, n in found) / rows if rows else math.nan
        return cls(error, found)


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))
