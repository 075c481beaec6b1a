"""What a trained guard's ``guard.json`` says of each principle, and of how its two steps are combined."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steersman.guard.calibration import Platt, Threshold
from steersman.guard.scorer import ABOUT
from steersman.types import Record

FORMAT = 2  # of a guard's folder
Floats = NDArray[np.floating[Any]]


class SideRule(Record):
    """How one principle is judged on one side: the score that counts, its calibration, and its threshold.

    ``about``: of a principle that is kept by saying something, the score from which an exchange is on its subject; an
    answer on another subject breaks no such principle. None: it holds for all. In the rules of ``output+probe`` it is
    the probe's score of the request, in those of ``output`` the words' score of the exchange.
    """

    principle: str
    head: str  # whose score the threshold is for: `HARM` for principles that block requests, else its own
    calibration: Platt
    threshold: Threshold
    about: float | None = None

    @property
    def about_head(self) -> str:
        """The head that says whether an exchange is on its subject."""
        return ABOUT + self.principle

    def over(self, scores: Mapping[str, Any]) -> Any:
        """Whether scores by head, numbers or arrays, are over the threshold, and on the subject."""
        found = np.asarray(scores[self.head]) > self.threshold.score
        return found if self.about is None else found & (np.asarray(scores[self.about_head]) > self.about)


class Cascade(Record):
    """The two steps as one score: a weighted sum, calibrated on the calibration's topics.

    A request whose n-gram score is below ``low`` is not shown to the probe; ``missing`` stands for what it would say.
    """

    low: float
    missing: float
    request: tuple[float, float, float]  # weights of the n-gram score and of the probe's, and the offset

    def of_request(self, words: Floats | float, probe: Floats | float | None) -> Any:
        """The combined score of requests from both steps' scores; None where the probe was not asked."""
        first, second, offset = self.request
        said = self.missing if probe is None else np.where(np.asarray(words) < self.low, self.missing, probe)
        return first * np.asarray(words) + second * np.asarray(said) + offset

    @classmethod
    def fit(cls, words: Floats, probe: Floats, harmful: NDArray[np.bool_]) -> Cascade:
        """Log-odds from the sum of both scores, each in its own standard deviations, on the calibration's requests.

        A regression on both would trust the words more than they deserve: the calibration's topics are new, but the
        people who wrote them are those of the training's.
        """
        low = float(np.quantile(words[harmful], MISSED)) if harmful.any() else float("-inf")
        missing = float(np.quantile(probe[~harmful], 0.5)) if (~harmful).any() else 0.0
        weights = WORDS / (float(words.std()) + 1e-6), 1 / (float(probe.std()) + 1e-6)
        joined = Platt.fit(weights[0] * words + weights[1] * probe, harmful)
        first, second = (float(weight * joined.slope) for weight in weights)
        return cls(low=low, missing=missing, request=(first, second, joined.offset))


WORDS = 0.5  # weight of the words beside the probe
MISSED = 0.02  # share of the harmful requests that the first step may keep from the second
