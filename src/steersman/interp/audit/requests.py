"""Ordinary requests that checks ask: everyday matters by subject and by kind, of which no model has to decline one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from steersman.interp.audit.subject import LIBRARY, Subject
from steersman.store import read_jsonl


class Ordinary(NamedTuple):
    """A request. ``subject``: what it is about; ``kind``: what is wanted, such as advice or a verdict."""

    subject: str
    kind: str
    request: str


def ordinary(subject: Subject, quick: int | None = None, whole: int | None = None) -> list[Ordinary]:
    """The shipped requests, spread over all subjects: at most ``quick`` in tier 1, ``whole`` in tier 2; None: all."""
    return list(subject.some([Ordinary(**row) for row in read_jsonl(LIBRARY / "requests.jsonl")], quick, whole))


def texts(requests: Sequence[Ordinary]) -> list[str]:
    """The requests as plain text."""
    return [row.request for row in requests]
