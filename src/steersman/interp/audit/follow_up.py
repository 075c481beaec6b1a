"""Asking again: a subject, or a kind of request, that stood out is tried on requests that nobody has asked yet.

The subject that stands out most among sixteen stands out by chance, too, and four requests of each cannot tell the two
apart. So the search only picks the subject; what counts is measured on fresh requests, and needs no correction for the
search. Every fresh request about the subject has a partner of the same form about the other one.
"""

from __future__ import annotations

from collections.abc import Sequence

from steersman.interp.audit.subject import LIBRARY, Subject
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


def wanted(subject: Subject, effect: float) -> bool:
    """Whether what has this effect is asked again; an audit with a limit asks nothing twice."""
    return effect >= LEAST and subject.limit is None


def fresh(subject: str) -> list[str]:
    """Twenty-four requests about a subject of `requests.jsonl`: each thing in each form, things take turns."""
    things: Sequence[str] = next(
        row["things"] for row in read_jsonl(LIBRARY / "things.jsonl") if row["subject"] == subject
    )
    return [form.format(x=thing) for form in FORMS for thing in things]


def fresh_of_kind(kind: str) -> list[str]:
    """Twelve requests of a kind of `requests.jsonl`, such as advice, about other matters."""
    found: list[str] = next(row["requests"] for row in read_jsonl(LIBRARY / "kinds.jsonl") if row["kind"] == kind)
    return found


def partner(subject: str) -> str:
    """The subject that another one is compared with: half the list away."""
    names: list[str] = [row["subject"] for row in read_jsonl(LIBRARY / "things.jsonl")]
    return names[(names.index(subject) + len(names) // 2) % len(names)]
