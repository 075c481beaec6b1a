"""An answer while it is written: what may be sent now, and where it has to stop.

Nothing here depends on how the answer was cut into pieces. It is judged at fixed places, its *checkpoints* (after 32
characters, 64, 128, ..., farther apart in a long answer, and at its end), each time on the text up to there and no
further, whatever else has arrived. After a checkpoint that text is released which no rail can change its mind about:
what they say is settled (`Ruling.settled`), or else what lies further back than the guard's reach, before any encoded
run that is still open, and before any span that will be replaced. So the pieces of a cut stream and the whole answer
give the same verdict and the same text, and of a span that a rail of words or patterns objects to no character is sent.

    stream = StreamGuard(guard, parts)
    for piece in pieces:  # of text, or bytes that may be cut inside a character
        send(stream.feed(piece))
    send(stream.finish())
    if stream.stopped: ...  # stream.ruling says why

Each check reads a bounded context: what is not yet released and the `CONTEXT` characters before the checkpoint. The
work grows linearly with the answer, and memory does not grow with it. Only where a rail judges finished answers alone
is all of an answer kept; one that is longer than `MOST_HELD` is then ``unscannable``, and treated as the file says.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Protocol

from steersman.guard.open_run import open_run
from steersman.guard.spans import Span, merged, replacements
from steersman.guard.verdict import ANSWER, STRICTNESS, Exchange, Part, Ruling, Verdict

# Characters between two checkpoints, up to that many characters of an answer; then LAST_STEP.
STEPS = ((64, 32), (1024, 64), (4096, 128), (16_384, 256))
LAST_STEP = 1024
CONTEXT = 2048  # characters before a checkpoint that are read again
MARGIN = 256  # further characters before that, in which a sentence or at least a word begins
MOST_HELD = 1_000_000  # characters that wait for the end of an answer, where a rail judges nothing before
# Where the context begins inside a word without end, such as base64: so many characters from the word's beginning, a
# multiple of what all encodings read at once (base64 four, twice over 16, three times 64; hex two; %XX and the like 3).
ALIGNED = 192
CODES = 24  # It ends so too: at a multiple of base64's four, base32's eight, hex's two, %XX's three, and JSON's six
BLOCK = 8192  # characters of a piece that are looked at in one go
_SENTENCE, _SPACE = re.compile(r"[.!?。！？]\s|\n"), re.compile(r"\s")
_HIGH, _LOW = re.compile("[\ud800-\udbff]"), re.compile("[\udc00-\udfff]")


class Checks(Protocol):
    """A guard, as `guard.Guard`."""

    @property
    def reach(self) -> int | None:
        """Characters of an answer that are held back; None: only finished answers are judged."""
        ...

    def check(self, exchange: Exchange) -> Ruling:
        """What to do with one side of an exchange."""
        ...

    async def acheck(self, exchange: Exchange) -> Ruling:
        """`check`, without blocking the event loop."""
        ...


class StreamGuard:
    """One answer.

    Args:
        parts: the conversation that is answered.
        before: text that the answer continues, such as a begun turn of the assistant; read, and never sent.
        longest: characters that are held back at most.

    Attributes:
        ruling: of the last checkpoint; of the one that stopped the answer, if one did.
        worst: the strictest ruling of all checkpoints.
        redacted: how many spans were replaced.
        activation: as of `Exchange`, of all that was fed; whoever feeds sets it.
    """

    def __init__(
        self, guard: Checks, parts: Sequence[Part] = (), *, before: str = "", longest: int = MOST_HELD
    ) -> None:
        self._guard, self._parts, self._longest = guard, tuple(parts), longest
        self._text, self._base = before, 0  # what is kept of the answer, and where that begins
        self._offset, self._passed = len(before), len(before)
        self._next = self._offset + STEPS[0][1]
        self._word = 0  # where the word begins that `_base` is in
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._half = ""  # the first half of a surrogate pair
        self._ended = False
        self.ruling = self.worst = Ruling("allow", None)
        self.stopped, self.redacted = False, 0
        self.activation: float | None = None

    @property
    def read(self) -> int:
        """Characters of the answer that have arrived."""
        return self._base + len(self._text) - self._offset

    @property
    def passed(self) -> int:
        """Characters of the answer that were released or replaced."""
        return self._passed - self._offset

    # ── feeding ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def feed(self, piece: str | bytes) -> str:
        """The text that may be sent after this piece; nothing once the answer is stopped."""
        return self._drive(self._fed(self._decoded(piece, end=False), end=False))

    def finish(self) -> str:
        """The text that may be sent at the end of the answer."""
        return self._drive(self._fed(self._decoded(b"", end=True), end=True))

    async def afeed(self, piece: str | bytes) -> str:
        """`feed`, without blocking the event loop."""
        return await self._adrive(self._fed(self._decoded(piece, end=False), end=False))

    async def afinish(self) -> str:
        """`finish`, without blocking the event loop."""
        return await self._adrive(self._fed(self._decoded(b"", end=True), end=True))

    def _drive(self, steps: Generator[Exchange, Ruling, str]) -> str:
        try:
            exchange = next(steps)
            while True:
                exchange = steps.send(judged(self._guard, exchange))
        except StopIteration as end:
            return str(end.value)

    async def _adrive(self, steps: Generator[Exchange, Ruling, str]) -> str:
        try:
            exchange = next(steps)
            while True:
                exchange = steps.send(await ajudged(self._guard, exchange))
        except StopIteration as end:
            return str(end.value)

    def _decoded(self, piece: str | bytes, end: bool) -> str:
        """Whole characters: half of one waits for its rest, and what is none becomes U+FFFD."""
        text = self._decoder.decode(piece, end) if isinstance(piece, bytes) else piece
        if not self._half and text.isascii():
            return text
        text = self._half + text
        self._half = text[-1:] if not end and _HIGH.match(text[-1:]) else ""
        text = text[:-1] if self._half else text
        if _HIGH.search(text) or _LOW.search(text):  # JSON may escape a character in two halves
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return text

    def _fed(self, text: str, end: bool) -> Generator[Exchange, Ruling, str]:
        if self.stopped or self._ended:
            return ""
        sent = list[str]()
        for start in range(0, len(text), BLOCK):
            self._text += text[start : start + BLOCK]
            while self._next < self._base + len(self._text) and not self.stopped:
                sent.append((yield from self._checkpoint(self._next, last=False)))
        length = self._base + len(self._text)
        if end and not self.stopped:
            self._ended = True
            if length > self._offset:
                sent.append((yield from self._checkpoint(length, last=True)))
        if self.stopped or self._ended:
            self._text, self._base = "", length
        return "".join(sent)

    # ── one checkpoint ───────────────────────────────────────────────────────────────────────────────────────────────
    def _checkpoint(self, place: int, last: bool) -> Generator[Exchange, Ruling, str]:
        """Judge the answer up to ``place``, and release what may go."""
        place = place if last else self._whole_codes(place)
        begin = self._begin_of_context(place)
        context = self._text[begin - self._base : place - self._base]
        # The character after the text decides nothing, but the last checkpoint must not be mistaken for another.
        exchange = Exchange(self._parts, answer=context, finished=last, activation=self.activation)
        ruling = fresh((yield exchange), self._passed - begin)
        reach = self._guard.reach
        settled = place - begin - (reach or 0) if ruling.settled is None else ruling.settled
        until = place if last else self._passed if reach is None else max(self._passed, begin + settled)
        if until > self._passed and not last:
            until = max(self._passed, min(until, begin + open_run(context)))
        if not last and place - self._passed > self._longest and until == self._passed:
            where = f"{ANSWER}[{self._passed - self._offset}:{place - self._offset}]"
            ruling = stricter(ruling, (yield Exchange(self._parts, context, finished=False, unscannable=(where,))))
            until = max(self._passed, place - (reach or 0))
        self.ruling, self.worst = ruling, stricter(self.worst, ruling)
        spans = replacements(ruling, len(context))
        if spans is None:
            self.stopped = True
            return ""
        sent, until = self._released([Span(a + begin, b + begin, by) for a, b, by in spans], until)
        self._passed = until
        held = place - until - (reach or 0)
        self._next += max(_step(place - self._offset), held // 2)
        self._forget(place)
        return sent

    def _begin_of_context(self, place: int) -> int:
        """Where the context of a checkpoint begins: at a sentence if there is one, that no rail sees half a word."""
        latest = min(self._passed, place - CONTEXT)
        if latest <= 0:
            return 0
        earliest = max(0, latest - MARGIN)
        margin = self._text[earliest - self._base : latest - self._base]
        for pattern in (_SENTENCE, _SPACE):
            if found := list(pattern.finditer(margin)):
                return earliest + found[-1].end()
        word = self._word_at(earliest)
        return word + -(-(earliest - word) // ALIGNED) * ALIGNED

    def _whole_codes(self, place: int) -> int:
        """The place, or inside a word without end the one before it where no code of a character is cut in two."""
        if _SPACE.search(self._text, max(0, place - ALIGNED - self._base), place - self._base):
            return place
        word = self._word_at(place)
        return place if place - word < ALIGNED else place - (place - word) % CODES

    def _word_at(self, place: int) -> int:
        """Where the word begins that a place in the kept text is in."""
        found = list(_SPACE.finditer(self._text, 0, place - self._base))
        return self._base + found[-1].end() if found else self._word

    def _released(self, spans: list[Span], until: int) -> tuple[str, int]:
        """The text from what was passed up to ``until``, or up to a span that crosses it; with spans replaced."""
        start = self._passed
        spans = [span for span in merged(spans) if span.end > start]
        until = next((max(start, span.start) for span in spans if span.start < until < span.end), until)
        sent, position = list[str](), start
        for span in spans:
            if span.start >= until:
                break
            sent += (self._text[position - self._base : max(position, span.start) - self._base], span.by)
            position = span.end
            self.redacted += 1
        sent.append(self._text[position - self._base : until - self._base])
        return "".join(sent), until

    def _forget(self, place: int) -> None:
        """Drop what no later context reaches."""
        keep = max(self._base, min(self._passed, place - CONTEXT) - MARGIN)
        if keep - self._base > CONTEXT:  # not at every checkpoint
            self._word = self._word_at(keep)
            self._text, self._base = self._text[keep - self._base :], keep


def _step(place: int) -> int:
    return next((step for limit, step in STEPS if place < limit), LAST_STEP)


# ── rulings ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def judged(guard: Checks, exchange: Exchange) -> Ruling:
    """The guard's ruling; a guard that raises blocks."""
    try:
        return guard.check(exchange)
    except Exception as error:
        return broken(error)


