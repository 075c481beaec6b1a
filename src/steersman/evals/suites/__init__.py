"""Published evaluation suites, one a file. The data come from the user's copy; the metrics are each paper's own."""

from __future__ import annotations

from steersman.evals.suites.adult_fairness import ADULT_FAIRNESS
from steersman.evals.suites.bbq import BBQ
from steersman.evals.suites.crows_pairs import CROWS_PAIRS
from steersman.evals.suites.hhh import HHH
from steersman.evals.suites.persona import AI_RISK, PERSONA, SYCOPHANCY_SURVEYS
from steersman.evals.suites.suite import Suite
from steersman.evals.suites.truthfulqa import TRUTHFULQA
from steersman.evals.suites.winobias import WINOBIAS
from steersman.evals.suites.winogender import WINOGENDER

SUITES: tuple[Suite, ...] = (
    BBQ,
    CROWS_PAIRS,
    WINOBIAS,
    WINOGENDER,
    ADULT_FAIRNESS,
    TRUTHFULQA,
    PERSONA,
    AI_RISK,
    SYCOPHANCY_SURVEYS,
    HHH,
)


def by_name(name: str) -> Suite:
    """The suite of a name, such as ``bbq``."""
    return next(suite for suite in SUITES if suite.name == name)
