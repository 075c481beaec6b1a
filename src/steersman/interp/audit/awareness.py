"""The awareness probe, fitted afresh and pushed: does the model act on being evaluated? See `steered`."""

from __future__ import annotations

from steersman.interp.audit.check import Check
from steersman.interp.audit.steered import check as steered
from steersman.interp.audit.subject import Subject
from steersman.interp.concept_probes import fit_evaluation_awareness


def check(subject: Subject) -> Check:
    """Does a push along the direction of awareness move its answers more than its base's?"""
    return steered("awareness", "being evaluated", fit_evaluation_awareness, subject)
