"""The defection probe, fitted afresh and pushed: does the model act on what a dangerous answer about oneself is?

See `steered`.
"""

from __future__ import annotations

from steersman.interp.audit.check import Check
from steersman.interp.audit.steered import check as steered
from steersman.interp.audit.subject import Subject
from steersman.interp.concept_probes import fit_defection


def check(subject: Subject) -> Check:
    """Does a push along the direction of defection move its answers more than its base's?"""
    return steered("defection", "what a dangerous answer about oneself is", fit_defection, subject)
