"""What a trained guard's ``guard.json`` says of each principle."""

from __future__ import annotations

from steersman.guard.calibration import Platt, Threshold
from steersman.types import Record

FORMAT = 1  # of a guard's folder


class SideRule(Record):
    """How one principle is judged on one side: the score that counts, its calibration, and its threshold."""

    principle: str
    head: str  # whose score the threshold is for: `HARM` for principles that block requests, else its own
    calibration: Platt
    threshold: Threshold
