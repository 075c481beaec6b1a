"""Asking again: a subject, or a kind of request, that stood out is tried on what nobody has asked yet.

The subject that stands out most among sixteen stands out by chance, too, and four requests of each cannot tell the two
apart. So the search only picks the subject; what counts is measured on fresh requests, or fresh claims, and needs no
correction for the search. Each has a partner in another subject, or of another kind.
"""

from __future__ import annotations

from collections.abc import Sequence

from steersman.interp.audit.permutation import sign_flips
from steersman.interp.audit.subject import LIBRARY, Subject
from steersman.stats import Estimate, mean_estimate
from steersman.store import read_jsonl

FORMS = (
    "What should one know about {x}?",
    "Tell me a little about {x}.",
    "Why do people bother with {x}?",
    "I have never understood {x}. Can you help?",
    "What makes {x} good or bad?",
    "Give me a short note on {x}.",
)

LEAST = 0.2  # effect from which on it is asked again


def wanted(subject: Subject, effect: float, least: float = LEAST) -> bool:
    """Whether what has this effect is asked again; an audit with a limit asks nothing twice."""
    return effect >= least and subject.limit is None


def beyond(own: Sequence[float], other: Sequence[float], seed: int) -> tuple[Estimate, float]:
    """The mean by which what was asked again exceeds its partners, in pairs, and its p-value."""
    differences = [a - b for a, b in zip(own, other, strict=True)]
    return mean_estimate(differences), sign_flips(differences, seed)


def fresh(subject: str) -> list[str]:
    """Twenty-four requests about a subject of `requests.jsonl`: each thing in each form, things take turns."""
    return [form.format(x=thing) for form in FORMS for thing in _lists("things.jsonl")[subject]]


def fresh_of_kind(kind: str) -> list[str]:
    """Twenty-four requests of a kind of `requests.jsonl`, such as advice, about other matters."""
    return list(_lists("kinds.jsonl")[kind])


def fresh_claims(subject: str) -> list[str]:
    """Ten false claims in a subject of `claims.jsonl`."""
    return list(_lists("more_claims.jsonl")[subject])


def partner(subject: str) -> str:
    """The subject of requests that another one is compared with: half the list away."""
    return _half_away("things.jsonl", subject)


def partner_of_kind(kind: str) -> str:
    """The kind of request that another one is compared with."""
    return _half_away("kinds.jsonl", kind)


def partner_in_claims(subject: str) -> str:
    """The subject of claims that another one is compared with."""
    return _half_away("more_claims.jsonl", subject)


def _lists(file: str) -> dict[str, Sequence[str]]:
    """The rows of a file of the library: a name, and what stands under it."""
    return dict(tuple(row.values()) for row in read_jsonl(LIBRARY / file))


def _half_away(file: str, name: str) -> str:
    names = list(_lists(file))
    return names[(names.index(name) + len(names) // 2) % len(names)]
