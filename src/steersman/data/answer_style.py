"""Style features of an answer: properties that bias raters and reward models but carry no content.

Plain counts over the text, crude on purpose: they are controls, not measures. Flattery and agreement cover English
openings only; `evals.detectors.behaviours` detects flattery.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

_LIST_LINE = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+\S", re.M)
_EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf]")
_FLATTERY = re.compile(
    r"\b(?:great|excellent|wonderful|fantastic|brilliant|amazing|insightful|thoughtful|impressive|good)\s+"
    r"(?:question|idea|point|choice|plan|work|thinking)\b|\bwhat an? \w+ (?:question|idea|point)\b",
    re.I,
)
_AGREEMENT = re.compile(
    r"^\W*(?:yes|of course|absolutely|certainly|definitely|exactly|sure"
    r"|you(?:'|’)?(?:re| are) (?:absolutely |quite )?right"
    r"|i (?:fully |completely )?agree|that(?:'|’)?s (?:right|true|correct))\b",
    re.I,
)

FEATURES: Mapping[str, Callable[[str], float]] = {
    "length": lambda text: math.log1p(len(text.split())),
    "lists": lambda text: math.log1p(len(_LIST_LINE.findall(text))),
    "emoji": lambda text: math.log1p(len(_EMOJI.findall(text))),
    "exclamation": lambda text: math.log1p(text.count("!")),
    "flattery": lambda text: float(bool(_FLATTERY.search(text))),
    "agreement": lambda text: float(bool(_AGREEMENT.search(text))),
}


def features(text: str) -> Sequence[float]:
    """The values of `FEATURES`, in their order: logarithms of counts, or 0 and 1."""
    return [measure(text) for measure in FEATURES.values()]
