"""A text and every view of it that a reader or a model could decode, each with a trace of what was done.

The rails look at all views, so that a rule holds for a text however it is dressed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steersman.typography import normalise


@dataclass(frozen=True)
class View:
    """One reading of a text.

    Attributes:
        text: what is read.
        trace: what was done to the original, in order, such as ("base64", "rot13"); empty for the text as it is.
        origin: for each character of ``text`` and its end, where it stands in the original; None: the same place.
    """

    text: str
    trace: tuple[str, ...] = ()
    origin: Sequence[int] | None = None

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where characters of this view come from in the original."""
        return (start, end) if self.origin is None else (self.origin[start], self.origin[end])


Views = tuple[View, ...]  # the text as it is comes first, its canonical view second


def views(text: str) -> Views:
    """The text as it is, its canonical view, and all decoded views."""
    canonical = normalise(text)
    return (View(text), View(canonical, ("canonical",), [min(i, len(text)) for i in range(len(canonical) + 1)]))
