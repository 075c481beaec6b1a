"""What a ruling of `redact` replaces in a text, and the text with it replaced."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from steersman.guard.verdict import ANSWER, Evidence, Ruling, Verdict


class Span(NamedTuple):
    """Characters that are replaced, and by what."""

    start: int
    end: int
    by: str


def replacements(ruling: Ruling, length: int, where: str = ANSWER) -> list[Span] | None:
    """What a ruling replaces in a text with ``length`` characters; None if that text may not pass at all."""
    if not ruling.stops:
        return []
    if ruling.decision != "redact":
        return None
    redacting = [v for v in ruling.verdicts if v.decision == "redact" and v.rail not in ruling.shadowed]
    if any(not verdict.evidence or any(e.start >= e.end for e in verdict.evidence) for verdict in redacting):
        return None  # it does not say where
    return merged(
        [
            Span(max(0, found.start), min(length, found.end), placeholder(verdict, found))
            for verdict in redacting
            for found in verdict.evidence
            if found.where == where
        ]
    )


def placeholder(verdict: Verdict, found: Evidence) -> str:
    """What stands in the place of a span: its kind in brackets, such as [EMAIL]."""
    return f"[{re.sub(r'[^A-Za-z0-9]+', '_', found.kind or verdict.principle).strip('_').upper() or 'REDACTED'}]"


def merged(spans: Sequence[Span]) -> list[Span]:
    """Spans in order, those that touch the same characters as one, which has the name of the first and longest."""
    joined: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start, -span.end, span.by)):
        if joined and span.start < joined[-1].end:
            first = joined[-1]
            joined[-1] = first._replace(end=max(first.end, span.end))
        elif span.end > span.start:
            joined.append(span)
    return joined


def replaced(text: str, spans: Sequence[Span]) -> str:
    """A text with its spans, in order and apart from each other, replaced."""
    sent, position = list[str](), 0
    for start, end, by in spans:
        sent += (text[position:start], by)
        position = end
    return "".join([*sent, text[position:]])


def redacted(text: str, ruling: Ruling, where: str = ANSWER) -> str | None:
    """A text as a ruling lets it pass; None if it may not pass at all."""
    spans = replacements(ruling, len(text), where)
    return None if spans is None else replaced(text, spans)
