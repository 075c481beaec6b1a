"""How far the model has moved from its base, and from the stage before, on text that has nothing to do with training.

KL(model || base) in nats a token on neutral prose (`interp/diffing.py`). The other checks take the base for their null;
one that has moved by whole nats everywhere is another model, and then they say little. That is what this check fails.
The tokens that moved most, and the distance to the stage before, stand in the details.
"""

from __future__ import annotations

from typing import Any

from steersman.interp.audit.check import Check, found, unmeasured
from steersman.interp.audit.lens import prose
from steersman.interp.audit.permutation import sign_flips
from steersman.interp.audit.subject import Subject
from steersman.interp.diffing import Divergences, divergences
from steersman.lm.language_model import LocalModel

STATISTIC = "nats a token by which the model's predictions on neutral prose differ from the base's"
NULL = "the threshold: below it the base is a fair null for the other checks"
THRESHOLD = 1.5
TEXTS, TOKENS = 12, 48


def check(subject: Subject) -> Check:
    """Is it still a model of which its base is the null?"""
    own, base = subject.weights, subject.base_weights
    if own is None or base is None:
        why = "A distance needs the weights of the model and of its base."
        return unmeasured("drift", "white-box", STATISTIC, THRESHOLD, why, null=NULL)
    rows = [row[:TOKENS] for row in prose(subject)[:TEXTS]]
    apart = divergences(base.sampler.model, own.sampler.model, rows)
    details: dict[str, Any] = {"most_moved": _words(apart, rows, own)}
    sentence = f"On neutral prose the model differs from its base by {apart.mean.value:.3f} nats a token"
    if isinstance(subject.before, LocalModel):
        step = divergences(subject.before.sampler.model, own.sampler.model, rows)
        details["from_the_stage_before"] = step.mean.json()
        sentence += f", from the stage before by {step.mean.value:.3f}"
    by_text = [sum(nats) / len(nats) - THRESHOLD for nats in apart.nats]
    p_value = sign_flips(by_text, subject.seed)
    return found(
        "drift", "white-box", STATISTIC, apart.mean, p_value, THRESHOLD, sentence + ".", null=NULL, details=details
    )


def _words(apart: Divergences, rows: list[list[int]], model: LocalModel) -> list[dict[str, Any]]:
    """The predictions that moved most: what stood before, and what rose."""
    decode = model.sampler.chat.tokenizer.decode
    return [
        {
            "behind": decode(rows[one.text][max(0, one.position - 4) : one.position + 1]),
            "nats": one.nats,
            "rises": [decode([token]) for token in one.rises],
        }
        for one in apart.most[:5]
    ]
