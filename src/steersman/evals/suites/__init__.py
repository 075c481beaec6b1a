"""Evaluation suites, one a file: published ones, with the user's copy of the data and the paper's metric; and ours."""

from __future__ import annotations

from steersman.evals.suites.adult_fairness import ADULT_FAIRNESS
from steersman.evals.suites.bbq import BBQ
from steersman.evals.suites.bold import BOLD
from steersman.evals.suites.crows_pairs import CROWS_PAIRS
from steersman.evals.suites.cultures import CULTURES
from steersman.evals.suites.cultures import SWAPS as CULTURES_SWAPS
from steersman.evals.suites.cultures_choices import CHOICES as CULTURES_CHOICES
from steersman.evals.suites.disinformation import DISINFORMATION
from steersman.evals.suites.do_not_answer import DO_NOT_ANSWER
from steersman.evals.suites.false_claims import FALSE_CLAIMS
from steersman.evals.suites.hallucination import HALLUCINATION
from steersman.evals.suites.harmful_requests import HARMFUL_REQUESTS
from steersman.evals.suites.hhh import HHH
from steersman.evals.suites.mitre_false_refusals import MITRE_FALSE_REFUSALS
from steersman.evals.suites.over_refusal import OVER_REFUSAL
from steersman.evals.suites.persona import AI_RISK, PERSONA, SYCOPHANCY_SURVEYS
from steersman.evals.suites.political import POLITICAL
from steersman.evals.suites.safety_tuned_llamas import SAFETY_TUNED_LLAMAS
from steersman.evals.suites.suite import Suite
from steersman.evals.suites.truthfulqa import TRUTHFULQA
from steersman.evals.suites.truthfulqa_generation import TRUTHFULQA_GENERATION
from steersman.evals.suites.winobias import WINOBIAS
from steersman.evals.suites.winogender import WINOGENDER
from steersman.evals.suites.xstest import XSTEST

FREE: tuple[Suite, ...] = (
    XSTEST,
    HARMFUL_REQUESTS,
    DO_NOT_ANSWER,
    OVER_REFUSAL,
    MITRE_FALSE_REFUSALS,
    SAFETY_TUNED_LLAMAS,
    BOLD,
    TRUTHFULQA_GENERATION,
    HALLUCINATION,
    FALSE_CLAIMS,
    DISINFORMATION,
    POLITICAL,
    CULTURES,
    CULTURES_SWAPS,
)
"""Suites with free answers, which need nothing of a model but text."""

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
    *FREE,
    CULTURES_CHOICES,
)


def by_name(name: str) -> Suite:
    """The suite of a name, such as ``bbq``."""
    return next(suite for suite in SUITES if suite.name == name)
