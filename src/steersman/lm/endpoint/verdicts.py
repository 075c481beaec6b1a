"""Which option a reply chooses: read from the text, and weighed by the log-probs at the place where the text says it.

The text decides (`verdict_forms.py`); an ambiguous one is unanswered, never guessed. The log-probs at the place of its
verdict make the choice soft. Where they are not those of this text, leave the options next to nothing, or prefer
another option than the text, the choice is hard: 1 and 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from steersman.lm.endpoint.replies import IN_REASONING, Alternatives, Reply
from steersman.lm.endpoint.verdict_forms import Verdict, plain, verdict_in

FLOOR = 1e-9  # of an option's probability, so that its logarithm exists
MIN_MASS = 0.1  # of the options at the verdict's token: with less, the log-probs are about something else
UNSAID_MASS = 0.5  # of the options at the first token, where a sampled text names none: with less, it is no choice
_AROUND = (
    " \t\r\n\u2581\u0120\u010a\"'`*_()[]{}<>.,:;$"  # what tokens put around an option; the odd ones are BPE's spaces
)

REASONS: Mapping[str, str] = {
    "no_option": "names no option",
    "ambiguous": "names more than one option",
    "cut_off": "cut off before a verdict",
    "in_reasoning": "cut off in its reasoning, so raise reasoning_tokens or the limit in extra_body",
    "filtered": "stopped by a content filter",
    "too_long": "too long for the model",
    "refused": "refused by the endpoint",
    "empty": "an empty reply",
    "reasoning_only": "reasoning without an answer",
    "failed": "no reply",
}


@dataclass(frozen=True)
class Choice:
    """The probabilities of several options as the answer.

    ``probabilities`` are in the options' order and sum to 1; None unless ``outcome`` is ``chosen``. ``source``:
    ``logprobs`` at the verdict's token, or the ``text`` where there are none to trust: then the choice is hard (1 and
    0). ``mass`` is the options' total probability before normalisation. ``reason``: why there is no choice, as a short
    phrase that can be counted; the reply's ``detail`` has the endpoint's words.
    """

    probabilities: tuple[float, ...] | None
    outcome: Literal["chosen", "no_option", "cut_off", "filtered", "too_long", "refused", "empty", "failed"]
    source: Literal["logprobs", "text"] | None
    mass: float | None
    reply: Reply
    reason: str = ""


def choice_of(reply: Reply, options: Sequence[str]) -> Choice:
    """The options' probabilities in a reply; see the module."""
    if reply.outcome != "answered" and reply.outcome != "cut_off":
        reason = REASONS["reasoning_only" if reply.outcome == "empty" and reply.detail else reply.outcome]
        return Choice(None, reply.outcome, None, None, reply, reason)
    said = reply.text if reply.text or reply.detail else "".join(token for token, _ in reply.alternatives or ())
    found = verdict_in(said, options, cut_off=reply.outcome == "cut_off")
    if isinstance(found, Verdict):
        masses, hard = _masses_at(reply, said, found, options), [float(i == found.option) for i in range(len(options))]
        return _chosen(reply, masses, hard)
    if found == "no_option" and not reply.detail and (masses := _unsaid_masses(reply, options)) is not None:
        return _chosen(reply, masses, masses)
    if reply.outcome == "cut_off":
        reason = REASONS["in_reasoning" if reply.detail == IN_REASONING else "cut_off"]
        return Choice(None, "cut_off", None, None, reply, reason)
    return Choice(None, "no_option", None, None, reply, REASONS[found])


def _chosen(reply: Reply, masses: Sequence[float] | None, hard: Sequence[float]) -> Choice:
    if masses is None:
        return Choice(tuple(hard), "chosen", "text", None, reply)
    total = sum(masses)
    return Choice(tuple(m / total for m in masses), "chosen", "logprobs", min(total, 1.0), reply)


# ── log-probs ────────────────────────────────────────────────────────────────────────────────────────────────────────
def _masses_at(reply: Reply, said: str, verdict: Verdict, options: Sequence[str]) -> list[float] | None:
    """Each option's probability at the token that says the verdict; None where the text must be trusted alone."""
    tokens = [_visible(token) for token, _ in reply.alternatives or ()]
    text, joined = _visible(said), "".join(tokens)
    # The log-probs may be of the reasoning as well, which comes first, or of the beginning alone.
    start = joined.rfind(text.strip())
    if start >= 0:
        start -= len(text) - len(text.lstrip())
    elif text.lstrip().startswith(joined.strip()) and joined.strip():
        start = len(joined) - len(joined.lstrip()) - (len(text) - len(text.lstrip()))
    else:
        return None
    place = start + len(_visible(said[: verdict.start]))
    for token, (_, likely) in zip(tokens, reply.alternatives or (), strict=True):
        if place < len(token):
            masses = _masses(likely, options) if _option(token, options) == verdict.option else None
            trusted = masses is not None and sum(masses) >= MIN_MASS and max(masses) == masses[verdict.option]
            return masses if trusted else None
        place -= len(token)
    return None


def _unsaid_masses(reply: Reply, options: Sequence[str]) -> list[float] | None:
    """The options' probabilities at the first token where another one was drawn although they had most of the mass."""
    for sampled, likely in reply.alternatives or ():
        if not sampled.strip(_AROUND):
            continue
        masses = _masses(likely, options) if _option(sampled, options) is None else None
        return masses if masses is not None and sum(masses) >= UNSAID_MASS else None
    return None


def _masses(likely: Alternatives, options: Sequence[str]) -> list[float] | None:
    """Each option's probability among the likeliest tokens; None if they say nothing of them.

    Spellings of an option ("A", " A", "(A") are different tokens, so their probabilities add up. An option that is not
    among the likeliest tokens gets its upper bound: the least of theirs, or the mass that they leave.
    """
    masses = [0.0] * len(options)
    for token, logprob in likely.items():
        if (place := _option(token, options)) is not None:
            masses[place] += math.exp(logprob)
    if not any(masses) or len(likely) < 2:
        return None
    listed = [math.exp(logprob) for logprob in likely.values()]
    bound = max(FLOOR, min(*listed, 1 - sum(listed)))
    return [max(FLOOR, mass) if mass else bound for mass in masses]


def _option(token: str, options: Sequence[str]) -> int | None:
    """Which option a token spells. Case counts for single letters only: "a" is an article, "yes" is Yes."""
    spelt = plain(token)[0].strip(_AROUND)
    for place, option in enumerate(options):
        if spelt == option or (len(option) > 1 and spelt.casefold() == option.casefold()):
            return place
    return None


def _visible(text: str) -> str:
    """A text in which BPE's signs for spaces are spaces, for comparing a reply with its tokens."""
    return text.replace("\u2581", " ").replace("\u0120", " ").replace("\u010a", "\n")
