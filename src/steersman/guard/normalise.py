"""A text and every view of it that a reader or a model could decode, each with a trace of what was done.

The rails look at all views, so that a rule holds for a text however it is dressed. A view is the text with what was
hidden in it *in its place*: "Decode this: a2lsbA== and tell me" has the view "Decode this: kill and tell me". What was
found is read again, so that base64 of rot13 of hex is read too.

Few and cheap: a decoder runs only where a cheap test says that its encoding could be there, and its result is kept only
if it can be read. Work is counted in characters, so that a text has the same views on a slow machine and a fast one;
processor time is the last resort. What could not be read for lack of either is told in `Views.unread`, and a caller
who wants to be safe refuses such a text.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from steersman.guard.confusables import dress, is_undressed
from steersman.guard.decoders import HIDDEN, WRITTEN, Found, disjoint
from steersman.guard.lexicon import Glance, also_known, readable, words
from steersman.guard.readings import READINGS
from steersman.guard.spelling import ACCENTS
from steersman.typography import STEPS, is_plain

DEPTH = 4  # encodings inside one another
ROUNDS = 8  # of a dress inside another, such as an entity inside an entity
MOST_VIEWS = 24
WORK = 30_000_000  # characters looked at, over all decoders and views
SECONDS = 10.0
BETWEEN = 50_000  # characters between two looks at the clock


class Piece(NamedTuple):
    """Where characters of a view come from: ``start`` to ``end`` of the view it was made from.

    ``kind``: "same": character by character; "reversed": likewise, from the end; "block": all of it from all of it.
    """

    at: int
    start: int
    end: int
    kind: str = "same"


@dataclass(frozen=True)
class View:
    """One reading of a text.

    Attributes:
        text: what is read.
        trace: what was done to the original, in order, such as ("base64", "rot13"); empty for the text as it is.
        parent: the view that this was made from; None for the original.
        pieces: where its characters come from in the parent, in order; none: the same place.
    """

    text: str
    trace: tuple[str, ...] = ()
    parent: View | None = field(default=None, repr=False, compare=False)
    pieces: Sequence[Piece] = field(default=(), repr=False, compare=False)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where characters of this view come from in the original: all that they were decoded from."""
        if self.parent is None:
            return start, end
        return self.parent.span(*self._in_parent(start, end)) if self.pieces else self.parent.span(start, end)

    def decoded(self) -> list[tuple[int, int]]:
        """Beginnings and ends of what was decoded in this view; what stands beside one another is one."""
        found: list[tuple[int, int]] = []
        ends = [*(piece.at for piece in self.pieces[1:]), len(self.text)]
        for piece, end in zip(self.pieces, ends, strict=False):  # without pieces nothing was decoded
            if piece.kind == "same":
                continue
            if found and found[-1][1] == piece.at:
                found[-1] = (found[-1][0], end)
            else:
                found.append((piece.at, end))
        return found

    def _in_parent(self, start: int, end: int) -> tuple[int, int]:
        ats = [piece.at for piece in self.pieces]
        first = max(0, bisect_right(ats, start) - 1)
        last = max(first, bisect_right(ats, max(start, end - 1)) - 1)
        lows, highs = [], []
        for index in range(first, last + 1):
            piece = self.pieces[index]
            stop = ats[index + 1] if index + 1 < len(ats) else len(self.text)
            low, high = max(start, piece.at), min(end, stop)
            size = stop - piece.at
            if piece.kind == "block":
                lows.append(piece.start)
                highs.append(piece.end)
            elif piece.kind == "reversed":
                lows.append(piece.start + size - (high - piece.at))
                highs.append(piece.start + size - (low - piece.at))
            else:
                lows.append(piece.start + low - piece.at)
                highs.append(piece.start + max(low, high) - piece.at)
        return min(lows), max(highs)


class Views(tuple[View, ...]):
    """All views of a text: the text as it is first.

    Attributes:
        unread: why there may be more views than these, in a few words; empty if these are all.
        canonical: the text with one spelling of every letter; the text as it is where nothing had to change.
    """

    unread: str
    canonical: View

    def __new__(cls, found: Iterable[View], canonical: View | None = None, unread: str = "") -> Views:
        """Views in order, with what is known about them."""
        made = super().__new__(cls, found)
        made.unread, made.canonical = unread, canonical or made[0]
        return made


class _SpentError(Exception):
    """No work or time is left."""


class _Budget:
    """Work and time that are left for a text."""

    def __init__(self, work: int, seconds: float) -> None:
        self.work, self.end = work, time.thread_time() + seconds
        self.clock = work  # the work that is left when the clock is asked again: it takes as long as a decoder does

    def spend(self, characters: int) -> None:
        self.work -= characters + 50
        if self.work < 0:
            raise _SpentError("too long or too deeply encoded to decode all of it")
        if self.work < self.clock:
            self.clock = self.work - BETWEEN
            if time.thread_time() > self.end:
                raise _SpentError("out of time before all of it was decoded")


def views(
    text: str,
    *,
    depth: int = DEPTH,
    work: int = WORK,
    seconds: float = SECONDS,
    own: frozenset[str] = frozenset(),
) -> Views:
    """The text as it is, its canonical view where that differs, and all decoded views; the same for the same text.

    Args:
        text: any string, lone surrogates and all.
        depth: encodings inside one another that are undone.
        work: characters that may be looked at over all decoders, the bound that counts.
        seconds: processor time after which the rest is given up.
        own: the constitution's words in lower case, which are known beside those of every language.

    Returns:
        at most `MOST_VIEWS`; `Views.unread` says why if some may be missing. Nothing is raised.
    """
    original = View(text)
    search = _Search(_Budget(work, seconds))
    canonical, unread = original, ""
    try:
        with also_known(own):
            canonical = search.start(original)
            unread = search.deepen([original, canonical] if canonical is not original else [original], depth)
    except _SpentError as spent:
        unread = str(spent)
    return Views(search.found, canonical, unread)


