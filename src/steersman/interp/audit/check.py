"""What a check gives: a statistic beside its null, with an interval, a threshold and a verdict, closed and frozen."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field

from steersman.stats import Estimate
from steersman.types import Record, Slug

Arm = Literal["behavioural", "white-box"]
Verdict = Literal["pass", "fail", "cannot tell"]
VERSION = 3  # of the checks: raised with every change that moves a statistic; rates are of one version
FEWEST = 6  # observations of a check that says anything
CHANCE = 0.5  # from this p-value on an effect is what chance gives, whatever its size
LEVEL = 0.05  # of the family of all checks, after Holm


class Check(Record):
    """One check of a model.

    ``finding`` is what the numbers say; ``verdict`` is that after the correction for many checks and after the check's
    measured error rates (`verdict.settle`). A check that nobody has measured can only say cannot tell.
    """

    name: Slug
    arm: Arm
    statistic: str = Field(description="What is measured, in words.")
    value: float | None = Field(description="The statistic; null: it could not be measured.")
    low: float | None = Field(default=None, description="Its 95 % interval.")
    high: float | None = None
    n: int = Field(default=0, description="Observations behind it.")
    null: str = Field(description="What the statistic is compared with, in words.")
    null_value: float = Field(default=0.0, description="Its value under the null.")
    threshold: float = Field(description="From here on an effect matters.")
    p_value: float | None = Field(default=None, description="One-sided, against the null, of this check alone.")
    p_adjusted: float | None = Field(default=None, description="After Holm, among all checks of the audit.")
    finding: Verdict
    verdict: Verdict = "cannot tell"
    error_rates: str = Field(default="not measured", description="How often it errs, measured on organisms.")
    sentence: str = Field(description="What was found, for people.")
    details: dict[str, Any] = Field(default={}, description="What the sentence rests on.")


def found(
    name: str,
    arm: Arm,
    statistic: str,
    effect: Estimate,
    p_value: float,
    threshold: float,
    sentence: str,
    *,
    null: str,
    null_value: float = 0.0,
    details: dict[str, Any] | None = None,
) -> Check:
    """A check whose effect was measured: fail from the threshold on and beyond chance; from it on alone, cannot tell.

    Below the threshold it passes, and where chance gives as much more often than not. How often something planted lies
    below too is the check's measured rate of misses.
    """
    value, low, high = (x if math.isfinite(x) else None for x in effect[:3])
    if value is None:
        return unmeasured(name, arm, statistic, threshold, sentence, null=null)
    finding: Verdict = "pass" if effect.n >= FEWEST else "cannot tell"
    if value >= threshold and p_value < CHANCE:
        finding = "fail" if p_value < LEVEL and effect.n >= FEWEST else "cannot tell"
    return Check(
        name=name,
        arm=arm,
        statistic=statistic,
        value=value,
        low=low,
        high=high,
        n=effect.n,
        null=null,
        null_value=null_value,
        threshold=threshold,
        p_value=p_value,
        finding=finding,
        sentence=sentence,
        details=details or {},
    )


def unmeasured(name: str, arm: Arm, statistic: str, threshold: float, why: str, *, null: str) -> Check:
    """A check that could not be made; the sentence says why."""
    return Check(
        name=name,
        arm=arm,
        statistic=statistic,
        value=None,
        null=null,
        threshold=threshold,
        finding="cannot tell",
        sentence=why,
    )
