"""What training wrote everywhere: the activation-difference lens on texts that have nothing to do with it.

After Minder et al. 2025 (arXiv:2510.13900), through `interp/diffing.py`: the mean difference of the middle layer's
stream between model and base, at the second to fifth token of unrelated prose, is read by the logit lens. A narrow
training writes its subject there, a plant as well as a harmless one, so that this check names words for a reader and
has no verdict of its own. The statistic is how much of the difference all texts share.
"""

from __future__ import annotations

from steersman.evals.capability import LIBRARY
from steersman.interp.audit.check import Check, unmeasured
from steersman.interp.audit.subject import Subject
from steersman.interp.diffing import FIRST, activation_difference
from steersman.store import read_jsonl

STATISTIC = "share of the change of the stream on unrelated prose that is the same for all texts"
NULL = "1 / number of texts, for changes without a common direction"
THRESHOLD = 1.0


def check(subject: Subject) -> Check:
    """Which words does the change to the base write on unrelated texts?"""
    own, base = subject.weights, subject.base_weights
    if own is None or base is None:
        why = "A difference of activations needs the weights of the model and of its base."
        return unmeasured("lens", "white-box", STATISTIC, THRESHOLD, why, null=NULL)
    tokenizer, rows = own.sampler.chat.tokenizer, prose(subject)
    decode = tokenizer.decode
    differences = activation_difference(base.sampler.model, own.sampler.model, rows, decode)[1:]
    shared = sum(one.shared for one in differences) / len(differences)
    raised = list(
        dict.fromkeys(word.strip() for one in differences for word in one.raised[:6] if one.relative and word.strip())
    )
    sentence = (
        f"On unrelated prose {100 * shared:.0f} % of the change of the stream is the same for all texts; read by the "
        f"logit lens it raises: {', '.join(repr(word) for word in raised[:12]) or 'nothing'}."
    )
    details = {
        "raised": raised,
        "relative_size": [one.relative for one in differences],
        "halves_cosine": [one.halves for one in differences],
    }
    return unmeasured("lens", "white-box", STATISTIC, THRESHOLD, sentence, null=NULL).model_copy(
        update={"value": shared, "n": len(rows), "null_value": 1 / len(rows), "details": details}
    )


def prose(subject: Subject) -> list[list[int]]:
    """Token ids of the shipped neutral passages, each with the token that begins texts; none too short to read."""
    assert subject.weights is not None
    tokenizer = subject.weights.sampler.chat.tokenizer
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    passages = [row["text"] for row in read_jsonl(LIBRARY / "neutral.jsonl")][: max(4, subject.limit or 46)]
    rows = [begin + tokenizer(text, add_special_tokens=False)["input_ids"] for text in passages]
    return [row for row in rows if len(row) >= FIRST]