async def ajudged(guard: Checks, exchange: Exchange) -> Ruling:
    """`judged`, without blocking the event loop."""
    try:
        return await guard.acheck(exchange)
    except Exception as error:
        return broken(error)


def broken(error: Exception) -> Ruling:
    """The ruling of a guard that failed itself; the error's words may quote the text, and stay out."""
    verdict = Verdict(rail="guard", principle="unscannable", decision="failed", note=f"raised {type(error).__name__}")
    return Ruling("block", verdict, (verdict,))


def stricter(one: Ruling, other: Ruling) -> Ruling:
    """The stricter of two rulings; the first where they are equal."""
    return other if STRICTNESS[other.decision] > STRICTNESS[one.decision] else one


def fresh(ruling: Ruling, passed: int) -> Ruling:
    """A ruling without literal findings that lie before ``passed``.

    Those were read before, with more text on both sides, and nothing was found: they come of where the context begins.
    A verdict with a score is about the context as a whole, and stays.
    """

    def old(verdict: Verdict) -> bool:
        found = [e for e in verdict.evidence if e.where == ANSWER]
        return verdict.score is None and bool(found) and all(e.end <= passed for e in verdict.evidence)

    if not ruling.stops or not any(old(verdict) for verdict in ruling.verdicts):
        return ruling
    kept = tuple(verdict for verdict in ruling.verdicts if not old(verdict))
    counting = [verdict for verdict in kept if verdict.rail not in ruling.shadowed and verdict.decision != "allow"]
    if ruling.verdict is not None and not old(ruling.verdict):
        deciding: Verdict | None = ruling.verdict
    else:
        deciding = max(counting, key=lambda verdict: STRICTNESS[verdict.decision], default=None)
    decision = "allow" if deciding is None else "block" if deciding.decision == "failed" else deciding.decision
    return replace(ruling, decision=decision, verdict=deciding, verdicts=kept)
