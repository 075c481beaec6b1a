"""What rails that read one text at a time have in common: they remember it, and judge no half a word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from steersman.guard.cache import TextCache
from steersman.guard.normalise import Views
from steersman.guard.verdict import ANSWER, Decision, Evidence, Exchange, Side, Verdict

CACHED_CHARACTERS = 2_000_000
MOST_EVIDENCE = 32  # of a verdict that stops the whole text; one that redacts has all


class Finding(NamedTuple):
    """What was found in a text, in the characters of the original."""

    principle: str
    kind: str
    start: int
    end: int
    views: tuple[str, ...] = ()


class TextRail(Protocol):
    """A rail whose findings in a text depend on that text alone.

    On the input side it reads every part of the conversation, on the output side the answer.

    Attributes:
        look_ahead: characters behind a finding that may undo it ("ass" in "assistant").
        begins: what is found in an answer that goes on, and holds a space, begins with this or in the last word; None:
            that cannot be said.
    """

    name: str
    reach: int | None
    waits: bool = False
    look_ahead: int = 1
    begins: re.Pattern[str] | None = None
    _found: TextCache[tuple[Finding, ...]]

    def __init__(self) -> None:
        self._found = TextCache(CACHED_CHARACTERS)

    def find(self, views: Views) -> Iterable[Finding]:
        """What is found in one text, in any of its views."""
        ...

    def decision(self, principle: str, side: Side) -> Decision:
        """What a finding means on one side."""
        ...

    def wanted(self, finding: Finding, text: str, exchange: Exchange) -> bool:
        """Whether a finding counts in this exchange."""
        return True

    def check(self, exchange: Exchange, views: dict[str, Views]) -> Sequence[Verdict]:
        """See `Rail`."""
        by: dict[tuple[str, Decision], list[Evidence]] = {}
        for where, text in self._texts(exchange):
            for found in self._findings(text, views[where], whole=where != ANSWER or exchange.finished):
                decision = self.decision(found.principle, exchange.side)
                if decision != "allow" and self.wanted(found, text, exchange):
                    evidence = Evidence(
                        where=where, start=found.start, end=found.end, views=found.views, kind=found.kind
                    )
                    by.setdefault((found.principle, decision), []).append(evidence)
        return [
            Verdict(
                rail=self.name,
                principle=principle,
                decision=decision,
                evidence=tuple(evidence if decision == "redact" else evidence[:MOST_EVIDENCE]),
            )
            for (principle, decision), evidence in by.items()
        ]

    def settled(self, answer: str, views: Views) -> int:
        """See `Rail`. What has no space in it is the last word, which a stream holds back by itself."""
        reach, view = self.reach or 0, views.canonical
        if self.begins is None:
            return len(answer) - reach
        begun = self.begins.search(view.text, max(0, len(view.text) - reach))
        return view.span(begun.start(), begun.end())[0] if begun else len(answer)

    def _texts(self, exchange: Exchange) -> list[tuple[str, str]]:
        if exchange.answer is not None:
            return [(ANSWER, exchange.answer)]
        return [(part.where, part.text) for part in exchange.parts]

    def _findings(self, text: str, views: Views, whole: bool) -> Iterable[Finding]:
        """All findings; of a text that goes on, those which its next characters cannot undo.

        One that may be undone waits while its beginning is held back. A key of many lines is longer than that.
        """
        if not whole:
            passed = len(text) - (self.reach or 0)
            return [f for f in self.find(views) if f.end + self.look_ahead <= len(text) or f.start < passed]
        found = self._found.get(text)
        if found is None:
            found = tuple(self.find(views))
            self._found.put(text, found)
        return found


def small_letters(text: str) -> str:
    """A text in small letters, each in its place: the dotted capital I alone would become two."""
    return text.lower() if "\u0130" not in text else text.replace("\u0130", "i").lower()


def in_small_letters(pattern: str) -> str:
    """A regular expression for text in small letters; its escapes and named groups stay."""
    return re.sub(r"\\.|\(\?P|[^\W\d_]", lambda piece: piece[0].lower() if len(piece[0]) == 1 else piece[0], pattern)
