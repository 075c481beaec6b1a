"""An answer in pieces: the same verdict and the same text however it is cut, and nothing of a forbidden span."""

from __future__ import annotations

import asyncio
import base64
import random
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import pytest

from guarded import Rules, guard
from steersman.constitution.document import load
from steersman.guard.guard import Guard
from steersman.guard.streaming import (
    CONTEXT,
    MARGIN,
    MOST_HELD,
    Checks,
    StreamGuard,
    fresh,
)
from steersman.guard.verdict import Evidence, Exchange, Part, Ruling, Verdict

PARTS = (Part("messages[0].content", "user", "Tell me."),)
FILLER = "The ferry leaves at nine, and the harbour is quiet. Nobody waits for long; bring a coat. "
FORBIDDEN = "zebrafish recipe"
SECRET = "jane.doe@example-mail.com"


def stream(checks: Checks, pieces: Iterable[str | bytes], **options: int) -> tuple[str, StreamGuard]:
    guarded = StreamGuard(checks, PARTS, **options)
    sent = "".join([guarded.feed(piece) for piece in pieces])
    return sent + guarded.finish(), guarded


def words(rail: str = "words", decision: str = "block", word: str = FORBIDDEN) -> Callable[[Exchange], Ruling]:
    """Objects to a word, wherever it stands; with a letter behind it, it is another word."""

    def says(exchange: Exchange) -> Ruling:
        text, found = exchange.answer or "", list[Evidence]()
        start = text.find(word)
        while start >= 0:
            end = start + len(word)
            if end < len(text) or exchange.finished:
                found.append(Evidence(where="answer", start=start, end=end))
            start = text.find(word, end)
        if not found:
            return Ruling("allow", None)
        verdict = Verdict(rail=rail, principle="locked", decision=decision, evidence=tuple(found))  # type: ignore[arg-type]
        return Ruling(decision, verdict, (verdict,))  # type: ignore[arg-type]

    return says


def cuts(text: Sequence[object], places: Iterable[int]) -> list[object]:
    bounds = [0, *sorted(places), len(text)]
    return [text[a:b] for a, b in pairwise(bounds)]  # type: ignore[misc]


SPANS = [
    FORBIDDEN,
    "Zebrafish   Recipe",
    "z e b r a f i s h  r e c i p e",
    "zebra\u200bfish recipe",
    base64.b64encode(FORBIDDEN.encode()).decode(),
    "&#122;ebrafish recipe",
    SECRET,
    "4111 1111 1111 1111",
    "sk-proj-Ab3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dF3gH5jK7m",
    "東京 🚲👩‍👩‍👧 naïve",
]
FILLERS = ["", "Short. ", FILLER, FILLER * 2, "Grüße aus Köln, 東京 and 🚲🚲. " * 4]
TEXTS = [
    before + span + after for before in FILLERS for span in SPANS for after in ("", ". ", " " + FILLER, FILLER * 3)
]


class Remembering:
    """A guard that is asked once for each text: its rulings depend on that alone."""

    def __init__(self, inner: Checks) -> None:
        self.inner, self.reach, self.known = inner, inner.reach, dict[object, Ruling]()

    def check(self, exchange: Exchange) -> Ruling:
        key = (exchange.answer, exchange.finished, exchange.unscannable)
        if key not in self.known:
            self.known[key] = self.inner.check(exchange)
        return self.known[key]

    async def acheck(self, exchange: Exchange) -> Ruling:
        return self.check(exchange)