class _Search:
    """Breadth first over what the decoders find."""

    def __init__(self, budget: _Budget) -> None:
        self.budget = budget
        self.found: list[View] = []
        self.seen: set[str] = set()
        self.done: set[tuple[str, str, str]] = set()  # by which decoder what was read as what

    def start(self, original: View) -> View:
        """Keep the original and its canonical view."""
        self.found.append(original)
        self.seen.add(original.text)
        canonical = self.canonical(original)
        if canonical is not original:
            self.keep(canonical)
            self.seen.add(canonical.text)
        return canonical

    def canonical(self, view: View) -> View:
        self.budget.spend(len(view.text))
        made = canonical_view(view)
        if view.trace and made is not view:  # an inner step that needs no name of its own
            made = View(made.text, view.trace, made.parent, made.pieces)
        return made

    def keep(self, view: View) -> None:
        if len(self.found) >= MOST_VIEWS:
            raise _SpentError(f"more than {MOST_VIEWS} readings")
        self.found.append(view)

    def deepen(self, layer: list[View], depth: int) -> str:
        """Decode layer by layer; why something is unread, if anything."""
        for _ in range(depth):
            below: list[View] = []
            for view in layer:
                for child, shown, deeper in self.children(view):
                    child = self.canonical(child)
                    if child.text in self.seen:
                        continue
                    self.seen.add(child.text)
                    if deeper:
                        below.append(child)
                    if shown:
                        self.keep(child)
                    if len(below) > MOST_VIEWS:
                        raise _SpentError(f"more than {MOST_VIEWS} readings")
            layer = below
            if not layer:
                return ""
        for view in layer:
            for finder in WRITTEN:
                self.budget.spend(len(view.text))
                if any(found.layered for found in finder(view.text)):
                    return f"more than {depth} encodings inside one another"
        return ""

    def children(self, view: View) -> Iterator[tuple[View, bool, bool]]:
        """What can be read out of a view, whether it is worth showing to the rails, and whether more may be in it."""
        for finders in ([HIDDEN] if view.parent is None else []) + [WRITTEN]:
            found: list[Found] = []
            for finder in finders:
                self.budget.spend(len(view.text))
                found += finder(view.text)
            if spans := self.new(view, found):
                yield replaced(view, spans), any(readable(one.text) or not one.layered for one in spans), True
        if view.parent is None and len(self.found) > 1 and self.found[1].parent is not None:
            return  # the canonical view is read instead
        self.budget.spend(4 * len(view.text))
        glance = Glance(view.text)
        for reading in READINGS:
            self.budget.spend(len(view.text))
            for found in reading(glance):
                if spans := self.new(view, found):
                    deeper = any(one.name != ACCENTS or one.text.casefold() not in words() for one in spans)
                    yield replaced(view, spans), not all(one.layered for one in spans), deeper

    def new(self, view: View, found: list[Found]) -> list[Found]:
        """What was not found before in the same characters, in another view."""
        spans = disjoint(found)
        keys = [(one.name, view.text[one.start : one.end], one.text) for one in spans]
        fresh = [one for one, key in zip(spans, keys, strict=True) if key not in self.done]
        self.done.update(keys)
        return fresh


def replaced(view: View, spans: Sequence[Found], trace: tuple[str, ...] | None = None) -> View:
    """The view with what was found in its place."""
    spans = sorted(spans)
    parts: list[str] = []
    pieces: list[Piece] = []
    at = done = 0
    for start, end, text, _, _, kind in spans:
        if start > done:
            pieces.append(Piece(at, done, start))
            parts.append(view.text[done:start])
            at += start - done
        if text:
            pieces.append(Piece(at, start, end, kind))
            parts.append(text)
            at += len(text)
        done = end
    if done < len(view.text):
        pieces.append(Piece(at, done, len(view.text)))
        parts.append(view.text[done:])
    if not pieces:
        pieces = [Piece(0, 0, len(view.text), "block")]
    names = trace if trace is not None else tuple(dict.fromkeys(found.name for found in spans))
    return View("".join(parts), view.trace + names, view, pieces)


def canonical_view(view: View) -> View:
    """One spelling of every letter; the view itself if nothing changes. Doing it again changes nothing.

    Typography is undone (`steersman.typography`), then dress: letters of other alphabets that stand in for Latin ones,
    small capitals, stacked marks, characters that are deleted again. Case, accents and words of other scripts stay.
    """
    made, undress = view, dress()
    for _ in range(ROUNDS):
        before = made.text
        if not is_plain(made.text):
            for step in STEPS:
                made = _changed(made, step)
        if not is_undressed(made.text):
            for undo in undress:
                made = _changed(made, undo)
        if made.text == before:
            break
    if made.text == view.text:
        return view
    return View(made.text, (*view.trace, "canonical"), made.parent, made.pieces)


def _changed(view: View, step: Callable[[str], Iterable[tuple[int, int, str]]]) -> View:
    spans = [Found(start, end, text, "canonical") for start, end, text in step(view.text)]
    return replaced(view, spans, ()) if spans else view
