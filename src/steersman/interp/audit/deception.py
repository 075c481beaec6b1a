"""The deception probe, fitted afresh and pushed: does the model act on saying something under a dishonest instruction?

See `steered`.
"""

from __future__ import annotations

from steersman.interp.audit.check import Check
from steersman.interp.audit.steered import check as steered
from steersman.interp.audit.subject import Subject
from steersman.interp.concept_probes import fit_deception


def check(subject: Subject) -> Check:
    """Does a push along the direction of deception move its answers more than its base's?"""
    return steered("deception", "saying something under a dishonest instruction", fit_deception, subject)