@pytest.mark.parametrize("every", [20, pytest.param(1, marks=pytest.mark.slow)])
def test_every_cut_gives_the_same_verdict_and_the_same_text(every: int) -> None:
    """200 texts, in two pieces at every place, and in many: as text, and as bytes, inside a character too.

    That the guard was asked for nothing else is the reason: its checkpoints are places of the text.
    """
    assert len(TEXTS) == len(set(TEXTS)) == 200
    checks, random_, ways = Remembering(guard()), random.Random(1), 0
    for text in TEXTS[every // 3 :: every]:
        whole, judged = stream(checks, [text])
        asked, raw = len(checks.known), text.encode()
        cut = [cuts(text, [at]) for at in range(len(text) + 1)] + [cuts(raw, [at]) for at in range(len(raw) + 1)]
        for _ in range(5):
            cut.append(cuts(text, random_.choices(range(len(text) + 1), k=random_.randint(2, 40))))
            cut.append(cuts(raw, random_.choices(range(len(raw) + 1), k=random_.randint(2, 40))))
        for pieces in cut:
            sent, again = stream(checks, pieces)  # type: ignore[arg-type]
            assert (sent, again.stopped, again.worst.decision) == (whole, judged.stopped, judged.worst.decision), pieces
        assert len(checks.known) == asked
        ways += len(cut)
    assert ways > 50_000 / every


@pytest.mark.parametrize("span", SPANS[:2] + SPANS[3:4] + SPANS[6:9])
def test_no_character_of_what_the_rails_object_to_is_sent(span: str) -> None:
    """Behind every length of text before it, with the real rails."""
    checks = Remembering(guard())
    for before in range(0, 200, 9):
        sent, guarded = stream(checks, [(FILLER * 3)[:before] + " " + span + " " + FILLER])
        assert guarded.stopped or guarded.redacted == 1
        assert span not in sent
        assert ((FILLER * 3)[:before] + " ").startswith(sent) or guarded.redacted


@pytest.mark.parametrize("ways", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_random_cuts_of_a_long_answer(ways: int) -> None:
    """The same checks are made in the same order, each time."""
    random_, text = random.Random(7), FILLER * 10 + "secret " + FILLER * 5 + FORBIDDEN + FILLER

    def says(exchange: Exchange) -> Ruling:
        ruling = words()(exchange)
        return ruling if ruling.stops else words(decision="redact", word="secret")(exchange)

    checks = Rules(says, reach=40)
    whole, _ = stream(checks, [text])
    first = [(e.answer, e.finished) for e in checks.seen]
    assert "secret" not in whole
    for _ in range(ways):
        checks.seen.clear()
        sent, again = stream(checks, cuts(text, random_.choices(range(len(text)), k=random_.randint(1, 200))))  # type: ignore[arg-type]
        assert (sent, again.stopped) == (whole, True)
        assert [(e.answer, e.finished) for e in checks.seen] == first


def test_no_character_of_a_forbidden_span_is_sent() -> None:
    """Wherever it stands, and whatever stands around it: what was sent ends before the span."""
    checks = Rules(words(), reach=len(FORBIDDEN) + 1)
    for before in range(0, 400, 7):
        text = (FILLER * 6)[:before] + FORBIDDEN + FILLER * 3
        sent, guarded = stream(checks, [text])
        assert guarded.stopped
        assert text.startswith(sent)
        assert len(sent) <= before


def test_a_span_is_replaced_and_the_rest_flows() -> None:
    checks = Rules(words(decision="redact", word=SECRET), reach=len(SECRET) + 1)
    for before in range(0, 200, 3):
        text = (FILLER * 3)[:before] + SECRET + " " + FILLER * 2 + SECRET
        sent, guarded = stream(checks, [text[i : i + 5] for i in range(0, len(text), 5)])
        assert sent == text.replace(SECRET, "[LOCKED]")
        assert guarded.redacted == 2
        assert guarded.passed == guarded.read == len(text)


def test_text_flows_before_the_end() -> None:
    """The delay is the reach and one step, no more."""
    guarded = StreamGuard(Rules(lambda _: Ruling("allow", None), reach=40), PARTS)
    text, sent = FILLER * 12, 0
    for position, character in enumerate(text, 1):
        sent += len(guarded.feed(character))
        assert position - sent <= 40 + 64
    assert guarded.feed("") == ""


SPACED = [  # what is found with spaces in it, or behind words
    "12 Old Oak Tree Road, Apt 12, Springfield, IL 62704",
    "12 rue de la Paix, 75002 Paris",
    "avenida de los Reyes Catolicos 12, 28001 Madrid",
    "Goethestraße 12, 10115 Berlin",
    "RSSMRA 85T10 A562S",
    "date of birth: March 12, 1990",
    "passport no: AB 1234567",
    "+1 (212) 555-0123",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7bq\n-----END RSA PRIVATE KEY-----",
]


@pytest.mark.parametrize("span", SPACED)
def test_text_is_held_back_from_where_something_with_spaces_may_begin(span: str) -> None:
    """Rails of forms let prose go at once, and no character of what they find."""
    checks = Remembering(guard())
    for before in range(3, 100, 11):
        text = (FILLER * 3)[:before] + " " + span + " " + FILLER
        found = checks.check(Exchange(PARTS, answer=text)).verdicts[0].evidence[0]
        sent, guarded = stream(checks, [text])
        assert guarded.redacted == 1
        assert sent.partition("[")[0] == text[: found.start]


def test_the_first_words_are_sent_early() -> None:
    """Rails that find no beginning of anything hold nothing back, whatever their reach is."""
    checks = Guard.from_constitution(load("assistant"))
    guarded = StreamGuard(checks, PARTS)
    assert "".join([guarded.feed(character) for character in FILLER[:33]]) == "The ferry leaves at nine, and "
    assert (checks.reach or 0) > 100


def test_an_encoded_run_is_held_until_it_ends() -> None:
    checks = Rules(lambda _: Ruling("allow", None), reach=8)
    guarded = StreamGuard(checks, PARTS)
    sent = guarded.feed("Here it is: " + "QUJD" * 100)
    assert sent in ("", "Here it is: ")
    sent += guarded.feed(" and then it goes on with more words. " * 10)
    assert "QUJDQUJD" in sent


@pytest.mark.parametrize(("code", "longer"), [("b64", 4 / 3), ("b64b64", 16 / 9), ("hex", 2)])
def test_words_deep_in_a_long_code_are_found_before_they_are_sent(code: str, longer: float) -> None:
    """The context begins inside the code, and still can be decoded."""
    once = {"b64": base64.b64encode, "hex": lambda raw: raw.hex().encode()}
    checks = Remembering(guard())
    for length in (3000, 3001, 3002):
        before = (FILLER * 50)[:length] + " "
        raw = (before + FORBIDDEN + " " + FILLER * 20).encode()
        for step in ("b64", "b64") if code == "b64b64" else (code,):
            raw = once[step](raw)
        sent, guarded = stream(checks, [f"{FILLER}{raw.decode()} {FILLER}"])
        assert guarded.stopped
        assert len(FILLER) + 1000 < len(sent) < len(FILLER) + len(before) * longer


def test_an_answer_that_cannot_be_kept_is_unscannable() -> None:
    """It stops where the file says so, and flows in bounded memory where the file allows it."""

    def says(exchange: Exchange) -> Ruling:
        verdict = Verdict(rail="guard", principle="unscannable", decision="block")
        return Ruling("block", verdict, (verdict,)) if exchange.unscannable else Ruling("allow", None)

    text = FILLER * 200
    sent, guarded = stream(Rules(says, reach=None), [text], longest=4000)
    assert (sent, guarded.stopped) == ("", True)
    sent, guarded = stream(Rules(lambda _: Ruling("allow", None), reach=None), [text], longest=4000)
    assert (sent, guarded.stopped) == (text, False)


def test_what_only_finished_answers_show_is_held_to_the_end() -> None:
    checks = Rules(lambda _: Ruling("allow", None), reach=None)
    guarded = StreamGuard(checks, PARTS)
    assert guarded.feed(FILLER * 20) == ""
    assert guarded.finish() == FILLER * 20
    assert [exchange.finished for exchange in checks.seen][-1]
    assert sum(exchange.finished for exchange in checks.seen) == 1


def test_a_guard_that_raises_stops_the_answer() -> None:
    def says(exchange: Exchange) -> Ruling:
        if len(exchange.answer or "") > 100:
            raise MemoryError
        return Ruling("allow", None)

    sent, guarded = stream(Rules(says), [FILLER * 5])
    assert guarded.stopped
    assert guarded.ruling.verdict is not None
    assert guarded.ruling.verdict.decision == "failed"
    assert len(sent) <= 100


def test_a_redaction_that_does_not_say_where_stops_the_answer() -> None:
    verdict = Verdict(rail="r", principle="secrets", decision="redact")
    _, guarded = stream(Rules(lambda _: Ruling("redact", verdict, (verdict,))), ["text"])
    assert guarded.stopped


def test_halves_of_characters() -> None:
    """Surrogates that JSON escapes in two pieces are one character, and half of one alone is U+FFFD."""
    checks = Rules(lambda _: Ruling("allow", None))
    assert stream(checks, ["a\ud83d", "\ude00b"])[0] == "a😀b"
    assert stream(checks, ["a\ud83d", "b"])[0] == stream(checks, ["a\ud83db"])[0] == "a�b"
    assert stream(checks, ["a\ud83d"])[0] == "a�"
    assert stream(checks, ["ü".encode()[:1], "ü".encode()[1:] + b"\xff"])[0] == "ü�"
    assert stream(checks, ["ü".encode()[:1]])[0] == "�"


def test_text_that_is_continued_is_read_and_not_sent() -> None:
    """A span that begins in a begun turn of the assistant is found in what follows it."""
    checks = Rules(words(), reach=20)
    guarded = StreamGuard(checks, PARTS, before="The zebrafish ")
    assert guarded.feed("recipe is") + guarded.finish() == ""
    assert guarded.stopped
    guarded = StreamGuard(checks, PARTS, before="The zebra ")
    assert guarded.feed("crosses. ") + guarded.finish() == "crosses. "
    assert guarded.passed == 9


def test_the_context_is_bounded_and_begins_at_a_sentence() -> None:
    checks = Rules(lambda _: Ruling("allow", None), reach=100)
    text = FILLER * 400
    sent, _ = stream(checks, [text])
    assert sent == text
    longest = max(len(exchange.answer or "") for exchange in checks.seen)
    assert longest <= CONTEXT + MARGIN + 1024
    starts = {(exchange.answer or "")[:6] for exchange in checks.seen if len(exchange.answer or "") > 2000}
    assert starts <= {"The fe", "Nobody"}


def test_findings_of_a_cut_context_do_not_count() -> None:
    """Before the last place that was passed a literal rail found nothing, with more to see; a score counts."""
    old = Evidence(where="answer", start=0, end=10)
    literal = Verdict(rail="words", principle="p", decision="block", evidence=(old,))
    scored = Verdict(rail="classifier", principle="q", decision="block", score=0.9, evidence=(old,))
    assert fresh(Ruling("block", literal, (literal,)), 10).decision == "allow"
    assert fresh(Ruling("block", literal, (literal,)), 9).decision == "block"
    kept = fresh(Ruling("block", literal, (literal, scored)), 10)
    assert (kept.decision, kept.verdict) == ("block", scored)
    shadowed = fresh(Ruling("block", literal, (literal, scored), shadowed=("classifier",)), 10)
    assert shadowed.decision == "allow"


def test_long_answers_take_linear_time_and_little_memory() -> None:
    """The characters that are judged grow with the answer, not with its square; nothing long is kept."""

    def work(length: int) -> tuple[int, float, int]:
        checks = Rules(lambda e: Ruling("allow", None), reach=100)
        guarded, kept = StreamGuard(checks, PARTS), 0
        began = time.process_time()
        for _ in range(length // 90_000):
            guarded.feed(FILLER * 1000)
            kept = max(kept, len(guarded._text))
        guarded.finish()
        return sum(len(e.answer or "") for e in checks.seen), time.process_time() - began, kept

    short, _, _ = work(900_000)
    long, seconds, kept = work(3_600_000)
    assert 3.5 < long / short < 4.5
    assert kept < 20_000
    assert seconds < 10


def test_one_long_run_takes_linear_time() -> None:
    checks = Rules(lambda e: Ruling("allow", None), reach=100)
    stream(checks, ["QUJD" * 50_000])
    assert sum(len(e.answer or "") for e in checks.seen) < 20 * 200_000 + 40 * MOST_HELD


def test_async_is_the_same() -> None:
    async def go() -> str:
        guarded = StreamGuard(guard(), PARTS)
        return await guarded.afeed(f"Write to {SECRET} now.") + await guarded.afinish()

    assert asyncio.run(go()) == "Write to [EMAIL] now."
